-- What an operator asks of the ledger: how much work waits, as time, and how well the indexes answer.

-- Seconds of one worker that an item took lately, by kind and space ("encode/1"): each worker measures itself.
alter table sightline.worker add column paces jsonb not null default '{}' check (jsonb_typeof(paces) = 'object');

-- For those who start and stop workers: of each queue, how long its oldest due work has waited and what its waiting and running work will
-- cost, in seconds of one worker. Work that is paused, cancelled or not yet due is left out: no worker would start it. The price of an item
-- is what workers of the last day measured, stopped ones too, so a pool may be scaled to nothing; 0.1 s where nobody has measured it yet.
-- A queue that spaces or workers name has a row though it is empty.
create view sightline.queue_load with (security_invoker = true) as
with pace as (
  select p.key as work, avg(p.value::float8) as seconds
  from sightline.worker w cross join lateral jsonb_each_text(w.paces) p group by p.key
), work as (
  select c.queue, c.space_id, c.state, cardinality(c.item_ids) as items, c.run_at
  from sightline.chunk c
  where c.state = 'running'
     or c.state = 'queued' and c.run_at <= clock_timestamp()
        and not exists (select from sightline.pause p where p.queue = c.queue or p.collection_id = c.collection_id)
        and c.job_id not in (select j.job_id from sightline.job j where j.finished_at is null and j.cancel_requested_at is not null)
), load as (
  select w.queue, coalesce(sum(w.items) filter (where w.state = 'queued'), 0) as queued_items,
         coalesce(sum(w.items) filter (where w.state = 'running'), 0) as running_items,
         extract(epoch from clock_timestamp() - min(w.run_at) filter (where w.state = 'queued')) as age,
         sum(w.items * coalesce(p.seconds, 0.1)) as cost
  from work w left join pace p on p.work = split_part(w.queue, '.', 1) || '/' || coalesce(w.space_id, 0)
  group by w.queue
), known as (
  select 'encode' || coalesce('.' || s.pool, '') as queue from sightline.space s
  union select unnest(w.queues) from sightline.worker w where w.stopped_at is null and w.seen_at > clock_timestamp() - interval '30 seconds'
  union select l.queue from load l
)
select k.queue, coalesce(l.queued_items, 0)::bigint as queued_items, coalesce(l.running_items, 0)::bigint as running_items,
       coalesce(round(l.age::numeric, 1), 0)::float8 as age_seconds, coalesce(round(l.cost::numeric, 1), 0)::float8 as cost_seconds,
       (select count(*) from sightline.worker w where k.queue = any (w.queues) and w.stopped_at is null
          and w.seen_at > clock_timestamp() - interval '30 seconds') as workers
from known k left join load l on l.queue = k.queue;

-- What share of the true `k` nearest neighbours the index of a space finds, for a few stored vectors picked at random; one as near as the last
-- true one counts. Null where the modality has no vectors. Each picked vector costs a scan of all, so give it a statement_timeout.
create function sightline.sample_recall(space text, modality text, k int default 10, sample int default 5) returns float8
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target sightline.space := sightline.resolve_space(space);
  -- "+ 0" keeps the planner off the graph.
  ask constant text := format('select array(select (embedding <=> $1)::float8 from sightline.%I order by (embedding <=> $1)%%s limit %s)',
                              target.name || '_' || modality, k);
  low bigint;
  high bigint;
  picked {vector}.halfvec;
  truth float8[];
  by_index float8[];
  hits bigint := 0;
  wanted bigint := 0;
begin
  select min(e.item_id), max(e.item_id) into low, high from sightline.embedding e where e.space_id = target.space_id;
  for n in 1 .. sample loop
    select e.vec into picked from sightline.embedding e
    where e.space_id = target.space_id and e.item_id >= low + floor(random() * (high - low + 1))::bigint
      and e.slot = 0 and e.modality = sample_recall.modality
    order by e.item_id limit 1;
    continue when picked is null;
    execute format(ask, ' + 0') into truth using picked;
    perform set_config('hnsw.ef_search', greatest(100, current_setting('hnsw.ef_search')::int)::text, true);  -- as a search does
    execute format(ask, '') into by_index using picked;
    wanted := wanted + cardinality(truth);
    hits := hits + (select count(*) from unnest(by_index) d where d <= truth[cardinality(truth)] + 1e-6);
  end loop;
  return hits::float8 / nullif(wanted, 0);
end $$;

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
  callers_ef text;
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
    callers_ef := current_setting('hnsw.ef_search');
    perform set_config('hnsw.ef_search', greatest(100, callers_ef::int)::text, true);  -- as a search does
    execute format(ask, '') into by_index using picked;
    perform set_config('hnsw.ef_search', callers_ef, true);
    wanted := wanted + cardinality(truth);
    hits := hits + (select count(*) from unnest(by_index) d where d <= truth[cardinality(truth)] + 1e-6);
  end loop;
  return hits::float8 / nullif(wanted, 0);
end $$;

-- Delete items, at most `most` of them: by collection, by external ids in it, by item ids, by age of their last change; a collection or item
-- ids must be given. Vectors, captions, labels and texts of captions go with them, and so does uploaded content that no other item uses. Call
-- it until `items` is 0, with a commit after each. `elsewhere`: digests of removed content that lies outside of the database.
create function sightline.delete_items(
  collection text default null, external_ids text[] default null, item_ids bigint[] default null, older_than interval default null,
  most int default 1000)
returns table (items bigint, vectors bigint, captions bigint, blobs bigint, bytes bigint, elsewhere bytea[])
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target int;
  gone bigint[];
  digests bytea[];
begin
  if collection is null and item_ids is null then
    raise exception 'say what to delete: a collection, external ids of one, or item ids' using errcode = 'invalid_parameter_value';
  elsif external_ids is not null and collection is null then
    raise exception 'external ids are of a collection: name it' using errcode = 'invalid_parameter_value';
  elsif collection is not null then
    select c.collection_id into target from sightline.collection c where c.name = delete_items.collection;
    if target is null then
      raise exception 'no collection named "%"', collection using errcode = 'undefined_object';
    end if;
  end if;
  gone := array(
    select i.item_id from sightline.item i
    where (target is null or i.collection_id = target)
      and (delete_items.external_ids is null or i.external_id = any (delete_items.external_ids))
      and (delete_items.item_ids is null or i.item_id = any (delete_items.item_ids))
      and (older_than is null or i.updated_at < clock_timestamp() - older_than)
    order by i.item_id limit most for update);
  -- With the texts that were made of them, which go too.
  gone := array(select u.item_id from unnest(gone) u(item_id) union select i.item_id from sightline.item i where i.parent_id = any (gone));
  select count(*) into vectors from sightline.embedding e where e.item_id = any (gone);
  select count(*) into captions from sightline.caption c where c.item_id = any (gone);
  digests := array(select distinct i.blob_digest from sightline.item i where i.item_id = any (gone) and i.blob_digest is not null);
  delete from sightline.item i where i.item_id = any (gone);
  get diagnostics items = row_count;
  select r.blobs, r.bytes, r.elsewhere into blobs, bytes, elsewhere from sightline.remove_blobs(digests) r;
  return next;
end $$;

-- Remove uploaded content, unless an item uses it.
create function sightline.remove_blobs(digests bytea[]) returns table (blobs bigint, bytes bigint, elsewhere bytea[])
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with gone as (
    delete from sightline.blob b where b.digest = any (digests) and not exists (select from sightline.item i where i.blob_digest = b.digest)
    returning b.digest, coalesce(octet_length(b.bytes), b.size) as n_bytes, b.size is not null as outside
  )
  select count(*), coalesce(sum(n_bytes), 0)::bigint, coalesce(array_agg(digest) filter (where outside), '{}') from gone
$$;

-- Uploaded content that no item has used for `age`: of an ingest that broke off, or of items that were deleted by other means. What is younger
-- may be of an ingest that goes on.
create function sightline.orphans(age interval default '1 day', most int default 1000) returns table (digest bytea, bytes bigint)
language sql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select b.digest, coalesce(octet_length(b.bytes), b.size)::bigint from sightline.blob b
  where b.created_at < clock_timestamp() - age and not exists (select from sightline.item i where i.blob_digest = b.digest)
  limit most
$$;

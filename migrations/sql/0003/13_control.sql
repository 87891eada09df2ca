-- Rate limits, and reconciling a space with its items.

-- Let at most so many items of a collection start in a second; null lifts the limit. A chunk starts whole: of a slow collection the next one
-- waits until its items are paid for. Returns the limit that was there before.
create function sightline.rate_limit(collection text, items_per_second double precision) returns double precision
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target int := sightline.collection_of(collection);
  before double precision;
begin
  if target is null then
    raise exception 'rate_limit takes a collection' using errcode = 'invalid_parameter_value';
  elsif items_per_second is not null and not (items_per_second > 0 and items_per_second <= 1e6) then
    raise exception 'a rate limit is above 0 and at most 1000000 items a second, not %; to stop a collection, pause it', items_per_second
      using errcode = 'invalid_parameter_value';
  end if;
  select l.items_per_second into before from sightline.rate_limit l where l.collection_id = target for update;
  if rate_limit.items_per_second is null then
    delete from sightline.rate_limit l where l.collection_id = target;
  else
    insert into sightline.rate_limit as l (collection_id, items_per_second) values (target, rate_limit.items_per_second)
    on conflict on constraint rate_limit_pkey do update set
      items_per_second = excluded.items_per_second, allowance = least(l.allowance, 1), set_by = session_user, set_at = clock_timestamp();
  end if;
  return before;
end $$;

-- Collections with a rate limit, and what waits of them.
create view sightline.rate_limits with (security_invoker = true) as
select c.name as collection, l.items_per_second, w.queued_items, l.set_by, l.set_at
from sightline.rate_limit l
join sightline.collection c on c.collection_id = l.collection_id
cross join lateral (
  select coalesce(sum(cardinality(k.item_ids)), 0) as queued_items from sightline.chunk k
  where k.collection_id = l.collection_id and k.state = 'queued'
) w;

-- Items without a vector of their present content in a space, and why: `running` or `queued` in a job, `failed`, `dismissed` (it failed, and
-- somebody said that it will not be mended), `no content` (it came as a vector), `stale` (its content changed), `never submitted`.
create or replace function sightline.missing(space text)
returns table (item_id bigint, external_id text, collection text, modality text, reason text, detail text)
language sql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with target as (select * from sightline.resolve_space(space)),
  open_chunk as (
    select u.item_id, max(c.state) as state, max(c.job_id) as job_id  -- 'running' > 'queued'
    from sightline.chunk c cross join lateral unnest(c.item_ids) u(item_id)
    where c.state in ('queued', 'running') and c.space_id = (select space_id from target)
    group by u.item_id
  )
  select i.item_id, i.external_id, k.name, i.modality,
         case when o.state is not null then o.state when i.uri like 'vector:%' then 'no content'
              when f.dismissed_at is not null then 'dismissed' when f.failure_id is not null then 'failed'
              when e.item_id is not null then 'stale' else 'never submitted' end,
         case when o.state is not null then 'job ' || o.job_id
              when i.uri like 'vector:%' then 'it was imported as a vector of another space: ingest its file under this external_id'
              when f.failure_id is not null then f.error_class || ': ' || f.message
              when e.item_id is not null then 'its content changed and was not submitted again' end
  from sightline.item i
  join target t on i.modality = any (t.modalities)
  join sightline.collection k on k.collection_id = i.collection_id
  left join sightline.embedding e on e.space_id = t.space_id and e.item_id = i.item_id and e.slot = 0
  left join open_chunk o on o.item_id = i.item_id
  left join lateral (
    select f.* from sightline.failure f join sightline.job j on j.job_id = f.job_id
    where f.item_id = i.item_id and f.generation = i.generation and j.space_id = t.space_id order by f.failure_id desc limit 1
  ) f on true
  where e.item_id is null or e.generation < i.generation
$$;

-- Enqueue what `missing(space)` names and nothing else, in one job for each collection. What is under way already is not enqueued twice; what
-- was dismissed, or has no content to encode, is left. Open failures of what is enqueued are settled by the new job. Returns what was found,
-- by collection and reason: `job_id` is null where nothing was to be enqueued.
create function sightline.reconcile(space text default 'current', collection text default null, lane text default 'bulk')
returns table (collection_name text, reason text, items bigint, job_id bigint)
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target sightline.space := sightline.resolve_space(space);
  only_one int := sightline.collection_of(collection);
  part record;
  opened sightline.job;
begin
  -- Two at a time would both find the same items missing.
  perform pg_advisory_xact_lock(hashtextextended('sightline.reconcile/' || target.space_id, 0));
  for part in
    select k.collection_id, k.name,
           coalesce(array_agg(m.item_id order by m.modality, m.item_id) filter (where m.reason in ('failed', 'stale', 'never submitted')), '{}') as todo,
           array_agg(m.reason) as reasons
    from sightline.missing(target.name) m join sightline.collection k on k.name = m.collection
    where only_one is null or k.collection_id = only_one
    group by k.collection_id, k.name order by k.name
  loop
    opened := null;
    if cardinality(part.todo) > 0 then
      opened := sightline.open_job('encode', jsonb_build_object('space', target.name), part.name, reconcile.lane);
      perform sightline.add_chunks(opened, part.todo);
      update sightline.job j set n_submitted = cardinality(part.todo) where j.job_id = opened.job_id;
      update sightline.failure f set retried_by = opened.job_id
      from sightline.job j
      where f.item_id = any (part.todo) and f.retried_by is null and f.dismissed_at is null
        and j.job_id = f.job_id and j.space_id = target.space_id and j.kind = 'encode';
      perform sightline.seal_job(opened.job_id);
    end if;
    return query
      select part.name, r.reason, count(*), case when r.reason in ('failed', 'stale', 'never submitted') then opened.job_id end
      from unnest(part.reasons) r(reason) group by r.reason order by r.reason;
  end loop;
end $$;

-- Control over jobs and queues: cancel, pause and resume, retry and dismiss. The ledger's moves know of them.

-- A failure stays a row whatever became of it: its job's counts keep adding up. `retried_by` says which job does its item again,
-- `dismissed_at` that nobody will.
alter table sightline.failure
  add column retried_by bigint references sightline.job,
  add column dismissed_at timestamptz,
  add constraint failure_settled_once check (retried_by is null or dismissed_at is null);
create index failure_open on sightline.failure (job_id, failure_id) where retried_by is null and dismissed_at is null;

alter table sightline.job add column cancel_requested_at timestamptz;
create index job_cancelling on sightline.job (job_id) where finished_at is null and cancel_requested_at is not null;
create index job_open_collection on sightline.job (collection_id) where finished_at is null;

alter table sightline.worker add column version text;

-- What is paused: a queue or a collection. Nothing of it is published or claimed; what runs already is finished.
create table sightline.pause (
  pause_id      int generated always as identity primary key,
  queue         text unique,
  collection_id int unique references sightline.collection on delete cascade,
  reason        text,
  paused_by     name not null default session_user,
  paused_at     timestamptz not null default clock_timestamp(),
  constraint pause_has_one_target check (num_nonnulls(queue, collection_id) = 1)
);

-- Jobs of which nothing may start: cancelled ones, and those of a paused collection.
create function sightline.held_jobs() returns bigint[]
language sql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select array(
    select j.job_id from sightline.job j where j.finished_at is null and j.cancel_requested_at is not null
    union all
    select j.job_id from sightline.pause p join sightline.job j on j.collection_id = p.collection_id where j.finished_at is null
  )
$$;

-- Close a job whose chunks are all terminal. Called after the commit of a chunk, and by the sweeper: two last chunks that
-- commit at once do not see each other. Of a cancelled job it also ends what is queued, late chunks of retries included.
create or replace function sightline.close_job(job_id bigint) returns boolean
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  -- A chunk that somebody else has locked is left to the next call: waiting for it here, with jobs locked, could deadlock.
  with dropped as (
    select c.chunk_id from sightline.chunk c join sightline.job j on j.job_id = c.job_id
    where j.job_id = close_job.job_id and j.cancel_requested_at is not null and c.state = 'queued'
    for update of c skip locked
  )
  update sightline.chunk c set state = 'cancelled', published_at = null, finished_at = clock_timestamp()
  from dropped d where c.chunk_id = d.chunk_id;

  with closed as (
    update sightline.job j set
      state = case when j.cancel_requested_at is not null
                     or exists (select from sightline.chunk c where c.job_id = j.job_id and c.state = 'cancelled')
                   then 'cancelled' else 'done' end,
      finished_at = clock_timestamp()
    where j.job_id = close_job.job_id and j.finished_at is null and j.sealed_at is not null
      and not exists (select from sightline.chunk c where c.job_id = j.job_id and c.state in ('queued', 'running'))
    returning 1
  )
  select exists (select from closed)
$$;

-- Claim queued chunks for a worker. A duplicate message finds nothing; what is cancelled or paused is left where it is, and as
-- unpublished, so that it does not count as on its way.
create or replace function sightline.claim(chunk_ids bigint[], worker_id uuid) returns setof sightline.chunk
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with due as (
    select c.chunk_id from sightline.chunk c
    where c.chunk_id = any (chunk_ids) and c.state = 'queued' and c.run_at <= clock_timestamp()
    order by c.chunk_id for update
  ), held as (
    select c.chunk_id from sightline.chunk c join due using (chunk_id)
    where c.job_id = any ((select sightline.held_jobs())::bigint[])
       or exists (select from sightline.pause p where p.queue = c.queue)
  ), unpublished as (
    update sightline.chunk c set published_at = null from held where c.chunk_id = held.chunk_id
  ), free as (
    select chunk_id from due except select chunk_id from held
  ), started as (
    update sightline.job j set state = 'running'
    where j.state = 'queued' and j.job_id in (select c.job_id from sightline.chunk c join free using (chunk_id))
  )
  update sightline.chunk c set state = 'running', worker_id = claim.worker_id, fence = c.fence + 1, claimed_at = clock_timestamp(),
                               published_at = coalesce(c.published_at, clock_timestamp())
  from free where c.chunk_id = free.chunk_id
  returning c.*
$$;

-- After an error that concerns a chunk as a whole: try it again later, or give its items up once its attempts are spent.
create or replace function sightline.fail_chunk(chunk_id bigint, fence int, error_class text, message text, max_attempts int) returns text
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target sightline.chunk;
begin
  select c.* into target from sightline.chunk c
  where c.chunk_id = fail_chunk.chunk_id and c.state = 'running' and c.fence = fail_chunk.fence for update;
  if target.chunk_id is null then
    return 'lost';
  end if;
  if exists (select from sightline.job j where j.job_id = target.job_id and j.cancel_requested_at is not null) then
    update sightline.chunk c set state = 'cancelled', worker_id = null, finished_at = clock_timestamp() where c.chunk_id = target.chunk_id;
    return 'cancelled';
  end if;
  if target.attempt + 1 < max_attempts then
    -- Back-off of 1, 2, 4 ... seconds, at most a minute, with jitter.
    update sightline.chunk c set state = 'queued', worker_id = null, published_at = null, attempt = c.attempt + 1,
      run_at = clock_timestamp() + least(60, 2 ^ c.attempt) * (0.5 + random()) * interval '1 second'
    where c.chunk_id = target.chunk_id;
    return 'retried';
  end if;
  insert into sightline.failure (job_id, chunk_id, item_id, generation, external_id, error_class, message, attempt)
  select target.job_id, target.chunk_id, i.item_id, i.generation, i.external_id, fail_chunk.error_class, fail_chunk.message, target.attempt + 1
  from sightline.item i where i.item_id = any (target.item_ids);
  update sightline.chunk c set state = 'done', worker_id = null, attempt = c.attempt + 1, finished_at = clock_timestamp(),
    n_failed = (select count(*) from sightline.item i where i.item_id = any (c.item_ids)),
    n_skipped = (select cardinality(c.item_ids) - count(*) from sightline.item i where i.item_id = any (c.item_ids))
  where c.chunk_id = target.chunk_id;
  return 'failed';
end $$;

-- Mark chunks as published, the oldest of the most urgent lane first, as many as the free capacity of their queue. Returns messages:
-- chunks of one queue, lane and space, together at most 256 items. The caller commits, then publishes.
create or replace function sightline.take_unpublished(lease interval, per_slot int)
returns table (queue text, lane text, space_id smallint, chunk_ids bigint[])
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with capacity as (
    select q.queue, sum(w.slots) * per_slot
           - (select count(*) from sightline.chunk c where c.queue = q.queue
              and (c.state = 'running' or c.state = 'queued' and c.published_at is not null)) as free
    from sightline.worker w cross join lateral unnest(w.queues) q(queue)
    where w.stopped_at is null and w.seen_at > clock_timestamp() - lease
      and not exists (select from sightline.pause p where p.queue = q.queue)
    group by q.queue
  ), picked as (
    select p.chunk_id from capacity cap cross join lateral (
      select c.chunk_id from sightline.chunk c
      where c.queue = cap.queue and c.state = 'queued' and c.published_at is null and c.run_at <= clock_timestamp()
        -- Said so because the planner takes `<> all` of an unknown array for "hardly any", and would sort the whole backlog.
        and not array[c.job_id] <@ (select sightline.held_jobs())
      order by c.urgency, c.run_at, c.chunk_id
      limit greatest(cap.free, 0) for update skip locked
    ) p
  ), marked as (
    -- An array, for the planner takes `picked` for thousands of rows and would read the whole table in a join.
    update sightline.chunk c set published_at = clock_timestamp() where c.chunk_id = any (array(select chunk_id from picked))
    returning c.chunk_id, c.queue, c.lane, c.urgency, c.space_id
  ), packed as (
    -- Four chunks of at most 64 items.
    select m.*, (row_number() over (partition by m.queue, m.lane, m.space_id order by m.chunk_id) - 1) / 4 as message from marked m
  )
  select p.queue, p.lane, p.space_id, array_agg(p.chunk_id order by p.chunk_id) from packed p
  group by p.queue, p.lane, p.urgency, p.space_id, p.message
  order by p.urgency, min(p.chunk_id)
$$;

-- Cancel a job: its queued work never starts, its running work stops at the next batch (the worker learns it with its heartbeat).
-- What was done stays. Returns the job's state: `cancelling` while something still runs, or what a job was that is over.
create function sightline.cancel(job_id bigint) returns text
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  reached text;
begin
  update sightline.job j set
    cancel_requested_at = coalesce(j.cancel_requested_at, clock_timestamp()),
    sealed_at = coalesce(j.sealed_at, clock_timestamp()),  -- whoever still adds items is told
    error = format('cancelled by %s', session_user)
  where j.job_id = cancel.job_id and j.finished_at is null;
  perform sightline.close_job(cancel.job_id);
  select case when j.finished_at is null then 'cancelling' else j.state end into reached from sightline.job j where j.job_id = cancel.job_id;
  if reached is null then
    raise exception 'there is no job %', cancel.job_id using errcode = 'no_data_found';
  end if;
  return reached;
end $$;

-- The number of a collection, for functions that take its name. An unknown one is an error.
create function sightline.collection_of(name text) returns int
language plpgsql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  found_id int;
begin
  select c.collection_id into found_id from sightline.collection c where c.name = collection_of.name;
  if found_id is null and name is not null then
    raise exception 'there is no collection "%"', name using errcode = 'undefined_object';
  end if;
  return found_id;
end $$;

-- Pause a queue or a collection: nothing of it starts until it is resumed. Returns whether it was not paused before.
create function sightline.pause(queue text default null, collection text default null, reason text default null) returns boolean
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target int := sightline.collection_of(collection);
  known text;
begin
  if num_nonnulls(queue, collection) <> 1 then
    raise exception 'pause takes a queue or a collection' using errcode = 'invalid_parameter_value';
  end if;
  if queue is not null then
    select string_agg(q, ', ' order by q) into known
    from (select 'encode' union select 'encode.' || s.pool from sightline.space s where s.pool is not null
          union select unnest(w.queues) from sightline.worker w where w.stopped_at is null
          union select c.queue from sightline.chunk c where c.state in ('queued', 'running')) k(q);
    if pause.queue <> all (string_to_array(known, ', ')) then
      raise exception 'there is no queue "%"; queues: %', queue, known using errcode = 'undefined_object';
    end if;
  end if;
  insert into sightline.pause (queue, collection_id, reason) values (pause.queue, target, pause.reason) on conflict do nothing;
  if not found then
    return false;
  end if;
  -- What is on its way is no longer: else it would take the room of what may run.
  update sightline.chunk c set published_at = null
  where c.state = 'queued' and c.published_at is not null
    and (c.queue = pause.queue or c.job_id in (select j.job_id from sightline.job j where j.collection_id = target and j.finished_at is null));
  return true;
end $$;

-- Let a paused queue or collection go on. Returns whether it was paused.
create function sightline.resume(queue text default null, collection text default null) returns boolean
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target int := sightline.collection_of(collection);
begin
  if num_nonnulls(queue, collection) <> 1 then
    raise exception 'resume takes a queue or a collection' using errcode = 'invalid_parameter_value';
  end if;
  delete from sightline.pause p where p.queue = resume.queue or p.collection_id = target;
  return found;
end $$;

-- The failures that nobody has retried or dismissed, by filter; a null filter admits all. They stay locked until the end of the
-- transaction: of two who settle the same ones, the second finds none.
create function sightline.lock_open_failures(job_id bigint, collection text, error_class text, failure_ids bigint[]) returns setof sightline.failure
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target int := sightline.collection_of(collection);
  given alias for job_id;
begin
  if given is not null and not exists (select from sightline.job j where j.job_id = given) then
    raise exception 'there is no job %', given using errcode = 'no_data_found';
  end if;
  return query
    select f.* from sightline.failure f join sightline.job j on j.job_id = f.job_id
    where f.retried_by is null and f.dismissed_at is null
      and (given is null or f.job_id = given)
      and (target is null or j.collection_id = target)
      and (lock_open_failures.error_class is null or f.error_class = lock_open_failures.error_class)
      and (failure_ids is null or f.failure_id = any (failure_ids))
    order by f.failure_id for update of f;
end $$;

-- Do failed items again: a new job for each job that they failed in, of the same kind, payload, space and lane. In the same transaction the
-- failures are marked with it; they stay rows and stay counted in their own job. An item that failed in several jobs of one kind, payload and
-- space is done once, by the last one's. `left_open` failures cannot be retried: nothing of them is stored (they could not be read when they were
-- submitted), or the space no longer takes them. Such rows have a null job_id where nothing else was left.
create function sightline.retry(
  job_id bigint default null, collection text default null, error_class text default null, failure_ids bigint[] default null
) returns table (retry_of bigint, new_job_id bigint, items bigint, left_open bigint)
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  part record;
  opened sightline.job;
begin
  for part in
    with chosen as materialized (
      select f.failure_id, f.job_id, f.item_id, j.kind, j.payload, j.space_id, i.item_id is not null as retryable
      from sightline.lock_open_failures(retry.job_id, retry.collection, retry.error_class, retry.failure_ids) f
      join sightline.job j on j.job_id = f.job_id
      left join sightline.space s on s.space_id = j.space_id
      left join sightline.item i on i.item_id = f.item_id and (s.space_id is null or i.modality = any (s.modalities))
    ), assigned as (
      select c.*, case when c.retryable then max(c.job_id) over (partition by c.kind, c.payload, c.space_id, c.item_id, c.retryable) else c.job_id end as origin
      from chosen c
    )
    select a.origin, coalesce(array_agg(a.failure_id) filter (where a.retryable), '{}') as failures,
           coalesce(jsonb_agg(distinct a.item_id) filter (where a.retryable), '[]') as item_ids, count(*) filter (where not a.retryable) as rest
    from assigned a group by a.origin order by a.origin
  loop
    retry_of := part.origin;
    new_job_id := null;
    items := jsonb_array_length(part.item_ids);
    left_open := part.rest;
    if items > 0 then
      insert into sightline.job (kind, payload, collection_id, space_id, lane, retry_of)
      select j.kind, j.payload, j.collection_id, j.space_id, j.lane, j.job_id from sightline.job j where j.job_id = part.origin
      returning * into opened;
      new_job_id := opened.job_id;
      perform sightline.add_items(opened.job_id, part.item_ids);
      update sightline.failure f set retried_by = opened.job_id where f.failure_id = any (part.failures);
      perform sightline.seal_job(opened.job_id);
    end if;
    return next;
  end loop;
end $$;

-- Settle failures that nobody will mend. They stay rows and stay counted in their job, and no longer stand in `failed_items`.
create function sightline.dismiss(
  job_id bigint default null, collection text default null, error_class text default null, failure_ids bigint[] default null
) returns bigint
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with chosen as materialized (
    select f.failure_id from sightline.lock_open_failures(dismiss.job_id, dismiss.collection, dismiss.error_class, dismiss.failure_ids) f
  ), dismissed as (
    update sightline.failure f set dismissed_at = clock_timestamp() from chosen c where f.failure_id = c.failure_id returning 1
  )
  select count(*) from dismissed
$$;

-- What became of a job's items: submitted = done + failed + skipped + cancelled + pending, always. `moved` ones stand in a later chunk, so
-- they are not counted in theirs; of a cancelled chunk what was not done is cancelled. `open_failures` are neither retried nor dismissed.
drop view sightline.job_progress;
create view sightline.job_progress with (security_invoker = true) as
select j.job_id, j.kind, case when j.finished_at is null and j.cancel_requested_at is not null then 'cancelling' else j.state end as state,
       j.lane, c.name as collection, s.name as space,
       j.n_submitted as submitted, k.done, j.n_rejected + k.failed as failed, j.n_unchanged + j.n_duplicate + k.skipped as skipped,
       j.n_unchanged as unchanged,
       j.n_submitted - j.n_rejected - j.n_unchanged - j.n_duplicate - k.done - k.failed - k.skipped - k.cancelled as pending, k.cancelled,
       j.created_at, k.started_at, j.sealed_at, j.finished_at, j.error, j.retry_of,
       j.finished_at is null and exists (
         select from sightline.pause p where p.collection_id = j.collection_id or p.queue = j.kind || coalesce('.' || s.pool, '')) as paused,
       (select count(*) from sightline.failure f where f.job_id = j.job_id and f.retried_by is null and f.dismissed_at is null) as open_failures
from sightline.job j
left join sightline.collection c on c.collection_id = j.collection_id
left join sightline.space s on s.space_id = j.space_id
cross join lateral (
  select coalesce(sum(n_done), 0)::int as done, coalesce(sum(n_failed), 0)::int as failed, coalesce(sum(n_skipped), 0)::int as skipped,
         coalesce(sum(cardinality(item_ids) - n_done - n_failed - n_skipped - n_moved) filter (where state = 'cancelled'), 0)::int as cancelled,
         min(claimed_at) as started_at
  from sightline.chunk where chunk.job_id = j.job_id
) k;

-- `held_items` wait because their queue or collection is paused, or their job was just cancelled: they are queued, and no reason to start more
-- workers; `oldest_seconds` is of the others.
drop view sightline.queue_status;
create view sightline.queue_status with (security_invoker = true) as
select coalesce(c.queue, w.queue, p.queue) as queue, coalesce(w.workers, 0) as workers, coalesce(w.slots, 0) as slots,
       coalesce(w.free_slots, 0) as free_slots, coalesce(c.queued_chunks, 0) as queued_chunks, coalesce(c.queued_items, 0) as queued_items,
       coalesce(c.running_chunks, 0) as running_chunks, coalesce(c.running_items, 0) as running_items, c.oldest_seconds,
       coalesce(case when p.queue is null then c.held_items else c.queued_items end, 0) as held_items, p.queue is not null as paused
from (
  select queue, count(*) filter (where state = 'queued') as queued_chunks, sum(cardinality(item_ids)) filter (where state = 'queued') as queued_items,
         count(*) filter (where state = 'running') as running_chunks, sum(cardinality(item_ids)) filter (where state = 'running') as running_items,
         round(extract(epoch from clock_timestamp() - min(run_at) filter (where state = 'queued' and run_at <= clock_timestamp() and not held)), 1) as oldest_seconds,
         sum(cardinality(item_ids)) filter (where state = 'queued' and held) as held_items
  from (select chunk.*, (chunk.job_id = any ((select sightline.held_jobs())::bigint[])
                         or exists (select from sightline.pause p where p.queue = chunk.queue)) as held
        from sightline.chunk where state in ('queued', 'running')) open_chunk
  group by queue
) c
full join (
  select q.queue, count(*) as workers, sum(slots) as slots, sum(free_slots) as free_slots
  from sightline.worker cross join lateral unnest(queues) q(queue)
  where stopped_at is null and seen_at > clock_timestamp() - interval '30 seconds' group by q.queue
) w on w.queue = c.queue
full join (select queue from sightline.pause where queue is not null) p on p.queue = coalesce(c.queue, w.queue);

-- The dead letters: failures that nobody has retried or dismissed. The settled ones are rows of `failure`.
create or replace view sightline.failed_items with (security_invoker = true) as
select f.failure_id, f.job_id, j.kind, c.name as collection, s.name as space, f.item_id, f.external_id, f.error_class, f.message, f.attempt, f.created_at
from sightline.failure f
join sightline.job j on j.job_id = f.job_id
left join sightline.collection c on c.collection_id = j.collection_id
left join sightline.space s on s.space_id = j.space_id
where f.retried_by is null and f.dismissed_at is null;

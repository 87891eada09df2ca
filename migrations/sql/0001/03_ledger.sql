-- The ledger's moves. Workers call these; each is one short transaction.

-- What became of a job's items. `moved` ones stand in a later chunk, so they are not counted in theirs.
create view sightline.job_progress with (security_invoker = true) as
select j.job_id, j.kind, j.state, j.lane, c.name as collection, s.name as space,
       j.n_submitted as submitted, k.done, j.n_rejected + k.failed as failed, j.n_unchanged + j.n_duplicate + k.skipped as skipped,
       j.n_unchanged as unchanged,
       j.n_submitted - j.n_rejected - j.n_unchanged - j.n_duplicate - k.done - k.failed - k.skipped - k.cancelled as pending, k.cancelled,
       j.created_at, k.started_at, j.sealed_at, j.finished_at, j.error
from sightline.job j
left join sightline.collection c on c.collection_id = j.collection_id
left join sightline.space s on s.space_id = j.space_id
cross join lateral (
  select coalesce(sum(n_done), 0)::int as done, coalesce(sum(n_failed), 0)::int as failed, coalesce(sum(n_skipped), 0)::int as skipped,
         coalesce(sum(cardinality(item_ids)) filter (where state = 'cancelled'), 0)::int as cancelled, min(claimed_at) as started_at
  from sightline.chunk where chunk.job_id = j.job_id
) k;

-- Close a job whose chunks are all terminal. Called after the commit of a chunk, and by the sweeper: two last chunks that
-- commit at once do not see each other.
create function sightline.close_job(job_id bigint) returns boolean
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with closed as (
    update sightline.job j set
      state = case when exists (select from sightline.chunk c where c.job_id = j.job_id and c.state = 'cancelled') then 'cancelled' else 'done' end,
      finished_at = clock_timestamp()
    where j.job_id = close_job.job_id and j.finished_at is null and j.sealed_at is not null
      and not exists (select from sightline.chunk c where c.job_id = j.job_id and c.state in ('queued', 'running'))
    returning 1
  )
  select exists (select from closed)
$$;

-- Claim queued chunks for a worker. A duplicate message finds nothing.
create function sightline.claim(chunk_ids bigint[], worker_id uuid) returns setof sightline.chunk
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with due as (
    select c.chunk_id from sightline.chunk c
    where c.chunk_id = any (chunk_ids) and c.state = 'queued' and c.run_at <= clock_timestamp()
    order by c.chunk_id for update
  ), started as (
    update sightline.job j set state = 'running'
    where j.state = 'queued' and j.job_id in (select c.job_id from sightline.chunk c join due using (chunk_id))
  )
  update sightline.chunk c set state = 'running', worker_id = claim.worker_id, fence = c.fence + 1, claimed_at = clock_timestamp(),
                               published_at = coalesce(c.published_at, clock_timestamp())
  from due where c.chunk_id = due.chunk_id
  returning c.*
$$;

-- Give chunks back that no work was done for (a full worker, a stopping worker): costs no attempt.
create function sightline.release(chunk_ids bigint[], worker_id uuid) returns int
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with released as (
    update sightline.chunk c set state = 'queued', worker_id = null, published_at = null
    where c.chunk_id = any (chunk_ids)
      and (c.state = 'running' and c.worker_id = release.worker_id or c.state = 'queued' and c.published_at is not null)
    returning 1
  )
  select count(*)::int from released
$$;

-- After an error that concerns a chunk as a whole: try it again later, or give its items up once its attempts are spent.
create function sightline.fail_chunk(chunk_id bigint, fence int, error_class text, message text, max_attempts int) returns text
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target sightline.chunk;
begin
  select c.* into target from sightline.chunk c
  where c.chunk_id = fail_chunk.chunk_id and c.state = 'running' and c.fence = fail_chunk.fence for update;
  if target.chunk_id is null then
    return 'lost';
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

-- Chunks of workers that were not seen for a lease go back to the queue with one attempt spent; jobs that nobody has fed for ten
-- minutes are sealed; finished ones are closed. Returns how many chunks went back.
create function sightline.sweep(lease interval, max_attempts int) returns int
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  lost record;
  swept int := 0;
  open_job bigint;
begin
  for lost in
    select c.chunk_id, c.fence, w.name from sightline.chunk c left join sightline.worker w on w.worker_id = c.worker_id
    where c.state = 'running' and (w.worker_id is null or w.seen_at < clock_timestamp() - lease)
    order by c.chunk_id for update of c skip locked
  loop
    perform sightline.fail_chunk(lost.chunk_id, lost.fence, 'WorkerLost',
                                 format('worker %s was not seen for %s while it held the chunk', coalesce(lost.name, 'unknown'), lease), max_attempts);
    swept := swept + 1;
  end loop;
  -- A submitter that died left its job open for ever, and everybody who waits for it.
  update sightline.job j set sealed_at = clock_timestamp(), error = 'the submitter went away'
  where j.finished_at is null and j.sealed_at is null and j.fed_at < clock_timestamp() - interval '10 minutes';
  for open_job in select j.job_id from sightline.job j where j.finished_at is null and j.sealed_at is not null loop
    perform sightline.close_job(open_job);
  end loop;
  return swept;
end $$;

-- Become or remain the leader of a role; the lease is by the database's clock.
create function sightline.lead(role text, worker_id uuid, lease interval) returns boolean
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with taken as (
    insert into sightline.leader as l (role, worker_id, lease_until) values (role, worker_id, clock_timestamp() + lease)
    on conflict on constraint leader_pkey do update set
      worker_id = excluded.worker_id, lease_until = excluded.lease_until, term = l.term + (l.worker_id <> excluded.worker_id)::int
    where l.worker_id = excluded.worker_id or l.lease_until < clock_timestamp()
    returning 1
  )
  select exists (select from taken)
$$;

-- Mark chunks as published, the oldest of the most urgent lane first, as many as the free capacity of their queue. Returns messages:
-- chunks of one queue, lane and space, together at most 256 items. The caller commits, then publishes.
create function sightline.take_unpublished(lease interval, per_slot int)
returns table (queue text, lane text, space_id smallint, chunk_ids bigint[])
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with capacity as (
    select q.queue, sum(w.slots) * per_slot
           - (select count(*) from sightline.chunk c where c.queue = q.queue
              and (c.state = 'running' or c.state = 'queued' and c.published_at is not null)) as free
    from sightline.worker w cross join lateral unnest(w.queues) q(queue)
    where w.stopped_at is null and w.seen_at > clock_timestamp() - lease
    group by q.queue
  ), picked as (
    select p.chunk_id from capacity cap cross join lateral (
      select c.chunk_id from sightline.chunk c
      where c.queue = cap.queue and c.state = 'queued' and c.published_at is null and c.run_at <= clock_timestamp()
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

create view sightline.queue_status with (security_invoker = true) as
select coalesce(c.queue, w.queue) as queue, coalesce(w.workers, 0) as workers, coalesce(w.slots, 0) as slots, coalesce(w.free_slots, 0) as free_slots,
       coalesce(c.queued_chunks, 0) as queued_chunks, coalesce(c.queued_items, 0) as queued_items, coalesce(c.running_chunks, 0) as running_chunks,
       coalesce(c.running_items, 0) as running_items, c.oldest_seconds
from (
  select queue, count(*) filter (where state = 'queued') as queued_chunks, sum(cardinality(item_ids)) filter (where state = 'queued') as queued_items,
         count(*) filter (where state = 'running') as running_chunks, sum(cardinality(item_ids)) filter (where state = 'running') as running_items,
         round(extract(epoch from clock_timestamp() - min(run_at) filter (where state = 'queued' and run_at <= clock_timestamp())), 1) as oldest_seconds
  from sightline.chunk where state in ('queued', 'running') group by queue
) c
full join (
  select q.queue, count(*) as workers, sum(slots) as slots, sum(free_slots) as free_slots
  from sightline.worker cross join lateral unnest(queues) q(queue)
  where stopped_at is null and seen_at > clock_timestamp() - interval '30 seconds' group by q.queue
) w on w.queue = c.queue;

create view sightline.failed_items with (security_invoker = true) as
select f.failure_id, f.job_id, j.kind, c.name as collection, s.name as space, f.item_id, f.external_id, f.error_class, f.message, f.attempt, f.created_at
from sightline.failure f
join sightline.job j on j.job_id = f.job_id
left join sightline.collection c on c.collection_id = j.collection_id
left join sightline.space s on s.space_id = j.space_id;

-- Items without a vector of their present content in a space, and why.
create function sightline.missing(space text)
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
         case when o.state is not null then o.state when f.failure_id is not null then 'failed' when e.item_id is not null then 'stale' else 'never submitted' end,
         case when o.state is not null then 'job ' || o.job_id when f.failure_id is not null then f.error_class || ': ' || f.message
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

create view sightline.missing_items with (security_invoker = true) as
select s.name as space, m.* from sightline.space s cross join lateral sightline.missing(s.name) m;

-- How fast work goes and how long it will take, of each job and of each queue; and which job waits for a submitter that is gone.

-- What was finished in the last minute is looked up by this.
create index chunk_finished on sightline.chunk (finished_at) where finished_at is not null;

-- A submitter says that it is alive and goes on with an unsealed job, however long it takes over its next items (see sweep).
create function sightline.keep_open(job_id bigint) returns void
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  update sightline.job j set fed_at = clock_timestamp()
  where j.job_id = keep_open.job_id and j.finished_at is null and j.sealed_at is null
$$;

-- As before, and beside it: `items_per_second` of the last minute, or of the whole job once it is over; `seconds_left` at that rate;
-- `oldest_seconds`, how long its oldest chunk has been due and not begun; `silent_seconds`, how long its submitter has been silent, of a
-- job that is not sealed. What was unchanged or rejected when it was submitted cost no time and counts for no rate.
create or replace view sightline.job_progress with (security_invoker = true) as
with p as (
select j.job_id, j.kind, case when j.finished_at is null and j.cancel_requested_at is not null then 'cancelling' else j.state end as state,
       j.lane, c.name as collection, s.name as space,
       j.n_submitted as submitted, k.done, j.n_rejected + k.failed as failed, j.n_unchanged + j.n_duplicate + k.skipped as skipped,
       j.n_unchanged as unchanged,
       j.n_submitted - j.n_rejected - j.n_unchanged - j.n_duplicate - k.done - k.failed - k.skipped - k.cancelled as pending, k.cancelled,
       j.created_at, k.started_at, j.sealed_at, j.finished_at, j.error, j.retry_of,
       j.finished_at is null and exists (
         select from sightline.pause p where p.collection_id = j.collection_id or p.queue = j.kind || coalesce('.' || s.pool, '')) as paused,
       (select count(*) from sightline.failure f where f.job_id = j.job_id and f.retried_by is null and f.dismissed_at is null) as open_failures,
       j.fed_at, k.done + k.failed + k.skipped as worked, k.recent, k.recent_since, k.due_since
from sightline.job j
left join sightline.collection c on c.collection_id = j.collection_id
left join sightline.space s on s.space_id = j.space_id
cross join lateral (
  select coalesce(sum(n_done), 0)::int as done, coalesce(sum(n_failed), 0)::int as failed, coalesce(sum(n_skipped), 0)::int as skipped,
         coalesce(sum(cardinality(item_ids) - n_done - n_failed - n_skipped - n_moved) filter (where state = 'cancelled'), 0)::int as cancelled,
         min(claimed_at) as started_at,
         sum(n_done + n_failed + n_skipped) filter (where finished_at > clock_timestamp() - interval '1 minute') as recent,
         min(claimed_at) filter (where finished_at > clock_timestamp() - interval '1 minute') as recent_since,
         min(run_at) filter (where state = 'queued' and run_at <= clock_timestamp()) as due_since
  from sightline.chunk where chunk.job_id = j.job_id
) k
), r as (
select p.*, case when p.finished_at is not null then p.worked / nullif(extract(epoch from p.finished_at - p.started_at), 0)
                 when p.pending > 0 and not p.paused
                 then coalesce(p.recent, 0) / greatest(1, least(60, extract(epoch from clock_timestamp() - p.recent_since))) end as speed
from p
)
select job_id, kind, state, lane, collection, space, submitted, done, failed, skipped, unchanged, pending, cancelled, created_at, started_at,
       sealed_at, finished_at, error, retry_of, paused, open_failures,
       round(speed, 1)::float8 as items_per_second,
       case when finished_at is null and pending > 0 and speed > 0 then ceil(pending / speed)::int end as seconds_left,
       case when finished_at is null and not paused then round(extract(epoch from clock_timestamp() - due_since), 1)::float8 end as oldest_seconds,
       case when finished_at is null and sealed_at is null
            then round(extract(epoch from clock_timestamp() - fed_at), 1)::float8 end as silent_seconds
from r;

-- As before, and beside it what was done and failed in the last minute, the rate of that minute, and how long the queue will last at it.
create or replace view sightline.queue_status with (security_invoker = true) as
with q as (
select coalesce(c.queue, w.queue, p.queue, f.queue) as queue, coalesce(w.workers, 0) as workers, coalesce(w.slots, 0) as slots,
       coalesce(w.free_slots, 0) as free_slots, coalesce(c.queued_chunks, 0) as queued_chunks, coalesce(c.queued_items, 0) as queued_items,
       coalesce(c.running_chunks, 0) as running_chunks, coalesce(c.running_items, 0) as running_items, c.oldest_seconds,
       coalesce(case when p.queue is null then c.held_items else c.queued_items end, 0) as held_items, p.queue is not null as paused,
       coalesce(f.done, 0) as done_last_minute, coalesce(f.failed, 0) as failed_last_minute,
       f.worked / greatest(1, least(60, extract(epoch from clock_timestamp() - f.since))) as speed
from (
  select queue, count(*) filter (where state = 'queued') as queued_chunks, sum(cardinality(item_ids)) filter (where state = 'queued') as queued_items,
         count(*) filter (where state = 'running') as running_chunks, sum(cardinality(item_ids)) filter (where state = 'running') as running_items,
         round(extract(epoch from clock_timestamp() - min(run_at) filter (where state = 'queued' and run_at <= clock_timestamp() and not held)), 1) as oldest_seconds,
         sum(cardinality(item_ids)) filter (where state = 'queued' and held) as held_items
  from (select k.*, exists (select from sightline.pause p where p.queue = k.queue or p.collection_id = k.collection_id)
                    or k.job_id in (select j.job_id from sightline.job j where j.finished_at is null and j.cancel_requested_at is not null) as held
        from sightline.chunk k where k.state in ('queued', 'running')) open_chunk
  group by queue
) c
full join (
  select q.queue, count(*) as workers, sum(slots) as slots, sum(free_slots) as free_slots
  from sightline.worker cross join lateral unnest(queues) q(queue)
  where stopped_at is null and seen_at > clock_timestamp() - interval '30 seconds' group by q.queue
) w on w.queue = c.queue
full join (select queue from sightline.pause where queue is not null) p on p.queue = coalesce(c.queue, w.queue)
full join (
  select queue, sum(n_done) as done, sum(n_failed) as failed, sum(n_done + n_failed + n_skipped) as worked, min(claimed_at) as since
  from sightline.chunk where finished_at > clock_timestamp() - interval '1 minute' group by queue
) f on f.queue = coalesce(c.queue, w.queue, p.queue)
)
select queue, workers, slots, free_slots, queued_chunks, queued_items, running_chunks, running_items, oldest_seconds, held_items, paused,
       done_last_minute, failed_last_minute, round(speed, 1)::float8 as items_per_second,
       case when queued_items - held_items + running_items > 0 and speed > 0
            then ceil((queued_items - held_items + running_items) / speed)::int end as seconds_left
from q;

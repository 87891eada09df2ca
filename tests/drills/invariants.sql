-- What must hold in the ledger. Each statement stands under `-- name:` and returns one line of text for each breach, so that an empty
-- result is a kept promise. `always` ones hold in every snapshot, `settled` ones once nothing is left to do.

-- name: always counts_add_up
-- submitted = done + failed + skipped + cancelled + pending, and what is pending stands in chunks that are open.
select format('job %s: submitted %s, but done %s + failed %s + skipped %s + cancelled %s + pending %s', p.job_id, p.submitted, p.done, p.failed,
              p.skipped, p.cancelled, p.pending)
       || format(' and %s items in open chunks', o.items)
from sightline.job_progress p
cross join lateral (
  select coalesce(sum(cardinality(c.item_ids)), 0) as items from sightline.chunk c where c.job_id = p.job_id and c.state in ('queued', 'running')
) o
where p.submitted <> p.done + p.failed + p.skipped + p.cancelled + p.pending or p.pending <> o.items

-- name: always failures_have_rows
-- A chunk counts as many failures as it has rows; rows go only with their items, when those are deleted.
select format('chunk %s: %s failures counted, %s rows, %s of its items deleted', c.chunk_id, c.n_failed, f.rows, d.items)
from sightline.chunk c
cross join lateral (select count(*) as rows from sightline.failure f where f.job_id = c.job_id and f.chunk_id = c.chunk_id) f
cross join lateral (
  select count(*) as items from unnest(c.item_ids) u(item_id) where not exists (select from sightline.item i where i.item_id = u.item_id)
) d
where f.rows > c.n_failed or f.rows + d.items < c.n_failed

-- name: always terminal_chunks_add_up
-- An ended chunk accounts for each of its items; a cancelled one may leave some, which count as cancelled.
select format('chunk %s is %s: %s done, %s failed, %s skipped, %s moved of %s', c.chunk_id, c.state, c.n_done, c.n_failed, c.n_skipped, c.n_moved,
              cardinality(c.item_ids))
from sightline.chunk c
where c.n_done + c.n_failed + c.n_skipped + c.n_moved > cardinality(c.item_ids)
   or c.state = 'done' and c.n_done + c.n_failed + c.n_skipped + c.n_moved <> cardinality(c.item_ids)
   or c.state in ('queued', 'running') and c.n_done + c.n_failed + c.n_skipped + c.n_moved <> 0

-- name: always done_is_stored
-- Whatever an ended chunk had in hand is stored, is a failure of its job, was deleted, or went on in a later chunk of the job.
select format('item %s of chunk %s (job %s, %s) is neither stored, failed, moved nor deleted', u.item_id, c.chunk_id, c.job_id, c.state)
from sightline.chunk c
cross join lateral unnest(c.item_ids) u(item_id)
join sightline.item i on i.item_id = u.item_id
where c.state = 'done'
  and not exists (select from sightline.embedding e where e.space_id = c.space_id and e.item_id = u.item_id and e.slot = 0)
  and not exists (select from sightline.failure f where f.item_id = u.item_id and f.job_id = c.job_id)
  and not exists (select from sightline.chunk later where later.job_id = c.job_id and later.chunk_id > c.chunk_id and u.item_id = any (later.item_ids))

-- name: always stored_once
-- Vectors beyond one for each item and slot, and vectors of content that the item never had.
select format('item %s has %s vectors in space %s', e.item_id, count(*), e.space_id)
from sightline.embedding e where e.slot = 0 group by e.space_id, e.item_id having count(*) > 1
union all
select format('item %s: its vector is of generation %s, the item is at %s', e.item_id, e.generation, i.generation)
from sightline.embedding e join sightline.item i using (item_id) where e.generation > i.generation

-- name: always moved_once
-- Moving, splitting and retrying neither lose nor double an item: what all chunks of a job hold, less what moved on, is what it was given.
select format('job %s was given %s items to work on, its chunks hold %s', j.job_id, j.given, k.held)
from (select job_id, n_submitted - n_rejected - n_unchanged - n_duplicate as given from sightline.job) j
cross join lateral (
  select coalesce(sum(cardinality(c.item_ids) - c.n_moved), 0) as held from sightline.chunk c where c.job_id = j.job_id
) k
where j.given <> k.held

-- name: always finished_is_over
select format('job %s is %s with open chunk %s', j.job_id, j.state, c.chunk_id)
from sightline.job j join sightline.chunk c on c.job_id = j.job_id
where j.finished_at is not null and c.state in ('queued', 'running')
union all
select format('job %s finished without being sealed', j.job_id) from sightline.job j where j.finished_at is not null and j.sealed_at is null

-- name: always leases_have_workers
-- A running chunk is held by a worker that is there and was seen within the lease (plus the time that the sweeper has to notice).
select 'chunk ' || c.chunk_id || ' is held by worker ' || c.worker_id
       || coalesce(', seen ' || round(extract(epoch from clock_timestamp() - w.seen_at), 1) || ' s ago', ', which has no row')
from sightline.chunk c left join sightline.worker w on w.worker_id = c.worker_id
where c.state = 'running' and (w.worker_id is null or w.seen_at < clock_timestamp() - %(longest)s)

-- name: settled no_open_chunks
select format('chunk %s of job %s is still %s (queue %s, attempt %s, fence %s)', c.chunk_id, c.job_id, c.state, c.queue, c.attempt, c.fence)
from sightline.chunk c where c.state in ('queued', 'running')

-- name: settled jobs_are_over
select format('job %s is still %s', p.job_id, p.state) from sightline.job_progress p where p.finished_at is null

-- name: census
-- Items of these jobs (null: of all): what went in, and what became of it. `duplicates` were ended more than once, `lost` never.
with counted as (
  select coalesce(sum(p.submitted), 0)::bigint as items_in, coalesce(sum(p.failed), 0)::bigint as failed,
         coalesce(sum(p.skipped), 0)::bigint as skipped, coalesce(sum(p.cancelled), 0)::bigint as cancelled,
         coalesce(sum(p.pending), 0)::bigint as pending
  from sightline.job_progress p where %(job_ids)s::bigint[] is null or p.job_id = any (%(job_ids)s)
), chunks as (
  select * from sightline.chunk c where %(job_ids)s::bigint[] is null or c.job_id = any (%(job_ids)s)
), held as (
  select distinct c.job_id, c.space_id, u.item_id from chunks c cross join lateral unnest(c.item_ids) u(item_id)
), sums as (
  select coalesce(sum(cardinality(c.item_ids) - c.n_moved), 0) as terminal_or_open,
         coalesce(sum(cardinality(c.item_ids)) filter (where c.state in ('queued', 'running')), 0) as open
  from chunks c
), vectors as (
  select h.job_id, h.space_id, h.item_id, e.n
  from held h cross join lateral (
    select count(*) as n from sightline.embedding e where e.space_id = h.space_id and e.item_id = h.item_id and e.slot = 0) e
)
select counted.items_in, counted.failed, counted.skipped, counted.cancelled, counted.pending,
       (select count(distinct (v.space_id, v.item_id)) from vectors v where v.n > 0) as stored,
       ((select coalesce(sum(greatest(v.n - 1, 0)), 0) from vectors v) + sums.terminal_or_open - (select count(*) from held))::bigint as duplicates,
       greatest(counted.pending - sums.open, 0)::bigint + (
         select count(*) from vectors v join sightline.item i on i.item_id = v.item_id
         where v.n = 0
           and not exists (select from sightline.failure f where f.item_id = v.item_id and f.job_id = v.job_id)
           and not exists (select from chunks c where c.job_id = v.job_id and v.item_id = any (c.item_ids)
                           and c.state in ('queued', 'running', 'cancelled'))
       ) as lost
from counted, sums

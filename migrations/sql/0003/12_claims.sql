-- Claims, what ends them, and what becomes of the work of a lost worker.

-- The pause before a next try: 1, 2, 4 ... seconds, at most a minute, with jitter.
create function sightline.back_off(attempt int) returns interval
language sql volatile set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select least(60, 2 ^ least(attempt, 10)) * (0.5 + random()) * interval '1 second'
$$;

-- Close those of these jobs whose chunks are all terminal; returns them. Called after the commit of chunks, and by the sweeper. Of a cancelled
-- job it also ends what is queued, late chunks of retries included. What somebody else has locked is left to the sweeper's next call:
-- waiting for it here, with jobs locked, could deadlock, and would wait for the user whose transaction feeds the job.
create function sightline.close_jobs(job_ids bigint[]) returns setof bigint
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
begin
  with dropped as (
    select c.chunk_id from sightline.chunk c
    where c.job_id in (select j.job_id from sightline.job j
                       where j.job_id = any (job_ids) and j.finished_at is null and j.cancel_requested_at is not null)
      and c.state = 'queued'
    order by c.chunk_id for update of c skip locked
  )
  update sightline.chunk c set state = 'cancelled', published_at = null, finished_at = clock_timestamp()
  from dropped d where c.chunk_id = d.chunk_id;

  return query
    with over as (
      select j.job_id from sightline.job j
      where j.job_id = any (job_ids) and j.finished_at is null and j.sealed_at is not null
        and not exists (select from sightline.chunk c where c.job_id = j.job_id and c.state in ('queued', 'running'))
      order by j.job_id for no key update skip locked
    )
    update sightline.job j set
      state = case when j.cancel_requested_at is not null
                     or exists (select from sightline.chunk c where c.job_id = j.job_id and c.state = 'cancelled')
                   then 'cancelled' else 'done' end,
      finished_at = clock_timestamp()
    from over where j.job_id = over.job_id
    returning j.job_id;
end $$;

-- The same for one job; returns whether this call closed it.
create or replace function sightline.close_job(job_id bigint) returns boolean
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select exists (select from sightline.close_jobs(array[close_job.job_id]))
$$;

-- Claim queued chunks for a worker. A duplicate message finds nothing; what is cancelled or paused is left where it is, and as unpublished, so
-- that it does not count as on its way. So is a second suspect: should the worker be lost, it is to be known of which one.
create or replace function sightline.claim(chunk_ids bigint[], worker_id uuid) returns setof sightline.chunk
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
begin
  if exists (select from sightline.chunk c where c.chunk_id = any (claim.chunk_ids) and c.suspect and c.state = 'queued') then
    perform pg_advisory_xact_lock(hashtextextended('sightline.suspect/' || claim.worker_id, 0));
  end if;
  return query
    with due as (
      select c.chunk_id, c.job_id, c.collection_id, c.queue, c.suspect from sightline.chunk c
      where c.chunk_id = any (claim.chunk_ids) and c.state = 'queued' and c.run_at <= clock_timestamp()
      order by c.chunk_id for update
    ), judged as (
      select d.chunk_id, d.job_id,
             exists (select from sightline.pause p where p.queue = d.queue or p.collection_id = d.collection_id)
             or exists (select from sightline.job j where j.job_id = d.job_id and j.cancel_requested_at is not null)
             or d.suspect and (row_number() over (partition by d.suspect order by d.chunk_id) > 1
               or exists (select from sightline.chunk h where h.state = 'running' and h.worker_id = claim.worker_id and h.suspect)) as held
      from due d
    ), unpublished as (
      update sightline.chunk c set published_at = null from judged where judged.held and c.chunk_id = judged.chunk_id
    ), started as (
      -- A locked job is being fed, cancelled or started by somebody else: it says `queued` a little longer.
      select j.job_id from sightline.job j
      where j.state = 'queued' and j.job_id in (select judged.job_id from judged where not judged.held)
      order by j.job_id for no key update skip locked
    ), said as (
      update sightline.job j set state = 'running' from started where j.job_id = started.job_id
    )
    update sightline.chunk c set state = 'running', worker_id = claim.worker_id, fence = c.fence + 1, claimed_at = clock_timestamp(),
                                 published_at = coalesce(c.published_at, clock_timestamp())
    from judged where not judged.held and c.chunk_id = judged.chunk_id
    returning c.*;
end $$;

-- Which of these claims still hold, by chunk and fence. Their rows stay locked until the end of the transaction, so that what is written in it
-- is written by the one holder.
create function sightline.hold_claims(worker_id uuid, chunk_ids bigint[], fences int[]) returns setof bigint
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with locked as (
    select c.chunk_id, c.state, c.worker_id, c.fence from sightline.chunk c where c.chunk_id = any (chunk_ids) order by c.chunk_id for update
  )
  select l.chunk_id from locked l join unnest(chunk_ids, fences) g(chunk_id, fence) on g.chunk_id = l.chunk_id and g.fence = l.fence
  where l.state = 'running' and l.worker_id = hold_claims.worker_id
$$;

-- Close claimed chunks with what became of their items. A chunk that ends before all its items have was cancelled. Late results, of a
-- claim that holds no more, are refused.
create function sightline.finish_chunks(
  worker_id uuid, chunk_ids bigint[], fences int[], n_done int[], n_failed int[], n_skipped int[], n_moved int[]
) returns void
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  closed int;
begin
  update sightline.chunk c set
    state = case when v.done + v.failed + v.skipped + v.moved = cardinality(c.item_ids) then 'done' else 'cancelled' end,
    worker_id = null, finished_at = clock_timestamp(), n_done = v.done, n_failed = v.failed, n_skipped = v.skipped, n_moved = v.moved
  from unnest(finish_chunks.chunk_ids, finish_chunks.fences, finish_chunks.n_done, finish_chunks.n_failed, finish_chunks.n_skipped,
              finish_chunks.n_moved) v(chunk_id, fence, done, failed, skipped, moved)
  where c.chunk_id = v.chunk_id and c.state = 'running' and c.worker_id = finish_chunks.worker_id and c.fence = v.fence;
  get diagnostics closed = row_count;
  if closed <> cardinality(chunk_ids) then
    raise exception 'of % chunks that worker % wants to close, it holds %', cardinality(chunk_ids), worker_id, closed
      using errcode = 'object_not_in_prerequisite_state';
  end if;
end $$;

-- Items of a claimed chunk that are to be tried again go on in a chunk of their own.
create function sightline.move_items(chunk_id bigint, item_ids bigint[]) returns bigint
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  insert into sightline.chunk (job_id, collection_id, item_ids, space_id, queue, lane, attempt, run_at)
  select c.job_id, c.collection_id, move_items.item_ids, c.space_id, c.queue, c.lane, c.attempt + 1, clock_timestamp() + sightline.back_off(c.attempt)
  from sightline.chunk c where c.chunk_id = move_items.chunk_id
  returning chunk_id
$$;

-- After an error that concerns a chunk as a whole: try it again later, or give its items up once its attempts are spent.
create or replace function sightline.fail_chunk(chunk_id bigint, fence int, error_class text, message text, max_attempts int) returns text
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target sightline.chunk;
  present bigint;
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
    update sightline.chunk c set state = 'queued', worker_id = null, published_at = null, attempt = c.attempt + 1,
      run_at = clock_timestamp() + sightline.back_off(c.attempt)
    where c.chunk_id = target.chunk_id;
    return 'retried';
  end if;
  insert into sightline.failure (job_id, chunk_id, item_id, generation, external_id, error_class, message, attempt)
  select target.job_id, target.chunk_id, i.item_id, i.generation, i.external_id, fail_chunk.error_class, fail_chunk.message, target.attempt + 1
  from sightline.item i where i.item_id = any (target.item_ids) order by i.item_id;
  get diagnostics present = row_count;
  update sightline.chunk c set state = 'done', worker_id = null, attempt = c.attempt + 1, finished_at = clock_timestamp(),
    n_failed = present, n_skipped = cardinality(c.item_ids) - present
  where c.chunk_id = target.chunk_id;
  return 'failed';
end $$;

-- What becomes of a chunk whose worker was lost. Nobody knows which item it was, if any, so none is charged: the items go on as suspects, in
-- pieces of 16, then singly, and a worker holds one suspect at a time. Whoever was beside a suspect goes back as it was, the first time. A
-- single item that was lost as a suspect, or alone, is charged, and the second time it is a failure.
create function sightline.lose_chunk(lost sightline.chunk, beside_suspect boolean, alone boolean, message text, max_attempts int) returns text
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  n int := cardinality(lost.item_ids);
  piece int := case when cardinality(lost.item_ids) > 16 then 16 else 1 end;
begin
  if exists (select from sightline.job j where j.job_id = lost.job_id and j.cancel_requested_at is not null) then
    update sightline.chunk c set state = 'cancelled', worker_id = null, finished_at = clock_timestamp() where c.chunk_id = lost.chunk_id;
    return 'cancelled';
  elsif n = 1 and (lost.suspect or alone) then
    if lost.losses >= 1 or lost.attempt + 1 >= max_attempts then
      return sightline.fail_chunk(lost.chunk_id, lost.fence, 'WorkerLost', message, 0);
    end if;
    update sightline.chunk c set state = 'queued', worker_id = null, published_at = null, suspect = true, losses = c.losses + 1,
      attempt = c.attempt + 1, run_at = clock_timestamp() + sightline.back_off(c.attempt)
    where c.chunk_id = lost.chunk_id;
    return 'charged';
  elsif not lost.suspect and beside_suspect and lost.losses = 0 then
    update sightline.chunk c set state = 'queued', worker_id = null, published_at = null, losses = 1 where c.chunk_id = lost.chunk_id;
    return 'returned';
  elsif n = 1 then
    update sightline.chunk c set state = 'queued', worker_id = null, published_at = null, suspect = true, losses = 0 where c.chunk_id = lost.chunk_id;
    return 'suspected';
  end if;
  insert into sightline.chunk (job_id, collection_id, item_ids, space_id, queue, lane, attempt, suspect)
  select lost.job_id, lost.collection_id, array_agg(u.item_id order by u.n), lost.space_id, lost.queue, lost.lane, lost.attempt, true
  from unnest(lost.item_ids) with ordinality u(item_id, n)
  group by (u.n - 1) / piece order by (u.n - 1) / piece;
  update sightline.chunk c set state = 'done', worker_id = null, finished_at = clock_timestamp(), n_moved = n where c.chunk_id = lost.chunk_id;
  return 'split';
end $$;

-- Take chunks from workers that were not seen for a lease; a worker that stopped in order and left some behind gives them back uncharged.
-- Jobs that nobody has fed for ten minutes are sealed; finished ones are closed. Returns how many chunks were taken.
create or replace function sightline.sweep(lease interval, max_attempts int) returns int
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  gone record;
  swept int := 0;
begin
  for gone in
    with locked as (
      select c, c.chunk_id, c.worker_id, c.suspect, w.name, w.seen_at, w.stopped_at from sightline.chunk c
      left join sightline.worker w on w.worker_id = c.worker_id
      where c.state = 'running' and (w.worker_id is null or w.stopped_at is not null or w.seen_at < clock_timestamp() - lease)
      order by c.chunk_id for update of c skip locked
    )
    select l.c as chunk, l.name, l.seen_at, l.stopped_at is not null as stopped,
           bool_or(l.suspect) over (partition by l.worker_id) as beside_suspect, count(*) over (partition by l.worker_id) = 1 as alone
    from locked l order by l.chunk_id
  loop
    if gone.stopped then
      perform sightline.release(array[(gone.chunk).chunk_id], (gone.chunk).worker_id);
    else
      perform sightline.lose_chunk(gone.chunk, gone.beside_suspect, gone.alone,
        format('worker %s was lost while it held the item%s', coalesce(gone.name, (gone.chunk).worker_id::text),
               coalesce(format('; it was seen last at %s', date_trunc('second', gone.seen_at)), '')), max_attempts);
    end if;
    swept := swept + 1;
  end loop;
  -- A submitter that died left its job open for ever, and everybody who waits for it.
  update sightline.job j set sealed_at = clock_timestamp(), error = 'the submitter went away'
  where j.finished_at is null and j.sealed_at is null and j.fed_at < clock_timestamp() - interval '10 minutes';
  perform sightline.close_jobs(array(select j.job_id from sightline.job j where j.finished_at is null and j.cancel_requested_at is not null));
  -- Jobs that were not closed after their last chunk, because whoever did that died, or found them locked: where very many are open it is
  -- a tenth of a second to look, so that is done every tenth second.
  if (select count(*) from (select from sightline.job j where j.finished_at is null limit 1001) o) <= 1000
     or extract(epoch from clock_timestamp())::bigint % 10 = 0 then
    perform sightline.close_jobs(array(
      select j.job_id from sightline.job j
      where j.finished_at is null and j.sealed_at is not null
        and not exists (select from sightline.chunk c where c.job_id = j.job_id and c.state in ('queued', 'running'))));
  end if;
  return swept;
end $$;

-- For who knows that a worker's process has ended without a word, such as its supervisor: its work need not wait for the lease to end. Returns
-- whether such a worker was counted as alive.
create function sightline.declare_lost(worker_name text) returns boolean
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
begin
  update sightline.worker w set seen_at = least(w.seen_at, clock_timestamp() - interval '1 hour'), queues = '{}', free_slots = 0
  where w.name = declare_lost.worker_name and w.stopped_at is null and w.seen_at > clock_timestamp() - interval '1 hour';
  return found;
end $$;

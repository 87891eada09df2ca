-- Finished jobs are forgotten after a while, and what was forgotten stays counted.

-- Jobs that were removed, by the day of their removal.
create table sightline.forgotten (
  forgotten_on date primary key default current_date,
  jobs         bigint not null,
  items        bigint not null,  -- that were submitted with them
  failures     bigint not null   -- retried or dismissed ones, whose rows went with them
);

create index job_finished on sightline.job (finished_at) where finished_at is not null;
-- A job and a chunk that go are looked for where they may be named.
create index failure_chunk on sightline.failure (chunk_id) where chunk_id is not null;
create index failure_retried_by on sightline.failure (retried_by) where retried_by is not null;
alter table sightline.job drop constraint job_retry_of_fkey,
  add constraint job_retry_of_fkey foreign key (retry_of) references sightline.job on delete set null;

-- Remove jobs that ended longer ago than `age`, at most `most` of them, the oldest first, with their chunks and settled failures. A job with
-- an open failure stays, and so does one that settled a failure of a job that stays. Vectors are no part of a job. Returns how many went.
create function sightline.forget_jobs(age interval, most int default 200) returns bigint
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  old bigint[];
  n_items bigint;
  n_failures bigint;
begin
  old := array(
    select j.job_id from sightline.job j
    where j.finished_at < clock_timestamp() - age
      and not exists (select from sightline.failure f where f.job_id = j.job_id and f.retried_by is null and f.dismissed_at is null)
      and not exists (select from sightline.failure f where f.retried_by = j.job_id)
    order by j.finished_at limit most for update skip locked);
  if cardinality(old) = 0 then
    return 0;
  end if;
  delete from sightline.failure f where f.job_id = any (old);
  get diagnostics n_failures = row_count;
  delete from sightline.chunk c where c.job_id = any (old);
  with gone as (
    delete from sightline.job j where j.job_id = any (old) returning j.n_submitted
  )
  select coalesce(sum(gone.n_submitted), 0) into n_items from gone;
  insert into sightline.forgotten as f (jobs, items, failures) values (cardinality(old), n_items, n_failures)
  on conflict (forgotten_on) do update set
    jobs = f.jobs + excluded.jobs, items = f.items + excluded.items, failures = f.failures + excluded.failures;
  return cardinality(old);
end $$;

-- Turns of collections that have not been served for a day say nothing any more.
create function sightline.forget_turns() returns void
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  delete from sightline.turn t where t.served_at < clock_timestamp() - interval '1 day'
$$;

-- Failures are retried and dismissed by a filter that must be given: a look-up that finds nothing, `dismiss(job_id => null)`, meant all of them.

drop function sightline.retry(bigint, text, text, bigint[]);
drop function sightline.dismiss(bigint, text, text, bigint[]);
drop function sightline.lock_open_failures(bigint, text, text, bigint[]);

-- The failures that nobody has retried or dismissed, by filter; a null filter admits all. They stay locked until the end of the
-- transaction: of two who settle the same ones, the second finds none.
create function sightline.lock_open_failures(
  job_id bigint, collection text, error_class text, failure_ids bigint[], everything boolean
) returns setof sightline.failure
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target int := sightline.collection_of(collection);
  given alias for job_id;
begin
  if everything is not true and num_nonnulls(job_id, collection, error_class, failure_ids) = 0 then
    raise exception 'say which failures: by job_id, collection, error_class or failure_ids; or everything => true'
      using errcode = 'invalid_parameter_value';
  elsif everything and num_nonnulls(job_id, collection, error_class, failure_ids) > 0 then
    raise exception 'everything => true goes with no filter' using errcode = 'invalid_parameter_value';
  elsif given is not null and not exists (select from sightline.job j where j.job_id = given) then
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
  job_id bigint default null, collection text default null, error_class text default null, failure_ids bigint[] default null,
  everything boolean default false
) returns table (retry_of bigint, new_job_id bigint, items bigint, left_open bigint)
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  part record;
  opened sightline.job;
begin
  for part in
    with chosen as materialized (
      select f.failure_id, f.job_id, f.item_id, j.kind, j.payload, j.space_id, i.item_id is not null as retryable
      from sightline.lock_open_failures(retry.job_id, retry.collection, retry.error_class, retry.failure_ids, retry.everything) f
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
  job_id bigint default null, collection text default null, error_class text default null, failure_ids bigint[] default null,
  everything boolean default false
) returns bigint
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with chosen as materialized (
    select f.failure_id from sightline.lock_open_failures(dismiss.job_id, dismiss.collection, dismiss.error_class, dismiss.failure_ids, dismiss.everything) f
  ), dismissed as (
    update sightline.failure f set dismissed_at = clock_timestamp() from chosen c where f.failure_id = c.failure_id returning 1
  )
  select count(*) from dismissed
$$;

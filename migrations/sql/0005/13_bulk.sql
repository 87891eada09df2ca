-- What a load through an index costs: measured where it was done, else as on two cores (docs/benchmarks.md).
alter table sightline.chunk add column flushed_from timestamptz;  -- when the transaction began that stored its results

create or replace function sightline.finish_chunks(
  worker_id uuid, chunk_ids bigint[], fences int[], n_done int[], n_failed int[], n_skipped int[], n_moved int[]
) returns void
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  closed int;
begin
  update sightline.chunk c set
    state = case when v.done + v.failed + v.skipped + v.moved = cardinality(c.item_ids) then 'done' else 'cancelled' end,
    worker_id = null, finished_at = clock_timestamp(), n_done = v.done, n_failed = v.failed, n_skipped = v.skipped, n_moved = v.moved,
    flushed_from = transaction_timestamp()
  from unnest(finish_chunks.chunk_ids, finish_chunks.fences, finish_chunks.n_done, finish_chunks.n_failed, finish_chunks.n_skipped,
              finish_chunks.n_moved) v(chunk_id, fence, done, failed, skipped, moved)
  where c.chunk_id = v.chunk_id and c.state = 'running' and c.worker_id = finish_chunks.worker_id and c.fence = v.fence;
  get diagnostics closed = row_count;
  if closed <> cardinality(chunk_ids) then
    raise exception 'of % chunks that worker % wants to close, it holds %', cardinality(chunk_ids), worker_id, closed
      using errcode = 'object_not_in_prerequisite_state';
  end if;
end $$;

-- Builds of indexes, by `sightline space index`.
create table sightline.index_build (
  space_id smallint not null references sightline.space on delete cascade,
  modality text not null check (modality in ('image', 'text')),
  vectors  bigint not null,
  seconds  real not null check (seconds > 0),
  built_at timestamptz not null default clock_timestamp(),
  primary key (space_id, modality, built_at)
);

-- A duration as people say it.
create function sightline.spoken(seconds float8) returns text
language sql immutable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select case when seconds < 100 then ceil(seconds) || ' s' when seconds < 7200 then round(seconds / 60) || ' min'
              else round((seconds / 3600)::numeric, 1) || ' h' end
$$;

-- Storing so many vectors in a space: through its indexes, or dropping and building them. `measured` is how many stored vectors the rate comes
-- from; 0 means that nothing was stored since the index was built, and the rate is the usual one of its dimension.
create function sightline.bulk_advice(
  space text, vectors bigint, modality text default null, out indexes text[], out rows_per_second float8, out measured bigint,
  out insert_seconds float8, out build_seconds float8, out drop_first boolean, out advice text
)
language plpgsql stable security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target sightline.space := sightline.resolve_space(space);
  stored float8;   -- vectors in the indexes, as the planner knows
  built timestamptz;
  busy float8;
  building float8;  -- vectors a second
begin
  if vectors is null or vectors < 0 then
    raise exception 'vectors must be a number of 0 or more, not %', coalesce(vectors::text, 'null') using errcode = 'invalid_parameter_value';
  elsif modality <> all (target.modalities) then
    raise exception 'space "%" has no modality "%"; it has: %', target.name, modality, array_to_string(target.modalities, ', ')
      using errcode = 'invalid_parameter_value';
  end if;
  select coalesce(array_agg(c.relname::text order by c.relname), '{}'), coalesce(sum(greatest(c.reltuples, 0)), 0) into indexes, stored
  from unnest(target.modalities) m join pg_class c on c.relname = format('%s_%s_hnsw', target.name, m)
  where c.relnamespace = 'sightline'::regnamespace and (bulk_advice.modality is null or m = bulk_advice.modality);
  if indexes = '{}' then
    advice := format('space %s has no index that a load would go through: load, then build it: sightline space index %1$s', target.name);
    return;
  end if;

  select max(b.built_at), sum(b.vectors) filter (where b.vectors >= 1000) / sum(b.seconds) filter (where b.vectors >= 1000)
  into built, building from sightline.index_build b
  where b.space_id = target.space_id and (bulk_advice.modality is null or b.modality = bulk_advice.modality);
  with recent as (
    select c.n_done, tstzrange(c.flushed_from, c.finished_at) as ran from sightline.chunk c
    where c.chunk_id > (select max(l.chunk_id) from sightline.chunk l) - 100000 and c.space_id = target.space_id and c.state = 'done'
      and c.n_done > 0 and c.flushed_from > built and c.finished_at > c.flushed_from
    order by c.chunk_id desc limit 500
  )
  select (select sum(r.n_done) from recent r), sum(extract(epoch from upper(u.ran) - lower(u.ran))) into measured, busy
  from (select unnest(range_agg(r.ran)) as ran from recent r) u;
  if measured >= 256 then
    rows_per_second := measured / busy;
  else
    measured := 0;
    rows_per_second := 1000 / (1 + target.dim / 300.0);
  end if;
  -- An unmeasured build runs on two cores.
  building := coalesce(building, 2000 / (0.2 + target.dim / 1100.0));
  insert_seconds := vectors / rows_per_second;
  build_seconds := (stored + vectors) / building;
  drop_first := insert_seconds > 60 and build_seconds < insert_seconds;
  advice := format('inserting %s vectors through %s takes about %s (%s a second, %s)', to_char(vectors, 'FM999,999,999,999'),
                   array_to_string(indexes, ' and '), sightline.spoken(insert_seconds), round(rows_per_second),
                   case when measured > 0 then 'as the last ' || measured || ' did' else 'usual for ' || target.dim || ' dimensions' end)
    || case when drop_first then format('; dropping the index before and building it again after takes %s of building: '
         'sightline space index %s --drop, load, sightline space index %2$s', sightline.spoken(build_seconds), target.name)
       else format('; a build would take %s: leave it', sightline.spoken(build_seconds)) end;
end $$;

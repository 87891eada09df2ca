-- Spaces: how wide their index is read, what their vectors must look like, what a load through their index costs.

-- The search behind nearest() and similar_to(); `exclude` is an item that must not be found. `per_group` answers with the nearest item of
-- each group; an item without group_key is a group of its own. hnsw.ef_search is 100, more for many rows, and what the caller, its role or its
-- database set where that is higher.
create or replace function sightline.search_space(
  target sightline.space, query {vector}.halfvec, k int, collection text, "where" jsonb, modality text, exclude bigint, per_group boolean
) returns table (item_id bigint, external_id text, distance real, score real, status text, group_key text)
language plpgsql rows 10  -- ten as a rule: see 0004/42_search.sql
set search_path = pg_catalog, sightline, {vector}, pg_temp
set hnsw.iterative_scan = strict_order
set hnsw.max_scan_tuples = 20000
set hnsw.scan_mem_multiplier = 4
as $$
declare
  exact_max_rows constant int := 50000;
  read_rows text;   -- the statement that reads rows in order
  wanted int;       -- how many it is to read
  rows_read int;    -- how many it found
  found_rows jsonb;
  n int;
  source text;      -- view and conditions
  reachable int;
  collection_id int;
  callers_ef text;
begin
  if modality <> all (target.modalities) or modality is null then
    raise exception 'space "%" has no modality "%"; it has: %', target.name, modality, array_to_string(target.modalities, ', ')
      using errcode = 'invalid_parameter_value';
  elsif query is null then
    raise exception 'the query vector is null' using errcode = 'null_value_not_allowed';
  elsif vector_dims(query) <> target.dim then
    raise exception 'space "%" has % dimensions, the query vector has %', target.name, target.dim, vector_dims(query)
      using errcode = 'data_exception', hint = 'Vectors of two models are never compared: encode the query with the model of this space.';
  elsif l2_norm(query) = 0 then
    raise exception 'the query vector is zero: it has no direction' using errcode = 'data_exception';
  elsif k is null or k not between 1 and 10000 then
    raise exception 'k must lie between 1 and 10000, not %', k using errcode = 'invalid_parameter_value';
  elsif per_group is null then
    raise exception 'per_group must be true or false, not null' using errcode = 'null_value_not_allowed';
  end if;
  source := format('from sightline.%I where %s', target.name || '_' || modality, sightline.where_sql("where"));
  if collection is not null then
    select c.collection_id into collection_id from sightline.collection c where c.name = collection;
    if collection_id is null then
      raise exception 'no collection named "%"', collection using errcode = 'undefined_object';
    end if;
    source := source || format(' and collection_id = %s', collection_id);
  end if;
  if exclude is not null then
    source := source || format(' and item_id <> %s', exclude);
  end if;

  -- %1$L the query, %2$s its dimension, %3$s the source, %4$s what keeps the planner off the graph, %5$s rows to read, %6$s k.
  if per_group then
    -- Of equal distances the smaller item_id comes first, so that the rows read are a prefix of one order and the answer has no chance in it.
    read_rows :=
      'with h as (select item_id, collection_id, group_key, case when group_key is null then item_id end as alone, '
      'embedding <=> %1$L::{vector}.halfvec(%2$s) as distance %3$s '
      'order by (embedding <=> %1$L::{vector}.halfvec(%2$s))%4$s, item_id limit %5$s), '
      'g as (select distinct on (collection_id, group_key, alone) item_id, distance from h order by collection_id, group_key, alone, distance, item_id), '
      'f as (select item_id, distance from g order by distance, item_id limit %6$s) '
      'select coalesce(jsonb_agg(jsonb_build_array(f.item_id, f.distance) order by f.distance, f.item_id), ''[]''), count(*), (select count(*) from h) from f';
    wanted := greatest(50, 2 * k);
  else
    read_rows :=
      'select coalesce(jsonb_agg(jsonb_build_array(h.item_id, h.distance) order by h.distance, h.item_id), ''[]''), count(*), count(*) '
      'from (select item_id, embedding <=> %1$L::{vector}.halfvec(%2$s) as distance %3$s '
      'order by (embedding <=> %1$L::{vector}.halfvec(%2$s))%4$s limit %5$s) h';
    wanted := k;
  end if;

  -- Read here, where a vector was looked at: before pgvector is loaded, a setting is any text.
  callers_ef := current_setting('hnsw.ef_search');
  -- Large groups may fill what was read: read four times as much, until there are k groups or nothing is left.
  loop
    -- A graph search holds at most ef_search candidates in its first pass.
    perform set_config('hnsw.ef_search', greatest(100, least(1000, 2 * wanted), callers_ef::int)::text, true);
    execute format(read_rows, query, target.dim, source, '', wanted, k) into found_rows, n, rows_read;
    exit when not per_group or n >= k or rows_read < wanted or wanted >= exact_max_rows;
    wanted := least(4 * wanted, exact_max_rows);
  end loop;
  perform set_config('hnsw.ef_search', callers_ef, true);  -- a SET of the function's own would hide what the caller has set

  -- The graph gives up after max_scan_tuples: with a filter far from the query that is short of k, although more rows exist. Count what
  -- the filter reaches (bounded) and sort it exactly; "+ 0" keeps the planner off the graph.
  status := 'complete';
  if n < k then
    execute format('select count(*) from (select 1 %s limit %s) r', source, exact_max_rows + 1) into reachable;
    if reachable > exact_max_rows then
      status := 'scan_limit';
    else
      if reachable > rows_read then
        execute format(read_rows, query, target.dim, source, ' + 0', case when per_group then exact_max_rows else k end, k)
          into found_rows, n, rows_read;
      end if;
      status := case when n < k then 'fewer_exist' else 'complete' end;
    end if;
  end if;
  if n = 0 then
    raise notice 'space "%" has no % vector%', target.name, modality,
      case when collection is null and "where" is null then '' else ' that passes the filter' end;
  end if;
  return query
    select i.item_id, i.external_id, (h->>1)::real, (1 - (h->>1)::float8)::real, search_space.status, i.group_key
    from jsonb_array_elements(found_rows) with ordinality r(h, ordinal)
    join sightline.item i on i.item_id = (h->>0)::bigint
    order by ordinal;
end $$;

-- What fixed inputs look like in a space: stored by the first worker that serves it, and what all later ones must agree with. Where it was
-- the first that computed wrongly, the owner deletes its rows.
create table sightline.golden (
  space_id  smallint not null references sightline.space on delete cascade,
  modality  text not null check (modality in ('image', 'text')),
  inputs    bytea not null check (length(inputs) = 32),           -- sha256 of the inputs: another version of sightline may have others
  vectors   real[] not null check (array_ndims(vectors) = 2),     -- of length 1, one for each input
  dtype     text not null,                                        -- number format of the model that computed them
  maker     jsonb not null check (jsonb_typeof(maker) = 'object'),  -- host, device and libraries of the worker
  stored_at timestamptz not null default clock_timestamp(),
  primary key (space_id, modality, inputs)
);

-- Store golden vectors unless there are some already, and return those that are there. A worker can neither change nor delete them.
create function sightline.keep_golden(space_id smallint, modality text, inputs bytea, vectors real[], dtype text, maker jsonb)
returns sightline.golden
language plpgsql security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  kept sightline.golden;
begin
  insert into sightline.golden (space_id, modality, inputs, vectors, dtype, maker)
  values (keep_golden.space_id, keep_golden.modality, keep_golden.inputs, keep_golden.vectors, keep_golden.dtype, keep_golden.maker)
  on conflict do nothing;
  select g.* into kept from sightline.golden g
  where g.space_id = keep_golden.space_id and g.modality = keep_golden.modality and g.inputs = keep_golden.inputs;
  return kept;
end $$;

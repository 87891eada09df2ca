-- Search by groups (one hit for each group_key of a collection), and near-duplicates.

drop function sightline.nearest(text, {vector}.halfvec, int, text, jsonb, text);
drop function sightline.similar_to(text, bigint, int, text, jsonb, text);
drop function sightline.search_space(sightline.space, {vector}.halfvec, int, text, jsonb, text, bigint);

-- The search behind nearest() and similar_to(); `exclude` is an item that must not be found. `per_group` answers with the nearest item of
-- each group; an item without group_key is a group of its own.
create function sightline.search_space(
  target sightline.space, query {vector}.halfvec, k int, collection text, "where" jsonb, modality text, exclude bigint, per_group boolean
) returns table (item_id bigint, external_id text, distance real, score real, status text, group_key text)
language plpgsql
set search_path = pg_catalog, sightline, {vector}, pg_temp
set hnsw.iterative_scan = strict_order
set hnsw.max_scan_tuples = 20000
set hnsw.scan_mem_multiplier = 4
set hnsw.ef_search = 100
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

  -- Large groups may fill what was read: read four times as much, until there are k groups or nothing is left.
  loop
    -- A graph search holds at most ef_search candidates in its first pass.
    perform set_config('hnsw.ef_search', greatest(100, least(1000, 2 * wanted))::text, true);
    execute format(read_rows, query, target.dim, source, '', wanted, k) into found_rows, n, rows_read;
    exit when not per_group or n >= k or rows_read < wanted or wanted >= exact_max_rows;
    wanted := least(4 * wanted, exact_max_rows);
  end loop;

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

-- The k stored items nearest to a vector. `status` says whether the answer is whole: `complete`, `fewer_exist` (there are not k such
-- items) or `scan_limit` (more may exist, the filter was too wide for an exact search). With `per_group`, k counts groups.
create function sightline.nearest(
  space text, query {vector}.halfvec, k int default 10, collection text default null, "where" jsonb default null,
  modality text default 'image', per_group boolean default false
) returns table (item_id bigint, external_id text, distance real, score real, status text, group_key text)
language sql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select * from sightline.search_space(sightline.resolve_space(space), query, k, collection, "where", modality, null, per_group)
$$;

-- The k stored items nearest to a stored item, without it. With `per_group` one of each group; the others of its own group are one, too.
create function sightline.similar_to(
  space text, item bigint, k int default 10, collection text default null, "where" jsonb default null,
  modality text default 'image', per_group boolean default false
) returns table (item_id bigint, external_id text, distance real, score real, status text, group_key text)
language plpgsql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target sightline.space := sightline.resolve_space(space);
  stored {vector}.halfvec;
begin
  select e.vec into stored from sightline.embedding e
  where e.space_id = target.space_id and e.item_id = similar_to.item and e.slot = 0;
  if stored is null then
    raise exception 'item % has no vector in space "%"', similar_to.item, target.name using errcode = 'no_data_found',
      hint = format('select * from sightline.missing(%L) where item_id = %s;', target.name, similar_to.item);
  end if;
  return query select * from sightline.search_space(target, stored, k, collection, "where", modality, similar_to.item, per_group);
end $$;

-- Pairs of items whose vectors lie within max_distance of each other: the graph is read in order from each item until it has left that
-- distance. Vectors of older content are no evidence. A pair may come twice, once from each side. The graph is approximate: a pair is missed
-- where neither side finds the other, one in a thousand at most in benchmarks/near_duplicates.py.
create function sightline.near_vector_pairs(
  target sightline.space, max_distance float8, collection_id int, modality text, neighbours int
) returns table (item_id bigint, duplicate_item_id bigint, distance float8)
language plpgsql stable
set search_path = pg_catalog, sightline, {vector}, pg_temp
set cursor_tuple_fraction = 0  -- a plan for the first rows: most items have no duplicate
set hnsw.iterative_scan = strict_order
set hnsw.max_scan_tuples = 20000
set hnsw.scan_mem_multiplier = 4
set hnsw.ef_search = 40  -- more would make a read of the whole table look cheaper
as $$
declare
  source text := format('from sightline.%I', target.name || '_' || modality);
  item record;
  other record;
  near refcursor;
  found_pairs int;
begin
  for item in execute format('select item_id, collection_id, embedding %s where not stale and ($1 is null or collection_id = $1)', source)
    using near_vector_pairs.collection_id
  loop
    found_pairs := 0;
    open near for execute
      format('select item_id, collection_id, stale, embedding <=> $1 as distance %s order by embedding <=> $1', source) using item.embedding;
    loop
      fetch near into other;
      exit when not found or other.distance > max_distance or found_pairs = neighbours;
      continue when other.item_id = item.item_id or other.collection_id <> item.collection_id or other.stale;
      found_pairs := found_pairs + 1;
      near_vector_pairs.item_id := least(item.item_id, other.item_id);
      duplicate_item_id := greatest(item.item_id, other.item_id);
      near_vector_pairs.distance := greatest(other.distance, 0);  -- rounding may bring it below
      return next;
    end loop;
    close near;
  end loop;
end $$;

-- Pairs of items of one collection that show the same, each pair once (item_id < duplicate_item_id): equal content at distance 0, with or
-- without vectors, and vectors within max_distance. docs/query-in-sql.md says where the default comes from. An item is paired with at most
-- its 100 nearest: in a larger cluster every item is listed, but not every pair.
create function sightline.near_duplicate_pairs(
  space text, max_distance float8 default 0.02, collection text default null, modality text default 'image'
) returns table (
  item_id bigint, external_id text, duplicate_item_id bigint, duplicate_external_id text, distance real, collection_id int
)
language plpgsql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  neighbours constant int := 100;
  target sightline.space := sightline.resolve_space(space);
  target_collection int;
begin
  if modality <> all (target.modalities) or modality is null then
    raise exception 'space "%" has no modality "%"; it has: %', target.name, modality, array_to_string(target.modalities, ', ')
      using errcode = 'invalid_parameter_value';
  elsif max_distance is null or not max_distance between 0 and 2 then
    raise exception 'max_distance must lie between 0 and 2, not %', max_distance using errcode = 'invalid_parameter_value';
  elsif near_duplicate_pairs.collection is not null then
    select c.collection_id into target_collection from sightline.collection c where c.name = near_duplicate_pairs.collection;
    if target_collection is null then
      raise exception 'no collection named "%"', near_duplicate_pairs.collection using errcode = 'undefined_object';
    end if;
  end if;
  return query
    with same_content as (
      -- A window, for a join would make a trillion pairs of a million blank pages before it cut them.
      select i.item_id as duplicate_item_id,
             array_agg(i.item_id) over (partition by i.collection_id, i.digest order by i.item_id
                                        rows between neighbours preceding and 1 preceding) as item_ids
      from sightline.item i
      where i.modality = near_duplicate_pairs.modality and i.digest is not null
        and (target_collection is null or i.collection_id = target_collection)
    ), pairs as (
      select u.item_id, s.duplicate_item_id, 0::float8 as distance from same_content s cross join lateral unnest(s.item_ids) u(item_id)
      union all
      select * from sightline.near_vector_pairs(target, max_distance, target_collection, modality, neighbours)
    ), once as (
      select p.item_id, p.duplicate_item_id, min(p.distance) as distance from pairs p group by p.item_id, p.duplicate_item_id
    )
    select a.item_id, a.external_id, b.item_id, b.external_id, o.distance::real, a.collection_id
    from once o
    join sightline.item a on a.item_id = o.item_id
    join sightline.item b on b.item_id = o.duplicate_item_id
    order by o.distance, o.item_id, o.duplicate_item_id;
end $$;

-- Near-duplicates of every space. A condition on space, collection or modality spares the work on the others.
create view sightline.near_duplicates with (security_invoker = true) as
select s.name as space, c.name as collection, m.modality, p.item_id, p.external_id, p.duplicate_item_id, p.duplicate_external_id, p.distance
from sightline.space s
cross join lateral unnest(s.modalities) m(modality)
cross join sightline.collection c
cross join lateral sightline.near_duplicate_pairs(s.name, collection => c.name, modality => m.modality) p;

-- Search: nearest() and similar_to(). They EXECUTE on the space's typed view with every constant inlined, so that the planner sees
-- the dimension, the partial index and the LIMIT. The SET clauses last for the call only.

-- A filter on item metadata as an SQL condition on a typed view. {"year": 2024, "tag": {"$in": ["a", "b"]}, "size": {"$gte": 3, "$lt": 9},
-- "note": {"$exists": false}}; a bare value means equality.
create function sightline.where_sql("where" jsonb) returns text
language plpgsql immutable set search_path = pg_catalog, sightline, pg_temp as $$
declare
  field record;
  op record;
  conditions text[] := '{}';
  sign text;
begin
  if "where" is null then
    return 'true';
  elsif jsonb_typeof("where") <> 'object' then
    raise exception 'where must be a JSON object, not %', "where" using errcode = 'invalid_parameter_value';
  end if;
  for field in select key, value from jsonb_each("where") loop
    if field.key like '$%' then
      raise exception 'where: "%" is not a field of metadata; conditions on several fields are joined by AND', field.key
        using errcode = 'invalid_parameter_value';
    elsif jsonb_typeof(field.value) <> 'object' then
      -- @> finds the GIN index, = refuses what only contains the value.
      conditions := conditions || format('metadata @> %L::jsonb and metadata->%L = %L::jsonb',
                                         jsonb_build_object(field.key, field.value), field.key, field.value);
      continue;
    elsif field.value = '{}' then
      raise exception 'where: field "%" has no operator', field.key using errcode = 'invalid_parameter_value';
    end if;
    for op in select key, value from jsonb_each(field.value) loop
      sign := case op.key when '$lt' then '<' when '$lte' then '<=' when '$gt' then '>' when '$gte' then '>=' end;
      if op.key = '$in' and jsonb_typeof(op.value) = 'array' then
        conditions := conditions || format('metadata->%L in (select jsonb_array_elements(%L::jsonb))', field.key, op.value);
      elsif op.key = '$exists' and jsonb_typeof(op.value) = 'boolean' then
        conditions := conditions || format('(metadata ? %L) = %L::boolean', field.key, op.value #>> '{}');
      elsif sign is not null and jsonb_typeof(op.value) = 'number' then
        conditions := conditions || format('case when jsonb_typeof(metadata->%1$L) = ''number'' then (metadata->>%1$L)::numeric %2$s %3$L::numeric else false end',
                                           field.key, sign, op.value #>> '{}');
      elsif sign is not null and jsonb_typeof(op.value) = 'string' then
        conditions := conditions || format('case when jsonb_typeof(metadata->%1$L) = ''string'' then (metadata->>%1$L) collate "C" %2$s %3$L collate "C" else false end',
                                           field.key, sign, op.value #>> '{}');
      else
        raise exception 'where: "%": {"%": %} is not a filter', field.key, op.key, op.value
          using errcode = 'invalid_parameter_value',
                hint = 'Operators: $in with an array, $lt $lte $gt $gte with a number or string, $exists with true or false.';
      end if;
    end loop;
  end loop;
  return coalesce(nullif(array_to_string(conditions, ' and '), ''), 'true');
end $$;

-- The search behind nearest() and similar_to(); `exclude` is an item that must not be found.
create function sightline.search_space(
  target sightline.space, query {vector}.halfvec, k int, collection text, "where" jsonb, modality text, exclude bigint
) returns table (item_id bigint, external_id text, distance real, score real, status text)
language plpgsql
set search_path = pg_catalog, sightline, {vector}, pg_temp
set hnsw.iterative_scan = strict_order
set hnsw.max_scan_tuples = 20000
set hnsw.scan_mem_multiplier = 4
set hnsw.ef_search = 100
as $$
declare
  exact_max_rows constant int := 50000;
  source text;      -- view and conditions
  found_rows jsonb;
  n int;
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

  -- A graph search holds at most ef_search candidates in its first pass.
  perform set_config('hnsw.ef_search', greatest(100, least(1000, 2 * k))::text, true);
  execute format(
    'select coalesce(jsonb_agg(jsonb_build_array(h.item_id, h.distance) order by h.distance, h.item_id), ''[]''), count(*) '
    'from (select item_id, embedding <=> %1$L::{vector}.halfvec(%2$s) as distance %3$s '
    'order by embedding <=> %1$L::{vector}.halfvec(%2$s) limit %4$s) h',
    query, target.dim, source, k) into found_rows, n;

  -- The graph gives up after max_scan_tuples: with a filter far from the query that is short of k, although more rows exist. Count what
  -- the filter reaches (bounded) and sort it exactly; "+ 0" keeps the planner off the graph.
  status := 'complete';
  if n < k then
    execute format('select count(*) from (select 1 %s limit %s) r', source, exact_max_rows + 1) into reachable;
    if reachable > exact_max_rows then
      status := 'scan_limit';
    else
      if reachable > n then
        execute format(
          'select coalesce(jsonb_agg(jsonb_build_array(h.item_id, h.distance) order by h.distance, h.item_id), ''[]''), count(*) '
          'from (select item_id, embedding <=> %1$L::{vector}.halfvec(%2$s) as distance %3$s '
          'order by (embedding <=> %1$L::{vector}.halfvec(%2$s)) + 0 limit %4$s) h',
          query, target.dim, source, k) into found_rows, n;
      end if;
      status := case when n < k then 'fewer_exist' else 'complete' end;
    end if;
  end if;
  if n = 0 then
    raise notice 'space "%" has no % vector%', target.name, modality,
      case when collection is null and "where" is null then '' else ' that passes the filter' end;
  end if;
  return query
    select i.item_id, i.external_id, (h->>1)::real, (1 - (h->>1)::float8)::real, search_space.status
    from jsonb_array_elements(found_rows) with ordinality r(h, ordinal)
    join sightline.item i on i.item_id = (h->>0)::bigint
    order by ordinal;
end $$;

-- The k stored items nearest to a vector. `status` says whether the answer is whole: `complete`, `fewer_exist` (there are not k such
-- items) or `scan_limit` (more may exist, the filter was too wide for an exact search).
create function sightline.nearest(
  space text, query {vector}.halfvec, k int default 10, collection text default null, "where" jsonb default null,
  modality text default 'image'
) returns table (item_id bigint, external_id text, distance real, score real, status text)
language sql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select * from sightline.search_space(sightline.resolve_space(space), query, k, collection, "where", modality, null)
$$;

-- The k stored items nearest to a stored item, without it.
create function sightline.similar_to(
  space text, item bigint, k int default 10, collection text default null, "where" jsonb default null,
  modality text default 'image'
) returns table (item_id bigint, external_id text, distance real, score real, status text)
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
  return query select * from sightline.search_space(target, stored, k, collection, "where", modality, similar_to.item);
end $$;

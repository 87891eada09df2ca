-- Search in a space: filters as one condition, and how wide its index is read.

-- A filter on item metadata as an SQL condition on a typed view. {"year": 2024, "tag": {"$in": ["a", "b"]}, "size": {"$gte": 3, "$lt": 9},
-- "note": {"$exists": false}}; a bare value means equality. That was two conditions, which the planner took for independent: it
-- expected 278 of a million rows where 50,000 pass, read and sorted all of those, and left the graph alone.
create or replace function sightline.where_sql("where" jsonb) returns text
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
      -- @> finds the GIN index. A scalar is contained in its equal alone; of an array, = refuses what only contains it.
      conditions := conditions || format('metadata @> %L::jsonb', jsonb_build_object(field.key, field.value));
      if jsonb_typeof(field.value) = 'array' then
        conditions := conditions || format('metadata->%L = %L::jsonb', field.key, field.value);
      end if;
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
  plan json;
  indexed float8;         -- vectors in the index
  passing float8;         -- of them those that pass the filter, as the planner expects
  width float8 := 100;    -- ef_search that the first pass needs to hold k that pass, twice over
  off_graph text := '';   -- what keeps the planner off the graph: "+ 0"
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
  source := format('from sightline.%I v where %s', target.name || '_' || modality, sightline.where_sql("where"));
  if modality = 'text' and exists (select from sightline.item i where i.parent_id is not null) then
    -- Captions of images are found by hybrid_search. A scalar subquery, for as a join the planner would leave the graph.
    source := source || ' and (select p.parent_id from sightline.item p where p.item_id = v.item_id) is null';
  end if;
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

  -- A graph that is read on and on loses some of the nearest between two passes, so that the first one should suffice. Where it cannot, and few
  -- pass, they are sorted.
  if collection is not null or "where" is not null then
    select c.reltuples into indexed from pg_class c
    where c.relname = target.name || '_' || modality || '_hnsw' and c.relnamespace = 'sightline'::regnamespace and c.reltuples > 0;
    execute 'explain (format json) select 1 ' || source into plan;
    passing := greatest(1, (plan->0->'Plan'->>'Plan Rows')::float8);
    width := 2 * k / least(1, passing / indexed);
    if width > 1000 and passing <= 20000 then
      off_graph := ' + 0';
    end if;
  end if;
  -- Read here, where a vector was looked at: before pgvector is loaded, a setting is any text.
  callers_ef := current_setting('hnsw.ef_search');
  -- Large groups may fill what was read: read four times as much, until there are k groups or nothing is left.
  loop
    -- A graph search holds at most ef_search candidates in its first pass.
    perform set_config('hnsw.ef_search', least(1000, greatest(100, 2 * wanted, least(width, 1000)::int, callers_ef::int))::text, true);
    execute format(read_rows, query, target.dim, source, off_graph, wanted, k) into found_rows, n, rows_read;
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

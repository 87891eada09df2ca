-- Spaces: how wide their index is read, what their vectors must look like, what a load through their index costs.

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
    select nullif(c.reltuples, 0) into indexed from pg_class c
    where c.relname = target.name || '_' || modality || '_hnsw' and c.relnamespace = 'sightline'::regnamespace and c.reltuples > 0;
    execute 'explain (format json) select 1 ' || source into plan;
    passing := greatest(1, (plan->0->'Plan'->>'Plan Rows')::float8);
    width := coalesce(2 * k / least(1, passing / indexed), width);
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

-- Which of these items a job has something to do for: to encode, those without a vector of their present content; to caption, each image, for
-- what is stored of a recipe may have been made from other captions and neighbours; to rerank, all of them, for the query is the job's own.
create function sightline.without_result(target sightline.job, item_ids bigint[]) returns bigint[]
language plpgsql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  bad text;
begin
  if target.kind = 'encode' then
    return sightline.without_vector(target.space_id, item_ids);
  elsif target.kind = 'caption' then
    select i.external_id into bad from sightline.item i where i.item_id = any (item_ids) and i.modality <> 'image' order by i.item_id limit 1;
    if found then
      raise exception 'item % is a text: captions are written for images', left(bad, 200) using errcode = 'invalid_parameter_value';
    end if;
  end if;
  return array(select distinct u.id from unnest(item_ids) u(id) order by 1);
end $$;

-- Add items to an open job. An element of `items` is the id of a stored item, or an object with one source (`text`, `uri` or
-- `digest` of an uploaded blob, in hex) and optionally `external_id`, `metadata`, `group_key`, `source_tag` (mtime and size, or etag),
-- `sha256` (of the content of a uri, where the submitter read it) and `root`. An object with `error` (`{"class": ..., "message": ...}`)
-- reports an item that the submitter could not read: it becomes a failure.
-- A stored item of which nothing changed is not written. Items whose present content has a vector are counted as unchanged.
create or replace function sightline.add_items(job_id bigint, items jsonb) returns void
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target sightline.job;
  modalities text[];
  bad record;
  v_rejected int;
  v_duplicate int;
  fresh bigint[];   -- ids of items that were not there
  others bigint[];  -- and of those that were
  contended boolean := false;
  work bigint[];
begin
  select j.* into target from sightline.job j where j.job_id = add_items.job_id for update;
  if target.job_id is null then
    raise exception 'there is no job %', job_id using errcode = 'no_data_found';
  elsif target.sealed_at is not null and target.error is distinct from 'the submitter went away' then
    raise exception 'job % is sealed: it takes no more items', job_id using errcode = 'object_not_in_prerequisite_state';
  elsif jsonb_typeof(items) is distinct from 'array' then
    raise exception 'items must be a JSON array' using errcode = 'invalid_parameter_value';
  end if;
  select s.modalities into modalities from sightline.space s where s.space_id = target.space_id;

  -- Every item is checked before any is written; the error names the first bad one.
  select e.item, e.n - 1 as n, p.problem into bad
  from jsonb_array_elements(items) with ordinality e(item, n),
       lateral (select sightline.item_problem(e.item, modalities, target.collection_id is not null) offset 0) p(problem)
  where not case when target.collection_id is not null and sightline.is_plain_item(e.item, modalities)
                 then not e.item ? 'digest' or exists (select from sightline.blob b where b.digest = decode(e.item->>'digest', 'hex'))
                 else false end
    and p.problem is not null
  order by e.n limit 1;
  if found then
    raise exception 'item % (%): %', bad.n, left(bad.item::text, 200), bad.problem using errcode = 'invalid_parameter_value';
  end if;

  insert into sightline.failure (job_id, external_id, error_class, message)
  select target.job_id, e->>'external_id', coalesce(e->'error'->>'class', 'Unreadable'), coalesce(e->'error'->>'message', e->>'error')
  from jsonb_array_elements(items) e where e ? 'error';
  get diagnostics v_rejected = row_count;

  -- What is new is inserted without ON CONFLICT, which costs a quarter more a row. Another submitter may have stored some of it since it was
  -- looked up: then all of it is done again with.
  loop
    begin
      with given as materialized (
        select * from sightline.compare_items(target.collection_id, items)
      ), added as (
        insert into sightline.item as i (collection_id, external_id, modality, uri, text, blob_digest, digest, source_tag, root, group_key, metadata)
        select target.collection_id, g.external_id, g.modality, g.uri, g.text, g.blob_digest, g.digest, g.source_tag, g.root, g.group_key,
               coalesce(g.metadata, '{}')
        from given g where g.item_id is null and not contended order by g.external_id
        returning i.item_id, i.modality
      ), stored as (
        insert into sightline.item as i (collection_id, external_id, modality, uri, text, blob_digest, digest, source_tag, root, group_key, metadata)
        select target.collection_id, g.external_id, g.modality, g.uri, g.text, g.blob_digest, g.digest, g.source_tag, g.root, g.group_key,
               coalesce(g.metadata, '{}')
        from given g where g.row_differs and (g.item_id is not null or contended) order by g.external_id
        on conflict (collection_id, external_id) do update set
          modality = excluded.modality, uri = excluded.uri, text = excluded.text, blob_digest = excluded.blob_digest,
          source_tag = excluded.source_tag, root = excluded.root, group_key = coalesce(excluded.group_key, i.group_key),
          metadata = i.metadata || excluded.metadata, updated_at = now(),
          -- Not as compared above: the row may have changed since.
          generation = i.generation + sightline.content_differs(
            i.modality, i.uri, i.source_tag, i.text, i.blob_digest, i.digest,
            excluded.modality, excluded.uri, excluded.source_tag, excluded.text, excluded.blob_digest, excluded.digest)::int,
          digest = case when excluded.digest is not null then excluded.digest
                        when (i.uri, i.source_tag) is not distinct from (excluded.uri, excluded.source_tag) then i.digest end
        returning i.item_id
      ), known as (
        select distinct (e::text)::bigint as item_id from jsonb_array_elements(items) e where jsonb_typeof(e) = 'number'
      )
      select coalesce((select array_agg(a.item_id order by a.modality, a.item_id) from added a), '{}'),
             coalesce((select array_agg(u.item_id) from (
               select item_id from stored union select g.item_id from given g where not g.row_differs union select item_id from known) u), '{}')
      into fresh, others;
      exit;
    exception when unique_violation then
      if contended then
        raise;
      end if;
      contended := true;
    end;
  end loop;

  -- A new item has no vector: that need not be looked up.
  work := case when target.kind = 'encode' then fresh || sightline.without_result(target, others)
               else sightline.without_result(target, fresh || others) end;
  perform sightline.add_chunks(target, work);
  v_duplicate := jsonb_array_length(items) - v_rejected - cardinality(fresh) - cardinality(others);
  update sightline.job j set
    -- A submitter that was taken for dead (see sweep) and was only slow opens its job again.
    sealed_at = null, finished_at = null, error = null, fed_at = clock_timestamp(),
    state = case when j.finished_at is null then j.state else 'running' end,
    n_submitted = j.n_submitted + jsonb_array_length(items), n_rejected = j.n_rejected + v_rejected,
    n_duplicate = j.n_duplicate + v_duplicate, n_unchanged = j.n_unchanged + cardinality(fresh) + cardinality(others) - cardinality(work)
  where j.job_id = target.job_id;
end $$;

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

-- Submitting work: open_job, add_items (any number of times), seal_job; `submit` is the three in one call.

create function sightline.open_job(
  kind text, payload jsonb, collection text default null, lane text default 'normal',
  run_at timestamptz default now(), idempotency_key text default null, request_digest bytea default null
) returns sightline.job
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  opened sightline.job;
  target_space sightline.space;
  target_collection int;
  unknown text;
begin
  payload := coalesce(payload, '{}');
  if kind <> 'encode' then
    raise exception 'kind "%" is not served by this version; kinds: encode', kind using errcode = 'invalid_parameter_value';
  end if;
  if jsonb_typeof(payload) <> 'object' then
    raise exception 'payload must be a JSON object, not %', payload using errcode = 'invalid_parameter_value';
  end if;
  select string_agg(k, ', ' order by k) into unknown from jsonb_object_keys(payload) k where k <> 'space';
  if unknown is not null then
    raise exception 'unknown field in the payload of %: %; fields: space', kind, unknown using errcode = 'invalid_parameter_value';
  end if;
  if lane not in ('interactive', 'normal', 'bulk') then
    raise exception 'lane "%" is none of interactive, normal, bulk', lane using errcode = 'invalid_parameter_value';
  end if;
  target_space := sightline.resolve_space(coalesce(payload->>'space', 'current'));
  if collection is not null then
    insert into sightline.collection (name) values (collection) on conflict (name) do nothing;
    select c.collection_id into target_collection from sightline.collection c where c.name = collection;
  end if;
  if idempotency_key is not null then
    -- Two submitters of one key queue up here, so that the second finds the first one's job.
    perform pg_advisory_xact_lock(hashtextextended(session_user || '/' || idempotency_key, 1));
    select j.* into opened from sightline.job j
    where j.submitted_by = session_user and j.idempotency_key = open_job.idempotency_key;
    if opened.job_id is not null then
      if opened.request_digest is distinct from open_job.request_digest then
        raise exception 'idempotency key "%" was used for another request (job %)', idempotency_key, opened.job_id
          using errcode = 'unique_violation';
      end if;
      return opened;
    end if;
  end if;
  insert into sightline.job (kind, payload, collection_id, space_id, lane, run_at, idempotency_key, request_digest)
  values (kind, payload, target_collection, target_space.space_id, lane, run_at, idempotency_key, request_digest)
  returning * into opened;
  return opened;
end $$;

-- Cut item ids into chunks of a job.
create function sightline.add_chunks(job sightline.job, item_ids bigint[]) returns void
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  insert into sightline.chunk (job_id, item_ids, space_id, queue, lane, run_at)
  select job.job_id, array_agg(u.item_id order by u.n), job.space_id,
         job.kind || coalesce('.' || (select s.pool from sightline.space s where s.space_id = job.space_id), ''), job.lane, job.run_at
  from unnest(item_ids) with ordinality u(item_id, n)
  group by (u.n - 1) / 64 order by (u.n - 1) / 64
$$;

-- Which of these items have no vector of their present content in a space.
create function sightline.without_vector(space_id smallint, item_ids bigint[]) returns bigint[]
language sql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select coalesce(array_agg(i.item_id order by i.modality, i.item_id), '{}')
  from sightline.item i
  -- LIMIT keeps it a look-up for each item: as a join the planner would read the whole space.
  left join lateral (select e.generation from sightline.embedding e
                     where e.space_id = without_vector.space_id and e.item_id = i.item_id and e.slot = 0 limit 1) e on true
  where i.item_id = any (item_ids) and e.generation is distinct from i.generation
$$;

-- What is wrong with one element of `items`, or null.
create function sightline.item_problem(item jsonb, modalities text[], has_collection boolean) returns text
language plpgsql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  unknown text;
  stored_modality text;
begin
  if jsonb_typeof(item) = 'number' then
    if item::text !~ '^[0-9]{1,18}$' then
      return 'an item id is a whole number';
    end if;
    select i.modality into stored_modality from sightline.item i where i.item_id = item::text::bigint;
    return case when stored_modality is null then 'there is no item of this id'
                when stored_modality <> all (modalities) then format('the space takes no %s items', stored_modality) end;
  elsif jsonb_typeof(item) <> 'object' then
    return 'an item is the id of a stored one, or an object';
  end if;
  select string_agg(k, ', ' order by k) into unknown from jsonb_object_keys(item) k
  where k not in ('text', 'uri', 'digest', 'external_id', 'metadata', 'group_key', 'source_tag', 'error');
  return case
    when unknown is not null then 'unknown field ' || unknown
    when not has_collection then 'a new item needs a collection'
    when item ? 'external_id' and (jsonb_typeof(item->'external_id') <> 'string' or item->>'external_id' = '')
      then 'external_id must be a string and not empty'
    when octet_length(item->>'external_id') > 2000 then 'external_id is longer than 2000 bytes'
    when item ? 'metadata' and jsonb_typeof(item->'metadata') <> 'object' then 'metadata must be an object'
    when item ? 'error' then
      case when not item ? 'external_id' then 'an error needs the external_id it belongs to' end
    when (item ? 'text')::int + (item ? 'uri')::int + (item ? 'digest')::int <> 1 then 'an item has exactly one of text, uri, digest'
    when item ? 'text' and jsonb_typeof(item->'text') <> 'string' then 'text must be a string'
    when item ? 'text' and item->>'text' !~ '\S' then 'the text is empty'
    when item ? 'text' and 'text' <> all (modalities) then 'the space takes no text'
    when not item ? 'text' and 'image' <> all (modalities) then 'the space takes no images'
    when item->>'uri' ~ '^https?://' then 'http(s) sources are not served by this version: send the bytes'
    when item ? 'uri' and coalesce(item->>'uri', '') !~ '^file:///' then 'a uri must begin with file:///'
    when item ? 'digest' and coalesce(item->>'digest', '') !~ '^[0-9a-f]{64}$' then 'digest must be 64 hexadecimal digits'
    when item ? 'digest' and not exists (select from sightline.blob b where b.digest = decode(item->>'digest', 'hex'))
      then 'no blob of this digest was uploaded'
  end;
end $$;

-- Add items to an open job. An element of `items` is the id of a stored item, or an object with one source (`text`, `uri` or
-- `digest` of an uploaded blob, in hex) and optionally `external_id`, `metadata`, `group_key`, `source_tag`. An object with
-- `error` (`{"class": ..., "message": ...}`) reports an item that the submitter could not read: it becomes a failure.
-- Items whose present content has a vector already are counted as unchanged.
create function sightline.add_items(job_id bigint, items jsonb) returns void
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target sightline.job;
  modalities text[];
  bad record;
  v_rejected int;
  v_duplicate int;
  ids bigint[];
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
  where p.problem is not null order by e.n limit 1;
  if found then
    raise exception 'item % (%): %', bad.n, left(bad.item::text, 200), bad.problem using errcode = 'invalid_parameter_value';
  end if;

  insert into sightline.failure (job_id, external_id, error_class, message)
  select target.job_id, e->>'external_id', coalesce(e->'error'->>'class', 'Unreadable'), coalesce(e->'error'->>'message', e->>'error')
  from jsonb_array_elements(items) e where e ? 'error';
  get diagnostics v_rejected = row_count;

  with given as materialized (
    select distinct on (external_id) *
    from (select coalesce(e.item->>'external_id', e.item->>'uri', 'sha256:' || coalesce(e.item->>'digest', encode(sha256(convert_to(e.item->>'text', 'UTF8')), 'hex')))
                   as external_id,
                 case when e.item ? 'text' then 'text' else 'image' end as modality,
                 e.item->>'uri' as uri, e.item->>'text' as text, decode(e.item->>'digest', 'hex') as blob_digest,
                 coalesce(decode(e.item->>'digest', 'hex'), sha256(convert_to(e.item->>'text', 'UTF8'))) as digest,
                 e.item->>'source_tag' as source_tag, e.item->>'group_key' as group_key, e.item->'metadata' as metadata, e.n
          from jsonb_array_elements(items) with ordinality e(item, n)
          where jsonb_typeof(e.item) = 'object' and not e.item ? 'error') o
    order by external_id, n desc  -- of one external_id given twice the last counts
  ), stored as (
    insert into sightline.item as i (collection_id, external_id, modality, uri, text, blob_digest, digest, source_tag, group_key, metadata)
    select target.collection_id, g.external_id, g.modality, g.uri, g.text, g.blob_digest, g.digest, g.source_tag, g.group_key,
           coalesce(g.metadata, '{}')
    from given g order by g.external_id
    on conflict (collection_id, external_id) do update set
      modality = excluded.modality, uri = excluded.uri, text = excluded.text, blob_digest = excluded.blob_digest,
      source_tag = excluded.source_tag, group_key = coalesce(excluded.group_key, i.group_key),
      metadata = i.metadata || excluded.metadata, updated_at = now(),
      generation = i.generation + ((i.modality, i.uri, i.source_tag, i.text, i.blob_digest)
        is distinct from (excluded.modality, excluded.uri, excluded.source_tag, excluded.text, excluded.blob_digest))::int,
      digest = case when excluded.digest is not null then excluded.digest
                    when (i.uri, i.source_tag) is not distinct from (excluded.uri, excluded.source_tag) then i.digest end
    returning i.item_id
  ), known as (
    select distinct (e::text)::bigint as item_id from jsonb_array_elements(items) e where jsonb_typeof(e) = 'number'
  )
  select coalesce(array_agg(u.item_id), '{}') into ids from (select item_id from stored union select item_id from known) u;

  work := sightline.without_vector(target.space_id, ids);
  perform sightline.add_chunks(target, work);
  v_duplicate := jsonb_array_length(items) - v_rejected - cardinality(ids);
  update sightline.job j set
    -- A submitter that was taken for dead (see sweep) and was only slow opens its job again.
    sealed_at = null, finished_at = null, error = null, fed_at = clock_timestamp(),
    state = case when j.finished_at is null then j.state else 'running' end,
    n_submitted = j.n_submitted + jsonb_array_length(items), n_rejected = j.n_rejected + v_rejected,
    n_duplicate = j.n_duplicate + v_duplicate, n_unchanged = j.n_unchanged + cardinality(ids) - cardinality(work)
  where j.job_id = target.job_id;
end $$;

-- No more items will come: the job may close. `error` says that the submitter broke off; what it gave is still done.
create function sightline.seal_job(job_id bigint, error text default null) returns void
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  update sightline.job j set sealed_at = clock_timestamp(), error = coalesce(seal_job.error, j.error)
  where j.job_id = seal_job.job_id and j.sealed_at is null;
  select sightline.close_job(job_id);
$$;

-- Submit a job in the caller's transaction; it runs once that commits. `items` null means everything in the collection that has
-- no vector of its present content in the space.
create function sightline.submit(
  kind text, payload jsonb, collection text default null, items jsonb default null, lane text default 'normal',
  run_at timestamptz default now(), idempotency_key text default null
) returns bigint
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target sightline.job;
  ids bigint[];
  digest bytea;
begin
  if idempotency_key is not null then
    digest := sha256(convert_to(jsonb_build_array(kind, payload, collection, items, lane)::text, 'UTF8'));
  end if;
  target := sightline.open_job(kind, payload, collection, lane, run_at, idempotency_key, digest);
  if target.sealed_at is not null then
    return target.job_id;
  end if;
  if items is not null then
    perform sightline.add_items(target.job_id, items);
  elsif collection is null then
    raise exception 'submit needs items, a collection or both' using errcode = 'invalid_parameter_value';
  else
    select coalesce(array_agg(i.item_id), '{}') into ids
    from sightline.item i join sightline.space s on s.space_id = target.space_id
    where i.collection_id = target.collection_id and i.modality = any (s.modalities) and i.parent_id is null;
    ids := sightline.without_vector(target.space_id, ids);
    perform sightline.add_chunks(target, ids);
    update sightline.job j set n_submitted = cardinality(ids) where j.job_id = target.job_id;
  end if;
  perform sightline.seal_job(target.job_id);
  return target.job_id;
end $$;

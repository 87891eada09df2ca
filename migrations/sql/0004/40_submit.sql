-- Submitting in bulk: item_problem took most of its time, an item at a time. What is plain to see is seen for all items in one statement.

-- Whether nothing is wrong with one element of `items`, as far as it shows itself; of the others item_problem says what is. One expression
-- that the planner puts in the place of its call, so it has no SET: what it names is bound when it is made.
create function sightline.is_plain_item(item jsonb, modalities text[]) returns boolean
language sql immutable parallel safe
return coalesce(
  jsonb_typeof(item) = 'object'
  and item - '{external_id,text,uri,digest,metadata,group_key,source_tag,sha256,root}'::text[] = '{}'::jsonb
  and (not item ? 'external_id' or jsonb_typeof(item->'external_id') = 'string' and octet_length(item->>'external_id') between 1 and 2000)
  and (not item ? 'group_key' or jsonb_typeof(item->'group_key') = 'string' and octet_length(item->>'group_key') between 1 and 2000)
  and (not item ? 'metadata' or jsonb_typeof(item->'metadata') = 'object')
  and (not item ? 'root' or jsonb_typeof(item->'root') = 'string' and item->>'root' <> '')
  and case
    when item ? 'text' then
      not item ?| '{uri,digest,sha256}'::text[] and jsonb_typeof(item->'text') = 'string' and item->>'text' ~ '\S' and 'text' = any (modalities)
    when item ? 'uri' then
      not item ? 'digest' and item->>'uri' like 'file:///%' and 'image' = any (modalities)
      and (not item ? 'sha256' or item->>'sha256' ~ '^[0-9a-f]{64}$')
    else not item ? 'sha256' and item->>'digest' ~ '^[0-9a-f]{64}$' and 'image' = any (modalities)
  end, false);

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

  with given as materialized (
    select * from sightline.compare_items(target.collection_id, items)
  ), stored as (
    insert into sightline.item as i (collection_id, external_id, modality, uri, text, blob_digest, digest, source_tag, root, group_key, metadata)
    select target.collection_id, g.external_id, g.modality, g.uri, g.text, g.blob_digest, g.digest, g.source_tag, g.root, g.group_key,
           coalesce(g.metadata, '{}')
    from given g where g.row_differs order by g.external_id
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
  select coalesce(array_agg(u.item_id), '{}') into ids
  from (select item_id from stored union select g.item_id from given g where not g.row_differs union select item_id from known) u;

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

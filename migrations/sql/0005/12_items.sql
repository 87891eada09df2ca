-- The items of a job, and which of them it has something to do for.

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

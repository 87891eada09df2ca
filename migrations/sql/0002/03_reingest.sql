-- Ingesting again: what did not change is not written, and what is gone can be pruned.

-- The folder that an external_id is a path below, where ingest named the item by its path; null where whoever submitted it named it.
alter table sightline.item add column root text check (root <> '');

-- A sentence instead of the name of a constraint.
create function sightline.check_collection_name() returns trigger
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
begin
  if new.name = '' then
    raise exception 'the name of a collection must not be empty' using errcode = 'invalid_parameter_value';
  elsif length(new.name) > 200 then
    raise exception 'the name of a collection has at most 200 characters, not % ("%...")', length(new.name), left(new.name, 40)
      using errcode = 'invalid_parameter_value';
  end if;
  return new;
end $$;
create trigger check_name before insert or update of name on sightline.collection
  for each row execute function sightline.check_collection_name();

-- What is wrong with one element of `items`, or null.
create or replace function sightline.item_problem(item jsonb, modalities text[], has_collection boolean) returns text
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
  where k not in ('text', 'uri', 'digest', 'external_id', 'metadata', 'group_key', 'source_tag', 'sha256', 'root', 'error');
  return case
    when unknown is not null then 'unknown field ' || unknown
    when item ? 'external_id' and (jsonb_typeof(item->'external_id') <> 'string' or item->>'external_id' = '')
      then 'external_id must be a string and not empty'
    when octet_length(item->>'external_id') > 2000 then 'external_id is longer than 2000 bytes'
    when item ? 'metadata' and jsonb_typeof(item->'metadata') <> 'object' then 'metadata must be an object'
    when item ? 'root' and (jsonb_typeof(item->'root') <> 'string' or item->>'root' = '') then 'root must be a string and not empty'
    when item ? 'error' then
      case when not item ? 'external_id' then 'an error needs the external_id it belongs to' end
    when not has_collection then 'a new item needs a collection'
    when (item ? 'text')::int + (item ? 'uri')::int + (item ? 'digest')::int <> 1 then 'an item has exactly one of text, uri, digest'
    when item ? 'text' and jsonb_typeof(item->'text') <> 'string' then 'text must be a string'
    when item ? 'text' and item->>'text' !~ '\S' then 'the text is empty'
    when item ? 'text' and 'text' <> all (modalities) then 'the space takes no text'
    when not item ? 'text' and 'image' <> all (modalities) then 'the space takes no images'
    when item->>'uri' ~ '^https?://' then 'http(s) sources are not served by this version: send the bytes'
    when item ? 'uri' and coalesce(item->>'uri', '') !~ '^file:///' then 'a uri must begin with file:///'
    when item ? 'sha256' and not item ? 'uri' then 'sha256 is of the content of a uri'
    when item ? 'sha256' and coalesce(item->>'sha256', '') !~ '^[0-9a-f]{64}$' then 'sha256 must be 64 hexadecimal digits'
    when item ? 'digest' and coalesce(item->>'digest', '') !~ '^[0-9a-f]{64}$' then 'digest must be 64 hexadecimal digits'
    when item ? 'digest' and not exists (select from sightline.blob b where b.digest = decode(item->>'digest', 'hex'))
      then 'no blob of this digest was uploaded'
  end;
end $$;

-- Whether an item's content is another than before. Digests decide where both are known: a file that was only touched, or that moved
-- from an upload to a media root, is the same content. Else source and tag do.
create function sightline.content_differs(
  old_modality text, old_uri text, old_tag text, old_text text, old_blob bytea, old_digest bytea,
  modality text, uri text, tag text, text text, blob bytea, digest bytea
) returns boolean
language sql immutable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select old_modality <> modality or case
    when digest is not null and old_digest is not null then digest <> old_digest
    else (old_uri, old_tag, old_text, old_blob) is distinct from (uri, tag, text, blob)
  end
$$;

-- The items that an array specifies, one row for each external_id (of one given twice the last counts), beside what is stored of them:
-- `content_differs` is null for a new item; `row_differs` says whether anything at all would be written.
create function sightline.compare_items(collection_id int, items jsonb)
returns table (
  external_id text, modality text, uri text, text text, blob_digest bytea, digest bytea, source_tag text, root text, group_key text,
  metadata jsonb, item_id bigint, content_differs boolean, row_differs boolean
)
language sql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with given as materialized (
    select distinct on (external_id) *
    from (select coalesce(e.item->>'external_id', e.item->>'uri', 'sha256:' || coalesce(e.item->>'digest', encode(sha256(convert_to(e.item->>'text', 'UTF8')), 'hex')))
                   as external_id,
                 case when e.item ? 'text' then 'text' else 'image' end as modality,
                 e.item->>'uri' as uri, e.item->>'text' as text, decode(e.item->>'digest', 'hex') as blob_digest,
                 coalesce(decode(coalesce(e.item->>'digest', e.item->>'sha256'), 'hex'), sha256(convert_to(e.item->>'text', 'UTF8'))) as digest,
                 e.item->>'source_tag' as source_tag, e.item->>'root' as root, e.item->>'group_key' as group_key, e.item->'metadata' as metadata, e.n
          from jsonb_array_elements(items) with ordinality e(item, n)
          where jsonb_typeof(e.item) = 'object' and not e.item ? 'error') o
    order by external_id, n desc
  )
  select g.external_id, g.modality, g.uri, g.text, g.blob_digest, g.digest, g.source_tag, g.root, g.group_key, g.metadata, i.item_id,
         case when i.item_id is not null then
           sightline.content_differs(i.modality, i.uri, i.source_tag, i.text, i.blob_digest, i.digest,
                                     g.modality, g.uri, g.source_tag, g.text, g.blob_digest, g.digest)
         end,
         i.item_id is null
         or (i.modality, i.uri, i.source_tag, i.text, i.blob_digest, i.root) is distinct from (g.modality, g.uri, g.source_tag, g.text, g.blob_digest, g.root)
         or g.digest is not null and i.digest is distinct from g.digest
         or g.group_key is not null and i.group_key is distinct from g.group_key
         or g.metadata is not null and i.metadata || g.metadata <> i.metadata
  from given g
  -- LIMIT keeps it a look-up for each item.
  left join lateral (select s.* from sightline.item s
                     where s.collection_id = compare_items.collection_id and s.external_id = g.external_id limit 1) i on true
  order by g.external_id
$$;

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
  where p.problem is not null order by e.n limit 1;
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

-- What add_items would do with these items, in counts; writes nothing. `encode` are those that need a vector: new ones, changed ones, and
-- unchanged ones that have none in the space.
create function sightline.plan_items(space text, collection text, items jsonb)
returns table (new bigint, changed bigint, unchanged bigint, updated bigint, encode_images bigint, encode_texts bigint)
language sql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with given as materialized (
    select g.*, g.item_id is null or g.content_differs or e.encoded is null as to_encode
    from sightline.resolve_space(space) s
    cross join sightline.compare_items((select c.collection_id from sightline.collection c where c.name = plan_items.collection), items) g
    left join lateral (
      select true as encoded from sightline.embedding e join sightline.item i on i.item_id = e.item_id
      where e.space_id = s.space_id and e.item_id = g.item_id and e.slot = 0 and e.generation = i.generation limit 1
    ) e on true
  )
  select count(*) filter (where item_id is null), count(*) filter (where content_differs), count(*) filter (where not content_differs),
         count(*) filter (where not content_differs and row_differs),
         count(*) filter (where to_encode and modality = 'image'), count(*) filter (where to_encode and modality = 'text')
  from given
$$;

-- Store the rows of pg_temp.sightline_import (sightline/transfer/importer.py fills it) as items with vectors of a space. What is there
-- already and equal is not written. A stored item keeps its source, unless that is `vector:`, which says that there is none.
-- Returns how many items are new and how many vectors were stored, replaced and unchanged, and the rows that fit no stored item.
create function sightline.store_import(space_id smallint)
returns table (new_items bigint, stored bigint, replaced bigint, unchanged bigint, bad jsonb)
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
begin
  insert into sightline.collection (name) select distinct f.collection from pg_temp.sightline_import f order by 1
  on conflict (name) do nothing;

  with given as (
    select f.*, c.collection_id from pg_temp.sightline_import f join sightline.collection c on c.name = f.collection
  ), clash as (
    select g.n, format('%s: the stored item of this id %s', g.external_id,
             case when i.modality <> g.modality then 'is of modality ' || i.modality else 'has another text' end) as message
    from given g
    -- LIMIT, here and below, keeps it a look-up for each row: as a join the planner would read all items.
    cross join lateral (select s.* from sightline.item s
                        where s.collection_id = g.collection_id and s.external_id = g.external_id limit 1) i
    where i.modality <> g.modality or i.text is distinct from g.text
  ), removed as (
    delete from pg_temp.sightline_import f using clash where f.n = clash.n
  )
  select coalesce(jsonb_agg(jsonb_build_object('n', n, 'message', message)), '[]') into bad from clash;

  with given as (
    select f.*, c.collection_id from pg_temp.sightline_import f join sightline.collection c on c.name = f.collection
  ), differing as (
    select g.*, i.item_id is null as is_new from given g
    left join lateral (select s.* from sightline.item s
                       where s.collection_id = g.collection_id and s.external_id = g.external_id limit 1) i on true
    where i.item_id is null or i.metadata || g.metadata <> i.metadata or g.group_key is not null and i.group_key is distinct from g.group_key
       or i.uri like 'vector:%' and i.uri <> g.uri or i.digest is null and g.digest is not null
  ), written as (
    insert into sightline.item as i (collection_id, external_id, modality, uri, text, source_tag, digest, root, group_key, metadata)
    select d.collection_id, d.external_id, d.modality, d.uri, d.text, d.source_tag, d.digest, d.root, d.group_key, d.metadata
    from differing d order by d.collection_id, d.external_id
    on conflict (collection_id, external_id) do update set
      metadata = i.metadata || excluded.metadata, group_key = coalesce(excluded.group_key, i.group_key), updated_at = now(),
      digest = coalesce(i.digest, excluded.digest),
      uri = case when i.uri like 'vector:%' then excluded.uri else i.uri end,
      source_tag = case when i.uri like 'vector:%' then excluded.source_tag else i.source_tag end,
      root = case when i.uri like 'vector:%' then excluded.root else i.root end
  )
  select count(*) filter (where is_new) into new_items from differing;

  with given as (
    select i.item_id, i.generation, f.modality, f.norm, f.vec, e.item_id is null as is_new,
           e.generation = i.generation and e.norm = f.norm and e.vec = f.vec as is_same
    from pg_temp.sightline_import f
    join sightline.collection c on c.name = f.collection
    cross join lateral (select s.item_id, s.generation from sightline.item s
                        where s.collection_id = c.collection_id and s.external_id = f.external_id limit 1) i
    left join lateral (select v.* from sightline.embedding v
                       where v.space_id = store_import.space_id and v.item_id = i.item_id and v.slot = 0 limit 1) e on true
  ), written as (
    insert into sightline.embedding as e (space_id, item_id, slot, generation, norm, modality, vec)
    select store_import.space_id, g.item_id, 0, g.generation, g.norm, g.modality, g.vec from given g where is_same is not true order by g.item_id
    on conflict on constraint embedding_pkey do update set
      generation = excluded.generation, norm = excluded.norm, modality = excluded.modality, embedded_at = excluded.embedded_at, vec = excluded.vec
    where e.generation <= excluded.generation
  )
  select count(*) filter (where is_new), count(*) filter (where not is_new and not is_same), count(*) filter (where is_same)
  into stored, replaced, unchanged from given;
  return next;
end $$;

-- Items without a vector of their present content in a space, and why.
create or replace function sightline.missing(space text)
returns table (item_id bigint, external_id text, collection text, modality text, reason text, detail text)
language sql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with target as (select * from sightline.resolve_space(space)),
  open_chunk as (
    select u.item_id, max(c.state) as state, max(c.job_id) as job_id  -- 'running' > 'queued'
    from sightline.chunk c cross join lateral unnest(c.item_ids) u(item_id)
    where c.state in ('queued', 'running') and c.space_id = (select space_id from target)
    group by u.item_id
  )
  select i.item_id, i.external_id, k.name, i.modality,
         case when o.state is not null then o.state when i.uri like 'vector:%' then 'no content' when f.failure_id is not null then 'failed'
              when e.item_id is not null then 'stale' else 'never submitted' end,
         case when o.state is not null then 'job ' || o.job_id
              when i.uri like 'vector:%' then 'it was imported as a vector of another space: ingest its file under this external_id'
              when f.failure_id is not null then f.error_class || ': ' || f.message
              when e.item_id is not null then 'its content changed and was not submitted again' end
  from sightline.item i
  join target t on i.modality = any (t.modalities)
  join sightline.collection k on k.collection_id = i.collection_id
  left join sightline.embedding e on e.space_id = t.space_id and e.item_id = i.item_id and e.slot = 0
  left join open_chunk o on o.item_id = i.item_id
  left join lateral (
    select f.* from sightline.failure f join sightline.job j on j.job_id = f.job_id
    where f.item_id = i.item_id and f.generation = i.generation and j.space_id = t.space_id order by f.failure_id desc limit 1
  ) f on true
  where e.item_id is null or e.generation < i.generation
$$;

-- No more items will come: the job may close. `error` says that the submitter broke off; what it gave is still done. A submitter that was
-- taken for dead (see sweep) and was only slow to say that it is done has given everything.
create or replace function sightline.seal_job(job_id bigint, error text default null) returns void
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  update sightline.job j set sealed_at = clock_timestamp(), error = coalesce(seal_job.error, nullif(j.error, 'the submitter went away'))
  where j.job_id = seal_job.job_id and (j.sealed_at is null or j.error = 'the submitter went away');
  select sightline.close_job(job_id);
$$;

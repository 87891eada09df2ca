-- Content from links and object stores, and uploads that lie in a media store instead of the database.

-- `size` not null: the content lies in the media store (SIGHTLINE_MEDIA_URL) under its digest.
alter table sightline.blob alter column bytes drop not null;
alter table sightline.blob add column size bigint check (size >= 0);
alter table sightline.blob add constraint blob_is_somewhere check (num_nonnulls(bytes, size) >= 1);

-- Which contents, by sha256, have to be uploaded into the database.
create or replace function sightline.missing_blobs(digests bytea[]) returns setof bytea
language sql stable security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select d from unnest(digests) d where not exists (select from sightline.blob b where b.digest = d and b.bytes is not null)
$$;

-- Upload contents. Their names are computed here: nobody can store one under the sha256 of another. Give them sorted by it, so that two who
-- upload the same ones do not wait for each other crosswise.
create or replace function sightline.add_blobs(contents bytea[]) returns void
language sql security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  insert into sightline.blob as b (digest, bytes) select sha256(c), c from unnest(contents) c
  on conflict (digest) do update set bytes = excluded.bytes where b.bytes is null
$$;

-- Say that contents lie in the media store, each named once: `size` is known of those alone, and `bytes` may lie here too. What a worker finds
-- there under another sha256 it does not take. Give them sorted.
create function sightline.register_blobs(digests bytea[], sizes bigint[]) returns void
language sql security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  insert into sightline.blob as b (digest, size) select * from unnest(digests, sizes)
  on conflict (digest) do update set size = excluded.size where b.size is null
$$;

-- What is wrong with the form of a source, or null. sightline/sources.py says the same; whether it may be read is for the worker to say.
create function sightline.uri_problem(uri text) returns text
language sql immutable parallel safe set search_path = pg_catalog, sightline, {vector}, pg_temp
return case
  when uri ~ '^file:///' then null
  when uri ~* '^file://' then 'a file''s uri begins with file:///'
  when uri is null or uri !~* '^(https?|s3|gs|abfs)://' then 'a uri must begin with file:///, http://, https://, s3://, gs:// or abfs://'
  when uri ~ '^[^:]+://([/?#]|$)' then 'the uri names no host'
  when uri ~* '^https?://[^/?#]*@' then 'the uri holds a user or password, which would be stored for all to read: use a signed link'
end;

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
    when item->>'external_id' like 'sightline:%' then 'external_id must not begin with sightline:, which is reserved'
    when jsonb_typeof(item->'group_key') not in ('string', 'null') or item->>'group_key' = '' then 'group_key must be a string and not empty'
    when octet_length(item->>'group_key') > 2000 then 'group_key is longer than 2000 bytes'
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
    when item ? 'uri' and sightline.uri_problem(item->>'uri') is not null then sightline.uri_problem(item->>'uri')
    when item ? 'sha256' and not item ? 'uri' then 'sha256 is of the content of a uri'
    when item ? 'sha256' and coalesce(item->>'sha256', '') !~ '^[0-9a-f]{64}$' then 'sha256 must be 64 hexadecimal digits'
    when item ? 'digest' and coalesce(item->>'digest', '') !~ '^[0-9a-f]{64}$' then 'digest must be 64 hexadecimal digits'
    when item ? 'digest' and not exists (select from sightline.blob b where b.digest = decode(item->>'digest', 'hex'))
      then 'no blob of this digest was uploaded'
  end;
end $$;

-- Whether nothing is wrong with one element of `items`, as far as it shows itself; of the others item_problem says what is. One expression
-- that the planner puts in the place of its call, so it has no SET: what it names is bound when it is made.
create or replace function sightline.is_plain_item(item jsonb, modalities text[]) returns boolean
language sql immutable parallel safe
return coalesce(
  jsonb_typeof(item) = 'object'
  and item - '{external_id,text,uri,digest,metadata,group_key,source_tag,sha256,root}'::text[] = '{}'::jsonb
  and (not item ? 'external_id' or jsonb_typeof(item->'external_id') = 'string' and octet_length(item->>'external_id') between 1 and 2000
       and item->>'external_id' not like 'sightline:%')
  and (not item ? 'group_key' or jsonb_typeof(item->'group_key') = 'string' and octet_length(item->>'group_key') between 1 and 2000)
  and (not item ? 'metadata' or jsonb_typeof(item->'metadata') = 'object')
  and (not item ? 'root' or jsonb_typeof(item->'root') = 'string' and item->>'root' <> '')
  and case
    when item ? 'text' then
      not item ?| '{uri,digest,sha256}'::text[] and jsonb_typeof(item->'text') = 'string' and item->>'text' ~ '\S' and 'text' = any (modalities)
    when item ? 'uri' then
      not item ? 'digest' and item->>'uri' ~ '^(file:///|(https?|s3|gs|abfs)://[^/?#@]+/)' and 'image' = any (modalities)
      and (not item ? 'sha256' or item->>'sha256' ~ '^[0-9a-f]{64}$')
    else not item ? 'sha256' and item->>'digest' ~ '^[0-9a-f]{64}$' and 'image' = any (modalities)
  end, false);

-- Items without a vector of their present content in a space, and why: `running` or `queued` in a job, `expired` (the signed link of the item
-- ended before it was fetched), `gone` (nothing is where its source says), `failed`, `dismissed` (it failed, and somebody said that it will
-- not be mended), `no content` (it came as a vector), `stale` (its content changed), `never submitted`.
create or replace function sightline.missing(space text)
returns table (item_id bigint, external_id text, collection text, modality text, reason text, detail text)
language sql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with target as (select * from sightline.resolve_space(space)),
  open_chunk as (
    select u.item_id, max(c.state) as state, max(c.job_id) as job_id  -- 'running' > 'queued'
    from sightline.chunk c join sightline.job j on j.job_id = c.job_id cross join lateral unnest(c.item_ids) u(item_id)
    where c.state in ('queued', 'running') and c.space_id = (select space_id from target) and j.kind = 'encode'
    group by u.item_id
  )
  select i.item_id, i.external_id, k.name, i.modality,
         case when o.state is not null then o.state when i.uri like 'vector:%' then 'no content'
              when f.dismissed_at is not null then 'dismissed'
              when f.error_class = 'LinkExpired' then 'expired' when f.error_class = 'NotFound' then 'gone'
              when f.failure_id is not null then 'failed'
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
    where f.item_id = i.item_id and f.generation = i.generation and j.space_id = t.space_id and j.kind = 'encode'
    order by f.failure_id desc limit 1
  ) f on true
  where e.item_id is null or e.generation < i.generation
$$;

-- Enqueue what `missing(space)` names and nothing else, in one job for each collection. What is under way already is not enqueued twice; what
-- was dismissed, has no content to encode, or has a link that ended, is left. Open failures of what is enqueued are settled by the new job.
-- Returns what was found, by collection and reason: `job_id` is null where nothing was to be enqueued.
create or replace function sightline.reconcile(space text default 'current', collection text default null, lane text default 'bulk')
returns table (collection_name text, reason text, items bigint, job_id bigint)
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  -- What is gone may have come back: a share that is mounted again. An expired link stays expired.
  worthwhile constant text[] := '{failed,gone,stale,never submitted}';
  target sightline.space := sightline.resolve_space(space);
  only_one int := sightline.collection_of(collection);
  part record;
  opened sightline.job;
begin
  -- Two at a time would both find the same items missing.
  perform pg_advisory_xact_lock(hashtextextended('sightline.reconcile/' || target.space_id, 0));
  for part in
    select k.collection_id, k.name,
           coalesce(array_agg(m.item_id order by m.modality, m.item_id) filter (where m.reason = any (worthwhile)), '{}') as todo,
           array_agg(m.reason) as reasons
    from sightline.missing(target.name) m join sightline.collection k on k.name = m.collection
    where only_one is null or k.collection_id = only_one
    group by k.collection_id, k.name order by k.name
  loop
    opened := null;
    if cardinality(part.todo) > 0 then
      opened := sightline.open_job('encode', jsonb_build_object('space', target.name), part.name, reconcile.lane);
      perform sightline.add_chunks(opened, part.todo);
      update sightline.job j set n_submitted = cardinality(part.todo) where j.job_id = opened.job_id;
      update sightline.failure f set retried_by = opened.job_id
      from sightline.job j
      where f.item_id = any (part.todo) and f.retried_by is null and f.dismissed_at is null
        and j.job_id = f.job_id and j.space_id = target.space_id and j.kind = 'encode';
      perform sightline.seal_job(opened.job_id);
    end if;
    return query
      select part.name, r.reason, count(*), case when r.reason = any (worthwhile) then opened.job_id end
      from unnest(part.reasons) r(reason) group by r.reason order by r.reason;
  end loop;
end $$;

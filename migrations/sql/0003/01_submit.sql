-- Submitting: a group key is checked as an external id is, and a collection that is not there is no empty one.

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
    when item->>'uri' ~ '^https?://' then 'http(s) sources are not served by this version: send the bytes'
    when item ? 'uri' and coalesce(item->>'uri', '') !~ '^file:///' then 'a uri must begin with file:///'
    when item ? 'sha256' and not item ? 'uri' then 'sha256 is of the content of a uri'
    when item ? 'sha256' and coalesce(item->>'sha256', '') !~ '^[0-9a-f]{64}$' then 'sha256 must be 64 hexadecimal digits'
    when item ? 'digest' and coalesce(item->>'digest', '') !~ '^[0-9a-f]{64}$' then 'digest must be 64 hexadecimal digits'
    when item ? 'digest' and not exists (select from sightline.blob b where b.digest = decode(item->>'digest', 'hex'))
      then 'no blob of this digest was uploaded'
  end;
end $$;

-- Submit a job in the caller's transaction; it runs once that commits. `items` null means everything in the collection that has
-- no vector of its present content in the space; a collection is made only for items.
create or replace function sightline.submit(
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
  if items is null and collection is not null and not exists (select from sightline.collection c where c.name = submit.collection) then
    raise exception 'no collection named "%"', left(collection, 200) using errcode = 'undefined_object';
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

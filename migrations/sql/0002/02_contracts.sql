-- Contracts: what the payload of each kind of job looks like. The rows are made from the models in sightline/contracts (the file after
-- this one); what is said of a payload here is said of it in Python (sightline/contracts/problem.py) in the same words.

create table sightline.job_contract (
  kind    text not null,
  version int not null check (version > 0),
  schema  jsonb not null,     -- JSON Schema of the payload, without references; `errorMessage` is a node in words
  served  boolean not null,   -- whether workers of this version do such jobs
  primary key (kind, version)
);

-- A value in a message.
create function sightline.shown(value jsonb) returns text
language sql immutable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select case when length(t.words) > 50 then left(t.words, 50) || '...' else t.words end
  from (select case jsonb_typeof(value)
                 when 'object' then 'an object'
                 when 'array' then 'a list of ' || jsonb_array_length(value)
                 when 'number' then trim_scale((value #>> '{}')::numeric)::text
                 else value::text end) t(words)
$$;

-- The first thing that is wrong with a value, or null: of one object an unknown field, then its fields by name; of a list its length, then
-- its elements. Understands what sightline/contracts/schema.py writes.
create function sightline.schema_problem(schema jsonb, value jsonb, path text default '') returns text
language plpgsql immutable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  given text := jsonb_typeof(value);
  words text := value #>> '{}';
  fits boolean := schema->'type' ? given;
  problem text;
  key text;
begin
  if not schema ? 'type' then
    return null;
  elsif given = 'number' and not fits and schema->'type' ? 'integer' then
    fits := words::numeric = trunc(words::numeric);
  end if;
  if fits then
    fits := (not schema ? 'enum' or schema->'enum' @> value) and (not schema ? 'const' or schema->'const' = value) and case given
      when 'string' then length(words) >= coalesce((schema->>'minLength')::int, 0) and length(words) <= coalesce((schema->>'maxLength')::int, length(words))
                         and words ~ coalesce(schema->>'pattern', '')
      when 'number' then words::numeric >= coalesce((schema->>'minimum')::numeric, words::numeric)
                         and words::numeric <= coalesce((schema->>'maximum')::numeric, words::numeric)
                         and (schema->'type' ? 'integer' or abs(words::numeric) <= 1.7976931348623157e308)  -- of double precision
      when 'array' then jsonb_array_length(value) <= coalesce((schema->>'maxItems')::int, jsonb_array_length(value))
      else true end;
  end if;
  if fits and given = 'array' then
    for i in 0 .. jsonb_array_length(value) - 1 loop
      problem := sightline.schema_problem(schema->'items', value->i, format('%s[%s]', path, i));
      if problem is not null then
        return problem;
      end if;
    end loop;
    fits := jsonb_array_length(value) >= coalesce((schema->>'minItems')::int, 0);
  end if;
  if not fits then
    return trim(leading from format('%s %s, not %s', path, schema->>'errorMessage', sightline.shown(value)));
  elsif given <> 'object' or not schema ? 'properties' then
    return null;
  end if;

  if schema->'additionalProperties' = 'false' then
    select k into key from jsonb_object_keys(value) k where not schema->'properties' ? k order by k collate "C" limit 1;
    if found then
      return format('%sunknown field %s; fields: %s', nullif(path, '') || ': ', sightline.shown(to_jsonb(key)),
                    (select string_agg(k, ', ' order by k collate "C") from jsonb_object_keys(schema->'properties') k));
    end if;
  end if;
  for key in select k from jsonb_object_keys(schema->'properties') k order by k collate "C" loop
    problem := case when value ? key then sightline.schema_problem(schema->'properties'->key, value->key, concat(nullif(path, '') || '.', key))
                    when schema->'required' ? key then concat(nullif(path, '') || '.', key, ' is missing') end;
    if problem is not null then
      return problem;
    end if;
  end loop;
  if schema->'maxProperties' = '1' and (select count(*) from jsonb_object_keys(value)) <> 1 then
    return trim(leading from format('%s %s', path, schema->>'errorMessage'));
  end if;
  return null;
end $$;

-- The version of the contract that a payload states, or else the newest that is served, and what is wrong with the payload, if anything.
create function sightline.check_payload(kind text, payload jsonb, out version int, out problem text)
language plpgsql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  served int[];
begin
  select array_agg(c.version order by c.version) into served from sightline.job_contract c where c.kind = check_payload.kind and c.served;
  if served is null then
    problem := format(case when exists (select from sightline.job_contract c where c.kind = check_payload.kind)
                           then 'kind "%s" is not served by this version; served: %s' else 'unknown kind "%s"; served: %s' end,
                      kind, (select string_agg(k.kind, ', ' order by k.kind collate "C")
                             from (select distinct c.kind from sightline.job_contract c where c.served) k));
  elsif jsonb_typeof(payload) is distinct from 'object' then
    problem := format('payload of %s must be an object, not %s', kind, sightline.shown(payload));
  else
    select v into version from unnest(served) v
    where not payload ? 'version' or to_jsonb(v) = payload->'version' order by v desc limit 1;
    if version is null then
      problem := format('payload of %s: unknown version %s; versions: %s', kind, sightline.shown(payload->'version'), array_to_string(served, ', '));
    else
      select format('payload of %s: %s', check_payload.kind, p) into problem
      from sightline.job_contract c, sightline.schema_problem(c.schema, payload) p
      where c.kind = check_payload.kind and c.version = check_payload.version and p is not null;
    end if;
  end if;
end $$;

-- What is wrong with the payload of a job, or null.
create function sightline.contract_problem(kind text, payload jsonb) returns text
language sql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select c.problem from sightline.check_payload(kind, payload) c
$$;

create or replace function sightline.open_job(
  kind text, payload jsonb, collection text default null, lane text default 'normal',
  run_at timestamptz default now(), idempotency_key text default null, request_digest bytea default null
) returns sightline.job
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  opened sightline.job;
  target_space sightline.space;
  target_collection int;
  checked record;
begin
  payload := coalesce(payload, '{}');
  checked := sightline.check_payload(kind, payload);
  if checked.problem is not null then
    raise exception '%', checked.problem using errcode = 'invalid_parameter_value';
  end if;
  -- A job is done as it was meant when it was submitted, whatever version is the newest by then.
  payload := payload || jsonb_build_object('version', checked.version);
  if lane is null or lane not in ('interactive', 'normal', 'bulk') then
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

-- Spaces: what two passports differ in, in words; names that can be names of views; creation and aliases that use both.

-- A digest by its first twelve digits; anything else as it is.
create function sightline.shown(value text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when value ~ '^[0-9a-f]{40,}$' then left(value, 12) else value end
$$;

-- What makes vectors of two passports incomparable, in words; empty where they may be compared. The fields are those of
-- models/passport.py: names, places, versions and precision do not count, digests decide. The names of the models are told
-- when their weights differ, and the rules of the image pipeline when their digest does, because they say why.
create function sightline.passport_differences(stored jsonb, given jsonb, there text, here text) returns text
language sql immutable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with field(place, key, meaning) as (values
    (1, 'kind', 'kind of model'), (2, 'dim', 'dimension'), (3, 'weights', 'weights (sha256)'),
    (4, 'towers', 'settings of the towers'), (5, 'tokenizer', 'tokenizer (digest)'),
    (6, 'context_length', 'context length in tokens'), (7, 'text_padding', 'padding of texts'), (8, 'pooling', 'pooling'),
    (9, 'preprocessing', 'image preprocessing'), (10, 'normalisation', 'normalisation')
  ), told as (
    select f.place, f.meaning, f.key, stored->>f.key as old, given->>f.key as new from field f
    where stored->f.key is distinct from given->f.key
      -- Passports that were stored before there was `towers` do not say it, in one way or the other.
      and (f.key <> 'towers' or (stored->>f.key is not null and given->>f.key is not null))
    union all
    -- What a newer version added counts where both say it; of passports that `models` did not make, everything counts.
    select 11, k, k, stored->>k, given->>k from jsonb_object_keys(stored || given) as keys(k)
    where stored->k is distinct from given->k and k not in (select key from field)
      and ((stored ? k and given ? k) or not stored ? 'weights')
      and k not in ('model', 'revision', 'source', 'libraries', 'dtype', 'image_pipeline', 'modalities', 'converted_from')
  ), rule as (
    select string_agg(format('%s %s %s, %s %s', k, stored->'image_pipeline'->>k, there, given->'image_pipeline'->>k, here),
                      ', ' order by k) as changed
    from jsonb_object_keys(case when jsonb_typeof(stored->'image_pipeline') = 'object'
                                 and jsonb_typeof(given->'image_pipeline') = 'object'
                                then (stored->'image_pipeline') || (given->'image_pipeline') else '{}' end) as keys(k)
    where stored->'image_pipeline'->k is distinct from given->'image_pipeline'->k
  )
  select coalesce(string_agg(case
    when t.key = 'preprocessing' and rule.changed is not null then format('%s: %s', t.meaning, rule.changed)
    when t.key = 'weights' then format('%s: %s of %s %s, %s of %s %s', t.meaning,
      coalesce(left(t.old, 12), 'none'), coalesce(stored->>'model', 'no model') || coalesce('@' || left(stored->>'revision', 12), ''), there,
      coalesce(left(t.new, 12), 'none'), coalesce(given->>'model', 'no model') || coalesce('@' || left(given->>'revision', 12), ''), here)
    else format('%s: %s %s, %s %s', t.meaning, coalesce(sightline.shown(t.old), 'none'), there, coalesce(sightline.shown(t.new), 'none'), here)
    end, '; ' order by t.place, t.key), '')
  from told t cross join rule
$$;

-- Names of spaces and aliases become names of views, names of pools those of queues.
create function sightline.check_name(what text, name text) returns void
language plpgsql immutable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  better text := left(trim(both '_' from regexp_replace(lower(name), '[^a-z0-9]+', '_', 'g')), 40);
begin
  if name !~ '^[a-z][a-z0-9_]{0,39}$' then
    raise exception '"%" cannot be the name of a%; it takes lower case letters, digits and _, a letter first, 40 at most',
      name, case when what = 'alias' then 'n alias' else ' ' || what end
      using errcode = 'invalid_parameter_value',
            hint = case when better ~ '^[a-z]' then format('Take %s, for example.', better) else 'Take photos, for example.' end;
  end if;
end $$;

-- Create a space, or return the existing one of that name if its passport is the same. The partition is built beside the
-- table and attached, because CREATE TABLE ... PARTITION OF would lock searches out.
create or replace function sightline.create_space(
  name text, model text, dim int, passport jsonb default '{}', revision text default null,
  modalities text[] default '{image,text}', pool text default null
) returns smallint
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  made sightline.space;
  partition text;
  differing text;
begin
  perform sightline.check_name('space', name), sightline.check_name('pool', pool);
  perform pg_advisory_xact_lock(hashtextextended('sightline.create_space', 0));
  select s.* into made from sightline.space s where s.name = create_space.name;
  if made.space_id is not null then
    differing := concat_ws('; ',
      case when made.dim <> create_space.dim and made.passport->'dim' is not distinct from create_space.passport->'dim'
           then format('dimension: %s there, %s given', made.dim, create_space.dim) end,
      sightline.passport_differences(made.passport, create_space.passport, 'there', 'given'));
    if differing <> '' then
      raise exception 'space "%" exists with another passport (%)', name, differing
        using errcode = 'duplicate_object', hint = 'Vectors of two models are never compared: choose another name.';
    end if;
    if pool <> coalesce(made.pool, '') then
      raise exception 'space "%" exists and is served by %, not by pool "%"', name,
        coalesce(format('pool "%s"', made.pool), 'the workers of no pool'), pool
        using errcode = 'duplicate_object', hint = 'Choose another name, or leave the pool out.';
    end if;
    return made.space_id;
  end if;
  if exists (select from sightline.space_alias a where a.alias = create_space.name) then
    raise exception '"%" is the name of an alias', name using errcode = 'duplicate_object';
  end if;
  insert into sightline.space (name, model, revision, dim, modalities, pool, passport)
  values (name, model, revision, dim, modalities, pool, passport) returning * into made;

  partition := 'embedding_s' || made.space_id;
  execute format('create table sightline.%I (like sightline.embedding including defaults including constraints)', partition);
  execute format('alter table sightline.%1$I add constraint %2$I check ({vector}.vector_dims(vec) = %3$s), '
                 'add constraint %4$I check (space_id = %5$s)',
                 partition, 'dimension_of_space_' || made.name, made.dim, partition || '_space', made.space_id);
  execute format('alter table sightline.embedding attach partition sightline.%I for values in (%s)', partition, made.space_id);
  perform sightline.create_space_views(made);
  return made.space_id;
end $$;

-- Point an alias (and its views `<alias>_image`, `<alias>_text`) to a space. The vector column of alias views is untyped, so that
-- a model of another dimension can take over in one statement; it still uses the index.
create or replace function sightline.alias_space(alias text, space text) returns void
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target sightline.space := sightline.resolve_space(space);
  modality text;
begin
  perform sightline.check_name('alias', alias);
  if exists (select from sightline.space s where s.name = alias_space.alias) then
    raise exception '"%" is the name of a space', alias using errcode = 'duplicate_object';
  end if;
  insert into sightline.space_alias (alias, space_id) values (alias, target.space_id)
  on conflict on constraint space_alias_pkey do update set space_id = excluded.space_id, updated_at = now();
  foreach modality in array array['image', 'text'] loop
    if modality = any (target.modalities) then
      execute format('create or replace view sightline.%I with (security_invoker = true) as '
                     'select item_id, external_id, collection_id, collection, group_key, metadata, text, uri, stale, norm, embedded_at, '
                     'embedding::{vector}.halfvec as embedding from sightline.%I',
                     alias || '_' || modality, target.name || '_' || modality);
    else
      execute format('drop view if exists sightline.%I', alias || '_' || modality);
    end if;
  end loop;
end $$;

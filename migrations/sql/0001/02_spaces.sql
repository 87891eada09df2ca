-- Spaces: creation, aliases and typed views.

-- The space that a name or an alias means.
create function sightline.resolve_space(space text) returns sightline.space
language plpgsql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  found_space sightline.space;
begin
  select s.* into found_space from sightline.space s
  where s.name = resolve_space.space
     or s.space_id = (select a.space_id from sightline.space_alias a where a.alias = resolve_space.space)
  order by (s.name = resolve_space.space) desc limit 1;
  if found_space.space_id is null then
    raise exception 'no space named "%"; spaces: %', space,
      coalesce((select string_agg(s.name, ', ' order by s.name) from sightline.space s), 'none')
      using errcode = 'undefined_object', hint = 'Create it with: sightline space create NAME --model MODEL';
  end if;
  return found_space;
end $$;

-- The typed views of one space, one for each modality: `<space>_image`, `<space>_text`. LEFT JOINs, because the planner
-- drops those whose columns a query does not read; the foreign keys make them equal to inner joins.
create function sightline.create_space_views(space sightline.space) returns void
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  modality text;
begin
  foreach modality in array space.modalities loop
    execute format($view$
      create view sightline.%1$I with (security_invoker = true) as
      select e.item_id, i.external_id, i.collection_id, c.name as collection, i.group_key, i.metadata, i.text, i.uri,
             e.generation < i.generation as stale, e.norm, e.embedded_at, e.vec::{vector}.halfvec(%2$s) as embedding
      from sightline.embedding e
      left join sightline.item i on i.item_id = e.item_id
      left join sightline.collection c on c.collection_id = i.collection_id
      where e.space_id = %3$s and e.slot = 0 and e.modality = %4$L
    $view$, space.name || '_' || modality, space.dim, space.space_id, modality);
  end loop;
end $$;

-- Create a space, or return the existing one of that name if its passport is the same. The partition is built beside the
-- table and attached, because CREATE TABLE ... PARTITION OF would lock searches out.
create function sightline.create_space(
  name text, model text, dim int, passport jsonb default '{}', revision text default null,
  modalities text[] default '{image,text}', pool text default null
) returns smallint
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  made sightline.space;
  partition text;
  differing text;
begin
  perform pg_advisory_xact_lock(hashtextextended('sightline.create_space', 0));
  select s.* into made from sightline.space s where s.name = create_space.name;
  if made.space_id is not null then
    select string_agg(format('%s: %s here, %s given', k, coalesce(made.passport->>k, 'null'), coalesce(create_space.passport->>k, 'null')),
                      '; ' order by k)
    into differing
    from (select jsonb_object_keys(made.passport || create_space.passport)) as keys(k)
    where made.passport->k is distinct from create_space.passport->k
      -- Names, places, versions and precision do not make vectors incomparable; digests decide (models/passport.py).
      and k not in ('model', 'revision', 'source', 'libraries', 'dtype', 'image_pipeline');
    if made.dim <> create_space.dim then
      differing := concat_ws('; ', format('dimension: %s here, %s given', made.dim, create_space.dim), differing);
    end if;
    if differing is not null then
      raise exception 'space "%" exists with another passport (%)', name, differing
        using errcode = 'duplicate_object', hint = 'Vectors of two models are never compared: choose another name.';
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
create function sightline.alias_space(alias text, space text) returns void
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target sightline.space := sightline.resolve_space(space);
  modality text;
begin
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

revoke execute on function sightline.create_space_views, sightline.create_space, sightline.alias_space from public;

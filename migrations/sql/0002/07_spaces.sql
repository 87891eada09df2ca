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
  perform pg_advisory_xact_lock(hashtextextended('sightline.create_space', 0));
  select s.* into made from sightline.space s where s.name = create_space.name;
  if made.space_id is not null then
    select string_agg(format('%s: %s here, %s given', k, coalesce(made.passport->>k, 'null'), coalesce(create_space.passport->>k, 'null')),
                      '; ' order by k)
    into differing
    from (select jsonb_object_keys(made.passport || create_space.passport)) as keys(k)
    where made.passport->k is distinct from create_space.passport->k
      -- Names, places, versions and precision do not make vectors incomparable; digests decide (models/passport.py).
      and k not in ('model', 'revision', 'source', 'libraries', 'dtype', 'image_pipeline', 'modalities')
      -- Passports that were stored before there was `towers` do not say it.
      and (k <> 'towers' or made.passport ? 'towers');
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

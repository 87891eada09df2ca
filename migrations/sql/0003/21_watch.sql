-- Watch: keep embeddings in step with a user's own table. Its triggers only mark rows; `drain_watch`, which the leading worker calls, groups
-- the marks into jobs. What a row says is read then, so a mark says "look again" and nothing else.

create table sightline.watch (
  watch_id       int generated always as identity primary key,
  source         regclass not null,
  source_name    text not null,           -- as of the last look, for messages
  id_column      text not null,
  id_attnum      smallint not null,       -- by which a renamed column is found again
  content_column text not null,
  content_attnum smallint not null,
  modality       text not null check (modality in ('text', 'image')),
  collection_id  int not null unique references sightline.collection,
  space          text not null,           -- name or alias, as it was given
  scan           text check (scan in ('rows', 'rest')),  -- reading the whole table; then deleting what is not in it
  scan_after     text,                    -- the last id that was read
  scanned        bigint not null default 0,
  created_at     timestamptz not null default clock_timestamp(),
  drained_at     timestamptz,
  error          text,
  failed_at      timestamptz,
  try_at         timestamptz not null default clock_timestamp()
);

-- Rows to look at again; a null row_id means all of them. Neither unique nor with a foreign key, so that transactions of the user's that
-- mark the same row do not wait for each other.
create table sightline.watch_mark (
  watch_id  int not null,
  mark_id   bigint generated always as identity,
  row_id    text,
  marked_at timestamptz not null default clock_timestamp(),
  primary key (watch_id, mark_id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_insert_scale_factor = 0,
        autovacuum_vacuum_insert_threshold = 10000, autovacuum_vacuum_cost_delay = 0);
create index watch_mark_all on sightline.watch_mark (watch_id) where row_id is null;

-- The watch that an item comes from: only such items are deleted when their row is.
alter table sightline.item add column watch_id int;

-- The present name of a watched column: the one it was given by, or where that is gone the one that took its place; null if neither is there.
create function sightline.watched_column(source regclass, name text, attnum smallint) returns text
language sql stable set search_path = pg_catalog, sightline, pg_temp as $$
  select a.attname from pg_attribute a
  where a.attrelid = source and a.attnum > 0 and not a.attisdropped and (a.attname = name or a.attnum = watched_column.attnum)
  order by (a.attname = name) desc limit 1
$$;

-- The type to compare ids by: never a domain, whose checks would run with the owner's rights.
create function sightline.watched_type(source regclass, column_name text) returns text
language sql stable set search_path = pg_catalog, sightline, pg_temp as $$
  with recursive base as (
    select t.oid, t.typtype, t.typbasetype from pg_attribute a join pg_type t on t.oid = a.atttypid
    where a.attrelid = source and a.attname = column_name and not a.attisdropped
    union all
    select t.oid, t.typtype, t.typbasetype from base b join pg_type t on t.oid = b.typbasetype where b.typtype = 'd'
  )
  select format_type(oid, null) from base where typtype <> 'd'
$$;

-- The trigger of watched tables. It never fails the user's statement: what cannot be marked row by row is marked as a whole.
create function sightline.mark_rows() returns trigger
language plpgsql security definer set search_path = pg_catalog, sightline, pg_temp as $$
declare
  watched sightline.watch;
  id_column text;
  content_column text;
begin
  select w.* into watched from sightline.watch w where w.watch_id = tg_argv[0]::int;
  if watched.watch_id is null then
    return null;  -- no longer watched
  elsif tg_op = 'TRUNCATE' then
    insert into sightline.watch_mark (watch_id, row_id) values (watched.watch_id, null);
    return null;
  end if;
  id_column := sightline.watched_column(tg_relid, watched.id_column, watched.id_attnum);
  if tg_op = 'UPDATE' then
    content_column := sightline.watched_column(tg_relid, watched.content_column, watched.content_attnum);
    -- Rows of which id and content are as before are not marked; of a row that got another id both are.
    execute format(
      'with old as (select %1$I::text as id, %2$I::text as content from old_rows), new as (select %1$I::text as id, %2$I::text as content from new_rows) '
      'insert into sightline.watch_mark (watch_id, row_id) select distinct $1, d.id from '
      '((table new except all table old) union all (table old except all table new)) d', id_column, content_column) using watched.watch_id;
  else
    execute format('insert into sightline.watch_mark (watch_id, row_id) select $1, r.%I::text from %I r', id_column,
                   case tg_op when 'INSERT' then 'new_rows' else 'old_rows' end) using watched.watch_id;
  end if;
  return null;
exception when others then
  begin
    insert into sightline.watch_mark (watch_id, row_id) values (tg_argv[0]::int, null);
  exception when others then
    raise warning 'sightline does not see this change of %: %', tg_relid::regclass, sqlerrm;
  end;
  return null;
end $$;

-- Watch a table: each row is an item of the collection, with the row's id as external_id and the content of one column: a text, or with
-- modality `image` the uri of a file. Rows that are there are encoded, too; a row without content has no item. Watching again what is watched
-- looks at every row again. Returns the number of the watch.
create function sightline.watch(
  source regclass, id_column text, content_column text, collection text, space text default 'current', modality text default 'text'
) returns int
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp set lock_timeout = '5s' as $$
#variable_conflict use_column
declare
  reader name := (select r.rolname from pg_proc p join pg_roles r on r.oid = p.proowner where p.oid = 'sightline.drain_watch(int)'::regprocedure);
  relation pg_class;
  target_space sightline.space := sightline.resolve_space(space);
  target_collection int;
  made sightline.watch;
  id_column_of pg_attribute;
  content_of pg_attribute;
  refused text;
  event text;
begin
  select c.* into relation from pg_class c where c.oid = watch.source;
  select a.* into id_column_of from pg_attribute a where a.attrelid = watch.source and a.attname = watch.id_column and a.attnum > 0 and not a.attisdropped;
  select a.* into content_of from pg_attribute a where a.attrelid = watch.source and a.attname = watch.content_column and a.attnum > 0 and not a.attisdropped;
  refused := case
    when relation.relkind = 'p' then 'is partitioned: writes to a single partition would not be seen; call submit where you write it'
    when relation.relkind <> 'r' then 'is no table'
    when watch.source = 'sightline.item'::regclass or relation.relnamespace = 'pg_catalog'::regnamespace then 'is none of yours'
    when relation.relpersistence <> 'p' then 'is temporary or unlogged: a crash would empty it and no trigger would say so'
    when relation.relispartition or exists (select from pg_inherits i where watch.source in (i.inhrelid, i.inhparent))
      then 'is a partition or inherits: writes through the other table would not be seen; call submit where you write it'
    when relation.relrowsecurity and not (select r.rolsuper or r.rolbypassrls or (r.oid = relation.relowner and not relation.relforcerowsecurity)
                                          from pg_roles r where r.rolname = reader)
      then format('has row level security, which hides rows from %s: they would count as deleted', reader)
    when id_column_of.attnum is null then format('has no column "%s"', id_column)
    when content_of.attnum is null then format('has no column "%s"', content_column)
    when sightline.watched_type(watch.source, id_column) not in ('smallint', 'integer', 'bigint', 'numeric', 'uuid', 'text', 'character varying')
      then format('has ids of type %s; ids are whole numbers, uuids or texts', sightline.watched_type(watch.source, id_column))
    when not id_column_of.attnotnull or not exists (
      select from pg_index x where x.indrelid = watch.source and x.indisunique and x.indisvalid and x.indnkeyatts = 1 and x.indkey[0] = id_column_of.attnum
                               and x.indpred is null)
      then format('has ids in "%1$s" that may be null or there twice: it must be not null and have a unique index of its own (for a key of '
                  'several columns add one: code text generated always as (a::text || ''/'' || b::text) stored unique)', id_column)
    when sightline.watched_type(watch.source, content_column) not in ('text', 'character varying', 'character')
      then format('has content of type %s in "%s": it must be a text', sightline.watched_type(watch.source, content_column), content_column)
    when id_column_of.attgenerated = 'v' or content_of.attgenerated = 'v' then 'computes the column when it is read: make it a stored one'
    when not has_table_privilege(reader, watch.source, 'select') or not has_table_privilege(reader, watch.source, 'trigger')
      then format('may not be read or watched by %1$I: grant select, trigger on %2$s to %1$I', reader, watch.source)
  end;
  if refused is not null then
    raise exception 'table % %', watch.source, refused using errcode = 'invalid_parameter_value';
  elsif watch.modality is null or watch.modality <> all (target_space.modalities) then
    raise exception 'space "%" has no modality "%"; it has: %', target_space.name, modality, array_to_string(target_space.modalities, ', ')
      using errcode = 'invalid_parameter_value', hint = 'The content is of modality text, or image: uris of files.';
  elsif collection is null then
    raise exception 'watch needs a collection' using errcode = 'null_value_not_allowed';
  end if;

  insert into sightline.collection (name) values (watch.collection) on conflict (name) do nothing;
  select c.collection_id into target_collection from sightline.collection c where c.name = watch.collection;
  select w.* into made from sightline.watch w where w.collection_id = target_collection for update;
  if made.watch_id is null then
    insert into sightline.watch (source, source_name, id_column, id_attnum, content_column, content_attnum, modality, collection_id, space)
    values (watch.source, watch.source::text, watch.id_column, id_column_of.attnum, watch.content_column, content_of.attnum, watch.modality,
            target_collection, watch.space) returning * into made;
  elsif (made.source, made.id_column, made.content_column, made.modality, made.space)
        is distinct from (watch.source::regclass, watch.id_column, watch.content_column, watch.modality, watch.space) then
    raise exception 'collection "%" follows %, column "%", in space "%" already', collection, made.source_name, made.content_column, made.space
      using errcode = 'duplicate_object', hint = format('Take another collection, or: select sightline.unwatch(%L);', collection);
  end if;
  -- The lock that creating a trigger takes waits for those who write now: every row is seen, by the triggers or by the scan.
  foreach event in array array['insert', 'update', 'delete', 'truncate'] loop
    execute format('create or replace trigger sightline_watch_%1$s_%2$s after %2$s on %3$s %4$s for each statement execute function sightline.mark_rows(%1$s)',
                   made.watch_id, event, watch.source,
                   case event when 'insert' then 'referencing new table as new_rows' when 'delete' then 'referencing old table as old_rows'
                              when 'update' then 'referencing old table as old_rows new table as new_rows' end);
  end loop;
  insert into sightline.watch_mark (watch_id, row_id) values (made.watch_id, null);
  return made.watch_id;
end $$;

-- Stop watching the table that a collection follows. Its items stay, unless `prune`. Returns how many were deleted.
create function sightline.unwatch(collection text, prune boolean default false) returns bigint
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp set lock_timeout = '5s' as $$
declare
  watched sightline.watch;
  event text;
  deleted bigint := 0;
begin
  select w.* into watched from sightline.watch w join sightline.collection c on c.collection_id = w.collection_id
  where c.name = unwatch.collection for update of w;
  if watched.watch_id is null then
    raise exception 'collection "%" follows no table', collection using errcode = 'undefined_object', hint = 'select * from sightline.watched_tables;';
  end if;
  if exists (select from pg_class c where c.oid = watched.source) then
    foreach event in array array['insert', 'update', 'delete', 'truncate'] loop
      begin
        execute format('drop trigger if exists sightline_watch_%s_%s on %s', watched.watch_id, event, watched.source);
      exception when insufficient_privilege then
        raise warning 'only the owner of % may drop the trigger sightline_watch_%_%; until then it does nothing', watched.source, watched.watch_id, event;
      end;
    end loop;
  end if;
  delete from sightline.watch_mark m where m.watch_id = watched.watch_id;
  if prune then
    delete from sightline.item i where i.collection_id = watched.collection_id and i.watch_id = watched.watch_id;
    get diagnostics deleted = row_count;
  end if;
  delete from sightline.watch w where w.watch_id = watched.watch_id;
  return deleted;
end $$;

-- Bring the items of some ids to what their rows say: a job for those that are new or changed, an end to those whose rows are gone or
-- have no content. `contents` has null for those.
create function sightline.follow_rows(watched sightline.watch, ids text[], contents text[], lane text) returns void
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target_space sightline.space := sightline.resolve_space(watched.space);
  target_collection text := (select c.name from sightline.collection c where c.collection_id = watched.collection_id);
  good jsonb;
  bad jsonb;
  job bigint;
begin
  with given as materialized (
    select g.id, s.spec, sightline.item_problem(s.spec, target_space.modalities, true) as problem
    from unnest(ids, contents) g(id, content)
    cross join lateral (
      select jsonb_build_object('external_id', g.id, case watched.modality when 'text' then 'text' else 'uri' end, g.content) as spec
    ) s
    where g.content ~ '\S'
  )
  select coalesce(jsonb_agg(spec) filter (where problem is null), '[]'),
         coalesce(jsonb_agg(jsonb_build_object('external_id', coalesce(nullif(left(id, 400), ''), '(empty)'),
                                               'error', jsonb_build_object('class', 'InvalidInput', 'message', problem))) filter (where problem is not null), '[]')
  into good, bad from given;

  -- What a row no longer says must not be found.
  delete from sightline.item i
  where i.collection_id = watched.collection_id and i.watch_id = watched.watch_id and i.external_id = any (ids)
    and i.external_id not in (select g->>'external_id' from jsonb_array_elements(good) g);

  if bad <> '[]' or exists (select from sightline.plan_items(watched.space, target_collection, good) p
                            where p.new + p.changed + p.updated + p.encode_images + p.encode_texts > 0) then
    job := (sightline.open_job('encode', jsonb_build_object('space', watched.space), target_collection, lane)).job_id;
    perform sightline.add_items(job, good || bad), sightline.seal_job(job);
  end if;
  update sightline.item i set watch_id = watched.watch_id
  where i.collection_id = watched.collection_id and i.watch_id is distinct from watched.watch_id
    and i.external_id in (select g->>'external_id' from jsonb_array_elements(good) g);
end $$;

-- One step of a watch: some marks, and a piece of the scan that is under way. Returns how many rows and marks it dealt with.
create function sightline.follow(watched sightline.watch, step int) returns bigint
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  found_columns record;
  id_type text;
  ids text[];
  contents text[];
  dealt bigint := 0;
  n bigint;
begin
  if not exists (select from pg_class c where c.oid = watched.source) then
    raise exception 'table % is gone', watched.source_name
      using errcode = 'undefined_table', hint = 'unwatch its collection: with prune => true the items go, too.';
  end if;
  watched.source_name := watched.source::text;
  watched.id_column := sightline.watched_column(watched.source, watched.id_column, watched.id_attnum);
  watched.content_column := sightline.watched_column(watched.source, watched.content_column, watched.content_attnum);
  if watched.id_column is null or watched.content_column is null then
    raise exception 'table % has no longer the column that was watched; it was %', watched.source_name,
      (select format('"%s" with ids in "%s"', w.content_column, w.id_column) from sightline.watch w where w.watch_id = watched.watch_id)
      using errcode = 'undefined_column', hint = 'unwatch the collection and watch another column.';
  end if;
  select i.attnum as id, c.attnum as content into found_columns from pg_attribute i join pg_attribute c on c.attrelid = i.attrelid
  where i.attrelid = watched.source and i.attname = watched.id_column and c.attname = watched.content_column;
  id_type := sightline.watched_type(watched.source, watched.id_column);

  delete from sightline.watch_mark m where m.watch_id = watched.watch_id and m.row_id is null;
  get diagnostics n = row_count;
  -- A column that took the place of another fires no trigger.
  if n > 0 or (watched.id_attnum, watched.content_attnum) <> (found_columns.id, found_columns.content) then
    watched.id_attnum := found_columns.id;
    watched.content_attnum := found_columns.content;
    watched.scan := 'rows';
    watched.scan_after := null;
    watched.scanned := 0;
  end if;

  with taken as (
    delete from sightline.watch_mark m where m.watch_id = watched.watch_id and m.mark_id in (
      select o.mark_id from sightline.watch_mark o where o.watch_id = watched.watch_id order by o.mark_id limit step)
    returning m.row_id
  )
  select array_agg(distinct row_id), count(*) into ids, n from taken;
  dealt := dealt + n;
  if n > 0 then
    -- A statement of its own: it sees at least what the marks were made of.
    execute format('select array_agg(g.id), array_agg(t.%2$I::text) from unnest($1) g(id) left join %3$s t on t.%1$I = g.id::%4$s',
                   watched.id_column, watched.content_column, watched.source, id_type) into ids, contents using ids;
    perform sightline.follow_rows(watched, ids, contents, 'normal');
  end if;

  if watched.scan = 'rows' then
    execute format('select array_agg(r.id order by r.n), array_agg(r.content order by r.n) from ('
                   'select t.%1$I::text as id, t.%2$I::text as content, row_number() over (order by t.%1$I) as n from %3$s t '
                   'where $1 is null or t.%1$I > $1::%4$s order by t.%1$I limit $2) r',
                   watched.id_column, watched.content_column, watched.source, id_type) into ids, contents using watched.scan_after, step;
    n := coalesce(cardinality(ids), 0);
    if n > 0 then
      perform sightline.follow_rows(watched, ids, contents, 'bulk');
      watched.scan_after := ids[n];
    end if;
    watched.scanned := watched.scanned + n;
    if n < step then
      watched.scan := 'rest';
    end if;
    dealt := dealt + n + 1;
  elsif watched.scan = 'rest' then
    execute format('delete from sightline.item i where i.item_id in (select o.item_id from sightline.item o '
                   'where o.collection_id = $1 and o.watch_id = $2 and not exists (select from %2$s t where t.%1$I = o.external_id::%3$s) limit $3)',
                   watched.id_column, watched.source, id_type) using watched.collection_id, watched.watch_id, step;
    get diagnostics n = row_count;
    if n < step then
      watched.scan := null;
      watched.scan_after := null;
    end if;
    dealt := dealt + n + 1;
  end if;

  update sightline.watch w set
    source_name = watched.source_name, id_column = watched.id_column, id_attnum = watched.id_attnum, content_column = watched.content_column,
    content_attnum = watched.content_attnum, scan = watched.scan, scan_after = watched.scan_after, scanned = watched.scanned,
    drained_at = clock_timestamp(), error = null, failed_at = null
  where w.watch_id = watched.watch_id;
  return dealt;
end $$;

-- One step of the watch that has waited longest. Returns how much it dealt with: 0 when nothing waits. A watch that fails keeps its marks, says
-- why in `watched_tables`, and is tried again five seconds later. It reads users' tables, so it has the owner's rights.
create function sightline.drain_watch(step int default 1000) returns bigint
language plpgsql security definer set search_path = pg_catalog, sightline, {vector}, pg_temp set row_security = off set lock_timeout = '2s' as $$
declare
  watched sightline.watch;
  words text;
  hint text;
begin
  select w.* into watched from sightline.watch w
  where w.try_at <= clock_timestamp() and (w.scan is not null or exists (select from sightline.watch_mark m where m.watch_id = w.watch_id))
  order by w.drained_at nulls first limit 1 for no key update of w skip locked;
  if watched.watch_id is null then
    return 0;
  end if;
  return sightline.follow(watched, step);
exception when others then
  get stacked diagnostics words = message_text, hint = pg_exception_hint;
  update sightline.watch w set error = concat_ws('; ', words, nullif(hint, '')), failed_at = coalesce(w.failed_at, clock_timestamp()),
    drained_at = clock_timestamp(), try_at = clock_timestamp() + interval '5 seconds'
  where w.watch_id = watched.watch_id;
  return 1;
end $$;

-- How far sightline is behind the tables that it watches. `waiting` counts marks, `lag` is the age of the oldest; what is encoded of the rows
-- stands in `missing_items`.
create view sightline.watched_tables with (security_invoker = true) as
select w.watch_id, coalesce(k.oid::regclass::text, w.source_name) as source, w.id_column, w.content_column, w.modality, c.name as collection, w.space,
       case when k.oid is null then 'table is gone'
            when t.enabled < 4 then 'triggers are missing or disabled: watch it again'
            when w.error is not null then 'failing'
            when w.scan is not null or m.whole then 'reading the table'
            when m.waiting > 0 then 'following' else 'in step' end as state,
       m.waiting, clock_timestamp() - m.oldest as lag, w.scanned, w.drained_at, w.error as last_error, w.failed_at as failing_since
from sightline.watch w
join sightline.collection c on c.collection_id = w.collection_id
left join pg_catalog.pg_class k on k.oid = w.source
cross join lateral (select count(*) as waiting, min(o.marked_at) as oldest, coalesce(bool_or(o.row_id is null), false) as whole
                    from sightline.watch_mark o where o.watch_id = w.watch_id) m
cross join lateral (select count(*) as enabled from pg_catalog.pg_trigger g
                    where g.tgrelid = w.source and g.tgname ~ format('^sightline_watch_%s_[a-z]+$', w.watch_id) and g.tgenabled <> 'D') t;

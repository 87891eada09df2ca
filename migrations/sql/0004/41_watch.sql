-- What is written to a watched table while its triggers are disabled (a bulk load, a restore of the data alone) is found once they are enabled
-- again: the table is read anew. It was said to be in step.

-- Which versions of the triggers the last reading of the table has seen.
alter table sightline.watch add column triggers text;

-- A word for the triggers of a watch that changes when they are made anew, or disabled and enabled; null while they do not all fire.
create function sightline.watch_triggers(source regclass, watch_id int) returns text
language sql stable set search_path = pg_catalog, sightline, pg_temp as $$
  select string_agg(g.xmin::text, ',' order by g.tgname) from pg_trigger g
  where g.tgrelid = source and g.tgname ~ format('^sightline_watch_%s_[a-z]+$', watch_id) and g.tgenabled in ('O', 'A')
  having count(*) = 4
$$;

update sightline.watch w set triggers = sightline.watch_triggers(w.source, w.watch_id);

-- Bring the items of some ids to what their rows say: a job for those that are new or changed, an end to those whose rows are gone or
-- have no content. `contents` has null for those.
create or replace function sightline.follow_rows(watched sightline.watch, ids text[], contents text[], lane text) returns void
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target_space sightline.space := sightline.resolve_space(watched.space);
  target_collection text := (select c.name from sightline.collection c where c.collection_id = watched.collection_id);
  good jsonb;
  bad jsonb;
  job bigint;
begin
  with given as materialized (
    select g.id, s.spec, case when not sightline.is_plain_item(s.spec, target_space.modalities)
                              then sightline.item_problem(s.spec, target_space.modalities, true) end as problem
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
create or replace function sightline.follow(watched sightline.watch, step int) returns bigint
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  found_columns record;
  id_type text;
  ids text[];
  contents text[];
  enabled text;
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
  -- A column that took the place of another fires no trigger, nor does what is written while the triggers are disabled.
  enabled := sightline.watch_triggers(watched.source, watched.watch_id);
  if n > 0 or (watched.id_attnum, watched.content_attnum) <> (found_columns.id, found_columns.content) or enabled <> coalesce(watched.triggers, '') then
    watched.triggers := enabled;
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
    content_attnum = watched.content_attnum, triggers = watched.triggers, scan = watched.scan, scan_after = watched.scan_after, scanned = watched.scanned,
    drained_at = clock_timestamp(), error = null, failed_at = null
  where w.watch_id = watched.watch_id;
  return dealt;
end $$;

-- One step of the watch that has waited longest. Returns how much it dealt with: 0 when nothing waits. A watch that fails keeps its marks, says
-- why in `watched_tables`, and is tried again five seconds later. It reads users' tables, so it has the owner's rights.
create or replace function sightline.drain_watch(step int default 1000) returns bigint
language plpgsql security definer set search_path = pg_catalog, sightline, {vector}, pg_temp set row_security = off set lock_timeout = '2s' as $$
declare
  watched sightline.watch;
  words text;
  hint text;
begin
  select w.* into watched from sightline.watch w
  where w.try_at <= clock_timestamp()
    and (w.scan is not null or exists (select from sightline.watch_mark m where m.watch_id = w.watch_id)
         or sightline.watch_triggers(w.source, w.watch_id) <> coalesce(w.triggers, ''))
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
create or replace view sightline.watched_tables with (security_invoker = true) as
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
                    where g.tgrelid = w.source and g.tgname ~ format('^sightline_watch_%s_[a-z]+$', w.watch_id) and g.tgenabled in ('O', 'A')) t;

-- Roles: `sightline_reader` searches and looks, `sightline_producer` submits, `sightline_worker` does the work; the owner, who migrates, does
-- everything else. Roles belong to the whole cluster: two databases share them, and nothing here drops them.

-- Submitting needs no right on a table: the function has them. Who submits is still the session's user.
alter function sightline.submit(text, jsonb, text, jsonb, text, timestamptz, text) security definer;

-- The jobs that the session's user has submitted; null for all of them.
create function sightline.my_jobs(job_id bigint default null)
returns table (
  job_id bigint, kind text, state text, collection text, space text, submitted bigint, done bigint, failed bigint, skipped bigint,
  pending bigint, cancelled bigint, created_at timestamptz, finished_at timestamptz, error text
)
language sql stable security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select p.job_id, p.kind, p.state, p.collection, p.space, p.submitted, p.done, p.failed, p.skipped, p.pending, p.cancelled,
         p.created_at, p.finished_at, p.error
  from sightline.job_progress p
  where p.job_id in (select j.job_id from sightline.job j where j.submitted_by = session_user) and p.job_id = coalesce(my_jobs.job_id, p.job_id)
$$;

-- What of them failed and was neither retried nor dismissed.
create function sightline.my_failures(job_id bigint default null)
returns table (failure_id bigint, job_id bigint, external_id text, error_class text, message text, created_at timestamptz)
language sql stable security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select f.failure_id, f.job_id, f.external_id, f.error_class, f.message, f.created_at
  from sightline.failed_items f join sightline.job j on j.job_id = f.job_id
  where j.submitted_by = session_user and f.job_id = coalesce(my_failures.job_id, f.job_id) order by f.failure_id
$$;

-- One job as a row of `job_progress` in JSON: for its submitter, and for whoever may read the ledger. Null: there is none.
create function sightline.progress_of(job_id bigint) returns jsonb
language sql stable security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select to_jsonb(p) from sightline.job_progress p join sightline.job j on j.job_id = p.job_id
  where j.job_id = progress_of.job_id and (j.submitted_by = session_user or has_table_privilege(session_user, 'sightline.job', 'select'))
$$;

-- Make the roles where that is allowed, and grant them what they need: rights on parents and views, never on partitions, which would bypass
-- a policy on the parent. `sightline migrate` calls it each time. Returns the roles that are missing and may not be made.
create function sightline.grant_roles() returns text[]
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  -- What only the owner may do.
  owners constant text[] := '{create_space,create_space_views,alias_space,grant_roles,grant_view,watch,unwatch,follow,follow_rows,store_import}';
  -- What acts with the owner's rights, and for whom; of these only.
  lent constant jsonb := '{
    "submit": ["sightline_producer", "sightline_worker"], "my_jobs": ["sightline_producer"], "my_failures": ["sightline_producer"],
    "progress_of": ["sightline_producer", "sightline_reader", "sightline_worker"],
    "ask_text": ["sightline_reader"], "answer_to": ["sightline_reader"], "query_vector": ["sightline_reader"],
    "drain_watch": ["sightline_worker"]}';
  -- Functions that write, or may, and that a reader needs all the same.
  readers constant text[] := '{search_space,search_text,search_text_must_be_called_outside_a_transaction_block}';
  -- What a worker reads and does not write: the owner's decisions.
  fixed constant text[] := '{migration,space,space_alias,job_contract,watch,watch_mark,collection,blob}';
  -- Words of those who search.
  private constant text[] := '{question}';
  role text;
  missing text[] := '{}';
  names text;
begin
  foreach role in array array['sightline_reader', 'sightline_producer', 'sightline_worker'] loop
    begin
      if not exists (select from pg_roles r where r.rolname = role) then
        execute format('create role %I nologin', role);
      end if;
    exception
      when duplicate_object or unique_violation then null;  -- another database's migration made it at this moment
      when insufficient_privilege then missing := missing || role;
    end;
  end loop;

  revoke execute on all routines in schema sightline from public;
  foreach role in array array['sightline_reader', 'sightline_producer', 'sightline_worker'] loop
    continue when role = any (missing);
    execute format('grant usage on schema sightline to %I', role);
    if not has_schema_privilege(role, '{vector}'::regnamespace, 'usage') then
      begin
        execute format('grant usage on schema {vector} to %I', role);
      exception when insufficient_privilege then
        raise warning 'role % may not use the schema that has pgvector: grant usage on schema {vector} to %', role, role;
      end;
    end if;

    select string_agg(p.oid::regprocedure::text, ', ') into names from pg_proc p
    where p.pronamespace = 'sightline'::regnamespace and p.proname <> all (owners) and p.prorettype <> 'trigger'::regtype
      and case when p.prosecdef then lent->p.proname ? role
               when role = 'sightline_reader' then p.provolatile <> 'v' or p.proname = any (readers)
               else role = 'sightline_worker' end;
    execute format('grant execute on routine %s to %I', names, role);

    continue when role = 'sightline_producer';
    select string_agg(c.oid::regclass::text, ', ') into names from pg_class c
    where c.relnamespace = 'sightline'::regnamespace and c.relkind in ('r', 'p', 'v') and not c.relispartition
      and (role = 'sightline_worker' or c.relname <> all (private));
    execute format('grant select on %s to %I', names, role);
  end loop;

  if 'sightline_worker' <> all (missing) then
    select string_agg(c.oid::regclass::text, ', ') into names from pg_class c
    where c.relnamespace = 'sightline'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition and c.relname <> all (fixed || 'item'::text);
    execute format('grant insert, update, delete on %s to sightline_worker', names);
    grant update on sightline.item to sightline_worker;
  end if;
  return missing;
end $$;

-- A view that was made after the roles.
create function sightline.grant_view(name text) returns void
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  role text;
begin
  for role in select r.rolname from pg_roles r where r.rolname in ('sightline_reader', 'sightline_worker')
              and has_schema_privilege(r.rolname, 'sightline', 'usage') loop
    execute format('grant select on sightline.%I to %I', name, role);
  end loop;
end $$;

-- The typed views of one space, one for each modality: `<space>_image`, `<space>_text`. LEFT JOINs, because the planner
-- drops those whose columns a query does not read; the foreign keys make them equal to inner joins.
create or replace function sightline.create_space_views(space sightline.space) returns void
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
    perform sightline.grant_view(space.name || '_' || modality);
  end loop;
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
      perform sightline.grant_view(alias || '_' || modality);
    else
      execute format('drop view if exists sightline.%I', alias || '_' || modality);
    end if;
  end loop;
end $$;

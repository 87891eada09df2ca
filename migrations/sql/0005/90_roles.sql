-- Rights on what 0005 made: each new function that acts with the owner's rights, and each new table that a worker may not write, is named here.

-- Make the roles where that is allowed, and grant them what they need: rights on parents and views, never on partitions, which would bypass
-- a policy on the parent. `sightline migrate` calls it each time. Returns the roles that are missing and may not be made.
create or replace function sightline.grant_roles() returns text[]
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  -- What only the owner may do.
  owners constant text[] := '{create_space,create_space_views,alias_space,grant_roles,grant_view,watch,unwatch,follow,follow_rows,store_import,delete_items,remove_blobs}';
  -- What acts with the owner's rights, and for whom; of these only.
  lent constant jsonb := '{
    "submit": ["sightline_producer", "sightline_worker"], "my_jobs": ["sightline_producer"], "my_failures": ["sightline_producer"],
    "resolve_space": ["sightline_producer", "sightline_reader", "sightline_worker"],
    "own_job": ["sightline_producer", "sightline_reader", "sightline_worker"],
    "progress_of": ["sightline_producer", "sightline_reader", "sightline_worker"],
    "failures_of": ["sightline_producer", "sightline_reader", "sightline_worker"],
    "notes_of": ["sightline_producer", "sightline_reader", "sightline_worker"],
    "unserved_queues_of": ["sightline_producer", "sightline_reader", "sightline_worker"],
    "open_job": ["sightline_producer", "sightline_worker"], "keep_open": ["sightline_producer", "sightline_worker"],
    "feed": ["sightline_producer"], "end_feed": ["sightline_producer"], "missing_blobs": ["sightline_producer"],
    "add_blobs": ["sightline_producer"],
    "register_blobs": ["sightline_producer"], "stored_sources": ["sightline_producer", "sightline_reader"],
    "ask_text": ["sightline_reader"], "answer_to": ["sightline_reader"], "query_vector": ["sightline_reader"],
    "store_calibration": ["sightline_producer"],
    "drain_watch": ["sightline_worker"], "keep_golden": ["sightline_worker"],
    "followers_of": ["sightline_producer", "sightline_reader", "sightline_worker"],
    "bulk_advice": ["sightline_producer", "sightline_reader", "sightline_worker"],
    "write_captions": ["sightline_worker"], "select_best": ["sightline_producer", "sightline_worker"]}';
  -- Functions that write, or may, and that a reader needs all the same.
  readers constant text[] := '{search_space,caption_hits,search_text,search_text_must_be_called_outside_a_transaction_block}';
  -- What a worker reads and does not write: the owner's decisions.
  fixed constant text[] := '{migration,space,space_alias,job_contract,recipe,watch,watch_mark,collection,blob,golden,index_build,calibration}';
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

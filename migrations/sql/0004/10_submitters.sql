-- What Python's `ingest` and `Job` need of the database, for logins that may only submit: a job is fed, sealed and looked at by whoever
-- submitted it, and by whoever may change the ledger. All of these act with the owner's rights.

alter function sightline.resolve_space(text) security definer;
alter function sightline.open_job(text, jsonb, text, text, timestamptz, text, bytea) security definer;

-- Null unless the job is there and the session's user submitted it, or has this right on the ledger.
create function sightline.own_job(job_id bigint, privilege text) returns bigint
language sql stable security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select j.job_id from sightline.job j
  where j.job_id = own_job.job_id and (j.submitted_by = session_user or has_table_privilege(session_user, 'sightline.job', privilege))
$$;

-- Add items to an open job of the session's user; see add_items.
create function sightline.feed(job_id bigint, items jsonb) returns void
language plpgsql security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
begin
  if sightline.own_job(job_id, 'update') is null then
    raise exception 'there is no job % of user %', job_id, session_user using errcode = 'no_data_found';
  end if;
  perform sightline.add_items(job_id, items);
end $$;

-- No more items will come for a job of the session's user; see seal_job.
create function sightline.end_feed(job_id bigint, error text default null) returns void
language plpgsql security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
begin
  if sightline.own_job(job_id, 'update') is null then
    raise exception 'there is no job % of user %', job_id, session_user using errcode = 'no_data_found';
  end if;
  perform sightline.seal_job(job_id, error);
end $$;

-- A submitter says that it is alive and goes on with an unsealed job, however long it takes over its next items (see sweep).
create or replace function sightline.keep_open(job_id bigint) returns void
language sql security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  update sightline.job j set fed_at = clock_timestamp()
  where j.job_id = sightline.own_job(keep_open.job_id, 'update') and j.finished_at is null and j.sealed_at is null
$$;

-- What a collection has under external_ids that the submitter has files for: what did not change is not read again.
create function sightline.stored_sources(collection text, external_ids text[])
returns table (external_id text, uri text, source_tag text, digest text, uploaded boolean)
language sql stable security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select i.external_id, i.uri, i.source_tag, encode(i.digest, 'hex'), i.blob_digest is not null
  from sightline.item i
  where i.external_id = any (external_ids)
    and i.collection_id = (select c.collection_id from sightline.collection c where c.name = stored_sources.collection)
$$;

-- Which contents, by sha256, have to be uploaded.
create function sightline.missing_blobs(digests bytea[]) returns setof bytea
language sql stable security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select d from unnest(digests) d where not exists (select from sightline.blob b where b.digest = d)
$$;

-- Upload contents. Their names are computed here: nobody can store one under the sha256 of another. Give them sorted by it, so that two who
-- upload the same ones do not wait for each other crosswise.
create function sightline.add_blobs(contents bytea[]) returns void
language sql security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  insert into sightline.blob (digest, bytes) select sha256(c), c from unnest(contents) c on conflict do nothing
$$;

-- The first open failures of a job, oldest first: for its submitter, and for whoever may read the ledger.
create function sightline.failures_of(job_id bigint, max_rows int)
returns table (
  failure_id bigint, job_id bigint, collection text, item_id bigint, external_id text, error_class text, message text, attempt smallint
)
language sql stable security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select f.failure_id, f.job_id, f.collection, f.item_id, f.external_id, f.error_class, f.message, f.attempt from sightline.failed_items f
  where f.job_id = sightline.own_job(failures_of.job_id, 'select') order by f.failure_id limit max_rows
$$;

-- The first remarks on what the vectors of a job do not show, and how many there are.
create function sightline.notes_of(job_id bigint, max_rows int) returns table (external_id text, note text, total bigint)
language sql stable security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select i.external_id, e.note, count(*) over ()
  from (select distinct c.space_id, unnest(c.item_ids) as item_id from sightline.chunk c
        where c.job_id = sightline.own_job(notes_of.job_id, 'select')) w
  join sightline.embedding e on e.space_id = w.space_id and e.item_id = w.item_id
  join sightline.item i on i.item_id = e.item_id
  where e.note is not null and e.slot = 0 and e.generation = i.generation order by 1 limit max_rows
$$;

-- Queues on which a job waits and that no worker serves.
create function sightline.unserved_queues_of(job_id bigint) returns setof text
language sql stable security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select distinct c.queue from sightline.chunk c join sightline.queue_status q on q.queue = c.queue
  where c.job_id = sightline.own_job(unserved_queues_of.job_id, 'select') and c.state = 'queued' and q.workers = 0
$$;

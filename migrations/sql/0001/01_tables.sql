-- The tables of sightline. State constraints live in the tables, so that no client can write an impossible row.

create table sightline.collection (
  collection_id int generated always as identity primary key,
  name          text not null unique check (name <> '' and length(name) <= 200),
  created_at    timestamptz not null default now()
);

-- Content that was uploaded, addressed by the sha256 of its bytes. Images are compressed already: EXTERNAL skips pglz.
create table sightline.blob (
  digest     bytea primary key check (length(digest) = 32),
  bytes      bytea not null,
  created_at timestamptz not null default now()
);
alter table sightline.blob alter column bytes set storage external;

create table sightline.item (
  item_id       bigint generated always as identity primary key,
  collection_id int not null references sightline.collection,
  generation    int not null default 1 check (generation > 0),  -- grows with each change of content
  modality      text not null check (modality in ('image', 'text')),
  external_id   text not null check (external_id <> '' and octet_length(external_id) <= 2000),
  uri           text,
  blob_digest   bytea references sightline.blob,
  text          text,
  source_tag    text,             -- mtime and size, or etag, of a uri when it was submitted
  digest        bytea check (length(digest) = 32),  -- of the content; unknown for a uri until it is fetched
  group_key     text,
  parent_id     bigint references sightline.item on delete cascade,
  metadata      jsonb not null default '{}' check (jsonb_typeof(metadata) = 'object'),
  created_at    timestamptz not null default now(),
  updated_at    timestamptz not null default now(),
  unique (collection_id, external_id),
  constraint item_has_one_source check (num_nonnulls(uri, blob_digest, text) = 1),
  constraint item_source_fits_modality check ((modality = 'text') = (text is not null))
);
create index item_digest on sightline.item (digest);
create index item_blob_digest on sightline.item (blob_digest) where blob_digest is not null;
create index item_parent on sightline.item (parent_id) where parent_id is not null;
create index item_metadata on sightline.item using gin (metadata jsonb_path_ops);

create table sightline.space (
  space_id   smallint generated always as identity primary key,
  name       text not null unique check (name ~ '^[a-z][a-z0-9_]{0,39}$'),
  model      text not null,
  revision   text,
  dim        int not null check (dim between 1 and 4000),
  metric     text not null default 'cosine' check (metric = 'cosine'),
  modalities text[] not null default '{image,text}' check (modalities <@ '{image,text}' and modalities <> '{}'),
  pool       text check (pool ~ '^[a-z][a-z0-9_]{0,39}$'),  -- queue of the workers that hold this model
  passport   jsonb not null default '{}',
  created_at timestamptz not null default now()
);

create table sightline.space_alias (
  alias      text primary key check (alias ~ '^[a-z][a-z0-9_]{0,39}$'),
  space_id   smallint not null references sightline.space,
  updated_at timestamptz not null default now()
);

-- One partition for each space. The column is untyped because partitions of different types cannot be attached; a CHECK
-- on each partition fixes its dimension, and typed views give it a type.
create table sightline.embedding (
  space_id    smallint not null references sightline.space,
  item_id     bigint not null references sightline.item on delete cascade,
  slot        smallint not null default 0 check (slot >= 0),
  generation  int not null,       -- of the item whose content was encoded
  norm        real not null,      -- L2 norm before normalisation
  modality    text not null check (modality in ('image', 'text')),
  embedded_at timestamptz not null default now(),
  vec         {vector}.halfvec not null,
  primary key (space_id, item_id, slot)
) partition by list (space_id);

create table sightline.caption (
  caption_id    bigint generated always as identity primary key,
  item_id       bigint not null references sightline.item on delete cascade,
  recipe        text not null,
  model         text not null,
  params_digest bytea not null check (length(params_digest) = 32),
  params        jsonb not null default '{}',
  lang          text not null default 'en',
  n             smallint not null default 0 check (n >= 0),
  text          text not null,
  score         real,
  created_at    timestamptz not null default now(),
  unique (item_id, recipe, model, params_digest, lang, n)
);

-- The ledger. A job is what a user submitted; its effects are rows elsewhere.
create table sightline.job (
  job_id          bigint generated always as identity primary key,
  kind            text not null check (kind in ('encode', 'caption', 'rerank', 'context')),
  state           text not null default 'queued' check (state in ('queued', 'running', 'done', 'failed', 'cancelled')),
  lane            text not null default 'normal' check (lane in ('interactive', 'normal', 'bulk')),
  collection_id   int references sightline.collection,
  space_id        smallint references sightline.space,
  payload         jsonb not null default '{}' check (jsonb_typeof(payload) = 'object'),
  n_submitted     int not null default 0,  -- items given, whatever became of them
  n_unchanged     int not null default 0,  -- of those: already encoded with the same content
  n_duplicate     int not null default 0,  -- of those: same external_id given again in one batch, the last one counts
  n_rejected      int not null default 0,  -- of those: refused before a chunk was made; each has a failure row
  submitted_by    name not null default session_user,
  idempotency_key text,
  request_digest  bytea,                   -- of the request that first used the key
  run_at          timestamptz not null default now(),
  created_at      timestamptz not null default clock_timestamp(),
  fed_at          timestamptz not null default clock_timestamp(),  -- when items were last added
  sealed_at       timestamptz,             -- no more chunks will come
  finished_at     timestamptz,
  error           text,
  unique (submitted_by, idempotency_key),
  constraint job_finished_when_terminal check ((state in ('done', 'failed', 'cancelled')) = (finished_at is not null))
);
create index job_open on sightline.job (job_id) where finished_at is null;

create table sightline.chunk (
  chunk_id     bigint generated always as identity primary key,
  job_id       bigint not null references sightline.job,
  item_ids     bigint[] not null check (cardinality(item_ids) between 1 and 64),
  space_id     smallint references sightline.space,
  queue        text not null,
  lane         text not null check (lane in ('interactive', 'normal', 'bulk')),
  urgency      smallint not null generated always as (case lane when 'interactive' then 0 when 'normal' then 1 else 2 end) stored,
  state        text not null default 'queued' check (state in ('queued', 'running', 'done', 'cancelled')),
  attempt      smallint not null default 0,  -- grows on an error or a lost lease: the retry budget
  fence        int not null default 0,       -- grows with every claim: guards the writes
  worker_id    uuid,
  run_at       timestamptz not null default now(),
  published_at timestamptz,
  claimed_at   timestamptz,
  finished_at  timestamptz,
  n_done       int not null default 0,
  n_skipped    int not null default 0,       -- deleted meanwhile
  n_failed     int not null default 0,
  n_moved      int not null default 0,       -- went on in another chunk
  created_at   timestamptz not null default clock_timestamp(),
  constraint chunk_running_has_worker check ((state = 'running') = (worker_id is not null)),
  constraint chunk_done_adds_up check (state <> 'done' or n_done + n_skipped + n_failed + n_moved = cardinality(item_ids))
);
create index chunk_job on sightline.chunk (job_id);
-- In the order in which the dispatcher publishes: it reads the head of the backlog, however long that is.
create index chunk_unpublished on sightline.chunk (queue, urgency, run_at, chunk_id) where state = 'queued' and published_at is null;
create index chunk_published on sightline.chunk (published_at) where state = 'queued' and published_at is not null;
create index chunk_running on sightline.chunk (worker_id) where state = 'running';
create index chunk_open_space on sightline.chunk (space_id) where state in ('queued', 'running');

create table sightline.failure (
  failure_id  bigint generated always as identity primary key,
  job_id      bigint not null references sightline.job,
  chunk_id    bigint references sightline.chunk,
  item_id     bigint references sightline.item on delete cascade,
  generation  int,
  external_id text not null,
  error_class text not null,
  message     text not null,
  attempt     smallint not null default 0,
  created_at  timestamptz not null default now()
);
create index failure_job on sightline.failure (job_id);
create index failure_item on sightline.failure (item_id);

-- One row for each worker process: its heartbeat vouches for every chunk that it holds.
create table sightline.worker (
  worker_id  uuid primary key,
  name       text not null,
  pid        int not null,
  slots      int not null,        -- chunks' messages that it works on at a time
  free_slots int not null,
  queues     text[] not null,
  models     jsonb not null default '[]',
  started_at timestamptz not null default clock_timestamp(),
  seen_at    timestamptz not null default clock_timestamp(),
  stopped_at timestamptz
);

create table sightline.leader (
  role        text primary key,
  worker_id   uuid not null,
  term        bigint not null default 1,
  lease_until timestamptz not null
);

-- What dispatch and suspicion need to know of a chunk, and the settings of tables that are written all the time.

alter table sightline.chunk
  add column collection_id int not null default 0,      -- of its job, 0 for none: between these the dispatcher shares out the workers
  add column suspect boolean not null default false,    -- a worker was lost that held its items: no worker holds two of these at a time
  add column losses smallint not null default 0;        -- workers that were lost with this very chunk in hand
update sightline.chunk c set collection_id = j.collection_id
from sightline.job j where j.job_id = c.job_id and j.collection_id is not null and c.state in ('queued', 'running');

-- The backlog by queue, lane and collection, oldest first: the dispatcher steps from collection to collection and reads the head of each.
drop index sightline.chunk_unpublished;
create index chunk_waiting on sightline.chunk (queue, urgency, collection_id, run_at, chunk_id)
  where state = 'queued' and published_at is null and not suspect;
create index chunk_suspect on sightline.chunk (queue, run_at, chunk_id) where state = 'queued' and published_at is null and suspect;
create index job_unsealed on sightline.job (fed_at) where finished_at is null and sealed_at is null;

-- When a collection had its last turn in a lane of a queue. Losing a row costs a turn, no more.
create table sightline.turn (
  queue         text not null,
  urgency       smallint not null,
  collection_id int not null,
  served_at     timestamptz not null,
  primary key (queue, urgency, collection_id)
);

-- How many items of a collection may start in a second. `allowance` is what may start now, as of `counted_at`; below zero after a chunk
-- that was larger.
create table sightline.rate_limit (
  collection_id    int primary key references sightline.collection on delete cascade,
  items_per_second double precision not null check (items_per_second > 0 and items_per_second <= 1e6),
  allowance        double precision not null default 1,
  counted_at       timestamptz not null default clock_timestamp(),
  set_by           name not null default session_user,
  set_at           timestamptz not null default clock_timestamp()
);

-- A chunk is written four times in its life (queued, published, running, done), and indexes of open chunks hold a handful of millions of
-- rows: dead entries are to go long before a fifth of the table is dead, which is the default.
alter table sightline.chunk set (
  autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 1000, autovacuum_vacuum_cost_delay = 1);
alter table sightline.job set (
  fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.02,
  autovacuum_analyze_threshold = 500, autovacuum_vacuum_cost_delay = 1);
-- A few rows, each written every few seconds: with room on the page the new version stays there, and no index is touched.
alter table sightline.worker set (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
alter table sightline.leader set (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
alter table sightline.turn set (fillfactor = 40, autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 200);
alter table sightline.rate_limit set (fillfactor = 40, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

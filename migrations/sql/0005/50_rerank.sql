-- Rerank: what turns a scorer's score into a probability of relevance on one collection, and the rankings that jobs leave.

-- A scorer's scores mean nothing by themselves: each row was fitted on labelled pairs of one collection, and counts for no other, nor for
-- another version of the scorer. The newest one of a collection, scorer and version is used.
create table sightline.calibration (
  calibration_id bigint generated always as identity primary key,
  collection_id  int not null references sightline.collection on delete cascade,
  scorer         text not null check (scorer <> '' and length(scorer) <= 200),
  scorer_version text not null check (scorer_version <> ''),
  method         text not null check (method in ('isotonic', 'temperature')),
  params         jsonb not null check (jsonb_typeof(params) = 'object'),
  sample_digest  bytea not null check (length(sample_digest) = 32),  -- of the labelled pairs
  n              int not null check (n > 0),                         -- pairs that it was fitted on
  n_relevant     int not null check (n_relevant between 1 and n - 1),
  threshold      real check (threshold between 0 and 1),             -- of the score from which so large a share was relevant:
  precision_goal real check (precision_goal between 0 and 1),
  report         jsonb not null default '{}',                        -- on pairs that were held out
  created_by     name not null default session_user,
  created_at     timestamptz not null default now(),
  check ((threshold is null) or (precision_goal is not null))
);
create index calibration_newest on sightline.calibration (collection_id, scorer, scorer_version, calibration_id desc);

create function sightline.store_calibration(
  collection text, scorer text, scorer_version text, method text, params jsonb, sample_digest bytea, n int, n_relevant int,
  threshold real default null, precision_goal real default null, report jsonb default '{}'
) returns bigint
language plpgsql security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  stored bigint;
begin
  insert into sightline.calibration as c (collection_id, scorer, scorer_version, method, params, sample_digest, n, n_relevant, threshold,
                                          precision_goal, report)
  select k.collection_id, store_calibration.scorer, store_calibration.scorer_version, store_calibration.method, store_calibration.params,
         store_calibration.sample_digest, store_calibration.n, store_calibration.n_relevant, store_calibration.threshold,
         store_calibration.precision_goal, store_calibration.report
  from sightline.collection k where k.name = store_calibration.collection
  returning c.calibration_id into stored;
  if stored is null then
    raise exception 'no collection named "%"', left(store_calibration.collection, 200) using errcode = 'undefined_object';
  end if;
  return stored;
end $$;

-- What a rerank job found of each candidate. The order is by raw_score: a calibration may make equal what the scorer told apart.
create table sightline.ranking (
  job_id         bigint not null references sightline.job on delete cascade,
  item_id        bigint not null references sightline.item on delete cascade,
  generation     int not null,      -- of the item whose content was scored
  score          real not null check (score between 0 and 1),
  raw_score      real not null check (raw_score between 0 and 1),
  scorer         text not null,
  scorer_version text not null,
  calibration_id bigint references sightline.calibration on delete set null,
  seconds        real not null,     -- that the item's message took, for each of its items
  ranked_at      timestamptz not null default clock_timestamp(),
  primary key (job_id, item_id)
);
create index ranking_item on sightline.ranking (item_id);
create index ranking_calibration on sightline.ranking (calibration_id) where calibration_id is not null;

create view sightline.rankings with (security_invoker = true) as
select r.job_id, row_number() over (partition by r.job_id order by r.raw_score desc, r.item_id) as rank, i.external_id, r.item_id, r.score,
       r.raw_score, r.calibration_id is not null as calibrated, j.payload->>'query' as query, r.scorer, r.scorer_version, r.calibration_id,
       r.seconds, r.ranked_at, r.generation <> i.generation as stale
from sightline.ranking r join sightline.item i on i.item_id = r.item_id join sightline.job j on j.job_id = r.job_id;

-- A query of an image and words as one vector, for `nearest`; sightline/compose.py has the formula and where it is from.
create function sightline.compose_sum(image {vector}.halfvec, words {vector}.halfvec) returns {vector}.halfvec
language sql immutable parallel safe set search_path = pg_catalog, {vector}, pg_temp as $$
  select l2_normalize(l2_normalize(image::vector) + l2_normalize(words::vector))::halfvec
$$;

-- reference: of the text of the image; wanted: of the text of what is to be found.
create function sightline.compose_pdv(
  image {vector}.halfvec, reference {vector}.halfvec, wanted {vector}.halfvec,
  alpha_image float8 default 1.4, alpha_text float8 default 1.2, beta float8 default 0.75
) returns {vector}.halfvec
language plpgsql immutable parallel safe set search_path = pg_catalog, {vector}, pg_temp as $$
declare
  i vector := l2_normalize(image::vector);
  t vector := l2_normalize(reference::vector);
  step vector;
  dims int := vector_dims(image);
begin
  if alpha_image is null or alpha_image not between -0.5 and 2 or alpha_text is null or alpha_text not between -0.5 and 2
     or beta is null or beta not between 0 and 1 then
    raise exception 'alpha_image and alpha_text must lie between -0.5 and 2, beta between 0 and 1' using errcode = 'invalid_parameter_value';
  end if;
  step := l2_normalize(wanted::vector) - t;
  return l2_normalize(
    array_fill((1 - beta)::real, array[dims])::vector * i + array_fill(beta::real, array[dims])::vector * t
    + array_fill(((1 - beta) * alpha_image + beta * alpha_text)::real, array[dims])::vector * step)::halfvec;
end $$;

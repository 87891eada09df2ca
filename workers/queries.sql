-- The worker's SQL. Each statement stands under `-- name:` and is read by workers/queries.py; the ledger's own moves are
-- functions of the schema (migrations/sql), called by their names.

-- name: waiting_chunks
-- The payload as text: what cannot be read is found out where it is read.
select c.space_id, j.kind, j.payload::text as payload, array_agg(c.chunk_id order by c.chunk_id) as chunk_ids
from sightline.chunk c join sightline.job j on j.job_id = c.job_id
where c.chunk_id = any (%(chunk_ids)s) and c.state = 'queued'
group by c.space_id, j.kind, j.payload::text

-- name: claim
select c.chunk_id, c.job_id, c.item_ids, c.space_id, c.lane, c.attempt, c.fence
from sightline.claim(%(chunk_ids)s, %(worker_id)s) c order by c.chunk_id

-- name: release
select sightline.release(%(chunk_ids)s, %(worker_id)s)

-- name: postpone
-- Nobody has claimed them; they are published again after a while.
update sightline.chunk set published_at = null, run_at = clock_timestamp() + %(seconds)s * interval '1 second'
where chunk_id = any (%(chunk_ids)s) and state = 'queued'

-- name: fail_chunk
select sightline.fail_chunk(%(chunk_id)s, %(fence)s, %(error_class)s, %(message)s, %(max_attempts)s)

-- name: close_jobs
select sightline.close_jobs(%(job_ids)s)

-- name: running_of_worker
select coalesce(array_agg(chunk_id), '{}') from sightline.chunk where state = 'running' and worker_id = %(worker_id)s

-- name: load_items
-- `encoded`: a vector of the present content is there already, of an earlier delivery or another job. LATERAL with LIMIT, here and
-- below, is one index lookup for each item whatever the planner thinks: without statistics, as in a bulk load, it read the whole space.
select i.item_id, i.generation, i.modality, i.external_id, i.uri, i.text, i.digest, i.blob_digest, b.blob_bytes,
       e.encoded is not null as encoded
from sightline.item i
left join lateral (
  select coalesce(octet_length(b.bytes), b.size) as blob_bytes from sightline.blob b where b.digest = i.blob_digest limit 1
) b on true
left join lateral (
  select true as encoded from sightline.embedding e
  where e.space_id = %(space_id)s and e.item_id = i.item_id and e.slot = 0 and e.generation = i.generation and e.modality = i.modality limit 1
) e on true
where i.item_id = any (%(item_ids)s::bigint[]) order by i.item_id

-- name: load_candidates
-- `encoded` says nothing here: a scorer reads the content, or finds the vector itself.
select i.item_id, i.generation, i.modality, i.external_id, i.uri, i.text, i.digest, i.blob_digest, null::int as blob_bytes, false as encoded
from sightline.item i where i.item_id = any (%(item_ids)s::bigint[])

-- name: stored_slots
-- Vectors of the present content of items, the whole item first.
select e.item_id, e.vec from unnest(%(item_ids)s::bigint[]) u(item_id)
join sightline.item i on i.item_id = u.item_id
cross join lateral (
  select e.item_id, e.slot, e.vec from sightline.embedding e
  where e.space_id = %(space_id)s and e.item_id = i.item_id and e.generation = i.generation and e.modality = i.modality
  order by e.slot limit 256
) e
order by e.item_id, e.slot

-- name: collections_of
select c.name as collection, array_agg((u.place - 1)::int order by u.place) as places
from unnest(%(item_ids)s::bigint[]) with ordinality u(item_id, place)
join sightline.item i on i.item_id = u.item_id join sightline.collection c on c.collection_id = i.collection_id
group by c.name

-- name: write_rankings
insert into sightline.ranking (job_id, item_id, generation, score, raw_score, scorer, scorer_version, calibration_id, seconds)
select %(job_id)s, r.item_id, r.generation, r.score, r.raw_score, r.scorer, r.scorer_version,
       (select k.calibration_id from sightline.calibration k where k.calibration_id = r.calibration_id), r.seconds
from jsonb_to_recordset(%(rows)s) r(item_id bigint, generation int, score real, raw_score real, scorer text, scorer_version text,
                                    calibration_id bigint, seconds real)
order by r.item_id
on conflict (job_id, item_id) do update set
  generation = excluded.generation, score = excluded.score, raw_score = excluded.raw_score, scorer = excluded.scorer,
  scorer_version = excluded.scorer_version, calibration_id = excluded.calibration_id, seconds = excluded.seconds,
  ranked_at = clock_timestamp()
where ranking.generation <= excluded.generation

-- name: newest_calibration
select k.calibration_id, k.method, k.params from sightline.calibration k
where k.collection_id = (select c.collection_id from sightline.collection c where c.name = %(collection)s)
  and k.scorer = %(scorer)s and k.scorer_version = %(version)s
order by k.calibration_id desc limit 1

-- name: load_blobs
select digest, bytes from sightline.blob where digest = any (%(digests)s)

-- name: known_captions
-- What is known of images that are to be captioned: their collection, the user's own caption, and those of their present content.
select i.item_id, k.name as collection,
       case when jsonb_typeof(i.metadata->'caption') = 'string' and i.metadata->>'caption' ~ '\S' then i.metadata->>'caption' end as own,
       coalesce((select jsonb_agg(jsonb_build_object('recipe', c.recipe, 'text', c.text, 'lang', c.lang) order by c.caption_id)
                 from sightline.caption c where c.item_id = i.item_id and not c.negative and c.generation = i.generation), '[]') as stored
from sightline.item i join sightline.collection k on k.collection_id = i.collection_id
where i.item_id = any (%(item_ids)s::bigint[])

-- name: earlier_captions
-- For each image: what a user (metadata `user`) wrote of other images of its collection, the newest first.
select i.item_id, array(
  select o.metadata->>'caption' from sightline.item o
  where o.collection_id = i.collection_id and o.modality = 'image' and o.item_id <> i.item_id
    and o.metadata @> jsonb_build_object('user', %(user)s::text) and jsonb_typeof(o.metadata->'caption') = 'string'
  order by o.item_id desc limit %(most)s) as texts
from sightline.item i where i.item_id = any (%(item_ids)s::bigint[])

-- name: captioned
select c.item_id from sightline.caption c join sightline.item i on i.item_id = c.item_id
where c.item_id = any (%(item_ids)s::bigint[]) and c.recipe = %(recipe)s and c.model = %(model)s and c.params_digest = %(params_digest)s
  and c.lang = %(lang)s and c.n = 0 and c.generation = i.generation and coalesce(c.alignment_space, %(space_id)s) = %(space_id)s

-- name: neighbours
select n.item_id, e.vec
from sightline.nearest(%(space)s, %(vector)s::halfvec, %(k)s + 1, %(collection)s) with ordinality n
join sightline.embedding e on e.space_id = %(space_id)s and e.item_id = n.item_id and e.slot = 0
where n.item_id <> %(item_id)s order by n.ordinality limit %(k)s

-- name: write_captions
select sightline.write_captions(%(job_id)s, %(captions)s::jsonb)

-- name: reusable_vectors
-- Vectors of the same content, of whatever item. One each: a blank page may be there a million times. OFFSET 0 keeps the order: first
-- the items of a digest, then their vectors.
select d.modality, d.digest, v.norm, v.note, v.vec
from unnest(%(modalities)s::text[], %(digests)s::bytea[]) d(modality, digest)
cross join lateral (
  select e.norm, e.note, e.vec
  from (select i.item_id, i.generation from sightline.item i where i.digest = d.digest and i.modality = d.modality offset 0) i
  cross join lateral (
    select e.norm, e.note, e.vec from sightline.embedding e
    where e.space_id = %(space_id)s and e.item_id = i.item_id and e.slot = 0 and e.generation = i.generation and e.modality = d.modality
    limit 1
  ) e
  limit 1
) v

-- name: limit_waiting
-- A transaction of somebody else that holds an item for long costs a retry, not the slot. And this one must not hold its chunks when its
-- host is gone and the connection is not: the sweeper skips what is locked.
select set_config('lock_timeout', '5s', true), set_config('idle_in_transaction_session_timeout', '10s', true)

-- name: hold_claims
select sightline.hold_claims(%(worker_id)s, %(chunk_ids)s, %(fences)s) as chunk_id

-- name: write_digests
-- What was learnt of the content of files. A file that is another than its digest says changed without a word to sightline: that is a
-- new generation, or vectors of the old content would pass for vectors of the new one.
with given as (
  select * from unnest(%(item_ids)s::bigint[], %(generations)s::int[], %(digests)s::bytea[]) g(item_id, generation, digest)
), locked as (
  select i.item_id from sightline.item i join given g on g.item_id = i.item_id
  where i.generation = g.generation and i.digest is distinct from g.digest order by i.item_id for no key update of i
)
update sightline.item i set digest = g.digest, generation = i.generation + (i.digest is not null)::int, updated_at = now()
from given g join locked l on l.item_id = g.item_id where i.item_id = g.item_id

-- name: lock_items
-- Which items are still there; none of them is deleted before this transaction ends.
select item_id, generation, digest from sightline.item where item_id = any (%(item_ids)b::bigint[]) order by item_id for key share

-- name: upsert_vectors
-- Arrays in binary format, not COPY into a temporary table: making room in one and emptying it costs as much as the rows of a message.
insert into sightline.embedding (space_id, item_id, slot, generation, norm, modality, note, vec)
select %(space_id)s, f.item_id, 0, f.generation, f.norm, f.modality, f.note, f.vec
from unnest(%(item_ids)b::bigint[], %(generations)b::int[], %(norms)b::real[], %(modalities)s::text[], %(notes)s::text[], %(vectors)b::halfvec[])
  f(item_id, generation, norm, modality, note, vec)
order by f.item_id
on conflict (space_id, item_id, slot) do update set
  generation = excluded.generation, norm = excluded.norm, modality = excluded.modality, note = excluded.note,
  embedded_at = excluded.embedded_at, vec = excluded.vec
where embedding.generation <= excluded.generation

-- name: insert_failures
insert into sightline.failure (job_id, chunk_id, item_id, generation, external_id, error_class, message, attempt)
select * from unnest(%(job_ids)s::bigint[], %(chunk_ids)s::bigint[], %(item_ids)s::bigint[], %(generations)s::int[], %(external_ids)s::text[],
                     %(error_classes)s::text[], %(messages)s::text[], %(attempts)s::smallint[])

-- name: move_items
select sightline.move_items(%(chunk_id)s, %(item_ids)s)

-- name: finish_chunks
select sightline.finish_chunks(%(worker_id)s, %(chunk_ids)s, %(fences)s, %(done)s, %(failed)s, %(skipped)s, %(moved)s)

-- name: served_spaces
select space_id, name, model, revision, dim, modalities, pool, passport from sightline.space
where exists (select from unnest(%(queues)s::text[]) q where q ~ '^[a-z]+(\.|$)' and substr(q, strpos(q || '.', '.') + 1) = coalesce(pool, ''))
order by space_id

-- name: space_by_id
select space_id, name, model, revision, dim, modalities, pool, passport from sightline.space where space_id = %(space_id)s

-- name: space_by_name
select s.space_id, s.name, s.model, s.revision, s.dim, s.modalities, s.pool, s.passport from sightline.space s
where s.name = %(name)s or s.space_id = (select a.space_id from sightline.space_alias a where a.alias = %(name)s)
order by (s.name = %(name)s) desc limit 1

-- name: keep_golden
select k.vectors, k.dtype, k.maker, k.stored_at
from sightline.keep_golden(%(space_id)s::smallint, %(modality)s, %(inputs)b, %(vectors)s::real[], %(dtype)s, %(maker)s) k

-- name: beat
-- Returns the chunks in the worker's hands whose job was cancelled.
with beat as (
  insert into sightline.worker as w (worker_id, name, pid, slots, free_slots, queues, models, paces, version)
  values (%(worker_id)s, %(name)s, %(pid)s, %(slots)s, %(free_slots)s, %(queues)s, %(models)s, %(paces)s, %(version)s)
  on conflict (worker_id) do update set
    free_slots = excluded.free_slots, queues = excluded.queues, models = excluded.models, paces = excluded.paces,
    seen_at = clock_timestamp()
)
select coalesce(array_agg(c.chunk_id), '{}') as cancelled
from sightline.job j join sightline.chunk c on c.job_id = j.job_id
where j.finished_at is null and j.cancel_requested_at is not null and c.state = 'running' and c.worker_id = %(worker_id)s

-- name: queue_load
select queue, queued_items, running_items, age_seconds, cost_seconds, workers from sightline.queue_load

-- name: indexed_modalities
select s.name as space, m.modality from sightline.space s cross join lateral unnest(s.modalities) m(modality)
where exists (select from pg_class c join pg_index i on i.indexrelid = c.oid
              where c.relname = s.name || '_' || m.modality || '_hnsw' and c.relnamespace = 'sightline'::regnamespace and i.indisvalid)
order by 1, 2

-- name: sample_recall
select sightline.sample_recall(%(space)s, %(modality)s) as recall

-- name: vouch
update sightline.worker set seen_at = clock_timestamp() where worker_id = %(worker_id)s and stopped_at is null

-- name: worker_stopped
update sightline.worker set stopped_at = clock_timestamp(), seen_at = clock_timestamp(), queues = '{}', free_slots = 0
where worker_id = %(worker_id)s

-- name: lead
select sightline.lead('dispatcher', %(worker_id)s, %(seconds)s * interval '1 second') as lead,
       extract(epoch from clock_timestamp())::float8 as now

-- name: stop_leading
delete from sightline.leader where role = 'dispatcher' and worker_id = %(worker_id)s

-- name: take_unpublished
-- Nothing for a leader whose lease is over; the condition is checked before anything is taken.
select queue, chunk_ids from sightline.take_unpublished(%(lease)s * interval '1 second', %(per_slot)s)
where exists (select from sightline.leader l where l.role = 'dispatcher' and l.worker_id = %(worker_id)s and l.lease_until > clock_timestamp())

-- name: sweep
-- Not by a leader whose lease is over: it was frozen, and so perhaps was whoever looks lost to it.
select sightline.sweep(%(lease)s * interval '1 second', %(max_attempts)s)
where exists (select from sightline.leader l where l.role = 'dispatcher' and l.worker_id = %(worker_id)s and l.lease_until > clock_timestamp())

-- name: sweep_declared
-- Before a lease has passed: only workers that their supervisors declared lost, which is to have been silent for an hour and to serve nothing.
-- Not while others look lost that may be about to beat again.
select sightline.sweep(interval '50 minutes', %(max_attempts)s)
from (
  select bool_and(w.queues = '{}') as declared from sightline.worker w
  where w.stopped_at is null and w.seen_at < clock_timestamp() - interval '50 minutes'
    and exists (select from sightline.chunk c where c.state = 'running' and c.worker_id = w.worker_id)
) silent
where silent.declared
  and exists (select from sightline.leader l where l.role = 'dispatcher' and l.worker_id = %(worker_id)s and l.lease_until > clock_timestamp())

-- name: waiting_long
select queue, bool_or(published_at < clock_timestamp() - %(longest)s * interval '1 second') as very_long
from sightline.chunk where state = 'queued' and published_at < clock_timestamp() - %(seconds)s * interval '1 second'
group by queue

-- name: publish_again
update sightline.chunk set published_at = null
where state = 'queued' and queue = %(queue)s and published_at < clock_timestamp() - %(seconds)s * interval '1 second'

-- name: forget_jobs
select sightline.forget_jobs(%(days)s * interval '1 day') as jobs, sightline.forget_turns()

-- name: forget_workers
delete from sightline.worker w where w.seen_at < clock_timestamp() - interval '1 day'
and not exists (select from sightline.chunk c where c.state = 'running' and c.worker_id = w.worker_id)

-- name: passport_differences
select sightline.passport_differences(%(stored)s, %(given)s, 'in the space', 'in the model') as differences

-- name: drain_watch
select sightline.drain_watch()

-- name: take_questions
select question_id, space, queue, words, seconds from sightline.take_questions(%(most)s)

-- name: answer_question
select sightline.answer_question(%(question_id)s, %(numbers)s::real[], %(note)s)

-- name: fail_question
select sightline.fail_question(%(question_id)s, %(error)s)

-- name: forget_questions
select sightline.forget_questions(%(keep)s)

-- name: submit_message
select sightline.submit(
  kind => %(kind)s, payload => coalesce(%(payload)s::jsonb, '{}'), collection => %(collection)s, items => %(items)s::jsonb,
  lane => coalesce(%(lane)s, 'normal'), run_at => coalesce(%(run_at)s::timestamptz, now()), idempotency_key => %(idempotency_key)s) as job_id

-- name: refuse_message
insert into sightline.refused_message (message_id, request, error) values (%(message_id)s, %(request)s, %(error)s)

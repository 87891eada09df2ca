-- What is published next: by lane, by how long it has waited, and in turns between collections.

-- Cut item ids into chunks of a job.
create or replace function sightline.add_chunks(job sightline.job, item_ids bigint[]) returns void
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  insert into sightline.chunk (job_id, collection_id, item_ids, space_id, queue, lane, run_at)
  select job.job_id, coalesce(job.collection_id, 0), array_agg(u.item_id order by u.n), job.space_id,
         job.kind || coalesce('.' || (select s.pool from sightline.space s where s.space_id = job.space_id), ''), job.lane, job.run_at
  from unnest(item_ids) with ordinality u(item_id, n)
  group by (u.n - 1) / 64 order by (u.n - 1) / 64
$$;

-- For each queue that is served and not paused: how many items may still be published, and how many suspects (one for each worker). The
-- window is `per_slot` full chunks for each slot; what is published or running takes its room.
create function sightline.room(lease interval, per_slot int) returns table (queue text, items bigint, suspects bigint)
language sql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with in_flight as (
    select f.queue, sum(f.items) as items, sum(f.suspects) as suspects
    from (
      select c.queue, cardinality(c.item_ids) as items, c.suspect::int as suspects from sightline.chunk c where c.state = 'running'
      union all
      select c.queue, cardinality(c.item_ids), c.suspect::int from sightline.chunk c where c.state = 'queued' and c.published_at is not null
    ) f
    group by f.queue
  )
  select q.queue, sum(w.slots) * per_slot * 64 - coalesce(max(f.items), 0), count(*) - coalesce(max(f.suspects), 0)
  from sightline.worker w
  cross join lateral unnest(w.queues) q(queue)
  left join in_flight f on f.queue = q.queue
  where w.stopped_at is null and w.seen_at > clock_timestamp() - lease
    and not exists (select from sightline.pause p where p.queue = q.queue)
  group by q.queue
$$;

-- The lanes and collections that have due chunks in a queue, each with its oldest. One look-up in the index for each, however long their
-- backlogs are.
create function sightline.waiting_collections(queue text) returns table (urgency smallint, collection_id int, due_at timestamptz, items int)
language sql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  with recursive head as (
    (select c.urgency, c.collection_id, c.run_at, cardinality(c.item_ids) as items from sightline.chunk c
     where c.queue = waiting_collections.queue and c.state = 'queued' and c.published_at is null and not c.suspect
     order by c.urgency, c.collection_id, c.run_at limit 1)
    union all
    select next.* from head cross join lateral (
      select c.urgency, c.collection_id, c.run_at, cardinality(c.item_ids) from sightline.chunk c
      where c.queue = waiting_collections.queue and c.state = 'queued' and c.published_at is null and not c.suspect
        and (c.urgency, c.collection_id) > (head.urgency, head.collection_id)
      order by c.urgency, c.collection_id, c.run_at limit 1
    ) next
  )
  select head.urgency, head.collection_id, head.run_at, head.items from head where head.run_at <= clock_timestamp()
$$;

-- Mark chunks as published, as many as there is room for. Returns messages: chunks of one queue, lane and space, together at most 256 items;
-- a suspect goes alone. The caller commits, then publishes.
--
-- A turn is a full chunk, or as many small ones as make one. In rounds each collection has a turn, whoever waited longest since its last one
-- first: a collection with a million chunks and one with a single chunk stand side by side. The interactive lane goes first; then one turn
-- for everybody who has waited for 30 s, of whatever lane; then the normal lane; what is left is for bulk.
create or replace function sightline.take_unpublished(lease interval, per_slot int)
returns table (queue text, lane text, space_id smallint, chunk_ids bigint[])
language plpgsql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target record;
  picked record;
  moment timestamptz := clock_timestamp();  -- a constant: the index stops at what is not due
  held int[];          -- collections that are paused
  cancelled bigint[];  -- jobs of which something may still be queued
  taken bigint[];       -- chunks in the order in which they were taken
  rate_of jsonb;       -- collection -> what it may start now, for those that are limited
  -- Who waits, in the order of their turns:
  urgencies smallint[];
  collections int[];
  sizes int[];         -- of the last chunk seen, to guess how many make a turn
  overdue boolean[];
  live boolean[];      -- something may be left to take
  served timestamptz[];
  free bigint;
  quantum bigint;
  allowed double precision;
  ids bigint[];
  items bigint;
  any_turn boolean;
begin
  cancelled := array(select j.job_id from sightline.job j where j.finished_at is null and j.cancel_requested_at is not null);
  held := array(select p.collection_id from sightline.pause p where p.collection_id is not null);
  -- Locked rows are being changed: their collections wait for the next look.
  with limits as (
    select l.collection_id, l.items_per_second, l.allowance, l.counted_at from sightline.rate_limit l for update skip locked
  )
  select coalesce(jsonb_object_agg(l.collection_id, least(greatest(l.items_per_second, 1),
           l.allowance + l.items_per_second * greatest(0, extract(epoch from clock_timestamp() - l.counted_at))::double precision)), '{}')
  into rate_of from limits l;
  held := held || array(select l.collection_id from sightline.rate_limit l where not rate_of ? l.collection_id::text);

  for target in select r.* from sightline.room(lease, per_slot) r order by r.queue loop
    take_unpublished.queue := target.queue;

    for picked in
      select c.chunk_id, c.lane, c.space_id from sightline.chunk c
      where c.queue = target.queue and c.state = 'queued' and c.published_at is null and c.suspect and c.run_at <= moment
        and c.collection_id <> all (held) and not array[c.job_id] <@ cancelled
      order by c.run_at, c.chunk_id limit greatest(target.suspects, 0) for update skip locked
    loop
      update sightline.chunk c set published_at = clock_timestamp() where c.chunk_id = picked.chunk_id;
      take_unpublished.lane := picked.lane;
      take_unpublished.space_id := picked.space_id;
      take_unpublished.chunk_ids := array[picked.chunk_id];
      return next;
    end loop;

    free := target.items;
    continue when free <= 0;
    taken := '{}';
    select coalesce(array_agg(w.urgency order by w.n), '{}'), coalesce(array_agg(w.collection_id order by w.n), '{}'),
           coalesce(array_agg(w.items order by w.n), '{}'), coalesce(array_agg(w.overdue order by w.n), '{}'),
           array_fill(true, array[count(*)::int]), array_fill(null::timestamptz, array[count(*)::int])
    into urgencies, collections, sizes, overdue, live, served
    from (
      select w.urgency, w.collection_id, w.items, row_number() over (order by t.served_at nulls first, w.due_at) as n,
             greatest(w.due_at, coalesce(t.served_at, w.due_at)) < clock_timestamp() - interval '30 seconds' as overdue
      from sightline.waiting_collections(target.queue) w
      left join sightline.turn t on t.queue = target.queue and t.urgency = w.urgency and t.collection_id = w.collection_id
      where w.collection_id <> all (held) and coalesce((rate_of->>w.collection_id::text)::double precision, 1) > 0
    ) w;

    for step in 0 .. 3 loop
      loop
        any_turn := false;
        for n in 1 .. cardinality(live) loop
          exit when free <= 0;
          continue when not live[n] or not case step when 0 then urgencies[n] = 0 when 1 then overdue[n] and urgencies[n] > 0
                                                     when 2 then urgencies[n] = 1 else urgencies[n] = 2 end;
          quantum := least(64, free);
          allowed := (rate_of->>collections[n]::text)::double precision;
          if allowed is not null then
            continue when allowed <= 0;
            quantum := least(quantum, greatest(1, ceil(allowed)::bigint));
          end if;
          ids := '{}'; items := 0;
          for picked in
            select c.chunk_id, cardinality(c.item_ids) as items from sightline.chunk c
            where c.queue = target.queue and c.urgency = urgencies[n] and c.collection_id = collections[n]
              and c.state = 'queued' and c.published_at is null and not c.suspect and c.run_at <= moment
              -- Said so because the planner takes `<> all` for a filter that hardly anything passes.
              and not array[c.job_id] <@ cancelled
            order by c.run_at, c.chunk_id limit (quantum + sizes[n] - 1) / sizes[n] for update skip locked
          loop
            ids := ids || picked.chunk_id; items := items + picked.items; sizes[n] := picked.items;
            exit when items >= quantum;
          end loop;
          if items = 0 then
            live[n] := false;
            continue;
          end if;
          update sightline.chunk c set published_at = clock_timestamp() where c.chunk_id = any (ids);
          taken := taken || ids;
          free := free - items;
          served[n] := clock_timestamp();
          if allowed is not null then
            rate_of := jsonb_set(rate_of, array[collections[n]::text], to_jsonb(allowed - items));
          end if;
          any_turn := true;
        end loop;
        exit when not any_turn or step = 1;
      end loop;
    end loop;

    insert into sightline.turn as t (queue, urgency, collection_id, served_at)
    select target.queue, u.urgency, u.collection_id, u.served_at
    from unnest(urgencies, collections, served) u(urgency, collection_id, served_at) where u.served_at is not null
    order by u.urgency, u.collection_id
    on conflict on constraint turn_pkey do update set served_at = excluded.served_at;

    -- Packed in the order in which they were taken.
    items := 0;
    take_unpublished.chunk_ids := '{}';
    for picked in
      select c.chunk_id, c.lane, c.space_id, cardinality(c.item_ids) as items
      from unnest(taken) with ordinality u(chunk_id, n) join sightline.chunk c on c.chunk_id = u.chunk_id
      order by c.urgency, c.space_id, u.n
    loop
      if items > 0 and (items + picked.items > 256 or (picked.lane, picked.space_id) is distinct from (take_unpublished.lane, take_unpublished.space_id)) then
        return next;
        items := 0;
        take_unpublished.chunk_ids := '{}';
      end if;
      take_unpublished.lane := picked.lane;
      take_unpublished.space_id := picked.space_id;
      take_unpublished.chunk_ids := take_unpublished.chunk_ids || picked.chunk_id;
      items := items + picked.items;
    end loop;
    if items > 0 then
      return next;
    end if;
  end loop;

  update sightline.rate_limit l set allowance = (rate_of->>l.collection_id::text)::double precision, counted_at = clock_timestamp()
  where rate_of ? l.collection_id::text;
end $$;

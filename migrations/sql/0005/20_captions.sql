-- Captions: what is known of each, how they are written, read and chosen.

-- The recipes, for those who read SQL; made from sightline/recipes.
create table sightline.recipe (
  name    text not null,
  kind    text not null,
  papers  int[] not null,
  summary text not null,
  needs   text[] not null,
  uses    text[] not null,
  cost    text not null,
  params  jsonb not null,  -- JSON Schema of the parameters
  primary key (kind, name)
);

alter table sightline.caption
  add column generation int not null default 1,             -- of the image that was described
  add column scores     jsonb not null default '{}' check (jsonb_typeof(scores) = 'object'),      -- what `score` is made of
  add column alignment  real,                               -- cosine of the vectors of image and caption
  add column alignment_space smallint references sightline.space,
  add column match      real check (match between 0 and 1), -- a matcher's probability that it is true of the image
  add column matcher    text,
  add column negative   boolean not null default false,     -- wrong on purpose
  add column selected   boolean not null default false,     -- see select_best
  add column truncated  boolean not null default false,
  add column provenance jsonb not null default '{}' check (jsonb_typeof(provenance) = 'object'),
  add column job_id     bigint,                             -- that wrote it last; jobs are forgotten sooner than captions
  add column written_at timestamptz not null default now(),
  add constraint caption_is_not_own check (recipe <> 'own'),  -- the user's own are metadata of their images
  add constraint caption_text_is_bounded check (length(text) between 1 and 10000),
  add constraint caption_text_is_clean check (text !~ '[\x01-\x09\x0b-\x1f\x7f-\x9f]' and text ~ '\S'),
  add constraint caption_selected_is_true check (not (selected and negative));
create unique index caption_selected on sightline.caption (item_id) where selected;
create index caption_alignment_space on sightline.caption (alignment_space) where alignment_space is not null;

-- An embedded caption is a text item of its own, under its image.
alter table sightline.item add column caption_id bigint references sightline.caption on delete cascade;
create unique index item_caption on sightline.item (caption_id) where caption_id is not null;

-- The job whose results this job embeds.
alter table sightline.job add column caused_by bigint;
create index job_caused_by on sightline.job (caused_by) where caused_by is not null;

-- Captions with what they are of. The user's own, in the metadata of an image under `caption` (its language under `caption_lang`), stand here
-- as recipe `own`: no job writes, selects or hides them.
create view sightline.captions with (security_invoker = true) as
select c.caption_id, c.item_id, k.name as collection, i.external_id, c.recipe, c.model, encode(c.params_digest, 'hex') as params_digest, c.params,
       c.lang, c.n::int as n, c.text, c.score, c.scores, c.alignment, s.name as alignment_space, c.match, c.matcher, c.negative, c.selected,
       c.truncated, c.generation < i.generation as stale, c.provenance, t.item_id as text_item_id, c.job_id, c.created_at, c.written_at
from sightline.caption c
join sightline.item i on i.item_id = c.item_id
join sightline.collection k on k.collection_id = i.collection_id
left join sightline.space s on s.space_id = c.alignment_space
left join sightline.item t on t.caption_id = c.caption_id
union all
select null, i.item_id, k.name, i.external_id, 'own', null, null, '{}', coalesce(i.metadata->>'caption_lang', 'en'), 0, i.metadata->>'caption',
       null, '{}', null, null, null, null, false, false, false, false, '{}', null, null, i.created_at, i.updated_at
from sightline.item i
join sightline.collection k on k.collection_id = i.collection_id
where i.modality = 'image' and jsonb_typeof(i.metadata->'caption') = 'string' and i.metadata->>'caption' ~ '\S';

-- As before, and the parameters of a recipe are checked by the schema of the recipe, where a kind has recipes.
create or replace function sightline.check_payload(kind text, payload jsonb, out version int, out problem text)
language plpgsql stable set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  served int[];
  recipe_params jsonb;
begin
  select array_agg(c.version order by c.version) into served from sightline.job_contract c where c.kind = check_payload.kind and c.served;
  if served is null then
    problem := format(case when exists (select from sightline.job_contract c where c.kind = check_payload.kind)
                           then 'kind "%s" is not served by this version; served: %s' else 'unknown kind "%s"; served: %s' end,
                      kind, (select string_agg(k.kind, ', ' order by k.kind collate "C")
                             from (select distinct c.kind from sightline.job_contract c where c.served) k));
  elsif jsonb_typeof(payload) is distinct from 'object' then
    problem := format('payload of %s must be an object, not %s', kind, sightline.shown(payload));
  else
    select v into version from unnest(served) v
    where not payload ? 'version' or to_jsonb(v) = payload->'version' order by v desc limit 1;
    if version is null then
      problem := format('payload of %s: unknown version %s; versions: %s', kind, sightline.shown(payload->'version'), array_to_string(served, ', '));
    else
      select format('payload of %s: %s', check_payload.kind, p) into problem
      from sightline.job_contract c, sightline.schema_problem(c.schema, payload) p
      where c.kind = check_payload.kind and c.version = check_payload.version and p is not null;
      if problem is null and payload->>'recipe' is not null and exists (select from sightline.recipe r where r.kind = check_payload.kind) then
        select r.params into recipe_params from sightline.recipe r where r.kind = check_payload.kind and r.name = payload->>'recipe';
        if not found then
          problem := format('payload of %s: unknown recipe %s; recipes: %s', kind, sightline.shown(payload->'recipe'),
                            (select string_agg(r.name, ', ' order by r.name collate "C") from sightline.recipe r where r.kind = check_payload.kind));
        else
          problem := format('payload of %s: params of %s: ', kind, payload->>'recipe')
                     || sightline.schema_problem(recipe_params, coalesce(payload->'params', '{}'));
        end if;
      end if;
    end if;
  end if;
end $$;

-- As before, and captions are costly: a lease covers fewer of them.
create or replace function sightline.add_chunks(job sightline.job, item_ids bigint[]) returns void
language sql set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  insert into sightline.chunk (job_id, collection_id, item_ids, space_id, queue, lane, run_at)
  select job.job_id, coalesce(job.collection_id, 0), array_agg(u.item_id order by u.n), job.space_id,
         job.kind || coalesce('.' || (select s.pool from sightline.space s where s.space_id = job.space_id), ''), job.lane, job.run_at
  from unnest(item_ids) with ordinality u(item_id, n)
  group by (u.n - 1) / case job.kind when 'caption' then 16 else 64 end
  order by (u.n - 1) / case job.kind when 'caption' then 16 else 64 end
$$;

-- Submit a job in the caller's transaction; it runs once that commits. `items` null means everything in the collection that has
-- no vector of its present content in the space, or of a caption job every image; a collection is made only for items.
create or replace function sightline.submit(
  kind text, payload jsonb, collection text default null, items jsonb default null, lane text default 'normal',
  run_at timestamptz default now(), idempotency_key text default null
) returns bigint
language plpgsql security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target sightline.job;
  ids bigint[];
  digest bytea;
begin
  if idempotency_key is not null then
    digest := sha256(convert_to(jsonb_build_array(kind, payload, collection, items, lane)::text, 'UTF8'));
  end if;
  if items is null and collection is not null and not exists (select from sightline.collection c where c.name = submit.collection) then
    raise exception 'no collection named "%"', left(collection, 200) using errcode = 'undefined_object';
  end if;
  target := sightline.open_job(kind, payload, collection, lane, run_at, idempotency_key, digest);
  if target.sealed_at is not null then
    return target.job_id;
  end if;
  if kind = 'caption' and exists (select from sightline.space s where s.space_id = target.space_id and not s.modalities @> '{image}') then
    raise exception 'the space of a caption job must take images' using errcode = 'invalid_parameter_value';
  elsif kind = 'caption' and (payload->>'embed')::boolean
        and exists (select from sightline.space s where s.space_id = target.space_id and not s.modalities @> '{text}') then
    raise exception 'captions cannot be embedded in a space that takes no texts' using errcode = 'invalid_parameter_value';
  end if;
  if items is not null then
    perform sightline.add_items(target.job_id, items);
  elsif collection is null then
    raise exception 'submit needs items, a collection or both' using errcode = 'invalid_parameter_value';
  else
    select coalesce(array_agg(i.item_id), '{}') into ids
    from sightline.item i join sightline.space s on s.space_id = target.space_id
    where i.collection_id = target.collection_id and i.modality = any (s.modalities) and i.parent_id is null
      and (target.kind <> 'caption' or i.modality = 'image');
    ids := sightline.without_result(target, ids);
    perform sightline.add_chunks(target, ids);
    update sightline.job j set n_submitted = cardinality(ids) where j.job_id = target.job_id;
  end if;
  perform sightline.seal_job(target.job_id);
  return target.job_id;
end $$;

-- Store what a caption job wrote of some images: `captions` is an array of objects with the columns of the table, `params_digest` in hex, and
-- `as_item` for what is to be a text item in any case. What is stored of newer content stays; of what is written again with fewer captions the
-- rest goes. Where the job embeds, and for `as_item`, captions become text items under their image, and a job encodes them. Returns how many
-- rows were written.
create function sightline.write_captions(job_id bigint, captions jsonb) returns bigint
language plpgsql security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target sightline.job;
  space sightline.space;
  follower sightline.job;
  written bigint[];
  to_embed bigint[];
  ids bigint[];
  taken text;
begin
  select j.* into strict target from sightline.job j where j.job_id = write_captions.job_id and j.kind = 'caption';
  select s.* into space from sightline.space s where s.space_id = target.space_id;

  with given as materialized (
    select g.*, decode(g.params_digest, 'hex') as digest
    from jsonb_to_recordset(captions) g(
      item_id bigint, generation int, recipe text, model text, params_digest text, params jsonb, lang text, n smallint, text text, score real,
      scores jsonb, alignment real, alignment_space smallint, match real, matcher text, negative boolean, truncated boolean, provenance jsonb,
      as_item boolean)
    join sightline.item i on i.item_id = g.item_id
  ), fewer as (
    delete from sightline.caption c
    using (select g.item_id, g.recipe, g.model, g.digest, g.lang, max(g.n) as last, max(g.generation) as generation
           from given g group by g.item_id, g.recipe, g.model, g.digest, g.lang) k
    where c.item_id = k.item_id and c.recipe = k.recipe and c.model = k.model and c.params_digest = k.digest and c.lang = k.lang
      and c.n > k.last and c.generation <= k.generation
  ), stored as (
    insert into sightline.caption as c (
      item_id, generation, recipe, model, params_digest, params, lang, n, text, score, scores, alignment, alignment_space, match, matcher,
      negative, truncated, provenance, job_id)
    select g.item_id, g.generation, g.recipe, g.model, g.digest, g.params, g.lang, g.n, g.text, g.score, coalesce(g.scores, '{}'), g.alignment,
           g.alignment_space, g.match, g.matcher, coalesce(g.negative, false), coalesce(g.truncated, false), coalesce(g.provenance, '{}'),
           target.job_id
    from given g order by g.item_id, g.recipe, g.model, g.digest, g.lang, g.n
    on conflict (item_id, recipe, model, params_digest, lang, n) do update set
      generation = excluded.generation, params = excluded.params, text = excluded.text, score = excluded.score, scores = excluded.scores,
      alignment = excluded.alignment, alignment_space = excluded.alignment_space, match = excluded.match, matcher = excluded.matcher,
      negative = excluded.negative, truncated = excluded.truncated, provenance = excluded.provenance, job_id = excluded.job_id,
      written_at = clock_timestamp(), selected = c.selected and c.text = excluded.text and not excluded.negative
    where c.generation <= excluded.generation
    returning c.caption_id, c.item_id, c.recipe, c.model, c.params_digest, c.lang, c.n, c.negative
  )
  select array_agg(s.caption_id),
         array_agg(s.caption_id) filter (where not s.negative and (g.as_item or (target.payload->>'embed')::boolean
                                           or exists (select from sightline.item t where t.caption_id = s.caption_id)))
  into written, to_embed
  from stored s
  join given g on (g.item_id, g.recipe, g.model, g.digest, g.lang, g.n) = (s.item_id, s.recipe, s.model, s.params_digest, s.lang, s.n);

  if to_embed is not null then
    with texts as (
      insert into sightline.item as t (collection_id, modality, external_id, text, parent_id, group_key, caption_id)
      select i.collection_id, 'text', 'sightline:caption/' || c.caption_id, c.text, c.item_id, i.group_key, c.caption_id
      from sightline.caption c join sightline.item i on i.item_id = c.item_id
      where c.caption_id = any (to_embed) order by c.caption_id
      on conflict (collection_id, external_id) do update set
        text = excluded.text, group_key = excluded.group_key, updated_at = now(),
        generation = t.generation + (t.text is distinct from excluded.text)::int,
        digest = case when t.text is not distinct from excluded.text then t.digest end
      where t.caption_id = excluded.caption_id
      returning t.item_id
    )
    select array_agg(t.item_id order by t.item_id) into ids from texts t;
    if cardinality(ids) is distinct from cardinality(to_embed) then
      select t.external_id into taken
      from sightline.caption c join sightline.item i on i.item_id = c.item_id
      join sightline.item t on t.collection_id = i.collection_id and t.external_id = 'sightline:caption/' || c.caption_id
      where c.caption_id = any (to_embed) and t.caption_id is distinct from c.caption_id order by c.caption_id limit 1;
      raise exception 'item % has an external_id that begins with sightline:caption/, which is for embedded captions: give it another', taken;
    end if;
    ids := case when space.modalities @> '{text}' then sightline.without_vector(target.space_id, ids) else '{}' end;
    if cardinality(ids) > 0 then
      insert into sightline.job (kind, payload, collection_id, space_id, lane, submitted_by, caused_by, n_submitted)
      values ('encode', jsonb_build_object('space', space.name, 'version', 1), target.collection_id, target.space_id, target.lane,
              target.submitted_by, target.job_id, cardinality(ids))
      returning * into follower;
      perform sightline.add_chunks(follower, ids);
      perform sightline.seal_job(follower.job_id);
    end if;
  end if;
  return coalesce(cardinality(written), 0);
end $$;

-- The jobs that a job submitted: those that encode the captions that it wrote.
create function sightline.followers_of(job_id bigint) returns setof bigint
language sql stable security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
  select j.job_id from sightline.job j where j.caused_by = sightline.own_job(followers_of.job_id, 'select')
$$;

-- Mark one caption of each image, of those of the present content that are not wrong on purpose. `rule`: `match` (the likeliest by the matcher,
-- then the best aligned) or `alignment` (the other way round); ties go to the older caption. `recipes` and `lang` say which are in question.
-- The user's own captions are in no choice: they stand in `captions` as they are. Returns how many images have a marked caption now.
create function sightline.select_best(rule text default 'match', collection text default null, recipes text[] default null, lang text default null)
returns bigint
language plpgsql security definer set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  only_one int := sightline.collection_of(collection);
  best bigint[];
begin
  if rule is null or rule not in ('match', 'alignment') then
    raise exception 'rule "%" is none of match, alignment', left(rule, 50) using errcode = 'invalid_parameter_value';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('sightline.select_best', 0));
  best := array(
    select distinct on (c.item_id) c.caption_id
    from sightline.caption c join sightline.item i on i.item_id = c.item_id
    where not c.negative and c.generation = i.generation and (only_one is null or i.collection_id = only_one)
      and (recipes is null or c.recipe = any (recipes)) and (select_best.lang is null or c.lang = select_best.lang)
    order by c.item_id, case rule when 'match' then c.match else c.alignment end desc nulls last,
             case rule when 'match' then c.alignment else c.match end desc nulls last, c.caption_id
  );
  update sightline.caption c set selected = false
  from sightline.item i
  where c.selected and i.item_id = c.item_id and (only_one is null or i.collection_id = only_one)
    and not exists (select from unnest(best) b(caption_id) where b.caption_id = c.caption_id);
  update sightline.caption c set selected = true from unnest(best) b(caption_id) where c.caption_id = b.caption_id and not c.selected;
  return cardinality(best);
end $$;

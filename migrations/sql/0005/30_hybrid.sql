-- Hybrid search: words of captions and texts, image vectors and caption vectors, fused by their ranks.

-- How the words of a language are stemmed; those of a language without rules stay as they are.
create function sightline.words_config(lang text) returns regconfig
language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
  select case lower(split_part(lang, '-', 1))
    when 'en' then 'english'::regconfig when 'de' then 'german'::regconfig when 'es' then 'spanish'::regconfig else 'simple'::regconfig end
$$;

-- The words of captions are stored, for they are ranked by them; those of items lie in the index alone: of a text itself, of an image the
-- caption that its owner gave it in the metadata. The metadata say in which language, as `lang` of a text and `caption_lang` of an image; English
-- if they do not. A text is read up to 100,000 characters, for a tsvector takes 1 MB. Both are expressions, not functions: a call of those for
-- each row takes an ingest of short texts as long again as the index does.
alter table sightline.caption add column words tsvector generated always as (to_tsvector(
  case lower(split_part(lang, '-', 1)) when 'en' then 'english'::regconfig when 'de' then 'german'::regconfig when 'es' then 'spanish'::regconfig
       else 'simple'::regconfig end, left(text, 100000))) stored;
create index caption_words on sightline.caption using gin (words);
create index item_words on sightline.item using gin (to_tsvector(
  case lower(split_part(coalesce(metadata->>case when text is null then 'caption_lang' else 'lang' end, 'en'), '-', 1))
       when 'en' then 'english'::regconfig when 'de' then 'german'::regconfig when 'es' then 'spanish'::regconfig else 'simple'::regconfig end,
  left(coalesce(text, metadata->>'caption'), 100000)))
  where parent_id is null and (text is not null or metadata ? 'caption');

-- Items by the words of their captions, of their own caption and, for texts, of themselves: the `most` best. A text is worth the sum of the
-- weights of the query's words that it has; a word weighs ln(1 + (N - n + 0.5) / (n + 0.5)) where n of N texts have it (the weight of
-- BM25: Robertson and Sparck Jones), so that a rare word counts for more than several common ones. Of equal worth those come first in which
-- the words stand closer together (ts_rank_cd), and what is equal in that too has equal rank. An item counts as its best text;
-- captions that are wrong on purpose find nothing.
--
-- Which texts are looked at, of those that pass the filter: those with all the words, and those with any of the rarer ones; 5,000 of each at
-- most (`bounded` says that there were more). A word that thousands of them have finds nothing alone, but it ranks what the others have found.
create function sightline.word_hits(
  query_text text, most int, collection_id int, condition text, modality text, lang text
) returns table (item_id bigint, place int, caption text, recipe text, bounded boolean)
language plpgsql stable rows 100 set search_path = pg_catalog, sightline, pg_temp as $$
declare
  most_texts constant int := 5000;
  most_words constant int := 32;
  words text[] := tsvector_to_array(to_tsvector(sightline.words_config(lang), left(query_text, 10000)));
  weights jsonb;
  all_words tsquery;
  rare_words tsquery;
  -- As in the index.
  item_words constant text :=
    'to_tsvector(case lower(split_part(coalesce(i.metadata->>case when i.text is null then ''caption_lang'' else ''lang'' end, ''en''), ''-'', 1)) '
    'when ''en'' then ''english''::regconfig when ''de'' then ''german''::regconfig when ''es'' then ''spanish''::regconfig '
    'else ''simple''::regconfig end, left(coalesce(i.text, i.metadata->>''caption''), 100000))';
  -- The texts that a tsquery finds: %1$s the tsquery, when this is formatted once more.
  source text := format(
    '(select i.item_id, c.text, c.recipe, c.words from sightline.caption c join sightline.item i on i.item_id = c.item_id '
    'where c.words @@ %%1$s and not c.negative and i.modality = %1$L and %2$s and %3$s limit %4$s) union all '
    '(select i.item_id, coalesce(i.text, i.metadata->>''caption''), ''own'', %5$s from sightline.item i '
    'where %5$s @@ %%1$s and i.parent_id is null and (i.text is not null or i.metadata ? ''caption'') and i.modality = %1$L and %2$s and %3$s limit %4$s)',
    modality, case when collection_id is null then 'true' else 'i.collection_id = ' || collection_id end,
    replace(condition, '%', '%%'), most_texts + 1, item_words);
begin
  if cardinality(words) = 0 then
    raise notice 'no word of "%" is one to look for', left(query_text, 100);
    return;
  elsif cardinality(words) > most_words then
    raise notice 'only % of the % words of the query are looked for', most_words, cardinality(words);
    words := words[:most_words];
  end if;
  execute format(
    'with counted as ('
    '  select w.word, quote_literal(w.word) as query, (select count(*) from (%s) f) as n from unnest($1) w(word)'
    '), summed as ('
    '  select c.*, sum(c.n) over (order by c.n, c.word) as reached, greatest(max(c.n) over (), '
    '    (select sum(greatest(p.reltuples, 0)) from pg_class p where p.oid in (''sightline.caption''::regclass, ''sightline.item''::regclass))) as total '
    '  from counted c'
    ') '
    'select jsonb_object_agg(s.word, ln(1 + (s.total - s.n + 0.5) / (s.n + 0.5))), string_agg(s.query, '' & '')::tsquery, '
    '  string_agg(s.query, '' | '') filter (where s.reached <= $2)::tsquery from summed s',
    format(source, 'quote_literal(w.word)::tsquery')) into weights, all_words, rare_words using words, most_texts;
  return query execute format(
    'with whole as (%1$s), rare as (%2$s), found as (select * from whole union select * from rare), '
    'worth as (select f.item_id, f.text, f.recipe, '
    '  (select sum(w.value::float8) from jsonb_each_text(%3$L) w where f.words @@ quote_literal(w.key)::tsquery)::numeric(12, 4) as weight, '
    '  ts_rank_cd(f.words, %4$L)::numeric(12, 4) as close from found f), '
    'best as (select distinct on (item_id) * from worth order by item_id, weight desc, close desc, text) '
    'select item_id, (rank() over (order by weight desc, close desc))::int, text, recipe, '
    '  (select count(*) filter (where recipe = ''own'') > %5$s or count(*) filter (where recipe <> ''own'') > %5$s from whole) '
    'from best order by weight desc, close desc, item_id limit %6$s',
    format(source, quote_literal(all_words) || '::tsquery'),
    case when rare_words is null then 'select * from whole' else format(source, quote_literal(rare_words) || '::tsquery') end,
    weights, all_words, most_texts, most);
end $$;

-- Images by the vectors of their captions, nearest first, each as its nearest caption. Caption vectors are those of text items that have a
-- parent; among the texts of a space they may be few, so the graph is read on until enough are found, and if it gives up before, up to 50,000
-- of them are sorted.
create function sightline.caption_hits(
  target sightline.space, query {vector}.halfvec, most int, collection_id int, condition text, modality text
) returns table (item_id bigint, place int, caption text, bounded boolean)
language plpgsql rows 100
set search_path = pg_catalog, sightline, {vector}, pg_temp
set hnsw.iterative_scan = strict_order
set hnsw.max_scan_tuples = 20000
set hnsw.scan_mem_multiplier = 4
set hnsw.ef_search = 200
set enable_sort = off  -- with the conditions on the image a sort of the whole table looks cheaper than it is
as $$
declare
  exact_max_rows constant int := 50000;
  source text := format(
    'from sightline.embedding e join (select item_id, parent_id, text from sightline.item) t on t.item_id = e.item_id '
    'join sightline.item i on i.item_id = t.parent_id '
    'where e.space_id = %s and e.slot = 0 and e.modality = ''text'' and i.modality = %L and %s and %s', target.space_id, modality,
    case when collection_id is null then 'true' else 'i.collection_id = ' || collection_id end, condition);
  read_rows constant text :=
    'select coalesce(jsonb_agg(jsonb_build_array(h.item_id, h.distance, h.text) order by h.distance, h.item_id), ''[]''), count(*) '
    'from (select i.item_id, t.text, e.vec::{vector}.halfvec(%2$s) <=> %1$L::{vector}.halfvec(%2$s) as distance %3$s '
    'order by (e.vec::{vector}.halfvec(%2$s) <=> %1$L::{vector}.halfvec(%2$s))%4$s limit %5$s) h';
  wanted int := least(4 * most, exact_max_rows);  -- several captions of one image
  found_rows jsonb;
  n int;
  reachable int;
begin
  bounded := false;
  execute format(read_rows, query, target.dim, source, '', wanted) into found_rows, n;
  if n < wanted then
    execute format('select count(*) from (select 1 %s limit %s) r', source, exact_max_rows + 1) into reachable;
    bounded := reachable > exact_max_rows;
    if reachable > n and not bounded then
      execute format(read_rows, query, target.dim, source, ' + 0', wanted) into found_rows, n;
    end if;
  end if;
  return query
    with nearest as (
      select distinct on ((h->>0)::bigint) (h->>0)::bigint as item_id, (h->>1)::float8 as distance, h->>2 as text
      from jsonb_array_elements(found_rows) h order by (h->>0)::bigint, (h->>1)::float8
    )
    select b.item_id, (rank() over (order by b.distance))::int, b.text, caption_hits.bounded
    from nearest b order by b.distance, b.item_id limit most;
end $$;

-- Search by words and vectors together. Three lists, each of the best max(100, 2 k): items by vector, images by the vectors of their captions,
-- and items by the words of their captions and texts. An item's score is the sum over the lists of weight / (rrf_k + its rank): reciprocal
-- rank fusion (Cormack, Clarke and Buettcher 2009), which asks of no list what its scores mean. A list of weight 0 is not made: then
-- `query` or `query_text` may be null.
--
-- `distance` is the cosine distance of the item's own vector, null where it has none; `caption` and `recipe` are the text that brought it up by
-- its words, else by its vector, and who wrote it (`own`: the item itself). The ranks say what each list thought of it, null for nothing.
create function sightline.hybrid_search(
  space text, query_text text, query {vector}.halfvec, k int default 10, collection text default null, "where" jsonb default null,
  modality text default 'image', lang text default 'en', image_weight float8 default 1, caption_weight float8 default 1,
  word_weight float8 default 1, rrf_k int default 60
) returns table (
  item_id bigint, external_id text, distance real, score real, status text, group_key text, caption text, recipe text,
  image_rank int, caption_rank int, word_rank int
)
language plpgsql stable rows 10 set search_path = pg_catalog, sightline, {vector}, pg_temp as $$
declare
  target sightline.space := sightline.resolve_space(space);
  condition text := sightline.where_sql("where");
  by_vector boolean := image_weight > 0 or caption_weight > 0;
  target_collection int;
  most int;
begin
  if least(image_weight, caption_weight, word_weight) is null or least(image_weight, caption_weight, word_weight) < 0
     or greatest(image_weight, caption_weight, word_weight) = 0 or 'Infinity' in (image_weight, caption_weight, word_weight)
     or 'NaN' in (image_weight, caption_weight, word_weight) then
    raise exception 'weights must be numbers of at least 0, one of them above it, not % for images, % for captions, % for words',
      image_weight, caption_weight, word_weight using errcode = 'invalid_parameter_value';
  elsif k is null or k not between 1 and 10000 then
    raise exception 'k must lie between 1 and 10000, not %', k using errcode = 'invalid_parameter_value';
  elsif rrf_k is null or rrf_k < 1 then
    raise exception 'rrf_k must be at least 1, not %', rrf_k using errcode = 'invalid_parameter_value';
  elsif modality <> all (target.modalities) or modality is null then
    raise exception 'space "%" has no modality "%"; it has: %', target.name, modality, array_to_string(target.modalities, ', ')
      using errcode = 'invalid_parameter_value';
  elsif by_vector and query is null then
    raise exception 'the query vector is null; to search by words alone, set image_weight and caption_weight to 0'
      using errcode = 'null_value_not_allowed';
  elsif by_vector and vector_dims(query) <> target.dim then
    raise exception 'space "%" has % dimensions, the query vector has %', target.name, target.dim, vector_dims(query)
      using errcode = 'data_exception', hint = 'Vectors of two models are never compared: encode the query with the model of this space.';
  elsif by_vector and l2_norm(query) = 0 then
    raise exception 'the query vector is zero: it has no direction' using errcode = 'data_exception';
  elsif word_weight > 0 and (query_text is null or query_text !~ '\S' or length(query_text) > 10000) then
    raise exception 'a query is a text of 1 to 10,000 characters, not %; to search by vectors alone, set word_weight to 0',
      case when query_text is null then 'null' when length(query_text) > 10000 then length(query_text) || ' characters' else 'an empty one' end
      using errcode = 'invalid_parameter_value';
  end if;
  if collection is not null then
    select c.collection_id into target_collection from sightline.collection c where c.name = collection;
    if target_collection is null then
      raise exception 'no collection named "%"', collection using errcode = 'undefined_object';
    end if;
  end if;
  most := least(10000, greatest(100, 2 * k));
  return query
    with by_image as (
      select s.item_id, s.status = 'scan_limit' as bounded, (rank() over (order by s.distance))::int as place
      from sightline.search_space(target, query, most, collection, "where", modality, null, false) s where image_weight > 0
    ), by_caption as (
      select h.* from sightline.caption_hits(target, query, most, target_collection, condition, modality) h where caption_weight > 0
    ), by_word as (
      select h.* from sightline.word_hits(query_text, most, target_collection, condition, modality, lang) h where word_weight > 0
    ), fused as (
      select coalesce(v.item_id, c.item_id, w.item_id) as item_id, v.place as image_rank, c.place as caption_rank, w.place as word_rank,
             coalesce(w.caption, c.caption) as caption, w.recipe,
             coalesce(image_weight / (rrf_k + v.place), 0) + coalesce(caption_weight / (rrf_k + c.place), 0)
             + coalesce(word_weight / (rrf_k + w.place), 0) as score,
             bool_or(v.bounded or c.bounded or w.bounded) over () as bounded
      from by_image v full join by_caption c on c.item_id = v.item_id
      full join by_word w on w.item_id = coalesce(v.item_id, c.item_id)
    ), measured as (
      -- A subquery, for a join with the hundreds of rows that functions are taken for reads the whole space.
      select f.*, (select (e.vec <=> hybrid_search.query)::real from sightline.embedding e
                   where e.space_id = target.space_id and e.item_id = f.item_id and e.slot = 0) as distance
      from fused f
    ), best as (
      select m.* from measured m order by m.score desc, m.distance, m.item_id limit k
    )
    select b.item_id, i.external_id, b.distance, b.score::real,
           case when b.bounded then 'scan_limit' when count(*) over () < k then 'fewer_exist' else 'complete' end,
           i.group_key, b.caption, b.recipe, b.image_rank, b.caption_rank, b.word_rank
    from best b join sightline.item i on i.item_id = b.item_id order by b.score desc, b.distance, b.item_id;
end $$;

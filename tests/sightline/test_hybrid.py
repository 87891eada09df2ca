"""Hybrid search in SQL: the indexes that it uses, how ranks are fused, and that filters lose nothing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import psycopg
import pytest

from sightline.client import Sightline
from sightline.space import index_space
from tests.sightline.points import DIM, around, literal, store

EAST, NORTH = np.eye(DIM)[0], np.eye(DIM)[1]
N = 4000
COLOURS = ("red", "green", "blue", "black")
INDEXES = ("toy_image_hnsw", "toy_text_hnsw", "caption_words", "item_words")


@pytest.fixture(scope="module", autouse=True)
def images(database_url: str, client: Sightline) -> list[int]:
    """4,000 images round EAST, each with a caption and the vector of it; one in 40 has a caption of its owner's.

    The caption names a colour, the word `taxi` is in 10 of them, and the own captions speak of boats. Beside them 1,000
    texts of the collection, which are nobody's captions.
    """
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select sightline.create_space('toy', 'points', %s)", (DIM,))
        connection.execute("select sightline.alias_space('current', 'toy')")
        own = [{"n": n, "caption": f"my boat number {n}"} if n % 40 == 7 else {"n": n} for n in range(N)]
        points = around(EAST, N, 0.25, 1)
        ids = store(connection, "toy", "harbour", "image", points, [json.dumps(one) for one in own])
        store(connection, "toy", "harbour", "text", around(NORTH, N // 4, 0.25, 2))
        describe(connection, ids, [f"a {COLOURS[n % 4]} thing" + ", taxi" * (n % 400 == 3) for n in range(N)])
        embed(connection, ids, around(EAST, N, 0.25, 3))
        connection.execute("vacuum analyze sightline.caption")
        connection.execute("vacuum analyze sightline.item")
    assert set(index_space(client.database, "toy")) == {"toy_image_hnsw", "toy_text_hnsw"}
    return ids


def describe(
    connection: psycopg.Connection[Any], ids: list[int], texts: list[str], recipe: str = "test", lang: str = "en"
) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into sightline.caption (item_id, recipe, model, params_digest, lang, text) "
            "values (%s, %s, 'm', sha256('{}'), %s, %s)",
            [(item, recipe, lang, text) for item, text in zip(ids, texts, strict=True)],
        )


def embed(connection: psycopg.Connection[Any], ids: list[int], points: np.ndarray) -> None:
    """Caption vectors: text items under the images."""
    with connection.transaction():
        children = connection.execute(
            "insert into sightline.item (collection_id, external_id, modality, text, parent_id) "
            "select i.collection_id, 'caption of ' || i.external_id || ' ' || gen_random_uuid(), 'text', 'said of ' || i.external_id, i.item_id "
            "from unnest(%s::bigint[]) with ordinality u(item_id, n) join sightline.item i using (item_id) order by n returning item_id",
            (ids,),
        ).fetchall()
        with connection.cursor().copy(
            "copy sightline.embedding (space_id, item_id, generation, norm, modality, vec) from stdin"
        ) as copy:
            for (child,), point in zip(children, points, strict=True):
                copy.write_row((1, child, 1, 1.0, "text", literal(point)))


def hybrid(connection: psycopg.Connection[Any], text: str | None, query: np.ndarray | None, k: int = 10, rest: str = "") -> list[dict[str, Any]]:  # fmt: skip
    cursor = connection.execute(
        f"select * from sightline.hybrid_search('current', %s, %s, %s{rest})",
        (text, None if query is None else literal(query), k),
    )
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def test_all_four_indexes_are_used_and_neither_captions_nor_vectors_are_read_from_end_to_end(
    connection: psycopg.Connection[Any],
) -> None:
    """The counters of this connection's own transaction show the plans inside the functions."""
    counters = (
        "select c.relname, pg_stat_get_xact_numscans(c.oid) from pg_class c where c.relnamespace = 'sightline'::regnamespace "
        "and c.relname = any (%s)"
    )
    tables = ("caption", "embedding_s1")  # of a hundred hits among 9,000 items, those are rightly read whole
    for rest in ("", ", collection => 'harbour'", ', "where" => \'{"n": {"$gte": 100}}\''):
        with connection.transaction():
            before = dict(connection.execute(counters, ([*INDEXES, *tables],)).fetchall())
            found = hybrid(connection, "the boat and the taxi", EAST, 10, rest)
            after = dict(connection.execute(counters, ([*INDEXES, *tables],)).fetchall())
        assert len(found) == 10, rest
        assert all(after[name] > before[name] for name in INDEXES), (rest, before, after)
        assert all(after[name] == before[name] for name in tables), (rest, before, after)


def test_ranks_are_fused_by_the_formula_and_weights(connection: psycopg.Connection[Any]) -> None:
    found = hybrid(
        connection, "taxi", EAST, 20, ", image_weight => 2, caption_weight => 0.5, word_weight => 3, rrf_k => 10"
    )
    assert [hit["score"] for hit in found] == sorted((hit["score"] for hit in found), reverse=True)
    for hit in found:
        ranks = ((2, hit["image_rank"]), (0.5, hit["caption_rank"]), (3, hit["word_rank"]))
        assert hit["score"] == pytest.approx(
            sum(weight / (10 + rank) for weight, rank in ranks if rank is not None), rel=1e-6
        )
    assert any(hit["word_rank"] and hit["image_rank"] for hit in found), "some are in more lists than one"
    distances = dict(
        connection.execute(
            "select item_id, (embedding <=> %s)::real from sightline.toy_image", (literal(EAST),)
        ).fetchall()
    )
    assert [hit["distance"] for hit in found] == [distances[hit["item_id"]] for hit in found]


def test_each_list_alone_is_the_search_that_it_stands_for(connection: psycopg.Connection[Any]) -> None:
    images = hybrid(connection, None, EAST, 10, ", caption_weight => 0, word_weight => 0")
    nearest = connection.execute(
        "select item_id, distance from sightline.nearest('toy', %s, 10)", (literal(EAST),)
    ).fetchall()
    assert [(hit["item_id"], hit["distance"]) for hit in images] == nearest

    words = hybrid(connection, "taxi", None, 100, ", image_weight => 0, caption_weight => 0")
    assert len(words) == N // 400
    assert {hit["status"] for hit in words} == {"fewer_exist"}
    assert all("taxi" in hit["caption"] and hit["recipe"] == "test" for hit in words)

    captions = hybrid(connection, None, EAST, 10, ", image_weight => 0, word_weight => 0")
    exact = connection.execute(
        "select t.parent_id, t.text from sightline.toy_text v join sightline.item t using (item_id) where t.parent_id is not null "
        "order by (v.embedding <=> %s) + 0 limit 10", (literal(EAST),)
    ).fetchall()  # fmt: skip
    assert len({hit["item_id"] for hit in captions} & {item for item, _ in exact}) >= 9
    assert (captions[0]["item_id"], captions[0]["caption"]) == exact[0], "a hit names the caption that brought it up"


def test_rare_words_count_for_more_than_common_ones(connection: psycopg.Connection[Any]) -> None:
    """A thousand captions are red, 10 have a taxi, and all of these are black."""
    words = hybrid(connection, "a red thing, a taxi", None, 30, ", image_weight => 0, caption_weight => 0")
    assert ["taxi" in hit["caption"] for hit in words] == [True] * 10 + [False] * 20
    assert {hit["word_rank"] for hit in words[:10]} == {1}, "what is equal has equal rank"
    assert all("red" in hit["caption"] for hit in words[10:])


def test_an_owners_caption_is_found_and_never_hidden_by_another(connection: psycopg.Connection[Any]) -> None:
    hits = hybrid(connection, "boat 47", EAST, 500)
    (first,) = [hit for hit in hits if hit["word_rank"] == 1]
    assert (first["external_id"], first["caption"], first["recipe"]) == ("image-48", "my boat number 47", "own")
    hits = hybrid(connection, "black", EAST, 5000, f", \"where\" => '{json.dumps({'n': 47})}'")
    assert [(hit["caption"], hit["recipe"]) for hit in hits] == [("a black thing", "test")], (
        "the words of both are found"
    )


def test_words_are_stemmed_by_their_language(connection: psycopg.Connection[Any], images: list[int]) -> None:
    with connection.transaction(force_rollback=True):
        describe(connection, images[:3], ["zwei Kähne am Ufer", "barcas amarillas", "des péniches"], "other", "xx")
        for lang, item, (text, asked) in zip(
            ("de", "es", "fr"),
            images,
            (("zwei Kähne am Ufer", "der Kahn"), ("barcas amarillas", "barca amarilla"), ("des péniches", "péniches")),
            strict=False,
        ):
            connection.execute(
                "update sightline.caption set lang = %s where item_id = %s and recipe = 'other'", (lang, item)
            )
            hit, *_ = hybrid(connection, asked, None, 3, f", lang => '{lang}', image_weight => 0, caption_weight => 0")
            assert (hit["item_id"], hit["caption"], hit["word_rank"]) == (item, text, 1)
        assert hybrid(connection, "péniche", None, 3, ", lang => 'fr', image_weight => 0, caption_weight => 0") == []


def test_a_caption_that_is_wrong_on_purpose_finds_nothing(
    connection: psycopg.Connection[Any], images: list[int]
) -> None:
    with connection.transaction(force_rollback=True):
        describe(connection, images[:2], ["a submarine", "a submarine"], "counterfactual")
        connection.execute("update sightline.caption set negative = true where item_id = %s", (images[0],))
        hits = hybrid(connection, "submarine", None, 5, ", image_weight => 0, caption_weight => 0")
        assert [hit["item_id"] for hit in hits if hit["recipe"] == "counterfactual"] == images[1:2]


def test_filters_hold_for_every_list(connection: psycopg.Connection[Any], images: list[int]) -> None:
    """Few images pass, and lie anywhere: each list goes on until it has them."""
    for rest in (
        "", ", image_weight => 0, word_weight => 0", ", caption_weight => 0, word_weight => 0", ", image_weight => 0, caption_weight => 0",
    ):  # fmt: skip
        where = json.dumps({"n": {"$gte": 2000, "$lt": 2030}})
        found = hybrid(connection, "black blue green red", NORTH, 50, f", \"where\" => '{where}'{rest}")
        assert sorted(hit["item_id"] for hit in found) == images[2000:2030], rest
        assert {hit["status"] for hit in found} == {"fewer_exist"}
    percent = json.dumps({"note": "100% {1} $L metadata"})
    with connection.transaction(force_rollback=True):
        connection.execute("update sightline.item set metadata = %s where item_id = %s", (percent, images[5]))
        found = hybrid(connection, "a green thing", EAST, 5, f", \"where\" => '{percent.replace('%', '%%')}'")
        assert [hit["item_id"] for hit in found] == images[5:6]
        assert found[0]["word_rank"] == found[0]["caption_rank"] == found[0]["image_rank"] == 1


def test_texts_are_found_by_their_own_words_and_vectors(connection: psycopg.Connection[Any]) -> None:
    (hit,) = [
        one for one in hybrid(connection, "file:///17", NORTH, 500, ", modality => 'text'") if one["word_rank"] == 1
    ]
    assert (hit["external_id"], hit["recipe"], hit["word_rank"]) == ("text-17", "own", 1)
    assert {h["caption_rank"] for h in hybrid(connection, "/17", NORTH, 50, ", modality => 'text'")} == {None}


def test_what_cannot_be_asked_is_refused_by_name(connection: psycopg.Connection[Any]) -> None:
    for text, query, rest, complaint in (
        ("red", None, "", "query vector is null; to search by words alone"),
        (None, EAST, "", "not null; to search by vectors alone"),
        (" ", EAST, "", "not an empty one"),
        ("red", EAST[:5], "", "has 32 dimensions, the query vector has 5"),
        ("red", EAST, ", word_weight => -1", "weights must be"),
        ("red", EAST, ", image_weight => 0, caption_weight => 0, word_weight => 0", "weights must be"),
        ("red", EAST, ", word_weight => 'NaN'", "weights must be"),
        ("red", EAST, ", rrf_k => 0", "rrf_k must be"),
        ("red", EAST, ", collection => 'nowhere'", 'no collection named "nowhere"'),
        ("red", EAST, ", modality => 'sound'", 'no modality "sound"'),
    ):
        with pytest.raises(psycopg.Error, match=complaint):
            hybrid(connection, text, query, 5, rest)


def test_a_query_of_stop_words_or_of_a_thousand_words_says_what_it_leaves_out(
    connection: psycopg.Connection[Any],
) -> None:
    told: list[str] = []
    connection.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
    assert len(hybrid(connection, "the and of", EAST, 5)) == 5
    assert len(hybrid(connection, "taxi " + " ".join(f"word{n}" for n in range(1000)), EAST, 5)) == 5
    assert told == [
        'no word of "the and of" is one to look for',
        "only 32 of the 1001 words of the query are looked for",
    ]


def test_a_text_of_a_megabyte_is_stored_and_found_by_its_beginning(connection: psycopg.Connection[Any]) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute(
            "insert into sightline.item (collection_id, external_id, modality, text) values (1, 'long', 'text', %s)",
            ("lighthouse " + " ".join(f"w{n:x}" for n in range(200_000)),),
        )
        hits = hybrid(connection, "lighthouse", None, 5, ", modality => 'text', image_weight => 0, caption_weight => 0")
        assert [hit["external_id"] for hit in hits] == ["long"]


def test_only_a_list_that_was_cut_counts_as_cut(connection: psycopg.Connection[Any], images: list[int]) -> None:
    """5,000 captions are looked at and 5,000 own texts: together they may be more."""
    alone = ", image_weight => 0, caption_weight => 0"
    with connection.transaction(force_rollback=True):
        describe(connection, images[:2600], ["a lantern"] * 2600, "more")
        connection.execute(
            'update sightline.item set metadata = \'{"caption": "my lantern"}\' where item_id = any (%s)',
            (images[:2500],),
        )
        assert {hit["status"] for hit in hybrid(connection, "lantern", None, 10, alone)} == {"complete"}
        describe(connection, images[:2600], ["a lantern"] * 2600, "most")
        assert {hit["status"] for hit in hybrid(connection, "lantern", None, 10, alone)} == {"scan_limit"}

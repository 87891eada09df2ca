"""What sightline adds to a query: one text to its vector, and a search in words to its hits, on an idle stack."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np
import psycopg
from psycopg.types.json import Jsonb

from benchmarks.arena import BUNDLED, VIT, Arena
from benchmarks.bulk import NAMES
from benchmarks.row import Row, percentile
from sightline.space import index_space

LIMIT_MS = 5.0
_numbers = itertools.count(1)


def measure(arena: Arena) -> list[Row]:
    """One query text with each model, and a search."""
    return [*(_idle_query(arena, model) for model in (VIT, BUNDLED)), _search(arena)]


def _idle_query(arena: Arena, model: str) -> Row:
    """One text from the call of the client to its vector, beside a call that does nothing and the forward."""
    space, noop = arena.space(model), arena.noop()
    calls: list[float] = []
    parts: list[float] = []
    values: list[float] = []
    for _ in range(arena.scale.rounds):
        times: dict[str, list[float]] = {"call": [], "noop": [], "forward": []}
        for _ in range(arena.scale.calls):
            text = _text()
            times["call"].append(_ms(lambda: arena.client.encode(texts=[text], space=space)))  # noqa: B023
            times["noop"].append(_ms(noop))
            times["forward"].append(_forward(arena, model, text))
        calls.append(statistics.median(times["call"]))
        parts.append(statistics.median(times["noop"]) + statistics.median(times["forward"]))
        values.append(calls[-1] - parts[-1])
    return Row(
        f"query-{model}", f"one query text, idle, {NAMES[model]}", "a call that does nothing + the forward", "ms",
        values, calls, parts, "ms", LIMIT_MS, at_least=False,
    )  # fmt: skip


def _search(arena: Arena) -> Row:
    """`search(text=...)` to its hits, beside a call that does nothing, the forward and the SQL of the typed view."""
    space, noop = arena.space(BUNDLED), arena.noop()
    dim = arena.encoder(BUNDLED).dim
    store(arena.connection, space, arena.scale.stored, dim)
    index_space(arena.client.database, space)
    sql = (
        f"select item_id, external_id, embedding <=> %s::halfvec({dim}) from sightline.{space}_image "
        f"order by embedding <=> %s::halfvec({dim}) limit 10"
    )
    ours: list[float] = []
    base: list[float] = []
    values: list[float] = []
    every: dict[str, list[float]] = {"search": [], "noop": [], "forward": [], "sql": []}
    with psycopg.connect(arena.services.database_url, autocommit=True) as bare:
        bare.execute("set hnsw.ef_search = 100")  # as the search of sightline
        for _ in range(arena.scale.rounds):
            times: dict[str, list[float]] = {name: [] for name in every}
            for _ in range(arena.scale.calls):
                text = _text()
                (vector,), _notes = arena.client.encode(texts=[text], space=space)
                literal = str(vector)
                text = _text()  # another one: the first may be remembered
                times["search"].append(_ms(lambda: arena.client.search(text=text, space=space)))  # noqa: B023
                times["noop"].append(_ms(noop))
                times["forward"].append(_forward(arena, BUNDLED, text))
                times["sql"].append(_ms(lambda: bare.execute(sql, (literal, literal)).fetchall()))  # noqa: B023
            ours.append(statistics.median(times["search"]))
            base.append(sum(statistics.median(times[part]) for part in ("noop", "forward", "sql")))
            values.append(ours[-1] - base[-1])
            for part, seen in times.items():
                every[part] += seen
    p99 = {part: percentile(seen, 99) for part, seen in every.items()}
    return Row(
        "search", f"search(text) over {arena.scale.stored:,} vectors, p50", "a call that does nothing + the forward + bare SQL",
        "ms", values, ours, base, "ms", LIMIT_MS, at_least=False,
        note=f"of {len(every['search'])} searches p50 {percentile(every['search'], 50):.1f} ms and p99 {p99['search']:.1f} ms; "
        f"p99 of the parts: call {p99['noop']:.1f}, forward {p99['forward']:.1f}, SQL {p99['sql']:.1f} ms",
    )  # fmt: skip


def store(connection: psycopg.Connection, space: str, count: int, dim: int) -> None:
    """Items with random unit vectors in a space: for times only, their distances mean nothing."""
    connection.execute("insert into sightline.collection (name) values (%s)", (space,))
    connection.execute(
        "insert into sightline.item (collection_id, external_id, modality, uri, metadata) "
        "select c.collection_id, n, 'image', 'vector:' || n, %s from sightline.collection c, generate_series(1, %s) n "
        "where c.name = %s",
        (Jsonb({}), count, space),
    )
    ids = connection.execute(
        "select i.item_id from sightline.item i join sightline.collection c using (collection_id) where c.name = %s "
        "order by 1",
        (space,),
    ).fetchall()
    row = connection.execute("select (sightline.resolve_space(%s)).space_id", (space,)).fetchone()
    assert row is not None
    points = np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    columns = "(space_id, item_id, generation, norm, modality, vec)"
    with connection.cursor().copy(f"copy sightline.embedding {columns} from stdin") as rows:
        for (item_id,), point in zip(ids, points.tolist(), strict=True):
            rows.write_row((row[0], item_id, 1, 1.0, "image", str(point)))
    connection.execute("analyze sightline.item, sightline.embedding")


def _text() -> str:
    """One that was never asked before."""
    return f"a red star and {next(_numbers)} blue circles"


def _forward(arena: Arena, model: str, text: str) -> float:
    encoder = arena.encoder(model)
    return arena.forward(lambda: encoder.encode_texts([encoder.prepare_text(text)]))


def _ms(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - began)

"""Searches over many stored vectors: how many of the true ten nearest they find, and how long they take.

The space, its items and its HNSW index are built once and kept in a folder, as are the true neighbours, which are found by
comparing every query with every vector.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from pgvector import HalfVector
from pgvector.psycopg import register_vector
from psycopg.types.json import Jsonb

from benchmarks.landscape import DIM, Landscape
from benchmarks.row import percentile
from sightline.database import Database
from sightline.embedded.stack import EmbeddedStack
from sightline.migrate import migrate
from sightline.space import index_space

SPACE = "soak"
K = 10
EFS = (40, 100, 200, 400, 800)
GOOD, LIMIT_MS = 0.99, 5.0
FILTERS: dict[str, tuple[str, int] | None] = {"": None, "5 %": ("twentieth", 20), "0.5 %": ("two_hundredth", 200)}
"""Share of the rows that pass, and the metadata that says so: independent of what an image shows."""
PASSES = 3
"""The value of the metadata that passes."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of search.

    Args:
        queries: "image", "text" or "unseen"; see `benchmarks.landscape`.
        passing: the share of rows that pass its filter, "" without one.
        how: the SQL function, or the typed view with an `ef_search`.
        recall: of the true K, the mean over all queries.
        p50_ms, p99_ms: of one search after another, on one connection.
        fewest: rows of the search that returned fewest.
    """

    queries: str
    passing: str
    how: str
    recall: float
    p50_ms: float
    p99_ms: float
    fewest: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@contextmanager
def built(folder: Path, rows: int, say: Callable[[str], None]) -> Iterator[EmbeddedStack]:
    """The stack of a folder with so many indexed vectors; built when it is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "built.json"
    with EmbeddedStack(folder / "home") as stack:
        if not done.exists():
            done.write_text(json.dumps(_build(stack.database_url, rows, say)))
        migrate(stack.database_url)  # it may have been built by an older version
        say(f"built in {json.loads(done.read_text())}")
        yield stack


def measure(stack: EmbeddedStack, folder: Path, rows: int, queries: int, say: Callable[[str], None]) -> list[Case]:
    """All cases."""
    found = []
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        register_vector(connection)
        for kind in ("image", "text", "unseen"):
            asked = Landscape(rows).queries(kind, queries)
            truth = true_neighbours(folder, kind, rows, asked, say)
            for ef in EFS:
                found.append(_case(kind, "", f"view, ef {ef}", asked, truth[""], _view(connection, ef)))
                say(str(found[-1]))
            for passing, condition in FILTERS.items():
                found.append(_case(kind, passing, "nearest", asked, truth[passing], _nearest(connection, condition)))
                say(str(found[-1]))
            found.append(
                _case(kind, "", f"nearest, ef {EFS[-1]}", asked, truth[""], _nearest(connection, None, EFS[-1]))
            )
            say(str(found[-1]))
    return found


def needed_ef(cases: Sequence[Case], queries: str) -> Case | None:
    """The typed view's search with the smallest ef that finds enough; None if none does."""
    good = [case for case in cases if case.queries == queries and case.how.startswith("view") and case.recall >= GOOD]
    return good[0] if good else None


def problems(cases: Sequence[Case]) -> list[str]:
    """What misses its target."""
    best = needed_ef(cases, "image")
    missed = [
        f"{case.queries} {case.passing} by {case.how}: {case.fewest} rows of {K}" for case in cases if case.fewest < K
    ]
    if best is None or best.p50_ms > LIMIT_MS:
        missed.append(f"image to image: recall {GOOD} at a p50 of {LIMIT_MS:.0f} ms")
    return missed


def _build(url: str, rows: int, say: Callable[[str], None]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    began = time.monotonic()

    def lap(name: str) -> None:
        nonlocal began
        seconds[name] = round(time.monotonic() - began, 1)
        say(f"{name}: {seconds[name]:.0f} s")
        began = time.monotonic()

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop schema if exists sightline cascade")  # what an interrupted build left
        migrate(url)
        register_vector(connection)
        connection.execute("select sightline.create_space(%s, 'synthetic', %s)", (SPACE, DIM))
        connection.execute("insert into sightline.collection (name) values (%s)", (SPACE,))
        connection.execute(
            "insert into sightline.item (collection_id, external_id, modality, uri, metadata) "
            "select 1, n, 'image', 'vector:' || n, jsonb_build_object('twentieth', n %% 20, 'two_hundredth', n %% 200) "
            "from generate_series(0, %s - 1) n",
            (rows,),
        )
        lap("items")
        ids = connection.execute("select item_id from sightline.item order by external_id::int").fetchall()
        numbers = iter(ids)
        with (
            connection.cursor() as cursor,
            cursor.copy(
                "copy sightline.embedding (space_id, item_id, generation, norm, modality, vec) from stdin (format binary)"
            ) as copy,
        ):
            copy.set_types(["int2", "int8", "int4", "float4", "text", "halfvec"])
            for block in Landscape(rows).blocks():
                for vector in block:
                    copy.write_row((1, next(numbers)[0], 1, 1.0, "image", HalfVector(vector)))
        lap("vectors")
        connection.execute("vacuum analyze sightline.item, sightline.embedding")
        lap("analyze")
    database = Database(url)
    index_space(database, SPACE, on_progress=lambda name, share: say(f"{name} {share:.0%}"))
    database.close()
    lap("index")
    return seconds


def true_neighbours(
    folder: Path, kind: str, rows: int, asked: np.ndarray, say: Callable[[str], None]
) -> dict[str, np.ndarray]:
    """By filter, the numbers of the true K nearest of each query, int64 (queries, K)."""
    file = folder / f"truth-{kind}-{len(asked)}.npz"
    if not file.exists():
        say(f"comparing {len(asked)} queries of kind {kind} with every vector")
        best = {
            passing: (np.full((len(asked), K), 9.0, np.float32), np.zeros((len(asked), K), np.int64))
            for passing in FILTERS
        }
        first = 0
        for block in Landscape(rows).blocks():
            distances = 1 - asked.astype(np.float32) @ block.astype(np.float32).T
            numbers = np.arange(first, first + len(block))
            for passing, condition in FILTERS.items():
                kept = slice(None) if condition is None else numbers % condition[1] == PASSES
                both = np.hstack([best[passing][0], distances[:, kept]])
                which = np.hstack([best[passing][1], np.broadcast_to(numbers[kept], distances[:, kept].shape)])
                order = np.argsort(both, axis=1)[:, :K]
                best[passing] = np.take_along_axis(both, order, 1), np.take_along_axis(which, order, 1)
            first += len(block)
        np.savez(file, **{passing or "all": numbers for passing, (_, numbers) in best.items()})
    with np.load(file) as stored:
        return {passing: stored[passing or "all"] for passing in FILTERS}


def _view(connection: psycopg.Connection[Any], ef: int) -> Callable[[HalfVector], list[int]]:
    def search(query: HalfVector) -> list[int]:
        rows = connection.execute(
            f"select external_id from sightline.{SPACE}_image order by embedding <=> %s::halfvec({DIM}) limit {K}",
            (query,), prepare=False,
        ).fetchall()  # fmt: skip
        return [int(name) for (name,) in rows]

    connection.execute(f"set hnsw.ef_search = {ef}")
    return search


def _nearest(
    connection: psycopg.Connection[Any], condition: tuple[str, int] | None, ef: int | None = None
) -> Callable[[HalfVector], list[int]]:
    """The function, with its own ef_search or that of whoever calls it."""
    connection.execute("reset hnsw.ef_search" if ef is None else f"set hnsw.ef_search = {ef}")
    where = None if condition is None else Jsonb({condition[0]: PASSES})

    def search(query: HalfVector) -> list[int]:
        rows = connection.execute(
            'select external_id from sightline.nearest(%s, %s, %s, "where" => %s)', (SPACE, query, K, where)
        ).fetchall()
        return [int(name) for (name,) in rows]

    return search


def _case(
    kind: str, passing: str, how: str, asked: np.ndarray, truth: np.ndarray, search: Callable[[HalfVector], list[int]]
) -> Case:
    queries = [HalfVector(query) for query in asked]
    for query in queries[: len(queries) // 4]:  # warm
        search(query)
    found, times = [], []
    for query in queries:
        began = time.perf_counter()
        found.append(search(query))
        times.append(1000 * (time.perf_counter() - began))
    hits = [len(set(rows) & set(true.tolist())) for rows, true in zip(found, truth, strict=True)]
    return Case(
        kind,
        passing,
        how,
        sum(hits) / (K * len(hits)),
        percentile(times, 50),
        percentile(times, 99),
        min(map(len, found)),
    )

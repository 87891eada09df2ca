"""Ingesting again with a real worker: an ingest that is killed goes on where it was, and touched files keep their vectors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg

from sightline.ingest import BATCH_ITEMS
from tests.workers.conftest import png
from tests.workers.processes import Workers, until


def stored(connection: psycopg.Connection, collection: str) -> dict[str, tuple]:
    rows = connection.execute(
        "select i.external_id, i.xmin::text, i.generation, e.xmin::text, e.generation from sightline.item i "
        "join sightline.collection c using (collection_id) left join sightline.embedding e on e.item_id = i.item_id "
        "where c.name = %s",
        (collection,),
    ).fetchall()
    return {external_id: tuple(others) for external_id, *others in rows}


def test_an_ingest_killed_in_the_middle_is_resumed_by_running_it_again(
    start_worker: Workers, connection: psycopg.Connection, space: str, tmp_path: Path
) -> None:
    count = BATCH_ITEMS + 88
    for n in range(count):
        (tmp_path / f"{n:03}.png").write_bytes(png(n, (8, 8)))
        os.utime(tmp_path / f"{n:03}.png", (1e9, 1e9))
    lines = [json.dumps({"path": f"{n:03}.png"}) + "\n" for n in range(count)]
    command = [sys.executable, "-m", "sightline", "ingest", "--jsonl", "-", "--collection", "killed", "--json"]
    environment = start_worker._environment | {"SIGHTLINE_MEDIA_ROOTS": "[]"}

    def ingest() -> dict[str, Any]:
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, input="".join(lines), stdout=subprocess.PIPE, text=True, check=True
        )
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    start_worker()
    killed = subprocess.Popen(command, env=environment, cwd=tmp_path, stdin=subprocess.PIPE, text=True)
    assert killed.stdin is not None
    killed.stdin.write("".join(lines[: BATCH_ITEMS + 38]))  # a batch, and some that it holds when it is killed
    killed.stdin.flush()

    def encoded() -> dict[str, tuple[Any, ...]]:
        """All that is stored, once all of it has its vector."""
        rows = stored(connection, "killed")
        return rows if all(row[2] is not None for row in rows.values()) else {}

    until(encoded, 60)
    killed.send_signal(signal.SIGKILL)
    killed.stdin.close()
    assert killed.wait(10) == -signal.SIGKILL
    before = until(encoded, 60)
    first_batch = len(before)
    assert 0 < first_batch <= BATCH_ITEMS

    resumed = ingest()
    assert (resumed["submitted"], resumed["unchanged"], resumed["done"]) == (count, first_batch, count - first_batch)
    after = stored(connection, "killed")
    assert len(after) == count
    assert {row[1::2] for row in after.values()} == {(1, 1)}
    # Neither an item nor a vector of the first part was written again.
    assert {name: row for name, row in after.items() if name in before} == before

    (tmp_path / "007.png").write_bytes(png(1007, (8, 8)))
    os.utime(tmp_path / "008.png", (1e9, 1e9 + 60))
    again = ingest()
    assert (again["unchanged"], again["done"]) == (count - 1, 1)
    last = stored(connection, "killed")
    assert last["007.png"][1::2] == (2, 2)
    assert last["008.png"][1:] == after["008.png"][1:]  # touched: its vector is the one that it had

"""Golden vectors that a space keeps: a worker whose machine computes other ones does not serve it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from models.encoder import Encoder, load_encoder
from tests.models.tiny_checkpoints import build_clip
from tests.workers.conftest import make_space
from tests.workers.test_golden import disturb
from workers import spaces as module
from workers.database import Pool, open_pool
from workers.spaces import Served, SpaceRefused, Spaces

KEPT = (
    "select modality, vectors, dtype, maker->>'device', stored_at from sightline.golden where space_id = %s order by 1"
)


@pytest.fixture(scope="module")
def pool(database_url: str) -> Iterator[Pool]:
    with open_pool(database_url, 4) as opened:
        yield opened


def served_by(pool: Pool, name: str) -> Served:
    """A space as a worker that was just started serves it."""
    with closing(Spaces(pool, ["encode"], "cpu")) as started:
        return started.find(name).result(60)


def other_machine(monkeypatch: pytest.MonkeyPatch, encoder: Encoder) -> None:
    """Let the next worker compute with this encoder, whatever it loads."""
    monkeypatch.setattr(module, "load_encoder", lambda *_args, **_names: encoder)


def test_the_first_worker_stores_them_and_the_next_one_agrees(
    database_url: str, encoder: Encoder, pool: Pool, connection: psycopg.Connection
) -> None:
    make_space(database_url, "kept", encoder)
    first = served_by(pool, "kept")
    kept = connection.execute(KEPT, (first.space_id,)).fetchall()
    assert [(row[0], len(row[1]), len(row[1][0]), *row[2:4]) for row in kept] == [
        ("image", 3, encoder.dim, "float32", "cpu"), ("text", 4, encoder.dim, "float32", "cpu")
    ]  # fmt: skip
    assert served_by(pool, "kept").space_id == first.space_id
    assert connection.execute(KEPT, (first.space_id,)).fetchall() == kept


def test_the_same_model_that_computes_otherwise_is_refused_and_says_what_to_do(
    database_url: str, checkpoint: Path, encoder: Encoder, pool: Pool, connection: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    make_space(database_url, "elsewhere", encoder)
    sound = served_by(pool, "elsewhere")
    wrong = load_encoder(str(checkpoint), device="cpu")
    disturb(wrong, 0.05)  # its passport is the same: the weights were right when they were read
    other_machine(monkeypatch, wrong)
    said = (
        r"space elsewhere is not served by this worker: its golden vectors \(images\) lie [0-9.]+ from those that .+ stored on "
        r"[0-9-]+ \(cpu, float32, torch [^)]+\), more than 0.001, although the model is the same: .+ `delete from "
        rf"sightline.golden where space_id = {sound.space_id}`"
    )
    with pytest.raises(SpaceRefused, match=said):
        served_by(pool, "elsewhere")

    connection.execute("delete from sightline.golden where space_id = %s", (sound.space_id,))
    assert served_by(pool, "elsewhere").encoder is wrong  # now it is the first
    monkeypatch.undo()
    with pytest.raises(SpaceRefused, match="its golden vectors"):
        served_by(pool, "elsewhere")


def test_another_number_format_may_lie_as_far_away_as_it_rounds(
    database_url: str, checkpoint: Path, encoder: Encoder, pool: Pool, connection: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    make_space(database_url, "coarse", encoder)
    served_by(pool, "coarse")
    coarse = load_encoder(str(checkpoint), device="cpu", dtype="bfloat16")
    other_machine(monkeypatch, coarse)
    served = served_by(pool, "coarse")
    (reference,) = (one for one in served.golden.references() if one.kind == "text")
    (kept,) = connection.execute(
        "select vectors from sightline.golden where space_id = %s and modality = 'text'", (served.space_id,)
    )
    assert abs(reference.vectors - kept[0]).max() > 1e-3  # or the test shows nothing
    make_space(database_url, "coarse_first", encoder)
    served_by(pool, "coarse_first")
    monkeypatch.undo()
    assert served_by(pool, "coarse_first").encoder.passport.dtype == "float32"


def test_another_model_is_told_by_its_passport_and_leaves_nothing(
    database_url: str, encoder: Encoder, pool: Pool, connection: psycopg.Connection, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    make_space(database_url, "another", encoder)
    other_machine(monkeypatch, load_encoder(str(build_clip(tmp_path / "other", seed=9)), device="cpu"))
    with pytest.raises(SpaceRefused, match="its passport differs"):
        served_by(pool, "another")
    assert connection.execute(
        "select count(*) from sightline.golden g join sightline.space s using (space_id) where s.name = 'another'"
    ).fetchone() == (0,)


def test_a_worker_may_add_them_and_neither_change_nor_delete_them(
    database_url: str, encoder: Encoder, pool: Pool, connection: psycopg.Connection
) -> None:
    make_space(database_url, "guarded", encoder)
    space_id = served_by(pool, "guarded").space_id
    kept = connection.execute(KEPT, (space_id,)).fetchall()
    with connection.transaction():
        connection.execute("set local role sightline_worker")
        again = connection.execute(
            "select (sightline.keep_golden(%s::smallint, 'text', inputs, '{{1,0}}', 'float32', '{}')).vectors from sightline.golden "
            "where space_id = %s and modality = 'text'", (space_id, space_id),
        ).fetchone()  # fmt: skip
        assert again == (kept[1][1],)
    with psycopg.connect(database_url, autocommit=True) as worker:
        worker.execute("set role sightline_worker")
        for change in ("update sightline.golden set dtype = 'x'", "delete from sightline.golden"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                worker.execute(change)
    assert connection.execute(KEPT, (space_id,)).fetchall() == kept

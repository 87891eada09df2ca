"""Imported vectors beside a real model: a sample is compared with it, and what has no content cannot be encoded again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import psycopg
import pytest

from models.encoder import Encoder
from sightline.client import Sightline
from sightline.errors import PolicyRefused
from tests.workers.conftest import make_space, png
from tests.workers.processes import Workers


def test_vectors_without_a_passport_are_compared_with_the_model(
    start_worker: Workers, client: Sightline, space: str, encoder: Encoder, tmp_path: Path
) -> None:
    start_worker()
    media = tmp_path / "media"
    media.mkdir()
    for n in range(12):
        (media / f"{n:02}.png").write_bytes(png(n))
    ingested = client.ingest(media, collection="source").wait(timeout=60)
    assert ingested.done == 12
    client.export_vectors(space, tmp_path / "out", collection="source")
    vectors = np.load(tmp_path / "out" / "vectors_00000.npy")
    rows = [json.loads(line) for line in (tmp_path / "out" / "items_00000.jsonl").read_text().splitlines()]
    np.save(tmp_path / "img_emb_0.npy", vectors)
    (tmp_path / "paths.json").write_text(json.dumps([{"path": row["external_id"]} for row in rows]))
    given = (space, [tmp_path / "img_emb_0.npy"], [tmp_path / "paths.json"])

    right = client.import_vectors(*given, collection="right", source_column="path", root=media, assume_passport=True)
    assert (right.stored, right.failed) == (12, 0)
    assert right.sample is not None
    assert (right.sample.compared, right.sample.problem) == (8, None)
    assert right.sample.lowest == pytest.approx(1, abs=1e-3)

    np.save(tmp_path / "img_emb_0.npy", np.roll(vectors, 1, axis=0))  # the ids are those of their neighbours
    with pytest.raises(PolicyRefused, match=r"nothing was imported: the vector of \d\d.png is not what .* makes of it"):
        client.import_vectors(*given, collection="wrong", source_column="path", root=media, assume_passport=True)

    np.save(tmp_path / "img_emb_0.npy", vectors)
    blind = client.import_vectors(*given, collection="blind", source_column="path", root=tmp_path, assume_passport=True)
    assert (blind.stored, blind.sample.compared) == (12, 0)
    assert "can be read here" in blind.sample.problem


def test_what_has_no_content_fails_by_name_in_another_space(
    start_worker: Workers, client: Sightline, connection: psycopg.Connection, database_url: str, space: str,
    encoder: Encoder, tmp_path: Path,
) -> None:  # fmt: skip
    make_space(database_url, "successor", encoder)
    start_worker()
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(2, encoder.dim)).astype(np.float32))
    (tmp_path / "ids.txt").write_text("one\ntwo\n")
    (tmp_path / "passport.json").write_text(json.dumps(client.space(space).passport))
    report = client.import_vectors(space, [tmp_path / "v.npy"], [tmp_path / "ids.txt"], collection="bare")
    assert report.stored == 2
    nothing = client.submit("encode", {"space": space}, collection="bare").wait(timeout=30)
    assert (nothing.submitted, nothing.failed) == (0, 0)
    again = client.submit("encode", {"space": "successor"}, collection="bare")
    assert again.wait(timeout=30).failed == 2
    assert {f.message for f in again.failures()} == {
        f"{name}: only its vector was imported; ingest its file under this external_id to encode it"
        for name in ("one", "two")
    }

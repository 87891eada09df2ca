"""Golden vectors: a real encoder whose weights go wrong is noticed, and nothing more of it is stored or answered."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import psycopg
import pytest
import torch

from models.encoder import Encoder, load_encoder
from sightline.client import Sightline
from tests.models.families.builders import (
    build_altclip,
    build_chinese_clip,
    build_dinov2,
    build_metaclip_2,
    build_naflex,
    build_resnet,
)
from tests.workers.conftest import make_space
from workers.cancellations import Cancellations
from workers.database import Pool, open_pool
from workers.decoders import Decoders
from workers.encode import EncodeWork
from workers.encoding import works_of
from workers.engine import Engine
from workers.flights import Flights
from workers.golden import TOLERANCE, Golden
from workers.ingress import Ingress
from workers.ledger import Ledger
from workers.runner import ChunkRunner
from workers.spaces import SpaceRefused, Spaces
from workers.writer import Writer


@pytest.fixture
def own(checkpoint: Path) -> Encoder:
    """An encoder of this test alone, for its weights are touched."""
    return load_encoder(str(checkpoint), device="cpu")


@pytest.fixture
def engine(own: Encoder) -> Iterator[Engine]:
    with closing(Engine(works_of(own), "own")) as opened:
        yield opened


@pytest.fixture
def pool(database_url: str) -> Iterator[Pool]:
    with open_pool(database_url, 6) as opened:
        yield opened


def weights(encoder: Encoder) -> list[torch.Tensor]:
    """All of the model, found by following its bound methods."""
    towers = (encoder._network.images, encoder._network.texts)
    found: dict[int, torch.Tensor] = {}
    seen: set[int] = set()
    rest: list[object] = [*towers]
    while rest:
        one = rest.pop()
        if id(one) in seen or one is None:
            continue
        seen.add(id(one))
        if isinstance(one, torch.nn.Module):
            found |= {id(parameter): parameter.data for parameter in one.parameters()}
            continue
        rest += [getattr(one, "__self__", None), getattr(one, "func", None), *getattr(one, "args", ())]
        rest += [cell.cell_contents for cell in getattr(one, "__closure__", None) or ()]
    return list(found.values())


def disturb(encoder: Encoder, by: float) -> list[torch.Tensor]:
    """Add noise to every weight; returns what they were."""
    kept = [weight.clone() for weight in weights(encoder)]
    assert kept
    noise = torch.Generator().manual_seed(1)
    for weight in weights(encoder):
        weight.add_(by * weight.abs().mean() * torch.randn(weight.shape, generator=noise))
    return kept


def restore(encoder: Encoder, kept: list[torch.Tensor]) -> None:
    for weight, was in zip(weights(encoder), kept, strict=True):
        weight.copy_(was)


def test_a_sound_model_gives_its_golden_vectors_alone_and_in_a_batch(own: Encoder, engine: Engine) -> None:
    golden = Golden(own, works_of(own), engine, "own")
    assert golden.check() < TOLERANCE["float32"] / 10
    assert (golden.reason, golden.epoch) == (None, 0)


@pytest.mark.parametrize(
    "build", [build_metaclip_2, build_altclip, build_chinese_clip, build_naflex, build_dinov2, build_resnet]
)
def test_models_of_every_family_are_sound(build: Callable[[Path], Path], tmp_path: Path) -> None:
    encoder = load_encoder(str(build(tmp_path)), device="cpu")
    works = works_of(encoder)
    for work in works:  # what the warm-up encodes
        sizes = [work.size(sample) for sample in work.samples()]
        assert sizes == sorted(sizes)
        assert len(list(work.forward(work.collate(work.samples())))) == len(sizes)
    with closing(Engine(works, "family")) as engine:
        golden = Golden(encoder, works, engine, "family")
        assert golden.check() < TOLERANCE["float32"]


def test_weights_that_changed_are_noticed_until_they_are_right_again(own: Encoder, engine: Engine) -> None:
    golden = Golden(own, works_of(own), engine, "own")
    kept = disturb(own, 0.05)
    assert golden.check() > TOLERANCE["float32"]
    assert golden.reason is not None
    assert "its golden vectors drifted by" in golden.reason
    assert golden.epoch == 1
    restore(own, kept)
    assert golden.check() < TOLERANCE["float32"]
    assert (golden.reason, golden.epoch) == (None, 1)


def test_vectors_that_depend_on_their_neighbours_are_noticed(
    own: Encoder, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As padding that is seen: right alone, wrong in a batch."""
    golden = Golden(own, works_of(own), engine, "own")
    real = own.forward

    def forward(batch: object) -> np.ndarray:
        vectors = real(batch)  # type: ignore[arg-type]
        return vectors + 0.05 * (vectors.mean(axis=0) - vectors)

    monkeypatch.setattr(own, "forward", forward)
    golden.check()
    assert golden.reason is not None
    assert "in a batch" in golden.reason


def test_weights_that_are_no_numbers_any_more_are_noticed(own: Encoder, engine: Engine) -> None:
    golden = Golden(own, works_of(own), engine, "own")
    for weight in weights(own):
        weight.fill_(float("nan"))
    golden.check()
    assert golden.reason is not None
    assert "drifted by inf, more than 0.001 (NonFiniteVectors: " in golden.reason


def test_a_space_whose_model_drifts_is_refused_and_nothing_is_written(
    database_url: str, checkpoint: Path, pool: Pool, client: Sightline, connection: psycopg.Connection
) -> None:
    make_space(database_url, "drifting", load_encoder(str(checkpoint), device="cpu"))
    with psycopg.connect(database_url, autocommit=True) as alias:
        alias.execute("select sightline.alias_space('current', 'drifting')")
    spaces = Spaces(pool, ["encode"], "cpu")
    served = spaces.find("drifting").result(60)
    kept = disturb(served.encoder, 0.05)
    spaces.check()

    with pytest.raises(SpaceRefused, match="space drifting is not served by this worker: its golden vectors drifted"):
        spaces.find("drifting").result(0)
    (state,) = spaces.describe()
    assert (state["state"], state["space"]) == ("refused", "drifting")
    assert [trouble.split(":")[0] for trouble in spaces.troubles()] == ["space drifting"]

    job = client.ingest([{"text": f"text {n}"} for n in range(5)], collection="drift")
    ledger = Ledger(pool, uuid.uuid4())
    with closing(Decoders(2, item_seconds=60.0)) as decoders:
        work = EncodeWork(
            pool, Ingress([], 10**6, 10**6, 1000), Writer(pool, ledger), Flights("job"), decoders, Cancellations()
        )
        runner = ChunkRunner(ledger, 1)
        runner.start()
        ids = [row[0] for row in connection.execute("select chunk_id from sightline.chunk where state = 'queued'")]
        assert runner.take(partial(work.run, served), ids)  # it was claimed before the drift was seen
        deadline = time.monotonic() + 20
        while ledger.running() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert connection.execute("select state, attempt from sightline.chunk").fetchall() == [("queued", 0)]
        assert connection.execute("select count(*) from sightline.embedding").fetchone() == (0,)
        restore(served.encoder, kept)
        spaces.check()
        assert runner.take(partial(work.run, spaces.find("drifting").result(0)), ids)
        assert job.wait(timeout=20).done == 5
        runner.stop_taking()
        assert runner.drain(10)
    spaces.close()

"""Every kind of file that people have, in one ingest: read by the worker under a media root, or uploaded by the client."""

from __future__ import annotations

import io
import os
import re
import shutil
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psycopg
import pytest
from PIL import Image, ImageCms

from models.encoder import Encoder
from sightline.client import Sightline
from sightline.errors import SightlineError
from sightline.item import Item, printable
from sightline.job import Failure, Job, JobProgress
from tests import zoo
from tests.models.tiny_checkpoints import DIM
from tests.workers.mutations import data_folder, random_damage
from tests.workers.processes import WorkerProcess, Workers
from workers.formats import FORMATS
from workers.images import decode_image, limit_pixels

pytestmark = pytest.mark.usefixtures("ledger_adds_up")

ROOM = 300 * 2**20
"""Bytes that the worker may grow by. The pixels of the 20,000 x 20,000 image alone are 400 MB, and so are other bombs."""
PHOTOS = (("skimage", "data"), ("sklearn", "datasets", "images"))
SUFFIXES = {".png", ".jpg", ".tif", ".gif"}
UNSUPPORTED = {"multipage_rgb.tif": "of a kind that is not supported"}  # real, of ten planes


@dataclass(frozen=True)
class Zoo:
    """What was ingested, by external_id, and what became of it."""

    good: dict[str, zoo.Good]
    bad: dict[str, tuple[str, str]]
    photos: dict[str, Path]
    job: Job
    progress: JobProgress
    failures: dict[str, Failure]
    stored: dict[str, np.ndarray]
    growth: int


@pytest.fixture(scope="module")
def worker(space: str, start_worker: Workers) -> WorkerProcess:
    return start_worker()


@pytest.fixture(scope="module")
def ingested(client: Sightline, worker: WorkerProcess, media: Path, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    client.ingest([zoo.good(5)[0].data, {"text": "warm"}], collection="warm").wait(timeout=60)
    good: dict[str, zoo.Good] = {}
    bad: dict[str, tuple[str, str]] = {}
    photos: dict[str, Path] = {}
    folders = [media / "zoo", tmp_path_factory.mktemp("outside") / "zoo"]
    for number, (folder, way) in enumerate(zip(folders, ("read", "sent"), strict=True)):
        here = folder / way
        (here / "folder.jpg").mkdir(parents=True)
        for one in zoo.good(number):
            path = here / os.fsdecode(one.name)
            path.write_bytes(one.data)
            good[printable(path.relative_to(folder))] = one
        for refused in zoo.bad(number):
            (here / refused.name).write_bytes(refused.data)
            bad[f"{way}/{refused.name}"] = refused.error_class, refused.reason
        bad |= {f"{way}/{name}": expected for name, expected in zoo.specials(here).items()}
        for photo in sorted(data_folder(PHOTOS[number][0], *PHOTOS[number][1:]).iterdir()):
            if photo.suffix in SUFFIXES:
                shutil.copy(photo, here / photo.name)
                photos[f"{way}/{photo.name}"] = photo
    bad |= {f"read/{name}": ("BrokenImage", reason) for name, reason in UNSUPPORTED.items()}
    before = _peak_memory(worker.pid, reset=True)
    job = client.ingest(folders, collection="zoo")
    progress = job.wait(timeout=120)
    growth = _peak_memory(worker.pid) - before
    failures = {failure.external_id: failure for failure in job.failures(limit=1000)}
    with psycopg.connect(client.database_url) as connection:
        stored = _stored(connection, "zoo")
    return Zoo(good, bad, photos, job, progress, failures, stored, growth)


def _peak_memory(pid: int, *, reset: bool = False) -> int:
    """Bytes of memory at most, since the last reset."""
    if reset:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert peak is not None
    return int(peak[1]) * 1024


def _stored(connection: psycopg.Connection, collection: str) -> dict[str, np.ndarray]:
    rows = connection.execute(
        f"select i.external_id, e.vec::vector({DIM})::real[] from sightline.embedding e "
        "join sightline.item i using (item_id) join sightline.collection c using (collection_id) where c.name = %s",
        (collection,),
    ).fetchall()
    return {name: np.array(vector, np.float32) for name, vector in rows}


def vector_of(encoder: Encoder, pixels: np.ndarray) -> np.ndarray:
    """Of length 1."""
    vector = encoder.encode_images([encoder.prepare_image(np.ascontiguousarray(pixels))])[0]
    return vector / np.linalg.norm(vector)


def test_every_file_is_counted_once(ingested: Zoo) -> None:
    locked = set() if os.geteuid() else {"read/locked.png", "sent/locked.png"}  # which root can read
    assert set(ingested.stored) == (set(ingested.good) | set(ingested.photos) | locked) - set(ingested.bad)
    assert set(ingested.failures) == set(ingested.bad)
    now = ingested.progress
    assert (now.state, now.failed) == ("done", len(ingested.bad))
    assert now.submitted == now.done + now.failed + now.skipped == len(ingested.stored) + len(ingested.bad)
    assert not any("hidden" in name for name in (*ingested.stored, *ingested.failures))


def test_each_bad_file_is_a_failure_that_explains_itself(ingested: Zoo) -> None:
    wrong = []
    for name, (error_class, reason) in ingested.bad.items():
        failure = ingested.failures[name]
        named = Path(name).name in failure.message
        if failure.error_class != error_class or not re.search(reason, failure.message) or not named:
            wrong.append((name, failure.error_class, failure.message))
        assert "\n" not in failure.message
    assert wrong == []


def test_good_files_are_stored_upright_and_in_their_colours(ingested: Zoo, encoder: Encoder) -> None:
    """Against vectors of the pixels that each file shows, and far from those that a careless reader would see."""
    wrong = []
    for name, file in ingested.good.items():
        found, expected = ingested.stored[name], vector_of(encoder, file.shows)
        distance = float(np.linalg.norm(found - expected))
        lossy = file.data[:2] == b"\xff\xd8"
        if distance > (0.05 if lossy else 0.003):
            wrong.append((name, "distance", distance))
        if file.mistaken is not None:
            mistaken = float(np.linalg.norm(found - vector_of(encoder, file.mistaken)))
            if mistaken < 2 * distance or mistaken < 0.006:
                wrong.append((name, "mistaken", distance, mistaken))
    assert wrong == []


def test_real_photographs_are_stored_in_their_colours(ingested: Zoo, encoder: Encoder) -> None:
    wrong = []
    for name, path in ingested.photos.items():
        if path.name in UNSUPPORTED:
            continue
        with Image.open(path) as image:
            image.seek(0)
            seen: Image.Image = image
            profile = image.info.get("icc_profile")
            if profile:
                ready = image if image.mode in ("RGB", "L") else image.convert("RGB")
                srgb = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(ready, io.BytesIO(profile), srgb, outputMode="RGB")
                assert converted is not None
                seen = converted
            if seen.has_transparency_data:
                seen = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen.convert("RGBA"))
            distance = float(
                np.linalg.norm(ingested.stored[name] - vector_of(encoder, np.asarray(seen.convert("RGB"))))
            )
        if distance > 0.01:
            wrong.append((name, distance))
    assert wrong == []


def test_what_a_vector_does_not_show_is_said(ingested: Zoo, client: Sightline, connection: psycopg.Connection) -> None:
    notes, count = ingested.job.notes(limit=1000)
    found = {note.external_id: note.note for note in notes}
    assert count == len(found)
    expected = {name: file.note for name, file in ingested.good.items() if file.note is not None}
    real = {"read/no_time_for_that_tiny.gif": "frame of the animation", "read/multipage.tif": "first page"}
    assert set(found) == set(expected) | set(real)
    assert all(words in found[name] for name, words in (expected | real).items())
    client.ingest([Item(text="word " * 500, external_id="long")], collection="texts").wait(timeout=30)
    client.ingest([Item(text="word " * 500, external_id="same")], collection="texts").wait(timeout=30)
    rows = connection.execute(
        "select external_id, note from sightline.noted_items where collection = 'texts'"
    ).fetchall()
    assert {name for name, _ in rows} == {"long", "same"}  # the second one has the vector of the first
    assert all(re.fullmatch(r"only the first \d+ tokens of the text were read", note) for _, note in rows)


def test_memory_stays_bounded(ingested: Zoo) -> None:
    assert ingested.growth < ROOM, f"{ingested.growth / 2**20:.0f} MiB"


def test_images_as_queries_pass_the_same_guard(ingested: Zoo, client: Sightline, media: Path, tmp_path: Path) -> None:
    for file in zoo.good(0)[::7]:
        (tmp_path / "query").write_bytes(file.data)
        hit = client.search(image=tmp_path / "query", k=1, collection="zoo")[0]
        assert hit.score > 0.999, file.name
    wrong = []
    for name, (error_class, reason) in ingested.bad.items():
        way, _, rest = name.partition("/")
        if way != "read":
            continue
        try:
            client.search(image=media / "zoo" / name, collection="zoo")
        except SightlineError as error:
            message = str(error)
            known = error_class in message or error_class in {
                "NotARegularFile",
                "NotFound",
                "PermissionDenied",
                "EmptyFile",
            }
            if not known or not re.search(reason, message) or rest not in message or "\n" in message:
                wrong.append((name, message))
        else:
            wrong.append((name, "an answer"))
    assert wrong == []


def test_damaged_files_are_stored_or_failures(client: Sightline, encoder: Encoder, worker: WorkerProcess) -> None:
    """Nothing else, through a whole worker; and what is stored is what the file shows."""
    limit_pixels(1_000_000)
    files = {f"{number}": random_damage(number) for number in range(200)}
    items = [{"data": data, "external_id": name} for name, data in files.items()]
    job = client.ingest(items, collection="damaged")
    now = job.wait(timeout=60)
    failed = {failure.external_id for failure in job.failures(limit=1000)}
    with psycopg.connect(client.database_url) as connection:
        stored = _stored(connection, "damaged")
    assert now.submitted == len(files) == now.done + now.failed
    assert not failed & set(stored)
    assert failed | set(stored) == set(files)
    assert 20 < len(stored) < 180
    decode = partial(decode_image, name="x", max_pixels=100_000_000)
    for name, vector in stored.items():
        expected = encoder.encode_images([decode(files[name]).prepared_by(encoder.prepare_image)])[0]
        assert np.linalg.norm(vector - expected / np.linalg.norm(expected)) < 0.003, name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            declared = Image.open(io.BytesIO(files[name]), formats=FORMATS).size
        assert sorted(declared) == sorted(decode(files[name]).pixels.shape[:2])
    assert worker.exit_code() is None

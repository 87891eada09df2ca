"""Damaged files: whatever is done to them, each is decoded to what its header says or is a failure that explains itself.

FUZZ_SECONDS makes it go on for longer (`make fuzz`). What it finds is kept in the folder `findings`.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from tests.workers.mutations import DAMAGE, damage, seeds
from workers.errors import ItemError
from workers.formats import FORMATS
from workers.images import decode_image, limit_pixels

LIMIT = 1_000_000
FINDINGS = Path(__file__).with_name("findings")
EXAMPLES = 1000
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))

STEPS = st.lists(
    st.tuples(st.sampled_from(list(DAMAGE)), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32 - 1)),
    min_size=1,
    max_size=5,
)


@pytest.fixture(autouse=True, scope="module")
def _limit() -> None:
    limit_pixels(LIMIT)


def check(data: bytes) -> None:
    """Decode; the file is kept if that does not end as it must, also if the process dies of it."""
    kept = FINDINGS / f"{hashlib.sha256(data).hexdigest()[:16]}.bin"
    known = kept.exists()
    FINDINGS.mkdir(exist_ok=True)
    if SECONDS:
        (FINDINGS / "last.bin").write_bytes(data)
    began = time.thread_time()
    try:
        _check(data)
        assert time.thread_time() - began < 10, "it took more than 10 s of computing"
    except BaseException:
        if not known:
            kept.write_bytes(data)
        raise


def _check(data: bytes) -> None:
    failure = None
    try:
        image = decode_image(data, "x.jpg", LIMIT)
    except ItemError as error:
        failure = error
    if failure is not None:
        message = str(failure)
        assert message.startswith("x.jpg")
        assert len(message) < 500
        assert message.isprintable()
        assert not failure.retryable
        return
    assert image.pixels.dtype == np.uint8
    height, width, channels = image.pixels.shape
    assert channels == 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        declared = Image.open(io.BytesIO(data), formats=FORMATS).size
    assert sorted((width, height)) == sorted(declared)


def fuzz(examples: int, number: int) -> None:
    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(range(len(seeds()))), STEPS)
    def run(which: int, steps: list[tuple[str, float, float, int]]) -> None:
        check(damage(seeds()[which], steps))

    run()


@pytest.mark.parametrize("which", range(len(seeds())))
def test_each_file_is_whole_before_it_is_damaged(which: int) -> None:
    check(seeds()[which])


@pytest.mark.timeout(SECONDS + 180)
def test_damage_never_escapes() -> None:
    end = time.monotonic() + SECONDS
    number = int(time.time()) if SECONDS else 0
    rounds = 0
    while not rounds or time.monotonic() < end:
        fuzz(EXAMPLES, number + rounds)
        rounds += 1
    print(f"{rounds * EXAMPLES} damaged files")  # noqa: T201 - for whoever let it run for long


def test_what_was_found_once_stays_mended() -> None:
    for file in sorted(FINDINGS.glob("*.bin")):
        _check(file.read_bytes())

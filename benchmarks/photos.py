"""Photographs to measure with: JPEGs of 640 x 480, each of a content of its own."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (640, 480)


def photo(seed: int) -> bytes:
    """Soft shapes under a little noise, which a JPEG holds in about as many bytes as a photograph."""
    random = np.random.default_rng(seed)
    soft = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    noisy = np.asarray(soft).astype(np.int16) + random.integers(-10, 11, (SIZE[1], SIZE[0], 3))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()


def write_photos(folder: Path, count: int) -> list[Path]:
    """Files of `count` photographs; those beyond the first 300 differ by a comment only."""
    folder.mkdir(parents=True)
    originals = [photo(n) for n in range(min(count, 300))]
    files = [folder / f"{n:05}.jpg" for n in range(count)]
    for file, content in zip(files, copies(originals, 0, count), strict=True):
        file.write_bytes(content)
    return files


def copies(originals: Sequence[bytes], first: int, count: int) -> Iterator[bytes]:
    """JPEGs of different contents, by number, at the cost of a copy: each has a comment of its own."""
    for n in range(first, first + count):
        comment = b"%d" % n
        original = originals[n % len(originals)]
        yield original[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + original[2:]

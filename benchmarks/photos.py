"""Photographs to measure with: JPEGs of 640 x 480, each of a content of its own."""

from __future__ import annotations

import io
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
    """Files of `count` photographs."""
    folder.mkdir(parents=True)
    files = [folder / f"{n:05}.jpg" for n in range(count)]
    for n, file in enumerate(files):
        file.write_bytes(photo(n))
    return files


def copies(originals: list[bytes], count: int) -> list[bytes]:
    """JPEGs of `count` different contents at the cost of a copy: each has a comment of its own."""
    made = []
    for n in range(count):
        comment = b"%d" % n
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        original = originals[n % len(originals)]
        made.append(original[:2] + segment + original[2:])
    return made

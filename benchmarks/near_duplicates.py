"""What the default distance of near-duplicates finds, and what listing them costs.

    python -m benchmarks.near_duplicates [--scenes 2000] [--vectors 20000]

found   copies of rendered validation scenes (encoded again, resized, cropped, made brighter) within a distance of their original, by the
        bundled model; and pairs of distinct scenes within it, which are mistaken.
cost    time of near_duplicate_pairs over random vectors of which one in twenty has a near copy, in an indexed space; and how many of the
        pairs that brute force finds it lists.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psycopg
from PIL import Image, ImageEnhance

from models.encoder import Encoder, load_encoder
from models.scenes.render import png_bytes
from models.scenes.sample import sample_scene
from sightline.database import Database
from sightline.embedded.stack import EmbeddedStack
from sightline.migrate import migrate
from sightline.space import index_space

DISTANCES = (0.005, 0.01, 0.02, 0.03, 0.05)
SIZE, DIM = 224, 512


def jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    """Encode again."""

    def encoded(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return encoded


def cropped(share: float) -> Callable[[Image.Image], Image.Image]:
    """Cut a share off each side."""
    return lambda image: image.crop(
        (*(int(share * side) for side in image.size), *(side - int(share * side) for side in image.size))
    )


def resized(factor: float) -> Callable[[Image.Image], Image.Image]:
    """Another size."""
    return lambda image: image.resize((int(factor * image.width),) * 2, Image.Resampling.LANCZOS)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG quality 90": jpeg(90),
    "JPEG quality 50": jpeg(50),
    "JPEG quality 30": jpeg(30),
    "half the size": resized(0.5),
    "twice the size": resized(2.0),
    "half the size, JPEG 75": lambda image: jpeg(75)(resized(0.5)(image)),
    "10 % brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "cropped by 2 % a side": cropped(0.02),
    "cropped by 4 % a side": cropped(0.04),
}


def vectors(encoder: Encoder, images: list[Image.Image]) -> np.ndarray:
    """(n, dim) of unit length, at the precision that is stored."""
    parts = []
    for first in range(0, len(images), 32):
        pixels = [encoder.prepare_image(np.asarray(image.convert("RGB"))) for image in images[first : first + 32]]
        parts.append(encoder.encode_images(pixels))
    rows = np.vstack(parts).astype(np.float16).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def found(scenes: int) -> dict[str, dict[str, float]]:
    """The share of copies, and the number of pairs of distinct scenes, within each distance."""
    encoder = load_encoder("bundled", device="cpu")
    images = [
        Image.open(io.BytesIO(png_bytes(sample_scene(n, split_name="validation"), SIZE))).convert("RGB")
        for n in range(scenes)
    ]
    originals = vectors(encoder, images)
    between = (1 - originals @ originals.T)[np.triu_indices(scenes, 1)]
    table = {f"of {len(between):,} pairs of distinct scenes": {str(d): int((between <= d).sum()) for d in DISTANCES}}
    some = images[:400]
    for name, copy in COPIES.items():
        apart = 1 - (originals[: len(some)] * vectors(encoder, [copy(image) for image in some])).sum(1)
        table[name] = {str(d): round(float((apart <= d).mean()), 3) for d in DISTANCES}
    return table


def cost(count: int) -> dict[str, float]:
    """Seconds and completeness of near_duplicate_pairs."""
    random = np.random.default_rng(0)
    points = random.normal(size=(count, DIM)).astype(np.float32)
    copies = count // 20
    points[-copies:] = points[:copies] + random.normal(0, 0.1, (copies, DIM))  # at a distance of about 0.005
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="sightline-bench-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedStack(Path(folder) / "home") as stack:
            migrate(stack.database_url)
            with psycopg.connect(stack.database_url, autocommit=True) as connection:
                connection.execute("select sightline.create_space('points', 'points', %s)", (DIM,))
                connection.execute("insert into sightline.collection (name) values ('points')")
                connection.execute(
                    "insert into sightline.item (collection_id, external_id, modality, uri) "
                    "select 1, n, 'image', 'file:///' || n from generate_series(1, %s) n",
                    (count,),
                )
                columns = "(space_id, item_id, generation, norm, modality, vec)"
                with connection.cursor().copy(f"copy sightline.embedding {columns} from stdin") as rows:
                    for item_id, point in enumerate(points.tolist(), 1):
                        rows.write_row((1, item_id, 1, 1.0, "image", str(point)))
                connection.execute("analyze")
                index_space(Database(stack.database_url), "points")
                began = time.perf_counter()
                listed = connection.execute("select * from sightline.near_duplicate_pairs('points')").fetchall()
                seconds = time.perf_counter() - began
    pairs = {(row[0], row[2]) for row in listed}
    true = set()
    for first in range(0, count, 1000):
        rows, columns = np.nonzero(1 - points[first : first + 1000] @ points.T <= 0.02)  # type: ignore[assignment]
        true |= {(first + a + 1, b + 1) for a, b in zip(rows, columns, strict=True) if first + a < b}
    return {
        "vectors": count,
        "dimensions": DIM,
        "seconds": round(seconds, 1),
        "milliseconds_per_item": round(1000 * seconds / count, 2),
        "true_pairs": len(true),
        "listed": len(true & pairs),
        "mistaken": len(pairs - true),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--vectors", type=int, default=20_000)
    arguments = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    figures = {"machine": machine, "found": found(arguments.scenes), "cost": cost(arguments.vectors)}
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

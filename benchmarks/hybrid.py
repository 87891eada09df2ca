"""What hybrid search finds that neither vectors nor words find: `python -m benchmarks.hybrid [--scenes 1000] [--seeds 3]`.

Held-out scenes that bear a painted word, each with a caption of its owner's that says the word and nothing else. A query
asks for a thing of the scene and its word ("a red star, the word cafe"); a hit is right by the truth of its scene. Vectors
are those of the bundled encoder, which can read the painted words after a fashion; words cannot tell the forty scenes that
bear the same word apart. `words` has no vector at all: scenes of equal rank come in order of their numbers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from models.checkpoint import bundled_model
from models.scenes.evaluate import Encoder, pictures
from models.scenes.query import Claim, Query
from models.scenes.recall import Figure, figure
from models.scenes.sample import Dice, sample_scene
from models.scenes.scene import Scene
from sightline.embedded.stack import EmbeddedStack
from sightline.migrate import migrate

ARMS = {
    "vectors": ", caption_weight => 0, word_weight => 0",
    "words": ", image_weight => 0, caption_weight => 0",
    "hybrid": "",
}
SPACE, DEPTH = "hybrid_scenes", 10


def scenes_with_words(seed: int, count: int, split: str = "test") -> list[Scene]:
    """The first `count` scenes of a seed that bear a word."""
    numbers = range(seed * 20 * count, (seed + 1) * 20 * count)
    drawn = (sample_scene(n, split_name=split, things=(2, 4)) for n in numbers)
    return list(islice((scene for scene in drawn if scene.word is not None), count))


def store(connection: psycopg.Connection[Any], scenes: list[Scene], vectors: np.ndarray) -> None:
    """One image a scene, in a space of its own."""
    connection.execute("select sightline.create_space(%s, 'scenes-dual-encoder', %s)", (SPACE, vectors.shape[1]))
    connection.execute("insert into sightline.collection (name) values (%s)", (SPACE,))
    rows = [
        (f"scene-{n:05}", json.dumps({"caption": f"a sign that says {scene.word}"}), _literal(vector))
        for n, (scene, vector) in enumerate(zip(scenes, vectors, strict=True))
    ]
    with connection.cursor() as cursor:
        cursor.executemany(
            "with i as (insert into sightline.item (collection_id, external_id, modality, uri, metadata) "
            "select collection_id, %s, 'image', 'file:///none', %s from sightline.collection where name = 'hybrid_scenes' "
            "returning item_id) insert into sightline.embedding (space_id, item_id, generation, norm, modality, vec) "
            "select space_id, item_id, 1, 1, 'image', %s from i, sightline.space where name = 'hybrid_scenes'",
            rows,
        )


def measure(connection: psycopg.Connection[Any], seed: int, count: int, split: str = "test") -> dict[str, Figure]:
    """Per arm the share of queries whose first hit is right, and the share of right hits among the first ten.

    The latter divides by ten, or by the number of right scenes if that is less.
    """
    scenes = scenes_with_words(seed, count, split)
    encoder = Encoder(bundled_model())
    store(connection, scenes, encoder.images(pictures(scenes)))
    queries = [_query(scene, Dice(f"hybrid:{seed}:{n}")) for n, scene in enumerate(scenes)]
    texts = [f"{query.claims[0].text()}, the word {query.word}" for query in queries]
    vectors = encoder.texts(texts)
    right_scenes = [sum(query.matches(scene) for scene in scenes) for query in queries]
    figures: dict[str, Figure] = {}
    for arm, weights in ARMS.items():
        first, share = np.zeros(len(scenes)), np.zeros(len(scenes))
        for n, (query, text, vector) in enumerate(zip(queries, texts, vectors, strict=True)):
            given = None if arm == "words" else _literal(vector)
            sql = f"select external_id from sightline.hybrid_search(%s, %s, %s, %s, %s{weights})"
            hits = connection.execute(sql, (SPACE, text, given, DEPTH, SPACE)).fetchall()
            right = [query.matches(scenes[int(name.removeprefix("scene-"))]) for (name,) in hits]
            first[n] = right[0] if right else 0
            share[n] = sum(right) / min(DEPTH, right_scenes[n])
        figures[f"{arm}: first hit right"] = figure(first)
        figures[f"{arm}: right among ten"] = figure(share)
    return figures


def _query(scene: Scene, dice: Dice) -> Query:
    thing = dice.pick(scene.things)
    return Query((Claim(colour=thing.colour, shape=thing.shape),), word=scene.word)


def _literal(vector: np.ndarray) -> str:
    return "[" + ",".join(f"{x:.6f}" for x in vector) + "]"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hybrid")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--split", default="test", help="validation while weights are chosen")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="sightline-hybrid-") as folder,
        EmbeddedStack(Path(folder) / "home", durable=False) as stack,
    ):
        Path(folder).chmod(0o755)
        migrate(stack.database_url)
        for seed in range(args.seeds):
            with psycopg.connect(stack.database_url) as connection:
                for name, found in measure(connection, seed, args.scenes, args.split).items():
                    print(f"seed {seed}  {name:28} {found}")
                connection.rollback()


if __name__ == "__main__":
    main()

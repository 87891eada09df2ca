"""Vectors to search in, made to be as hard as those of a CLIP model: clustered, in a cone, texts apart from images.

Every image has a latent point of 64 dimensions whose spread falls as 1/sqrt(dimension). Points lie around concepts, one for
each 250 images, some many times as common as others. The point is lifted into 512 dimensions, and the cone of its modality
and a little noise are added, so that two images have a cosine of about 0.5 on average, and an image and a text of about
0.17. A text says half of what its image shows. What is measured on them is no claim about a real collection.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

DIM, LATENT = 512, 64
BLOCK = 20_000
IMAGES_OF_A_CONCEPT = 250
WITHIN = 0.5
"""Spread of the images of one concept, beside that of the concepts."""
NOISE = 0.15


class Landscape:
    """Images by number, and queries that are none of them; the same for the same number of rows.

    Args:
        rows: images.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        random = np.random.default_rng(rows)
        basis, _ = np.linalg.qr(random.normal(size=(DIM, LATENT + 2)))
        self._lift = basis[:, :LATENT].T.astype(np.float32)
        self._cones = {"image": basis[:, LATENT].astype(np.float32), "text": _apart(basis[:, LATENT:])}
        spread = 1 / np.sqrt(np.arange(1, LATENT + 1))
        self._spread = (spread / np.linalg.norm(spread)).astype(np.float32)
        concepts = max(20, rows // IMAGES_OF_A_CONCEPT)
        self._concepts = random.normal(size=(concepts, LATENT)).astype(np.float32) * self._spread
        weights = 1 / np.sqrt(np.arange(1, concepts + 1))
        self._likely = np.cumsum(weights / weights.sum())

    def blocks(self) -> Iterator[np.ndarray]:
        """All images in order, float16 (at most BLOCK, DIM) of length 1."""
        for first in range(0, self.rows, BLOCK):
            random = np.random.default_rng((self.rows, first))
            yield self._images(random, min(BLOCK, self.rows - first))

    def queries(self, case: str, count: int) -> np.ndarray:
        """float16 (count, DIM) of length 1.

        Args:
            case: "image": other images of the same concepts; "text": texts about such images; "unseen": images of
                concepts of which there is no image.
        """
        random = np.random.default_rng((self.rows, {"image": -1, "text": -2, "unseen": -3}[case] + 2**32))
        if case == "image":
            return self._images(random, count)
        if case == "unseen":
            far = random.normal(size=(count, LATENT)).astype(np.float32) * self._spread
            return self._placed(random, far, "image")
        said = random.normal(size=(count, LATENT)).astype(np.float32) * self._spread
        return self._placed(random, (self._points(random, count) + said) / np.float32(np.sqrt(2)), "text")

    def _images(self, random: np.random.Generator, count: int) -> np.ndarray:
        return self._placed(random, self._points(random, count), "image")

    def _points(self, random: np.random.Generator, count: int) -> np.ndarray:
        concept = np.minimum(np.searchsorted(self._likely, random.random(count)), len(self._concepts) - 1)
        return self._concepts[concept] + WITHIN * self._spread * random.normal(size=(count, LATENT)).astype(np.float32)

    def _placed(self, random: np.random.Generator, points: np.ndarray, modality: str) -> np.ndarray:
        noise = random.normal(size=(len(points), DIM)).astype(np.float32) * np.float32(NOISE / np.sqrt(DIM))
        vectors = points @ self._lift + noise + self._cones[modality]
        unit: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
        return unit


def _apart(two: np.ndarray) -> np.ndarray:
    """The cone of texts: at a cosine of 0.3 to that of images."""
    cone: np.ndarray = (0.3 * two[:, 0] + np.sqrt(1 - 0.3**2) * two[:, 1]).astype(np.float32)
    return cone

"""Checkpoints and pictures that the tests of the encoders share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.models.blip_folder import build_blip
from tests.models.tiny_checkpoints import build_clip, build_siglip


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")


@pytest.fixture(scope="session")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_siglip(tmp_path_factory.mktemp("siglip") / "tiny-siglip")


@pytest.fixture(scope="session")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_blip(tmp_path_factory.mktemp("blip") / "random-blip")


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    """uint8 RGB of many shapes: noise, smooth, grey, tiny, tall and wide."""
    rng = np.random.default_rng(0)
    shapes = [(40, 60), (61, 33), (32, 32), (100, 90), (9, 7), (1, 1), (200, 50)]
    noise = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    ramp = np.linspace(0, 255, 70 * 45).reshape(70, 45, 1).repeat(3, axis=2).astype(np.uint8)
    grey = np.repeat(rng.integers(0, 256, (50, 50, 1), dtype=np.uint8), 3, axis=2)
    return [*noise, ramp, grey]

"""Our own models pass the kits that we ask of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from models.captioner import BlipCaptioner, load_captioner
from models.encoder import Encoder, bundled_model, load_encoder
from models.matcher import BlipMatcher, load_matcher
from models.scenes.captions import caption
from models.scenes.render import render_array
from models.scenes.sample import sample_scene
from models.scorer import DualEncoderScorer
from tests.kit.captioner import CaptionerKit
from tests.kit.encoder import EncoderKit
from tests.kit.scorer import ScorerKit
from tests.models.families.builders import own_images, own_texts
from tests.models.tiny_checkpoints import CONTEXT


def scene_triples() -> list[tuple[str, np.ndarray, np.ndarray]]:
    """A caption of a rendered scene, the scene, and the next one."""
    scenes = [sample_scene(index, split_name="test", things=(2, 4)) for index in range(31)]
    rendered = [render_array(scene, 224) for scene in scenes]
    captions = [caption(scene, "full", index).text for index, scene in enumerate(scenes)]
    return list(zip(captions[:-1], rendered[:-1], rendered[1:], strict=True))


class OwnReference:
    """transformers' own processor, tokenizer and model on a checkpoint."""

    def __init__(self, folder: Path, context: int = CONTEXT) -> None:
        self._folder, self._context = folder, context

    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return own_images(self._folder, images)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        return own_texts(self._folder, texts, self._context)


class TestTinyClip(EncoderKit):
    @pytest.fixture
    def load(self, clip: Path) -> Callable[[], Encoder]:
        return lambda: load_encoder(str(clip), device="cpu")

    @pytest.fixture
    def reference(self, clip: Path) -> OwnReference:
        return OwnReference(clip)


class TestTinySiglip(EncoderKit):
    @pytest.fixture
    def load(self, siglip: Path) -> Callable[[], Encoder]:
        return lambda: load_encoder(str(siglip), device="cpu")

    @pytest.fixture
    def reference(self, siglip: Path) -> OwnReference:
        return OwnReference(siglip)


class TestBundledEncoder(EncoderKit):
    @pytest.fixture
    def load(self) -> Callable[[], Encoder]:
        return lambda: load_encoder("bundled", device="cpu")

    @pytest.fixture
    def reference(self, encoder: Encoder) -> OwnReference:
        return OwnReference(bundled_model(), encoder.context_length)


class TestBundledCaptioner(CaptionerKit):
    @pytest.fixture
    def load(self) -> Callable[[], BlipCaptioner]:
        return lambda: load_captioner(device="cpu")


class TestBundledMatcher(ScorerKit):
    @pytest.fixture
    def load(self) -> Callable[[], BlipMatcher]:
        return lambda: load_matcher(device="cpu")

    @pytest.fixture
    def triples(self) -> list[tuple[str, np.ndarray, np.ndarray]]:
        return scene_triples()


class TestDualEncoderScorer(ScorerKit):
    @pytest.fixture
    def load(self) -> Callable[[], DualEncoderScorer]:
        return lambda: DualEncoderScorer(load_encoder("bundled", device="cpu"))

    @pytest.fixture
    def triples(self) -> list[tuple[str, np.ndarray, np.ndarray]]:
        return scene_triples()


class TestTinySiglipScorer(ScorerKit):
    @pytest.fixture
    def load(self, siglip: Path) -> Callable[[], DualEncoderScorer]:
        return lambda: DualEncoderScorer(load_encoder(str(siglip), device="cpu"))

"""Every family passes the kit of encoders against its reference: images of many sizes, texts of many lengths, together
and alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from models.encoder import Encoder, load_encoder
from models.errors import NoTextTower
from models.families import FAMILIES
from tests.kit.encoder import EncoderKit, ImageEncoderKit
from tests.models.families import open_clip
from tests.models.families.builders import DUAL, IMAGE_ONLY, own_images, own_texts


class Transformers:
    """transformers' own processor, tokenizer and model."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return own_images(self._folder, images)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        return own_texts(self._folder, texts)


class OpenClip:
    """The architecture of open_clip, written for the tests."""

    def __init__(self, folder: Path, model: open_clip.Reference) -> None:
        self._folder, self._model = folder, model

    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return open_clip.own_images(self._model, images)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        return open_clip.own_texts(self._folder, self._model, texts)


class OnTransformers:
    kind: str

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return {**DUAL, **IMAGE_ONLY}[cls.kind](tmp_path_factory.mktemp(cls.kind) / cls.kind)

    @pytest.fixture
    def load(self, folder: Path) -> Callable[[], Encoder]:
        return lambda: load_encoder(str(folder), device="cpu")

    @pytest.fixture
    def reference(self, folder: Path) -> Transformers:
        return Transformers(folder)

    def test_the_passport_names_the_family_whatever_the_precision(self, folder: Path, encoder: Encoder) -> None:
        assert encoder.passport.kind == self.kind
        assert encoder.passport.modalities == (("image", "text") if self.kind in DUAL else ("image",))
        half = load_encoder(str(folder), device="cpu", dtype="bfloat16").passport
        assert encoder.passport.differences(half) == []


class TestMetaClip2(OnTransformers, EncoderKit):
    kind = "metaclip_2"


class TestSiglip2NaFlex(OnTransformers, EncoderKit):
    kind = "siglip2"


class TestAltClip(OnTransformers, EncoderKit):
    kind = "altclip"


class TestChineseClip(OnTransformers, EncoderKit):
    kind = "chinese_clip"


class TestDinoV2(OnTransformers, ImageEncoderKit):
    kind = "dinov2"


class TestDinoV2WithRegisters(OnTransformers, ImageEncoderKit):
    kind = "dinov2_with_registers"


class TestResNet(OnTransformers, ImageEncoderKit):
    kind = "resnet"


class OnOpenClip:
    hub: bool

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, open_clip.Reference]:
        folder = tmp_path_factory.mktemp("open_clip") / "open-clip"
        return open_clip.build(folder, hub=cls.hub, quick_gelu=not cls.hub)

    @pytest.fixture
    def load(self, made: tuple[Path, open_clip.Reference]) -> Callable[[], Encoder]:
        return lambda: load_encoder(str(made[0]), device="cpu")

    @pytest.fixture
    def reference(self, made: tuple[Path, open_clip.Reference]) -> OpenClip:
        return OpenClip(*made)


class TestOpenClip(OnOpenClip, EncoderKit):
    hub = False


class TestOpenClipWithXlmRoberta(OnOpenClip, EncoderKit):
    hub = True


def test_every_family_passes_the_kit() -> None:
    """CLIP and SigLIP do in tests/models/test_conformance.py."""
    tested = {value.kind for value in globals().values() if isinstance(value, type) and hasattr(value, "kind")}
    assert {*tested, "clip", "siglip", "open_clip"} == set(FAMILIES)


@pytest.mark.parametrize("kind", IMAGE_ONLY)
def test_an_encoder_of_images_says_so_of_a_text(kind: str, tmp_path: Path) -> None:
    encoder = load_encoder(str(IMAGE_ONLY[kind](tmp_path / kind)), device="cpu")
    passport = encoder.passport
    assert (passport.tokenizer, passport.text_padding, passport.context_length) == (None, None, None)
    for encode in (lambda: encoder.prepare_text("a cat"), lambda: encoder.encode_texts([])):
        with pytest.raises(NoTextTower, match=rf"{kind} encodes images only: search with an image"):
            encode()

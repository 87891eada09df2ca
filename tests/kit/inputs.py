"""What the kits feed to every model: pictures and texts of many shapes, and some that must be refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.errors import InvalidInput

TEXTS = (
    "a photo of a red cube",
    "TWO small green spheres!",
    "x",
    "naïve café “quoted” ½",
    "東京の猫 кошка قطة",
    "e\u0301 \u00e9 \U0001f431\u200d\U0001f469 don't",
    "  a   large\tblue\ncone ",
    "1,234.5 <tag> a_b-c?d=1&e=2",
    "the cat and the dog sat on the mat",
)
BAD_TEXT = "broken \udcff here"
"""A lone surrogate, as file names of unknown encoding give it: no tokenizer can encode it."""


def pictures() -> list[np.ndarray]:
    """uint8 RGB: noise of many shapes, a ramp, a grey one, and a scene-like one of two flat colours."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((40, 60), (61, 33), (9, 7), (200, 50))]
    ramp = np.linspace(0, 255, 70 * 45).reshape(70, 45, 1).repeat(3, axis=2).astype(np.uint8)
    flat = np.full((80, 80, 3), (200, 30, 30), np.uint8)
    flat[20:60, 20:60] = (20, 40, 220)
    return [*noise, ramp, flat]


def jpeg(size: tuple[int, int], cells: tuple[int, int]) -> bytes:
    """A JPEG of so many pixels (width, height), of soft cells of random colours."""
    colours = np.random.default_rng(1).integers(0, 256, (cells[1], cells[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    return file.getvalue()


def prepared_from(encoder: Any, file: bytes, size: tuple[int, int]) -> np.ndarray:
    """What an encoder makes of a JPEG that is decoded to a size, as workers decode it."""
    with Image.open(io.BytesIO(file)) as image:
        image.draft(None, size)
        assert image.size == size
        return np.asarray(encoder.prepare_image(np.asarray(image)))


def extreme_pictures() -> list[np.ndarray]:
    """1 x 1, both strips of 20,000, black, white."""
    strip = np.full((1, 20_000, 3), 7, np.uint8)
    return [
        np.zeros((1, 1, 3), np.uint8),
        strip,
        np.ascontiguousarray(strip.transpose(1, 0, 2)),
        np.zeros((50, 50, 3), np.uint8),
        np.full((50, 50, 3), 255, np.uint8),
    ]


def bad_pictures() -> list[np.ndarray]:
    """Not uint8 RGB of at least one pixel: float, grey, RGBA, empty, 16 bit."""
    return [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.uint16),
    ]


def assert_refused(prepare: Callable[[Any], object], bad: Any) -> None:
    """`prepare` must blame this input in one line."""
    with pytest.raises(InvalidInput) as caught:
        prepare(bad)
    assert str(caught.value).strip(), "the refusal of a bad input says nothing"
    assert "\n" not in str(caught.value), f"the refusal of a bad input is not one line: {caught.value}"


def assert_json(content: dict[str, Any]) -> None:
    """Plain JSON that survives a round trip."""
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def assert_public_name(model: str) -> None:
    """Names travel into databases and to other machines."""
    assert model, "the model has no name"
    assert not model.startswith(("/", "~", ".")), f"{model!r} is a path of this machine, not a name"
    assert "\\" not in model, f"{model!r} is a path of this machine, not a name"


def in_threads(step: Callable[[Any], Any], inputs: Sequence[Any], rounds: int = 6) -> list[Any]:
    """Results of `step` on `rounds` copies of the inputs, by eight threads at once, in order."""
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(step, list(inputs) * rounds))


def loaded_once(kit: type, load: Callable[[], Any]) -> Any:
    """The model of one kit, loaded by the first of its tests."""
    if "_loaded" not in vars(kit):
        kit._loaded = load()  # type: ignore[attr-defined]
    return kit._loaded  # type: ignore[attr-defined]


def poison(model: Any) -> Any:
    """Make every weight NaN, in all networks that the model holds in its attributes."""
    networks = list(_networks([model], depth=3))
    if not networks:
        pytest.fail("no torch network found in the model's attributes: override the fixture `poisoned`")
    with torch.no_grad():
        for network in networks:
            for weight in network.parameters():
                weight.fill_(float("nan"))
    return model


def _networks(values: Iterable[Any], depth: int) -> Iterable[torch.nn.Module]:
    for value in values:
        if isinstance(value, torch.nn.Module):
            yield value
        elif depth and hasattr(value, "__dict__"):
            yield from _networks(vars(value).values(), depth - 1)

"""The vision experts of a worker, opened as the settings say."""

from __future__ import annotations

from models.detector import load_detector
from models.experts.finding import Expert
from models.experts.ocr import TextReader
from models.experts.open_vocabulary import load_open_vocabulary
from models.experts.things import SceneExpert
from sightline.settings import Settings

__all__ = ["BUNDLED", "open_detector", "open_reader"]

BUNDLED = "bundled"


def open_detector(settings: Settings, model: str) -> Expert:
    """The detector of rendered scenes if the model is "bundled", else an OWLv2. Raises ModelError."""
    if model == BUNDLED:
        return SceneExpert(load_detector(device=settings.device))
    return load_open_vocabulary(model, device=settings.device)


def open_reader() -> TextReader:
    """Reads words. Raises MissingLibrary."""
    return TextReader()

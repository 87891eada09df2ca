"""What a worker captions with: models that are loaded when the first caption job needs them, and not before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import structlog

from models.captioner import load_captioner
from models.matcher import load_matcher
from models.recipes import Tools
from models.recipes.local import InTurn, LocalMatcher, Turns
from sightline.settings import Settings
from workers.encoding import Kind
from workers.endpoints import open_captioner, open_llm
from workers.engine import Lane
from workers.errors import EngineUnavailable
from workers.experts import BUNDLED, open_detector, open_reader
from workers.items import FORWARD_SECONDS
from workers.spaces import Served
from workers.vector import normalise

log = structlog.get_logger(__name__)


class SpaceVectors:
    """The space's encoder as a tool: its forwards go through the engine, behind every interactive call.

    Conforms to `models.recipes.tools.Vectors`.
    """

    def __init__(self, served: Served, lane: Lane) -> None:
        self.model = served.encoder.passport.model
        self._served, self._lane = served, lane

    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """float32 (n, dim), of length 1."""
        return self._units(self.each("image", images))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (n, dim), of length 1."""
        return self._units(self.each("text", texts))

    def each(self, kind: Kind, values: Sequence[Any]) -> list[np.ndarray | Exception]:
        """The unit vector of each image or text, or why there is none."""
        prepare = self._served.encoder.prepare_image if kind == "image" else self._served.encoder.prepare_text
        found: list[np.ndarray | Exception] = []
        ready: dict[int, Any] = {}
        for place, value in enumerate(values):
            try:
                ready[place] = prepare(value)
                found.append(EngineUnavailable("not encoded"))
            except Exception as error:  # noqa: BLE001 - each has its own fate
                found.append(error)
        coming = self._served.engine.submit(kind, list(ready.values()), self._lane)
        for place, future in zip(ready, coming, strict=True):
            try:
                found[place] = normalise(future.result(FORWARD_SECONDS)).values
            except Exception as error:  # noqa: BLE001
                found[place] = error
        return found

    def _units(self, found: Sequence[np.ndarray | Exception]) -> np.ndarray:
        for each in found:
            if isinstance(each, Exception):
                raise each
        vectors = [each for each in found if isinstance(each, np.ndarray)]
        return np.stack(vectors) if vectors else np.zeros((0, self._served.encoder.dim), np.float32)


class CaptionTools:
    """The tools of this worker. Safe in threads.

    Args:
        settings: name the captioner, the matcher and the endpoints.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._locks: dict[str, threading.Lock] = {}
        self._turns = Turns()
        self._loaded: dict[str, Any] = {}

    @property
    def busy_seconds(self) -> float:
        """How long the forward under way of captioner or matcher has lasted; 0 when idle."""
        return self._turns.busy_seconds

    def of(self, served: Served, lane: Lane) -> Tools:
        """What the captions of a space are made with."""
        makers: dict[str, Callable[[], Any]] = {"captioner": lambda: self._once("captioner", self._captioner)}
        if "text" in served.modalities:
            makers["encoder"] = lambda: SpaceVectors(served, lane)
        matcher = self._settings.matcher_model or (BUNDLED if served.encoder.passport.source == BUNDLED else None)
        if matcher is not None:
            makers["matcher"] = lambda: self._once("matcher", lambda: self._matcher(matcher))
        if self._settings.llm_url is not None:
            makers["llm"] = lambda: self._once("llm", lambda: open_llm(self._settings))
        detector = self._settings.detector_model or (BUNDLED if served.encoder.passport.source == BUNDLED else None)
        if detector is not None:
            makers["detector"] = lambda: self._once("detector", lambda: open_detector(self._settings, detector))
        makers["ocr"] = lambda: self._once("ocr", open_reader)
        return Tools(**makers)

    def _captioner(self) -> Any:
        endpoint = open_captioner(self._settings)
        if endpoint is not None:
            return endpoint
        captioner = load_captioner(self._settings.captioner_model or BUNDLED, device=self._settings.device)
        return InTurn(captioner, self._turns)

    def _matcher(self, model: str) -> LocalMatcher:
        return LocalMatcher(load_matcher(model, device=self._settings.device), self._turns)

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        """One for all spaces; what could not be made is tried again the next time."""
        with self._locks.setdefault(name, threading.Lock()):  # nobody waits for another tool that is being loaded
            if name not in self._loaded:
                self._loaded[name] = make()
                log.info("caption_tool_ready", tool=name)
            return self._loaded[name]

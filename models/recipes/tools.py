"""What recipes work with, each made when it is first used: a worker that does not caption loads nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from models.errors import ModelError

if TYPE_CHECKING:
    from models.endpoint.chat import ChatEndpoint
    from models.protocols import Captioner


class Lacking(ModelError):
    """A recipe needs something that was not set up; the message says what to set."""


class Vectors(Protocol):
    """A dual encoder, as recipes see it: unit vectors of one space."""

    @property
    def model(self) -> str:
        """Its public id."""

    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """float32 (n, dim), of length 1, of uint8 RGB images of any size."""

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (n, dim), of length 1."""


class Matcher(Protocol):
    """Whether texts are true of images, read together."""

    @property
    def model(self) -> str:
        """Its public id."""

    def match(self, images: Sequence[np.ndarray], texts: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """For each image the probability of each of its texts, float32."""


_HOW = {
    "captioner": "the worker has no captioner",
    "encoder": "the space's model takes no texts",
    "matcher": "the worker has no matcher",
    "llm": "set SIGHTLINE_LLM_URL and SIGHTLINE_LLM_MODEL for the workers (fusecap goes without: params "
    '{"fuser": "rules"})',
    "detector": "set SIGHTLINE_DETECTOR_MODEL for the workers to an OWLv2 checkpoint (the bundled detector knows "
    "rendered scenes only), or leave the expert out",
}


class Tools:
    """Tools by name, made on first use and once. Safe in threads.

    Args:
        makers: by name: `captioner`, `encoder`, `matcher`, `llm`, and those of vision experts. A maker may raise
            ModelError, which is raised again and tried again at the next use.
    """

    def __init__(self, **makers: Callable[[], Any]) -> None:
        self._makers = makers
        self._made: dict[str, Any] = {}
        self._lock = threading.RLock()

    def has(self, name: str) -> bool:
        """Whether there is a maker of it."""
        return name in self._makers

    def get(self, name: str) -> Any:
        """A tool.

        Raises:
            Lacking: there is no such tool here.
            ModelError: it cannot be made.
        """
        with self._lock:
            if name not in self._made:
                if name not in self._makers:
                    raise Lacking(f"there is no {name}: {_HOW.get(name, 'this worker was started without it')}")
                self._made[name] = self._makers[name]()
            return self._made[name]

    @property
    def captioner(self) -> Captioner:
        """The captioner."""
        found: Captioner = self.get("captioner")
        return found

    @property
    def encoder(self) -> Vectors:
        """The space's encoder."""
        found: Vectors = self.get("encoder")
        return found

    @property
    def matcher(self) -> Matcher:
        """The matcher."""
        found: Matcher = self.get("matcher")
        return found

    @property
    def llm(self) -> ChatEndpoint:
        """The language model."""
        found: ChatEndpoint = self.get("llm")
        return found

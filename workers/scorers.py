"""The scorers that this worker may use, each loaded when it is first asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from models.errors import ModelError
from models.protocols import Scorer
from models.scorers import STORED, load_scorer, parse_name, version_of
from workers.engine import Costs, Engine
from workers.engine.warmup import warm_up
from workers.errors import ScorerRefused
from workers.scoring import PairWork

log = structlog.get_logger(__name__)

RETRY_SECONDS = 60.0
"""A scorer that could not be loaded is tried again when it is asked for, after this long."""


@dataclass(frozen=True, slots=True)
class LoadedScorer:
    """A scorer that is ready.

    Args:
        name: as users give it.
        scorer: the model; None for those that work with a space's vectors.
        engine: runs its forwards; None without a model here, as for an endpoint.
        version: see `models.scorers.version_of`; None for those that work with a space's vectors, which each have one.
    """

    name: str
    scorer: Scorer | None
    engine: Engine | None
    version: str | None


class Scorers:
    """Loads scorers in one background thread. Safe in threads.

    Args:
        names: those that may be used, the default one first: loading a model that any caller names would let callers
            fill the memory, and read folders.
        device: "auto", "cpu", "cuda" or "cuda:1".
        open_endpoint: makes the scorer of an endpoint from the name of its model; None without an address.
    """

    def __init__(self, names: Sequence[str], device: str, open_endpoint: Callable[[str], Scorer | None]) -> None:
        self._names = list(names)
        self._device = device
        self._open_endpoint = open_endpoint
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="scorers")
        self._loading: dict[str, Future[LoadedScorer]] = {}
        self._refused_at: dict[str, float] = {}
        self._loaded: list[LoadedScorer] = []

    def find(self, name: str | None) -> Future[LoadedScorer]:
        """A scorer once it is loaded; None is the default one. The first to ask starts the loading.

        Raises:
            ScorerRefused: this worker may not use it; also what the future may fail with.
        """
        if name is None and self._names:
            name = self._names[0]
        if name is None or name not in self._names:
            known = ", ".join(self._names) or "none"
            raise ScorerRefused(f"scorer {name!r} is none of this worker's ({known}; SIGHTLINE_SCORERS)")
        with self._lock:
            future = self._loading.get(name)
            if future is not None and time.monotonic() > self._refused_at.get(name, float("inf")) + RETRY_SECONDS:
                future = None
            if future is None:
                self._refused_at.pop(name, None)
                future = self._loading[name] = self._loader.submit(self._load, name)
            return future

    @property
    def busy_seconds(self) -> float:
        """How long the longest forward under way has lasted."""
        return max((one.engine.busy_seconds for one in list(self._loaded) if one.engine), default=0.0)

    def troubles(self) -> list[str]:
        """What is wrong with engines, in words."""
        engines = [one.engine for one in list(self._loaded) if one.engine is not None]
        return [trouble for engine in engines if (trouble := engine.trouble) is not None]

    def close(self) -> None:
        """Stop the engines; what waits in them fails."""
        self._loader.shutdown(wait=False, cancel_futures=True)
        for one in list(self._loaded):
            if one.engine is not None:
                one.engine.close()

    def _load(self, name: str) -> LoadedScorer:
        began = time.monotonic()
        try:
            loaded = self._open(name)
        except BaseException as error:
            known = isinstance(error, ModelError | ScorerRefused)
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            log.warning("scorer_refused", scorer=name, reason=reason, exc_info=not known)
            with self._lock:
                self._refused_at[name] = time.monotonic()
            raise ScorerRefused(f"scorer {name} is not served by this worker: {reason}") from error
        self._loaded.append(loaded)
        log.info("scorer_ready", scorer=name, version=loaded.version, seconds=round(time.monotonic() - began, 2))
        return loaded

    def _open(self, name: str) -> LoadedScorer:
        given = parse_name(name)
        if given.kind in STORED:
            return LoadedScorer(name, None, None, None)
        if given.kind == "endpoint":
            remote = self._open_endpoint(given.model or "")
            if remote is None:
                raise ScorerRefused("it needs the address of a rerank endpoint: set SIGHTLINE_RERANK_URL")
            return LoadedScorer(name, remote, None, version_of(remote.identity))
        scorer = load_scorer(name, self._device)
        work, costs = PairWork(scorer), Costs()
        warm_up(work, costs)
        return LoadedScorer(name, scorer, Engine([work], name, costs), version_of(scorer.identity))

"""The spaces that this worker serves: their models, loaded once each, checked against the stored passports."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from psycopg.types.json import Jsonb

from models.encoder import Encoder, load_encoder
from models.errors import ModelError
from models.files import state_of
from workers.database import Pool
from workers.encoding import works_of
from workers.engine import Costs, Engine
from workers.engine.warmup import warm_up
from workers.golden import Golden
from workers.queries import query
from workers.references import disagreement

log = structlog.get_logger(__name__)

FIRST_SECONDS = 60.0
"""How long a worker that starts waits for its first connection: a busy machine takes its time."""
RETRY_SECONDS = 60.0
"""A space that could not be served is tried again when work comes for it, after this long."""


_Key = tuple[str, str | None, Any]
"""A model: name or folder, revision, and the state of the folder's files."""


@dataclass(frozen=True, slots=True)
class Served:
    """A space that this worker can encode for."""

    space_id: int
    name: str
    modalities: tuple[str, ...]
    encoder: Encoder
    engine: Engine
    golden: Golden

    def check(self) -> None:
        """Raises SpaceRefused when the model's vectors can no longer be trusted: nothing may be written then."""
        if self.golden.reason is not None:
            raise SpaceRefused(f"space {self.name} is not served by this worker: {self.golden.reason}")


class SpaceRefused(Exception):
    """This worker cannot serve the space; the message says why. Another worker may."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A model that serves one or more spaces."""

    encoder: Encoder
    engine: Engine
    golden: Golden


class Spaces:
    """Loads models in one background thread; nobody else waits for it unless they want to. Safe in threads.

    Args:
        pool: to read the space table.
        queues: that this worker consumes; they say which spaces it serves.
        device: "auto", "cpu", "cuda" or "cuda:1".
    """

    def __init__(self, pool: Pool, queues: Sequence[str], device: str) -> None:
        self._pool = pool
        self._queues = list(queues)
        self._device = device
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._spaces: dict[int, Future[Served]] = {}
        self._refused_at: dict[int, float] = {}
        self._states: dict[int, dict[str, Any]] = {}
        self._models: dict[_Key, _Loaded] = {}
        self._served: dict[int, Served] = {}

    def load_all(self) -> list[Future[Served]]:
        """Start loading the models of all spaces that the queues serve. Refused ones are logged."""
        with self._pool.connection(timeout=FIRST_SECONDS) as connection:
            rows = connection.execute(query("served_spaces"), {"queues": self._queues}).fetchall()
        return [self.get(row["space_id"]) for row in rows]

    def get(self, space_id: int) -> Future[Served]:
        """The space once its model is loaded; fails with SpaceRefused. The first to ask starts the loading."""
        with self._lock:
            future = self._spaces.get(space_id)
            if future is not None and time.monotonic() > self._refused_at.get(space_id, float("inf")) + RETRY_SECONDS:
                future = None
            if future is None:
                self._refused_at.pop(space_id, None)
                future = self._spaces[space_id] = self._loader.submit(self._load, space_id)
        return _checked(future)

    def find(self, name: str) -> Future[Served]:
        """The space of a name or an alias; aliases are looked up each time, for they move. Raises SpaceRefused."""
        with self._lock:
            known = [space_id for space_id, state in self._states.items() if state["space"] == name]
        if known:
            return self.get(known[0])
        with self._pool.connection() as connection:
            row = connection.execute(query("space_by_name"), {"name": name}).fetchone()
        if row is None:
            raise SpaceRefused(f"there is no space {name!r}")
        return self.get(row["space_id"])

    def describe(self) -> list[dict[str, Any]]:
        """State of each space, for the worker's row: space, model, state (loading, ready or refused) and detail."""
        with self._lock:
            states = {space_id: dict(state) for space_id, state in sorted(self._states.items())}
            served = list(self._served.values())
        for one in served:
            if one.golden.reason is not None:
                states[one.space_id] |= {"state": "refused", "detail": one.golden.reason}
        return list(states.values())

    @property
    def busy_seconds(self) -> float:
        """How long the longest forward under way has lasted."""
        return max((model.engine.busy_seconds for model in self._all()), default=0.0)

    def troubles(self) -> list[str]:
        """What is wrong with engines and vectors, in words; nothing when all is well."""
        with self._lock:
            served = list(self._served.values())
        drifted = [f"space {one.name}: {one.golden.reason}" for one in served if one.golden.reason is not None]
        return [trouble for model in self._all() if (trouble := model.engine.trouble) is not None] + drifted

    def check(self) -> None:
        """Hold the golden vectors of all models against what they were."""
        for model in self._all():
            model.golden.check()

    def close(self) -> None:
        """Stop the engines; what waits in them fails."""
        self._loader.shutdown(wait=False, cancel_futures=True)
        for model in self._all():
            model.engine.close()

    def _all(self) -> list[_Loaded]:
        return list(self._models.values())

    def _load(self, space_id: int) -> Served:
        began = time.monotonic()
        row: dict[str, Any] = {"name": f"space {space_id}", "model": None}
        try:
            with self._pool.connection() as connection:
                row = connection.execute(query("space_by_id"), {"space_id": space_id}).fetchone() or row
            if row["model"] is None:
                raise SpaceRefused(f"there is no space of id {space_id}")
            self._note(space_id, row, "loading", None)
            model = self._open(row)
            self._check_golden(space_id, model)
        except BaseException as error:
            known = isinstance(error, SpaceRefused | ModelError)
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            log.warning("space_refused", space=row["name"], model=row["model"], reason=reason, exc_info=not known)
            self._note(space_id, row, "refused", reason)
            with self._lock:
                self._refused_at[space_id] = time.monotonic()
            raise SpaceRefused(f"space {row['name']} is not served by this worker: {reason}") from error
        self._note(space_id, row, "ready", model.encoder.device)
        log.info("space_ready", space=row["name"], model=row["model"], device=model.encoder.device,
                 seconds=round(time.monotonic() - began, 2))  # fmt: skip
        served = Served(space_id, row["name"], tuple(row["modalities"]), model.encoder, model.engine, model.golden)
        with self._lock:
            self._served[space_id] = served
        return served

    def _open(self, row: dict[str, Any]) -> _Loaded:
        """The model of a space; two spaces of one model share it. Runs in the loader's one thread."""
        source = row["passport"].get("source")
        model = row["model"] if source in (None, "hub", "bundled") else source
        # A folder that changed is another model: spaces that were loaded before go on with what they have in memory.
        key = (model, row["revision"], state_of(Path(model)) if Path(model).is_dir() else None)
        loaded = self._models.get(key)
        encoder = loaded.encoder if loaded else load_encoder(model, revision=row["revision"], device=self._device)
        self._check_passport(row, encoder, model)
        if loaded is None:
            loaded = self._models[key] = _loaded(encoder, row["name"])
        return loaded

    def _check_passport(self, row: dict[str, Any], encoder: Encoder, source: str) -> None:
        """Vectors of another model than the space's must never get into it. Raises SpaceRefused with what differs."""
        if not row["passport"].get("weights"):
            raise SpaceRefused("it was made without the passport of a model; make it with `sightline space create`")
        lacking = [modality for modality in row["modalities"] if modality not in encoder.modalities]
        if lacking:
            raise SpaceRefused(
                f"it takes {' and '.join(lacking)} items, which {row['model']} does not encode; create it with "
                f"`sightline space create`, or with modalities => '{{{','.join(encoder.modalities)}}}'"
            )
        given = {"stored": Jsonb(row["passport"]), "given": Jsonb(encoder.passport.to_dict())}
        with self._pool.connection() as connection:
            found = connection.execute(query("passport_differences"), given).fetchone()
        differing = found["differences"] if found is not None else "no answer"
        if not differing and encoder.dim != row["dim"]:
            differing = f"dimension: {row['dim']} in the space, {encoder.dim} in the model"
        if differing:
            raise SpaceRefused(
                f"its passport differs from that of {source} here: {differing}. Bring back the model that it was made "
                f"with, or create another space for this one"
            )

    def _check_golden(self, space_id: int, model: _Loaded) -> None:
        """The same model on another machine, driver or library has to compute the same vectors. Raises SpaceRefused."""
        if model.golden.reason is not None:
            raise SpaceRefused(model.golden.reason)
        with self._pool.connection() as connection:
            differing = disagreement(connection, space_id, model.encoder, model.golden)
        if differing is not None:
            raise SpaceRefused(differing)

    def _note(self, space_id: int, row: dict[str, Any], state: str, detail: str | None) -> None:
        with self._lock:
            self._states[space_id] = {"space": row["name"], "model": row["model"], "state": state, "detail": detail}


def _loaded(encoder: Encoder, name: str) -> _Loaded:
    """Warm a model up, and have it encode its golden vectors."""
    works, costs = works_of(encoder), Costs()
    for work in works:
        warm_up(work, costs)
    engine = Engine(works, name, costs)
    try:
        return _Loaded(encoder, engine, Golden(encoder, works, engine, name))
    except BaseException:
        engine.close()
        raise


def _checked(loading: Future[Served]) -> Future[Served]:
    """The same, or one that has failed if the model's vectors can no longer be trusted."""
    if not loading.done() or loading.cancelled() or loading.exception() is not None:
        return loading
    try:
        loading.result().check()
    except SpaceRefused as error:
        refused: Future[Served] = Future()
        refused.set_exception(error)
        return refused
    return loading

"""Where the rows are measured: one real stack with one worker, the models, the photographs, and the baselines' workers."""

from __future__ import annotations

import itertools
import json
import os
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import torch
from psycopg.types.json import Jsonb

from benchmarks.checkpoints import SMALL, VIT_B_32, VIT_L_14, Shape, build
from benchmarks.ideal import IdealLoop, decode
from benchmarks.noop import NoopCaller
from benchmarks.photos import write_photos
from benchmarks.row import Scale
from models.encoder import Encoder, load_encoder
from sightline.client import Sightline
from sightline.embedded.supervisor import Supervisor
from sightline.job import Job
from sightline.migrate import migrate
from sightline.services import Services, running_services
from sightline.settings import Settings

VIT = "vit"
BUNDLED = "bundled"
TABLE = "ideal"
JOB_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Batches:
    """Forwards of a worker.

    Args:
        count: how many.
        seconds, items: of all of them.
    """

    count: float
    seconds: float
    items: float

    def since(self, before: Batches) -> Batches:
        """Those after an earlier moment."""
        return Batches(self.count - before.count, self.seconds - before.seconds, self.items - before.items)

    @property
    def mean_ms(self) -> float:
        """Milliseconds of one."""
        return 1000 * self.seconds / self.count

    @property
    def mean_size(self) -> float:
        """Items of one."""
        return self.items / self.count


class Arena:
    """What the rows share. Parts start when they are first asked for, and end with the arena.

    Attributes:
        scale: how much is measured.
        client: of the running stack, with its defaults.
        files: photographs in a folder that client and worker share.
    """

    def __init__(self, scale: Scale, folder: Path, services: Services, settings: Settings, undo: ExitStack) -> None:
        self.scale = scale
        self.settings = settings
        self.services = services
        self._folder = folder
        self._undo = undo
        self._numbers = itertools.count(1)
        self._models: dict[str, str] = {BUNDLED: "bundled"}
        self._encoders: dict[str, Encoder] = {}
        self._loops: dict[str, IdealLoop] = {}
        self._noop: NoopCaller | None = None
        self._plain: PlainCelery | None = None
        self._forwards = undo.enter_context(ThreadPoolExecutor(1, thread_name_prefix="forward"))
        self.client = undo.enter_context(Sightline(services.database_url, services.redis_url, settings=settings))
        self.connection = undo.enter_context(psycopg.connect(services.database_url, autocommit=True))
        self.files = write_photos(folder / "photos", max(map(self._count, (VIT, BUNDLED))))

    @property
    def _faster(self) -> int:
        """How many times as many photographs a GPU gets, so that a round takes seconds there too."""
        return 20 if torch.cuda.is_available() else 1

    def _count(self, model: str) -> int:
        # The bundled encoder is bound by decoding on any machine: its round needs fewer times as many.
        return self.scale.small * min(self._faster, 8) if model == BUNDLED else self.scale.images * self._faster

    def photographs(self, model: str) -> list[Path]:
        """Those of one round."""
        return self.files[: self._count(model)]

    @property
    def few(self) -> list[Path]:
        """Those of one round of what is slow."""
        return self.files[: self.scale.few * self._faster]

    @property
    def models(self) -> list[str]:
        """The models that photographs are encoded with: on a GPU its usual sizes, too."""
        return [VIT, BUNDLED, *(["vit_b_32", "vit_l_14"] if torch.cuda.is_available() else [])]

    def source(self, model: str) -> str:
        """What `load_encoder` takes; checkpoints are written when they are first asked for."""
        shapes: dict[str, Shape] = {VIT: SMALL, "vit_b_32": VIT_B_32, "vit_l_14": VIT_L_14}
        if model not in self._models:
            self._models[model] = str(build(self._folder / model, shapes[model]))
        return self._models[model]

    def encoder(self, model: str) -> Encoder:
        """The model in this process, for the baselines."""
        if model not in self._encoders:
            self._encoders[model] = load_encoder(self.source(model))
        return self._encoders[model]

    def forward(self, function: Callable[[], Any]) -> float:
        """Milliseconds of a forward in a thread that does nothing else."""

        def timed() -> float:
            began = time.perf_counter()
            function()
            return 1000 * (time.perf_counter() - began)

        return self._forwards.submit(timed).result()

    def space(self, model: str) -> str:
        """A new space of a model, so that no vector is there already, and the worker has it loaded."""
        name = f"{model}_{next(self._numbers)}"
        encoder = self.encoder(model)
        self.connection.execute(
            "select sightline.create_space(%s, %s, %s, %s, modalities => %s)",
            (name, encoder.passport.model, encoder.dim, Jsonb(encoder.passport.to_dict()), list(encoder.modalities)),
        )
        if "text" in encoder.modalities:
            self.client.encode(texts=["ready"], space=name, timeout=120)
        return name

    def loop(self, model: str) -> IdealLoop:
        """The ideal loop of a model on photographs."""
        if model not in self._loops:
            encoder = self.encoder(model)
            self._loops[model] = self.ideal(partial(decode, encoder), encoder.encode_images, self.files, model)
        return self._loops[model]

    def ideal(
        self,
        prepare: Callable[[Any], Any],
        encode: Callable[[Sequence[Any]], Any],
        items: Sequence[Any],
        name: str,
        batch: int | None = None,
    ) -> IdealLoop:
        """An ideal loop and its table `ideal_<name>`, warmed up.

        Args:
            batch: items of one forward; None for the size that is best here.
        """
        loop = IdealLoop(prepare, encode, self.services.database_url)
        self._undo.callback(loop.close)
        loop.batch = batch or loop.best_size(items, self.scale.batches)
        self.connection.execute(f"create table {TABLE}_{name} (item_id bigint primary key, vec halfvec)")
        loop.run(items[: 2 * loop.batch], f"{TABLE}_{name}")
        return loop

    def timed_job(self, submit: Callable[[], Job]) -> float:
        """Seconds of a job by the database's clock, from the moment its queue goes on to its end.

        It is submitted while the queue is paused: submitting has a row of its own.
        """
        self.client.pause(queue="encode", reason="a benchmark prepares its job")
        job = submit()
        (began,) = self._one("select clock_timestamp()")
        self.client.resume(queue="encode")
        ended = self.finished(job)
        return (ended - began).total_seconds()

    def finished(self, job: Job) -> datetime:
        """When a job ended, all of its items done."""
        now = job.wait(timeout=JOB_SECONDS)
        assert now.done == now.submitted, f"not all was done: {now}"
        assert now.finished_at is not None
        return now.finished_at

    def noop(self) -> NoopCaller:
        """Makes calls that do nothing."""
        if self._noop is None:
            env = {**os.environ, "SIGHTLINE_REDIS_URL": self.services.redis_url, "SIGHTLINE_LOG_LEVEL": "warning"}
            self._supervised("noop", [sys.executable, "-m", "benchmarks.noop"], env)
            self._noop = NoopCaller(self.services.redis_url)
            self._undo.callback(self._noop.close)
            self._noop.wait_ready()
        return self._noop

    def plain_celery(self) -> PlainCelery:
        """The plain Celery worker of the baseline, with all models."""
        if self._plain is None:
            env = {
                **os.environ,
                "PLAIN_REDIS_URL": self.services.redis_url,
                "PLAIN_DATABASE_URL": self.services.database_url,
                "PLAIN_MODELS": json.dumps({model: self.source(model) for model in self.models}),
            }
            command = [
                sys.executable,
                "-m",
                "celery",
                "-A",
                "benchmarks.plain_celery",
                "worker",
                "--loglevel",
                "warning",
            ]
            self._supervised("plain", [*command, "-Q", "ready", "-n", "plain@%h"], env)
            self._plain = PlainCelery(self.services.redis_url, self.connection)
        return self._plain

    def batches(self) -> Batches:
        """What the worker has measured of its forwards of photographs so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.settings.metrics_port}/metrics", timeout=60) as answer:
            lines = [line for line in answer.read().decode().splitlines() if 'kind="image"' in line]

        def total(name: str) -> float:
            return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))

        forward = "sightline_forward_seconds"
        return Batches(total(f"{forward}_count"), total(f"{forward}_sum"), total("sightline_batch_size_items_sum"))

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """The DSN of a migrated database of its own, which no worker looks at; dropped at the end."""
        self.connection.execute(f"create database {name}")
        parts = urlsplit(self.services.database_url)
        url = urlunsplit(parts._replace(path=f"/{name}"))
        try:
            migrate(url)
            yield url
        finally:
            self.connection.execute(f"drop database {name} with (force)")

    def _supervised(self, name: str, command: Sequence[str], env: dict[str, str]) -> None:
        process = Supervisor(command, name=name, env=env, log=self._folder / f"{name}.log")
        self._undo.callback(process.stop, 5.0)
        process.start()

    def _one(self, statement: str, *arguments: object) -> tuple[Any, ...]:
        row = self.connection.execute(statement, arguments).fetchone()
        assert row is not None
        return row


class PlainCelery:
    """Gives work to `benchmarks.plain_celery` and times it by the database's clock."""

    def __init__(self, redis_url: str, connection: psycopg.Connection[Any]) -> None:
        os.environ["PLAIN_REDIS_URL"] = redis_url
        from benchmarks.plain_celery import app

        app.conf.broker_url = redis_url
        self._app = app
        self._connection = connection
        self._numbers = itertools.count(1)

    def run(self, model: str, files: Sequence[Path]) -> float:
        """Items per second: all messages wait in Redis when the worker is told to begin."""
        number = next(self._numbers)
        queue, table = f"plain-{number}", f"plain_{number}"
        self._connection.execute(
            f"create table {table} (item_id bigint primary key, vec halfvec, at timestamptz default clock_timestamp())"
        )
        with self._app.producer_pool.acquire(block=True) as producer:
            for n, file in enumerate(files):
                self._app.send_task(
                    "plain.encode", (model, table, n, str(file)), queue=queue, producer=producer, ignore_result=True
                )
        (began,) = self._row("select clock_timestamp()")
        end = time.monotonic() + JOB_SECONDS
        while not self._app.control.add_consumer(queue, reply=True, timeout=2.0):
            assert time.monotonic() < end, "the plain Celery worker does not start"  # it loads its models
            (began,) = self._row("select clock_timestamp()")
        while (done := self._row(f"select count(*), max(at) from {table}"))[0] < len(files):
            assert time.monotonic() < end, f"{done[0]} of {len(files)} after {JOB_SECONDS:.0f} s"
            time.sleep(0.02)
        self._app.control.cancel_consumer(queue)
        self._connection.execute(f"drop table {table}")
        return len(files) / float((done[1] - began).total_seconds())

    def _row(self, statement: str) -> tuple[Any, ...]:
        row = self._connection.execute(statement).fetchone()
        assert row is not None
        return row


@contextmanager
def open_arena(scale: Scale, folder: Path) -> Iterator[Arena]:
    """Start the stack and its worker under `folder`, with the settings that a user gets."""
    folder.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = Settings(home=folder / "home", log_level="warning", media_roots=[folder], metrics_port=port)
    os.environ |= {  # for the worker
        "SIGHTLINE_MEDIA_ROOTS": json.dumps([str(folder)]),
        "SIGHTLINE_LOG_LEVEL": "warning",
        "SIGHTLINE_METRICS_PORT": str(port),
    }
    with ExitStack() as undo:
        services = undo.enter_context(running_services(settings))
        yield Arena(scale, folder, services, settings, undo)

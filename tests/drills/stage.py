"""Where a drill plays: servers of its own, worker processes, and at the end the account of what became of every item."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, LiteralString, Self
from urllib.parse import parse_qs, quote, urlsplit

import psycopg
import redis

from sightline.client import Sightline
from sightline.connection import Lane
from sightline.embedded.place import find_place
from sightline.embedded.stack import EmbeddedStack
from sightline.job import Job
from sightline.settings import Settings
from tests.drills.actor import Actor, Supervised
from tests.drills.gate import Gate
from tests.drills.house import House
from tests.drills.invariants import Census, breaches, census, settled_breaches
from tests.drills.proxy import Proxy, Trap, socket_of
from tests.workers.processes import until


@dataclass(frozen=True)
class Report:
    """What a drill showed. `duplicates`: vectors stored more than once and items counted more than once."""

    counts: Census
    duplicates: int
    recovered: float | None


def none(found: Sequence[str]) -> None:
    """Fail with what is wrong, if anything is."""
    if found:
        raise AssertionError(f"{len(found)} promises are broken: {'; '.join(found[:5])}")


class Stage:
    """One drill's servers, clients and workers. A context manager.

    Args:
        house: where the state folder comes from.
        folder: of its own; the logs stay there.
        settings: of every worker, over the defaults of the product: `{"lease_seconds": 2}`.

    Attributes:
        brief: the settings make it shorter than with the product's defaults.
        lease: seconds of the workers' lease.
    """

    playing: ClassVar[set[Stage]] = set()

    def __init__(self, house: House, folder: Path, settings: Mapping[str, object]) -> None:
        self.folder = folder
        self.lease = float(str(settings.get("lease_seconds", Settings().lease_seconds)))
        self.brief = bool(settings)
        self._settings = dict(settings)
        self._undo = ExitStack()
        self._actors: list[Actor | Supervised] = []
        self._began: float | None = None
        self._recovered: float | None = None
        self._numbers = iter(range(10**6))
        folder.mkdir(parents=True, exist_ok=True)
        self._home = Path(tempfile.mkdtemp(prefix="drill-")) / "home"
        self._home.parent.chmod(0o755)
        house.copy(self._home)

    def __enter__(self) -> Self:
        self.playing.add(self)
        self._undo.callback(self.playing.discard, self)
        self._undo.callback(shutil.rmtree, self._home.parent, ignore_errors=True)
        self.stack = self._undo.enter_context(EmbeddedStack(self._home, durable=False))
        self.database_url, self.redis_url = self.stack.database_url, self.stack.redis_url
        settings = Settings(home=self._home, media_roots=[self.folder])
        self.client = self._undo.enter_context(Sightline(self.database_url, self.redis_url, settings=settings))
        self.redis: redis.Redis = self._undo.enter_context(redis.Redis.from_url(self.redis_url, socket_timeout=5))
        self.prefix = settings.key_prefix
        self._undo.callback(self._kill_all)
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("postgres", "redis"):
            log = self._home / "logs" / f"{name}.log"
            if log.exists():
                shutil.copy(log, self.folder / log.name)
        self._undo.close()

    def callback(self, what: Callable[[], object]) -> None:
        """Call this when the drill is over, however it ends."""
        self._undo.callback(what)

    # Processes

    def worker(
        self, *arguments: str, gate: Gate | None = None, faults: Mapping[str, object] | None = None, database_url: str | None = None,
        redis_url: str | None = None, **settings: object,
    ) -> Actor:  # fmt: skip
        """Start a worker and wait until it consumes.

        Args:
            arguments: of `python -m workers`.
            gate: closes in front of its batches once it is ready.
            faults: variables of `sabotage`.
            database_url: through a proxy or a pooler.
            redis_url: through a proxy.
            settings: of this worker alone.
        """
        faults = {**(faults or {}), **(gate.faults if gate else {})}
        environment = self.environment(faults, database_url, redis_url, settings)
        actor = Actor(arguments, environment, self.folder / f"worker-{len(self._actors)}.log")
        self._actors.append(actor)
        actor.wait_for("worker_ready", 120)
        if gate is not None:
            gate.close()  # not before: loading a model encodes something
        return actor

    def supervised(self, *, faults: Mapping[str, object] | None = None, **settings: object) -> Supervised:
        """Start `sightline worker`, and wait until its worker consumes."""
        environment = self.environment(faults, None, None, settings)
        actor = Supervised(environment, self.folder / f"worker-{len(self._actors)}.log")
        self._actors.append(actor)
        actor.wait_until_ready()
        return actor

    def environment(
        self,
        faults: Mapping[str, object] | None = None,
        database_url: str | None = None,
        redis_url: str | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> dict[str, str]:
        """Of a worker process."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SIGHTLINE_", "DRILL_"))}
        given = {"media_roots": f'["{self.folder}"]', "device": "cpu", **self._settings, **(settings or {})}
        return (
            kept
            | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            | {f"SIGHTLINE_{name.upper()}": str(value) for name, value in given.items()}
            | {"SIGHTLINE_DATABASE_URL": database_url or self.database_url}
            | {"SIGHTLINE_REDIS_URL": redis_url or self.redis_url}
            | {name: str(value) for name, value in (faults or {}).items()}
        )

    def worker_id(self, actor: Actor) -> Any:
        """Its number in the ledger."""
        return self.value(
            "select worker_id from sightline.worker where pid = %s order by started_at desc limit 1", actor.pid
        )

    def leader(self, actors: Sequence[Actor]) -> Actor:
        """The one of these that leads as dispatcher, once one does."""

        def leading() -> Actor | None:
            pid = self.value(
                "select w.pid from sightline.leader l join sightline.worker w using (worker_id) "
                "where l.role = 'dispatcher' and l.lease_until > clock_timestamp()"
            )
            return next((actor for actor in actors if actor.pid == pid), None)

        return until(leading, 2 * self.lease)

    # The ledger

    def value(self, statement: LiteralString, *parameters: object) -> Any:
        """The first column of the first row, or None."""
        rows = self.rows(statement, *parameters)
        return rows[0][0] if rows else None

    def rows(self, statement: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        """All rows. Each statement is a session of its own: servers come and go."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def submit(
        self,
        items: int | Sequence[Any] = 300,
        *,
        collection: str | None = None,
        lane: Lane = "normal",
        asleep: bool = False,
    ) -> Job:
        """A job of so many texts, or of these items.

        Args:
            asleep: it does not start before `wake`.
        """
        number = next(self._numbers)
        given = [f"{number} {n}" for n in range(items)] if isinstance(items, int) else items
        texts = [{"text": item, "external_id": item} if isinstance(item, str) else item for item in given]
        with psycopg.connect(self.client.database_url) as lent:
            job = self.client.ingest(texts, collection=collection or f"c{number}", lane=lane, connection=lent)
            if asleep:
                lent.execute("update sightline.chunk set run_at = 'infinity' where job_id = %s", (job.job_id,))
        return job

    def wake(self, job: Job) -> None:
        """Let a job begin that was submitted asleep."""
        self.rows(
            "update sightline.chunk set run_at = clock_timestamp() where job_id = %s and run_at = 'infinity'",
            job.job_id,
        )

    def in_hand(self, actor: Actor) -> list[int]:
        """Items that the ledger says a worker is working on."""
        found = self.value(
            "select coalesce(array_agg(distinct i), '{}') from sightline.chunk c cross join lateral unnest(c.item_ids) i "
            "where c.state = 'running' and c.worker_id = %s",
            self.worker_id(actor),
        )
        return list(found)

    def taken_over(self, items: Sequence[int], lost: Actor, within: float) -> None:
        """Wait until the work of a lost worker has begun elsewhere, and then until all of it runs or is done.

        It takes longer than the first of it: lost chunks go on as suspects, in pieces of 16 items, one at a time for each worker.

        Args:
            within: seconds since `fault` in which it begins.
        """
        assert items, "the lost worker had nothing in hand"
        worker_id = self.worker_id(lost)

        def left() -> int:
            """Items that nobody has stored, failed or in hand."""
            return int(
                self.value(
                    "select count(*) from unnest(%s::bigint[]) i where not exists ("
                    "  select from sightline.embedding e where e.item_id = i) and not exists ("
                    "  select from sightline.failure f where f.item_id = i) and not exists ("
                    "  select from sightline.chunk c where c.state = 'running' and c.worker_id <> %s and i = any (c.item_ids))",
                    list(items),
                    worker_id,
                )
            )

        self.recovered(lambda: left() < len(items), within)
        until(lambda: left() == 0, 2 * within, pause=0.1)

    def done(self, job: Job) -> int:
        """Items of a job that are terminal by now."""
        now = job.progress()
        return now.submitted - now.pending

    def nothing_was_spent(self, *jobs: Job) -> None:
        """No chunk of these jobs has spent of its retry budget, or was taken from its worker as lost."""
        for job in jobs:
            spent, moved = self.rows(
                "select max(attempt), sum(n_moved) from sightline.chunk where job_id = %s", job.job_id
            )[0]
            assert spent == 0, f"{job}: a chunk has spent {spent} attempts"
            assert self.brief or moved == 0, f"{job}: {moved} items were taken from a worker"

    def encode_call(self, text: str) -> bool:
        """Whether a worker answers a call."""
        call = {"kind": "encode", "space": "tiny", "inputs": [{"text": text}]}
        return bool(self.client.broker.call("encode.interactive", call, 10)["space"] == "tiny")

    # Faults

    @contextlib.contextmanager
    def gate(self) -> Iterator[Gate]:
        """A gate for a worker that is started with `gate=`; open again at the end."""
        gate = Gate(self.folder / f"gate-{next(self._numbers)}")
        try:
            yield gate
        finally:
            gate.open()

    @contextlib.contextmanager
    def mid_batch(self, items: int = 300, **worker: Any) -> Iterator[tuple[Gate, Actor, Job]]:
        """A job whose first batch is in the model of a worker, in front of a gate that opens at the end.

        Args:
            items: of the job.
            worker: arguments of `worker`.
        """
        with self.gate() as gate:
            actor = self.worker(gate=gate, **worker)
            job = self.submit(items)
            gate.wait(actor)
            yield gate, actor, job

    def trapped(
        self, items: int, pattern: bytes, *, after: bytes = b"", hold: Literal["request", "answer"] = "request"
    ) -> tuple[Proxy, Trap, Actor, Job]:
        """A job whose worker has said this to Postgres: the proxy between them holds the request, or its answer."""
        proxy, url = self.postgres_proxy()
        actor = self.worker(database_url=url)
        trap = proxy.trap(pattern, after=after, hold=hold)
        job = self.submit(items)
        trap.wait()
        return proxy, trap, actor, job

    def postgres_proxy(self) -> tuple[Proxy, str]:
        """A proxy in front of Postgres, and the URL through it."""
        parts = urlsplit(self.database_url)
        real = Path(parse_qs(parts.query)["host"][0])
        folder = Path(tempfile.mkdtemp(prefix="drill-"))
        self._undo.callback(shutil.rmtree, folder, ignore_errors=True)
        proxy = self._undo.enter_context(Proxy(socket_of(real), Path(socket_of(folder))))
        return proxy, self.database_url.replace(quote(str(real)), quote(str(folder))).replace(str(real), str(folder))

    def redis_proxy(self) -> tuple[Proxy, str]:
        """A proxy in front of Redis, and the URL through it."""
        parts = urlsplit(self.redis_url)
        assert parts.port is not None
        proxy = self._undo.enter_context(Proxy(("127.0.0.1", parts.port)))
        return proxy, self.redis_url.replace(f":{parts.port}/", f":{proxy.port}/")

    @property
    def redis_pid(self) -> int:
        """The server's process."""
        return int(self.redis.info("server")["process_id"])

    def redis_is_gone(self) -> bool:
        """Whether the server has ended."""
        return self.stack._redis.died()

    @property
    def redis_folder(self) -> Path:
        """Where its data lies."""
        return find_place(self._home).redis

    @property
    def postmaster(self) -> int:
        """The server's first process."""
        assert self.stack.info is not None
        return int((self.stack.info.data / "postmaster.pid").read_text().split("\n", 1)[0])

    def stop_postgres(self) -> None:
        """`pg_ctl stop -m immediate`: no farewell, recovery at the next start. `heal` starts it again."""
        os.kill(self.postmaster, signal.SIGQUIT)
        until(self.stack._postgres.died, 10)

    def heal(self) -> None:
        """Start the servers that have ended."""
        until(self.stack.heal, 30)

    # The account

    def fault(self) -> None:
        """The clock of recovery starts, or starts again."""
        self._began, self._recovered = time.monotonic(), None

    def recovered(self, what: Callable[[], object], within: float) -> float:
        """Wait until things are as they should be again; seconds since `fault`."""
        assert self._began is not None
        until(what, within - (time.monotonic() - self._began), pause=0.1)
        self._recovered = time.monotonic() - self._began
        return self._recovered

    def watch(self) -> None:
        """Nothing is wrong at this moment."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            none(breaches(connection, self.lease))

    def settle(self, *jobs: Job, seconds: float = 60.0) -> Report:
        """Wait until the jobs are done and all is quiet, stop the workers, and check every promise."""
        for job in jobs:
            progress = job.wait(timeout=seconds)
            assert progress.state == "done", progress
        self._wait_until_quiet(2 * self.lease + 40)
        for actor in self._actors:
            if actor.exit_code() is None:
                assert actor.terminate(40) == 0
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            none(settled_breaches(connection, self.redis, self.prefix, self.lease))
            counts = census(connection)
            row = connection.execute(
                "select count(*) - count(distinct (item_id, generation)) from drill.write"
            ).fetchone()
        assert row is not None
        report = Report(counts, counts.duplicates + row[0], self._recovered)
        assert (report.duplicates, counts.lost) == (0, 0), report
        return report

    def _wait_until_quiet(self, seconds: float) -> None:
        def quiet() -> bool:
            with psycopg.connect(self.database_url, autocommit=True) as connection:
                last = settled_breaches(connection, self.redis, self.prefix, self.lease)
            return not last

        with contextlib.suppress(AssertionError):  # `settle` asks again, and says what is wrong
            until(quiet, seconds, pause=0.2)

    def _kill_all(self) -> None:
        for actor in self._actors:
            if isinstance(actor, Actor) and actor.exit_code() is None:
                actor.thaw()
            actor.kill()

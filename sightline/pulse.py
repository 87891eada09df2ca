"""A submitter's sign of life: an open job whose submitter is slow is told from one whose submitter died."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Self

from sightline.database import Database
from sightline.errors import SightlineError

PULSE_SECONDS = 15.0
SILENT_SECONDS = 60.0
"""A submitter that was silent for so long has missed four signs: it is held up badly, or dead."""


class Pulse:
    """While the block runs, the job's row says that its submitter lives, whatever the submitter waits for."""

    def __init__(self, database: Database, job_id: int) -> None:
        self._database = database
        self._job_id = job_id
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()  # the thread ends by itself: it may be waiting for a database that is away

    def _run(self) -> None:
        while not self._ended.wait(PULSE_SECONDS):
            with suppress(SightlineError), self._database.transaction() as connection:  # the next one may get through
                connection.execute("select sightline.keep_open(%s)", (self._job_id,))

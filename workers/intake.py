"""Jobs that services of other languages send as Celery messages: written into the ledger, or kept as refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import structlog

from sightline.contracts.problem import as_text
from sightline.database import translated_errors
from sightline.errors import ContractViolated, RequestRefused, UsageError
from workers.database import Pool
from workers.envelopes import KEPT_CHARACTERS
from workers.queries import query

log = structlog.get_logger(__name__)

FIELDS = ("kind", "payload", "collection", "items", "lane", "run_at")
"""Of a message: the arguments of SQL's `submit`. The id of the message is the idempotency key."""


class Intake:
    """Submits what messages ask for. Safe in threads."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def submit(self, message_id: str, arguments: Sequence[Any], request: dict[str, Any]) -> None:
        """Write the job of one message; the same message again finds it there.

        What the ledger refuses becomes a row of `refused_message`.

        Raises:
            ServiceMissing: the ledger cannot be reached, or does not take writes.
        """
        try:
            values = _checked(arguments, request)
            with translated_errors(), self._pool.connection() as connection:
                key = {"idempotency_key": f"message:{message_id}"}
                row = connection.execute(query("submit_message"), values | key).fetchone()
            log.info("message_submitted", message_id=message_id, job_id=row["job_id"] if row else None)
        except (ContractViolated, RequestRefused, UsageError) as error:
            text = json.dumps([list(arguments), request] if arguments else request)  # ASCII: nothing is refused again
            self.refuse(message_id, text, str(error))

    def refuse(self, message_id: str, request: str, error: str) -> None:
        """Keep what could not be submitted, with the reason, as a row of `refused_message`.

        Raises:
            ServiceMissing: the ledger cannot be reached, or does not take writes.
        """
        log.warning("message_refused", message_id=message_id, error=error)
        storable = [
            str(text).replace("\0", "\\0").encode(errors="replace").decode() for text in (message_id, request, error)
        ]
        values = {"message_id": storable[0][:200], "request": storable[1][:KEPT_CHARACTERS], "error": storable[2]}
        with translated_errors(), self._pool.connection() as connection:
            connection.execute(query("refuse_message"), values)


def _checked(arguments: Sequence[Any], request: dict[str, Any]) -> dict[str, Any]:
    """The values of the statement; what they mean is for the ledger to check."""
    if arguments:
        raise UsageError(f"a message has named arguments only ({', '.join(FIELDS)}), not {len(arguments)} by position")
    if unknown := sorted(set(request) - set(FIELDS)):
        raise UsageError(f"unknown argument {', '.join(unknown)}; arguments: {', '.join(FIELDS)}")
    given = {name: request.get(name) for name in FIELDS}
    for name in ("kind", "collection", "lane", "run_at"):
        if given[name] is not None and not isinstance(given[name], str):
            raise UsageError(f"{name} must be a string, not {json.dumps(given[name])[:50]}")
    if given["items"] is not None and not isinstance(given["items"], list):
        raise UsageError("items must be a list")
    for name in ("payload", "items"):
        given[name] = None if given[name] is None else as_text(given[name], name)
    return given

"""Answers `call sightline.search_text(...)`: has the question's text encoded by a call, and stores the vector."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from sightline.broker import Broker, as_reply
from sightline.contracts.encode import EncodeReply, EncodeRequest
from sightline.contracts.problem import validated
from sightline.errors import CallFailed, CallTimeout, ContractViolated, ServiceMissing
from workers.database import Pool
from workers.loop import Loop
from workers.queries import query

log = structlog.get_logger(__name__)

BUSY_SECONDS, IDLE_SECONDS = 0.01, 0.1
"""Between two looks for questions: when some were asked within the last half minute, and else."""
BUSY_FOR_SECONDS = 30.0
CALL_SECONDS = 5.0
"""How long a worker may take for a call; less than what makes a question count as dropped (`take_questions`)."""
MOST = 64
"""Questions in one call."""
KEPT = 10_000
"""Answers that are kept, the newest: a question that was asked before is answered from them."""
FORGET_SECONDS = 60.0

Row = dict[str, Any]


class Questions:
    """Takes questions from the ledger while this worker leads; any worker of the space's queue encodes them.

    Args:
        pool: of connections.
        broker: to call workers.
        leads: whether this worker leads; two that both think so take each question once.
    """

    def __init__(self, pool: Pool, broker: Broker, leads: Callable[[], bool]) -> None:
        self._pool = pool
        self._broker = broker
        self._leads = leads
        self._busy_until = self._forget_at = 0.0
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="questions")
        self._loop = Loop("questions", self._turn, IDLE_SECONDS)

    def start(self) -> None:
        """Start the thread."""
        self._loop.start()

    def stop(self, seconds: float) -> None:
        """Take no more; what is under way is answered, or asked again by the next leader."""
        self._loop.stop(seconds)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _turn(self) -> float:
        """One look; seconds until the next one."""
        if not self._leads():
            return IDLE_SECONDS
        now = time.monotonic()
        with self._pool.connection() as connection:
            rows = connection.execute(query("take_questions"), {"most": MOST}).fetchall()
            if now > self._forget_at:
                self._forget_at = now + FORGET_SECONDS
                connection.execute(query("forget_questions"), {"keep": KEPT})
        if rows:
            self._busy_until = now + BUSY_FOR_SECONDS
        by_space: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            by_space[row["space"]].append(row)
        for questions in by_space.values():
            self._threads.submit(self._answer, questions)
        return BUSY_SECONDS if now < self._busy_until else IDLE_SECONDS

    def _answer(self, questions: Sequence[Row]) -> None:
        """Answer questions of one space; what cannot be encoded fails alone."""
        try:
            vectors = self._encode(questions)
            with self._pool.connection() as connection:
                for question, (vector, note) in zip(questions, vectors, strict=True):
                    values = {"question_id": question["question_id"], "numbers": vector, "note": note}
                    connection.execute(query("answer_question"), values)
        except (CallFailed, ContractViolated) as error:
            if len(questions) > 1:
                for question in questions:
                    self._answer([question])
            else:
                self._fail(questions[0], str(error))
        except (CallTimeout, ServiceMissing) as error:  # taken again, until nobody waits any more
            log.warning("questions_not_answered", space=questions[0]["space"], error=str(error))
        except Exception:
            log.exception("questions_failed", space=questions[0]["space"])

    def _encode(self, questions: Sequence[Row]) -> list[tuple[list[float], str | None]]:
        asked = {"kind": "encode", "space": questions[0]["space"], "inputs": [{"text": q["words"]} for q in questions]}
        request = validated(EncodeRequest, asked, "call of encode").model_dump(exclude_none=True)
        seconds = max(0.1, min(CALL_SECONDS, max(float(question["seconds"]) for question in questions)))
        reply = as_reply(EncodeReply, self._broker.call(f"{questions[0]['queue']}.interactive", request, seconds))
        if len(reply.vectors) != len(questions):
            raise CallFailed(f"{len(reply.vectors)} vectors came back for {len(questions)} texts")
        notes = reply.notes or ((),) * len(questions)
        return [(list(v), "; ".join(n) or None) for v, n in zip(reply.vectors, notes, strict=True)]

    def _fail(self, question: Row, error: str) -> None:
        try:
            with self._pool.connection() as connection:
                values = {"question_id": question["question_id"], "error": error.replace("input 0", "the query", 1)}
                connection.execute(query("fail_question"), values)
        except Exception as again:  # noqa: BLE001 - it is taken again
            log.warning("question_not_failed", error=str(again).strip())

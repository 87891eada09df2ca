"""Answers calls: requests with a deadline and a reply, which leave no row. What is encoded is encoded here."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import structlog

from models.errors import ModelError
from sightline.broker import Broker
from sightline.contracts.call import ErrorReply
from sightline.contracts.check import check_call
from sightline.contracts.encode import EncodeCall, EncodeInput, EncodeReply
from sightline.contracts.rerank import RerankCall, RerankReply
from sightline.errors import ContractViolated
from workers.engine import Expired
from workers.errors import ItemError, UnsupportedModality
from workers.ingress import Ingress
from workers.inline import call_error, image_bytes
from workers.query_texts import GRACE, QueryTexts
from workers.rerank_calls import RerankCalls
from workers.spaces import Served, SpaceRefused, Spaces
from workers.vector import Vector, normalise

log = structlog.get_logger(__name__)


class _InputError(Exception):
    """An error of one input."""

    def __init__(self, item: int, error: Exception) -> None:
        super().__init__(str(error))
        self.item = item
        self.error_class = error.error_class if isinstance(error, ItemError) else type(error).__name__


class Calls:
    """Answers calls of every kind, ahead of all jobs.

    Args:
        rerank: answers those of its kind.
        texts: vectors of texts that were asked before.
        slots: calls that take long and are worked on at a time, beside those that are short: a ranking must not hold
            the threads that queries are encoded in.
    """

    def __init__(
        self, broker: Broker, spaces: Spaces, ingress: Ingress, rerank: RerankCalls, texts: QueryTexts, slots: int
    ) -> None:
        self._broker = broker
        self._spaces = spaces
        self._ingress = ingress
        self._rerank = rerank
        self._texts = texts
        self._long = ThreadPoolExecutor(slots, thread_name_prefix="rerank")
        self._long_room = threading.Semaphore(2 * slots)

    def answer(self, request: dict[str, Any]) -> None:
        """Answer one request with a reply of its kind, or with an error.

        A request whose deadline passes before its answer is there is dropped, with a line in the log: nobody waits for
        it. One that takes long is answered in a thread of its own, and so may this wait for room among those. Raises
        redis.RedisError.
        """
        try:
            call = check_call(request)
        except ContractViolated as error:
            log.warning("call_malformed", error=str(error))
            if isinstance(reply_key := request.get("reply_key"), str) and reply_key:
                self._broker.answer(reply_key, _error("ContractViolated", str(error), error.item))
            return
        assert isinstance(call, EncodeCall | RerankCall)
        seconds = call.deadline - self._broker.now()
        if seconds <= 0:
            log.warning("call_expired", late_seconds=round(-seconds, 3), kind=call.kind, space=call.space)
            return
        deadline = time.monotonic() + seconds
        if isinstance(call, EncodeCall):
            self._finish(call, deadline)
        elif self._long_room.acquire(timeout=seconds):
            self._long.submit(self._finish_long, call, deadline)
        else:
            log.warning(
                "call_expired_at_work", kind=call.kind, space=call.space, error="no room among the calls that take long"
            )

    def close(self) -> None:
        """Begin nothing more; what is under way may still be answered."""
        self._long.shutdown(wait=False, cancel_futures=True)

    def _finish_long(self, call: RerankCall, deadline: float) -> None:
        try:
            self._finish(call, deadline)
        except BaseException:
            log.exception("call_not_answered", kind=call.kind)
        finally:
            self._long_room.release()

    def _finish(self, call: EncodeCall | RerankCall, deadline: float) -> None:
        reply = self._reply(call, deadline)
        if reply is not None:
            self._broker.answer(call.reply_key, reply)

    def _reply(self, call: EncodeCall | RerankCall, deadline: float) -> EncodeReply | RerankReply | ErrorReply | None:
        """None: the deadline passed on the way."""
        try:
            if isinstance(call, RerankCall):
                return self._rerank.reply(call, deadline)
            served = self._spaces.find(call.space).result(deadline - time.monotonic())
            vectors, notes = self._encode(served, call.inputs, deadline)
            return EncodeReply(space=served.name, vectors=vectors, notes=notes)
        except _InputError as error:
            return _error(error.error_class, str(error), error.item)
        except SpaceRefused as error:
            return _error("SpaceRefused", str(error), None)
        except (Expired, TimeoutError) as error:
            log.warning(
                "call_expired_at_work", kind=call.kind, space=call.space, error=str(error) or type(error).__name__
            )
            return None
        except BaseException as error:
            if not isinstance(error, ItemError | ModelError):
                log.exception("call_failed", space=call.space)
            return _error(type(error).__name__, str(error), None)

    def _encode(
        self, served: Served, inputs: Sequence[EncodeInput], deadline: float
    ) -> tuple[tuple[tuple[float, ...], ...], tuple[tuple[str, ...], ...]]:
        """Vectors and notes of the inputs. Raises _InputError, Expired or TimeoutError."""
        texts: dict[int, str] = {}
        images: dict[int, np.ndarray] = {}
        notes: dict[int, tuple[str, ...]] = {}
        for index, given in enumerate(inputs):
            try:
                self._check_kind(served, given, f"input {index}")
                if given.text is not None:
                    texts[index] = self._ingress.check_text(given.text, f"input {index}")
                else:
                    images[index], notes[index] = self._image(served, given, f"input {index}")
            except Exception as error:
                raise _InputError(index, error) from error
        coming = served.engine.submit("image", list(images.values()), "interactive", deadline) if images else []
        found: dict[int, Vector | Exception] = dict(self._texts.encode(served, texts, deadline))
        for index, future in zip(images, coming, strict=True):
            try:
                found[index] = normalise(future.result(deadline - time.monotonic() + GRACE))
            except (Expired, TimeoutError):
                raise
            except Exception as error:  # noqa: BLE001 - it is this image's answer
                found[index] = error
        vectors = []
        for index, answer in sorted(found.items()):
            if isinstance(answer, Exception):
                raise _InputError(index, answer) from answer
            vectors.append(tuple(answer.values.tolist()))
            notes.setdefault(index, () if answer.note is None else (answer.note,))
        return tuple(vectors), tuple(notes[index] for index in sorted(notes))

    def _check_kind(self, served: Served, given: EncodeInput, name: str) -> None:
        kind = "image" if given.text is None else "text"
        if kind not in served.modalities:
            raise UnsupportedModality(
                f"{name}: space {served.name} takes no {kind}s, only {served.modalities[0]}s: its model "
                f"{served.encoder.passport.model} does not encode them"
            )

    def _image(self, served: Served, given: EncodeInput, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """What the engine takes, and what of the image it does not hold."""
        data = image_bytes(given.image or "", name)
        with self._ingress.decoded(data, name, served.encoder.decode_size) as decoded:
            return decoded.prepared_by(served.encoder.prepare_image), decoded.notes


def _error(error_class: str, message: str, item: int | None) -> ErrorReply:
    return ErrorReply(error=call_error(error_class, message, item))

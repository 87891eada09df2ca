"""Answers calls: requests with a deadline and a reply, which leave no row."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Sequence
from typing import Any

import structlog

from models.errors import ModelError
from sightline.broker import Broker
from sightline.contracts.call import CallError, ErrorReply
from sightline.contracts.check import check_call
from sightline.contracts.encode import EncodeCall, EncodeInput, EncodeReply
from sightline.errors import ContractViolated
from workers.engine import Expired, Kind
from workers.errors import InvalidInput, ItemError, UnsupportedModality
from workers.ingress import Ingress
from workers.items import cut_note
from workers.spaces import Served, SpaceRefused, Spaces
from workers.vector import normalise

log = structlog.get_logger(__name__)


class _InputError(Exception):
    """An error of one input."""

    def __init__(self, item: int, error: Exception) -> None:
        super().__init__(str(error))
        self.item = item
        self.error_class = error.error_class if isinstance(error, ItemError) else type(error).__name__


class Calls:
    """Encodes the inputs of calls, ahead of all jobs."""

    def __init__(self, broker: Broker, spaces: Spaces, ingress: Ingress) -> None:
        self._broker = broker
        self._spaces = spaces
        self._ingress = ingress

    def answer(self, request: dict[str, Any]) -> None:
        """Answer one request with a reply of its kind, or with an error.

        A request whose deadline has passed is dropped: nobody waits for it. Raises redis.RedisError.
        """
        try:
            call = check_call(request)
        except ContractViolated as error:
            log.warning("call_malformed", error=str(error))
            if isinstance(reply_key := request.get("reply_key"), str) and reply_key:
                self._broker.answer(reply_key, _error("ContractViolated", str(error), error.item))
            return
        assert isinstance(call, EncodeCall)
        seconds = call.deadline - self._broker.now()
        if seconds <= 0:
            log.warning("call_expired", late_seconds=round(-seconds, 3), space=call.space)
            return
        reply = self._reply(call, time.monotonic() + seconds)
        if reply is not None:
            self._broker.answer(call.reply_key, reply)

    def _reply(self, call: EncodeCall, deadline: float) -> EncodeReply | ErrorReply | None:
        """None: the deadline passed on the way."""
        try:
            served = self._spaces.find(call.space).result(deadline - time.monotonic())
            vectors, notes = self._encode(served, call.inputs, deadline)
            return EncodeReply(space=served.name, vectors=vectors, notes=notes)
        except _InputError as error:
            return _error(error.error_class, str(error), error.item)
        except SpaceRefused as error:
            return _error("SpaceRefused", str(error), None)
        except (Expired, TimeoutError) as error:
            log.warning("call_expired_at_work", space=call.space, error=str(error) or type(error).__name__)
            return None
        except BaseException as error:
            if not isinstance(error, ItemError | ModelError):
                log.exception("call_failed", space=call.space)
            return _error(type(error).__name__, str(error), None)

    def _encode(
        self, served: Served, inputs: Sequence[EncodeInput], deadline: float
    ) -> tuple[tuple[tuple[float, ...], ...], tuple[tuple[str, ...], ...]]:
        """Vectors and notes of the inputs. Raises _InputError, Expired or TimeoutError."""
        notes: list[tuple[str, ...]] = []
        prepared: dict[Kind, list[tuple[int, Any]]] = {"image": [], "text": []}
        for index, given in enumerate(inputs):
            try:
                kind, ready, seen = self._prepare(served, given, f"input {index}")
            except Exception as error:
                raise _InputError(index, error) from error
            prepared[kind].append((index, ready))
            notes.append(seen)
        vectors: list[tuple[float, ...]] = [()] * len(inputs)
        futures = {
            index: future
            for kind, items in prepared.items()
            for (index, _), future in zip(
                items, served.engine.submit(kind, [item for _, item in items], "interactive", deadline), strict=True
            )
        }
        for index, future in futures.items():
            try:
                # A moment more than the deadline: the engine itself drops what is late.
                vector = normalise(future.result(deadline - time.monotonic() + 1.0))
                vectors[index] = tuple(vector.values.tolist())
            except (Expired, TimeoutError):
                raise
            except Exception as error:
                raise _InputError(index, error) from error
        return tuple(vectors), tuple(notes)

    def _prepare(self, served: Served, given: EncodeInput, name: str) -> tuple[Kind, Any, tuple[str, ...]]:
        """What the engine takes, and what of the input it does not hold."""
        kind: Kind = "image" if given.text is None else "text"
        if kind not in served.modalities:
            raise UnsupportedModality(
                f"{name}: space {served.name} takes no {kind}s, only {served.modalities[0]}s: its model "
                f"{served.encoder.passport.model} does not encode them"
            )
        if given.text is not None:
            text = served.encoder.prepare_text(self._ingress.check_text(given.text, name))
            return kind, text, cut_note(text, served.encoder.context_length)
        try:
            data = base64.b64decode(given.image or "", validate=True)
        except binascii.Error as error:
            raise InvalidInput(f"{name}: image is not base64: {error}") from error
        with self._ingress.decoded(data, name) as decoded:
            return kind, decoded.prepared_by(served.encoder.prepare_image), decoded.notes


def _error(error_class: str, message: str, item: int | None) -> ErrorReply:
    message = message.encode("utf-8", "backslashreplace").decode()  # of lone surrogates, which JSON cannot carry
    return ErrorReply(error=CallError(error_class=error_class, message=message, item=item))

"""Kombu's Redis transport, with a check of every message before Celery sees it, and none lost by a full Redis."""

from __future__ import annotations

from functools import partial
from typing import Any

import redis
import structlog
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from sightline.broker import SUBMIT_QUEUE
from workers.envelopes import MalformedMessage, checked, refused

log = structlog.get_logger(__name__)


class CheckedClient(kombu_redis.PrefixedStrictRedis):
    """A Redis client whose BRPOP answers with well-formed envelopes only."""

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        """A malformed message is logged, and dropped as if none had come; of queue `submit` the ledger keeps it."""
        answer = super().parse_response(connection, command_name, **options)
        if command_name != "BRPOP" or not answer:
            return answer
        key, raw = answer
        try:
            return key, checked(raw, key.decode())
        except MalformedMessage as error:
            queue, seen = key.decode(), raw[:200].decode(errors="replace")
            then = "kept in refused_message" if queue == SUBMIT_QUEUE else "dropped"
            log.warning("message_malformed", queue=queue, reason=str(error), message=seen, then=then)
            return (key, refused(raw, str(error))) if queue == SUBMIT_QUEUE else None


class KeptMessages(kombu_redis.QoS):
    """The messages in hand; a copy in Redis brings them back when the worker dies."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """A full Redis refuses the copy, and the message is out of the queue already: it is worked on all the same."""
        try:
            super().append(message, delivery_tag)
        except redis.ResponseError as error:
            log.warning("message_in_memory_only", error=str(error), then="it is lost if this worker dies now")
            virtual.QoS.append(self, message, delivery_tag)


class CheckedChannel(kombu_redis.Channel):
    """A channel over `CheckedClient`."""

    QoS = KeptMessages

    def _get_client(self) -> Any:
        super()._get_client()  # checks the version of redis-py
        return partial(CheckedClient, global_keyprefix=self.global_keyprefix)


class Transport(kombu_redis.Transport):
    """What `broker_transport` names."""

    Channel = CheckedChannel

"""Calls that do nothing: sightline's own Celery application, pool, broker and reply, with an empty task behind them.

What a call of sightline takes beyond such a one, and beyond the model's forward, is what sightline itself adds. The
worker is a process of its own (`python -m benchmarks.noop`) with a prefix of its own for its keys.
"""

from __future__ import annotations

import os
import time
from typing import Any

from sightline.broker import Broker
from sightline.contracts.fields import Contract
from sightline.errors import CallTimeout
from sightline.settings import Settings
from sightline.signals import stop_signals

KEY_PREFIX = "noop:"
QUEUE = "noop"


class Nothing(Contract):
    """The answer."""


class NoopCaller:
    """Makes such calls. Safe in threads."""

    def __init__(self, redis_url: str) -> None:
        self._broker = Broker(redis_url, KEY_PREFIX)

    def __call__(self, seconds: float = 10.0) -> None:
        """One call and its answer."""
        self._broker.call(f"{QUEUE}.interactive", {"kind": "nothing"}, seconds)

    def wait_ready(self, seconds: float = 120.0) -> None:
        """Until the worker answers."""
        end = time.monotonic() + seconds
        while True:
            try:
                return self(1.0)
            except CallTimeout:
                if time.monotonic() > end:
                    raise

    def close(self) -> None:
        """Close the connections."""
        self._broker.close()


def main() -> None:
    from workers.app import make_app
    from workers.consumer import Consumer
    from workers.logs import configure_logs

    settings = Settings(key_prefix=KEY_PREFIX)
    configure_logs(settings.log_level)
    assert settings.redis_url is not None
    redis_url = settings.redis_url.get_secret_value()
    broker = Broker(redis_url, KEY_PREFIX)

    def answer(request: dict[str, Any]) -> None:
        broker.answer(request["reply_key"], Nothing())

    def refuse(*_: object) -> None:
        raise NotImplementedError("this worker does nothing")

    with stop_signals() as stop:
        consumer = Consumer(make_app(settings, redis_url, [QUEUE], lambda *_: None, answer, refuse, refuse), [QUEUE])
        consumer.start(60.0)
        stop.wait()
        os._exit(0)


if __name__ == "__main__":
    main()

"""The Celery application: its settings, with why, and its two tasks, which only hand over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import structlog
from celery import Celery
from kombu import Queue

from sightline.broker import CALL_TASK, CHUNKS_TASK
from sightline.settings import Settings
from workers.runner import WAITERS

log = structlog.get_logger(__name__)


def consumed(queues: Sequence[str]) -> list[str]:
    """The Redis queues of these ledger queues: each one's calls first, then the work."""
    return [f"{queue}.interactive" for queue in queues] + list(queues)


def make_app(
    settings: Settings,
    redis_url: str,
    queues: Sequence[str],
    on_chunks: Callable[[list[int]], object],
    on_call: Callable[[dict[str, Any]], object],
) -> Celery:
    """A Celery application whose messages go to two handlers.

    Args:
        queues: of the ledger: `encode`, or `encode.<pool>`.
        on_chunks: takes chunk ids; must return soon.
        on_call: takes the fields of a call and answers it.
    """
    app = Celery("sightline", broker=redis_url, set_as_current=False)
    app.conf.update(
        broker_transport="workers.transport:Transport",
        # With a transport of our own kombu no longer reads this out of the scheme; what the URL says of ssl_... counts.
        broker_use_ssl={"ssl_cert_reqs": "required"} if redis_url.startswith("rediss:") else False,
        # Messages are doorbells: acked before the work. The ledger redelivers what is lost, its claims drop duplicates.
        task_acks_late=False,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_queues=[Queue(name, routing_key=name) for name in consumed(queues)],
        task_create_missing_queues=False,
        task_default_queue="unrouted",
        worker_concurrency=settings.call_slots + WAITERS,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,  # its reply keys never expire
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,  # threads cannot be cancelled
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,  # a failover of Redis must not end the worker
        broker_transport_options={
            "global_keyprefix": settings.key_prefix,
            "queue_order_strategy": "priority",  # calls first
            "priority_steps": [0],
            # For messages that a worker took and never began; the mutex must not outlive a killed worker for long.
            "visibility_timeout": 30,
            "unacked_restore_interval": 2,
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": 15,
            "socket_timeout": 10,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 10,  # a half-open connection is dropped after a few of these
        },
    )

    @app.task(name=CHUNKS_TASK, ignore_result=True, shared=False)
    def chunks(chunk_ids: list[int], **_: Any) -> None:
        _guarded(lambda: on_chunks([int(chunk_id) for chunk_id in chunk_ids]), CHUNKS_TASK)

    @app.task(name=CALL_TASK, ignore_result=True, shared=False)
    def call(**request: Any) -> None:
        _guarded(lambda: on_call(request), CALL_TASK)

    app.finalize()
    return app


def _guarded(body: Callable[[], object], task: str) -> None:
    """Celery's threads never get back from a SystemExit or MemoryError that a task lets through."""
    try:
        body()
    except BaseException:
        log.exception("task_failed", task=task)

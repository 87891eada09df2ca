"""The Celery application: its settings, with why, and its tasks, which only hand over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from celery import Celery, Task
from celery.exceptions import Reject
from kombu import Queue

from sightline.broker import CALL_TASK, CHUNKS_TASK, REFUSE_TASK, SUBMIT_QUEUE, SUBMIT_TASK
from sightline.settings import Settings
from workers.runner import WAITERS

log = structlog.get_logger(__name__)

PUT_BACK_SECONDS = 1.0
"""Between two tries to write a message into a ledger that cannot be reached."""


def consumed(queues: Sequence[str]) -> list[str]:
    """The Redis queues of these ledger queues: each one's calls first, then what is submitted, then the work."""
    return [f"{queue}.interactive" for queue in queues] + [SUBMIT_QUEUE] + list(queues)


def make_app(
    settings: Settings,
    redis_url: str,
    queues: Sequence[str],
    on_chunks: Callable[[str, list[int]], object],
    on_call: Callable[[dict[str, Any]], object],
    on_submit: Callable[[str, Sequence[Any], dict[str, Any]], object],
    on_refused: Callable[[str, str, str], object],
) -> Celery:
    """A Celery application whose messages go to four handlers.

    Args:
        queues: of the ledger: `<kind>`, or `<kind>.<pool>`.
        on_chunks: takes the queue and the chunk ids of a message; must return soon.
        on_call: takes the fields of a call and answers it.
        on_submit: takes the id, the positional and the named arguments of a message, and writes the ledger. When it
            raises, the message is delivered again.
        on_refused: takes the id (empty: none), the text and the fault of a message on queue `submit` that cannot be
            read; as on_submit.
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

    @app.task(name=CHUNKS_TASK, bind=True, ignore_result=True, shared=False)
    def chunks(self: Task[Any, Any], chunk_ids: list[int], **_: Any) -> None:
        queue = (self.request.delivery_info or {}).get("routing_key") or queues[0]
        _guarded(lambda: on_chunks(queue, [int(chunk_id) for chunk_id in chunk_ids]), CHUNKS_TASK)

    @app.task(name=CALL_TASK, ignore_result=True, shared=False)
    def call(**request: Any) -> None:
        _guarded(lambda: on_call(request), CALL_TASK)

    # These two are acked late: until the ledger has the job, or the refusal, the message is all there is of it.
    @app.task(name=SUBMIT_TASK, bind=True, ignore_result=True, acks_late=True, shared=False)
    def submit(self: Task[Any, Any], *arguments: Any, **request: Any) -> None:
        _or_put_back(self, lambda: on_submit(str(self.request.id), arguments, request))

    @app.task(name=REFUSE_TASK, bind=True, ignore_result=True, acks_late=True, shared=False)
    def refuse(self: Task[Any, Any], known_as: str = "", request: str = "", reason: str = "", **_: Any) -> None:
        _or_put_back(self, lambda: on_refused(str(known_as), str(request), str(reason)))

    app.finalize()
    return app


def _or_put_back(task: Task[Any, Any], body: Callable[[], object]) -> None:
    try:
        body()
    except BaseException as error:
        log.warning("message_put_back", message_id=task.request.id, error=str(error) or type(error).__name__)
        time.sleep(PUT_BACK_SECONDS)  # for it comes again at once
        raise Reject(str(error), requeue=True) from error


def _guarded(body: Callable[[], object], task: str) -> None:
    """Celery's threads never get back from a SystemExit or MemoryError that a task lets through."""
    try:
        body()
    except BaseException:
        log.exception("task_failed", task=task)

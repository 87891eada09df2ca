"""What many write first: a Celery task for each image, two prefork processes, a forward of one, one INSERT.

The same decoding, model and vectors as sightline's; no batches, no ledger. Run as
`celery -A benchmarks.plain_celery worker`; its environment says where the servers and models are.
"""

from __future__ import annotations

import json
import os
from typing import Any

import psycopg
from celery import Celery
from celery.signals import worker_process_init

app = Celery("plain", broker=os.environ.get("PLAIN_REDIS_URL", "memory://"), set_as_current=False)
app.conf.update(
    task_ignore_result=True,
    worker_concurrency=2,
    worker_proc_alive_timeout=120.0,  # a child loads its models before it answers
    broker_transport_options={"global_keyprefix": "plain:"},
    broker_connection_retry_on_startup=True,
)

_held: dict[str, Any] = {}


@worker_process_init.connect
def load(**_: object) -> None:
    """The models and a connection of one child."""
    import torch
    from pgvector.psycopg import register_vector

    from models.encoder import load_encoder

    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # two children on two cores
    for name, source in json.loads(os.environ["PLAIN_MODELS"]).items():
        _held[name] = load_encoder(source, device="auto")
        _held[name].encode_images([_held[name].prepare_image(_grey())])
    _held["connection"] = psycopg.connect(os.environ["PLAIN_DATABASE_URL"], autocommit=True)
    register_vector(_held["connection"])


@app.task(name="plain.encode")
def encode(model: str, table: str, number: int, path: str) -> None:
    """One image to one row."""
    from pgvector import HalfVector

    from benchmarks.ideal import decode

    encoder = _held[model]
    (vector,) = encoder.encode_images([decode(encoder, path)])
    unit = vector / (vector @ vector) ** 0.5
    _held["connection"].execute(
        f"insert into {table} (item_id, vec) values (%s, %s)", (number, HalfVector(unit)), binary=True
    )


def _grey() -> Any:
    import numpy as np

    return np.full((480, 640, 3), 128, np.uint8)

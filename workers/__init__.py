"""The worker: takes chunks and calls from Redis, encodes, persists in Postgres. Start it with `python -m workers`."""

from __future__ import annotations

"""The workers, as their rows in the database say."""

from __future__ import annotations

import shlex
from typing import Any

import psycopg

from sightline.doctor.check import Check, fail, ok, warn

_SEEN = "stopped_at is null and seen_at > clock_timestamp() - interval '30 seconds'"
_ALIVE = f"{_SEEN} and queues <> '{{}}'"
_STARTING = f"{_SEEN} and queues = '{{}}'"


def check_workers(connection: psycopg.Connection[Any]) -> list[Check]:
    """Workers alive, their versions, the spaces that they refuse, queues without any, and what is paused."""
    from sightline import __version__

    alive = connection.execute(
        f"select name, version, models from sightline.worker where {_ALIVE} order by name"
    ).fetchall()
    idle = connection.execute(
        "select queue, queued_items from sightline.queue_status where workers = 0 and queued_items > 0 order by 1"
    ).fetchall()
    (starting,) = connection.execute(f"select count(*) from sightline.worker where {_STARTING}").fetchone() or (0,)
    found = [_count(alive, starting)]
    other = sorted({f"{name} ({version or 'unknown'})" for name, version, _ in alive if version != __version__})
    if other:
        found.append(
            warn("worker versions", f"not {__version__}, as here: {', '.join(other)}", "bring all to one version")
        )
    for queue, items in idle:
        found.append(
            fail(
                f"queue {queue}", f"{items:,} items wait and no worker serves it", f"sightline worker --queues {queue}"
            )
        )
    found += _refused(alive)
    for kind, target in connection.execute(
        "select case when p.queue is null then 'collection' else 'queue' end, coalesce(p.queue, c.name) "
        "from sightline.pause p "
        "left join sightline.collection c using (collection_id) order by 1, 2"
    ).fetchall():
        found.append(warn(f"{kind} {target}", "paused", f"sightline resume --{kind} {shlex.quote(target)}"))
    return found


def _count(alive: list[tuple[Any, ...]], starting: int) -> Check:
    if alive:
        more = f"; {starting} more load their models" if starting else ""
        return ok("workers", f"{len(alive)} alive: {', '.join(name for name, _, _ in alive)}{more}")
    if starting:
        return warn("workers", f"none is ready: {starting} load their models", "wait, and look at the worker's log")
    return warn(
        "workers", "none is alive: nothing is encoded, searches by text or image find no one", "sightline worker"
    )


def _refused(alive: list[tuple[Any, ...]]) -> list[Check]:
    """Spaces that a worker refuses: a failure where no other one serves them."""
    states = [(model["space"], model["state"], name, model["detail"]) for name, _, models in alive for model in models]
    served = {space for space, state, _, _ in states if state == "ready"}
    found = []
    for space, state, name, reason in states:
        if state == "refused":
            make = warn if space in served else fail
            advice = "give this worker the model, or serve the space by a pool of its own (space create --pool)"
            found.append(make(f"space {space}", f"refused by {name}: {reason}", advice))
    return found


def models_in_use(connection: psycopg.Connection[Any]) -> list[tuple[str, str | None]]:
    """Model (or its folder) and revision of each space, as a worker would open it."""
    rows = connection.execute(
        "select model, revision, passport->>'source' from sightline.space order by space_id"
    ).fetchall()
    return [(model if source in (None, "hub", "bundled") else source, revision) for model, revision, source in rows]

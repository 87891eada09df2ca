"""The Redis server: version, eviction, memory, persistence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import redis

from sightline.doctor.check import Check, fail, ok, size, warn

MIN_REDIS = 6
"""BLPOP with fractions of a second came with it."""


def connect(redis_url: str) -> tuple[redis.Redis | None, list[Check]]:
    """A connection, if there is one to be had, and what its server says of itself."""
    try:
        server = redis.Redis.from_url(redis_url, socket_timeout=5, socket_connect_timeout=5)
        info: Mapping[str, Any] = server.info()
    except (redis.RedisError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        return None, [
            fail("Redis", f"cannot be reached: {reason}", "check SIGHTLINE_REDIS_URL: host, port and password")
        ]
    return server, check_info(info)


def check_info(info: Mapping[str, Any]) -> list[Check]:
    """Findings from the answer to INFO."""
    version = str(info["redis_version"])
    old = int(version.partition(".")[0]) < MIN_REDIS
    return [
        fail("Redis", f"version {version}", f"sightline needs {MIN_REDIS} or newer")
        if old
        else ok("Redis", f"version {version}"),
        _eviction(info),
        _memory(info),
        _persistence(info),
    ]


def _eviction(info: Mapping[str, Any]) -> Check:
    policy, limit = info.get("maxmemory_policy", "unknown"), info.get("maxmemory", 0)
    advice = "config set maxmemory-policy noeviction, and in redis.conf"
    evicted = info.get("evicted_keys", 0)
    if policy == "noeviction":
        return ok("Redis eviction", "noeviction")
    if limit:
        return fail(
            "Redis eviction", f"{policy}, {evicted:,} keys evicted so far: a full server throws queues away", advice
        )
    return warn("Redis eviction", f"{policy}; harmless only while maxmemory is not set", advice)


def _memory(info: Mapping[str, Any]) -> Check:
    used, limit = info["used_memory"], info.get("maxmemory", 0)
    if not limit:
        return ok("Redis memory", f"{size(used)} used, no limit set")
    found = f"{size(used)} of {size(limit)} used"
    advice = "sightline keeps little in Redis: look for what else does (redis-cli --bigkeys), or raise maxmemory"
    if used > 0.9 * limit:
        return fail("Redis memory", f"{found}: it is about to refuse writes", advice)
    return warn("Redis memory", found, advice) if used > 0.7 * limit else ok("Redis memory", found)


def _persistence(info: Mapping[str, Any]) -> Check:
    kept = [name for name, on in (("AOF", info.get("aof_enabled")), ("RDB", info.get("rdb_last_save_time"))) if on]
    if info.get("rdb_last_bgsave_status", "ok") != "ok" or info.get("aof_last_write_status", "ok") != "ok":
        return fail(
            "Redis persistence",
            "its last save failed: by default it takes no writes then",
            "give it disk space, or turn saving off (config set save ''): sightline does not need it",
        )
    return ok("Redis persistence", f"{' and '.join(kept) or 'none'}; not needed, the ledger is in Postgres")

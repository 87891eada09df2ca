"""Signed links: when they end."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit


def expired_at(url: str, now: datetime | None = None) -> datetime | None:
    """When a signed link of S3, Google Cloud Storage, Azure or CloudFront expired; None if it did not, or is none.

    Args:
        now: by default the present time.
    """
    try:
        query = {key.lower(): value for key, value in parse_qsl(urlsplit(url).query)}
        end = _end(query)
    except (ValueError, OverflowError, OSError):  # all three are what a date beyond the calendar raises
        return None
    return end if end is not None and end <= (now or datetime.now(UTC)) else None


def _end(query: Mapping[str, str]) -> datetime | None:
    for prefix in ("x-amz-", "x-goog-"):
        if f"{prefix}date" in query and f"{prefix}expires" in query:
            signed = datetime.strptime(query[f"{prefix}date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            return signed + timedelta(seconds=int(query[f"{prefix}expires"]))
    if "expires" in query and ("signature" in query or "key-pair-id" in query):
        return datetime.fromtimestamp(int(query["expires"]), UTC)
    if "se" in query and "sig" in query:
        end = datetime.fromisoformat(query["se"])
        return end if end.tzinfo else end.replace(tzinfo=UTC)
    return None

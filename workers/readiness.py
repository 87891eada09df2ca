"""Whether a worker can do its work right now, and if not, why: each part says for itself what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import structlog

log = structlog.get_logger(__name__)

Check = Callable[[], Iterable[str]]
"""What is wrong with a part, in words; nothing when all is well."""


class Readiness:
    """Asks every part. Safe in threads; takes no longer than its checks.

    Args:
        checks: by the name of the part.
    """

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = dict(checks)

    def reasons(self) -> list[dict[str, str]]:
        """Why not, as {"part", "reason"}; empty when ready. A check that fails is a reason."""
        found = []
        for part, check in self._checks.items():
            try:
                reasons = list(check())
            except Exception as error:  # noqa: BLE001 - a part that cannot be asked is not well
                reasons = [f"{type(error).__name__}: {error}".strip()]
            found += [{"part": part, "reason": " ".join(reason.split())} for reason in reasons]
        return found

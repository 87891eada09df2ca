"""The errors of sightline. Each message says what was wrong, with the value, and what to do."""

from __future__ import annotations

from typing import ClassVar


class SightlineError(Exception):
    """The root; `exit_code` is what the CLI exits with."""

    exit_code: ClassVar[int] = 5


class UsageError(SightlineError):
    """An argument cannot be used as given."""

    exit_code = 2


class ConfigurationError(SightlineError):
    """A setting, a folder or the environment does not allow what was asked."""

    exit_code = 3


class ServiceMissing(SightlineError):
    """A database, broker, binary or model that is needed is not there."""

    exit_code = 3


class ServiceFailed(ServiceMissing):
    """A server of the embedded stack did not start; the message ends with the tail of its log."""


class ServiceTooOld(ServiceMissing):
    """A service is there in a version that is known to fail."""


class StackHeld(ServiceMissing):
    """Another process runs the embedded stack of this state folder."""


class RequestRefused(UsageError):
    """A request was refused; the message is the database's own, or the one that it would have given."""


class ContractViolated(RequestRefused):
    """A payload or a call does not fit its contract; SQL refuses it in the same words.

    Args:
        item: number of the element that is to blame, from 0.
    """

    def __init__(self, message: str, *, item: int | None = None) -> None:
        super().__init__(message)
        self.item = item


class PolicyRefused(SightlineError):
    """Something that cannot be undone was not done, because it looks like a mistake; the message says how to insist."""

    exit_code = 4


class JobFailed(SightlineError):
    """A job could not run or was cancelled. Items that failed in a job that ran are rows in `failed_items`."""

    exit_code = 1


class JobNotVisible(UsageError):
    """The job stands in a transaction that has not committed."""


class CallFailed(SightlineError):
    """A worker answered a call with an error."""


class CallTimeout(ServiceMissing):
    """No worker answered a call before its deadline."""

"""The embedded stack: a private Postgres and Redis for `sightline up`, the demo and the tests."""

from __future__ import annotations

from sightline.embedded.stack import EmbeddedStack, StackInfo, remove_stack, running_stack
from sightline.embedded.supervisor import Supervisor

__all__ = ["EmbeddedStack", "StackInfo", "Supervisor", "remove_stack", "running_stack"]

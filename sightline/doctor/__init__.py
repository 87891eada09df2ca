"""What `sightline doctor` looks at: servers, pooler, indexes, workers, this machine. Nothing is changed."""

from __future__ import annotations

from sightline.doctor.check import Check
from sightline.doctor.run import examine

__all__ = ["Check", "examine"]

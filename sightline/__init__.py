"""sightline: images and text as searchable rows in Postgres."""

from __future__ import annotations

from sightline.client import Sightline
from sightline.errors import SightlineError
from sightline.item import Item
from sightline.job import Failure, Job, JobProgress
from sightline.results import Hit, Hits, Space
from sightline.settings import Settings

__all__ = ["Failure", "Hit", "Hits", "Item", "Job", "JobProgress", "Settings", "Sightline", "SightlineError", "Space"]
__version__ = "0.1.0"

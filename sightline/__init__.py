"""sightline: images and text as searchable rows in Postgres."""

from __future__ import annotations

"""Encoders and other models on torch and transformers; imports neither `sightline` nor `workers`.

Nothing is imported here: `models.passport` and `python -m models --help` stay usable without loading torch.
"""

from __future__ import annotations

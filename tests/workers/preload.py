"""Imported once by the process that worker processes are forked from: half of a test run would be imports of torch."""

from __future__ import annotations

import transformers.models.clip.modeling_clip
import transformers.models.clip.tokenization_clip
import transformers.models.siglip.modeling_siglip  # noqa: F401

import workers.service  # noqa: F401

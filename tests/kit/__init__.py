"""Conformance kits: inherit one, give it the fixture `load`, and every property that sightline relies on is tested.

See docs/add-a-model.md. What a kit demands is written in `models/protocols.py`.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.kit.encoder", "tests.kit.captioner", "tests.kit.scorer", "tests.kit.inputs")

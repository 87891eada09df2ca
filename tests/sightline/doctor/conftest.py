"""What the doctor finds, by name."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
import pytest

from sightline.doctor import Check
from sightline.embedded.stack import EmbeddedStack
from tests.conftest import make_database


def by_name(found: Iterable[Check]) -> dict[str, Check]:
    return {check.name: check for check in found}


@pytest.fixture
def own_database(stack: EmbeddedStack, template: str) -> str:
    """A migrated database of this test alone, for what is set for a whole database."""
    return make_database(stack, template)


def alter(url: str, setting: str) -> None:
    """Set something for a database; sessions that begin later have it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"alter database {connection.info.dbname} set {setting}")

"""${message}"""

from __future__ import annotations

from sightline.migrate import run_sql_folder

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    run_sql_folder(revision)

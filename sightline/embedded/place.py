"""Where a stack lies: in the state folder, or, when only root may enter that, where the servers' account can go."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sightline.embedded.account import Account, choose_account, private_folder
from sightline.errors import ConfigurationError

log = logging.getLogger(__name__)

_DATA = "postgres"
_LINK = "servers"
_FOLDERS = (_DATA, f"{_DATA}.new", "redis", "redis.broken", "sockets", "binaries", "logs")
_SOCKET_LIMIT = 100 - len("/.s.PGSQL.5432.lock")  # bytes; sun_path holds 108 on Linux and 104 on macOS


@dataclass(frozen=True, slots=True)
class Place:
    """The folders of one stack.

    `home` is the state folder, ours: lock, stack.json, logs and records. `root` holds what the servers read and write:
    `home` itself, except for root with a home that the servers' account cannot reach, where `home/servers` links to it.
    """

    home: Path
    root: Path
    account: Account | None

    @property
    def data(self) -> Path:
        """The data directory of Postgres."""
        return self.root / _DATA

    @property
    def redis(self) -> Path:
        """The append-only file of Redis."""
        return self.root / "redis"

    def log(self, name: str) -> Path:
        """Return the path of a server's log."""
        return self.home / "logs" / f"{name}.log"

    def record(self, name: str) -> Path:
        """Return the path of the file that says which process a server is."""
        return self.home / f"{name}.pid.json"

    def sockets(self) -> Path:
        """Return a private folder for Postgres's unix socket: short, and free of what DSN parsers take for syntax."""
        inside = self.root / "sockets"
        if inside.is_symlink():
            if _is_ours(inside, self.account):
                return inside.readlink()
            inside.unlink()
        if _fits(inside):
            return private_folder(inside, self.account)
        for parent in (tempfile.gettempdir(), "/var/tmp", "/tmp"):  # noqa: S108 - mkdtemp picks the name
            if _fits(Path(parent, "sightline-XXXXXXXX")) and _enters(self.account, Path(parent)):
                outside = private_folder(Path(tempfile.mkdtemp(prefix="sightline-", dir=parent)), self.account)
                inside.symlink_to(outside)
                return outside
        raise ConfigurationError(f"no folder for a unix socket: {inside} is too long, so is {tempfile.gettempdir()}")

    def drop_sockets(self) -> None:
        """Remove the socket folder that lies outside of the state folder, if there is one."""
        inside = self.root / "sockets"
        if inside.is_symlink():
            if _is_ours(inside, self.account):
                shutil.rmtree(inside.readlink(), ignore_errors=True)
            inside.unlink()

    def remove(self) -> None:
        """Delete data, logs and records for good. What else is in the folder stays, and so does the lock file."""
        self.drop_sockets()
        if self.root != self.home:
            shutil.rmtree(self.root, ignore_errors=True)
        for name in _FOLDERS:
            shutil.rmtree(self.home / name, ignore_errors=True)
        for file in (self.home / _LINK, self.home / "stack.json", *self.home.glob("*.pid.json")):
            file.unlink(missing_ok=True)


def prepare_home(home: Path) -> Path:
    """Make the state folder and return its absolute path.

    Raises ConfigurationError when it belongs to another user: root would write through links that this user can plant,
    and leave files that this user can no longer open.
    """
    home = home.expanduser().absolute()
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        if not home.exists():
            home.mkdir()
            home.chmod(0o711 if os.geteuid() == 0 else 0o700)  # root: the servers' account passes through
        owner = home.stat().st_uid
        if owner == os.geteuid():
            (home / "logs").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot use the state folder {home}: {error.strerror}; set SIGHTLINE_HOME") from error
    if owner != os.geteuid():
        raise ConfigurationError(
            f"the state folder {home} belongs to user id {owner} and this is user id {os.geteuid()}; "
            "run as its owner, or set SIGHTLINE_HOME to another folder"
        )
    return home


def find_place(home: Path) -> Place:
    """Return where the stack of a prepared `home` lies, making and recording a folder elsewhere when root needs one."""
    link, root = home / _LINK, home
    if link.is_symlink():
        root = link.readlink()
        if not root.is_dir():
            raise ConfigurationError(
                f"the data of {home} lies in {root}, which is gone or not mounted; bring it back, "
                f"or delete {link} to start with an empty database"
            )
    account = choose_account(home, root / _DATA)
    if root == home and account is not None and not account.can("x", [home]):
        if (home / _DATA).exists():
            raise ConfigurationError(
                f"user id {account.uid}, which owns {home / _DATA}, cannot reach it: a parent folder became private"
            )
        root = _outside(home, account)
        link.symlink_to(root)
        log.warning("%s is closed to other users, and Postgres may not run as root: its data lies in %s", home, root)
    return Place(home, root, account)


def _outside(home: Path, account: Account) -> Path:
    """Make a folder of root's that `account` can pass through; its name shows which home it belongs to."""
    prefix = f"sightline-{hashlib.sha256(str(home).encode()).hexdigest()[:8]}-"
    for parent in (Path("/var/lib"), Path("/var/tmp")):  # noqa: S108 - mkdtemp picks the name
        if os.access(parent, os.W_OK) and account.can("x", [parent]):
            root = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            root.chmod(0o711)
            return root
    raise ConfigurationError(
        f"user id {account.uid}, under which Postgres runs, can reach neither {home} nor /var/lib nor /var/tmp; "
        "set SIGHTLINE_HOME to a folder below parents that everybody may enter"
    )


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= _SOCKET_LIMIT and re.fullmatch(r"[A-Za-z0-9/._-]+", str(path)) is not None


def _enters(account: Account | None, folder: Path) -> bool:
    return os.access(folder, os.W_OK) and (account is None or account.can("x", [folder]))


def _is_ours(link: Path, account: Account | None) -> bool:
    """Tell whether the target is still the private folder that we made; temporary folders are swept now and then."""
    target = link.readlink()
    if target.is_symlink() or not target.is_dir():
        return False
    found = target.stat()
    return found.st_uid == (os.geteuid() if account is None else account.uid) and found.st_mode & 0o077 == 0

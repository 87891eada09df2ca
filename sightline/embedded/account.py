"""The account that the servers run under: ours, or, when we are root, one without any rights."""

from __future__ import annotations

import functools
import hashlib
import os
import pwd
import stat
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sightline.errors import ConfigurationError

# No distribution and no systemd feature hands these out (systemd's UIDS-GIDS table, "unused"); they exist in a
# container with the usual 65,536 mapped ids. Better than `nobody`, whose other processes could read the database.
_UNUSED = range(60_578, 61_184)


@dataclass(frozen=True, slots=True)
class Account:
    """A uid and gid; they need no entry in the system's list of users."""

    uid: int
    gid: int

    def can(self, test: str, paths: Iterable[Path]) -> bool:
        """Tell whether this account passes `test` (`r`, `w` or `x`, of test(1)) on each path.

        Asks the kernel as that account: parents, ACLs and mounts all count.
        """
        script = 'for path; do test -"$0" "$path" || exit 1; done'
        command = ["/bin/sh", "-c", script, test, *map(str, paths)]
        return self._run(command).returncode == 0

    def usable(self) -> bool:
        """Tell whether this process may become this account (a container may lack the right, or the id)."""
        try:
            return self._run(["/bin/sh", "-c", ":"]).returncode == 0
        except (OSError, subprocess.SubprocessError):
            return False

    def own(self, folder: Path) -> None:
        """Give this account a folder and all in it, without following links that others may have planted."""
        os.chown(folder, self.uid, self.gid, follow_symlinks=False)
        for _, folders, files, where in os.fwalk(folder):
            for name in (*folders, *files):
                os.chown(name, self.uid, self.gid, dir_fd=where, follow_symlinks=False)

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[bytes]:
        who = {"user": self.uid, "group": self.gid, "extra_groups": []} if os.geteuid() == 0 else {}
        return subprocess.run(command, cwd="/", capture_output=True, check=False, **who)  # type: ignore[call-overload, no-any-return]


def choose_account(home: Path, data: Path) -> Account | None:
    """Return None for a plain user; for root the owner of `data` where that exists, else an unused id picked by `home`.

    Raises ConfigurationError where root cannot become anybody else.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        return Account(data.stat().st_uid, data.stat().st_gid)
    start = int.from_bytes(hashlib.sha256(str(home).encode()).digest()[:4]) % len(_UNUSED)
    unused = next(uid for uid in (*_UNUSED[start:], *_UNUSED[:start]) if not _has_name(uid))
    for account in (Account(unused, unused), named_account()):
        if account.usable():
            return account
    raise ConfigurationError(
        "PostgreSQL refuses to run as root, and this process may not become another user (a container without "
        "CAP_SETUID?); run as a plain user, or set SIGHTLINE_DATABASE_URL and SIGHTLINE_REDIS_URL to servers of yours"
    )


@functools.cache
def named_account() -> Account:
    """Return an account without rights that the system knows by name, as initdb wants: `nobody` where it exists."""
    known = sorted((entry for entry in pwd.getpwall() if entry.pw_uid > 0), key=lambda entry: entry.pw_name != "nobody")
    if not known:
        raise ConfigurationError("this system knows no user but root; run as a plain user")
    return Account(known[0].pw_uid, known[0].pw_gid)


def private_folder(path: Path, account: Account | None) -> Path:
    """Make a folder that only `account` enters (None: ourselves), or take the one that is there; mode 0700."""
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if account is not None and found.st_uid != account.uid:
        account.own(path)
    if stat.S_IMODE(found.st_mode) != 0o700:
        path.chmod(0o700)
    return path


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True

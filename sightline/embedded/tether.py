"""Exec a command that dies with its parent: `python -I -S tether.py SIGNAL PARENT UID GID NAMES COMMAND...`.

A script of its own, on the standard library alone: it runs after the fork and before the real program, in a process
with one thread, which makes it safe where a `preexec_fn` is not. UID -1 keeps the account. NAMES are the variables that
the command gets, with `=` between them: this interpreter itself may need others to find its libraries. The pid stays.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Drop the account, arm the death signal, restore the signals that Python changed, then become the command."""
    death_signal, parent, uid, gid = map(int, arguments[:4])
    names, *command = arguments[4:]
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # After setuid, which clears it. It fires when the *thread* that forked ends: spawner.py forks in one that stays.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(f"{command[0]}: the process that started it is gone")
    for changed in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(changed, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        environment = {name: os.environ[name] for name in names.split("=") if name}
        os.execve(command[0], command, environment)  # noqa: S606 - the absolute path comes from spawner.spawn
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)


if __name__ == "__main__":
    main(sys.argv[1:])

"""State folders of stacks under test, and processes that hold them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sightline.embedded import EmbeddedStack, remove_stack

# argv: state folder, "tethered" or "untethered" (as where the kernel cannot tell children that their parent died).
HOLDER = """
import sys, time
from pathlib import Path
from sightline.embedded import EmbeddedStack, postgres, redis
if sys.argv[2] == "untethered":
    for module in (postgres, redis):
        module.spawn = lambda command, death_signal, do=module.spawn, **rest: do(command, death_signal=0, **rest)
with EmbeddedStack(Path(sys.argv[1]), durable=False) as stack:
    print(stack.database_url, stack.redis_url, flush=True)
    time.sleep(600)
"""


class Holder:
    """Another process that holds the stack of `home`, as `sightline up` does in another terminal."""

    def __init__(self, home: Path, how: str = "tethered") -> None:
        command = [sys.executable, "-c", HOLDER, str(home), how]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.database_url, self.redis_url = self.process.stdout.readline().split()

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A state folder for the tests of a module, below parents that everybody may enter."""
    parent = Path(tempfile.mkdtemp(prefix="sl-", dir="/tmp"))
    parent.chmod(0o755)
    yield parent / "home"
    remove_stack(parent / "home")
    shutil.rmtree(parent)


@pytest.fixture(scope="module")
def stack(home: Path) -> Iterator[EmbeddedStack]:
    """One running stack for the tests of a module."""
    with EmbeddedStack(home, durable=False) as running:
        yield running


@pytest.fixture
def hold(home: Path) -> Iterator[Callable[..., Holder]]:
    """Start holders of `home`; those that still live are stopped at the end."""
    holders: list[Holder] = []

    def start(how: str = "tethered") -> Holder:
        holders.append(Holder(home, how))
        return holders[-1]

    yield start
    for holder in holders:
        holder.close()


@pytest.fixture
def postmaster(home: Path) -> Callable[[], int]:
    """Return the pid of the running Postgres of `home`."""
    return lambda: int((home / "postgres" / "postmaster.pid").read_text().split()[0])

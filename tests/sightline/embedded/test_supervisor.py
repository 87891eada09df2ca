"""Children that die, that are stubborn, that leave children of their own."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sightline.embedded import Supervisor
from sightline.embedded.process import identify, wait_until
from sightline.errors import ServiceMissing

_QUICK = (0.05, 0.2)


def _python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def test_dying_child_is_started_again_with_growing_pauses(tmp_path: Path) -> None:
    times = tmp_path / "times"
    script = f"import time; open({str(times)!r}, 'a').write(f'{{time.monotonic()}}\\n'); raise SystemExit(5)"
    with Supervisor(_python(script), back_off=(0.2, 0.8)) as supervisor:
        assert wait_until(lambda: times.exists() and len(times.read_text().splitlines()) >= 4, 15)
        assert supervisor.restarts >= 3
        assert supervisor.last_exit == 5
    began = [float(line) for line in times.read_text().splitlines()]
    pauses = [later - earlier for earlier, later in itertools.pairwise(began)]
    assert pauses[0] >= 0.2
    assert pauses[1] >= 0.4
    assert pauses[2] >= 0.8


def test_pauses_are_short_again_after_a_healthy_while(tmp_path: Path) -> None:
    with Supervisor(_python("import time; time.sleep(0.2)"), back_off=(0.05, 60.0), healthy_seconds=0.1) as supervisor:
        assert wait_until(lambda: supervisor.restarts >= 5, 15)


def test_killed_child_is_replaced_and_stop_is_final() -> None:
    supervisor = Supervisor(["sleep", "300"], back_off=_QUICK).start()
    first = supervisor.pid
    assert first is not None
    assert os.getsid(first) == first
    os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: supervisor.alive and supervisor.pid != first, 10)
    second = supervisor.pid
    assert supervisor.stop() == -signal.SIGTERM
    assert (supervisor.alive, supervisor.pid, supervisor.restarts) == (False, None, 1)
    assert second is not None
    assert identify(second) is None
    assert supervisor.wait(0) == -signal.SIGTERM


def test_child_that_finishes_its_work_after_the_first_signal_is_not_hurried(tmp_path: Path) -> None:
    script = (
        "import signal, sys, time\n"
        "def finish(*_):\n    time.sleep(0.5); print('finished', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, finish); print('ready', flush=True); time.sleep(300)"
    )
    log = tmp_path / "logs" / "worker.log"
    supervisor = Supervisor(_python(script), log=log).start()
    assert wait_until(lambda: log.read_text() == "ready\n", 10)
    assert supervisor.stop(timeout=10) == 0
    assert log.read_text() == "ready\nfinished\n"


def test_child_that_heeds_only_the_second_signal(tmp_path: Path) -> None:
    script = (
        "import signal, sys, time\nseen = []\n"
        "def heed(*_):\n    seen.append(1); len(seen) == 2 and sys.exit(9)\n"
        "signal.signal(signal.SIGTERM, heed); print('ready', flush=True)\nwhile True: time.sleep(300)"
    )
    supervisor = Supervisor(_python(script), log=tmp_path / "log").start()
    assert wait_until((tmp_path / "log").read_text, 10)
    assert supervisor.stop(timeout=0.3, grace=10) == 9


def test_a_hurried_stop_sends_the_second_signal_at_once(tmp_path: Path) -> None:
    script = (
        "import signal, sys, time\nseen = []\n"
        "def heed(*_):\n    seen.append(1); len(seen) == 2 and sys.exit(9)\n"
        "signal.signal(signal.SIGTERM, heed); print('ready', flush=True)\nwhile True: time.sleep(300)"
    )
    supervisor = Supervisor(_python(script), log=tmp_path / "log").start()
    assert wait_until((tmp_path / "log").read_text, 10)
    hurry = threading.Event()
    threading.Timer(0.3, hurry.set).start()
    began = time.monotonic()
    assert supervisor.stop(timeout=60, grace=10, hurry=hurry) == 9
    assert time.monotonic() - began < 30


def test_a_child_that_ends_unasked_is_reported() -> None:
    lost: list[int] = []
    supervisor = Supervisor(["sleep", "300"], back_off=_QUICK, on_lost=lost.append).start()
    first = supervisor.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: supervisor.alive and supervisor.pid != first, 10)
    supervisor.stop()
    assert lost == [first]


def test_stubborn_child_and_its_own_children_are_killed(tmp_path: Path) -> None:
    script = (
        "import signal, subprocess, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(subprocess.Popen(['sleep', '300']).pid, flush=True); time.sleep(300)"
    )
    supervisor = Supervisor(_python(script), log=tmp_path / "log").start()
    assert wait_until((tmp_path / "log").read_text, 10)
    grandchild = int((tmp_path / "log").read_text())
    began = time.monotonic()
    assert supervisor.stop(timeout=0.2, grace=0.2) == -signal.SIGKILL
    assert time.monotonic() - began < 5
    assert wait_until(lambda: identify(grandchild) is None, 5)


def test_what_a_dead_child_left_in_its_group_is_ended(tmp_path: Path) -> None:
    script = "import subprocess; print(subprocess.Popen(['sleep', '300']).pid, flush=True); raise SystemExit(2)"
    supervisor = Supervisor(_python(script), log=tmp_path / "log").start()
    assert supervisor.wait(10) == 2
    assert wait_until(lambda: identify(int((tmp_path / "log").read_text())) is None, 5)


def test_wrong_command_line_is_not_retried() -> None:
    supervisor = Supervisor(_python("raise SystemExit(2)"), back_off=_QUICK).start()
    assert supervisor.wait(10) == 2
    assert (supervisor.alive, supervisor.restarts) == (False, 0)
    assert supervisor.stop() == 2


def test_stop_between_two_restarts_does_not_wait_for_the_next() -> None:
    supervisor = Supervisor(_python("raise SystemExit(1)"), back_off=(60.0, 60.0)).start()
    assert wait_until(lambda: supervisor.last_exit == 1 and not supervisor.alive, 10)
    assert supervisor.stop() == 1


def test_missing_program_is_named() -> None:
    with pytest.raises(ServiceMissing, match="'no-such-program'"):
        Supervisor(["no-such-program"]).start()


def test_environment_is_the_given_one(tmp_path: Path) -> None:
    script = "import os; print(os.environ.get('GIVEN'), os.environ.get('HOME'), flush=True); raise SystemExit(2)"
    supervisor = Supervisor(_python(script), env={"GIVEN": "yes"}, log=tmp_path / "log").start()
    supervisor.wait(10)
    assert (tmp_path / "log").read_text() == "yes None\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_child_gets_sigterm_when_the_supervising_process_is_killed() -> None:
    script = (
        "import time; from sightline.embedded import Supervisor\n"
        "print(Supervisor(['sleep', '300']).start().pid, flush=True); time.sleep(300)"
    )
    with subprocess.Popen(_python(script), stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert identify(child)
        parent.kill()
    assert wait_until(lambda: identify(child) is None, 5)


def test_child_that_outlived_its_supervisor_is_ended_by_the_next(tmp_path: Path) -> None:
    record = tmp_path / "worker.json"
    script = (
        "import sys, time; from pathlib import Path; from sightline.embedded import Supervisor, supervisor\n"
        "tethered = supervisor.spawn\n"
        "supervisor.spawn = lambda command, death_signal, **rest: tethered(command, death_signal=0, **rest)\n"
        "print(Supervisor(['sleep', '300'], record=Path(sys.argv[1])).start().pid, flush=True); time.sleep(300)"
    )
    with subprocess.Popen([*_python(script), str(record)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        orphan = int(parent.stdout.readline())
        parent.kill()
    assert identify(orphan)
    with Supervisor(["sleep", "300"], record=record) as supervisor:
        assert identify(orphan) is None
        assert supervisor.alive
    assert not record.exists()

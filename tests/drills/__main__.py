"""`python -m tests.drills [NAME ...]`: play failure drills by hand, one line for each."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:  # workers are forked from a process that imports this file: it brings nothing along
    from tests.drills.catalogue import Drill
    from tests.drills.house import House
    from tests.drills.stage import Report

WIDTH = 32
HEAD = f"{'drill':{WIDTH}}  items in  stored  failed  duplicates  lost  recovered    took"


def main() -> int:
    """Play; 0 if all held, 1 if one did not, 2 for an unknown name."""
    from tests.drills.catalogue import BRIEF, drills

    parser = argparse.ArgumentParser(prog="python -m tests.drills", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="drills (default: all)")
    parser.add_argument("--list", action="store_true", help="say what there is and end")
    parser.add_argument("--times", type=int, default=1, metavar="N", help="play everything so many times in a row")
    parser.add_argument("--brief", action="store_true", help="with a lease of 4 s instead of the product's defaults")
    parser.add_argument("--at-once", type=int, default=min(4, os.cpu_count() or 1), metavar="N",
                        help="drills side by side, each with servers of its own (default: %(default)s)")  # fmt: skip
    given = parser.parse_args()
    catalogue = drills()
    if unknown := [name for name in given.names if name not in catalogue]:
        parser.error(f"there is no drill {', '.join(unknown)}; --list shows all")
    chosen = [catalogue[name] for name in given.names] or list(catalogue.values())
    if given.list:
        for drill in chosen:
            _say(f"{drill.name:{WIDTH}}  {drill.says}")
        return 0
    return _play_all(chosen, given.times, given.at_once, BRIEF if given.brief else {})


def _play_all(chosen: list[Drill], times: int, at_once: int, settings: dict[str, object]) -> int:
    import structlog

    from tests.drills.house import House

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="drills-"))
    folder.chmod(0o755)
    played = failed = 0
    began = time.monotonic()
    with House() as house:
        for turn in range(1, times + 1):
            _say(HEAD if times == 1 else f"{HEAD}    ({turn} of {times})")
            for line, held in _turn(house, chosen, folder / str(turn), at_once, settings):
                _say(line)
                played += 1
                failed += not held
    _say(f"{played} played, {failed} failed, {time.monotonic() - began:.0f} s; logs in {folder}")
    return 1 if failed else 0


def _turn(
    house: House, chosen: list[Drill], folder: Path, at_once: int, settings: dict[str, object]
) -> Iterator[tuple[str, bool]]:
    with ThreadPoolExecutor(at_once) as pool:
        futures: list[Future[tuple[str, bool]]] = []
        for drill in chosen:
            if drill.missing:
                yield f"{drill.name:{WIDTH}}  not played: {drill.missing} is not here", True
            else:
                futures.append(pool.submit(_play, house, drill, folder / drill.name, settings))
        try:
            for future in as_completed(futures):
                yield future.result()
        except KeyboardInterrupt:
            _abandon(house)


def _abandon(house: House) -> NoReturn:
    """Ctrl-C or SIGTERM: the threads of the drills cannot be interrupted, but what they have started can be ended."""
    from tests.drills.stage import Stage

    threading.Timer(20, os._exit, [130]).start()
    for stage in list(Stage.playing):
        stage.__exit__()
    house.__exit__()
    os._exit(130)


def _play(house: House, drill: Drill, folder: Path, settings: dict[str, object]) -> tuple[str, bool]:
    from tests.drills.stage import Stage

    began = time.monotonic()
    try:
        with Stage(house, folder, settings) as stage:
            report = drill.play(stage)
    except BaseException as error:  # noqa: BLE001 - the others are played all the same
        (folder / "error.txt").write_text(traceback.format_exc())
        reason = str(error).strip().split("\n", 1)[0][:300]
        return (
            f"{drill.name:{WIDTH}}  FAILED after {time.monotonic() - began:.1f} s: {type(error).__name__}: {reason}",
            False,
        )
    return _line(drill, report, time.monotonic() - began), True


def _line(drill: Drill, report: Report, took: float) -> str:
    counts = report.counts
    recovered = "-" if report.recovered is None else f"{report.recovered:.1f} s"
    return (
        f"{drill.name:{WIDTH}}  {counts.items_in:8}  {counts.stored:6}  {counts.failed:6}  {report.duplicates:10}  "
        f"{counts.lost:4}  {recovered:>9}  {took:5.1f} s"
    )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

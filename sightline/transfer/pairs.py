"""Images with their captions into shards to train on: in order, resumable, and the same whenever it is done again."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.errors import PolicyRefused, UsageError
from sightline.progress import progress_bar
from sightline.transfer.balance import Balance, Entries, count_entries
from sightline.transfer.pair_query import KeepBy, PairQuery, Row, Threshold
from sightline.transfer.shard_files import SHARDS, Pair, ending_of

if TYPE_CHECKING:
    from sightline.searches import Searches

STATE_FILE = "export.json"
COUNTS_FILE = "entry_counts.json"
MOST_PROBLEMS = 1000
"""That are named; all are counted."""


@dataclass(frozen=True)
class PairsReport:
    """What was written, now and by the runs that this one went on from.

    Args:
        pairs: images with captions in the shards.
        shards: files.
        resumed: of these, how many were there before this run.
        without_caption, without_score: images that were left out because they have none.
        filtered: left out of the best share.
        balanced: left out by the balancing.
        unreadable: images whose file is gone, is no image, or is another than was stored.
        problems: the first of those by external_id, with the reason.
        pairs_per_second: of this run.
    """

    folder: str
    pairs: int
    shards: int
    resumed: int
    without_caption: int
    without_score: int
    filtered: int
    balanced: int
    unreadable: int
    problems: list[list[str]]
    pairs_per_second: float


@dataclass(frozen=True)
class PairsPlan:
    """Which pairs, and how.

    Args:
        file_format: webdataset or parquet.
        collection: only this one.
        keep_share: the share of the pairs that is kept, the best first (paper 23: a scorer chooses the data).
        keep_by: by the matcher's probability, or by the cosine of image and caption.
        balance: a file of entries to balance by (paper 54), one a line.
        per_entry: about how many pairs a common entry keeps.
        shard_pairs: in one file.
        seed: decides between equals; another one keeps others.
    """

    file_format: str = "webdataset"
    collection: str | None = None
    keep_share: float | None = None
    keep_by: KeepBy = "match"
    balance: Path | None = None
    per_entry: int = 20_000
    shard_pairs: int = 1000
    seed: str = "0"

    def check(self) -> None:
        """Refuse what cannot be done. Raises UsageError."""
        if self.file_format not in SHARDS:
            raise UsageError(f"the format must be one of {', '.join(SHARDS)}, not {self.file_format!r}")
        if self.keep_share is not None and not 0 < self.keep_share <= 1:
            raise UsageError(f"keep_share must be above 0 and at most 1, not {self.keep_share}")
        if self.keep_by not in {"match", "alignment"}:
            raise UsageError(f"keep_by must be match or alignment, not {self.keep_by!r}")
        if self.per_entry < 1 or self.shard_pairs < 1:
            raise UsageError(
                f"per_entry and shard_pairs must be at least 1, not {self.per_entry} and {self.shard_pairs}"
            )


def export_pairs(client: Searches, folder: Path, plan: PairsPlan, *, progress: bool = False) -> PairsReport:
    """See `Sightline.export_pairs`."""
    plan.check()
    entries = None if plan.balance is None else Entries.read(plan.balance)
    state = _State.open(folder, plan, entries)
    began, before = time.monotonic(), state.pairs
    resumed = len(state.shards)
    query = PairQuery(client.database, plan.collection, plan.keep_by)
    if plan.collection is not None:
        with client.database.transaction() as connection:
            known = "select 1 from sightline.collection where name = %s"
            if connection.execute(known, (plan.collection,)).fetchone() is None:
                raise UsageError(f"there is no collection {plan.collection!r}")
    if not state.complete:
        choice = _Choice.make(query, plan, entries, state)
        total = query.count(state.last_item_id) if progress else None
        with progress_bar("images", enabled=progress, total=total) as advance:
            _write(client, query, plan, choice, state, advance)
        state.save(complete=True)
    skipped = state.skipped
    return PairsReport(
        folder=str(folder),
        pairs=state.pairs,
        shards=len(state.shards),
        resumed=resumed,
        without_caption=skipped["without_caption"],
        without_score=skipped["without_score"],
        filtered=skipped["filtered"],
        balanced=skipped["balanced"],
        unreadable=skipped["unreadable"],
        problems=state.problems,
        pairs_per_second=(state.pairs - before) / max(time.monotonic() - began, 1e-9),
    )


class _State:
    """`export.json`: what was asked, and each whole shard with the number of the last image that it answers for."""

    def __init__(self, folder: Path, asked: dict[str, Any]) -> None:
        self.folder, self.asked = folder, asked
        self.shards: list[dict[str, Any]] = []
        self.threshold: list[Any] | None = None
        self.complete = False
        self.skipped: Counter[str] = Counter()
        self.problems: list[list[str]] = []

    @classmethod
    def open(cls, folder: Path, plan: PairsPlan, entries: Entries | None) -> _State:
        """Of a new export, or of one that was interrupted; what it had begun of a shard goes.

        Raises:
            UsageError: the folder is of something else, or of an export that was asked for differently.
        """
        asked = {
            "format": plan.file_format, "collection": plan.collection, "keep_share": plan.keep_share,
            "keep_by": plan.keep_by, "balance": None if entries is None else entries.digest,
            "per_entry": plan.per_entry, "shard_pairs": plan.shard_pairs, "seed": plan.seed,
        }  # fmt: skip
        state = cls(folder, asked)
        file = folder / STATE_FILE
        if not file.is_file():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise UsageError(f"{folder} is there already, and is not what an export of captions left")
            folder.mkdir(parents=True, exist_ok=True)
            state.save()
            return state
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            differing = [name for name, value in asked.items() if stored["asked"][name] != value]
            state.shards, state.threshold, state.complete = stored["shards"], stored["threshold"], stored["complete"]
            state.skipped, state.problems = Counter(stored["skipped"]), stored["problems"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{file} cannot be read ({error}): take a new folder") from error
        if differing:
            told = ", ".join(f"{name}: {stored['asked'][name]!r}" for name in differing)
            raise UsageError(f"{folder} holds an export that was asked for differently ({told}): take a new folder")
        for partial in folder.glob("*.partial"):
            partial.unlink()
        return state

    @property
    def pairs(self) -> int:
        return sum(shard["pairs"] for shard in self.shards)

    @property
    def last_item_id(self) -> int:
        return int(self.shards[-1]["last_item_id"]) if self.shards else 0

    def save(self, *, complete: bool = False) -> None:
        """Replace the file: it is the old one or the new one, whatever happens."""
        self.complete = complete
        told = {
            "asked": self.asked, "threshold": self.threshold, "complete": complete, "shards": self.shards,
            "skipped": dict(self.skipped), "problems": self.problems,
        }  # fmt: skip
        partial = self.folder / f"{STATE_FILE}.partial"
        partial.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(self.folder / STATE_FILE)


class _Choice:
    """Which pairs stay. What was decided when the export began holds for its later runs."""

    def __init__(self, plan: PairsPlan, threshold: Threshold | None, balance: Balance | None) -> None:
        self._plan, self._threshold, self._balance = plan, threshold, balance

    @classmethod
    def make(cls, query: PairQuery, plan: PairsPlan, entries: Entries | None, state: _State) -> _Choice:
        threshold = None
        if plan.keep_share is not None:
            if state.threshold is None and (found := query.threshold(plan.keep_share, plan.seed)) is not None:
                state.threshold = [found.score, found.tie]
                state.save()
            threshold = Threshold(float("inf"), "") if state.threshold is None else Threshold(*state.threshold)
        made = cls(plan, threshold, None)
        if entries is not None:
            file = state.folder / COUNTS_FILE
            if not file.is_file():
                kept = (r.text for r in query.rows(0, captions=False) if made.reason(r) is None and r.text is not None)
                partial = file.with_suffix(".partial")
                partial.write_text(json.dumps(count_entries(entries, kept), ensure_ascii=False), encoding="utf-8")
                partial.replace(file)
            counts = json.loads(file.read_text(encoding="utf-8"))
            made = cls(plan, threshold, Balance(entries, counts, plan.per_entry, plan.seed))
        return made

    def reason(self, row: Row) -> str | None:
        """Why a pair is left out; None: it is kept."""
        if row.text is None:
            return "without_caption"
        if self._threshold is not None and not self._threshold.keeps(row, self._plan.seed):
            return "without_score" if row.score is None else "filtered"
        if self._balance is not None and not self._balance.keeps(row.key, row.text):
            return "balanced"
        return None


def _write(
    client: Searches, query: PairQuery, plan: PairsPlan, choice: _Choice, state: _State, advance: Callable[[int], None]
) -> None:
    """Shard by shard, from behind the last whole one."""
    suffix, make = SHARDS[plan.file_format]
    rows = query.rows(state.last_item_id)
    while True:
        partial = state.folder / f"shard-{len(state.shards):06}.{suffix}.partial"
        skipped, problems, pairs, last = Counter(state.skipped), list(state.problems), 0, 0
        with closing(make(partial)) as file:
            for row, pair in _pairs(client, rows, choice, skipped, problems):
                advance(1)
                last = row.item_id
                if pair is not None:
                    file.add(pair)
                    pairs += 1
                    if pairs == plan.shard_pairs:
                        break
        state.skipped, state.problems = skipped, problems
        if not pairs:
            partial.unlink()
            return
        partial.replace(partial.with_suffix(""))
        state.shards.append({"file": partial.with_suffix("").name, "pairs": pairs, "last_item_id": last})
        state.save()
        if pairs < plan.shard_pairs:
            return


def _pairs(
    client: Searches, rows: Iterator[Row], choice: _Choice, skipped: Counter[str], problems: list[list[str]]
) -> Iterator[tuple[Row, Pair | None]]:
    """Each image, and the pair that is made of it if it is kept."""
    for row in rows:
        reason, pair = choice.reason(row), None
        if reason is None:
            try:
                pair = _pair(client, row)
            except (UsageError, PolicyRefused) as error:
                reason = "unreadable"
                if len(problems) < MOST_PROBLEMS:
                    problems.append([row.about["external_id"], str(error)])
        if reason is not None:
            skipped[reason] += 1
        yield row, pair


def _pair(client: Searches, row: Row) -> Pair:
    image = client.image_bytes(row.item_id)
    if row.about["digest"] not in {None, hashlib.sha256(image).hexdigest()}:
        raise UsageError("its file is another than was stored: ingest it again")
    assert row.text is not None
    return Pair(f"{row.item_id:012}", image, ending_of(image), row.text, {"item_id": row.item_id, **row.about})

"""Calibrating a scorer on a collection: labelled pairs are scored, a function is fitted, and held against others."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

from sightline.calibration import Calibration, Method, fit, smallest_threshold
from sightline.errors import UsageError
from sightline.progress import progress_bar
from sightline.rerank import Ranking, rerank

if TYPE_CHECKING:
    from sightline.searches import Searches

AT_ONCE = 200
"""Candidates of one call."""
ISOTONIC_FROM = 200
"""Pairs from which a function of any rising shape is fitted; fewer give slope and offset of the log-odds."""
_TRUTHS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True)
class LabelledPair:
    """Whether an item of the collection, by its external_id, fits a query."""

    query: str
    external_id: str
    relevant: bool


@dataclass(frozen=True)
class CalibrationReport:
    """What a calibration is worth, on queries that it was not fitted on.

    Args:
        calibration_id: its row.
        scorer, scorer_version: whose scores it is for.
        method: how it was fitted.
        fitted, fitted_relevant: pairs that it was fitted on, and how many of them were relevant.
        held_out, held_out_relevant: the same of those held out.
        unscored: pairs that the scorer gave no score, with the reason of the first.
        threshold: the probability from which the wanted share of the fitted pairs was relevant; None: nowhere.
        precision, recall: above that threshold, of the held-out pairs; None where they are not defined.
        brier_raw, brier: mean squared error of the raw scores and of the probabilities.
        abstained: share of the held-out queries that keep nothing.
    """

    calibration_id: int
    scorer: str
    scorer_version: str
    method: Method
    fitted: int
    fitted_relevant: int
    held_out: int
    held_out_relevant: int
    unscored: int
    why_unscored: str | None
    precision_goal: float
    threshold: float | None
    precision: float | None
    recall: float | None
    brier_raw: float
    brier: float
    abstained: float


def read_pairs(path: Path) -> list[LabelledPair]:
    """Pairs of a CSV file with the columns `query`, `external_id` and `relevant` (1 or 0, true or false).

    Raises:
        UsageError: no such file, column or value; with the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            lacking = {"query", "external_id", "relevant"} - set(reader.fieldnames or ())
            if lacking:
                raise UsageError(f"{path} lacks the column {', '.join(sorted(lacking))}")
            pairs = [_pair(row, f"{path}, line {reader.line_num}") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not pairs:
        raise UsageError(f"{path} holds no pairs")
    return pairs


def calibrate_relevance(
    client: Searches, pairs: Iterable[LabelledPair], *, collection: str, scorer: str | None = None,
    precision: float = 0.9, method: Method | None = None, held_out: float = 0.3, space: str = "current",
    progress: bool = False,
) -> CalibrationReport:  # fmt: skip
    """Fit and store a calibration; see `Sightline.calibrate_relevance`."""
    pairs = list(pairs)
    if not 0 < precision <= 1 or not 0 < held_out < 1:
        raise UsageError(f"precision must lie in (0, 1] and held_out in (0, 1), not {precision} and {held_out}")
    scored = _scored(client, pairs, collection, scorer, space, progress=progress)
    fitted = [one for one in scored.pairs if not _is_held_out(one[0].query, held_out)]
    others = [one for one in scored.pairs if _is_held_out(one[0].query, held_out)]
    if not fitted or not others:
        queries = len({pair.query for pair, _ in scored.pairs})
        raise UsageError(f"{queries} queries are too few to hold some out: label pairs of more queries")
    labels = [pair.relevant for pair, _ in fitted]
    chosen: Method = method or ("isotonic" if len(fitted) >= ISOTONIC_FROM else "temperature")
    calibration = fit([score for _, score in fitted], labels, chosen)
    threshold = smallest_threshold(calibration.apply([score for _, score in fitted]), labels, precision)
    figures = _figures(calibration, others, threshold)
    sample = sorted((pair.query, pair.external_id, pair.relevant) for pair in pairs)
    with client.database.transaction() as connection:
        row = connection.execute(
            "select sightline.store_calibration(%s, %s, %s, %s, %s, %s, %s, %s, %s::real, %s::real, %s)",
            (
                collection, scored.scorer, scored.version, chosen, Jsonb(dict(calibration.params)),
                hashlib.sha256(json.dumps(sample).encode()).digest(), len(fitted), sum(labels), threshold,
                None if threshold is None else precision, Jsonb(figures),
            ),
        ).fetchone()  # fmt: skip
    assert row is not None
    return CalibrationReport(
        calibration_id=row[0], scorer=scored.scorer, scorer_version=scored.version, method=chosen, fitted=len(fitted),
        fitted_relevant=sum(labels), unscored=scored.asked - len(scored.pairs), why_unscored=scored.why,
        precision_goal=precision, threshold=threshold, **figures,
    )  # fmt: skip


@dataclass
class _Scored:
    """Pairs with their raw scores; `asked` counts what was to be scored, a pair that is given twice once."""

    pairs: list[tuple[LabelledPair, float]]
    asked: int
    scorer: str
    version: str
    why: str | None


def _scored(
    client: Searches, pairs: Sequence[LabelledPair], collection: str, scorer: str | None, space: str, *, progress: bool
) -> _Scored:
    ids = _ids(client, collection, {pair.external_id for pair in pairs})
    by_query: dict[str, dict[str, LabelledPair]] = defaultdict(dict)
    for pair in pairs:
        before = by_query[pair.query].setdefault(pair.external_id, pair)
        if before.relevant != pair.relevant:
            raise UsageError(f"{pair.external_id} is labelled both ways for the query {pair.query[:60]!r}")
    found: list[tuple[LabelledPair, float]] = []
    why: str | None = None
    ranking = Ranking([])
    with progress_bar("scored", enabled=progress, count=lambda: len(pairs)) as advance:
        for query, labelled in by_query.items():
            asked = list(labelled.values())
            for first in range(0, len(asked), AT_ONCE):
                part = asked[first : first + AT_ONCE]
                ranking = rerank(client, query, [ids[pair.external_id] for pair in part], scorer=scorer, space=space)
                found += [(part[one.candidate], one.raw_score) for one in ranking]
                why = why or next((error.message for error in ranking.errors), None)
                advance(len(part))
    asked_for = sum(map(len, by_query.values()))
    return _Scored(found, asked_for, ranking.scorer, ranking.scorer_version, why)


def _ids(client: Searches, collection: str, external_ids: set[str]) -> dict[str, int]:
    with client.database.transaction() as connection:
        rows = connection.execute(
            "select i.external_id, i.item_id from sightline.item i join sightline.collection c "
            "on c.collection_id = i.collection_id where c.name = %s and i.external_id = any(%s)",
            (collection, sorted(external_ids)),
        ).fetchall()
    ids = dict(rows)
    lacking = sorted(external_ids - set(ids))
    if lacking:
        raise UsageError(f"collection {collection} has no {lacking[0]!r} ({len(lacking)} of the labelled items lack)")
    return ids


def _figures(
    calibration: Calibration, pairs: Sequence[tuple[LabelledPair, float]], threshold: float | None
) -> dict[str, Any]:
    raw = [score for _, score in pairs]
    shares = calibration.apply(raw)
    labels = [pair.relevant for pair, _ in pairs]
    kept = [threshold is not None and share >= threshold for share in shares]
    right = sum(label for label, is_kept in zip(labels, kept, strict=True) if is_kept)
    queries = {pair.query for pair, _ in pairs}
    answered = {pair.query for (pair, _), is_kept in zip(pairs, kept, strict=True) if is_kept}
    return {
        "held_out": len(pairs), "held_out_relevant": sum(labels),
        "precision": right / sum(kept) if any(kept) else None,
        "recall": right / sum(labels) if any(labels) else None,
        "brier_raw": _brier(raw, labels), "brier": _brier(shares, labels),
        "abstained": 1 - len(answered) / len(queries),
    }  # fmt: skip


def _brier(shares: Sequence[float], labels: Sequence[bool]) -> float:
    return sum((share - label) ** 2 for share, label in zip(shares, labels, strict=True)) / len(labels)


def _is_held_out(query: str, share: float) -> bool:
    """By the query's own digest: all its pairs are on one side, whatever else is labelled."""
    return int.from_bytes(hashlib.sha256(query.encode()).digest()[:8], "big") < share * 2**64


def _pair(row: dict[str, str], where: str) -> LabelledPair:
    label = _TRUTHS.get((row["relevant"] or "").strip().lower())
    if label is None:
        raise UsageError(f"{where}: relevant must be 1 or 0, not {row['relevant']!r}")
    if not (row["query"] or "").strip() or not row["external_id"]:
        raise UsageError(f"{where}: a pair needs a query and an external_id")
    return LabelledPair(row["query"], row["external_id"], label)

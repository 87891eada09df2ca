"""Answers rerank calls."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sightline.contracts.rerank import Candidate, Ranked, RerankCall, RerankReply
from workers.errors import InvalidInput, ItemError, NoSuchItem, NotCalibrated
from workers.inline import call_error, image_bytes
from workers.items import Item
from workers.reranker import Reranker, Scored
from workers.scorers import Scorers


class RerankCalls:
    """Ranks the candidates of calls, ahead of all jobs."""

    def __init__(self, reranker: Reranker, scorers: Scorers) -> None:
        self._reranker = reranker
        self._scorers = scorers

    def reply(self, call: RerankCall, deadline: float) -> RerankReply:
        """The answer to one call.

        Raises:
            ItemError, ModelError: the query, the scorer or the threshold cannot be used.
            SpaceRefused: the space is not served.
            Expired, TimeoutError: the deadline passed.
        """
        began = time.monotonic()
        loaded = self._scorers.find(call.scorer).result(deadline - began)
        waited = time.monotonic() - began
        items = self._items(call.candidates)
        scored = self._reranker.score(loaded, call.query, items, call.space, "interactive", deadline)
        scored.seconds["load"] = scored.seconds.get("load", 0.0) + waited
        calibration_id, scores = self._calibrated(call, loaded.name, scored)
        # Of equals the one that was given first: the order of the search decides.
        order = sorted(scored.scores, key=lambda place: (-scored.scores[place], place))
        if call.threshold is not None:
            order = [place for place in order if scores[place] >= call.threshold]
        scored.seconds["total"] = time.monotonic() - began
        return RerankReply(
            ranking=tuple(
                Ranked(
                    candidate=place, score=scores[place], raw_score=scored.scores[place], note=scored.notes.get(place)
                )
                for place in order[: call.k]
            ),
            errors=tuple(
                call_error(error.error_class, str(error), place) for place, error in sorted(scored.errors.items())
            ),
            dropped=len(scored.scores) - len(order[: call.k]),
            notes=scored.query_notes,
            scorer=loaded.name,
            scorer_version=scored.version,
            calibration_id=calibration_id,
            seconds={stage: round(seconds, 6) for stage, seconds in scored.seconds.items()},
        )

    def _calibrated(self, call: RerankCall, scorer: str, scored: Scored) -> tuple[int | None, dict[int, float]]:
        """The calibration that counts, and what it makes of the scores. Raises NotCalibrated."""
        found = None if call.collection is None else self._reranker.calibration(call.collection, scorer, scored.version)
        if found is None:
            if call.threshold is not None:
                where = "no collection was named" if call.collection is None else f"none for {call.collection}"
                raise NotCalibrated(
                    f"a threshold needs a calibration of scorer {scorer} (version {scored.version}), and there is "
                    f"{where}: run `sightline calibrate relevance`"
                )
            return None, scored.scores
        calibration_id, calibration = found
        places = list(scored.scores)
        shares = calibration.apply([scored.scores[place] for place in places])
        return calibration_id, dict(zip(places, shares, strict=True))

    def _items(self, candidates: Sequence[Candidate]) -> list[Item | ItemError]:
        """What is to be scored, or why there is nothing."""
        known = self._reranker.stored([one.item_id for one in candidates if one.item_id is not None])
        items: list[Item | ItemError] = []
        seen: set[int] = set()
        for place, candidate in enumerate(candidates):
            name = f"candidate {place}"
            if candidate.item_id is not None:
                found = known.get(candidate.item_id)
                if found is None:
                    items.append(NoSuchItem(f"{name}: there is no item {candidate.item_id}"))
                elif candidate.item_id in seen:
                    items.append(InvalidInput(f"{name}: item {candidate.item_id} was given before"))
                else:
                    items.append(found)
                    seen.add(candidate.item_id)
            else:
                items.append(_inline(candidate, name))
        return items


def _inline(candidate: Candidate, name: str) -> Item | ItemError:
    """Content of the caller's, as an item of no id."""
    try:
        data = None if candidate.image is None else image_bytes(candidate.image, name)
    except InvalidInput as error:
        return error
    return Item(
        item_id=0, generation=0, modality="text" if candidate.image is None else "image", external_id=name, uri=None,
        text=candidate.text, digest=None, blob_digest=None, blob_bytes=None, encoded=False, data=data,
    )  # fmt: skip

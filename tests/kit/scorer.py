"""The kit of scorers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from models.errors import InvalidInput, NonFinite
from models.protocols import Modality, Part, PreparedPart, Role, Scorer
from models.scorer import score_each
from tests.kit.inputs import (
    BAD_TEXT,
    TEXTS,
    assert_json,
    assert_public_name,
    assert_refused,
    bad_pictures,
    extreme_pictures,
    in_threads,
    loaded_once,
    pictures,
    poison,
)


class ScorerKit:
    """Inherit, and define a fixture `load`: a function without arguments that loads the scorer.

    A scorer that claims to know what fits also defines `triples`: (query, what fits, what does not).

    Attributes:
        tolerance: most that a score may change with its batch.
        claimed: share of the triples in which what fits must score higher.
        most_words: a text of so many words is longer than the model reads.
    """

    tolerance = 1e-5
    claimed = 0.9
    most_words = 5000

    @pytest.fixture
    def scorer(self, load: Callable[[], Any]) -> Any:
        return loaded_once(type(self), load)

    @pytest.fixture
    def poisoned(self, load: Callable[[], Any]) -> Any:
        """The scorer with weights of NaN; override it where they are not torch's."""
        return poison(load())

    @pytest.fixture
    def triples(self) -> Sequence[tuple[Part, Part, Part]] | None:
        """(query, what fits, what does not); None where nothing is claimed."""
        return None

    def test_each_candidate_gets_one_float32_in_0_1(self, scorer: Scorer) -> None:
        for query, candidates in _cases(scorer):
            found = scorer.score(query, candidates)
            assert (found.shape, found.dtype) == ((len(candidates),), np.float32)
            assert ((found >= 0) & (found <= 1)).all(), f"scores from {found.min()} to {found.max()}"

    def test_no_candidates_get_no_scores(self, scorer: Scorer) -> None:
        for query, _ in _cases(scorer):
            found = scorer.score(query, [])
            assert (found.shape, found.dtype) == ((0,), np.float32)

    def test_a_score_is_the_same_alone_and_among_others(self, scorer: Scorer) -> None:
        for query, candidates in _cases(scorer):
            alone = np.concatenate([scorer.score(query, [candidate]) for candidate in candidates])
            indices = np.arange(len(candidates))
            for order in (indices, indices[::-1], np.random.default_rng(1).permutation(np.tile(indices, 3))):
                gap = np.abs(scorer.score(query, [candidates[index] for index in order]) - alone[order]).max()
                assert gap <= self.tolerance, f"a score differs by {gap:.2g} from the one it has alone"

    def test_a_score_is_the_same_again(self, scorer: Scorer) -> None:
        for query, candidates in _cases(scorer):
            assert np.array_equal(scorer.score(query, candidates), scorer.score(query, candidates))

    def test_candidates_and_queries_decide_the_score(self, scorer: Scorer) -> None:
        by_pair: dict[tuple[Modality, Modality], list[np.ndarray]] = {}
        for query, candidates in _cases(scorer):
            by_pair.setdefault((query.modality, candidates[0].modality), []).append(scorer.score(query, candidates))
        for scores in by_pair.values():
            assert np.ptp(scores[0]) > self.tolerance, "all candidates score the same"
            assert np.abs(scores[0] - scores[1]).max() > self.tolerance, "another query changes nothing"

    def test_what_fits_scores_higher(self, scorer: Scorer, triples: Sequence[tuple[Part, Part, Part]] | None) -> None:
        if triples is None:
            pytest.skip("nothing is claimed")
        won = []
        for query, fits, not_ in triples:
            candidates = [scorer.prepare(candidate, "candidate") for candidate in (fits, not_)]
            better, worse = scorer.score(scorer.prepare(query, "query"), candidates)
            won.append(better > worse)
        assert np.mean(won) >= self.claimed, f"what fits scores higher in {np.mean(won):.0%} of {len(won)} triples"

    def test_a_bad_candidate_gets_its_error_and_the_rest_its_scores(self, scorer: Scorer) -> None:
        for query, candidate in sorted(scorer.takes):
            asked, good = _parts(query)[0], _parts(candidate)[:3]
            expected = score_each(scorer, asked, good)
            bad: list[Part] = [*bad_pictures()[:2], BAD_TEXT, ""]
            mixed = [good[0], bad[0], bad[1], good[1], bad[2], bad[3], good[2]]
            found = score_each(scorer, asked, mixed)
            for position in (1, 2, 4, 5):
                assert isinstance(found[position], InvalidInput), f"{mixed[position]!r} scored {found[position]}"
                assert "\n" not in str(found[position]), f"not one line: {found[position]}"
            kept = np.array([found[position] for position in (0, 3, 6)], float)
            assert np.abs(kept - np.array(expected, float)).max() <= self.tolerance

    def test_a_modality_it_does_not_take_is_refused(self, scorer: Scorer) -> None:
        """By `prepare` where no pair has it in that role, else by `score_each` for the pair."""
        kinds: tuple[Modality, Modality] = ("image", "text")
        for place, role in enumerate(("query", "candidate")):
            for kind in kinds:
                if not any(pair[place] == kind for pair in scorer.takes):
                    assert_refused(lambda part, role=role: scorer.prepare(part, role), _parts(kind)[0])
        for query in {pair[0] for pair in scorer.takes}:
            for kind in kinds:
                if (query, kind) not in scorer.takes:
                    (found,) = score_each(scorer, _parts(query)[0], [_parts(kind)[0]])
                    assert isinstance(found, InvalidInput), f"{query} x {kind} is not among {sorted(scorer.takes)}"

    def test_bad_queries_are_refused(self, scorer: Scorer) -> None:
        for bad in (BAD_TEXT, "", bad_pictures()[0]):
            assert_refused(lambda part: scorer.prepare(part, "query"), bad)

    def test_extreme_images_are_scored(self, scorer: Scorer) -> None:
        for query, candidate in sorted(scorer.takes):
            if candidate == "image":
                asked = scorer.prepare(_parts(query)[0], "query")
                found = scorer.score(asked, [scorer.prepare(picture, "candidate") for picture in extreme_pictures()])
                assert ((found >= 0) & (found <= 1)).all()

    def test_a_text_that_is_cut_says_so(self, scorer: Scorer) -> None:
        """What was not reported as cut must have been read to its last word."""
        for query, candidate in sorted(scorer.takes):
            asked = [scorer.prepare(part, "query") for part in _parts(query)[:3]]
            if candidate != "text":
                continue
            for words in (1, 4, 12, 40, self.most_words):
                ends = [scorer.prepare("the " * words + end, "candidate") for end in ("red", "cat")]
                if not any(end.truncated for end in ends):
                    gap = max(float(np.abs(np.subtract(*scorer.score(one, ends)))) for one in asked)
                    assert gap > 0, f"the end of a text of {words + 1} words is not read, nor reported as cut"
            assert all(end.truncated for end in ends), f"a text of {words + 1} words is not reported as cut"

    def test_parts_are_prepared_by_many_threads(self, scorer: Scorer) -> None:
        for query, candidate in sorted(scorer.takes):
            asked = scorer.prepare(_parts(query)[0], "query")
            expected = scorer.score(asked, [scorer.prepare(part, "candidate") for part in _parts(candidate)])
            prepared = in_threads(lambda part: scorer.prepare(part, "candidate"), _parts(candidate), rounds=3)
            gap = np.abs(scorer.score(asked, prepared) - np.tile(expected, 3)).max()
            assert gap <= self.tolerance, "threads disturb each other"

    def test_scores_of_nan_are_refused_by_position(self, poisoned: Scorer) -> None:
        query, candidates = _cases(poisoned)[0]
        with pytest.raises(NonFinite) as caught:
            poisoned.score(query, candidates[:3])
        assert caught.value.indices == (0, 1, 2)

    def test_the_identity_is_complete_and_survives_json(self, scorer: Scorer, load: Callable[[], Any]) -> None:
        assert_json(scorer.identity.to_dict())
        assert_public_name(scorer.identity.model)
        assert scorer.identity.kind, "the identity does not say what kind of model this is"
        assert scorer.identity.dtype, "the identity does not name the number format"
        assert load().identity == scorer.identity, "loading it again gives another identity"
        assert scorer.takes, "it takes no pair of modalities"


def _parts(modality: Modality) -> list[Any]:
    return list(TEXTS) if modality == "text" else pictures()


def _cases(scorer: Scorer) -> list[tuple[PreparedPart, list[PreparedPart]]]:
    """For each pair of modalities two queries, each with candidates."""
    role: Role = "candidate"
    return [
        (scorer.prepare(asked, "query"), [scorer.prepare(part, role) for part in _parts(candidate)])
        for query, candidate in sorted(scorer.takes)
        for asked in (_parts(query)[0], _parts(query)[-1])
    ]

from __future__ import annotations

import pytest

from models.scenes.blip import blip_tokenizer
from models.scenes.captions import KINDS, caption
from models.scenes.query import Claim
from models.scenes.sample import Dice, sample_scene
from models.scenes.tokens import FULL
from models.scenes.told import cells, in_reading_order, mistell, tell

SCENES = [sample_scene(i) for i in range(200)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_told_as_the_tokenizer_reads_it(kind: str) -> None:
    tokenizer = blip_tokenizer()
    for i, scene in enumerate(SCENES):
        query = caption(scene, kind, i).query
        assert tell(query, scene).ids == tokenizer.encode(query.text()).ids
        bare = query.text().replace(",", "").replace(":", "")
        assert tell(query, scene, punctuation=False).ids == tokenizer.encode(bare).ids
        assert tokenizer.decode(tell(query, scene, full=True).ids) == query.text()


def test_the_prompt_is_one_token() -> None:
    assert len(blip_tokenizer().encode(FULL, add_special_tokens=False).ids) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_clause_of_a_true_caption_is_true(kind: str) -> None:
    assert all(true for i, scene in enumerate(SCENES) for _, true in tell(caption(scene, kind, i).query, scene).truths)


def test_a_false_text_has_a_false_clause_or_names_too_much() -> None:
    wrong = 0
    for i, scene in enumerate(SCENES):
        query = mistell(caption(scene, "full", i).query, scene, Dice(f"{i}"))
        if not query.matches(scene):
            wrong += 1
            # Clauses that are true one by one can be false together: two circles where there is one.
            assert not all(true for _, true in tell(query, scene).truths) or len(query.claims) > len(scene)
    assert wrong > len(SCENES) / 2


def test_nouns_point_at_the_cells_of_their_things() -> None:
    tokenizer = blip_tokenizer()
    for i, scene in enumerate(SCENES):
        told = tell(caption(scene, "full", i).query, scene)
        for at, mask in told.nouns:
            word = tokenizer.id_to_token(told.ids[at])
            there = {
                int(t.y * 3) * 3 + int(t.x * 3) for t in scene if word in ("shape", "shapes", t.shape, t.shape + "s")
            }
            assert {k for k in range(9) if mask[k]} <= there or word == "crosses"
            assert mask.any()


def test_captions_to_write_name_things_row_by_row() -> None:
    for i, scene in enumerate(SCENES):
        query = in_reading_order(caption(scene, "full", i).query, scene)
        assert query.matches(scene)
        first = [int(cells(claim, scene).argmax()) for claim in query.claims if claim.shape is not None]
        assert first == sorted(first)
        assert query.claims[0] == Claim(count=len(scene))


def test_attributes_point_at_the_cells_that_have_them() -> None:
    tokenizer = blip_tokenizer()
    for i, scene in enumerate(SCENES):
        told = tell(caption(scene, "full", i).query, scene)
        for at, mask in told.words:
            word = tokenizer.id_to_token(told.ids[at])
            there = {
                int(t.y * 3) * 3 + int(t.x * 3) for t in scene if word.removesuffix("es") in t.kind or word in t.kind
                or word.removesuffix("s") in t.kind
            }  # fmt: skip
            assert {k for k in range(9) if mask[k]} == there, word

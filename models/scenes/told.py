"""A text of the caption grammar as tokens, with what the truth says of each of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .blip import blip_tokenizer
from .lexicon import PHRASES, RELATION_WORDS
from .query import Claim, Query, Relation
from .relations import RELATIONS
from .sample import Dice
from .scene import Scene
from .tokens import END, FULL, START
from .vocabulary import BACKGROUNDS, COLOURS, GRID, HELD_OUT, SHAPES, SIZES, STYLES, TEXTURES, WORDS

_VALUES: Final = {"colour": tuple(COLOURS), "shape": SHAPES, "size": SIZES, "texture": TEXTURES}


@dataclass(slots=True)
class Told:
    """Token ids, and marks on some of them.

    ``words``: (position of an attribute, which grid cells hold a thing that has it). ``nouns``: (position of a claim's
    noun, which grid cells hold a thing that fits the whole claim), and ``adjectives``: how many words right before each
    noun are its own. ``links``: (position of a relation's second noun, and of its first). ``truths``: (position of a
    part's last word, whether the part is true of the scene). ``spans``: (position before a claim's first word,
    position before its noun, its cells), for things only.
    """

    ids: list[int]
    words: list[tuple[int, NDArray[np.bool_]]] = field(default_factory=list)
    nouns: list[tuple[int, NDArray[np.bool_]]] = field(default_factory=list)
    adjectives: list[int] = field(default_factory=list)
    links: list[tuple[int, int]] = field(default_factory=list)
    truths: list[tuple[int, bool]] = field(default_factory=list)
    spans: list[tuple[int, int, NDArray[np.bool_]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Part:
    """A clause of a text: its words, the claim it makes alone, and (offset, claim) of the nouns in it."""

    words: list[str]
    query: Query
    nouns: tuple[tuple[int, Claim], ...] = ()


def parts(query: Query) -> Iterator[Part]:
    """The clauses of an English text, in the order of ``Query.text``."""
    for claim in query.claims:
        words = claim.text().split()
        yield Part(words, Query((claim,)), ((len(words) - 1, claim),))
    if query.relation is not None:
        told = query.relation
        first = told.subject.text().split()
        words = [*first, *RELATION_WORDS["en"][told.name].split(), *told.object.text().split()]
        nouns = ((len(first) - 1, told.subject), (len(words) - 1, told.object))
        yield Part(words, Query(relation=told), nouns)
    phrases = PHRASES["en"]
    if query.background is not None:
        yield Part(phrases["background"].format(query.background).split(), Query(background=query.background))
    if query.word is not None:
        yield Part(phrases["word"].format(query.word).split(), Query(word=query.word))
    if query.style is not None:
        yield Part(phrases[query.style].split(), Query(style=query.style))


@lru_cache(maxsize=1)
def _vocabulary() -> dict[str, int]:
    return blip_tokenizer().get_vocab()


def tell(query: Query, scene: Scene, *, full: bool = False, punctuation: bool = True) -> Told:
    """The query's English text as the tokenizer of ``blip_tokenizer`` gives it, marked by the scene's truth.

    With ``full`` the prompt token FULL follows the start token; without ``punctuation`` commas and colons are left out.
    """
    known = _vocabulary()
    out = Told([known[START], known[FULL]] if full else [known[START]])
    total = len(query.claims) > 1 and query.claims[0] == Claim(count=query.claims[0].count)
    for index, part in enumerate(parts(query)):
        if index and punctuation:
            out.ids.append(known[":" if index == 1 and total else ","])
        begin = len(out.ids)
        out.ids += [known[word] for word in part.words]
        for offset, claim in part.nouns:
            out.nouns.append((begin + offset, cells(claim, scene)))
            out.adjectives.append(sum(value is not None for value in (claim.size, claim.texture, claim.colour)))
            out.words += _attributes(claim, begin + offset, scene)
        if len(part.nouns) == 2:
            out.links.append((begin + part.nouns[1][0], begin + part.nouns[0][0]))
        if len(part.nouns) == 1 and part.nouns[0][1].shape is not None:
            out.spans.append((begin - 1, len(out.ids) - 2, out.nouns[-1][1]))
        out.truths.append((len(out.ids) - 1, part.query.matches(scene)))
    out.ids.append(known[END])
    return out


def _attributes(claim: Claim, noun: int, scene: Scene) -> list[tuple[int, NDArray[np.bool_]]]:
    """(position, cells that hold a thing with that attribute alone) of a claim's adjectives, and of its noun."""
    alone = [Claim(**{name: value}) for name in ("size", "texture", "colour") if (value := getattr(claim, name))]
    marks = [(noun - len(alone) + k, cells(one, scene)) for k, one in enumerate(alone)]
    return marks if claim.shape is None else [*marks, (noun, cells(Claim(shape=claim.shape), scene))]


def cells(claim: Claim, scene: Scene) -> NDArray[np.bool_]:
    """Which grid cells hold a thing that fits, shape (9,)."""
    out = np.zeros(GRID * GRID, dtype=bool)
    for thing in scene.things:
        if claim.fits(thing):
            out[int(thing.y * GRID) * GRID + int(thing.x * GRID)] = True
    return out


def in_reading_order(query: Query, scene: Scene) -> Query:
    """The same claims, those of things sorted by where their first thing lies: row by row, holders first."""

    def place(claim: Claim) -> tuple[int, int, int]:
        fitting = [(int(t.y * GRID), int(t.x * GRID), int(t.holder >= 0)) for t in scene.things if claim.fits(t)]
        return min(fitting)

    first = [claim for claim in query.claims if claim.shape is None]
    things = sorted((claim for claim in query.claims if claim.shape is not None), key=place)
    return replace(query, claims=(*first, *things))


def mistell(query: Query, scene: Scene, dice: Dice, share: float | None = None) -> Query:
    """The query with one part changed, or each with the probability ``share``. It may come out true by chance."""
    count = len(query.claims) + sum(
        part is not None for part in (query.relation, query.background, query.word, query.style)
    )
    chosen = int(dice.random() * count)
    changed = [dice.chance(share) if share is not None else index == chosen for index in range(count)]
    at = iter(changed)
    claims = tuple(_other_claim(claim, scene, dice) if next(at) else claim for claim in query.claims)
    given: dict[str, Any] = {}
    if query.relation is not None and next(at):
        given["relation"] = _other_relation(query.relation, scene, dice)
    for name, values in (("background", BACKGROUNDS), ("word", WORDS), ("style", STYLES)):
        if getattr(query, name) is not None and next(at):
            given[name] = dice.pick(values)
    return replace(query, claims=claims, **given)


def _other_claim(claim: Claim, scene: Scene, dice: Dice) -> Claim:
    """Another number, or another value of one attribute: half of the time one that something else in the scene has."""
    named = [name for name in _VALUES if getattr(claim, name) is not None]
    if claim.count is not None and (not named or dice.chance(0.3)):
        return replace(claim, count=min(max(claim.count + dice.pick((-1, 1)), 1), 6))
    for _ in range(8):
        name = dice.pick(named)
        value = getattr(dice.pick(scene.things), name) if dice.chance(0.5) else dice.pick(_VALUES[name])
        given: dict[str, Any] = {name: value}
        other = replace(claim, **given)
        if other != claim and (other.colour, other.shape) not in HELD_OUT:
            return other
    return claim


def _other_relation(told: Relation, scene: Scene, dice: Dice) -> Relation:
    u = dice.random()
    if u < 0.4:
        return Relation(told.object, told.name, told.subject)
    if u < 0.8:
        return Relation(told.subject, dice.pick(RELATIONS), told.object)
    thing = dice.pick(scene.things)
    return Relation(told.subject, told.name, Claim(thing.colour, thing.shape))

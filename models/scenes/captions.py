"""The caption grammar: true captions from full to vague, and captions that are wrong by one claim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from .conditions import condition
from .query import Claim, Query, Relation
from .relations import RELATIONS, relations
from .sample import Dice
from .scene import Scene, Thing
from .vocabulary import COLOURS, HELD_OUT, SHAPES, SIZES, TEXTURES

KINDS: Final = ("full", "long", "partial", "short", "vague")
WRONG: Final = ("attribute", "count", "relation")


@dataclass(frozen=True, slots=True)
class Caption:
    """A text and the claims it makes. ``kind`` is one of KINDS, or "wrong attribute|count|relation"."""

    text: str
    query: Query
    kind: str
    language: str = "en"


def caption(scene: Scene, kind: str, seed: int, language: str = "en") -> Caption:
    """A true caption of the scene; the same scene, kind and seed give the same text.

    Raises ``ValueError`` for an unknown kind.
    """
    try:
        write = _WRITERS[kind]
    except KeyError:
        raise ValueError(f"unknown kind of caption {kind!r}; known are {', '.join(KINDS)}") from None
    return _worded(write(scene, Dice(f"caption:{kind}:{seed}")), kind, language)


def condition_caption(scene: Scene, condition_name: str, seed: int, language: str = "en") -> Caption:
    """The caption that a condition gives a scene: full, or vague seven times in ten where the condition is vague."""
    vague = condition(condition_name).vague and Dice(f"kind:{seed}").chance(0.7)
    return caption(scene, "vague" if vague else "full", seed, language)


def wrong_caption(scene: Scene, seed: int, what: str | None = None, language: str = "en") -> Caption | None:
    """The second of ``contrast``: a full caption with one claim changed so that it is false of the scene."""
    pair = contrast(scene, seed, what, language)
    return None if pair is None else pair[1]


def contrast(scene: Scene, seed: int, what: str | None = None, language: str = "en") -> tuple[Caption, Caption] | None:
    """A true full caption, and one that says the same but for one claim, which is false of the scene.

    ``what`` is one of WRONG, or ``None`` for any; ``None`` comes back where the scene has nothing of the kind
    to get wrong (a relation needs two things).
    """
    if what is not None and what not in WRONG:
        raise ValueError(f"unknown kind of wrong caption {what!r}; known are {', '.join(WRONG)}")
    dice = Dice(f"wrong:{what}:{seed}")
    true = _full(scene, dice)
    for name in [what] if what else dice.shuffled(WRONG):
        for _ in range(20):
            query = _BREAKERS[name](true, dice)
            if query is not None and not query.matches(scene):
                told = true if query.relation else replace(true, relation=None)
                return _worded(told, "full", language), _worded(query, f"wrong {name}", language)
    return None


def _worded(query: Query, kind: str, language: str) -> Caption:
    return Caption(query.text(language), query, kind, language)


def _full(scene: Scene, dice: Dice) -> Query:
    """Every thing with all attributes, how many there are, one relation, background, word and style."""
    claims = (Claim(count=len(scene)), *_everything(scene, dice))
    return Query(claims, _relation(scene, dice, 1.0), scene.background.kind, scene.word, scene.style)


def _long(scene: Scene, dice: Dice) -> Query:
    """Every thing with all attributes, and the word."""
    return Query(_everything(scene, dice), _relation(scene, dice, 0.3), None, scene.word, None)


def _partial(scene: Scene, dice: Dice) -> Query:
    """Some of the things with some of their attributes."""
    things = dice.shuffled(scene.things)
    kept = things[: 1 + int(dice.random() * min(len(things), 3))]
    claims = tuple(_some(thing, dice, 0.5) for thing in kept)
    background = scene.background.kind if dice.chance(0.15) else None
    word = scene.word if dice.chance(0.5) else None
    style = scene.style if dice.chance(0.3) else None
    return Query(claims, _relation(scene, dice, 0.15), background, word, style)


def _short(scene: Scene, dice: Dice) -> Query:
    """What people type: one or two things, a count, a relation, or the word."""
    u = dice.random()
    if scene.word is not None and u < 0.2:
        return Query(word=scene.word)
    if u < 0.35 and (relation := _relation(scene, dice, 1.0)) is not None:
        return Query(relation=relation)
    thing = dice.pick(scene.things)
    if u < 0.45:
        claim = dice.pick((Claim(shape=thing.shape), Claim(colour=thing.colour, shape=thing.shape)))
        return Query((_counted(claim, scene),))
    return Query((_some(thing, dice, 0.25),))


def _vague(scene: Scene, dice: Dice) -> Query:
    """Little: a count, a colour or a shape, the background."""
    thing = dice.pick(scene.things)
    claim = dice.pick((Claim(count=len(scene)), Claim(colour=thing.colour), Claim(shape=thing.shape)))
    return Query((claim,), background=scene.background.kind if dice.chance(0.3) else None)


def _everything(scene: Scene, dice: Dice) -> tuple[Claim, ...]:
    kinds = Counter(dice.shuffled([thing.kind for thing in scene.things]))
    return tuple(
        Claim(colour, shape, size, texture, n if n > 1 else None) for (size, texture, colour, shape), n in kinds.items()
    )


def _some(thing: Thing, dice: Dice, share: float) -> Claim:
    """Colour and shape, seldom only one of them, and size and texture with the given share each."""
    u = dice.random()
    return Claim(
        colour=None if u < 0.12 else thing.colour,
        shape=None if u > 0.95 else thing.shape,
        size=thing.size if dice.chance(share) else None,
        texture=thing.texture if dice.chance(share) else None,
    )


def _counted(claim: Claim, scene: Scene) -> Claim:
    return replace(claim, count=sum(claim.fits(thing) for thing in scene.things))


def _relation(scene: Scene, dice: Dice, share: float) -> Relation | None:
    if len(scene) < 2 or not dice.chance(share):
        return None
    options = list(relations(scene))
    if not options:
        return None
    inside = [option for option in options if option[1] == "inside"]
    i, name, j = dice.pick(inside if inside and dice.chance(0.4) else options)
    return Relation(_named(scene.things[i]), name, _named(scene.things[j]))


def _named(thing: Thing) -> Claim:
    return Claim(colour=thing.colour, shape=thing.shape)


def _break_attribute(query: Query, dice: Dice) -> Query | None:
    """Another colour, shape, size or texture of one thing; the relation is left out, as it may name the thing."""
    index = dice.pick([i for i, claim in enumerate(query.claims) if claim.shape is not None])
    claim = query.claims[index]
    options = {"colour": tuple(COLOURS), "shape": SHAPES, "size": SIZES, "texture": TEXTURES}
    name = dice.pick(tuple(options))
    values: dict[str, Any] = {name: dice.pick(options[name])}
    changed = replace(claim, **values)
    if changed == claim or (changed.colour, changed.shape) in HELD_OUT:
        return None
    claims = (*query.claims[:index], changed, *query.claims[index + 1 :])
    return replace(query, claims=claims, relation=None)


def _break_count(query: Query, dice: Dice) -> Query | None:
    count = query.claims[0].count
    wrong = (count or 0) + dice.pick((-1, 1))
    if not 1 <= wrong <= 6:
        return None
    return replace(query, claims=(Claim(count=wrong), *query.claims[1:]))


def _break_relation(query: Query, dice: Dice) -> Query | None:
    told = query.relation
    if told is None:
        return None
    if dice.chance(0.5):
        return replace(query, relation=Relation(told.object, told.name, told.subject))
    return replace(query, relation=Relation(told.subject, dice.pick(RELATIONS), told.object))


_WRITERS: Final[dict[str, Callable[[Scene, Dice], Query]]] = {
    "full": _full,
    "long": _long,
    "partial": _partial,
    "short": _short,
    "vague": _vague,
}
_BREAKERS: Final[dict[str, Callable[[Query, Dice], Query | None]]] = {
    "attribute": _break_attribute,
    "count": _break_count,
    "relation": _break_relation,
}

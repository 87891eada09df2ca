"""How much of a scene's truth a caption tells, and how much of what it tells is false, attribute by attribute."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .parse import parse
from .query import Claim
from .scene import Scene, Thing

MOST_CLAIMS = 40
"""Of one caption that are read; more are a list of words."""
_NAMES = ("shape", "colour", "size", "texture")


@dataclass(frozen=True, slots=True)
class Told:
    """What a caption tells of a scene, in attributes.

    An attribute is the shape, colour, size or texture of one thing, the number of things, the background, the painted
    word or the style. Relations are no attributes, for nobody lists all of them; a false one counts as false.

    Args:
        true: attributes of the scene that the caption names.
        false: what it names and the scene has not.
        there: attributes of the scene.
    """

    true: int
    false: int
    there: int

    @property
    def share(self) -> float:
        """Of the true attributes that are named."""
        return self.true / self.there

    @property
    def false_share(self) -> float:
        """Of what is named that is false; 0 where nothing is."""
        return self.false / (self.true + self.false) if self.false else 0.0


def told_by(text: str, scene: Scene) -> Told:
    """Compare a caption with the truth.

    Each thing that the caption claims is taken for another thing of the scene, so that as many attributes as possible
    are right; claims beyond the number of things are false in all that they say.
    """
    there = len(_NAMES) * len(scene) + 2 + (scene.word is not None) + (scene.style is not None)
    query = parse(text)
    if query is None:
        return Told(0, 0, there)
    true = false = 0
    claims: list[Claim] = []
    for claim in query.claims:
        if not _named(claim) or claim.count == 0:  # "three shapes", "no circle"
            fits = sum(claim.fits(thing) for thing in scene.things) == claim.count
            true, false = true + fits, false + (not fits)
        else:
            claims += [replace(claim, count=None)] * (claim.count or 1)
    right = _matched(claims[:MOST_CLAIMS], scene.things)
    true, false = true + right, false + sum(_named(claim) for claim in claims) - right
    said = (query.background, query.word, query.style)
    for given, real in zip(said, (scene.background.kind, scene.word, scene.style), strict=True):
        if given is not None:
            true, false = true + (given == real), false + (given != real)
    if query.relation is not None and not query.relation.true_of(scene):
        false += 1
    return Told(min(true, there), false, there)


def _named(claim: Claim) -> int:
    return sum(getattr(claim, name) is not None for name in _NAMES)


def _matched(claims: list[Claim], things: tuple[Thing, ...]) -> int:
    """The most attributes that can be right, each claim and each thing being used once."""
    best = {0: 0}  # by the things that are taken, as bits
    for claim in claims:
        after = dict(best)
        for taken, right in best.items():
            for place, thing in enumerate(things):
                if not taken >> place & 1:
                    fits = sum(getattr(claim, name) == getattr(thing, name) for name in _NAMES)
                    key = taken | 1 << place
                    after[key] = max(after.get(key, 0), right + fits)
        best = after
    return max(best.values())

"""What a caption or a search claims of a scene: written as text, and checked against the truth."""

from __future__ import annotations

from dataclasses import dataclass

from .lexicon import NOUNS, NUMBERS, PHRASES, RELATION_WORDS, adjective, article
from .relations import holds
from .scene import Scene, Thing


@dataclass(frozen=True, slots=True)
class Claim:
    """A thing with these attributes is there; with ``count``, exactly so many are. All open: any shape."""

    colour: str | None = None
    shape: str | None = None
    size: str | None = None
    texture: str | None = None
    count: int | None = None

    def fits(self, thing: Thing) -> bool:
        """Whether a thing has all attributes that the claim names."""
        return thing.fits(colour=self.colour, shape=self.shape, size=self.size, texture=self.texture)

    def text(self, language: str = "en") -> str:
        """The claim in words, e.g. "a large striped red circle" or "two red circles"."""
        noun = NOUNS[language][self.shape or ""]
        plural = self.count is not None and self.count != 1
        given = [w for w in (self.size, self.texture, self.colour) if w is not None]
        if language == "es":
            given.reverse()
        bent = [adjective(w, language, noun.gender, plural=plural) for w in given]
        name = noun.many if plural else noun.one
        words = [name, *bent] if language == "es" else [*bent, name]
        if self.count is None or (self.count == 1 and language != "en"):
            head = article(noun, language, words[0])
        else:
            head = NUMBERS[language][self.count]
        return " ".join([head, *words])


@dataclass(frozen=True, slots=True)
class Relation:
    """Some thing that fits ``subject`` stands in the relation ``name`` to some thing that fits ``object``."""

    subject: Claim
    name: str
    object: Claim

    def true_of(self, scene: Scene) -> bool:
        """Whether some pair of things in the scene makes it true."""
        return any(
            holds(scene, self.name, i, j)
            for i, a in enumerate(scene.things)
            if self.subject.fits(a)
            for j, b in enumerate(scene.things)
            if self.object.fits(b)
        )

    def text(self, language: str = "en") -> str:
        """The relation in words, e.g. "a red circle left of a blue star"."""
        return f"{self.subject.text(language)} {RELATION_WORDS[language][self.name]} {self.object.text(language)}"


@dataclass(frozen=True, slots=True)
class Query:
    """Everything a text claims; ``matches`` says whether a scene makes all of it true.

    Claims without a count need a thing each: "a circle, a circle" is true of scenes with two circles or more.
    """

    claims: tuple[Claim, ...] = ()
    relation: Relation | None = None
    background: str | None = None
    word: str | None = None
    style: str | None = None

    def matches(self, scene: Scene) -> bool:
        """Whether the scene makes every claim true."""
        told = (self.background, self.word, self.style)
        true = (scene.background.kind, scene.word, scene.style)
        if any(a is not None and a != b for a, b in zip(told, true, strict=True)):
            return False
        open_claims = []
        for claim in self.claims:
            fitting = [i for i, thing in enumerate(scene.things) if claim.fits(thing)]
            if not fitting and claim.count != 0:
                return False
            if claim.count is None:
                open_claims.append(fitting)
            elif len(fitting) != claim.count:
                return False
        if len(open_claims) > 1 and not _assignable(sorted(open_claims, key=len), frozenset()):
            return False
        return self.relation is None or self.relation.true_of(scene)

    def text(self, language: str = "en") -> str:
        """The query in words: clauses joined by commas, the number of shapes first and followed by a colon."""
        phrases = PHRASES[language]
        parts = [claim.text(language) for claim in self.claims]
        if len(parts) > 1 and self.claims[0] == Claim(count=self.claims[0].count) and self.claims[0].count is not None:
            parts[:2] = [f"{parts[0]}: {parts[1]}"]
        if self.relation is not None:
            parts.append(self.relation.text(language))
        if self.background is not None:
            kind = self.background if language == "en" else adjective(self.background, language, "m")
            kind = kind.removesuffix("er") if language == "de" else kind
            parts.append(phrases["background"].format(kind))
        if self.word is not None:
            parts.append(phrases["word"].format(self.word))
        if self.style is not None:
            parts.append(phrases[self.style])
        return ", ".join(parts)


def _assignable(options: list[list[int]], used: frozenset[int]) -> bool:
    """Whether every claim can have a thing of its own."""
    if not options:
        return True
    return any(_assignable(options[1:], used | {i}) for i in options[0] if i not in used)

"""English captions that are wrong in one thing: another count, another colour, a relation the other way round."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

COUNTS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
COLOURS = (
    "red", "orange", "yellow", "green", "teal", "cyan", "blue", "purple", "pink", "brown", "black", "white", "grey",
    "gray", "beige", "gold", "silver", "violet", "turquoise",
)  # fmt: skip
_SAME = ({"grey", "gray"}, {"purple", "violet"}, {"cyan", "turquoise", "teal"})
"""Colours of which one is no mistake for the other."""
_OPPOSITES = {
    "to the left of": "to the right of", "left of": "right of", "on the left": "on the right", "above": "below",
    "in front of": "behind", "on top of": "under", "larger than": "smaller than", "bigger than": "smaller than",
    "inside": "outside",
}  # fmt: skip
RELATIONS = {**{b: a for a, b in _OPPOSITES.items()}, **_OPPOSITES, "beneath": "above", "underneath": "above"}
_TURNED = ("left of", "right of", "above", "below", "inside", "in front of", "behind", "on top of", "under",
           "larger than", "smaller than", "bigger than")  # fmt: skip
"""Between two things: with these exchanged the sentence says the opposite."""
_CLAUSE = re.compile(r"([,.;:])")


@dataclass(frozen=True, slots=True)
class Change:
    """A wrong caption; `old` and `new` are the words that differ."""

    text: str
    kind: str
    old: str
    new: str


def changes(text: str, kind: str) -> list[Change]:
    """Every way to make a caption wrong by one count, colour or relation; likely mistakes before wild ones.

    Raises:
        KeyError: another kind.
    """
    found = {"count": _counts, "colour": _colours, "relation": _relations}[kind](text)
    return list({change.text: change for change in found if change.text != text}.values())


def _counts(text: str) -> Iterator[Change]:
    places = list(_places(text, COUNTS))
    for distance in (1, -1, 2, -2, 3, -3):
        for start, end, word in places:
            other = COUNTS.index(word) + distance
            if 0 <= other < len(COUNTS):
                yield _replaced(text, start, end, COUNTS[other], "count")


def _colours(text: str) -> Iterator[Change]:
    places = list(_places(text, COLOURS))
    for a, b in pairwise(places):  # the mistake that models make most: whose colour is it
        if a[2] != b[2] and not _alike(a[2], b[2]):
            swapped = _replaced(text, b[0], b[1], a[2], "colour").text
            change = _replaced(swapped, a[0], a[1], b[2], "colour")
            yield Change(change.text, "colour", f"{a[2]} ... {b[2]}", f"{b[2]} ... {a[2]}")
    for shift in range(1, len(COLOURS)):
        for start, end, word in places:
            other = COLOURS[(COLOURS.index(word) + shift) % len(COLOURS)]
            if not _alike(word, other):
                yield _replaced(text, start, end, other, "colour")


def _relations(text: str) -> Iterator[Change]:
    parts = _CLAUSE.split(text)
    for number in range(0, len(parts), 2):
        for start, end, word in _places(parts[number], _TURNED):
            before, after = parts[number][:start].removesuffix(" to the ").strip(), parts[number][end:].strip()
            if before and after and before != after and " " in before and " " in after:
                middle = parts[number][len(parts[number][:start].removesuffix(" to the ").rstrip()) : end].strip()
                lead = " " if parts[number].startswith(" ") else ""
                turned = [*parts[:number], f"{lead}{after} {middle} {before}", *parts[number + 1 :]]
                yield Change("".join(turned), "relation", f"{before} {word} {after}", f"{after} {word} {before}")
    for start, end, word in _places(text, tuple(RELATIONS)):
        yield _replaced(text, start, end, RELATIONS[word], "relation")


def _places(text: str, words: tuple[str, ...]) -> Iterator[tuple[int, int, str]]:
    longest_first = "|".join(sorted(map(re.escape, words), key=len, reverse=True))
    for match in re.finditer(rf"\b({longest_first})\b", text, re.IGNORECASE):
        yield match.start(), match.end(), match.group().lower()


def _alike(a: str, b: str) -> bool:
    return a == b or any({a, b} <= same for same in _SAME)


def _replaced(text: str, start: int, end: int, new: str, kind: str) -> Change:
    """With the article that the new word needs."""
    old = text[start:end]
    before = text[:start]
    article = re.search(r"\b(an?)\s$", before, re.IGNORECASE)
    if article:
        right = "an" if new[0] in "aeiou" else "a"
        right = right.capitalize() if article.group(1)[0].isupper() else right
        before = before[: article.start()] + right + " "
    word = new.capitalize() if old[:1].isupper() else new
    return Change(before + word + text[end:], kind, old, new)

"""Read English searches and edits into claims, so that a hit can be checked against the truth."""

from __future__ import annotations

import re
from typing import Final

from .edit import Edit, EditError
from .lexicon import NOUNS, NUMBERS
from .query import Claim, Query, Relation
from .relations import RELATIONS
from .vocabulary import BACKGROUNDS, COLOURS, SHAPES, SIZES, STYLES, TEXTURES

_NOUNS: Final[dict[str, str | None]] = (
    {NOUNS["en"][shape].one: shape for shape in SHAPES}
    | {NOUNS["en"][shape].many: shape for shape in SHAPES}
    | dict.fromkeys(("shape", "shapes", "thing", "things", "object", "objects", "something", "one"))
    | {"crescent": "moon", "rhombus": "diamond", "plus": "cross"}
)
_ADJECTIVES: Final[dict[str, tuple[str, str]]] = (
    {word: ("colour", word) for word in COLOURS}
    | {word: ("size", word) for word in SIZES}
    | {word: ("texture", word) for word in TEXTURES}
    | {"big": ("size", "large"), "little": ("size", "small"), "tiny": ("size", "small")}
    | {"spotted": ("texture", "dotted"), "stripy": ("texture", "striped"), "violet": ("colour", "purple")}
)
_COUNTS: Final = {word: n for n, word in enumerate(NUMBERS["en"])} | {"without": 0}
_ARTICLES: Final = ("a", "an", "the")
_BACKGROUND: Final = re.compile(rf"\b(?:on|with|over) (?:a |an |the )?({'|'.join(BACKGROUNDS)}) background\b")
_WORD: Final = re.compile(r"\b(?:(?:with |and )?the word|that says|saying)[ \"']+(\w+)\"?")
_STYLE: Final = re.compile(rf"\b(?:as|in) (?:a |an )?({'|'.join(STYLES)})(?: colours| style)?\b")
_RELATION: Final = re.compile(rf"\s(?:to the )?({'|'.join(RELATIONS)})\s")
_CLAUSE: Final = re.compile(r"[,:;.]| and | with ")


def parse(text: str) -> Query | None:
    """The claims of an English text in (roughly) the caption grammar; ``None`` where it names nothing of this world."""
    rest = " ".join(text.lower().split())
    found: dict[str, str | None] = {}
    for name, pattern in (("background", _BACKGROUND), ("word", _WORD), ("style", _STYLE)):
        match = pattern.search(rest)
        found[name] = match.group(1) if match else None
        rest = pattern.sub(",", rest)
    claims: list[Claim] = []
    relation: Relation | None = None
    for clause in _CLAUSE.split(rest):
        parts = _RELATION.split(f" {clause} ", maxsplit=1)
        if len(parts) == 3 and (subject := _claims(parts[0])) and (object_ := _claims(parts[2])):
            relation = Relation(subject[-1], parts[1], object_[0])
            claims += [*subject[:-1], *object_[1:]]
        else:
            claims += _claims(clause)
    query = Query(tuple(claims), relation, found["background"], found["word"], found["style"])
    return None if query == Query() else query


def parse_edit(text: str) -> Edit:
    """The edit that English words name: "make the circle blue", "add a star", "without the square",
    "turn the star into a red ring", "swap the star and the ring".

    Raises ``EditError`` where the words name none.
    """
    words = " ".join(text.lower().rstrip(".! ").split())
    if match := re.fullmatch(r"(?:add|with) (.+)", words):
        return Edit("add", None, _one(match.group(1), text))
    if match := re.fullmatch(r"(?:without|remove|delete) (.+)", words):
        return Edit("remove", _one(match.group(1), text))
    if match := re.fullmatch(r"swap (.+) (?:and|with) (.+)", words):
        return Edit("swap", _one(match.group(1), text), _one(match.group(2), text))
    if match := re.fullmatch(r"(?:turn|change) (.+) (?:into|to) (.+)", words):
        return Edit("change", _one(match.group(1), text), _one(match.group(2), text))
    if match := re.fullmatch(rf"(?:make|paint) (.+? (?:{'|'.join(filter(None, _NOUNS))})) (.+)", words):
        return Edit("change", _one(match.group(1), text), _one(match.group(2), text))
    raise EditError(f"cannot read the edit {text!r}; write for example 'make the circle blue' or 'add a red star'")


def _one(words: str, text: str) -> Claim:
    claims = _claims(words)
    if len(claims) != 1:
        raise EditError(f"{words!r} in the edit {text!r} names {len(claims)} things, need one")
    return claims[0]


def _claims(clause: str) -> list[Claim]:
    """The claims in a clause: attributes gather until a noun closes them, or the end."""
    claims: list[Claim] = []
    given: dict[str, str] = {}
    count: int | None = None
    for word in re.findall(r"\w+", clause):
        if word in _ARTICLES:
            count = count if count == 0 else None
        elif word in _ADJECTIVES:
            name, value = _ADJECTIVES[word]
            given[name] = value
        elif word in _NOUNS and not (word == "one" and not given):
            shape = _NOUNS[word]
            if given or shape is not None or count is not None:
                claims.append(Claim(shape=shape, count=count, **given))
            given, count = {}, None
        elif word in _COUNTS:
            count = _COUNTS[word]
    if given:
        claims.append(Claim(count=count, **given))
    return claims

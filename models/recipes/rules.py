"""The built-in fuser: a caption and findings become one caption by rules, without any model.

Things that the caption does not name yet are appended with their number ("two red circles"); a part of the caption that
says less than a finding ("a circle", where a red one was found) gives way to it; attributes go to the thing that the
caption names; words that were read are quoted last. The caption's other parts stay as they are, also where a finding
speaks against them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from models.experts.finding import Finding

VERSION: Final = "rules@1"
_NUMBERS: Final = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_ARTICLES: Final = frozenset({"a", "an", "the", "one"})
_DETERMINER: Final = re.compile(rf"\b(?:a|an|the|\d+|{'|'.join(_NUMBERS)})\b")
_BREAK: Final = re.compile(r"\s*[,:;]\s*|\.\s+|\.$")
_MOST_WORDS: Final = 10
_LONGEST_WORDS: Final = 100


def fuse(caption: str, findings: Sequence[Finding]) -> str:
    """One caption in English. With no findings it is the caption."""
    parts = [part for part in _BREAK.split(" ".join(caption.split())) if part]
    fresh = []
    groups = _groups(findings)
    for label, count, attributes in groups:
        alone = sum(other == label for other, _, _ in groups) == 1
        parts, named = _with_attributes(parts, label, count, attributes, alone)
        if named:
            continue
        parts = [part for part in parts if not _says_less(part, label)]
        fresh.append(_phrase(label, count, attributes))
    read = " ".join(parts).lower()
    words = [one.label[:_LONGEST_WORDS] for one in findings if one.kind == "word" and one.label.lower() not in read]
    fused = ", ".join([*parts, *fresh, *([_quoted(words[:_MOST_WORDS])] if words else [])])
    colours = [one.label for one in findings if one.kind == "colour" and one.label not in fused.split()]
    return fused + (f", in {' and '.join(colours[:3])}" if colours else "")


def _groups(findings: Sequence[Finding]) -> list[tuple[str, int, tuple[str, ...]]]:
    """(label, how many, attributes that all of them have) of the things, surest first."""
    attributes: dict[tuple[float, ...], list[str]] = defaultdict(list)
    for one in findings:
        if one.kind == "attribute":
            attributes[one.box].append(one.label)
    counts: dict[tuple[str, tuple[str, ...]], int] = defaultdict(int)
    for one in findings:
        if one.kind == "thing":
            counts[one.label.lower(), tuple(attributes[one.box])] += 1
    return [(label, count, given) for (label, given), count in counts.items()]


def _with_attributes(
    parts: list[str], label: str, count: int, attributes: tuple[str, ...], alone: bool
) -> tuple[list[str], bool]:
    """(the parts, with the attributes put before the label where they lack; whether the thing is named there).

    `alone`: no other thing has the label, so that every mention is of this one.
    """
    number = "" if count == 1 else rf"\b{_number(count)} (?:\w+ )*?"
    mention = re.compile(rf"{number}\b{re.escape(label if count == 1 else plural(label))}\b", re.IGNORECASE)
    if not any(mention.search(part) for part in parts):
        return parts, False
    if not alone:
        return parts, True
    told = [mention.sub(lambda found: _told(found, label, attributes), part) for part in parts]
    return [part if part == new else _mended(new) for part, new in zip(parts, told, strict=True)], True


def _told(found: re.Match[str], label: str, attributes: tuple[str, ...]) -> str:
    """A mention with the attributes that neither it nor the adjectives before it have."""
    before = _DETERMINER.split(found.string[: found.start()])[-1]
    said = f"{before} {found[0]}".lower().split()
    lacking = "".join(f"{word} " for word in attributes if word.lower() not in said)
    at = found[0].lower().rindex(label.split(maxsplit=1)[0])
    return found[0][:at] + lacking + found[0][at:]


def _mended(part: str) -> str:
    """The part with the articles that its words want, as far as letters tell."""
    return re.sub(r"\ban? (?=([aeio])?)", lambda found: "an " if found[1] else "a ", part)


def _says_less(part: str, label: str) -> bool:
    """Whether a part names nothing but the thing, or some of its words: "a circle" beside "red circle"."""
    words = [word for word in part.lower().split() if word not in _ARTICLES]
    return bool(words) and set(words) <= {*label.split(), "shape", "thing", "object"} and len(words) < len(part.split())


def _phrase(label: str, count: int, attributes: tuple[str, ...]) -> str:
    words = " ".join([*attributes, label if count == 1 else plural(label)])
    if count > 1:
        return f"{_number(count)} {words}"
    return f"{'an' if words[0] in 'aeio' else 'a'} {words}"


def _number(count: int) -> str:
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)


def plural(label: str) -> str:
    """The plural of an English noun phrase, by the common endings."""
    if re.search(r"(s|x|z|ch|sh)$", label):
        return label + "es"
    if re.search(r"[^aeiou]y$", label):
        return label[:-1] + "ies"
    return {"person": "people"}.get(label, label + "s")


def _quoted(words: list[str]) -> str:
    if len(words) == 1 and words[0].isalnum():
        return f"with the word {words[0]}"
    return "with the words " + " ".join(f'"{word}"' for word in words)

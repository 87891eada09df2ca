"""MetaCLIP's balancing of a training set by the entries that its captions name (Xu et al. 2024, arXiv 2309.16671).

A caption matches an entry that stands in it as whole words. Of n captions that match an entry each passes with the
probability min(1, t / n), for each of its entries apart, and is kept if it passes for one: rare entries keep all that
they have, and common ones about t each. The paper throws coins; here the coin is a hash of the content, the entry and a
seed, so that a part of the work that is done again keeps the same.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from sightline.errors import UsageError

_PUNCTUATION = re.compile(r"([,.;:?!`])")


class Entries:
    """The words and phrases that a training set is balanced by.

    Args:
        phrases: each as it stands in captions; case matters, as in the paper.
    """

    def __init__(self, phrases: Iterable[str]) -> None:
        self._phrases = {" ".join(words) for phrase in phrases if (words := _words(phrase))}
        self._longest = max((phrase.count(" ") + 1 for phrase in self._phrases), default=0)

    @classmethod
    def read(cls, path: Path) -> Entries:
        """One entry a line.

        Raises:
            UsageError: it cannot be read, or has no entries.
        """
        try:
            made = cls(path.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} cannot be read: {error}") from error
        if not made:
            raise UsageError(f"{path} has no entries: it holds one a line")
        return made

    def __len__(self) -> int:
        return len(self._phrases)

    @property
    def digest(self) -> str:
        """Of all entries, in whatever order they were given."""
        return hashlib.sha256("\n".join(sorted(self._phrases)).encode()).hexdigest()

    def of(self, text: str) -> set[str]:
        """The entries that a text names; punctuation stands apart, and any white space is one space."""
        words = _words(text)
        spans = (
            " ".join(words[start : start + length])
            for length in range(1, min(self._longest, len(words)) + 1)
            for start in range(len(words) - length + 1)
        )
        return self._phrases.intersection(spans)


class Balance:
    """Which captions stay.

    Args:
        entries: what to balance by.
        counts: how many captions of the whole set match each entry.
        most: t, about how many a common entry keeps.
        seed: another one keeps others.
    """

    def __init__(self, entries: Entries, counts: Mapping[str, int], most: int, seed: str) -> None:
        self._entries, self._counts, self._most, self._seed = entries, counts, most, seed

    def keeps(self, key: str, text: str) -> bool:
        """Whether a caption of the content `key` stays; one that matches no entry does not."""
        return any(
            coin(key, entry, self._seed) * self._counts.get(entry, 1) < self._most for entry in self._entries.of(text)
        )

    def probability(self, text: str) -> float:
        """That a caption of these words stays: 1 - the product over its entries of 1 - min(1, t / n)."""
        missed = 1.0
        for entry in self._entries.of(text):
            missed *= 1 - min(1.0, self._most / self._counts.get(entry, 1))
        return 1 - missed


def count_entries(entries: Entries, texts: Iterable[str]) -> Counter[str]:
    """How many texts match each entry."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(entries.of(text))
    return counts


def coin(key: str, entry: str, seed: str) -> float:
    """A number in [0, 1) that key, entry and seed decide."""
    told = "\0".join((seed, entry, key)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest()) / 2**64


def _words(text: str) -> list[str]:
    return _PUNCTUATION.sub(r" \1 ", text).split()

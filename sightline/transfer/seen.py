"""Which of very many ids were given before, in eight bytes each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


class Seen:
    """Remembers ids by 64 bits of their hash: ten million take 80 MB, a Python set of them more than a gigabyte.

    Two ids of ten million share a hash with a probability of 3 in a million; whoever asks checks hits otherwise.
    """

    def __init__(self) -> None:
        self._sorted: list[np.ndarray] = []  # of uint64; each is larger than all after it

    def add(self, ids: Sequence[str]) -> list[bool]:
        """Remember ids, and say of each whether one of its hash was added by an earlier call."""
        hashes = np.array([_hash(one) for one in ids], np.uint64)
        known = np.zeros(len(hashes), bool)
        for block in self._sorted:
            places = np.minimum(np.searchsorted(block, hashes), len(block) - 1)
            known |= block[places] == hashes
        block = np.unique(hashes)
        while self._sorted and len(self._sorted[-1]) <= len(block):
            block = np.sort(np.concatenate([self._sorted.pop(), block]))
        if len(block):
            self._sorted.append(block)
        return [bool(one) for one in known]


def _hash(one: str) -> int:
    return int.from_bytes(hashlib.blake2b(one.encode("utf-8", "surrogatepass"), digest_size=8).digest())

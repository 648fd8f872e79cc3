"""Where the lines of kept answers lie, by the first bits of their keys."""

from __future__ import annotations

import numpy as np

#: Number of the file, first byte, bytes.
Place = tuple[int, int, int]


def hash_of(key: bytes | str) -> int:
    """The first 64 bits of a key, which the index goes by."""
    return int(key[:16], 16)


class Index:
    """Where lines lie, by hash: sorted arrays (32 bytes an answer), a dictionary of the last."""

    def __init__(self) -> None:
        self.hashes = np.empty(0, np.uint64)
        self.places = np.empty((0, 3), np.int64)
        self.recent: dict[int, list[Place]] = {}
        self.count = 0

    def add(self, hashed: int, place: Place) -> None:
        """Note that a line of this hash lies at ``place``."""
        self.recent.setdefault(hashed, []).append(place)
        self.count += 1
        if len(self.recent) >= 100_000:
            self._merge()

    def _merge(self) -> None:
        flat = [(h, place) for h, places in self.recent.items() for place in places]
        hashes = np.concatenate([self.hashes, np.array([h for h, _ in flat], np.uint64)])
        places = np.concatenate([self.places, np.array([p for _, p in flat], np.int64)])
        order = np.argsort(hashes, kind="stable")
        self.hashes, self.places = hashes[order], places[order]
        self.recent = {}

    def find(self, hashed: int) -> list[Place]:
        """Where lines of this hash lie."""
        first, last = (
            int(np.searchsorted(self.hashes, np.uint64(hashed), side=side))
            for side in ("left", "right")
        )
        old = [(int(a), int(b), int(c)) for a, b, c in self.places[first:last]]
        return old + self.recent.get(hashed, [])

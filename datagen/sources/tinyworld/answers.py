"""Which items of a collection a reference and a text ask for, out of all of them.

Asking the oracle about every item is exact and slow. Here a text is read once for its reference,
and what it makes of that is looked up: the answers are those of :func:`oracle.says`, to the item.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import numpy as np

from datagen.sources.tinyworld import oracle
from datagen.sources.tinyworld.events import Clip, Shown, scene_of
from datagen.sources.tinyworld.oracle import Outcome
from datagen.sources.tinyworld.scene import ATTRIBUTES, BACKGROUNDS, VALUES, Thing

Array = np.ndarray[Any, Any]

#: Every value of every attribute of a thing has a column of its own.
_PLACES = {
    (name, value): at
    for at, (name, value) in enumerate((n, v) for n in ATTRIBUTES for v in VALUES[n])
}
_FIELDS = tuple(Thing.__dataclass_fields__)


class Collection:
    """Images and clips to choose from, by their place in ``shown`` (None: of no known content)."""

    def __init__(self, shown: Sequence[Shown | None]) -> None:
        self.shown = shown
        self._with_thing: dict[tuple[Any, ...], set[int]] = defaultdict(set)
        self._of_kind: dict[tuple[bool, str, int], set[int]] = defaultdict(set)
        self._clips = np.array([isinstance(what, Clip) for what in shown], bool)
        self._grounds = np.full(len(shown), -1, np.int8)
        self._values = np.zeros((len(shown), len(_PLACES)), np.int16)
        for at, what in enumerate(shown):
            if what is not None:
                self._add(at, what)
        self._sizes = self._values[:, : len(VALUES[ATTRIBUTES[0]])].sum(axis=1, dtype=np.int16)

    def _add(self, at: int, what: Shown) -> None:
        scene = scene_of(what)
        self._of_kind[isinstance(what, Clip), scene.background, len(scene.objects)].add(at)
        self._grounds[at] = BACKGROUNDS.index(scene.background)
        for thing in scene.objects:
            self._with_thing[astuple(thing)].add(at)
            for name in ATTRIBUTES:
                self._values[at, _PLACES[name, getattr(thing, name)]] += 1

    def answers(self, text: str, reference: Shown) -> list[int]:
        """Places of all that the text leads to from the reference, in order."""
        found: set[int] = set()
        for clip in (False, True):
            for outcome in oracle.outcomes(text, reference, clip):
                found |= self._reached(outcome, clip)
        return sorted(found)

    def _reached(self, outcome: Outcome, clip: bool) -> set[int]:
        able = self._of_kind.get((clip, outcome.ground, len(outcome.things)), set())
        for told in outcome.things:
            if set(_FIELDS) <= set(told):
                able = able & self._with_thing.get(tuple(told[name] for name in _FIELDS), set())
        return {at for at in able if oracle.reached(outcome, self._at(at))}

    def _at(self, at: int) -> Shown:
        what = self.shown[at]
        assert what is not None
        return what

    def distance(self, text: str, reference: Shown, target: Shown) -> int | None:
        """How far the target is from what the text asks for (:func:`oracle.distance`, read in the
        way that suits it best); None where the text has no meaning for the reference."""
        found = oracle.outcomes(text, reference, isinstance(target, Clip))
        return min((oracle.distance(one, target) for one in found), default=None)

    def any_nearer(self, text: str, reference: Shown, than: int, but: frozenset[int]) -> bool:
        """Whether any but the places ``but`` is less than ``than`` from what the text asks for."""
        for clip in (False, True):
            for outcome in oracle.outcomes(text, reference, clip):
                bounds = self._least(outcome)
                for at in np.flatnonzero((bounds < than) & (self._clips == clip)).tolist():
                    if at not in but and oracle.distance(outcome, self._at(at)) < than:
                        return True
        return False

    def _least(self, outcome: Outcome) -> Array:
        """A lower bound of the distance of every item: as if attributes could change places.

        An item with as many things needs a change for every value that is told more often than it
        has it; each thing that is too many or lacks costs 3 and may bring any value.
        """
        told = np.zeros(len(_PLACES), np.int16)
        for thing in outcome.things:
            for name, value in thing.items():
                if name != "event":
                    place = _PLACES.get((name, value))
                    # A value that this world does not have differs from all of them.
                    if place is not None:
                        told[place] += 1
        lacking = np.maximum(told - self._values, 0).sum(axis=1)
        uneven = np.abs(len(outcome.things) - self._sizes)
        free = len(ATTRIBUTES) * np.maximum(len(outcome.things) - self._sizes, 0)
        ground = BACKGROUNDS.index(outcome.ground) if outcome.ground in BACKGROUNDS else -2
        bounds = np.maximum(lacking - free, 0) + 3 * uneven + (self._grounds != ground)
        return np.where(self._grounds < 0, np.iinfo(np.int16).max, bounds)

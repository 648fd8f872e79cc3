"""What a training could not use, over all of its processes and all stops."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from datagen.training.across import Ranks
from datagen.training.loader import Loader

#: What may be left out: a sample, or a member of one alone.
KINDS = ("members", "samples")
#: By kind and rule: how often, and the first.
Tally = dict[str, dict[str, tuple[int, str]]]


class LeftOut:
    """Adds up what the loaders of all processes leave out, and what was before a stop."""

    def __init__(self, loader: Loader, ranks: Ranks, device: Any) -> None:
        self.loader, self.ranks, self.device = loader, ranks, device
        self.before: Tally = _added([])

    def tally(self) -> Tally:
        """What was left out so far. All processes call it together."""
        own = json.dumps(_own(self.loader))
        parts = [json.loads(one) for one in self.ranks.texts([own], self.device)]
        return _added([self.before, *parts])

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`tally`."""
        self.before = _added([state])


def counts(tally: Tally) -> dict[str, dict[str, int]]:
    """How often what was left out, by kind and rule."""
    return {kind: {rule: one[0] for rule, one in tally[kind].items()} for kind in KINDS}


def lines(tally: Tally) -> list[str]:
    """A line for each kind and rule, with the first."""
    return [
        f"{kind} left out {'once' if count == 1 else f'{count:,} times'}: {rule}"
        + (f" (first: {first})" if first else "")
        for kind in KINDS
        for rule, (count, first) in tally[kind].items()
    ]


def _own(loader: Loader) -> Tally:
    out: Tally = {kind: {} for kind in KINDS}
    for rule, count in loader.counts.items():
        lost = loader.lost[rule]
        for kind, own in (("members", count - lost), ("samples", lost)):
            if own:
                out[kind][rule] = (own, _first(loader, rule, kind == "samples"))
    return out


def _first(loader: Loader, rule: str, lost: bool) -> str:
    one = next((one for one in loader.faults if (one.rule, one.lost) == (rule, lost)), None)
    told = "" if one is None else f"{one.member} of {one.key} in {one.shard}, {one.detail}"
    return " ".join(told.split())[:300]


def _added(parts: Sequence[Mapping[str, Any]]) -> Tally:
    out: Tally = {kind: {} for kind in KINDS}
    for part in parts:
        for kind, of_kind in part.items():
            for rule, (count, first) in of_kind.items():
                had = out[kind].get(rule, (0, ""))
                out[kind][rule] = (had[0] + count, had[1] or first)
    return {kind: dict(sorted(own.items())) for kind, own in out.items()}

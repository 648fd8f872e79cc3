"""From a place in an epoch to a sample: what is drawn and read, and what is broken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datagen.training.augment import Eye
from datagen.training.making import Making
from datagen.training.sample import (
    CAPTION,
    COMPOSED,
    IMAGE_ONLY,
    KINDS,
    TEXT_ONLY,
    Choices,
    Chunk,
    Drawn,
    Fault,
    Lost,
    Other,
    Place,
    Sample,
    Ticket,
    number_of,
)
from datagen.training.shard_index import JSON, NEGATIVE, REFERENCE, TARGET
from datagen.training.triplets import Entry, Triplets

__all__ = [
    "CAPTION",
    "COMPOSED",
    "IMAGE_ONLY",
    "KINDS",
    "TEXT_ONLY",
    "Choices",
    "Chunk",
    "Fault",
    "Maker",
    "Sample",
    "Ticket",
    "number_of",
]


class Maker:
    """Makes chunks of samples. It pickles, and works in any process.

    runs, names, eyes: of each run its triplets, its name and how its media become pixels.
    """

    def __init__(
        self, runs: Sequence[Triplets], names: Sequence[str], eyes: Sequence[Eye], choices: Choices
    ) -> None:
        self.runs, self.names, self.eyes, self.choices = runs, names, eyes, choices

    def chunk(self, ticket: Ticket) -> Chunk:
        """The samples of ``ticket``. What is drawn for one hangs on seed, epoch and place alone.

        A sample that is broken is left out, and a spare one stands in while there are any.
        Raises DatagenError where a shard cannot be read.
        """
        made, waiting, spares = Chunk(), list(ticket.rows), list(ticket.spares)
        # Augmented media are drawn anew for each sample; plain ones are the same for all.
        shared: dict[tuple[int, str], int] | None = {} if self._plain else None
        while waiting:
            drawn = [self._draw(ticket, *map(int, place)) for place in waiting]
            others = self._read_others(drawn)
            lost = 0
            by_run: dict[int, list[int]] = {}
            for at, one in enumerate(drawn):
                by_run.setdefault(one.run, []).append(at)
            held: dict[int, dict[tuple[int, int], bytes]] = {}
            for run, places in by_run.items():
                asked = [(drawn[at].entry, drawn[at].wanted) for at in places]
                held.update(zip(places, self.runs[run].read_many(asked), strict=True))
            for at, one in enumerate(drawn):
                try:
                    made.samples.append(Making(self, made, one, held[at], shared, others).sample())
                except Lost as error:
                    self.fault(made, one.run, one.entry, error.args, lost=True)
                    lost += 1
            waiting, spares = spares[:lost], spares[lost:]
        return made

    def _read_others(self, drawn: Sequence[Drawn]) -> dict[Place, Other]:
        """The bytes of other triplets' media, and of what is told of them."""
        places = sorted({place for one in drawn for place in one.others})
        out: dict[Place, Other] = {}
        for run in sorted({place[0] for place in places}):
            own = [place for place in places if place[0] == run]
            entries = [self.runs[run].entry(row) for _, row, _, _ in own]
            asked = [
                (entry, [(role, number), (JSON, 0)])
                for entry, (_, _, role, number) in zip(entries, own, strict=True)
            ]
            read = self.runs[run].read_many(asked)
            out.update(zip(own, zip(entries, read, strict=True), strict=True))
        return out

    @property
    def _plain(self) -> bool:
        return all(eye.augmentation is None for eye in self.eyes)

    def fault(
        self, made: Chunk, run: int, entry: Entry, about: tuple[str, str, str], lost: bool = False
    ) -> None:
        """Note what is broken in a triplet: member, rule and detail."""
        member, rule, detail = about
        made.faults.append(
            Fault(self.names[run], entry.path, entry.key, member, rule, detail, lost)
        )

    def _draw(self, ticket: Ticket, run: int, row: int, target: int, place: int) -> Drawn:
        chosen, entry = self.choices, self.runs[run].entry(row)
        random = np.random.default_rng([chosen.seed, ticket.epoch, place])
        kind = self._kind(float(random.random()))
        pictured = entry.numbers(REFERENCE)
        if chosen.media and not pictured and kind in (COMPOSED, IMAGE_ONLY):
            kind = TEXT_ONLY
        targets = self._targets(entry, target, random)
        negatives = self._negatives(entry, random) if kind == COMPOSED else []
        out = Drawn(run, place, entry, random, kind, targets, negatives, media=chosen.media)
        others = (ticket.others or {}).get((run, row), ()) if kind == COMPOSED else ()
        if len(others):
            some = random.choice(len(others), min(ticket.draw, len(others)), replace=False)
            out.others = [tuple(others[at].tolist()) for at in sorted(some)]
        return out

    def _kind(self, chance: float) -> int:
        for kind, rate in (
            (IMAGE_ONLY, self.choices.image_only),
            (TEXT_ONLY, self.choices.text_only),
            (CAPTION, self.choices.captions),
        ):
            if chance < rate:
                return kind
            chance -= rate
        return COMPOSED

    def _targets(self, entry: Entry, target: int, random: np.random.Generator) -> list[int]:
        known = entry.numbers(TARGET) or list(range(len(entry.targets)))
        if self.choices.targets == "one":
            return [target if target >= 0 else known[int(random.integers(len(known)))]]
        most = self.choices.most_targets
        if len(known) <= most:
            return known
        # The one that the epoch goes through is always there.
        rest = [number for number in known if number != target]
        held = [target] if target in known else []
        drawn = random.choice(len(rest), most - len(held), replace=False)
        return sorted([*held, *(rest[int(at)] for at in drawn)])

    def _negatives(self, entry: Entry, random: np.random.Generator) -> list[int]:
        """Numbers of the wanted negatives; the reference stays among them where it is one."""
        right = set(entry.targets)
        known = [n for n in entry.numbers(NEGATIVE) if entry.item(NEGATIVE, n) not in right]
        most = self.choices.negatives
        if len(known) <= most or not self.choices.draw_negatives:
            return known[:most]
        own = {entry.item(REFERENCE, number) for number in entry.numbers(REFERENCE)}
        first = [number for number in known if entry.item(NEGATIVE, number) in own][:most]
        rest = [number for number in known if number not in first]
        drawn = random.choice(len(rest), most - len(first), replace=False)
        return first + sorted(rest[int(at)] for at in drawn)

"""From a place in an epoch to a sample: what is drawn, read and decoded, and what is broken."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from datagen.media import MediaError
from datagen.training.augment import Eye
from datagen.training.shard_index import JSON, NEGATIVE, REFERENCE, ROLES, TARGET, TEXT, VECTOR
from datagen.training.triplets import Entry, Triplets, vector

Array = np.ndarray[Any, Any]

#: What a query is made of: reference and text, the reference alone, the text alone, or the
#: target's caption alone.
KINDS = ("composed", "image", "text", "caption")
COMPOSED, IMAGE_ONLY, TEXT_ONLY, CAPTION = range(len(KINDS))

_LISTS = {REFERENCE: "references", TARGET: "targets", NEGATIVE: "negatives"}
_MEDIA = tuple(_LISTS)


@dataclass(frozen=True)
class Choices:
    """What a sample is made of; as the fields of the same names of
    :class:`datagen.training.loader.LoaderSettings`."""

    targets: Literal["one", "all"] = "one"
    most_targets: int = 8
    negatives: int = 0
    draw_negatives: bool = True
    image_only: float = 0.0
    text_only: float = 0.0
    captions: float = 0.0
    keep: tuple[str, ...] = ()
    seed: int = 0


class Ticket(NamedTuple):
    """What a worker is asked for: ``rows`` int64 (n, 4) of run, row, target (-1: any) and place in
    the epoch; ``spares``: the same, of samples that step in for broken ones."""

    epoch: int
    rows: Array
    spares: Array


class Fault(NamedTuple):
    """What could not be used: of which run, shard and triplet which member, and why.

    lost: whether the whole sample went with it.
    """

    run: str
    shard: str
    key: str
    member: str
    rule: str
    detail: str
    lost: bool


@dataclass
class Sample:
    """One query and what it should find. Numbers are those of media in the chunk."""

    run: int
    place: int
    key: str
    pair: str
    kind: int
    text: str | None = None
    caption: str | None = None
    references: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    negatives: list[int] = field(default_factory=list)
    target_ids: list[str] = field(default_factory=list)
    vector: Array | None = None
    json: dict[str, Any] = field(default_factory=dict)


@dataclass
class Chunk:
    """Samples that one worker made together.

    pictures: of each medium uint8 (frames, height, width, 3); items: the id of each medium's item.
    """

    samples: list[Sample] = field(default_factory=list)
    pictures: list[Array] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def number_of(name: str) -> int:
    """An id as a number of 64 bits, the same everywhere; 0 stands for none."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


class _Lost(Exception):
    """A sample or a member that cannot be made: (member, rule, detail)."""

    args: tuple[str, str, str]


@dataclass
class _Drawn:
    """A sample before its bytes: where it lies, and what of it is wanted."""

    run: int
    place: int
    entry: Entry
    random: np.random.Generator
    kind: int
    targets: list[int]
    negatives: list[int]

    @property
    def wanted(self) -> list[tuple[int, int]]:
        """Members to read."""
        known = self.entry
        queried = self.kind in (COMPOSED, IMAGE_ONLY, CAPTION)
        return [
            *((REFERENCE, number) for number in known.numbers(REFERENCE) if queried),
            *((TARGET, number) for number in self.targets if (TARGET, number) in known.members),
            *((NEGATIVE, number) for number in self.negatives),
            *((role, 0) for role in (TEXT, JSON, VECTOR) if (role, 0) in known.members),
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
            drawn = [self._draw(ticket.epoch, *map(int, place)) for place in waiting]
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
                    made.samples.append(_Making(self, made, one, held[at], shared).sample())
                except _Lost as error:
                    self.fault(made, one, error.args, lost=True)
                    lost += 1
            waiting, spares = spares[:lost], spares[lost:]
        return made

    @property
    def _plain(self) -> bool:
        return all(eye.augmentation is None for eye in self.eyes)

    def fault(
        self, made: Chunk, one: _Drawn, about: tuple[str, str, str], lost: bool = False
    ) -> None:
        """Note what is broken: member, rule and detail."""
        member, rule, detail = about
        made.faults.append(
            Fault(self.names[one.run], one.entry.path, one.entry.key, member, rule, detail, lost)
        )

    def _draw(self, epoch: int, run: int, row: int, target: int, place: int) -> _Drawn:
        chosen, entry = self.choices, self.runs[run].entry(row)
        random = np.random.default_rng([chosen.seed, epoch, place])
        kind = self._kind(float(random.random()))
        pictured = entry.numbers(REFERENCE)
        if not pictured and kind in (COMPOSED, IMAGE_ONLY):
            kind = TEXT_ONLY
        targets = self._targets(entry, target, random)
        negatives = self._negatives(entry, random) if kind == COMPOSED else []
        return _Drawn(run, place, entry, random, kind, targets, negatives)

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


class _Making:
    """Makes one sample of its bytes."""

    def __init__(
        self,
        maker: Maker,
        made: Chunk,
        drawn: _Drawn,
        data: Mapping[tuple[int, int], bytes],
        shared: dict[tuple[int, str], int] | None,
    ) -> None:
        self.maker, self.made, self.drawn, self.data = maker, made, drawn, data
        self.shared: dict[tuple[int, str], int] = {} if shared is None else shared
        # Media of a sample that is lost in the end must not stay.
        self.own: dict[tuple[int, str], int] = {}
        self.new: list[Array] = []

    def sample(self) -> Sample:
        """Raises :class:`_Lost`."""
        drawn, entry, chosen = self.drawn, self.drawn.entry, self.maker.choices
        about = self._about()
        one = Sample(drawn.run, drawn.place, entry.key, entry.pair, drawn.kind)
        one.caption = _caption(about, drawn.targets[0])
        if one.kind == CAPTION and not one.caption:
            one.kind = COMPOSED if entry.numbers(REFERENCE) else TEXT_ONLY
        if one.kind in (COMPOSED, TEXT_ONLY):
            one.text = self.data[TEXT, 0].decode(errors="replace")
        elif one.kind == CAPTION:
            one.text = one.caption
        if one.kind in (COMPOSED, IMAGE_ONLY):
            one.references = [
                self._medium(REFERENCE, number, about) for number in entry.numbers(REFERENCE)
            ]
        self._find_targets(one, about)
        for number in drawn.negatives:
            try:
                one.negatives.append(self._medium(NEGATIVE, number, about))
            except _Lost as error:
                self.maker.fault(self.made, drawn, error.args)
        one.json = {name: about.get(name) for name in chosen.keep}
        self.made.items.extend(item for _, item in self.own)
        self.made.pictures.extend(self.new)
        self.shared.update(self.own)
        return one

    def _about(self) -> Mapping[str, Any]:
        try:
            about = json.loads(self.data[JSON, 0])
            return about if isinstance(about, dict) else {}
        except (ValueError, RecursionError) as error:
            raise _Lost("json", "broken_json", str(error)) from error

    def _find_targets(self, one: Sample, about: Mapping[str, Any]) -> None:
        """Targets that can be seen, and the vector that stands for one that cannot."""
        drawn, faults = self.drawn, []
        if (VECTOR, 0) in self.data:
            try:
                one.vector = vector(self.data[VECTOR, 0])
            except ValueError as error:
                faults.append(("target.npy", "broken_vector", str(error)))
        for number in drawn.targets:
            if (TARGET, number) not in self.data:
                continue
            try:
                one.targets.append(self._medium(TARGET, number, about))
                one.target_ids.append(drawn.entry.targets[number])
            except _Lost as error:
                faults.append(error.args)
        if not one.targets and one.vector is None:
            raise _Lost(*(faults[0] if faults else ("target", "no_target", "no medium, no vector")))
        if not one.targets:
            one.target_ids = [drawn.entry.targets[drawn.targets[0]]]
        for fault in faults:
            self.maker.fault(self.made, drawn, fault)

    def _medium(self, role: int, number: int, about: Mapping[str, Any]) -> int:
        """The number of a medium in the chunk, decoded unless it is there. Raises _Lost."""
        entry, run = self.drawn.entry, self.drawn.run
        item = entry.item(role, number)
        name = (run, item or f"{entry.key}.{role}.{number}")
        there = self.shared.get(name, self.own.get(name))
        if there is not None:
            return there
        try:
            told = about[_LISTS[role]][number]["media"]
        except (KeyError, IndexError, TypeError):
            told = None
        try:
            pictures = self.maker.eyes[run].pictures(
                self.data[role, number], told if isinstance(told, dict) else {}, self.drawn.random
            )
        except MediaError as error:
            raise _Lost(f"{ROLES[role]}.{number}", error.rule, error.detail) from error
        self.own[name] = len(self.made.pictures) + len(self.new)
        self.new.append(pictures)
        return self.own[name]


def _caption(about: Mapping[str, Any], number: int) -> str | None:
    try:
        caption = about["targets"][number]["caption"]
    except (KeyError, IndexError, TypeError):
        return None
    return caption if isinstance(caption, str) else None

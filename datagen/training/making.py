"""From the bytes of a sample's members to the sample: decoded once, or named as broken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from datagen.media import MediaError
from datagen.training.sample import (
    CAPTION,
    COMPOSED,
    IMAGE_ONLY,
    TEXT_ONLY,
    Chunk,
    Drawn,
    Lost,
    Other,
    Place,
    Sample,
)
from datagen.training.shard_index import JSON, NEGATIVE, REFERENCE, ROLES, TARGET, TEXT, VECTOR
from datagen.training.triplets import Entry, vector

if TYPE_CHECKING:
    from datagen.training.samples import Maker

Array = np.ndarray[Any, Any]

_LISTS = {REFERENCE: "references", TARGET: "targets", NEGATIVE: "negatives"}


class Making:
    """Makes one sample of its bytes."""

    def __init__(
        self,
        maker: Maker,
        made: Chunk,
        drawn: Drawn,
        data: Mapping[tuple[int, int], bytes],
        shared: dict[tuple[int, str], int] | None,
        others: Mapping[Place, Other],
    ) -> None:
        self.maker, self.made, self.drawn, self.data = maker, made, drawn, data
        self.others = others
        self.shared: dict[tuple[int, str], int] = {} if shared is None else shared
        # Media of a sample that is lost in the end must not stay.
        self.own: dict[tuple[int, str], int] = {}
        self.new: list[Array] = []

    def sample(self) -> Sample:
        """Raises :class:`Lost`."""
        drawn, entry, chosen = self.drawn, self.drawn.entry, self.maker.choices
        about = _about(self.data)
        one = Sample(drawn.run, drawn.place, entry.key, entry.pair, drawn.kind)
        one.caption = _caption(about, "targets", drawn.targets[0])
        one.reference_caption = _caption(about, "references", 0)
        referred = entry.numbers(REFERENCE) if chosen.media else one.reference_caption
        if one.kind == CAPTION and not one.caption:
            one.kind = COMPOSED
        if one.kind in (COMPOSED, IMAGE_ONLY) and not referred:
            one.kind = TEXT_ONLY
        if one.kind in (COMPOSED, TEXT_ONLY):
            one.text = self.data[TEXT, 0].decode(errors="replace")
        elif one.kind == CAPTION:
            one.text = one.caption
        one.json = {name: about.get(name) for name in chosen.keep}
        if not chosen.media:
            if not one.caption:
                raise Lost("target", "no_caption", "without media a target is its caption")
            one.target_ids = [entry.targets[drawn.targets[0]]]
            return one
        if one.kind in (COMPOSED, IMAGE_ONLY):
            one.references = [
                self._medium(REFERENCE, number, about) for number in entry.numbers(REFERENCE)
            ]
        self._find_targets(one, about)
        places: list[int | Place] = [*drawn.negatives, *drawn.others]
        for place in places:
            try:
                one.negatives.append(self._negative(place, about))
            except Lost as error:
                run, entry = (
                    (drawn.run, drawn.entry)
                    if isinstance(place, int)
                    else (place[0], self.others[place][0])
                )
                self.maker.fault(self.made, run, entry, error.args)
        self.made.items.extend(item for _, item in self.own)
        self.made.pictures.extend(self.new)
        self.shared.update(self.own)
        return one

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
            except Lost as error:
                faults.append(error.args)
        if not one.targets and one.vector is None:
            raise Lost(*(faults[0] if faults else ("target", "no_target", "no medium, no vector")))
        if not one.targets:
            one.target_ids = [drawn.entry.targets[drawn.targets[0]]]
        for fault in faults:
            self.maker.fault(self.made, drawn.run, drawn.entry, fault)

    def _negative(self, place: int | Place, about: Mapping[str, Any]) -> int:
        """The number of a negative of its own, or of another triplet's medium. Raises Lost."""
        if isinstance(place, int):
            return self._medium(NEGATIVE, place, about)
        run, _, role, number = place
        entry, data = self.others[place]
        return self._picture(run, entry, (role, number), data, _about(data))

    def _medium(self, role: int, number: int, about: Mapping[str, Any]) -> int:
        """The number of a medium in the chunk, decoded unless it is there. Raises Lost."""
        return self._picture(self.drawn.run, self.drawn.entry, (role, number), self.data, about)

    def _picture(
        self,
        run: int,
        entry: Entry,
        member: tuple[int, int],
        data: Mapping[tuple[int, int], bytes],
        about: Mapping[str, Any],
    ) -> int:
        role, number = member
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
                data[member], told if isinstance(told, dict) else {}, self.drawn.random
            )
        except MediaError as error:
            raise Lost(f"{ROLES[role]}.{number}", error.rule, error.detail) from error
        self.own[name] = len(self.made.pictures) + len(self.new)
        self.new.append(pictures)
        return self.own[name]


def _about(data: Mapping[tuple[int, int], bytes]) -> Mapping[str, Any]:
    """What a triplet's JSON tells. Raises Lost."""
    try:
        about = json.loads(data[JSON, 0])
        return about if isinstance(about, dict) else {}
    except (ValueError, RecursionError) as error:
        raise Lost("json", "broken_json", str(error)) from error


def _caption(about: Mapping[str, Any], role: str, number: int) -> str | None:
    try:
        caption = about[role][number]["caption"]
    except (KeyError, IndexError, TypeError):
        return None
    # JSON may hold halves of characters, which are no text.
    return caption.encode(errors="replace").decode() if isinstance(caption, str) else None

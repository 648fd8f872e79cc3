"""What a format writes into: files below a folder, and what the format cannot hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from datagen import store
from datagen.export.selection import Item, Row, Selection

#: Notes of this project beside the files of the format.
NOTES = "export"
EXAMPLES = 3


@dataclass
class Book:
    """One split of an export.

    place: the path of an item's medium below ``out``; lost: items without a readable medium, by
    id, and why; number: a number for an item, pair or triplet.
    """

    out: str
    split: str
    selection: Selection
    place: Callable[[Item], str]
    number: Callable[[str], int]
    lost: Mapping[str, str]
    advance: Callable[[], object]
    #: JSON lines about what could not be held, for the file beside the export.
    lines: list[bytes] = field(default_factory=list)
    #: Files of the format, with how many entries each has.
    files: dict[str, int] = field(default_factory=dict)
    #: JSON lines: the ids of the triplets behind every entry, file by file.
    entries: list[bytes] = field(default_factory=list)
    triplets: int = 0
    _left: dict[str, dict[str, Any]] = field(default_factory=dict)
    _told: dict[str, set[str]] = field(default_factory=dict)

    def left_out(self, what: str, triplet: str, **more: Any) -> None:
        """Note what of a triplet is not in the export; once, however often it is met."""
        told = self._told.setdefault(what, set())
        if triplet in told:
            return
        told.add(triplet)
        self.lines.append(_json({"what": what, "triplet": triplet, **more}))
        about = self._left.setdefault(what, {"count": 0, "examples": []})
        about["count"] += 1
        if len(about["examples"]) < EXAMPLES:
            about["examples"].append(triplet)
        if "why" in more:
            about.setdefault("why", more["why"])

    def summary(self) -> dict[str, Any]:
        """The notes of this split: counts, and what was left out with examples."""
        return {"triplets": self.triplets, "files": self.files, "left_out": self._left}

    def rows(self, by: tuple[str, ...] = ("id",)) -> Iterator[Row]:
        """The triplets of the split whose references and targets have media, in order.

        Negatives without a readable medium are taken off their list.
        """
        for row in self.selection.rows(self.split, by):
            row = dict(row)
            needed = [*row["references"], *row["targets"]]
            gone = next((item["id"] for item in needed if item["id"] in self.lost), None)
            if gone is not None or not row["references"] or not row["targets"]:
                why = self.lost[gone] if gone is not None else "no reference or no target"
                self.left_out("triplets without a readable medium", row["id"], why=why)
                continue
            usable = [item for item in row["negatives"] if item["id"] not in self.lost]
            if len(usable) < len(row["negatives"]):
                ids = [one["id"] for one in row["negatives"] if one["id"] in self.lost]
                self.left_out("negatives without a readable medium", row["id"], items=ids)
            yield row | {"negatives": usable}

    def singles(self, by: tuple[str, ...] = ("id",)) -> Iterator[Row]:
        """As :meth:`rows`, for formats of one reference and one target; notes the others."""
        for row in self.rows(by):
            for role in ("references", "targets"):
                others = [item["id"] for item in row[role][1:]]
                if others:
                    what = f"{role} beyond the first, which this format has no place for"
                    self.left_out(what, row["id"], items=others)
            yield row

    def pairs(self) -> Iterator[list[Row]]:
        """As :meth:`singles`, the triplets of one pair together."""
        for _, rows in groupby(self.singles(("pair", "id")), key=lambda row: row["pair"]):
            yield list(rows)

    def without_negatives(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Note the mined negatives of ``rows``, for formats that have none."""
        for row in rows:
            own = {item["id"] for item in row["references"]}
            mined = [item["id"] for item in row["negatives"] if item["id"] not in own]
            if mined:
                self.left_out("negatives, which this format has no place for", row["id"])
            yield row

    def entry(self, file: str, rows: Iterable[Row], number: int | None = None) -> None:
        """Note which triplets the next entry of ``file`` was made from."""
        ids = [row["id"] for row in rows]
        self.triplets += len(ids)
        for _ in ids:
            self.advance()
        self.files[file] = self.files.get(file, 0) + 1
        told = {"file": file, "triplets": ids}
        self.entries.append(_json(told if number is None else told | {"number": number}))

    def array(self, file: str, values: Iterable[Any]) -> int:
        """Write a JSON array, a line per value; gives how many there are."""
        count = 0
        with store.writing(store.join(self.out, file)) as writer:
            writer.write(b"[")
            for value in values:
                writer.write((",\n" if count else "\n").encode() + _json(value))
                count += 1
            writer.write(b"\n]\n" if count else b"]\n")
        return count

    def mapping(self, file: str, values: Iterable[tuple[str, Any]]) -> int:
        """Write a JSON object, a line per key; gives how many there are."""
        count = 0
        with store.writing(store.join(self.out, file)) as writer:
            writer.write(b"{")
            for key, value in values:
                start = ",\n" if count else "\n"
                writer.write(start.encode() + _json(key) + b": " + _json(value))
                count += 1
            writer.write(b"\n}\n" if count else b"}\n")
        return count

    def lines_of(self, file: str, values: Iterable[Any]) -> int:
        """Write JSON lines, of values or ready-made; gives how many there are."""
        count = 0
        with store.writing(store.join(self.out, file)) as writer:
            for value in values:
                writer.write((value if isinstance(value, bytes) else _json(value)) + b"\n")
                count += 1
        return count


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()

"""CIRR: captions with image sets, and a map from names to paths, per split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from datagen.export.book import Book
from datagen.export.format import Format
from datagen.export.selection import ROLES, Item, Row

#: Images of a set: the reference, the target and four that are alike.
SET = 6
#: CIRR calls its test split so.
NAMES = {"test": "test1"}


class Cirr(Format):
    """``captions/cap.rc2.SPLIT.json`` and ``image_splits/split.rc2.SPLIT.json`` (CIRR, 2108.04024).

    ``target_hard`` is the first target; ``target_soft`` has all, each 1.0. The members of the
    image set are the reference, the first target and the first four mined negatives, in the order
    of their names; the released evaluation wants equally large sets, so smaller ones are filled
    with other images of the split. Ranks are the places of reference and target in the set.
    """

    about = "CIRR: captions/cap.rc2.SPLIT.json, image_splits/split.rc2.SPLIT.json, img_raw/"
    roles = ROLES

    def place(self, item: Item) -> str:
        return f"img_raw/{self.folder(item)}/{item['id']}.{self.ending(item)}"

    def write(self, book: Book) -> None:
        name = NAMES.get(book.split, book.split)
        gallery: dict[str, str] = {}
        spared = 0
        for row in book.rows():
            spared = max(spared, len(_right(row)) - 2)
            for item in (*row["references"], *row["targets"], *row["negatives"]):
                gallery[item["id"]] = "./" + book.place(item).removeprefix("img_raw/")
        listed, told = f"image_splits/split.rc2.{name}.json", f"captions/cap.rc2.{name}.json"
        ordered = sorted(gallery)
        book.array(told, self._captions(book, told, ordered, len(ordered) - spared))
        book.files.setdefault(told, 0)
        book.mapping(listed, ((name, gallery[name]) for name in ordered))
        book.files[listed] = len(gallery)

    def _captions(
        self, book: Book, file: str, gallery: list[str], most: int
    ) -> Iterator[dict[str, Any]]:
        size = min(SET, most)
        for row in book.rows():
            extra = [item["id"] for item in row["references"][1:]]
            if extra:
                what = "references beyond the first, which this format has no place for"
                book.left_out(what, row["id"], items=extra)
            pairid = book.number(row["id"])
            reference, target = row["references"][0]["id"], row["targets"][0]["id"]
            members = self._members(book, row, gallery, size)
            book.entry(file, [row], pairid)
            yield {
                "pairid": pairid,
                "reference": reference,
                "target_hard": target,
                "target_soft": {item["id"]: 1.0 for item in row["targets"]},
                "caption": row["modification"],
                "img_set": {
                    "id": book.number(row["pair"] or row["id"]),
                    "members": members,
                    "reference_rank": members.index(reference),
                    "target_rank": members.index(target),
                },
            }

    def _members(self, book: Book, row: Row, gallery: list[str], size: int) -> list[str]:
        right = _right(row)
        negatives = dict.fromkeys(item["id"] for item in row["negatives"])
        mined = [name for name in negatives if name not in right]
        own = [row["references"][0]["id"], row["targets"][0]["id"]]
        room = size - len(own)
        if len(mined) > room:
            what = f"negatives beyond the {room} that an image set holds"
            book.left_out(what, row["id"], items=mined[room:])
        members = [*own, *mined[:room]]
        if len(members) < size:
            book.left_out("image sets filled with other images of the split", row["id"])
            members += _others(row["id"], gallery, {*members, *right}, size - len(members))
        return sorted(members)

    def reading(self, out: str, splits: Sequence[str]) -> list[str]:
        return [
            f"{out} is CIRR's folder data/cirr; paths in image_splits start from its img_raw.",
            "CLIP4Cir: link it as cirr_dataset/cirr, and img_raw/* into cirr_dataset",
        ]


def _right(row: Row) -> set[str]:
    """References and targets: none of them is a wrong answer."""
    return {item["id"] for role in ("references", "targets") for item in row[role]}


def _others(seed: str, gallery: Sequence[str], not_these: set[str], count: int) -> list[str]:
    """Some ``count`` names of the gallery, by a walk that the triplet's id decides."""
    found: list[str] = []
    start = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest(), "big")
    for step in range(len(gallery)):
        if len(found) == count:
            break
        name = gallery[(start + step) % len(gallery)]
        if name not in not_these:
            found.append(name)
    return found

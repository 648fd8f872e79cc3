"""MegaPairs: JSON lines of a query image, its texts, a target and hard negatives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from datagen import store
from datagen.export.book import Book
from datagen.export.format import Format
from datagen.export.selection import ROLES


class MegaPairs(Format):
    """``megapairs_SPLIT.jsonl`` and ``images/`` (MegaPairs, arXiv:2412.14475).

    A line has all texts of its pair. ``hns`` starts with the reference itself, whose place among
    the negatives is what keeps a model from answering with it; the mined ones follow.
    """

    about = "MegaPairs: megapairs_SPLIT.jsonl, images/"
    roles = ROLES

    def write(self, book: Book) -> None:
        file = f"megapairs_{book.split}.jsonl"
        book.lines_of(file, self._lines(book, file))
        book.files.setdefault(file, 0)

    def _lines(self, book: Book, file: str) -> Iterator[dict[str, Any]]:
        for rows in book.pairs():
            reference, target = rows[0]["references"][0], rows[0]["targets"][0]
            negatives = {item["id"]: item for row in rows for item in row["negatives"]}
            mined = [negatives[name] for name in negatives if name != reference["id"]]
            book.entry(file, rows)
            yield {
                "q_img": book.place(reference),
                "q_text": list(dict.fromkeys(row["modification"] for row in rows)),
                "t_img": book.place(target),
                "hns": [book.place(reference), *map(book.place, mined)],
            }

    def reading(self, out: str, splits: Sequence[str]) -> list[str]:
        path = store.join(out, f"megapairs_{splits[0]}.jsonl")
        return [
            f"[json.loads(line) for line in open({path!r}, encoding='utf-8')]  "
            f"# paths start from {out}"
        ]

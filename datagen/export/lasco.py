"""LaSCo: a list of queries with paths, and a corpus, per split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from datagen import store
from datagen.export.book import Book
from datagen.export.format import Format
from datagen.export.selection import ROLES, Item


class Lasco(Format):
    """``lasco_SPLIT.json`` and ``lasco_SPLIT_corpus.json`` (LaSCo, arXiv:2303.09429).

    Paths start from the export's folder; ids are numbers. The corpus holds every image of the
    split: references, targets and negatives (which belong to no query there).
    """

    about = "LaSCo: lasco_SPLIT.json, lasco_SPLIT_corpus.json"
    roles = ROLES

    def write(self, book: Book) -> None:
        file = f"lasco_{book.split}.json"
        corpus: dict[str, dict[str, Any]] = {}
        book.array(file, self._queries(book, file, corpus))
        book.files.setdefault(file, 0)
        listed = f"lasco_{book.split}_corpus.json"
        book.files[listed] = book.array(listed, (corpus[name] for name in sorted(corpus)))

    def _queries(
        self, book: Book, file: str, corpus: dict[str, dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        for row in book.without_negatives(book.singles()):
            for item in (*row["references"], *row["targets"], *row["negatives"]):
                number, path = self._named(book, item)
                corpus.setdefault(item["id"], {"id": number, "path": path})
            qid = book.number(row["id"])
            book.entry(file, [row], qid)
            yield {
                "qid": qid,
                "query-image": list(self._named(book, row["references"][0])),
                "query-text": row["modification"],
                "target-image": list(self._named(book, row["targets"][0])),
            }

    def _named(self, book: Book, item: Item) -> tuple[int, str]:
        return self.numbers[item["id"]], book.place(item)

    def reading(self, out: str, splits: Sequence[str]) -> list[str]:
        path = store.join(out, f"lasco_{splits[0]}.json")
        return [f"json.load(open({path!r}))  # paths start from {out}"]

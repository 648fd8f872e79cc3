"""WebVid-CoVR and CC-CoIR: a CSV of caption pairs, media in two-level paths."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from datagen import store
from datagen.export.book import Book
from datagen.export.format import Format
from datagen.export.selection import Item, Row

COLUMNS = ("txt1", "txt2", "sim_txt", "pth1", "pth2", "edit", "scores")
#: The caption similarity, from the first of these columns that the run has.
SIMILARITY = ("score_similarity_caption", "score_similarity_text")


class Covr(Format):
    """``covr_SPLIT.csv`` and ``media/NN/NNNNNNNNNNNNNNN.EXT`` (CoVR, arXiv:2308.14746).

    Names are numbers, as in WebVid: the released loader turns ``pth1`` into a 64-bit integer.
    ``scores`` (of a target's frames) is the empty list, which that loader reads as equal.
    """

    about = "WebVid-CoVR and CC-CoIR: covr_SPLIT.csv, media/NN/NUMBER.EXT"
    looks_for = ("mp4", "jpg", "png")
    images_only = False

    def stem(self, item: Item) -> str:
        """``42/000123456789042``: the name of an item as ``pth1`` and ``pth2`` give it."""
        number = self.numbers[item["id"]]
        return f"{number % 100:02}/{number:015}"

    def place(self, item: Item) -> str:
        return f"media/{self.stem(item)}.{self.ending(item)}"

    def write(self, book: Book) -> None:
        file = f"covr_{book.split}.csv"
        names = self.selection.table.column_names
        scored = next((name for name in SIMILARITY if name in names), None)
        with store.writing(store.join(book.out, file)) as binary:
            text = io.TextIOWrapper(binary, encoding="utf-8", newline="", write_through=True)
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(COLUMNS)
            for row in book.without_negatives(book.singles()):
                writer.writerow(self._values(row, scored))
                book.entry(file, [row])
            text.detach()
        book.files.setdefault(file, 0)

    def _values(self, row: Row, scored: str | None) -> list[str]:
        reference, target = row["references"][0], row["targets"][0]
        score = row[scored] if scored else None
        return [
            reference["caption"] or "",
            target["caption"] or "",
            "" if score is None else repr(score),
            self.stem(reference),
            self.stem(target),
            row["modification"],
            "[]",
        ]

    def reading(self, out: str, splits: Sequence[str]) -> list[str]:
        return [
            f"in CoVR's data configuration: annotation: {store.join(out, f'covr_{splits[0]}.csv')}",
            f"  vid_dirs or img_dirs: {store.join(out, 'media')}  (embeddings: its tools/embs)",
        ]

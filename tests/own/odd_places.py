"""Operators of a user's own at the places where few stand: a source, edits, work on used items."""

import pyarrow as pa

from datagen import schema
from datagen.step import RowOperator, Settings, Source


class LinesSettings(Settings):
    """path: a folder of text files, one caption a line; a line ``broken`` is a failed record."""

    path: str


class Lines(Source[LinesSettings]):
    """One record for each line of each file; media none."""

    Settings = LinesSettings

    def gives(self, level):
        return {"items.captions", "items.labels"}

    def parts(self, context):
        from pathlib import Path

        return [{"file": str(path)} for path in sorted(Path(self.settings.path).glob("*.txt"))]

    def read(self, part, context):
        with open(part["file"], encoding="utf-8") as file:
            lines = file.read().splitlines()
        rows = [
            {
                "key": f"{part['file']}:{number}",
                "captions": [line],
                "verdict": "failed" if line == "broken" else None,
                "rule": "broken_line" if line == "broken" else None,
            }
            for number, line in enumerate(lines)
        ]
        return pa.Table.from_pylist(rows, schema=schema.RECORD)


class StampSettings(Settings):
    """mark: what is written; refuse: a caption whose item is rejected."""

    mark: str = "seen"
    refuse: str = ""


class Stamp(RowOperator[StampSettings]):
    """Gives a column ``mark``, verdicts ahead of it."""

    Settings = StampSettings
    levels = ("items", "pairs", "triplets")

    def __call__(self, rows):
        count = rows.num_rows
        nothing = pa.nulls(count, pa.string())
        return pa.table(
            {
                "id": rows["id"],
                "verdict": pa.array(["kept"] * count),
                "rule": nothing,
                "detail": nothing,
                "mark": pa.array([self.settings.mark] * count),
            }
        )


class StampItems(Stamp):
    """The same on the items that stand in pairs; may reject one."""

    on_items = True

    def columns(self, level):
        return ["captions"]

    def __call__(self, rows):
        out = super().__call__(rows)
        bad = [captions[0] == self.settings.refuse for captions in rows["captions"].to_pylist()]
        out = out.set_column(1, "verdict", pa.array(["rejected" if b else "kept" for b in bad]))
        return out.set_column(2, "rule", pa.array(["refused" if b else None for b in bad]))

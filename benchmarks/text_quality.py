"""What `text_quality` rejects of the texts that people wrote for published sets.

Every rejection is a text that a person wrote, so it is a false alarm unless the text is broken.

    python benchmarks/text_quality.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa

from datagen import schema
from datagen.filters.text_quality import TextQuality

#: Where the texts stand: files below the folder, and the field of each entry.
SETS = {
    "CIRR, validation": ("cirr/captions/cap.rc2.val.json", "caption"),
    "CIRCO, validation": ("circo/val.json", "relative_caption"),
    "FashionIQ, train": ("fashioniq/captions/cap.*.train.json", "captions"),
    "Shoes": ("shoes/relative_captions_shoes.json", "RelativeCaption"),
}
RULES = ("leak", "refusal", "artefact", "malformed", "repeated_word", "other_language")


def texts(folder: Path, name: str) -> list[str]:
    """The texts of a set."""
    pattern, field = SETS[name]
    entries = [
        entry[field]
        for path in sorted(folder.glob(pattern))
        for entry in json.loads(path.read_text(encoding="utf-8"))
    ]
    return [text for one in entries for text in (one if isinstance(one, list) else [one])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    folder = parser.parse_args().data / "cir"
    operator = TextQuality(TextQuality.Settings(language="en"))
    print("| texts | " + " | ".join(f"`{rule}`" for rule in RULES) + " |")
    print("|---" * (len(RULES) + 1) + "|")
    for name in SETS:
        said = texts(folder, name)
        rows = [{"id": f"{at:06d}", "modification": text} for at, text in enumerate(said)]
        table = pa.Table.from_pylist(rows, schema=schema.TRIPLETS)
        scores = operator(table)
        for score in operator.gives("triplets"):
            table = table.append_column(score, scores[score])
        decided = operator.decide(table, schema.empty(schema.ITEMS))
        counts = Counter(decided["rule"].to_pylist())
        print(
            f"| {name}: {len(said):,} | " + " | ".join(f"{counts[rule]:,}" for rule in RULES), "|"
        )


if __name__ == "__main__":
    main()

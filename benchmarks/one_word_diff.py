"""Mining captions that differ in one word: time and peak memory against a pandas join.

    python benchmarks/one_word_diff.py [--times 1 10] [--methods datagen operator pandas]

Captions are the 110,000 human ones of Flickr30k (found by DATAGEN_TEST_DATA). For 1.1 million
there are ten copies, and in copy r the first and the last word carry the suffix r. Lengths, inner
words and the sizes of groups stay those of real captions; captions of different copies differ in
two words, so the pairs are those of one copy, ten times (but for captions of one word).

datagen: captions to caption pairs; operator: an items table of five captions an item to the table
of pairs; pandas: every masked caption as a string, those that occur twice joined with themselves.
Each runs in a process of its own. The numbers of pairs must agree.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE = ROOT / os.environ.get("DATAGEN_TEST_DATA", "../shared/data") / "captions/flickr30k.jsonl.gz"


def images(times: int) -> list[tuple[str, list[str]]]:
    """(key, captions) of every image, ``times`` over."""
    with gzip.open(FILE, "rt") as file:
        rows = [json.loads(line) for line in file]
    out = []
    for copy in range(times):
        for row in rows:
            captions = row["captions"]
            if copy:
                captions = [suffixed(caption, str(copy)) for caption in captions]
            out.append((f"{row['image_id']}-{copy}", captions))
    return out


def suffixed(caption: str, suffix: str) -> str:
    """The caption with a suffix at its first and last word."""
    words = caption.replace(".", "").replace(",", "").split()
    for place in {0, len(words) - 1} if words else set():
        words[place] += f"x{suffix}"
    return " ".join(words)


def by_datagen(rows: list[tuple[str, list[str]]]) -> dict[str, float]:
    """Captions to caption pairs, by hashes."""
    import pyarrow as pa

    from datagen.pairing import _one_word, _words

    captions = pa.array([caption for _, own in rows for caption in own], pa.large_string())
    start = time.perf_counter()
    unique, _ = _words.distinct(_words.normalise(captions))
    tokens, _ = _one_word.tokenise(unique)
    found = [_one_word.pairs_of(tokens, n, tokens.parts, None, 0) for n in range(tokens.parts)]
    pairs = sum(len(part.left) for part in found)
    return {"seconds": time.perf_counter() - start, "pairs": pairs, "unique": len(unique)}


def by_pandas(rows: list[tuple[str, list[str]]]) -> dict[str, float]:
    """Captions to caption pairs, by a join on masked captions."""
    import pandas as pd

    captions = pd.Series([caption for _, own in rows for caption in own])
    start = time.perf_counter()
    clean = captions.str.lower().str.replace(".", "", regex=False).str.replace(",", "", regex=False)
    unique = clean.str.split().str.join(" ").drop_duplicates()
    unique = unique[unique != ""].reset_index(drop=True)
    keys = [
        (number, " ".join([*words[:place], "_", *words[place + 1 :]]) + f"|{place}")
        for number, words in enumerate(unique.str.split())
        for place in range(len(words))
    ]
    masked = pd.DataFrame(keys, columns=["caption", "key"])
    masked = masked[masked["key"].duplicated(keep=False)]
    both = masked.merge(masked, on="key")
    pairs = int((both["caption_x"] < both["caption_y"]).sum())
    return {"seconds": time.perf_counter() - start, "pairs": pairs, "unique": len(unique)}


def by_operator(rows: list[tuple[str, list[str]]]) -> dict[str, float]:
    """An items table to the table of pairs, with the settings that drop nothing."""
    import pyarrow as pa

    from datagen import schema
    from datagen.pairing.one_word_diff import OneWordDiff, Settings
    from datagen.step import Context, Tables

    made = [
        {
            "id": schema.item_id(key, captions, "{}"),
            "key": key,
            "source": "flickr30k",
            "media": {"path": f"{key}.jpg", "offset": 0, "size": 1, "sha256": key},
            "captions": captions,
            "labels": "{}",
        }
        for key, captions in rows
    ]
    items = pa.Table.from_pylist(made, schema=schema.ITEMS)
    del made
    chosen = Settings(
        min_words=1, skip_digits=False, skip_words=(), max_per_caption=None,
        max_items_per_caption=None,
    )  # fmt: skip
    start = time.perf_counter()
    result = OneWordDiff(chosen)(Tables(items, items, "items"), Context())
    return {
        "seconds": time.perf_counter() - start,
        "pairs": result.notes["caption_pairs"],
        "unique": result.notes["unique_captions"],
        "rows": result.rows.num_rows,
    }


METHODS = {"datagen": by_datagen, "operator": by_operator, "pandas": by_pandas}


def measure(method: str, times: int) -> dict[str, float]:
    """Run one method in a process of its own."""
    command = [sys.executable, __file__, "--one", method, "--times", str(times)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> None:
    """Measure, print a table, and fail where the numbers of pairs differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        rows = images(chosen.times[0])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        result = METHODS[chosen.one](rows)
        result["start_mb"] = before
        result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(result))
        return
    print("captions   method     seconds  peak MB  (at start)   caption pairs")
    for times in chosen.times:
        results = {method: measure(method, times) for method in chosen.methods}
        for method, one in results.items():
            rows = f"  → {one['rows']:,.0f} rows" if "rows" in one else ""
            print(
                f"{110_000 * times:<10,} {method:<9} {one['seconds']:8.2f} {one['peak_mb']:8.0f} "
                f"{one['start_mb']:9.0f}   {one['pairs']:,.0f} of {one['unique']:,.0f}{rows}"
            )
        if len({(one["pairs"], one["unique"]) for one in results.values()}) != 1:
            raise SystemExit("the methods do not agree")


if __name__ == "__main__":
    main()

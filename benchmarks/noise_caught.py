"""How much injected noise the scores of filters tell, where they lose 5 % of the clean triplets.

Triplets are spoiled by `text: {op: noise}`: a quarter of the noise each gets another reference,
text or target, or one wrong word. Every filter measures and rejects nothing. For every score the
bound (low or high, whichever catches more) that loses 5 % of the clean rows is taken, and the share
of each kind of noise beyond it told; then the same for all scores together, with the 5 % shared out
among them so that most is caught.

`photos` are product photos with their titles (and an image classifier of TensorFlow Lite as the
image space), `scenes` the rendered world with the bundled CLIP.

    python benchmarks/noise_caught.py scenes --out /tmp/noise
    python benchmarks/noise_caught.py photos --out /tmp/noise --data ../shared/data
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import datagen
from datagen import schema

Array = np.ndarray[Any, Any]

KINDS = ("reference", "text", "target", "partial")
OWN = Path(__file__).parents[1] / "tests" / "own" / "mobilenet_space.py"
WEIGHTS = "models/mobilenet_v2_1.0_224_quant.tflite"
LOST = 0.05


def noise(share: float) -> dict[str, Any]:
    return {"text": {"op": "noise", "share": 0.75 * share, "partial": 0.25 * share}}


def scenes(share: float, count: int, model: str) -> dict[str, Any]:
    """Rendered scenes, with every filter that looks at pictures, texts or captions."""
    ways: list[dict[str, str]] = [{"by": "margin"}, {"by": "direction"}, {"by": "composed"}]
    ways += [{"by": "composed", "text": "modification"}]
    return {
        "name": "scenes",
        "source": {"type": "tinyworld", "count": count},
        "steps": [
            {"embed": {"space": "caption", "model": "tfidf"}},
            {"embed": {"op": "open_clip", "space": "image", "model": model}},
            {"pair": {"op": "one_word_diff", "max_per_reference": 4}},
            {"text": {"op": "template"}},
            noise(share),
            *measures(["caption", "image"]),
            {"filter": {"op": "clip_modification", "model": model, "low": -1}},
            *({"filter": {"op": "consistency", "space": "image", "low": -2, **way}}
              for way in ways),
            {"filter": {"op": "shortcut", "space": "image"}},
        ],
    }  # fmt: skip


def photos(share: float, folder: Path, data: Path) -> dict[str, Any]:
    """Product photos: similarity of titles and pictures, and how the text stands to the titles."""
    return {
        "name": "photos",
        "source": {
            "type": "folder",
            "path": str(data / "photos" / "fashion"),
            "annotations": str(folder / "items.jsonl"),
            "media": "image",
            "media_root": "images",
            "captions": "productDisplayName",
            "labels": ["baseColour", "subCategory", "gender", "season"],
        },
        "steps": [
            {"embed": {"space": "caption", "model": "tfidf"}},
            {"pair": {"op": "one_word_diff", "max_per_reference": 4}},
            {"embed": {"op": f"{OWN}:MobileNet", "space": "photo", "weights": str(data / WEIGHTS)}},
            {"text": {"op": "template"}},
            noise(share),
            *measures(["caption", "photo"]),
        ],
    }


def measures(spaces: list[str]) -> Iterator[dict[str, Any]]:
    """Filters of all worlds, with rules that let everything pass."""
    for space in spaces:
        yield {"filter": {"op": "similarity", "id": f"like_{space}", "space": space, "low": -1}}
    yield {"filter": {"op": "text_quality", "max_words": None, "copies_caption": False,
                      "common_leaks": False, "malformed": False, "repeated_word": False,
                      "refusals": False, "artefacts": False,
                      "min_words": 0}}  # fmt: skip


def some_photos(data: Path, folder: Path, count: int) -> None:
    """The annotations of ``count`` photos, drawn by hash."""
    lines = (data / "photos" / "fashion" / "items.jsonl").read_text(encoding="utf-8").splitlines()
    drawn = sorted(lines, key=lambda line: schema.content_id(json.loads(line)["id"]))[:count]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "items.jsonl").write_text("\n".join(drawn) + "\n", encoding="utf-8")


def kinds(rows: pa.Table) -> Array:
    """The kind of noise of each row; empty for a clean one."""
    out = []
    for evidence in rows["evidence"].to_pylist():
        told = [one["added"] for one in evidence["changes"] if one["field"] == "noise"]
        out.append(told[0] if told else "")
    return np.array(out)


def oriented(values: Array, noisy: Array) -> tuple[Array, str]:
    """The score so that noise is low, and on which side its bound is."""
    sides = {"low": values, "high": -values}
    caught = {side: np.mean(beyond(one, noisy, LOST)[noisy]) for side, one in sides.items()}
    side = max(caught, key=lambda name: float(caught[name]))
    return sides[side], side


def beyond(values: Array, noisy: Array, lost: float) -> Array:
    """Rows below the bound that loses at most ``lost`` of the clean rows."""
    clean = np.sort(values[~noisy])
    bound = clean[min(int(lost * len(clean)), len(clean) - 1)]
    out: Array = values < bound
    return out


def together(columns: list[Array], noisy: Array) -> Array:
    """Rows beyond the bound of any score, where ``LOST`` is shared out among the scores so that
    each part catches most: the best that bounds on these scores can do, or near it."""
    steps = np.linspace(LOST / 10, LOST, 10)
    out = np.zeros(len(noisy), dtype=bool)
    while True:
        best: tuple[float, Array] | None = None
        for values in columns:
            for step in steps:
                more = out | beyond(values, noisy, step)
                lost, caught = np.sum((more & ~out)[~noisy]), np.sum((more & ~out)[noisy])
                fine = np.mean(more[~noisy]) <= LOST and caught > 0
                if fine and (best is None or caught / (lost + 1) > best[0]):
                    best = (caught / (lost + 1), more)
        if best is None:
            return out
        out = best[1]


def tell(rows: pa.Table, share: float) -> None:
    """The table of one run."""
    kind = kinds(rows)
    noisy = kind != ""
    print(f"\n{share:.0%} noise: {len(kind)} triplets, {int(noisy.sum())} spoiled\n")
    print("| score | side | clean lost | " + " | ".join(KINDS) + " | all noise |")
    print("|---|---|---|" + "---|" * (len(KINDS) + 1))
    columns = []
    for name in sorted(n for n in rows.column_names if n.startswith("score_")):
        values = rows[name].to_numpy(zero_copy_only=False).astype(np.float64)
        if np.isnan(values).all() or len(np.unique(values)) < 2:
            continue
        values, side = oriented(np.nan_to_num(values), noisy)
        columns.append(values)
        print(line(f"`{name.removeprefix('score_')}`", side, beyond(values, noisy, LOST), kind))
    print(line("all together", "", together(columns, noisy), kind))


def line(name: str, side: str, out: Array, kind: Array) -> str:
    clean = kind == ""
    shares = [out[kind == one] for one in KINDS] + [out[~clean]]
    told = " | ".join(f"{np.mean(some):.2f}" if len(some) else "–" for some in shares)
    return f"| {name} | {side} | {np.mean(out[clean]):.3f} | {told} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("world", choices=("scenes", "photos"))
    parser.add_argument("--out", required=True, help="folder for the run; an old one is reused")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--count", type=int, default=1500, help="items")
    parser.add_argument("--model", default="bundled:tinyclip")
    parser.add_argument("--share", type=float, nargs="+", default=[0.2, 0.5])
    chosen = parser.parse_args()
    folder = Path(chosen.out)
    if chosen.world == "photos":
        some_photos(chosen.data, folder, chosen.count)
    for share in chosen.share:
        if chosen.world == "photos":
            recipe = photos(share, folder.resolve(), chosen.data.resolve())
        else:
            recipe = scenes(share, chosen.count, chosen.model)
        # One run directory: what clean rows were measured for one share is not measured again.
        datagen.run(recipe, str(folder / chosen.world), report=False)
        tell(datagen.load(str(folder / chosen.world)).triplets(every=True), share)


if __name__ == "__main__":
    main()

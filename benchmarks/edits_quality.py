"""How many edits and paintings of a step are right, before and after the best are chosen.

    python benchmarks/edits_quality.py instruct --out /tmp/edits_quality
    python benchmarks/edits_quality.py prompt_to_prompt --out /tmp/edits_quality

Scenes of the rendered world that are held out from training, each with an edit in words
(``text: template``) and the caption of what it leads to. The step paints eight samples of each;
the world's oracle reads the pictures. An edit is *right* if the picture shows the scene that was
asked for, all else of it kept. Beside all samples: the best of each row by CLIP (``keep`` with
one), and those above a score. ``--out`` also gets a page of examples.
"""

from __future__ import annotations

import argparse
import io
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from datagen import libraries, schema, store
from datagen.bundled._scenes import held_out
from datagen.edits._best import SCORES, Best, KeepSettings
from datagen.edits.instruct import Instruct, InstructSettings
from datagen.edits.prompt_to_prompt import PromptToPrompt, PromptToPromptSettings
from datagen.sources.tinyworld import oracle
from datagen.sources.tinyworld.captions import captions
from datagen.sources.tinyworld.family import Drawn, drawn
from datagen.sources.tinyworld.pixels import read_scene
from datagen.sources.tinyworld.render import picture
from datagen.sources.tinyworld.scene import Scene
from datagen.step import Context
from datagen.texts.template import Template, TemplateSettings

libraries.prepare()

Row = dict[str, Any]
#: Of the world that is measured; no training has it.
SEED = 29
SIDE = 64
#: Of a CLIP model that is not ViT-L/14, thresholds would say nothing: the best alone are chosen.
NO_LEAST = dict.fromkeys(SCORES, -1.0)


def neighbours(count: int) -> list[tuple[Drawn, Drawn]]:
    """Scenes of at most two things, held out, and those that change one attribute of them."""
    found: list[tuple[Drawn, Drawn]] = []
    index = 0
    told = {"neighbours": 0.8, "max_objects": 2, "clips": 0.0}
    while len(found) < count:
        after = drawn(SEED, index, **told)
        index += 1
        if after.base is None:
            continue
        before = drawn(SEED, after.base, **told)
        if held_out(before.shown) or held_out(after.shown):
            found.append((before, after))
    return found


def rows(pairs: Sequence[tuple[Drawn, Drawn]], folder: Path) -> list[Row]:
    """Triplets without the target's picture; the text is that of a template."""
    none = dict.fromkeys(field.name for field in schema.MEMBER)
    made: list[Row] = []
    for number, (before, after) in enumerate(pairs):
        texts = [captions(one, SEED)[0][0] for one in (before, after)]
        path = folder / f"{number:04d}.png"
        picture(before, SEED, SIDE, same_layout=True, jitter=1.0).save(path)
        media = {
            "path": str(path), "offset": 0, "size": path.stat().st_size,
            "sha256": store.file_hash(str(path)),
            "modality": "image", "format": "png", "width": SIDE, "height": SIDE,
        }  # fmt: skip
        members = [
            none | {"id": f"{side}{number}", "caption": text, "labels": "{}", "media": own}
            for side, text, own in zip("rt", texts, (media, None), strict=True)
        ]
        one, two = (text.split() for text in texts)
        change = _words(one, two)
        made.append(
            {
                "id": f"{number:06d}",
                "references": members[:1],
                "targets": members[1:],
                "evidence": {"operator": "", "reason": "", "changes": [change], "score": None},
            }
        )
    names = ("id", "references", "targets", "evidence")
    table = pa.Table.from_pylist(made, pa.schema([schema.PAIRS.field(n) for n in names]))
    told = Template(TemplateSettings())(table).to_pylist()
    text = {line["id"]: line["modification"] for line in told if line["modification"]}
    return [row | {"modification": text[row["id"]]} for row in made if row["id"] in text]


def _words(one: list[str], two: list[str]) -> Row:
    """What differs, as a miner of captions tells it."""
    start = next((n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), 0)
    end = 0
    while end < min(len(one), len(two)) - start and one[-1 - end] == two[-1 - end]:
        end += 1
    removed, added = (" ".join(words[start : len(words) - end]) for words in (one, two))
    return {"field": "caption", "removed": removed, "added": added}


def painted(operator: Any, some: list[Row], folder: Path) -> dict[str, list[Row]]:
    """The samples of every row: pictures and scores."""
    operator.open(Context(seed=SEED, staged=str(folder / "staged")))
    names = ("id", "references", "targets", "evidence", "modification")
    kinds = pa.schema([schema.TRIPLETS.field(n) for n in names])
    found: dict[str, list[Row]] = defaultdict(list)
    for at in range(0, len(some), 4):
        part = pa.Table.from_pylist(some[at : at + 4], kinds)
        for line in operator(operator.prepare(part)).to_pylist():
            assert line["verdict"] == schema.KEPT, line
            sides = {side: _picture(line[side]) for side in ("references", "targets")}
            scores = {name: line[f"score_edit_{name}"] for name in SCORES}
            found[line["id"]].append({**sides, "scores": scores, **json.loads(line["edit"])})
    return found


def _picture(members: list[Row] | None) -> Image.Image | None:
    if not members:
        return None
    media = members[0]["media"]
    data = store.read_bytes(media["path"], media["offset"], media["size"])
    return Image.open(io.BytesIO(data)).convert("RGB")


def right(sample: Row, before: Scene, after: Scene) -> bool:
    """Whether the oracle sees what was asked for."""
    told = all(oracle.read_pixels(sample["targets"], after)["agrees"].values())
    if sample["references"] is None:
        return told
    return told and all(oracle.read_pixels(sample["references"], before)["agrees"].values())


def table(found: dict[str, dict[str, list[bool]]]) -> str:
    """Shares by kind of edit."""
    kinds = sorted({kind for by in found.values() for kind in by})
    kinds = [kind for kind in kinds if kind != "any"]
    lines = ["| | all | " + " | ".join(kinds) + " |", "|---|---:" + "|---:" * len(kinds) + "|"]
    for name, by in found.items():
        every = [one for values in by.values() for one in values]
        cells = [f"{np.mean(by[kind]):.3f}" if by.get(kind) else "–" for kind in kinds]
        head = f"| {name} ({len(every):,}) | {np.mean(every):.3f} | "
        lines.append(head + " | ".join(cells) + " |")
    return "\n".join(lines)


def page(out: Path, some: list[Row], samples: dict[str, list[Row]], judged: Any) -> None:
    """A sheet: the reference, eight samples, those that are right framed in green."""
    wide = SIDE * 2
    shown = some[:14]
    sheet = Image.new("RGB", (wide * 9 + 20, len(shown) * (wide + 34)), "white")
    draw = ImageDraw.Draw(sheet)
    for line, row in enumerate(shown):
        top = line * (wide + 34)
        told = f"{row['references'][0]['caption']}  ->  {row['modification']}"
        draw.text((4, top + 2), told, "black")
        own = Image.open(row["references"][0]["media"]["path"]).resize((wide, wide))
        sheet.paste(own, (0, top + 18))
        for at, sample in enumerate(samples[row["id"]][:8]):
            left = wide * (at + 1) + 16
            sheet.paste(sample["targets"].resize((wide - 8, wide - 8)), (left + 4, top + 22))
            colour = "green" if judged(row["id"], sample) else "red"
            draw.rectangle((left, top + 18, left + wide - 2, top + 16 + wide), None, colour, 3)
    sheet.save(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("op", choices=["instruct", "prompt_to_prompt"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="")
    parser.add_argument("--rows", type=int, default=120)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--told", type=json.loads, default={}, help="further settings")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    clip = "bundled:tinyclip"
    keep = {"model": clip, "count": given.samples, "least": NO_LEAST, "device": "cpu"}
    model = given.model or f"bundled:tiny{'editor' if given.op == 'instruct' else 'painter'}"
    told = {
        "model": model, "samples": given.samples, "batch_size": 8, "steps": given.steps,
        "keep": keep, "format": "png", **given.told,
    }  # fmt: skip
    operator: Any = (
        Instruct(InstructSettings.model_validate(told))
        if given.op == "instruct"
        else PromptToPrompt(PromptToPromptSettings.model_validate(told))
    )
    pairs = neighbours(given.rows)
    some = rows(pairs, given.out)
    scenes = {f"{n:06d}": (a.scene, b.scene, b.changed or "") for n, (a, b) in enumerate(pairs)}
    samples = painted(operator, some, given.out)

    def judged(name: str, sample: Row) -> bool:
        return right(sample, *scenes[name][:2])

    true = [(after, picture(after, SEED, SIDE, same_layout=True, jitter=1.0)) for _, after in pairs]
    unread = np.mean([bool(oracle.difference(one.scene, read_scene(seen))) for one, seen in true])
    report(given, samples, scenes, judged, float(unread))
    page(given.out / f"{given.op}.png", some, samples, judged)


def report(
    given: Any, samples: dict[str, list[Row]], scenes: Any, judged: Any, unread: float
) -> None:
    """Print the tables."""
    verdicts = {n: [judged(n, one) for one in many] for n, many in samples.items()}
    found: dict[str, dict[str, list[bool]]] = {}

    def add(name: str, choose: Callable[[str], list[bool]]) -> None:
        by: dict[str, list[bool]] = defaultdict(list)
        for row in samples:
            by[scenes[row][2]] += choose(row)
        found[name] = by

    add("every sample", lambda row: verdicts[row])
    for score in ("directional", "target"):
        best = Best(KeepSettings(model="bundled:tinyclip", count=1, by=score, least=NO_LEAST))

        def chosen(row: str, best: Best = best) -> list[bool]:
            lost = best.chosen([one["scores"] for one in samples[row]])
            return [v for v, fault in zip(verdicts[row], lost, strict=True) if fault is None]

        add(f"best of {given.samples} by {score}", chosen)
    add("any sample", lambda row: [any(verdicts[row])])
    flat = np.array([one for row in samples for one in verdicts[row]])
    for name in ("directional", "target"):
        values = np.array([one["scores"][name] for row in samples for one in samples[row]])
        for share in (0.5, 0.25):
            least = float(np.quantile(values, share))
            label = f"{name} of {least:.3f} and more, the better {1 - share:.0%}"
            found[label] = {"any": flat[values >= least].tolist()}
    print(f"{given.op}, {len(samples)} rows, {given.samples} samples each\n")
    print(table(found))
    print(f"\nrendered targets that the oracle reads wrongly itself: {unread:.3f}")


if __name__ == "__main__":
    main()

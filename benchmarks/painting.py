"""Pictures per second of painting steps, beside a bare loop of diffusers.

    python benchmarks/painting.py instruct --model bundled:tinyeditor [--rows 32] [--batch-size 8]
    python benchmarks/painting.py prompt_to_prompt --model bundled:tinypainter

Both open the same references, paint with the same weights, seeds, steps, precision and batch size,
and write WebP. The step is called as a run calls it (``prepare`` and the call, a batch at a time),
without Ray, so it runs on any machine with a GPU as well: ``--model hf:…``. The bare loop of
``prompt_to_prompt`` paints both panels plainly, without sharing attention. Rounds alternate; the
median counts. ``--clock cpu`` counts the seconds of the processor, for a machine that is busy with
other work; on a GPU only the wall clock says anything.
"""

from __future__ import annotations

import argparse
import io
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datagen import libraries, models, schema, store
from datagen.edits._pipelines import Named
from datagen.edits.instruct import Instruct, InstructSettings
from datagen.edits.prompt_to_prompt import PromptToPrompt, PromptToPromptSettings
from datagen.sources.tinyworld.captions import captions
from datagen.sources.tinyworld.family import drawn
from datagen.sources.tinyworld.render import picture
from datagen.step import Context

libraries.prepare()
import torch  # noqa: E402
from PIL import Image  # noqa: E402

Row = dict[str, Any]


def rows(count: int, side: int, folder: Path) -> list[Row]:
    """Triplets of rendered scenes; references as PNG files."""
    found: list[Row] = []
    index = 0
    while len(found) < count:
        scene = drawn(11, index, neighbours=0.6, max_objects=2, clips=0.0)
        index += 1
        text = captions(scene, 11)[0][0]
        path = folder / f"{index}.png"
        picture(scene, 11, side, same_layout=True, jitter=1.0).save(path)
        media = {
            "path": str(path), "offset": 0, "size": path.stat().st_size,
            "sha256": store.file_hash(str(path)),
            "modality": "image", "format": "png", "width": side, "height": side,
        }  # fmt: skip
        none = dict.fromkeys(field.name for field in schema.MEMBER)
        member = none | {"id": f"i{index}", "media": media, "caption": text, "labels": "{}"}
        target = member | {"id": f"t{index}", "media": None, "caption": f"{text}, in blue"}
        found.append(
            {
                "id": f"{index:08d}",
                "references": [member],
                "targets": [target],
                "evidence": {"operator": "", "reason": "", "changes": [], "score": None},
                "modification": "make it blue",
            }
        )
    return found


def table(some: list[Row]) -> pa.Table:
    names = ("id", "references", "targets", "evidence", "modification")
    return pa.Table.from_pylist(some, pa.schema([schema.TRIPLETS.field(n) for n in names]))


class Step:
    """The operator, as a run calls it."""

    def __init__(self, operator: Any, some: list[Row], folder: Path) -> None:
        self.operator, self.some, self.folder = operator, some, folder
        self.operator.open(Context(seed=1, staged=str(folder / "staged")))

    def __call__(self) -> int:
        size = self.operator.settings.batch_size
        count = 0
        for at in range(0, len(self.some), size):
            found = self.operator(self.operator.prepare(table(self.some[at : at + size])))
            count += sum(verdict == schema.KEPT for verdict in found["verdict"].to_pylist())
        return count


class Bare:
    """What a script would do: open, paint a batch, save."""

    def __init__(self, operator: Any, some: list[Row], kind: str, folder: Path) -> None:
        self.some, self.kind, self.folder = some, kind, folder
        settings = operator.settings
        self.size, self.steps = settings.batch_size, settings.steps
        loaded = Named(settings, "instruct" if kind == "instruct" else "text", {}).load()
        self.pipe = loaded.pipeline

    def __call__(self) -> int:
        count = 0
        for at in range(0, len(self.some), self.size):
            part = self.some[at : at + self.size]
            told: Row = {"num_inference_steps": self.steps} if self.steps else {}
            if self.kind == "instruct":
                told["image"] = [Image.open(r["references"][0]["media"]["path"]) for r in part]
                told["prompt"] = [row["modification"] for row in part]
                seeds = list(range(len(part)))
            else:
                both = [(r["references"][0]["caption"], r["targets"][0]["caption"]) for r in part]
                told["prompt"] = [text for pair in both for text in pair]
                seeds = [number for number in range(len(part)) for _ in range(2)]
            told["generator"] = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
            pictures = self.pipe(**told).images
            for number, one in enumerate(pictures):
                out = io.BytesIO()
                one.save(out, "WEBP", quality=95, method=4)
                (self.folder / f"bare-{number}.webp").write_bytes(out.getvalue())
            count += len(part)
        return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("op", choices=["instruct", "prompt_to_prompt"])
    parser.add_argument("--model", default="")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--side", type=int, default=64, help="of the references, in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    given = parser.parse_args()
    instruct = given.op == "instruct"
    model = given.model or f"bundled:tiny{'editor' if instruct else 'painter'}"
    told = {
        "model": model, "batch_size": given.batch_size, "precision": given.precision,
        "steps": given.steps, "size": [given.side, given.side],
    }  # fmt: skip
    clock = time.process_time if given.clock == "cpu" else time.perf_counter
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        some = rows(given.rows, given.side, folder)
        operator: Any
        if instruct:
            operator = Instruct(InstructSettings.model_validate(told))
        else:
            operator = PromptToPrompt(PromptToPromptSettings.model_validate(told))
        doers = {
            "bare loop": Bare(operator, some, given.op, folder),
            "step": Step(operator, some, folder),
        }
        seconds: dict[str, list[float]] = {name: [] for name in doers}
        for turn in range(given.rounds + 1):
            for name, doer in doers.items():
                began = clock()
                count = doer()
                assert count == given.rows, f"{name}: {count} of {given.rows} rows"
                if turn:  # the first round warms up
                    seconds[name].append(clock() - began)
    rate = {name: given.rows / statistics.median(one) for name, one in seconds.items()}
    shares = [b / s for b, s in zip(seconds["bare loop"], seconds["step"], strict=True)]
    device = models.device("auto")
    most = (
        torch.cuda.max_memory_allocated() / 2**30
        if device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    )
    print(f"{given.op}, {model}, {device}, batches of {given.batch_size}, {given.clock} clock")
    print("| | rows/s | of the bare loop |\n|---|---:|---:|")
    print(f"| bare loop | {rate['bare loop']:.2f} | 1 |")
    low, high = np.min(shares), np.max(shares)
    print(
        f"| step | {rate['step']:.2f} | {statistics.median(shares):.3f} ({low:.3f} to {high:.3f}) |"
    )
    print(f"\n{most:.1f} GiB at most, both together")


if __name__ == "__main__":
    main()

"""Rows per second of the filter clip_score, beside a plain open_clip loop.

    python benchmarks/clip_scoring.py [--model ViT-B-32] [--rows 64] [--batch-size 32]

Both take the same JPEG files and captions, the same weights, batch size and number of threads, and
give the cosine of each image with its caption. The filter is called as a run calls it: ``prepare``
and the call, batch by batch. Measured are both with decoding, and both on pixels that are decoded
already: in a run decoding goes on beside the model. ``--model bundled:tinyclip`` takes the model
that comes along; any other name is an architecture with random weights. Rounds alternate; the
median counts. ``--clock cpu`` counts the seconds of the processor, for a machine that is busy with
other work. The scores must agree.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from clip_embedding import write_model, write_photos
from PIL import Image

from datagen import models
from datagen.filters.clip_score import ClipScore, ClipScoreSettings
from datagen.step import Context

models.prepare()
import open_clip  # noqa: E402
import torch  # noqa: E402

WORDS = ("red", "blue", "green", "small", "large", "round", "square", "striped", "plain", "two")


def with_captions(items: pa.Table) -> pa.Table:
    """A caption of four to eight words for each item."""
    rng = np.random.default_rng(1)
    texts = [[" ".join(rng.choice(WORDS, rng.integers(4, 9)))] for _ in range(items.num_rows)]
    return items.append_column("captions", pa.array(texts, pa.list_(pa.string())))


class Plain:
    """What a script would do: open, preprocess, stack, encode both, multiply."""

    def __init__(self, folder: str, size: int, device: str) -> None:
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(
            f"local-dir:{folder}", device=device
        )
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self.size, self.device = size, device

    def decoded(self, items: pa.Table) -> list[Any]:
        paths = [row["path"] for row in items["media"].to_pylist()]
        batches = [paths[at : at + self.size] for at in range(0, len(paths), self.size)]
        return [torch.stack([self.preprocess(Image.open(p)) for p in batch]) for batch in batches]

    def scores(self, batches: list[Any], items: pa.Table) -> np.ndarray[Any, Any]:
        texts = [texts[0] for texts in items["captions"].to_pylist()]
        found = []
        with torch.inference_mode():
            for number, pixels in enumerate(batches):
                words = texts[number * self.size : (number + 1) * self.size]
                tokens = self.tokenizer(words).to(self.device)
                image = self.model.encode_image(pixels.to(self.device), normalize=True)
                text = self.model.encode_text(tokens, normalize=True)
                found.append((image * text).sum(dim=1).cpu())
        return torch.cat(found).numpy()


def measure(
    step: ClipScore, plain: Plain, items: pa.Table, rounds: int, clock: Any
) -> dict[str, Any]:
    """Rates of both, in rows a second, and how far their scores are apart."""
    seconds: dict[str, list[float]] = {
        name: [] for name in ("plain decode", "plain model", "filter decode", "filter model")
    }

    def timed(name: str, work: Any) -> Any:
        start = clock()
        out = work()
        seconds[name].append(clock() - start)
        return out

    batches = [items.slice(at, plain.size) for at in range(0, items.num_rows, plain.size)]
    for _ in range(rounds + 1):
        pixels = timed("plain decode", lambda: plain.decoded(items))
        theirs = timed("plain model", lambda pixels=pixels: plain.scores(pixels, items))
        ready = timed("filter decode", lambda: [step.prepare(batch) for batch in batches])
        parts = timed("filter model", lambda ready=ready: [step(batch) for batch in ready])
    ours = pa.concat_tables(parts)["score_clip"].to_numpy()
    # The first round warms up.
    middle = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    whole = {
        name: middle[f"{name} decode"] + middle[f"{name} model"] for name in ("plain", "filter")
    }
    return {
        "threads": torch.get_num_threads(),
        "batch_size": plain.size,
        "plain_rows_per_second": round(items.num_rows / whole["plain"], 2),
        "filter_rows_per_second": round(items.num_rows / whole["filter"], 2),
        "ratio": round(whole["plain"] / whole["filter"], 3),
        "plain_model_rows_per_second": round(items.num_rows / middle["plain model"], 2),
        "filter_model_rows_per_second": round(items.num_rows / middle["filter model"], 2),
        "model_ratio": round(middle["plain model"] / middle["filter model"], 3),
        "largest_difference": float(np.abs(ours - theirs).max().round(5)),
    }


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    chosen = parser.parse_args()
    device = models.device()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        items = with_captions(write_photos(folder, chosen.rows))
        reference = chosen.model
        if not reference.startswith("bundled:"):
            write_model(folder, chosen.model)
            reference = f"file:{folder}"
        where = models.parse(reference).folder
        step = ClipScore(
            ClipScoreSettings(
                model=reference, low=-1, precision="fp32", batch_size=chosen.batch_size
            )
        )
        step.open(Context())
        plain = Plain(where, chosen.batch_size, device)
        clock = time.process_time if chosen.clock == "cpu" else time.perf_counter
        found = measure(step, plain, items, chosen.rounds, clock)
        print(json.dumps({"model": chosen.model, "device": device, **found}))


if __name__ == "__main__":
    main()

"""Images per second of the open_clip embedder, beside a plain open_clip loop.

    python benchmarks/clip_embedding.py [--model ViT-B-32] [--images 64] [--batch-size 32]

Both decode the same JPEG files and run the same random weights at the same batch size and number
of threads. The embedder does more: it decodes within limits, gives each row a verdict, fills up
batches and rounds. Its two halves, decoding on CPU workers and the model, are timed apart as
well, since in a run they overlap. Rounds alternate; the median counts. The vectors of both must
agree.
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
from PIL import Image

from datagen import models, schema
from datagen.embed.open_clip import OpenClip, OpenClipSettings
from datagen.step import Context

models.prepare()
import open_clip  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402


def write_model(folder: Path, architecture: str) -> None:
    """Random weights of ``architecture`` in open_clip's folder format."""
    torch.manual_seed(0)
    model = open_clip.create_model(architecture)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    config = {"model_cfg": open_clip.get_model_config(architecture), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def write_photos(folder: Path, count: int) -> pa.Table:
    """Noisy gradients of 640 x 480 pixels as JPEG, and their items."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((640, 480), Image.Resampling.BICUBIC), np.int16)
        noisy = (smooth + rng.integers(-12, 12, smooth.shape)).clip(0, 255)
        path = folder / f"{number:04d}.jpg"
        Image.fromarray(noisy.astype(np.uint8)).save(path, quality=90)
        known: dict[str, Any] = dict.fromkeys(field.name for field in schema.MEDIA)
        known |= {"path": str(path), "offset": 0, "size": path.stat().st_size}
        rows.append({"id": f"{number:020x}", "media": {**known, "modality": "image"}})
    types = pa.schema([("id", pa.string()), ("media", schema.MEDIA)])
    return pa.Table.from_pylist(rows, schema=types)


def plain(model: Any, preprocess: Any, items: pa.Table, size: int, device: str) -> Any:
    """What a script would do: open, preprocess, stack, encode."""
    paths = [row["path"] for row in items["media"].to_pylist()]
    parts = []
    with torch.inference_mode():
        for start in range(0, len(paths), size):
            batch = [preprocess(Image.open(path)) for path in paths[start : start + size]]
            parts.append(model.encode_image(torch.stack(batch).to(device), normalize=True).cpu())
    return torch.cat(parts).numpy()


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    device = models.device()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_model(folder, chosen.model)
        items = write_photos(folder, chosen.images)
        operator = OpenClip(
            OpenClipSettings(
                space="image",
                model=f"file:{folder}",
                precision="fp32",
                batch_size=chosen.batch_size,
            )
        )
        operator.open(Context())
        model, _, preprocess = open_clip.create_model_and_transforms(
            f"local-dir:{folder}", device=device
        )
        print(json.dumps(measure(operator, model.eval(), preprocess, items, chosen, device)))


def measure(
    operator: OpenClip, model: Any, preprocess: Any, items: pa.Table, chosen: Any, device: str
) -> dict[str, Any]:
    """Rates of both, in images per second, and how far their vectors are apart."""
    size = chosen.batch_size
    seconds: dict[str, list[float]] = {"plain": [], "prepare": [], "model": []}
    for _ in range(chosen.rounds + 1):
        start = time.perf_counter()
        theirs = plain(model, preprocess, items, size, device)
        seconds["plain"].append(time.perf_counter() - start)
        start = time.perf_counter()
        batches = [items.slice(i, size) for i in range(0, items.num_rows, size)]
        prepared = [operator.prepare(batch) for batch in batches]
        seconds["prepare"].append(time.perf_counter() - start)
        start = time.perf_counter()
        parts = [operator(batch) for batch in prepared]
        seconds["model"].append(time.perf_counter() - start)
    vectors = pa.concat_tables(parts)["vector"].combine_chunks().flatten().to_numpy()
    # The first round warms up.
    middle = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    rate = {name: round(items.num_rows / value, 2) for name, value in middle.items()}
    whole = items.num_rows / (middle["prepare"] + middle["model"])
    return {
        "model": chosen.model,
        "device": device,
        "threads": torch.get_num_threads(),
        "batch_size": size,
        "plain_images_per_second": rate["plain"],
        "embedder_images_per_second": round(whole, 2),
        "prepare_images_per_second": rate["prepare"],
        "model_images_per_second": rate["model"],
        "ratio": round(whole / (items.num_rows / middle["plain"]), 3),
        "largest_difference": float(np.abs(vectors.reshape(theirs.shape) - theirs).max()),
    }


if __name__ == "__main__":
    main()

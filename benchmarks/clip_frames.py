"""Frames of clips a second: the open_clip embedder beside plain PyAV on the same frames.

    python benchmarks/clip_frames.py --data ../shared/data [--clips 60] [--frames 8]

Each line is one set of clips, from the files' bytes, in one process and on one thread:

- PyAV, all frames: decodes every frame of the clip; the chosen ones become RGB at full size.
- PyAV, by seeking: for each chosen frame seeks the key frame before it and decodes from there,
  each key frame's part once; the chosen ones become RGB at full size.
- PyAV and Pillow: the quicker of both, then resized and cropped to 224 x 224 (bicubic).
- frames: ``datagen.frames.of`` alone, RGB at full size.
- prepare: what the embedder's CPU workers do: limits, frames, resized to 224 x 224, to Arrow.
- embedder: prepare and the model after each other, a small ViT with random weights.

Rates are chosen frames a second of CPU time. Rounds alternate; the median counts.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
from PIL import Image

from datagen import frames, media, models, schema
from datagen.embed.open_clip import OpenClip, OpenClipSettings
from datagen.step import Context

models.prepare()
import open_clip  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

SETS = {"exercises": "exercise_2phase/*.mp4", "longer": "[im]*/*.m*"}
#: A quarter of ViT-B/32's work and less, with its input of 224 x 224.
MODEL: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 224, "layers": 4, "width": 192, "patch_size": 32},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def write_model(folder: Path) -> None:
    """Random weights in open_clip's folder format."""
    torch.manual_seed(0)
    weights = {k: v.contiguous() for k, v in open_clip.CLIP(**MODEL).state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    config = {"model_cfg": MODEL, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def items_of(paths: list[Path]) -> pa.Table:
    rows = []
    for number, path in enumerate(paths):
        found = media.probe(path.read_bytes())
        known: dict[str, Any] = dict.fromkeys(field.name for field in schema.MEDIA)
        known |= {"path": str(path), "offset": 0, "size": path.stat().st_size}
        known |= {name: getattr(found, name) for name in ("width", "height", "seconds", "frames")}
        rows.append({"id": f"{number:020x}", "media": {**known, "modality": "video"}})
    types = pa.schema([("id", pa.string()), ("media", schema.MEDIA)])
    return pa.Table.from_pylist(rows, schema=types)


def plain_all(path: str, times: list[float]) -> list[Image.Image]:
    """Decode everything; keep the frames shown at ``times`` (sorted)."""
    out: list[Image.Image] = []
    with av.open(io.BytesIO(Path(path).read_bytes())) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        start = None
        for frame in container.decode(stream):
            start = frame.time if start is None else start
            while len(out) < len(times) and frame.time - start >= times[len(out)] - 1e-4:
                out.append(frame.to_image())
    return out


def plain_seek(path: str, times: list[float]) -> list[Image.Image]:
    """Seek the key frame before each of ``times`` (sorted), and decode on from there."""
    out: list[Image.Image] = []
    with av.open(io.BytesIO(Path(path).read_bytes())) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        start = (stream.start_time or 0) * float(stream.time_base or 1)
        keys = []
        for packet in container.demux(stream):
            if packet.is_keyframe and packet.pts is not None:
                keys.append(packet.pts * float(packet.time_base))
        while len(out) < len(times):
            key = max((k for k in keys if k - start <= times[len(out)] + 1e-4), default=keys[0])
            last = sum(t + start < min((k for k in keys if k > key), default=1e9) for t in times)
            container.seek(int(key / float(stream.time_base or 1)), stream=stream)
            for frame in container.decode(stream):
                while len(out) < last and frame.time - start >= times[len(out)] - 1e-4:
                    out.append(frame.to_image())
                if len(out) >= last:
                    break
            else:
                break
    return out


def fitted(pictures: list[Image.Image]) -> list[bytes]:
    """The centre of each, the shorter side 224 pixels (bicubic)."""
    done = []
    for picture in pictures:
        scale = 224 / min(picture.size)
        size = tuple(round(side * scale) for side in picture.size)
        small = picture.resize(size, Image.Resampling.BICUBIC)
        left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
        done.append(np.asarray(small.crop((left, top, left + 224, top + 224))).tobytes())
    return done


def timed(work: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median CPU seconds of each piece of work, after a round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, call in work.items():
            start = time.process_time()
            call()
            if number:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure(operator: OpenClip, items: pa.Table, rounds: int) -> dict[str, float]:
    """Frames a second of each way."""
    choice, size = operator.settings.frames, operator.resources().batch_size
    places = items["media"].to_pylist()
    times = [[frame.seconds for frame in frames.of(place, choice)] for place in places]
    count = sum(map(len, times))
    batches = [items.slice(at, size) for at in range(0, items.num_rows, size)]
    prepared = [operator.prepare(batch) for batch in batches]
    ways = (plain_all, plain_seek)

    def each(way: Any, fit: bool) -> None:
        for place, wanted in zip(places, times, strict=True):
            pictures = way(place["path"], wanted)
            assert len(pictures) == len(wanted), place["path"]
            if fit:
                fitted(pictures)

    work: dict[str, Callable[[], Any]] = {
        "PyAV, all frames": lambda: each(ways[0], False),
        "PyAV, by seeking": lambda: each(ways[1], False),
        "all frames and Pillow": lambda: each(ways[0], True),
        "seeking and Pillow": lambda: each(ways[1], True),
        "frames": lambda: [frames.of(place, choice) for place in places],
        "prepare": lambda: [operator.prepare(batch) for batch in batches],
        "model": lambda: [operator(batch) for batch in prepared],
    }
    seconds = timed(work, rounds)
    both = (seconds.pop("all frames and Pillow"), seconds.pop("seeking and Pillow"))
    seconds["PyAV and Pillow"] = min(both)
    seconds["embedder"] = seconds["prepare"] + seconds.pop("model")
    return {name: count / value for name, value in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = os.environ.get("DATAGEN_TEST_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of real clips")
    parser.add_argument("--clips", type=int, default=60, help="clips of a set, at most")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    lines = {}
    with tempfile.TemporaryDirectory() as place:
        write_model(Path(place))
        settings = OpenClipSettings(
            space="image", model=f"file:{place}", frames=chosen.frames, device="cpu"
        )
        operator = OpenClip(settings)
        operator.open(Context())
        for name, glob in SETS.items():
            paths = sorted((chosen.data / "videos").glob(glob))[: chosen.clips]
            if paths:
                found = measure(operator, items_of(paths), chosen.rounds)
                lines[f"{name} ({len(paths)})"] = found
    ways = ("PyAV, all frames", "PyAV, by seeking", "frames", "PyAV and Pillow", "prepare")
    print(f"| frames a CPU second, {chosen.frames} of each clip | {' | '.join(ways)} | embedder |")
    print("|" + " --- |" * (len(ways) + 2))
    for name, rate in lines.items():
        shown = [f"{rate[way]:,.0f}" for way in (*ways, "embedder")]
        ratio = rate["prepare"] / rate["PyAV and Pillow"]
        print(f"| {name}, prepare / PyAV {ratio:.2f} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()

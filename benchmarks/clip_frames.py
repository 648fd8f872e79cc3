"""Frames of clips a second: the open_clip embedder beside plain PyAV on the same frames.

    python benchmarks/clip_frames.py --data ../shared/data [--clips 60] [--frames 8]
    python benchmarks/clip_frames.py --part rendered

Each line of the first table is one set of clips, from the files' bytes, in one process and on one
thread:

- PyAV, all frames: decodes every frame of the clip; the chosen ones become RGB at full size.
- PyAV, by seeking: for each chosen frame seeks the key frame before it and decodes from there,
  each key frame's part once; the chosen ones become RGB at full size.
- PyAV and Pillow: the quicker of both, then resized and cropped to 224 x 224 (bicubic).
- frames: ``datagen.frames.of`` alone, RGB at full size.
- prepare: what the embedder's CPU workers do: limits, frames, resized to 224 x 224, to Arrow.
- embedder: prepare and the model after each other, a small ViT with random weights.

Rates are chosen frames a second of CPU time. Rounds alternate; the median counts.

The part ``rendered`` needs no data: of a clip of 10 seconds of 1280 x 720 that it renders itself
it gives the CPU seconds of eight frames, and of a plain decode of everything without and with
conversion to RGB; and of a clip of 1920 x 1080 the memory of a process that holds 64 frames
(the most that it ever had, as Linux tells, and how much of it came with the frames).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
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


#: Prints the peak of this process before and after it has taken frames of a clip (bytes).
PEAK = """
import sys
from datagen import frames

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))

data = open(sys.argv[1], "rb").read()
before = peak()
found = frames.sample(data, int(sys.argv[2]))
assert len(found) == int(sys.argv[2])
print(before, peak())
"""


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


def render(path: Path, size: tuple[int, int], seconds: int, rate: int = 30) -> None:
    """Write an H.264 clip: a smooth picture that moves, with grain that stands still."""
    width, height = size
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8))
    wide = np.asarray(small.resize((2 * width, height), Image.Resampling.BICUBIC))
    grain = rng.integers(0, 16, (height, width, 3), dtype=np.uint8)
    count = seconds * rate
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast"}
        for number in range(count):
            left = number * width // count
            pixels = np.maximum(wide[:, left : left + width], 16) - grain
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def decode_all(data: bytes, convert: bool) -> None:
    """Decode every frame on one thread, and make each a picture where ``convert`` says so."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        for frame in container.decode(stream):
            if convert:
                frame.to_image()


def rendered(folder: Path, rounds: int, count: int = 8, held: int = 64) -> None:
    """Print CPU seconds of a clip of 720p, and the memory of frames of 1080p."""
    clip = folder / "720p.mp4"
    render(clip, (1280, 720), 10)
    data = clip.read_bytes()
    seconds = timed(
        {
            f"{count} even frames": lambda: frames.sample(data, count),
            "PyAV, all frames, not converted": lambda: decode_all(data, False),
            "PyAV, all frames, as RGB": lambda: decode_all(data, True),
        },
        rounds,
    )
    print("\n| 10 s of 1280 x 720, 30 frames a second | CPU s |\n|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {value:.2f} |")
    clip = folder / "1080p.mp4"
    render(clip, (1920, 1080), 4)
    command = [sys.executable, "-c", PEAK, str(clip), str(held)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    before, after = (int(value) / 1e9 for value in told.split())
    print(
        f"\n{held} frames of 1920 x 1080: peak {after:.2f} GB, {after - before:.2f} by the frames"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = os.environ.get("DATAGEN_TEST_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of real clips")
    parser.add_argument("--clips", type=int, default=60, help="clips of a set, at most")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=("all", "clips", "rendered"), default="all")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.part != "rendered":
        real(chosen)
    if chosen.part != "clips":
        with tempfile.TemporaryDirectory() as place:
            rendered(Path(place), chosen.rounds)


def real(chosen: argparse.Namespace) -> None:
    """Print the rates of the sets of real clips."""
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

"""``datagen doctor``: what this machine has, and what is missing for which steps."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datagen.cluster.resources import this_machine

#: (distribution, importable name, what needs it, extra of datagen that brings it)
OPTIONAL = (
    ("torch", "torch", "models: embed, clip_score", "models"),
    ("open_clip_torch", "open_clip", "open_clip: references", "models"),
    ("transformers", "transformers", "hf: references", "models"),
    ("sentence-transformers", "sentence_transformers", "caption spaces by a model", "models"),
    ("diffusers", "diffusers", "image edits", "diffusion"),
    ("datasets", "datasets", "datasets of the Hugging Face Hub", "hf"),
    ("vllm", "vllm", "texts by a language model", "vllm"),
    ("s3fs", "s3fs", "s3:// paths", "s3"),
    ("gcsfs", "gcsfs", "gs:// paths", "gs"),
)
CORE = (
    *("ray", "pyarrow", "numpy", "pillow", "av", "faiss-cpu", "scikit-learn", "pydantic"),
    "webdataset",
)


def diagnose(console: Console) -> bool:
    """Print the findings; True where the core is able to run."""
    table = Table(box=None, show_header=False, pad_edge=False)
    healthy = True
    python_fine = sys.version_info >= (3, 11)
    table.add_row(_mark(python_fine), "Python", platform.python_version(), "3.11 or newer")
    for name in CORE:
        version = _version(name)
        healthy &= version is not None
        mend = "" if version else "pip install datagen"
        table.add_row(_mark(version is not None), name, version or "missing", mend)
    missing: dict[str, list[str]] = {}
    for name, _, what, extra in OPTIONAL:
        version = _version(name)
        if version is None:
            missing.setdefault(extra, []).append(name)
        table.add_row(_mark(version is not None, need=False), name, version or "–", what)
    table.add_row(_mark(True), "CPUs", str(os.cpu_count()), "")
    gpus, about = _gpus()
    table.add_row(_mark(gpus != "0", need=False), "GPUs", gpus, about)
    shared = _free("/dev/shm")
    enough = shared is None or shared > 1 << 30
    mend = "" if enough else "small: Ray's object store falls back to disk (docker: --shm-size)"
    table.add_row(_mark(enough, need=False), "/dev/shm", _size(shared), mend)
    temporary = _free(tempfile.gettempdir())
    room = temporary is None or temporary > 5 << 30
    mend = "" if room else "under 5 GB: Ray spills here; set RAY_TMPDIR"
    table.add_row(_mark(room, need=False), tempfile.gettempdir(), _size(temporary), mend)
    cluster = os.environ.get("RAY_ADDRESS")
    table.add_row(
        _mark(True), "RAY_ADDRESS", escape(cluster or "not set"), "local runs" * (not cluster)
    )
    console.print(table)
    if missing:
        console.print("\nNot installed, and needed by some steps only:")
    for extra, names in missing.items():
        mend = escape(f"pip install 'datagen[{extra}]'")
        console.print(f"  {mend}  [dim]{', '.join(names)}[/]", soft_wrap=True, highlight=False)
    return healthy and python_fine


def _mark(good: bool, need: bool = True) -> str:
    return "[green]ok[/]" if good else ("[red]missing[/]" if need else "[yellow]–[/]")


def _version(name: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None


def _free(path: str) -> int | None:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def _size(size: int | None) -> str:
    return "–" if size is None else f"{size / 1e9:.1f} GB free"


def _gpus() -> tuple[str, str]:
    if _version("torch") is None:
        count = int(this_machine().gpus)
        return str(count), "torch is not installed" if count else "model steps run on the CPU"
    import torch

    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        return str(torch.cuda.device_count()), ", ".join(sorted(names))
    if torch.backends.mps.is_available():
        return "1", "Apple (mps)"
    return "0", "model steps run on the CPU"

"""Model libraries made ready: no telemetry, torchvision mended, devices, errors in one line.

Importing this module imports none of them. It works the same in a worker process: whatever loads
a model calls :func:`prepare` first.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datagen.errors import DatagenError, nearest

_lock = threading.Lock()
_defined: list[Any] = []


def prepare() -> None:
    """Call before the first import of a model library: quiet, no telemetry, torchvision mended."""
    quiet()
    mend_torchvision()


def quiet() -> None:
    """Turn off telemetry, and chatter and bars where nobody watches. A user's own values stay."""
    wanted = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    }
    bars_off = not sys.stderr.isatty()
    if bars_off:
        wanted |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    # Libraries that are imported already have read the environment.
    if bars_off and "transformers" in sys.modules:
        sys.modules["transformers"].utils.logging.disable_progress_bar()
    if bars_off and "huggingface_hub" in sys.modules and os.environ["TQDM_DISABLE"] == "1":
        with contextlib.suppress(AttributeError):
            sys.modules["huggingface_hub"].utils.disable_progress_bars()


def mend_torchvision() -> None:
    """Let torchvision be imported where its own compiled library cannot load.

    The packaged torchvision is linked against CUDA; beside a CPU build of torch its library does
    not load, and importing it fails for want of two operators that nothing here calls. Defining
    their signatures is enough. Does nothing where the library loads, where torchvision is absent
    or imported already, and the second time.
    """
    with _lock:
        spec = importlib.util.find_spec("torchvision")
        if _defined or spec is None or "torchvision" in sys.modules:
            return
        if importlib.util.find_spec("torch") is None:
            return
        import torch

        folder = (spec.submodule_search_locations or [""])[0]
        for library in sorted(Path(folder).glob("_C*")):
            with contextlib.suppress(OSError):
                torch.ops.load_library(str(library))
        if hasattr(torch.ops.torchvision, "nms"):
            return
        # The definitions last as long as this object.
        fragment = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            fragment.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _defined.append(fragment)


def import_torch() -> Any:
    """The torch module. Raises DatagenError where it is not installed."""
    with loading("torch"):
        prepare()
        import torch
    return torch


# ---------------------------------------------------------------- devices


def check_choices(device: str, precision: str) -> None:
    """Raise DatagenError where a device or a precision is not one that there is anywhere."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise DatagenError(f"device '{device}': {nearest(device, ['auto', 'cpu', 'cuda', 'mps'])}")
    known = ("auto", "fp32", "bf16", "fp16")
    if precision not in known:
        raise DatagenError(f"precision '{precision}': {nearest(precision, known)}")


def device(choice: str = "auto") -> str:
    """The torch device of ``choice``: auto (cuda, then mps, then cpu), or one of those by name.

    Raises DatagenError where the named device is not there.
    """
    check_choices(choice, "auto")
    if choice == "cpu":
        return choice
    torch = import_torch()
    have = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if choice == "auto":
        return next((name for name, there in have.items() if there), "cpu")
    kind, _, index = choice.partition(":")
    if not have[kind] or (kind == "cuda" and int(index or 0) >= torch.cuda.device_count()):
        raise DatagenError(f"device '{choice}': there is none here; use device: auto or cpu")
    return choice


def precision(choice: str, device: str) -> str:
    """fp32, bf16 or fp16; ``auto`` is bf16 on CUDA (fp16 before Ampere) and fp32 elsewhere."""
    check_choices("auto", choice)
    if choice != "auto":
        return choice
    if not device.startswith("cuda"):
        return "fp32"
    return "bf16" if import_torch().cuda.get_device_capability(device)[0] >= 8 else "fp16"


def gpus(device: str = "auto") -> float:
    """Logical GPUs that a model worker wants: 1 where the cluster (or this machine) has any."""
    if device != "auto":
        return 1.0 if device.startswith("cuda") else 0.0
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
    if importlib.util.find_spec("torch") is None:
        return 0.0
    return 1.0 if import_torch().cuda.is_available() else 0.0


# ---------------------------------------------------------------- errors

_OFFLINE = {
    "OfflineModeIsEnabled",
    "LocalEntryNotFoundError",
    "ConnectError",
    "ConnectionError",
    "TimeoutException",
    "URLError",
}
_MENDS = {
    "GatedRepoError": "it is gated: ask for access on its page, then 'hf auth login'",
    "RepositoryNotFoundError": "no such model on the hub (or a private one: 'hf auth login')",
    "RevisionNotFoundError": "no such revision; name a branch, a tag or a commit after '@'",
    "OutOfMemoryError": "does not fit the memory of the device; use a smaller batch_size or model",
}


@contextlib.contextmanager
def loading(name: str, repository: str = "org/name") -> Iterator[None]:
    """Turn whatever a model library raises in the block into one DatagenError line.

    ``repository`` is what to fetch where the hub cannot be reached.
    """
    try:
        yield
    except DatagenError:
        raise
    except Exception as error:
        raise DatagenError(_explain(name, repository, error)) from error


def _explain(name: str, repository: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or name).partition(".")[0]
        return f"{module} is not installed; needs the extra: pip install 'datagen[models]'"
    kinds: set[str] = set()
    text = str(error)
    seen: BaseException | None = error
    while seen is not None:
        kinds.update(cls.__name__ for cls in type(seen).__mro__)
        text += f" {seen}"
        seen = seen.__cause__ or seen.__context__
    for kind, mend in _MENDS.items():
        if kind in kinds:
            return f"model '{name}': {mend}"
    if kinds & _OFFLINE:
        return (
            f"model '{name}': not in the local cache, and the hub cannot be reached; fetch it "
            f"where there is a network ('hf download {repository}'), set HF_HOME to a cache that "
            "holds it, or name a folder with file:/path"
        )
    if "trust_remote_code" in text:
        return (
            f"model '{name}': runs code of its own; read that code, then set "
            "trust_remote_code: true in this step to allow it"
        )
    first = " ".join(str(error).split())[:300]
    return f"model '{name}': cannot be loaded ({type(error).__name__}: {first})"

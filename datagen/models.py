"""Models by reference: names, files, revisions, devices, and safe loading.

A reference is one line of a recipe:

- ``open_clip:ViT-L-14/openai`` - an open_clip architecture and the tag of its weights;
- ``open_clip:hf-hub:org/name@revision`` - an open_clip model on the Hugging Face hub;
- ``hf:org/name@revision`` - any other model on the hub;
- ``file:/path`` - a folder or file of one's own, in the library's own format;
- ``bundled:name`` - a model that comes with datagen.

Importing this module imports neither torch nor any model library. Weights load from safetensors,
or by ``torch.load(weights_only=True)``; code of a model repository runs only where the user's
settings say ``trust_remote_code: true``.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from datagen import store
from datagen.errors import DatagenError, nearest
from datagen.libraries import (
    check_choices,
    device,
    gpus,
    import_torch,
    loading,
    mend_torchvision,
    precision,
    prepare,
    quiet,
)

__all__ = [
    "ModelRef",
    "at",
    "bundled",
    "check_choices",
    "commit",
    "device",
    "gpus",
    "import_torch",
    "load_sentence_transformer",
    "loading",
    "mend_torchvision",
    "open_clip_weights",
    "parse",
    "precision",
    "prepare",
    "quiet",
    "revision",
    "snapshot",
    "unit_vectors",
]

SCHEMES = ("open_clip", "hf", "file", "bundled")
BUNDLED = Path(__file__).parent / "bundled"
HUB_PREFIX = "hf-hub:"
OPEN_CLIP_CONFIG = "open_clip_config.json"

_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LOOKS = "references look like open_clip:ARCHITECTURE/TAG, hf:org/name, file:/path or bundled:name"
#: What a model's behaviour hangs on, in a folder of weights.
_MODEL_FILES = (
    *(".safetensors", ".bin", ".pt", ".pth", ".json", ".txt", ".model", ".gz", ".npz"),
    ".jinja",  # templates of chats
)


@dataclass(frozen=True)
class ModelRef:
    """A parsed reference.

    name: an architecture, ``hf-hub:org/name``, ``org/name``, an absolute path, or the name of a
    bundled model; tag: the weights' tag of an open_clip architecture, or a revision on the hub
    (empty: ``main``).
    """

    scheme: str
    name: str
    tag: str = ""

    @property
    def repository(self) -> str:
        """``org/name`` on the hub; empty where the model is not named by one."""
        if self.scheme == "hf":
            return self.name
        return self.name.removeprefix(HUB_PREFIX) if self.name.startswith(HUB_PREFIX) else ""

    @property
    def folder(self) -> str:
        """The local folder or file of ``file:`` and ``bundled:`` models; empty for others."""
        if self.scheme == "bundled":
            return str(BUNDLED / self.name)
        return self.name if self.scheme == "file" else ""

    def __str__(self) -> str:
        mark = "@" if self.repository else "/"
        return f"{self.scheme}:{self.name}" + (f"{mark}{self.tag}" if self.tag else "")


def parse(ref: str) -> ModelRef:
    """Read a reference. Raises DatagenError with the nearest valid one; looks at no hub."""
    scheme, colon, rest = ref.partition(":")
    if not colon or scheme not in SCHEMES:
        hint = _LOOKS
        if colon:
            hint = f"no scheme '{scheme}'; {nearest(scheme, SCHEMES)}"
        elif os.path.exists(os.path.expanduser(ref)):
            hint = f"did you mean 'file:{ref}'?"
        elif _REPOSITORY.fullmatch(ref) and "/" in ref and not ref.startswith("."):
            hint = f"no such folder here; did you mean 'hf:{ref}'?"
        raise DatagenError(f"model '{ref}': {hint}")
    if not rest:
        raise DatagenError(f"model '{ref}': nothing stands after '{scheme}:'; {_LOOKS}")
    if scheme == "hf":
        return _parse_repository(ref, "hf", "", rest)
    if scheme == "open_clip" and rest.startswith(HUB_PREFIX):
        return _parse_repository(ref, scheme, HUB_PREFIX, rest.removeprefix(HUB_PREFIX))
    if scheme == "open_clip":
        return _parse_open_clip(ref, rest)
    if scheme == "file":
        return ModelRef("file", os.path.abspath(os.path.expanduser(rest)))
    known = bundled()
    if rest not in known:
        hint = nearest(rest, known) if known else "datagen comes with no models of its own"
        raise DatagenError(f"model '{ref}': {hint}")
    return ModelRef("bundled", rest)


def _parse_repository(ref: str, scheme: str, prefix: str, rest: str) -> ModelRef:
    name, _, revision = rest.partition("@")
    if not _REPOSITORY.fullmatch(name) or (prefix and "/" not in name):
        raise DatagenError(f"model '{ref}': a name on the hub looks like org/name or org/name@rev")
    return ModelRef(scheme, prefix + name, revision)


def _parse_open_clip(ref: str, rest: str) -> ModelRef:
    architecture, _, tag = rest.rpartition("/")
    known = _architectures()
    if not architecture or (known and architecture.replace("/", "-") not in known):
        # "ViT-B/32" has a slash of its own, and no tag.
        whole = rest.replace("/", "-")
        if whole in known:
            raise DatagenError(
                f"model '{ref}': name the weights as well, open_clip:{whole}/TAG; "
                f"such as {', '.join(_tags(whole)[:9]) or 'none'}"
            )
        name = architecture or rest
        raise DatagenError(f"model '{ref}': no architecture '{name}'; {nearest(name, known)}")
    return ModelRef("open_clip", architecture.replace("/", "-"), tag)


def _architectures() -> list[str]:
    """Names of open_clip's architectures, without importing it where that can be helped."""
    if "open_clip" in sys.modules:
        return list(sys.modules["open_clip"].list_models())
    spec = importlib.util.find_spec("open_clip")
    folders = (spec.submodule_search_locations if spec else None) or []
    return [path.stem for f in folders for path in Path(f, "model_configs").glob("*.json")]


def _tags(architecture: str) -> list[str]:
    if importlib.util.find_spec("open_clip") is None:
        return []
    prepare()
    import open_clip

    return list(open_clip.list_pretrained_tags_by_model(architecture))


def bundled() -> list[str]:
    """Names of the models that come with datagen."""
    return sorted(p.name for p in BUNDLED.iterdir() if p.is_dir() and p.name[0] not in "._")


# ---------------------------------------------------------------- revisions and files


def revision(ref: ModelRef) -> str:
    """What identifies the weights: a commit on the hub, or a hash of the files.

    Looks at the local cache first and at the hub only where it has nothing; downloads no weights.
    Raises DatagenError where the model cannot be found.
    """
    if ref.folder:
        return _hash_of(ref)
    if ref.repository:
        return commit(ref.repository, ref.tag, str(ref))
    repository, _, url = open_clip_weights(ref)
    tag, _, wanted = ref.tag.partition("@")
    if repository:
        return f"{tag}@{commit(repository, wanted, str(ref))}"
    # Addresses of single files carry the hash of what lies there.
    found = re.search(r"[0-9a-f]{64}|(?<=-)[0-9a-f]{8}(?=\.\w+$)", url)
    return f"{tag}@{found.group()}" if found else tag


def at(ref: ModelRef, found: str) -> ModelRef:
    """``ref`` held to ``found`` (its :func:`revision`), so that all workers load the same."""
    return replace(ref, tag=found) if found and not ref.folder else ref


def open_clip_weights(ref: ModelRef) -> tuple[str, str, str]:
    """Hub repository, file name ('' for the default) and plain address of a tag's weights.

    Raises DatagenError for an unknown architecture or tag.
    """
    with loading(str(ref)):
        prepare()
        import open_clip
    tag = ref.tag.partition("@")[0]
    config = open_clip.get_pretrained_cfg(ref.name, tag)
    if not config:
        tags = open_clip.list_pretrained_tags_by_model(ref.name)
        raise DatagenError(f"model '{ref}': {ref.name} has no tag '{tag}'; {nearest(tag, tags)}")
    repository, _, name = config.get("hf_hub", "").rpartition("/")
    return repository, name, config.get("url", "")


def _hash_of(ref: ModelRef) -> str:
    path = Path(ref.folder)
    if not path.exists():
        raise DatagenError(f"model '{ref}': no such file or folder")
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in _MODEL_FILES and p.is_file())
    if not files:
        raise DatagenError(f"model '{ref}': the folder holds no model files")
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        name = file.relative_to(path).as_posix()
        digest.update(f"{name}\0{_file_hash(str(file), stat.st_size, stat.st_mtime_ns)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


@functools.lru_cache(maxsize=256)
def _file_hash(path: str, size: int, changed: int) -> str:
    return store.file_hash(path)


def commit(repository: str, revision: str, name: str) -> str:
    """The commit of ``revision`` (main by default): from the local cache, else from the hub."""
    if _COMMIT.fullmatch(revision):
        return revision
    with loading(name, repository):
        prepare()
        import huggingface_hub
        from huggingface_hub import constants

        cache = Path(constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}")
        known = cache / "refs" / (revision or "main")
        if known.is_file():
            return known.read_text().strip()
        try:
            found = huggingface_hub.HfApi().model_info(
                repository, revision=revision or None, timeout=20
            )
        except Exception:
            kept = store.names(str(cache / "snapshots"))
            if len(kept) == 1 and not revision:
                return kept[0]
            raise
        return str(found.sha)


def snapshot(repository: str, revision: str, choices: Sequence[str], also: Sequence[str]) -> str:
    """A local folder with files of a hub repository, downloaded where they are not there yet.

    choices: patterns of weights, the best first: the first that exists is taken; also: patterns
    of the small files beside them. Raises DatagenError.
    """
    with loading(f"hf:{repository}", repository):
        prepare()
        from huggingface_hub import snapshot_download

        at = commit(repository, revision, f"hf:{repository}")
        for choice in choices:
            folder = Path(
                snapshot_download(
                    repository,
                    revision=at,
                    allow_patterns=[choice, *also],
                    ignore_patterns=["onnx/*", "openvino/*"],
                )
            )
            if any(folder.rglob(choice)):
                return str(folder)
    raise DatagenError(f"model 'hf:{repository}': holds none of {', '.join(choices)}")


# ---------------------------------------------------------------- loading


def load_sentence_transformer(
    ref: ModelRef, device: str = "cpu", precision: str = "fp32", trust_remote_code: bool = False
) -> Any:
    """A sentence-transformers model, in eval mode, from ``hf:``, ``file:`` or ``bundled:``.

    Raises DatagenError where it is absent, broken or wants to run code of its own.
    """
    name = str(ref)
    if ref.scheme == "open_clip":
        raise DatagenError(f"model '{name}': a sentence encoder is named by hf: or file:")
    if ref.folder and not os.path.isdir(ref.folder):
        raise DatagenError(f"model '{name}': no such folder")
    code = ["*.py"] if trust_remote_code else []
    folder = ref.folder or snapshot(
        ref.name, ref.tag, ("*.safetensors", "*.bin"), ("*.json", "*.txt", "*.model", *code)
    )
    with loading(name):
        prepare()
        import torch
        from sentence_transformers import SentenceTransformer

        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        model = SentenceTransformer(
            folder, device=device, trust_remote_code=trust_remote_code, local_files_only=True
        )
        return model.to(kinds[precision]).eval()


def unit_vectors(vectors: Any) -> np.ndarray[Any, Any]:
    """Rows of (n, d) scaled to length 1 and rounded to half precision, as float32.

    Kernels may differ in the last bits of float32 between batches; half precision keeps three
    digits, so equal inputs give equal vectors. A row without a direction (zero, or not finite)
    becomes NaN.
    """
    wide = np.asarray(vectors, dtype=np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    length[~np.isfinite(length) | (length == 0)] = np.nan
    with np.errstate(invalid="ignore"):
        rounded: np.ndarray[Any, Any] = (wide / length).astype(np.float16).astype(np.float32)
    return rounded

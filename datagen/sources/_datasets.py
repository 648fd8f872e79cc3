"""Datasets of the library ``datasets``: opened by name or folder, held to one state of the data.

Nothing that a dataset brings along is run: loading scripts and pickles are refused, and no
medium is decoded.
"""

from __future__ import annotations

import functools
import glob
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from datagen import libraries, schema, store
from datagen.errors import DatagenError

_NO_ROWS = "dataset '{}': holds no row"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
_UNREACHED = {
    *("OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "ConnectionError"),
    *("TimeoutException", "URLError"),
}
_MENDS = {
    "GatedRepoError": "it is gated: ask for access on its page, then 'hf auth login'",
    "RepositoryNotFoundError": (
        "no such folder here, and no such dataset on the hub (or a private one: 'hf auth login')"
    ),
    "RevisionNotFoundError": "no such revision; set `revision` to a branch, a tag or a commit",
    "EmptyDatasetError": "holds no file that datasets can read; set `path` to the files themselves",
    "DataFilesNotFoundError": "holds no file that datasets can read (or not in this `config`)",
    "NonMatchingSplitsSizesError": "incomplete: its splits are not as long as its card says",
}


@dataclass(frozen=True)
class Wanted:
    """A dataset as settings name it. ``path`` is a hub name, or a local or remote path."""

    path: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None

    @property
    def on_hub(self) -> bool:
        """Whether the path names a dataset of the hub: nothing of that name lies here."""
        return _HUB_NAME.fullmatch(self.path) is not None and not os.path.exists(self.path)


@dataclass(frozen=True)
class Opened:
    """A split, memory-mapped; what identifies its data; the folders that its media may lie in."""

    rows: Any
    content: str
    roots: tuple[str, ...]


def pinned(wanted: Wanted) -> Wanted:
    """``wanted`` held to a commit, where it is one of the hub. Raises DatagenError."""
    if not wanted.on_hub or _COMMIT.fullmatch(wanted.revision or ""):
        return wanted
    with _loading(wanted):
        import huggingface_hub

        try:
            found = huggingface_hub.HfApi().dataset_info(
                wanted.path, revision=wanted.revision, timeout=20
            )
        except Exception as error:
            kept = _prepared(wanted.path)
            if wanted.revision is None and len(kept) == 1 and _kinds(error) & _UNREACHED:
                return replace(wanted, revision=kept[0])
            raise
    return replace(wanted, revision=str(found.sha))


def opened(wanted: Wanted) -> Opened:
    """The split of a pinned dataset. Raises DatagenError, also where there are several splits."""
    with _loading(wanted):
        saved = _saved(wanted)
        return _from_disk(*saved) if saved else _built(wanted)


@functools.lru_cache(maxsize=2)
def opened_again(wanted: Wanted, content: str) -> Opened:
    """The same in a worker, once per process. Raises DatagenError where the data have changed."""
    found = opened(wanted)
    if found.content != content:
        raise DatagenError(f"dataset '{wanted.path}': changed since the run began; run it again")
    return found


def _loaded() -> Any:
    """The library, quiet: without telemetry, and bars where nobody watches."""
    libraries.quiet()
    # What it logs as an error it raises too, and the one line tells it.
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")
    import datasets

    if os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") == "1":
        datasets.disable_progress_bars()
    return datasets


# --- saved by save_to_disk ---------------------------------------------------------------------


def _saved(wanted: Wanted) -> tuple[str, str] | None:
    """The folder of the split as it was given, and as it lies here; None: not a saved dataset."""
    path = wanted.path.rstrip("/")
    if wanted.on_hub or any(mark in path for mark in "*?["):
        return None
    if store.exists(store.join(path, "dataset_dict.json")):
        splits = [str(name) for name in store.read_json(f"{path}/dataset_dict.json")["splits"]]
        path = store.join(path, _chosen(wanted, splits))
    elif not store.exists(store.join(path, "state.json")):
        return None
    elif wanted.split is not None:
        split = store.read_json(f"{path}/state.json").get("_split")
        if wanted.split != split:
            raise DatagenError(
                f"dataset '{path}': its one split is {split or 'without a name'}; leave out `split`"
            )
    if wanted.config is not None:
        raise DatagenError(
            f"dataset '{path}': save_to_disk wrote it, which keeps one configuration; leave out "
            "`config`"
        )
    return path, store.local_copy(path, store.names(path))


def _chosen(wanted: Wanted, splits: list[str]) -> str:
    if wanted.split in splits:
        return str(wanted.split)
    if wanted.split is None and len(splits) == 1:
        return splits[0]
    what = f"no split '{wanted.split}'" if wanted.split else "has several splits"
    raise DatagenError(
        f"dataset '{wanted.path}': {what}; set `split` to one of {', '.join(splits)}"
    )


def _from_disk(place: str, folder: str) -> Opened:
    content = [f"{name} {store.stamp(store.join(place, name))}" for name in store.names(place)]
    if store.read_json(f"{folder}/state.json").get("_data_files") == []:
        raise DatagenError(_NO_ROWS.format(place))
    rows = _loaded().Dataset.load_from_disk(folder)
    return Opened(rows, schema.content_id(*content), (folder,))


# --- built by datasets -------------------------------------------------------------------------


def _built(wanted: Wanted) -> Opened:
    datasets = _loaded()
    path, given = wanted.path, {}
    patterned = any(mark in path for mark in "*?[")
    if not wanted.on_hub and (patterned or not _folder(path)):
        if patterned and store.is_local(path) and not glob.glob(path, recursive=True):
            raise DatagenError(f"dataset '{path}': no file matches this pattern")
        if not patterned and not store.exists(path):
            raise DatagenError(
                f"dataset '{path}': no such file or folder, nor a name such as org/name; "
                "set `path` to one"
            )
        path, given = _builder_of(path), {"data_files": path}
    builder = datasets.load_dataset_builder(path, wanted.config, revision=wanted.revision, **given)
    if builder.__module__.endswith((".pandas", ".pandas.pandas")):
        raise DatagenError(f"dataset '{wanted.path}': pickled tables are never read")
    content = _commit_of(wanted, builder) if wanted.on_hub else _files_of(builder)
    builder.download_and_prepare()
    rows = builder.as_dataset(split=wanted.split if _sliced(wanted.split) else None)
    if isinstance(rows, dict):
        rows = rows[_chosen(wanted, [str(name) for name in rows])]
    roots = _caches(datasets, wanted.path) if wanted.on_hub else (_top(wanted.path),)
    return Opened(rows, content, roots)


def _sliced(split: str | None) -> bool:
    """Whether datasets itself must read the split: ``train[:10%]``, ``train+test``."""
    return split is not None and any(mark in split for mark in "[+")


def _folder(path: str) -> bool:
    return os.path.isdir(store.local_path(path)) if store.is_local(path) else False


def _builder_of(path: str) -> str:
    """The builder of files by their extension. Raises DatagenError."""
    from datasets.packaged_modules import _EXTENSION_TO_MODULE

    end = os.path.splitext(path.removesuffix(".gz").removesuffix("*"))[1].lower()
    if end not in _EXTENSION_TO_MODULE:
        raise DatagenError(
            f"dataset '{path}': a name such as org/name, a local folder, or files of a known kind "
            "(a glob such as *.parquet, *.arrow or *.tar) expected"
        )
    return str(_EXTENSION_TO_MODULE[end][0])


def _commit_of(wanted: Wanted, builder: Any) -> str:
    """The commit; datasets itself falls back on whatever it has when it reaches no hub."""
    if builder.hash != wanted.revision and type(builder).__name__ == "Cache":
        raise DatagenError(
            f"dataset '{wanted.path}': commit {wanted.revision} is not in the local cache (commit "
            f"{builder.hash} is), and the hub cannot be reached; set `revision` to that one"
        )
    return str(wanted.revision)


def _files_of(builder: Any) -> str:
    """What changes when one of the files does: their names and times."""
    told = [builder.name, builder.config.name]
    for split, files in sorted(builder.config.data_files.items(), key=lambda item: str(item[0])):
        stamps = zip(files, files.origin_metadata, strict=True)
        told += sorted(f"{split} {name} {stamp}" for name, stamp in stamps)
    return schema.content_id(*told)


def _top(path: str) -> str:
    """The folder that a path or a glob starts from."""
    if any(mark in path for mark in "*?["):
        path = re.split(r"[*?\[]", path)[0]
        return path.rpartition("/")[0] or "."
    return path if _folder(path) else os.path.dirname(path) or "."


def _caches(datasets: Any, name: str) -> tuple[str, ...]:
    """Where the hub's files of a dataset lie once they are fetched."""
    from huggingface_hub import constants

    mine = os.path.join(constants.HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}")
    return mine, str(datasets.config.DOWNLOADED_DATASETS_PATH)


def _prepared(name: str) -> list[str]:
    """Commits of a hub dataset that datasets has prepared in its cache."""
    cache = str(_loaded().config.HF_DATASETS_CACHE)
    # datasets names its folders org___name, with capitals of the name told by underscores.
    folders = glob.glob(os.path.join(glob.escape(cache), "*", "*", "*", "*"))
    wanted = _plain(name.replace("/", "___"))
    return sorted(
        {
            os.path.basename(folder)
            for folder in folders
            if _plain(folder.split(os.sep)[-4]) == wanted
            and _COMMIT.fullmatch(os.path.basename(folder))
        }
    )


def _plain(name: str) -> str:
    head, parted, tail = name.rpartition("___")
    return head + parted + tail.replace("_", "").lower()


# --- errors ------------------------------------------------------------------------------------


@contextmanager
def _loading(wanted: Wanted) -> Iterator[None]:
    """Turn whatever the libraries raise in the block into one DatagenError line."""
    try:
        _loaded()
        yield
    except DatagenError:
        raise
    except Exception as error:
        raise DatagenError(f"dataset '{wanted.path}': {_explained(wanted, error)}") from error


def _kinds(error: BaseException) -> set[str]:
    found: set[str] = set()
    seen: BaseException | None = error
    while seen is not None:
        found.update(cls.__name__ for cls in type(seen).__mro__)
        seen = seen.__cause__ or seen.__context__
    return found


def _explained(wanted: Wanted, error: BaseException) -> str:
    if "DatasetGenerationError" in _kinds(error) and error.__cause__ is not None:
        # It says that it failed; what it failed on says why.
        error = error.__cause__
    kinds, text = _kinds(error), " ".join(str(error).split())
    for kind, mend in _MENDS.items():
        if kind in kinds:
            return mend
    if isinstance(error, ModuleNotFoundError):
        return f"needs {error.name}: pip install 'datagen[hf]'"
    if "corresponds to no data" in text:
        return f"split '{wanted.split}' holds no row" if wanted.split else "holds no row"
    if "gated dataset" in text:
        return _MENDS["GatedRepoError"]
    if kinds & _UNREACHED and wanted.on_hub:
        return _unreached(wanted.path)
    if "DatasetNotFoundError" in kinds:
        return _MENDS["RepositoryNotFoundError"]
    if "scripts are no longer supported" in text or "trust_remote_code" in text:
        return (
            "is made by code of its own, which is never run; try revision: refs/convert/parquet, "
            "where the hub keeps a copy as Parquet"
        )
    asked = ("Config name is missing", "Couldn't find cache", "configurations in the cache")
    if any(words in text for words in asked) or re.search("BuilderConfig .* not found", text):
        names = re.findall(r"\[[^\]]*\]", text)
        return f"set `config` to one of {names[0][1:-1]}" if names else f"config: {text[:300]}"
    return f"cannot be read ({type(error).__name__}: {text[:300]})"


def _unreached(name: str) -> str:
    kept = _prepared(name)
    if kept:
        return (
            "the hub cannot be reached (is HF_HUB_OFFLINE set?); the local cache holds commit "
            f"{', '.join(kept)}: set `revision` to it"
        )
    return (
        "no such folder here, nothing in the local cache, and the hub cannot be reached (is "
        "HF_HUB_OFFLINE set?); where "
        f"there is a network, 'hf download {name} --repo-type dataset --local-dir FOLDER', then "
        "set `path` to that folder"
    )

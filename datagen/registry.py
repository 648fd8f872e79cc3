"""Finds operators: by name, by ``package.module:Class``, by ``file.py:Class``, by entry point.

A built-in operator is one module whose name is the operator's name, in the package of its kind,
with one public :class:`~datagen.step.Operator` subclass. Adding a file adds an operator; helper
modules start with an underscore. Packages of others register ``kind.name`` under the entry point
group ``datagen.operators``. Nothing is imported before it is used.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import cloudpickle

from datagen.errors import DatagenError, nearest
from datagen.step import Operator, Settings

ENTRY_POINTS = "datagen.operators"

_base: ContextVar[str] = ContextVar("base", default="")


@dataclass(frozen=True)
class Kind:
    """A kind of step: the package of its operators and the operator meant when none is named."""

    package: str
    default: str | None = None


KINDS: dict[str, Kind] = {
    "source": Kind("datagen.sources"),
    "embed": Kind("datagen.embed"),
    "pair": Kind("datagen.pairing"),
    "text": Kind("datagen.texts"),
    "edit": Kind("datagen.edits"),
    "filter": Kind("datagen.filters"),
    "negatives": Kind("datagen.negatives", "nearest"),
    "split": Kind("datagen.split", "by_group"),
    "shards": Kind("datagen.shards", "webdataset"),
}


@functools.cache
def _built_in(kind: str) -> dict[str, str]:
    package = importlib.import_module(KINDS[kind].package)
    return {
        name: f"{package.__name__}.{name}"
        for _, name, _ in pkgutil.iter_modules(package.__path__)
        if not name.startswith("_")
    }


@functools.cache
def _entry_points(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    points = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return {
        point.name.partition(".")[2]: point
        for point in points
        if point.name.partition(".")[0] == kind
    }


def names(kind: str) -> list[str]:
    """Names of the operators of ``kind``, built in and from installed packages."""
    return sorted({*_built_in(kind), *_entry_points(kind)})


@contextmanager
def starting_from(base: str) -> Iterator[None]:
    """Build operators that name others (``union``), or files, here: these start from ``base``."""
    token = _base.set(base)
    try:
        yield
    finally:
        _base.reset(token)


def beside_recipe(path: str) -> str:
    """A relative path of a file from where it lies: beside the recipe, else in the working
    directory.
    """
    path = os.path.expanduser(path)
    own = os.path.join(_base.get(), path)
    return own if os.path.exists(own) else path


def find(kind: str, op: str, base: str = "") -> type[Operator[Any]]:
    """The operator class meant by ``op``.

    ``base`` is the folder that relative ``file.py`` paths start from (that of the recipe), then
    the working directory. Raises DatagenError with the nearest valid name.
    """
    if ":" in op:
        cls = _from_reference(op, base or _base.get())
    elif op in _built_in(kind):
        cls = _only_operator(importlib.import_module(_built_in(kind)[op]))
    elif op in _entry_points(kind):
        cls = _loaded(_entry_points(kind)[op])
    else:
        raise DatagenError(f"no {kind} operator '{op}'; {nearest(op, names(kind))}")
    if not (isinstance(cls, type) and issubclass(cls, Operator)):
        raise DatagenError(f"{op}: not a subclass of datagen.step.Operator")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise DatagenError(f"{op}: the class does not define {missing}")
    settings = getattr(cls, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, Settings)):
        raise DatagenError(f"{op}: the class does not name its Settings (datagen.step.Settings)")
    return cls


def code_version(cls: type[Operator[Any]]) -> str:
    """What changes when the operator's code changes.

    Operators of this package carry a ``version``; a user's own are known by the text of their
    module, and of the modules of the classes that they derive from. What these import besides is
    not seen: raise ``version`` where it changes what they compute.
    """
    if cls.__module__.partition(".")[0] == "datagen":
        return str(cls.version)
    # The classes that it builds upon count too, where they are the user's own.
    own = [base for base in cls.__mro__ if issubclass(base, Operator)]
    modules = [m for m in dict.fromkeys(base.__module__ for base in own) if m[:8] != "datagen."]
    try:
        text = "".join(inspect.getsource(sys.modules[module]) for module in modules)
    except (OSError, TypeError, KeyError):
        return str(cls.version)
    return f"{cls.version}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _only_operator(module: ModuleType) -> type[Operator[Any]]:
    found = [
        value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, Operator)
        and value.__module__.startswith(module.__name__)
        and not name.startswith("_")
    ]
    if len(found) != 1:
        raise DatagenError(f"{module.__name__}: one operator class expected, {len(found)} found")
    return found[0]


def _from_reference(op: str, base: str) -> type[Operator[Any]]:
    place, _, name = op.rpartition(":")
    module = _module_of_file(place, base) if place.endswith(".py") else _module(place)
    if module.__name__.partition(".")[0] != "datagen":
        # Workers may not have the file: its code travels with the operator.
        cloudpickle.register_pickle_by_value(module)
    try:
        cls: type[Operator[Any]] = getattr(module, name)
    except AttributeError:
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise DatagenError(f"{place}: no class '{name}'; {nearest(name, classes)}") from None
    return cls


def _module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise DatagenError(f"'{name}': package.module:Class or file.py:Class expected")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DatagenError(f"{name}: cannot be imported ({error})") from error
    except Exception as error:
        raise _fails_on_import(name, error) from error


def _loaded(point: importlib.metadata.EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:
        raise _fails_on_import(f"{point.name} ({point.value})", error) from error


def _fails_on_import(place: str, error: Exception) -> DatagenError:
    return DatagenError(f"{place}: fails when imported ({type(error).__name__}: {error})")


def _module_of_file(place: str, base: str) -> ModuleType:
    tried = [os.path.join(folder, os.path.expanduser(place)) for folder in (base, os.getcwd())]
    path = next((os.path.abspath(p) for p in tried if os.path.isfile(p)), None)
    if path is None:
        raise DatagenError(f"{place}: no such file (looked in {base or '.'} and {os.getcwd()})")
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()[:8]
    name = f"datagen_user_{os.path.basename(path)[:-3]}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise DatagenError(f"{place}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _fails_on_import(place, error) from error
    return module

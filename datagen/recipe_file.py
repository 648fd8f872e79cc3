"""Recipe files: YAML, ``extends``, command-line overrides, and the ids that steps go by."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from datagen.errors import DatagenError, RecipeError, nearest

RECIPES = Path(__file__).parent / "recipes"
MISSING = "???"
_VEIL = "<must be given>"
_BARE_MISSING = re.compile(r"([:,\[{]\s*)\?\?\?(?=\s*[,}\]])")
TOP_LEVEL = ("name", "about", "extends", "seed", "media", "source", "steps")


def names() -> list[str]:
    """Names of the recipes that come with datagen."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def find(recipe: str, base: str = "") -> Path:
    """The file of a recipe given by path or by name. Raises DatagenError."""
    if recipe.endswith((".yaml", ".yml")) or os.sep in recipe:
        for folder in (base, ""):
            path = Path(folder, os.path.expanduser(recipe))
            if os.path.isfile(path):
                return path
        raise RecipeError(f"{recipe}: no such recipe file")
    path = RECIPES / f"{recipe}.yaml"
    if not os.path.isfile(path):
        raise RecipeError(f"no recipe '{recipe}'; {nearest(recipe, names())}")
    return path


def read(recipe: str, overrides: Iterable[str] = ()) -> tuple[dict[str, Any], Path]:
    """The recipe as plain values after ``extends``, overrides and interpolation, unchecked."""
    path = find(recipe)
    return completed(_read_yaml(path), overrides, path), path


def completed(
    data: Mapping[str, Any], overrides: Iterable[str] = (), path: Path = Path("recipe")
) -> dict[str, Any]:
    """Plain values after ``extends``, overrides and interpolation, unchecked.

    path: where they come from; ``extends`` starts from its folder.
    """
    merged = _extended(copy.deepcopy(dict(data)), path, [])
    faults: list[str] = []
    for override in overrides:
        try:
            _override(merged, override, path.stem, faults)
        except DatagenError as error:
            faults.append(str(error))
    if faults:
        raise RecipeError(faults)
    try:
        # OmegaConf refuses to look through what is missing; here that is a fault to be told later.
        veiled = _replaced(merged, MISSING, _VEIL)
        plain = OmegaConf.to_container(OmegaConf.create(veiled), resolve=True)
    except OmegaConfBaseException as error:
        raise RecipeError(f"{path.name}: {str(error).splitlines()[0]}") from error
    except RecursionError:
        raise RecipeError(f"{path.name}: values are nested too deeply") from None
    plain = _replaced(plain, _VEIL, MISSING)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(part, old, new) for key, part in value.items()}
    if isinstance(value, list):
        return [_replaced(part, old, new) for part in value]
    return new if isinstance(value, str) and value == old else value


def _extended(data: dict[str, Any], path: Path, seen: list[Path]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise RecipeError(f"{path.name}: extends itself")
    parent = data.pop("extends", None)
    if parent is None:
        return data
    above = find(str(parent), str(path.parent))
    base = _extended(_read_yaml(above), above, [*seen, path.resolve()])
    return _merge(base, data, path.name)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        # In {…} and […] YAML reads a bare ? as the mark of a key.
        text = _BARE_MISSING.sub(r'\1"???"', path.read_text(encoding="utf-8"))
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise RecipeError(f"{path}: cannot be read ({error})") from error
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise RecipeError(f"{path}{line}: {problem}") from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error})") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: a mapping with 'source' and 'steps' expected")
    return data


def _merge(base: dict[str, Any], child: dict[str, Any], place: str) -> dict[str, Any]:
    """Child over base: mappings merge, everything else replaces.

    ``steps`` given as a mapping changes steps of the base by id (null drops one); given as a
    list it replaces them all.
    """
    out = dict(base)
    for key, value in child.items():
        if key == "steps" and isinstance(value, dict):
            out["steps"] = _steps(base.get("steps"), place)
            for name, change in value.items():
                index = step_index(out["steps"], str(name))
                if index is None:
                    known = sorted({alias for ids in _aliases(out["steps"]) for alias in ids})
                    raise RecipeError(f"{place}: steps.{name}: {nearest(str(name), known)}")
                if change is None:
                    del out["steps"][index]
                else:
                    kind = kind_of(out["steps"][index])
                    settings = _mapping(out["steps"][index][kind], f"{place}: steps.{name}")
                    change = _mapping(change, f"{place}: steps.{name}")
                    # Another operator has other settings, as another type of source has.
                    old = settings.get("op", change.get("op"))
                    own = {"id": settings["id"]} if "id" in settings else {}
                    other = change.get("op", old) != old
                    out["steps"][index] = {kind: {**(own if other else settings), **change}}
        elif isinstance(value, dict) and isinstance(out.get(key), dict):
            # Another type of source has other settings: nothing of the old one is kept.
            old = out[key].get("type")
            other = key == "source" and value.get("type", old) != old
            out[key] = value if other else {**out[key], **value}
        else:
            out[key] = value
    return out


def _override(data: dict[str, Any], override: str, place: str, faults: list[str]) -> None:
    name, equals, text = override.partition("=")
    if not equals:
        faults.append(f"{override}: overrides look like source.path=VALUE")
        return
    value = _value(text)
    head, *rest = name.split(".")
    if head not in TOP_LEVEL:
        faults.append(f"{name}: {place} has no '{head}'; {nearest(head, TOP_LEVEL)}")
        return
    if head == "steps":
        if not rest or (len(rest) < 2 and value is not None and not isinstance(value, dict)):
            faults.append(
                f"{name}: overrides of steps look like steps.STEP.SETTING=VALUE, "
                "steps.STEP={op: …} for another operator, or steps.STEP=null to leave one out"
            )
            return
        steps = _steps(data.get("steps"), place)
        index = step_index(steps, rest[0])
        if index is None:
            known = sorted({alias for ids in _aliases(steps) for alias in ids})
            faults.append(f"{name}: no step '{rest[0]}'; {nearest(rest[0], known)}")
            return
        data["steps"] = steps
        if len(rest) == 1:
            instead = [] if value is None else [{kind_of(steps[index]): value}]
            data["steps"] = [*steps[:index], *instead, *steps[index + 1 :]]
            return
        kind = kind_of(steps[index])
        steps[index][kind] = _mapping(steps[index][kind], f"steps.{rest[0]}")
        target, rest = steps[index][kind], rest[1:]
    elif not rest:
        data[head] = value
        return
    elif head == "source" and isinstance(data.get(head), list):
        found = _listed_source(data, name, rest, faults)
        if found is None:
            return
        target, rest = found, rest[1:]
    else:
        data[head] = _mapping(data.get(head), f"{name}: {head}")
        target = data[head]
    for key in rest[:-1]:
        target[key] = _mapping(target.get(key), f"{name}: {key}")
        target = target[key]
    target[rest[-1]] = value


def _listed_source(
    data: dict[str, Any], name: str, rest: Sequence[str], faults: list[str]
) -> dict[Any, Any] | None:
    """The source of a list whose setting the override ``name`` changes."""
    data["source"] = [dict(one) if isinstance(one, dict) else one for one in data["source"]]
    known = {_source_id(one): one for one in data["source"] if isinstance(one, dict)}
    if rest[0] not in known:
        faults.append(f"{name}: no source '{rest[0]}'; {nearest(rest[0], known)}")
    elif len(rest) == 1:
        faults.append(f"{name}: overrides of sources look like source.ID.SETTING=VALUE")
    else:
        return known[rest[0]]
    return None


def _source_id(source: Mapping[str, Any]) -> str:
    """What a source of a list goes by."""
    return str(source.get("id") or source.get("type") or "").rpartition(":")[2]


def _value(text: str) -> Any:
    """What the text of an override means: YAML where it is, else the text as it stands."""
    if not text:
        return ""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    # An unquoted text is meant whole: YAML would drop what looks like a comment.
    return text.strip() if isinstance(value, str) and text.strip()[0] not in "'\"|>!&" else value


def _mapping(value: Any, place: str) -> dict[Any, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise RecipeError(f"{place}: settings in the form key: value expected, {value!r} found")
    return dict(value or {})


def _steps(value: Any, place: str) -> list[dict[str, Any]]:
    """A list of steps that may be changed. Raises DatagenError where it is something else."""
    steps = [] if value is None else value
    if not isinstance(steps, list) or not all(isinstance(s, dict) and len(s) == 1 for s in steps):
        raise RecipeError(f"{place}: steps: a list of 'kind: {{settings}}' expected")
    return [dict(step) for step in steps]


def kind_of(step: Mapping[str, Any]) -> str:
    """The kind of a step as it stands in a recipe."""
    return str(next(iter(step)))


def _aliases(steps: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Names by which each step may be called, the best first; ambiguous ones are left out."""
    wanted: list[list[str]] = []
    for step in steps:
        kind = kind_of(step) if isinstance(step, dict) and step else ""
        settings = step.get(kind) if isinstance(step, dict) else None
        settings = settings if isinstance(settings, dict) else {}
        explicit = settings.get("id")
        own = [str(explicit)] if explicit else []
        if kind == "embed" and settings.get("space"):
            own.append(f"embed_{settings['space']}")
        op = str(settings.get("op") or "").rpartition(":")[2]
        wanted.append([*own, *([op] if op else []), kind])
    flat = [alias for aliases in wanted for alias in set(aliases)]
    return [[a for a in aliases if flat.count(a) == 1] for aliases in wanted]


def step_index(steps: Sequence[Mapping[str, Any]], name: str) -> int | None:
    """Which step ``name`` means: its id, operator, space or kind; None where that is not one."""
    hits = [index for index, aliases in enumerate(_aliases(steps)) if name in aliases]
    if not hits:
        numbered = step_ids(steps)
        hits = [index for index, one in enumerate(numbered) if one == name]
    return hits[0] if len(hits) == 1 else None


def step_ids(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """One id per step: its own, or the first of space, operator and kind, numbered if needed."""
    out: list[str] = []
    for step in steps:
        kind = kind_of(step) if isinstance(step, dict) and step else "step"
        settings = step.get(kind) if isinstance(step, dict) else None
        settings = settings if isinstance(settings, dict) else {}
        op = str(settings.get("op") or "").rpartition(":")[2]
        name = str(settings.get("id") or "")
        if not name:
            space = settings.get("space", MISSING)
            embed = f"embed_{space}" if kind == "embed" and space != MISSING else ""
            stem = name = embed or op or kind
            number = 2
            while name in out:
                name = f"{stem}_{number}"
                number += 1
        out.append(name)
    return out


def missing(value: Any, where: str = "") -> list[str]:
    """Places where ``???`` still stands."""
    if value == MISSING:
        return [where]
    if isinstance(value, Mapping):
        return [w for k, v in value.items() for w in missing(v, f"{where}.{k}".lstrip("."))]
    if isinstance(value, list) and where == "source":
        named = [(_source_id(v) if isinstance(v, dict) else n, v) for n, v in enumerate(value)]
        return [w for n, v in named for w in missing(v, f"{where}.{n}")]
    if isinstance(value, list) and where != "steps":
        return [w for n, v in enumerate(value) for w in missing(v, f"{where}.{n}")]
    if isinstance(value, list):
        # A step is called by its id, as overrides do.
        ids = step_ids([step if isinstance(step, dict) else {} for step in value])
        return [
            w
            for name, step in zip(ids, value, strict=True)
            if isinstance(step, dict)
            for settings in step.values()
            for w in missing(settings, f"steps.{name}")
        ]
    return []

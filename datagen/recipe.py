"""Recipes: a source and a list of steps in YAML, checked whole before the first row.

Checking collects every fault it can see, one line each with its place and the nearest valid name:
keys, settings (pydantic), types (columns that a step needs and an earlier one gives), then the
machine (extras, files, models).
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datagen import registry
from datagen.errors import DatagenError, RecipeError, nearest, of_settings
from datagen.recipe_file import TOP_LEVEL, kind_of, missing, read, step_ids
from datagen.schema import Level
from datagen.step import Embedder, Operator, Resources, Source
from datagen.unmet import SPACE_WORDS, absent, of_level, of_need, of_result

STEP_KINDS = tuple(kind for kind in registry.KINDS if kind != "source")
RESOURCES = frozenset(Resources.__dataclass_fields__)
#: Keys of a source that are no settings of its operator.
SOURCE_KEYS = ("type", "id", "license")
#: What sources give of items; a step that gives it too changes it.
OF_ITEMS = frozenset({"items.media", "items.captions", "items.labels"})
_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class MediaLimits(BaseModel):
    """Limits on untrusted media; larger files are refused, not read.

    max_bytes: of an image; max_video_bytes: of a clip; max_pixels: width x height from the
    header; min_side: pixels of the shorter side; max_seconds, max_frames: of a clip; verify:
    decode every file once on the way in (of a clip some stretches), so that truncated ones are
    found.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    max_bytes: int = Field(64 << 20, gt=0)
    max_video_bytes: int = Field(1 << 30, gt=0)
    max_pixels: int = Field(80_000_000, gt=0)
    min_side: int = Field(1, ge=1)
    max_seconds: float = Field(600.0, gt=0, allow_inf_nan=False)
    max_frames: int = Field(36_000, gt=0)
    verify: bool = True


@dataclass(frozen=True)
class Step:
    """One operator of a recipe, with its checked settings.

    lasting: columns of earlier steps that say nothing of a row's text, and outlive another one.
    """

    id: str
    kind: str
    op: str
    operator: Operator[Any]
    before: Level
    after: Level
    resources: Resources
    lasting: frozenset[str] = frozenset()

    @property
    def makes_rows(self) -> bool:
        """Whether other rows come out than go in."""
        return self.after != self.before or getattr(self.operator, "makes", False)

    @property
    def makes_items(self) -> bool:
        """Whether it makes items that were not there before."""
        return "collection" in self.operator.gives(self.before)


@dataclass(frozen=True)
class Origin:
    """A source of a recipe. ``id`` is what its items call it, ``license`` what the user says."""

    id: str
    type: str
    source: Source[Any]
    license: str = ""


@dataclass(frozen=True)
class Recipe:
    """A recipe that has passed every check.

    ``resolved`` is what was meant, as plain values; ``base`` the folder of its file.
    """

    name: str
    about: str
    seed: int
    media: MediaLimits
    sources: tuple[Origin, ...]
    steps: tuple[Step, ...]
    resolved: dict[str, Any] = field(repr=False)
    base: str = ""


def load(recipe: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read and check a recipe. Raises RecipeError with every fault found."""
    data, path = read(recipe, overrides)
    return check(data, place=path.name, base=str(path.parent))


def check(
    data: Mapping[str, Any], place: str = "recipe", base: str = "", look_at_sources: bool = True
) -> Recipe:
    """Check a recipe given as plain values. Raises RecipeError with every fault found.

    place, base: name and folder of its file; look_at_sources: whether they must be there.
    """
    faults = [
        f"{place}: {key}: unknown key; {nearest(str(key), TOP_LEVEL)}"
        for key in data
        if key not in TOP_LEVEL
    ]
    faults += [
        f"{place}: {where}: must be given, for example {where}=VALUE on the command line"
        for where in missing(data)
    ]
    if faults:
        raise RecipeError(faults)
    try:
        json.dumps(data)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{place}: only plain values can stand in a recipe ({error})") from error
    media = _validated(MediaLimits, data.get("media") or {}, f"{place}: media", faults)
    sources = _sources(data.get("source"), place, base, faults)
    drafts = _drafts(data.get("steps"), place, faults)
    steps = _typed(drafts, sources, place, base, faults)
    seed = data.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 63:
        faults.append(f"{place}: seed: a whole number from 0 expected, {seed!r} found")
    if faults or media is None:
        raise RecipeError(faults)
    _check_machine(sources if look_at_sources else (), steps, place)
    return Recipe(
        name=str(data.get("name") or Path(place).stem),
        about=str(data.get("about") or ""),
        seed=seed,
        media=media,
        sources=tuple(sources),
        steps=tuple(steps),
        resolved=dict(data),
        base=base,
    )


@dataclass
class _Draft:
    id: str
    kind: str
    settings: dict[str, Any]
    op: str
    resources: dict[str, Any]


def _validated(model: type[BaseModel], data: Any, place: str, faults: list[str]) -> Any:
    if not isinstance(data, Mapping):
        faults.append(f"{place}: settings in the form key: value expected, {data!r} found")
        return None
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        faults += of_settings(place, error, data, model.model_fields)
    except DatagenError as error:
        faults.append(f"{place}: {error}")
    return None


def _built(
    kind: str, op: str, data: Mapping[str, Any], place: str, base: str, faults: list[str]
) -> Operator[Any] | None:
    try:
        cls = registry.find(kind, op, base)
    except DatagenError as error:
        faults.append(f"{place}: {error}")
        return None
    settings = _validated(cls.Settings, data, place, faults)
    if settings is None:
        return None
    try:
        with registry.starting_from(base):
            operator = cls(settings)
    except DatagenError as error:
        faults.append(f"{place}: {error}")
        return None
    operator.registered_name = op.rpartition(":")[2]  # type: ignore[attr-defined]
    return operator


def _sources(data: Any, place: str, base: str, faults: list[str]) -> list[Origin]:
    """The recipe's source, or its list of sources; what is wrong with one goes to ``faults``."""
    given = data if isinstance(data, list) else [data]
    if not given:
        faults.append(f"{place}: source: an empty list; give one source at least")
    found: list[Origin] = []
    for number, one in enumerate(given, 1):
        name = str(one.get("id") or number) if isinstance(one, Mapping) else str(number)
        where = f"{place}: source.{name}" if isinstance(data, list) else f"{place}: source"
        origin = _source(one, where, base, faults)
        if origin is None:
            continue
        if origin.id in [other.id for other in found]:
            faults.append(f"{where}: two sources are called '{origin.id}'; give each an id")
        found.append(origin)
    return found


def _source(data: Any, where: str, base: str, faults: list[str]) -> Origin | None:
    if not isinstance(data, Mapping):
        faults.append(f"{where}: must be given, such as {{type: folder, path: …}}")
        return None
    if "type" not in data:
        known = ", ".join(registry.names("source"))
        faults.append(f"{where}.type: must be given; valid: {known}")
        return None
    kind = str(data["type"])
    settings = {key: value for key, value in data.items() if key not in SOURCE_KEYS}
    for key in ("id", "license"):
        if not isinstance(data.get(key, ""), (str, int)) or isinstance(data.get(key), bool):
            faults.append(f"{where}.{key}: a text expected, {data[key]!r} found")
    operator = _built("source", kind, settings, where, base, faults)
    if operator is not None and not isinstance(operator, Source):
        faults.append(f"{where}.type: {kind} is not a source")
        return None
    name = str(data.get("id") or kind).rpartition(":")[2]
    return Origin(name, kind, operator, str(data.get("license", ""))) if operator else None


def _drafts(data: Any, place: str, faults: list[str]) -> list[_Draft]:
    if not isinstance(data, list) or not data:
        faults.append(f"{place}: steps: a list of steps expected")
        return []
    drafts: list[_Draft] = []
    ids = step_ids([step if isinstance(step, dict) else {} for step in data])
    for number, (step, name) in enumerate(zip(data, ids, strict=True), 1):
        if not isinstance(step, dict) or len(step) != 1:
            faults.append(f"{place}: step {number}: one 'kind: {{settings}}' expected")
            continue
        kind, settings = kind_of(step), next(iter(step.values()))
        where = f"{place}: steps.{name}"
        if kind not in STEP_KINDS:
            faults.append(f"{where}: no kind of step '{kind}'; {nearest(kind, STEP_KINDS)}")
            continue
        if settings is not None and not isinstance(settings, dict):
            faults.append(f"{where}: settings in the form key: value expected")
            continue
        settings = dict(settings or {})
        settings.pop("id", None)
        if not _ID.fullmatch(name):
            faults.append(f"{where}: an id has letters, digits, '_' and '-' only")
        if name in [draft.id for draft in drafts]:
            faults.append(f"{where}: two steps have this id")
        op = settings.pop("op", None) or registry.KINDS[kind].default
        if op is None and kind == "embed":
            from datagen.embed import operator_for

            op = operator_for(settings)
        if op is None:
            known = ", ".join(registry.names(kind))
            faults.append(f"{where}.op: must be given; valid: {known}")
            continue
        resources = settings.pop("resources", None) or {}
        drafts.append(_Draft(name, kind, settings, str(op), resources))
    return drafts


def _typed(
    drafts: list[_Draft],
    sources: Sequence[Origin],
    place: str,
    base: str,
    faults: list[str],
) -> list[Step]:
    """Build the steps and check that each finds the level and the columns that it needs."""
    level: Level = "items"
    # An item that lacks what another source gives gets its verdict in the step that needs it.
    have = {given for origin in sources for given in origin.source.gives("items")}
    have.add("collection")
    lasting: set[str] = set()
    of_rows: set[str] = set()
    outdated: set[str] = set()
    readers: dict[str, str] = {}
    steps: list[Step] = []
    sound = not faults
    for draft in drafts:
        where = f"{place}: steps.{draft.id}"
        operator = _built(draft.kind, draft.op, draft.settings, where, base, faults)
        if operator is None:
            sound = False
            continue
        if not sound:
            # After an earlier fault nothing is known of levels and columns: settings only.
            continue
        if level not in operator.levels:
            faults.append(f"{where}: {of_level(draft.op, operator, level)}")
            sound = False
            continue
        for need in absent(operator.needs(level), have):
            faults.append(f"{where}: {of_need(need, have, outdated)}")
            sound = False
        for late in sorted(operator.before & have):
            faults.append(f"{where}: '{late}' is there already; put this step before what gives it")
            sound = False
        if fault := of_result(draft.op, operator, level):
            faults.append(f"{where}: {fault}")
            sound = False
        resources = _resources(operator, draft.resources, where, faults)
        after = operator.leaves(level)
        step = Step(draft.id, draft.kind, draft.op, operator, level, after, resources)
        steps.append(replace(step, lasting=frozenset(lasting)))
        given = operator.gives(level)
        for late in sorted(given & OF_ITEMS & set(readers)):
            faults.append(
                f"{where}: changes '{late}', which step '{readers[late]}' has read by then; put "
                "this step before that one"
            )
            sound = False
        for need in operator.needs(level) - given:
            readers.setdefault(need, draft.id)
        if "modification" not in operator.needs(level):
            lasting |= given
        if level != "items" and not getattr(operator, "on_items", False):
            of_rows |= {name for name in given if name.startswith("score_")}
        if step.makes_items:
            # No space of before holds the items that this step makes.
            old = {one for one in have if one.partition(".")[0] in ("space", *SPACE_WORDS)}
            outdated |= {one.removeprefix("space.") for one in old if one.startswith("space.")}
            have -= old - {"collection"}
        spaces = [one.removeprefix("space.") for one in given if one.startswith("space.")]
        have |= given | {f"collection.{name}" for name in spaces}
        have -= {f"earlier.{name}" for name in spaces}
        if level == "items":
            have |= {f"earlier.{name}" for name in spaces if f"texts.{name}" in given}
        if isinstance(operator, Embedder) and operator.needs("items") == {"items.media"}:
            have |= {f"media.{name}" for name in spaces}
        if after != level:
            have.add("pairs")
        if (level, after) == ("triplets", "pairs"):
            have -= {"modification", "negatives", "split", *of_rows}
        level = after
    return steps


def _resources(operator: Operator[Any], wanted: Any, where: str, faults: list[str]) -> Resources:
    base = operator.resources()
    if not isinstance(wanted, Mapping):
        faults.append(f"{where}.resources: key: value expected, {wanted!r} found")
        return base
    values = {name: getattr(base, name) for name in RESOURCES}
    # An operator may have said ``gpus=1``, of which a recipe may want a half.
    kinds = {name: type(getattr(Resources(), name)) for name in RESOURCES}
    for key, value in wanted.items():
        if key not in RESOURCES:
            faults.append(f"{where}.resources.{key}: unknown; {nearest(str(key), RESOURCES)}")
        elif isinstance(value, bool) != (kinds[key] is bool) or not isinstance(value, (int, float)):
            told = "true or false" if kinds[key] is bool else "a number"
            faults.append(f"{where}.resources.{key}: {told} expected, {value!r} found")
        elif not math.isfinite(value) or value < 0 or (key == "batch_size" and value < 1):
            faults.append(f"{where}.resources.{key}: {value} is too small or too large")
        else:
            if kinds[key](value) != value:
                faults.append(f"{where}.resources.{key}: a whole number expected, {value} found")
            values[key] = kinds[key](value)
    return Resources(**values)


def _check_machine(sources: Sequence[Origin], steps: Sequence[Step], place: str) -> None:
    """Extras, files and models, once the recipe itself is sound."""
    faults: list[str] = []
    named: list[tuple[str, Operator[Any]]] = [
        ("source" if len(sources) == 1 else f"source.{origin.id}", origin.source)
        for origin in sources
    ]
    named += [(f"steps.{step.id}", step.operator) for step in steps]
    for where, operator in named:
        absent = [
            f"{place}: {where}: needs '{module}': pip install 'datagen[{extra}]'"
            for module, extra in operator.requires
            if importlib.util.find_spec(module) is None
        ]
        faults += absent or [f"{place}: {where}: {fault}" for fault in operator.check()]
    if faults:
        raise RecipeError(faults)

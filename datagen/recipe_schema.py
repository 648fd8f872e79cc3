"""The JSON Schema of recipes (draft 2020-12), by which editors complete and check them.

It is read off the operators themselves: their settings, defaults, ranges and docstrings. What a
schema cannot see (columns that a step needs, files, models) is left to ``datagen plan``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from datagen import registry
from datagen.errors import DatagenError
from datagen.recipe import STEP_KINDS, MediaLimits
from datagen.reference import _plain
from datagen.settings_schema import OPEN, Models, Schema, any_of, opened
from datagen.step import Operator, Resources

#: Operators of a kind by name; None: one that cannot be imported.
Operators = Mapping[str, type[Operator[Any]] | None]

_OPEN: Schema = {"$ref": "#/$defs/open"}
_ID: Schema = {
    "description": "How the step is called; by default its operator, embed_SPACE or its kind.",
    "type": "string",
}
_OWN: Schema = {
    "description": "Your own operator: file.py:Class or package.module:Class.",
    "type": "string",
    "pattern": ":",
}
_STEP_KEYS: Schema = {"op": {}, "id": _ID, "resources": {"$ref": "#/$defs/resources"}}
_SOURCE_KEYS: Schema = {
    "id": {"description": "What its items call it; by default its type.", **_ID},
    "license": {"description": "Its licence, as an SPDX id if there is one.", "type": "string"},
}
_SOURCE_KEYS["id"]["description"] = "What its items call it; by default its type."
_RESOURCES = {
    "cpus": "logical CPUs of a worker",
    "gpus": "GPUs of a worker; a share such as 0.5 is possible",
    "memory": "bytes of RAM of a worker (0: not reserved)",
    "batch_size": "rows of a call",
    "workers": "how many at most (0: as many as fit)",
    "actor": "keep one object alive per worker",
}


def recipe_schema() -> Schema:
    """The schema, as plain values."""
    kinds = [*STEP_KINDS, "source"]
    operators = {
        kind: {name: _found(kind, name) for name in registry.names(kind)} for kind in kinds
    }
    models = Models(operators)
    defs: dict[str, Schema] = {"open": OPEN, "resources": _resources(), **models.shared}
    for kind in STEP_KINDS:
        defs[f"step-{kind}"] = _kind(kind, operators[kind], models, defs)
        defs[f"member-{kind}"] = _member(kind, operators[kind], models, defs)
    defs["source"] = _source(operators["source"], models, defs, whole=True)
    defs["source-change"] = _source(operators["source"], models, defs, whole=False)
    defs["step-changes"] = _changes(operators, models, defs)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "datagen recipe",
        "type": "object",
        "additionalProperties": False,
        "properties": _top(models),
        "if": {"required": ["extends"]},
        "then": {
            "properties": {
                "source": _one_or_many("source-change"),
                "steps": {"anyOf": [{"$ref": "#/$defs/steps"}, {"$ref": "#/$defs/step-changes"}]},
            }
        },
        "else": {
            "required": ["source", "steps"],
            "properties": {"source": _one_or_many("source"), "steps": {"$ref": "#/$defs/steps"}},
        },
        "$defs": defs | _lists(),
    }


def _found(kind: str, name: str) -> type[Operator[Any]] | None:
    try:
        return registry.find(kind, name)
    except DatagenError:
        # A broken package of others must not take the schema away: its settings are not checked.
        return None


def _resources() -> Schema:
    properties: dict[str, Schema] = {}
    for field in fields(Resources):
        if isinstance(field.default, bool):
            kind: Schema = {"type": "boolean"}
        else:
            kind = {"type": "number", "minimum": 1 if field.name == "batch_size" else 0}
        properties[field.name] = opened({"description": _RESOURCES[field.name], **kind})
    return {
        "description": "What a worker of the step wants, where the operator's own is not right.",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _closed(own: Schema, more: Mapping[str, Schema], whole: bool = True) -> Schema:
    """A mapping of settings where nothing else may stand."""
    made: Schema = {"type": "object", "properties": {**more, **own["properties"]}}
    if whole and own["required"]:
        made["required"] = own["required"]
    return made | {"additionalProperties": False}


def _about(cls: type[Operator[Any]]) -> str:
    return " ".join(_plain((inspect.getdoc(cls) or "").partition("\n\n")[0]).split())


def _choice(
    key: str,
    operators: Operators,
    refs: Mapping[str, str],
    otherwise: Schema,
) -> Schema:
    """A mapping whose settings are those of the operator that ``key`` names.

    refs: definition of each operator's settings; otherwise: what holds without ``key``.
    """
    named = [
        {"const": name, "description": _about(cls)} if cls else {"const": name}
        for name, cls in operators.items()
    ]
    cases: list[Schema] = [
        {
            "if": {"properties": {key: {"const": name}}, "required": [key]},
            "then": {"$ref": f"#/$defs/{ref}"},
        }
        for name, ref in refs.items()
    ]
    cases.append({"if": {"not": {"required": [key]}}, "then": otherwise})
    return {
        "type": "object",
        "properties": {key: {"anyOf": [*named, _OWN, _OPEN]}},
        "allOf": cases,
    }


def _kind(
    kind: str,
    operators: Operators,
    models: Models,
    defs: dict[str, Schema],
) -> Schema:
    """The settings of a step of one kind, by its ``op``."""
    refs: dict[str, str] = {}
    for name, cls in operators.items():
        if cls is not None:
            refs[name] = f"{kind}.{name}"
            defs[refs[name]] = {
                "description": _about(cls),
                **_closed(models.of(cls.Settings), _STEP_KEYS),
            }
    default = registry.KINDS[kind].default
    if default is not None:
        otherwise: Schema = {"$ref": f"#/$defs/{refs[default]}"}
    elif kind == "embed":
        # The operator follows from the model.
        otherwise = {"anyOf": [{"$ref": f"#/$defs/{ref}"} for ref in refs.values()]}
    else:
        otherwise = {"required": ["op"]}
    made = _choice("op", operators, refs, otherwise)
    return {"anyOf": [made, {"type": "null"}]} if default is not None else made


def _member(kind: str, operators: Operators, models: Models, defs: dict[str, Schema]) -> Schema:
    """An operator of one kind that is a setting of another (``union.of``): no step of its own."""
    refs: dict[str, str] = {}
    for name, cls in operators.items():
        if cls is not None:
            refs[name] = f"member.{kind}.{name}"
            own = _closed(models.of(cls.Settings), {"op": {}})
            defs[refs[name]] = {"description": _about(cls), **own}
    return _choice("op", operators, refs, {"required": ["op"]})


def _changes(operators: Mapping[str, Operators], models: Models, defs: dict[str, Schema]) -> Schema:
    """Changes to steps of the recipe that is extended, by id.

    A step that goes by its operator, its space or its kind may get what that may say; what a step
    with an id of its own is, only the other recipe tells.
    """
    may: dict[str, list[Schema]] = {}
    for kind in STEP_KINDS:
        # Another operator takes the place of the step: all that it needs must be there.
        other: Schema = {"required": ["op"], "$ref": f"#/$defs/step-{kind}"}
        for name, cls in operators[kind].items():
            if cls is None:
                continue
            ref = f"change.{kind}.{name}"
            own = _closed(models.of(cls.Settings), {**_STEP_KEYS, "op": {"const": name}}, False)
            defs[ref] = {"description": _about(cls), **own}
            for called in {name, kind}:
                may.setdefault(called, [other]).append({"$ref": f"#/$defs/{ref}"})
                if other not in may[called]:
                    may[called].append(other)
    patterns = {re.escape(name): ways for name, ways in may.items()} | {"embed_.+": may["embed"]}
    return {
        "description": "Changes to steps of the extended recipe, by id; null drops one.",
        "type": "object",
        "patternProperties": {
            f"^{called}(_[0-9]+)?$": any_of([{"type": "null"}, *ways])
            for called, ways in sorted(patterns.items())
        },
        "additionalProperties": {"type": ["object", "null"]},
    }


def _source(
    operators: Operators,
    models: Models,
    defs: dict[str, Schema],
    whole: bool,
) -> Schema:
    """A source by its ``type``; not ``whole``: a change to that of the recipe that is extended."""
    more: dict[str, Schema] = {"type": {}, **_SOURCE_KEYS}
    refs: dict[str, str] = {}
    for name, cls in operators.items():
        if cls is not None:
            refs[name] = f"source.{name}" if whole else f"source-change.{name}"
            made = _closed(models.of(cls.Settings), more, whole)
            defs[refs[name]] = {"description": _about(cls), **made}
    return _choice("type", operators, refs, {"required": ["type"]} if whole else {})


def _one_or_many(name: str) -> Schema:
    one = {"$ref": f"#/$defs/{name}"}
    # By what stands there, not by trying: so an editor tells the fault of the one that is meant.
    return {"if": {"type": "array"}, "then": {"items": one, "minItems": 1}, "else": one}


def _top(models: Models) -> dict[str, Schema]:
    return {
        "name": {"description": "Name of the recipe.", "type": "string"},
        "about": {"description": "What it builds, in a line.", "type": "string"},
        "extends": {
            "description": "A recipe that this one changes: a name, or a path from its folder.",
            "type": "string",
        },
        "seed": {
            "description": "Of everything that is drawn by chance.",
            "default": 0,
            "anyOf": [{"type": "integer", "minimum": 0, "exclusiveMaximum": 1 << 63}, _OPEN],
        },
        "media": {
            "description": "Limits on the media that are read.",
            **_closed(models.of(MediaLimits), {}, whole=False),
        },
        "source": {"description": "The collection, or a list of them."},
        "steps": {"description": "The steps, in order."},
    }


def _lists() -> dict[str, Schema]:
    return {
        "steps": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "minProperties": 1,
                "maxProperties": 1,
                "properties": {kind: {"$ref": f"#/$defs/step-{kind}"} for kind in STEP_KINDS},
                "additionalProperties": False,
            },
        },
    }

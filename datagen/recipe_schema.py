"""The JSON Schema of recipes (draft 2020-12), by which editors complete and check them.

It is read off the operators themselves: their settings, defaults, ranges and docstrings. What a
schema cannot see (columns that a step needs, files, models) is left to ``datagen plan``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from itertools import zip_longest
from typing import Any

from pydantic import BaseModel
from pydantic.functional_validators import BeforeValidator, PlainValidator, WrapValidator
from pydantic.json_schema import models_json_schema

from datagen import registry
from datagen.errors import DatagenError
from datagen.recipe import STEP_KINDS, MediaLimits
from datagen.reference import _comments, _plain
from datagen.step import Operator, Resources

Schema = dict[str, Any]

#: A value to be given on the command line, or taken from elsewhere in the recipe.
OPEN: Schema = {"type": "string", "pattern": r"^\?\?\?$|\$\{.+\}"}
_OPEN: Schema = {"$ref": "#/$defs/open"}
#: YAML 1.1 reads 1e-3 as text; pydantic takes it for the number that it is.
_NUMBER: Schema = {"type": "string", "pattern": r"^[-+]?[0-9.]+([eE][-+]?[0-9]+)?$"}
_ID: Schema = {
    "description": "How the step is called; by default its operator, embed_SPACE or its kind.",
    "type": "string",
}
_OWN: Schema = {
    "description": "Your own operator: file.py:Class or package.module:Class.",
    "type": "string",
    "pattern": ":",
}
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
    models = _models(operators)
    defs: dict[str, Schema] = {"open": OPEN, "resources": _resources(), **models.shared}
    for kind in STEP_KINDS:
        defs[f"step-{kind}"] = _kind(kind, operators[kind], models, defs)
    defs["source"] = _source(operators["source"], models, defs, whole=True)
    defs["source-change"] = _source(operators["source"], models, defs, whole=False)
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


class _models:
    """The schemas of all settings, made together so that shared parts are named once."""

    def __init__(self, operators: Mapping[str, Mapping[str, type[Operator[Any]] | None]]) -> None:
        own: dict[type[BaseModel], type[Operator[Any]]] = {
            op.Settings: op for ops in operators.values() for op in ops.values() if op
        }
        ordered = sorted(own, key=lambda one: f"{one.__module__}.{one.__qualname__}")
        models: list[type[BaseModel]] = [MediaLimits, *ordered]
        refs, whole = models_json_schema(
            [(model, "validation") for model in models], ref_template="#/$defs/{model}"
        )
        made = whole.get("$defs", {})
        self._own: dict[type[BaseModel], Schema] = {}
        of_name = {str(ref["$ref"]).rpartition("/")[2]: key[0] for key, ref in refs.items()}
        names = {name: model for name, model in of_name.items() if isinstance(model, type)}
        self.shared: dict[str, Schema] = {}
        for name, schema in made.items():
            if name in names:
                model = next(one for one in models if one is names[name])
                self._own[model] = _settings(model, schema, own.get(model))
            else:
                self.shared[name] = _opened(schema)

    def of(self, model: type[BaseModel]) -> Schema:
        """``properties`` and ``required`` of one model, with what its docstring tells."""
        return self._own[model]


def _settings(
    model: type[BaseModel], schema: Schema, operator: type[Operator[Any]] | None
) -> Schema:
    told: dict[str, str] = {}
    docs = [vars(one).get("__doc__") for one in model.__mro__ if one.__module__[:8] == "datagen."]
    for doc in [*docs, inspect.getdoc(operator) if operator else None]:
        told = told_settings(doc or "", model.model_fields) | told
    for one in model.__mro__:
        if one.__module__[:8] == "datagen.":
            told = _comments(one) | told
    properties: dict[str, Schema] = {}
    loose = _loose(model)
    for name, part in schema.get("properties", {}).items():
        made: Schema = {} if name in loose else _opened(part)
        made = {key: value for key, value in made.items() if key != "description"}
        about = part.get("description") or told.get(name)
        default = {"default": part["default"]} if "default" in part else {}
        properties[name] = ({"description": about} if about else {}) | made | default
    return {"properties": properties, "required": schema.get("required", [])}


def _loose(model: type[BaseModel]) -> set[str]:
    """Settings that are made of something else first (``512MB``): any value may stand there."""
    before = (BeforeValidator, PlainValidator, WrapValidator)
    found = {
        name
        for name, field in model.model_fields.items()
        if any(isinstance(one, before) for one in field.metadata)
    }
    validators = model.__pydantic_decorators__.field_validators.values()
    for one in validators:
        if one.info.mode != "after":
            found.update(one.info.fields)
    return found


def told_settings(doc: str, names: Iterable[str]) -> dict[str, str]:
    """What a docstring says of each setting, in the forms ``a, b: text`` and ````a````: text."""
    one = "(?:{})".format("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
    many = rf"(?<![\w`])(``{one}``|{one})((?:,? and |, )(?:``{one}``|{one}))*:\s"
    text = inspect.cleandoc(doc)
    hits = list(re.finditer(many, text))
    told: dict[str, str] = {}
    for hit, after in zip_longest(hits, hits[1:]):
        about = text[hit.end() : after.start() if after else len(text)].partition("\n\n")[0]
        plain = " ".join(_plain(about).split()).rstrip(";")
        for name in re.findall(one, hit[0]):
            told.setdefault(name, plain)
    return told


def _opened(schema: Any) -> Any:
    """A part of a schema in which ``???`` and ``${…}`` may stand for every value."""
    if not isinstance(schema, dict):
        return schema
    made = _inside(schema)
    kept = {key: made.pop(key) for key in ("description", "default") if key in made}
    ways = made.pop("anyOf") if set(made) == {"anyOf"} else [made]
    if any(not way or _is_text(way) for way in ways):
        return kept | _any_of(ways)
    numeric = any(way.get("type") in ("integer", "number") for way in ways)
    return kept | _any_of([*ways, _OPEN, *([_NUMBER] if numeric else [])])


def _any_of(ways: list[Schema]) -> Schema:
    """What any of the ``ways`` allows."""
    return ways[0] if len(ways) == 1 else {"anyOf": ways}


def _is_text(schema: Schema) -> bool:
    return schema.get("type") == "string" and not {"enum", "const", "pattern"} & schema.keys()


def _inside(schema: Schema) -> Schema:
    """The same schema with its inner values opened, but not itself."""
    made = {key: value for key, value in schema.items() if key not in ("title", "gt", "ge")}
    for key in ("items", "additionalProperties"):
        if key in made:
            made[key] = _opened(made[key])
    for key in ("properties", "$defs"):
        if key in made:
            made[key] = {name: _opened(part) for name, part in made[key].items()}
    if "prefixItems" in made:
        made["prefixItems"] = [_opened(part) for part in made["prefixItems"]]
    for key in ("anyOf", "oneOf"):
        if key in made:
            made[key] = [_inside(part) for part in made[key]]
    return made


def _resources() -> Schema:
    properties: dict[str, Schema] = {}
    for field in fields(Resources):
        if isinstance(field.default, bool):
            kind: Schema = {"type": "boolean"}
        else:
            kind = {"type": "number", "minimum": 1 if field.name == "batch_size" else 0}
        properties[field.name] = _opened({"description": _RESOURCES[field.name], **kind})
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
    operators: Mapping[str, type[Operator[Any]] | None],
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
    operators: Mapping[str, type[Operator[Any]] | None],
    models: _models,
    defs: dict[str, Schema],
) -> Schema:
    """The settings of a step of one kind, by its ``op``."""
    more: dict[str, Schema] = {"op": {}, "id": _ID, "resources": {"$ref": "#/$defs/resources"}}
    refs: dict[str, str] = {}
    for name, cls in operators.items():
        if cls is not None:
            refs[name] = f"{kind}.{name}"
            defs[refs[name]] = {
                "description": _about(cls),
                **_closed(models.of(cls.Settings), more),
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


def _source(
    operators: Mapping[str, type[Operator[Any]] | None],
    models: _models,
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


def _top(models: _models) -> dict[str, Schema]:
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
        "step-changes": {
            "description": "Changes to steps of the extended recipe, by id; null drops one.",
            "type": "object",
            "additionalProperties": {"type": ["object", "null"]},
        },
    }

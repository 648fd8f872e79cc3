"""The settings of operators as JSON Schema, read off their models and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Any

from pydantic import BaseModel
from pydantic.functional_validators import BeforeValidator, PlainValidator, WrapValidator
from pydantic.json_schema import models_json_schema

from datagen.recipe import MediaLimits
from datagen.reference import _comments, _plain
from datagen.step import Operator

Schema = dict[str, Any]

#: A value to be given on the command line, or taken from elsewhere in the recipe.
OPEN: Schema = {"type": "string", "pattern": r"^\?\?\?$|\$\{.+\}"}
_OPEN: Schema = {"$ref": "#/$defs/open"}
#: YAML 1.1 reads 1e-3 as text; pydantic takes it for the number that it is.
_NUMBER: Schema = {"type": "string", "pattern": r"^[-+]?[0-9.]+([eE][-+]?[0-9]+)?$"}


class Models:
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
                self.shared[name] = opened(schema)

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
        made: Schema = {} if name in loose else opened(part)
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


def opened(schema: Any) -> Any:
    """A part of a schema in which ``???`` and ``${…}`` may stand for every value."""
    if not isinstance(schema, dict):
        return schema
    if set(schema) == {"operator"}:
        # A setting that names operators of a kind, as the miners of union.
        return any_of([{"$ref": f"#/$defs/member-{schema['operator']}"}, _OPEN])
    made = _inside(schema)
    kept = {key: made.pop(key) for key in ("description", "default") if key in made}
    ways = made.pop("anyOf") if set(made) == {"anyOf"} else [made]
    if any(not way or _is_text(way) for way in ways):
        return kept | any_of(ways)
    numeric = any(way.get("type") in ("integer", "number") for way in ways)
    return kept | any_of([*ways, _OPEN, *([_NUMBER] if numeric else [])])


def any_of(ways: list[Schema]) -> Schema:
    """What any of the ``ways`` allows."""
    return ways[0] if len(ways) == 1 else {"anyOf": ways}


def _is_text(schema: Schema) -> bool:
    return schema.get("type") == "string" and not {"enum", "const", "pattern"} & schema.keys()


def _inside(schema: Schema) -> Schema:
    """The same schema with its inner values opened, but not itself."""
    made = {key: value for key, value in schema.items() if key not in ("title", "gt", "ge")}
    for key in ("items", "additionalProperties"):
        if key in made:
            made[key] = opened(made[key])
    for key in ("properties", "$defs"):
        if key in made:
            made[key] = {name: opened(part) for name, part in made[key].items()}
    if "prefixItems" in made:
        made["prefixItems"] = [opened(part) for part in made["prefixItems"]]
    for key in ("anyOf", "oneOf"):
        if key in made:
            made[key] = [_inside(part) for part in made[key]]
    return made

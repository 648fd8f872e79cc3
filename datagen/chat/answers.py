"""Reads the JSON object out of what a model said, and checks it against the schema.

Model output is untrusted: it is bounded, parsed as JSON only, and cleaned before it is shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from datagen.errors import DatagenError
from datagen.ingest import clean_caption

#: Key of an answer under which its texts stand.
TEXTS = "modifications"
_TEXT = {"type": "string"}
#: Kinds of prompts: the key that their answers require, and the least that its schema must say.
KINDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "texts": (TEXTS, {"type": "array", "items": _TEXT}),
    "differences": ("differences", {"type": "array", "items": _TEXT}),
    "objects": ("objects", {"type": "array", "items": {"type": "object"}}),
    "edits": ("edits", {"type": "array", "items": {"type": "object"}}),
    "captions": ("captions", {"type": "array", "items": _TEXT}),
    "choice": ("choice", {"type": "integer"}),
}
#: Characters of an answer that are read, and places in it where an object is looked for.
MOST = 200_000
_PLACES = 256
#: Characters of a raw answer that a verdict shows.
SHOWN = 500

#: What reasoning models say to themselves first. Some chat templates open it in the prompt, and an
#: answer that was cut off does not close it.
_THOUGHTS = re.compile(
    r"^\s*(?:<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)|(?![{`\[\s]).*?</think(?:ing)?>)", re.DOTALL
)
_DECODER = json.JSONDecoder(strict=False)
_NO_LETTER = re.compile(r"[\W_]+")


class NotJson(Exception):
    """Nothing in the answer is a JSON object, or several objects contradict each other."""


class Shape:
    """A JSON schema (draft 2020-12) of an object that answers prompts of a kind of :data:`KINDS`.

    Raises DatagenError for another schema, and for one that is none.
    """

    def __init__(self, schema: Mapping[str, Any], kind: str = "texts") -> None:
        import jsonschema
        from referencing import Registry
        from referencing.exceptions import Unresolvable
        from referencing.jsonschema import DRAFT202012

        draft = jsonschema.Draft202012Validator
        try:
            draft.check_schema(schema)
        except jsonschema.SchemaError as error:
            where = ".".join(["schema", *map(str, error.absolute_path)])
            raise DatagenError(f"{where}: {_line(error.message)}") from error
        key, least = KINDS[kind]
        value = (schema.get("properties") or {}).get(key)
        required = schema.get("type") == "object" and key in schema.get("required", [])
        if not required or not _says(value, least):
            raise DatagenError(f"schema: an object expected that requires '{key}', {_named(least)}")
        resolver = Registry().resolver_with_root(DRAFT202012.create_resource(schema))
        for name in _references(schema):
            try:
                resolver.lookup(name)
            except Unresolvable as error:
                raise DatagenError(f"schema: '$ref: {name}' leads nowhere in it") from error
        self.schema = schema
        # An empty registry: no reference of a schema is fetched from anywhere.
        self._validator = draft(schema, registry=Registry())

    def fault(self, value: Any) -> str | None:
        """What is wrong with an answer, in a line that quotes nothing of it; None: it is right."""
        errors = sorted(
            self._validator.iter_errors(value), key=lambda one: list(map(str, one.path))
        )
        if not errors:
            return None
        first = errors[0]
        # Keys of an answer may be anybody's words.
        path = [
            str(one) if isinstance(one, int) or one.isidentifier() else "…"
            for one in first.absolute_path
        ]
        where = ".".join(path) or "the answer"
        return f"{where}: does not fit '{first.validator}: {_line(str(first.validator_value))}'"

    def parse(self, text: str) -> tuple[dict[str, Any] | None, str | None]:
        """The object of an answer that fits, or None and what is wrong.

        Fenced blocks, and words before and after, are passed over. Raises NotJson where there is
        no object, or where several fit and differ.
        """
        objects = list(_objects(_THOUGHTS.sub("", text[:MOST])))
        if not objects:
            raise NotJson("no JSON object in it")
        fitting: list[dict[str, Any]] = []
        for one in objects:
            if self.fault(one) is None and one not in fitting:
                fitting.append(one)
        if len(fitting) > 1:
            raise NotJson(f"{len(fitting)} JSON objects in it that differ")
        return (fitting[0], None) if fitting else (None, self.fault(objects[-1]))


def _references(schema: Any) -> Iterator[str]:
    """What the parts of a schema refer to."""
    if isinstance(schema, Mapping):
        if isinstance(name := schema.get("$ref"), str):
            yield name
        schema = list(schema.values())
    for part in schema if isinstance(schema, list) else ():
        yield from _references(part)


def _says(schema: Any, least: Mapping[str, Any]) -> bool:
    """Whether ``schema`` says all that ``least`` does."""
    if not isinstance(schema, Mapping):
        return False
    return all(
        _says(schema.get(name), value) if isinstance(value, Mapping) else schema.get(name) == value
        for name, value in least.items()
    )


def _named(least: Mapping[str, Any]) -> str:
    if least["type"] == "array":
        return f"an array of {least['items']['type']}s"
    return f"an {least['type']}"


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """JSON objects in ``text`` that lie in no other object, in order."""
    at = 0
    for _ in range(_PLACES):
        at = text.find("{", at)
        if at < 0:
            return
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
            continue
        at = end
        if isinstance(value, dict):
            yield value


def texts_of(answer: Mapping[str, Any], key: str = TEXTS) -> list[str]:
    """The texts under ``key``, each one line without control characters and outer quotes."""
    return [text_of(raw) for raw in answer[key]]


def text_of(raw: str) -> str:
    """A text of an answer as one line without control characters and outer quotes."""
    # Half a surrogate pair, as JSON can write it, is no text that a table can hold.
    text = clean_caption(raw.encode("utf-8", "replace").decode("utf-8"))
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`" and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def plain(text: str) -> str:
    """A text as it is compared with others: its letters and digits."""
    return _NO_LETTER.sub("", text.casefold())


def shown(raw: str) -> str:
    """A raw answer for the detail of a verdict: one line, bounded."""
    text = clean_caption(raw[: 4 * SHOWN].encode("utf-8", "replace").decode("utf-8"))
    return text if len(text) <= SHOWN and len(raw) <= 4 * SHOWN else text[:SHOWN] + "…"


def _line(text: str) -> str:
    return " ".join(text.split())[:200]

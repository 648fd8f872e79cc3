"""What would be sent to a model for one row, by any prompt, without asking anybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
from pydantic import Field, ValidationError

from datagen import registry, schema
from datagen.chat import pictures, prompts
from datagen.chat import settings as engines
from datagen.chat.ask import Ask
from datagen.chat.asking import Asking, AskSettings
from datagen.chat.prompts import ENGLISH, Wanted
from datagen.chat.subject import Subject, subject_of
from datagen.errors import DatagenError, RecipeError, of_settings

_SIDES = {"reference": "references", "target": "targets"}


class _Settings(AskSettings, pictures.PictureSettings):
    """All that a prompt can be asked with, whichever step it belongs to."""

    #: Who would answer; nothing is sent.
    engine: engines.EngineSettings = engines.ServerSettings(
        kind="server", url="http://localhost", model="none"
    )
    prompt: str = "modification"
    texts_per_pair: int = Field(2, ge=1, le=20)
    max_words: int | None = Field(None, ge=1, le=500)
    language: str = ENGLISH
    aspects: tuple[str, ...] = ()


class _Rendering(Asking[_Settings]):
    """Asks one prompt of any kind, of nobody."""

    Settings = _Settings

    def __init__(self, settings: _Settings) -> None:
        super().__init__(settings)
        known = prompts.load(settings.prompt)
        many = settings.texts_per_pair if "texts" in known.uses else 1
        self.wanted = Wanted(many, settings.max_words, settings.language, settings.aspects)
        shows = bool(known.pictures)
        self.main = self.prompt(
            settings.prompt, known.kind, self.wanted, pictures=shows, tells=prompts.DATA
        )


def rendered(row: Mapping[str, Any], settings: Mapping[str, Any], seed: int) -> Ask:
    """The ask for a row of pairs, with ``settings`` of its step (``prompt`` among them).

    Raises DatagenError where the prompt tells what the row lacks, or cannot show its media.
    """
    try:
        operator = _Rendering(_Settings.model_validate(settings))
    except ValidationError as error:
        told = of_settings("settings", error, settings, _Settings.model_fields)
        raise RecipeError(told) from error
    prompt = operator.main
    if later := sorted(prompt.needs & {"notes", "candidates"}):
        raise DatagenError(
            f"prompt '{prompt.name}' tells {' and '.join(later)} of an earlier answer, which stand "
            "in no table"
        )
    subject = subject_of({"references": (), "targets": (), **row})
    if fault := operator.unfit(prompt, subject):
        raise DatagenError(f"this pair would be rejected as {fault[0]}: {fault[1]}")
    if prompt.pictures:
        subject = _shown(row, subject, operator)
    return operator.ask(prompt, subject, operator.wanted, row["id"], seed)


def _shown(row: Mapping[str, Any], subject: Subject, operator: _Rendering) -> Subject:
    """``subject`` with its pictures. Raises DatagenError where they cannot be shown."""
    sides: dict[str, list[Mapping[str, Any] | None]] = {}
    for name in operator.main.pictures:
        if name not in _SIDES:
            raise DatagenError(f"prompt '{operator.main.name}' shows {name}, which no pair has")
        members = row.get(_SIDES[name]) or ()
        sides[name] = [members[0]["media"] if members else None]
    made = pictures.prepared(pa.table({"id": [row["id"]]}), sides, operator.settings)
    (line,) = made.select(["verdict", "rule", "detail"]).to_pylist()
    if line["verdict"] != schema.KEPT:
        raise DatagenError(f"{row['id']}: {line['rule']}: {line['detail']}")
    return replace(subject, pictures=pictures.of(made)[0])


def step_settings(
    steps: Sequence[Mapping[str, Any]], prompt: str, base: str = ""
) -> dict[str, Any]:
    """The settings of the step of a recipe that asks ``prompt``; else of the first that asks any.

    steps: as a recipe lists them; base: the folder of its file.
    """
    first: dict[str, Any] | None = None
    for step in steps:
        for kind, settings in step.items():
            asked = _asked_with(kind, settings or {}, base)
            if asked is None:
                continue
            if prompt in asked.values():
                return _usable(asked)
            first = asked if first is None and "engine" in asked else first
    return _usable(first or {})


def _asked_with(kind: str, settings: Mapping[str, Any], base: str) -> dict[str, Any] | None:
    """All settings of a step that asks a model, defaults as well; None for any other step."""
    kind = kind.partition(" ")[0]
    try:
        cls = registry.find(kind, str(settings.get("op")), base)
    except (DatagenError, KeyError):
        return None
    if not issubclass(cls, Asking):
        return None
    defaults = {
        name: field.default
        for name, field in cls.Settings.model_fields.items()
        if not field.is_required()
    }
    return {**defaults, **settings}


def _usable(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What of a step's settings any prompt can be asked with."""
    known = {name: asked[name] for name in _Settings.model_fields if name in asked}
    if "captions_per_item" in asked:
        known["texts_per_pair"] = asked["captions_per_item"]
    return {name: value for name, value in known.items() if name not in ("prompt", "engine")}

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
from datagen.step import Settings

_SIDES = {"reference": "references", "target": "targets"}
#: What steps call the number of texts.
_COUNTS = ("captions_per_item", "edits_per_item", "texts_per_triplet")
#: Settings of steps that are not their operator's.
_OF_STEPS = ("op", "id", "resources")


class _Settings(AskSettings, pictures.PictureSettings):
    """All that a prompt can be asked with, whichever step it belongs to."""

    #: Who would answer; nothing is sent.
    engine: engines.EngineSettings = engines.ServerSettings(
        kind="server", url="http://localhost", model="none"
    )
    prompt: str = "modification"
    texts_per_pair: int = Field(2, ge=1, le=50)
    max_words: int | None = Field(None, ge=1, le=500)
    language: str = ENGLISH
    aspects: tuple[str, ...] = ()
    #: What op rewrite makes of a text.
    to: str | None = None


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
    """The ask for a pair or triplet, with ``settings`` of its step (``prompt`` among them).

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
    if operator.settings.to == "reverse" or prompt.name == "rewrite_reverse":
        subject = subject.turned()
    if fault := operator.unfit(prompt, subject):
        raise DatagenError(f"this row would be rejected as {fault[0]}: {fault[1]}")
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
    asking = [
        operator
        for step in steps
        for kind, settings in step.items()
        if (operator := _asking(kind, settings or {}, base)) is not None
    ]
    for operator in asking:
        if prompt in operator.prompts():
            return _usable(operator.settings)
    found = _usable(asking[0].settings) if asking else {}
    return {name: value for name, value in found.items() if name != "to"}


def _asking(kind: str, settings: Mapping[str, Any], base: str) -> Asking[Any] | None:
    """The operator of a step that asks a model; None for any other step."""
    own = {name: value for name, value in settings.items() if name not in _OF_STEPS}
    try:
        cls = registry.find(kind.partition(" ")[0], str(settings.get("op")), base)
        if issubclass(cls, Asking):
            return cls(cls.Settings.model_validate(own))
    except (DatagenError, ValidationError, KeyError):
        pass  # no operator here, or one whose prompt is there no longer
    return None


def _usable(asked: Settings) -> dict[str, Any]:
    """What of a step's settings any prompt can be asked with."""
    names = [one for one in _Settings.model_fields if one not in ("prompt", "engine")]
    known = {name: getattr(asked, name) for name in names if hasattr(asked, name)}
    for name in _COUNTS:
        if hasattr(asked, name):
            known["texts_per_pair"] = getattr(asked, name)
    return known

"""The benchmarks by name, and their rules from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from datagen.errors import DatagenError, RecipeError, nearest, of_settings
from datagen.evaluation.benchmark import Protocol
from datagen.evaluation.circo import Circo
from datagen.evaluation.cirr import Cirr
from datagen.evaluation.covr import Covr
from datagen.evaluation.egocvr import Egocvr
from datagen.evaluation.fashioniq import FashionIQ
from datagen.evaluation.genecis import Genecis
from datagen.evaluation.icir import Icir
from datagen.evaluation.itcpr import Itcpr
from datagen.evaluation.patterncom import Patterncom
from datagen.evaluation.run import RunSplit

#: Every benchmark, in the order in which they are listed.
ALL: tuple[type[Protocol[Any]], ...] = (
    Cirr,
    FashionIQ,
    Circo,
    Genecis,
    Covr,
    Egocvr,
    Icir,
    Patterncom,
    Itcpr,
    RunSplit,
)
BY_NAME = {protocol.name: protocol for protocol in ALL}
#: What stands before the directory of a run.
RUN = "run:"


def protocol_class(name: str) -> type[Protocol[Any]]:
    """The benchmark ``name``. Raises DatagenError with the nearest name for one that is none."""
    key = RunSplit.name if name.startswith(RUN) else name.lower().replace("-", "")
    if key not in BY_NAME:
        raise DatagenError(f"benchmark '{name}': {nearest(key, BY_NAME)}")
    return BY_NAME[key]


def protocol(name: str, rules: Sequence[str] = ()) -> Protocol[Any]:
    """The benchmark ``name``, by the rules ``key=value`` and the official ones for the others.

    Raises DatagenError with the nearest name for one that is none, RecipeError for wrong rules.
    """
    found = protocol_class(name)
    if found is RunSplit and not name.startswith(RUN):
        raise DatagenError("benchmark 'run': name the directory as well, run:DIR or run:DIR#SPLIT")
    given = dict(_rule(one) for one in rules)
    try:
        return found(found.Settings.model_validate(given))
    except ValidationError as error:
        raise RecipeError(
            of_settings(f"benchmark {found.name}", error, given, found.Settings.model_fields)
        ) from error


def _rule(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise DatagenError(f"rule '{text}': KEY=VALUE expected, such as split=test1")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise DatagenError(f"rule '{text}': not a value ({error})") from error

"""Composers: what makes one vector of references and a text. One file each, named as itself."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from datagen import errors
from datagen.errors import DatagenError

if TYPE_CHECKING:
    from datagen.training.composers._contract import Composer
    from datagen.training.towers import Towers


def names() -> list[str]:
    """Names of the composers."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if not name.startswith("_"))


def make(given: Mapping[str, Any], towers: Towers) -> Composer[Any]:
    """The composer that ``given`` names as ``op``, with the rest as its settings.

    Its weights are random, or those that leave references and text as they are. Raises
    DatagenError.
    """
    rest = dict(given)
    name, known = rest.pop("op", None), names()
    if name not in known:
        raise DatagenError(f"composer '{name}': {errors.nearest(str(name), known)}")
    made = getattr(importlib.import_module(f"{__name__}.{name}"), str(name).capitalize())
    try:
        settings = made.Settings.model_validate(rest)
    except ValidationError as error:
        fields = made.Settings.model_fields
        lines = errors.of_settings(f"composer.{name}", error, rest, fields)
        raise DatagenError("; ".join(lines)) from error
    return made(settings, towers)  # type: ignore[no-any-return]

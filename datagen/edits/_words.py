"""What pipelines are told: a template of the recipe, with the texts of a row."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from datagen.errors import DatagenError, nearest

#: Characters of a prompt, at most; no text encoder reads more.
MOST = 4000


class Template:
    """A text with ``{{ names }}`` in Jinja2's sandbox. It pickles.

    Raises DatagenError where it is none, or asks for other names than ``known``.
    """

    def __init__(self, text: str, known: Sequence[str]) -> None:
        self.text = text
        if not text.strip():
            raise DatagenError("prompt: a text expected, nothing found")
        try:
            asked = meta.find_undeclared_variables(_environment().parse(text))
        except jinja2.TemplateError as error:
            raise DatagenError(f"prompt: {' '.join(str(error).split())}") from error
        if strange := sorted(asked - set(known)):
            raise DatagenError(f"prompt: no '{strange[0]}'; {nearest(strange[0], known)}")
        #: Names that the template uses.
        self.asked = frozenset(asked)

    def __call__(self, values: Mapping[str, str]) -> str:
        """The prompt, white space made single. Raises DatagenError."""
        try:
            text = _template(self.text).render(values)
        except Exception as error:
            # A template of the user's own may do anything that the sandbox lets it.
            said = " ".join(str(error).split())
            raise DatagenError(f"prompt: {type(error).__name__}: {said}") from error
        return " ".join(text.split())[:MOST]


@functools.cache
def _environment() -> jinja2.Environment:
    return ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)


@functools.lru_cache(maxsize=64)
def _template(text: str) -> jinja2.Template:
    return _environment().from_string(text)

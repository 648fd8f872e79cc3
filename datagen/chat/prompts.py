"""Prompts: versioned files with a system text, a template, examples and the schema of the answer.

A prompt is a YAML file of ``datagen/prompts/`` or of the user's own (``file:my.yaml``). Templates
are Jinja2 in a sandbox. What comes from the collection reaches them only as
:class:`datagen.chat.subject.Data`, and the system text cannot use it at all.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jinja2
import yaml
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datagen import registry, schema
from datagen.chat.answers import KINDS, Shape
from datagen.chat.subject import Change, Subject
from datagen.errors import DatagenError, nearest, of_settings

FOLDER = Path(__file__).resolve().parents[1] / "prompts"
#: A prompt file is no longer than this (bytes).
MOST_BYTES = 1 << 20
ENGLISH = "English"

#: What a template may use: of the row, and of the settings.
DATA = frozenset({"reference", "target", "changes", "text", "notes", "candidates"})
SETTINGS = frozenset({"texts", "max_words", "language", "aspects", "chosen"})
#: Kinds of answers that list texts, of which an example shows those that are wanted.
_TEXTS = ("texts", "edits")


class _Read(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Example(_Read):
    """A row and its right answer. ``aspects``: the kind of each of its texts, in their order."""

    reference: str = ""
    target: str = ""
    changes: tuple[Change, ...] = ()
    text: str = ""
    notes: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    answer: dict[str, Any]
    aspects: tuple[str, ...] = ()
    language: str = ENGLISH

    @property
    def subject(self) -> Subject:
        """What is asked about."""
        told = (self.changes, self.text, self.notes, self.candidates)
        return Subject(self.reference, self.target, *told)


@dataclass(frozen=True)
class Wanted:
    """What the settings ask for. ``aspects``: kinds of change; empty: all that the prompt knows.
    ``max_words``: None: as the prompt says; ``setting``: what the number of texts is called.
    """

    texts: int = 1
    max_words: int | None = None
    language: str = ENGLISH
    aspects: tuple[str, ...] = field(default=())
    setting: str = "texts_per_pair"


class Prompt(_Read):
    """A prompt file. ``kind``: of answer, of :data:`datagen.chat.answers.KINDS`; ``max_words``: of
    a text, where the settings say nothing; ``aspects``: kinds of change by name, with what each
    means; ``pictures``: whose are shown, before the template's text; ``optional``: of what the
    template uses, that which a row may lack; ``schema``: JSON schema of the answer.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    version: int = Field(ge=1)
    about: str
    paper: str = ""
    kind: Literal["texts", "differences", "objects", "edits", "captions", "choice"] = "texts"
    max_words: int = Field(20, ge=1)
    aspects: dict[str, str] = {}
    pictures: tuple[Literal["reference", "target", "candidates"], ...] = ()
    optional: frozenset[str] = frozenset()
    system: str = ""
    template: str
    examples: tuple[Example, ...] = ()
    answer_schema: dict[str, Any] = Field(alias="schema")

    @functools.cached_property
    def shape(self) -> Shape:
        """The check of answers. Raises DatagenError for a schema that cannot be used."""
        return Shape(self.answer_schema, self.kind)

    @functools.cached_property
    def openings(self) -> dict[Wanted, list[dict[str, str]]]:
        """What stands before a row's turn, for what was wanted so far."""
        return {}

    @functools.cached_property
    def uses(self) -> frozenset[str]:
        """Variables that system text and template use."""
        return frozenset(_variables(self.template) | _variables(self.system))

    @property
    def needs(self) -> frozenset[str]:
        """What of a row the template must have; a row without it cannot be asked about."""
        return (self.uses & DATA) - self.optional

    @functools.cached_property
    def fingerprint(self) -> str:
        """``name@version#hash``; the hash covers all that is sent."""
        sent = self.model_dump(mode="json", by_alias=True, exclude={"about", "paper"})
        sent["optional"] = sorted(sent["optional"])
        return f"{self.name}@{self.version}#{schema.content_id('prompt', _canonical(sent))[:12]}"

    def faults(self, wanted: Wanted) -> Iterator[str]:
        """What is asked for that this prompt cannot give, one line each."""
        for name in wanted.aspects:
            if name not in self.aspects:
                hint = nearest(name, self.aspects)
                yield f"aspects: prompt '{self.name}' knows no '{name}'; {hint}"
        if wanted.texts > 1 and "texts" not in self.uses:
            yield f"{wanted.setting}: prompt '{self.name}' asks for one only ({{{{ texts }}}})"
        if wanted.language != ENGLISH and "language" not in self.uses:
            yield f"language: prompt '{self.name}' does not say the language ({{{{ language }}}})"

    def words(self, wanted: Wanted) -> int:
        """The words that a text may have."""
        return self.max_words if wanted.max_words is None else wanted.max_words

    def messages(self, subject: Subject, wanted: Wanted) -> tuple[dict[str, Any], ...]:
        """What is sent: system text, examples as turns of a conversation, and the row."""
        said = self._names(wanted)
        out: list[dict[str, Any]] = [dict(message) for message in self._opening(wanted)]
        asked = _rendered(self.template, said | subject.names())
        shown: list[dict[str, Any]] = []
        for name in self._shown(subject):
            urls = subject.pictures.get(name, ())
            whose = name if len(self.pictures) > 1 else "shown"
            clip = f" ({len(urls)} frames of a clip, in order of time)" if len(urls) > 1 else ""
            shown.append({"type": "text", "text": f"{whose}{clip}:"})
            for url in urls:
                shown.append({"type": "image_url", "image_url": {"url": url}})
        last = [*shown, {"type": "text", "text": asked}] if shown else asked
        out.append({"role": "user", "content": last})
        return tuple(out)

    def _opening(self, wanted: Wanted) -> list[dict[str, str]]:
        """System text and examples, which are the same for all rows: rendered once."""
        if wanted not in self.openings:
            system = _rendered(self.system, self._names(wanted))
            turns = [turn for example in self.examples for turn in self._turns(example, wanted)]
            self.openings[wanted] = [*([_message("system", system)] if system else []), *turns]
        return self.openings[wanted]

    def _shown(self, subject: Subject) -> list[str]:
        """Whose pictures are shown, in order: candidates one by one, as they are numbered."""
        numbered = [f"candidate {n}" for n in range(1, len(subject.candidates) + 1)]
        return [
            one for name in self.pictures for one in (numbered if name == "candidates" else [name])
        ]

    def _names(self, wanted: Wanted) -> dict[str, Any]:
        names = wanted.aspects or tuple(self.aspects)
        return {
            "texts": wanted.texts,
            "max_words": self.words(wanted),
            "language": wanted.language,
            "aspects": {name: self.aspects[name] for name in names},
            "chosen": bool(wanted.aspects),
        }

    def _turns(self, example: Example, wanted: Wanted) -> list[dict[str, str]]:
        """An example as question and answer; none where it shows nothing of what is wanted."""
        if example.language != wanted.language:
            return []
        said = _rendered(self.template, self._names(wanted) | example.subject.names())
        if self.kind not in _TEXTS:
            whole = json.dumps(example.answer, ensure_ascii=False)
            return [_message("user", said), _message("assistant", whole)]
        key = KINDS[self.kind][0]
        told: list[Any] = example.answer[key]
        kinds = example.aspects or (None,) * len(told)
        texts = [
            text
            for text, kind in zip(told, kinds, strict=True)
            if len(_text_in(text).split()) <= self.words(wanted)
            and (kind is None or not wanted.aspects or kind in wanted.aspects)
        ][: wanted.texts]
        if told and not texts:
            return []
        count = len(texts) or wanted.texts
        asked = self._names(replace(wanted, texts=count))
        answer = json.dumps({**example.answer, key: texts}, ensure_ascii=False)
        return [
            _message("user", _rendered(self.template, asked | example.subject.names())),
            _message("assistant", answer),
        ]


def names() -> list[str]:
    """Names of the prompts that come with datagen."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(reference: str) -> Prompt:
    """A prompt by name, or a file of one's own by ``file:my.yaml`` (beside the recipe, or from the
    working directory). Raises DatagenError.
    """
    return read(source(reference), str(_path(reference)))


def source(reference: str) -> str:
    """The text of a prompt's file. Raises DatagenError where there is none."""
    path = _path(reference)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DatagenError(f"{path}: larger than {MOST_BYTES} bytes; is it a prompt?")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DatagenError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatagenError(f"{path}: cannot be read ({error})") from error


def _path(reference: str) -> Path:
    if reference.startswith("file:"):
        return Path(registry.beside_recipe(reference.removeprefix("file:")))
    if reference in names():
        return FOLDER / f"{reference}.yaml"
    hint = nearest(reference, names())
    if reference.endswith((".yaml", ".yml")):
        hint = f"did you mean 'file:{reference}'?"
    raise DatagenError(f"no prompt '{reference}'; {hint}")


def read(text: str, place: str) -> Prompt:
    """The prompt that the YAML ``text`` holds, checked whole. Raises DatagenError."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        told = " ".join(str(error).split())
        raise DatagenError(f"{place}: not YAML ({told})") from error
    if not isinstance(data, dict):
        raise DatagenError(f"{place}: keys such as name, version, template and schema expected")
    known = [one.alias or name for name, one in Prompt.model_fields.items()]
    try:
        prompt = Prompt.model_validate(data)
    except ValidationError as error:
        raise DatagenError("; ".join(of_settings(place, error, data, known))) from error
    try:
        _check(prompt)
    except DatagenError as error:
        raise DatagenError(f"{place}: {error}") from error
    return prompt


def _check(prompt: Prompt) -> None:
    """Whether everything can be rendered and every example is a right answer."""
    shape = prompt.shape
    for part, text, known in (
        ("template", prompt.template, DATA | SETTINGS),
        ("system", prompt.system, SETTINGS),
    ):
        for name in sorted(_variables(text, part) - known):
            why = "stands in the template only" if name in DATA else nearest(name, known)
            raise DatagenError(f"{part}: '{name}' is no variable here; {why}")
    if prompt.pictures and prompt.examples:
        raise DatagenError("examples: they have no pictures to show; leave them out, or pictures")
    if len(set(prompt.pictures)) < len(prompt.pictures):
        raise DatagenError("pictures: each side once")
    if unknown := sorted(prompt.optional - DATA):
        raise DatagenError(f"optional: '{unknown[0]}' is nothing that a template can use")
    if not (prompt.uses & DATA or prompt.pictures):
        valid = ", ".join(sorted(DATA))
        raise DatagenError(f"template: says nothing of the row; use one of {valid}")
    for number, example in enumerate(prompt.examples, 1):
        where = f"examples.{number}"
        if fault := shape.fault(example.answer):
            raise DatagenError(f"{where}.answer: {fault}")
        listed = example.answer[KINDS[prompt.kind][0]] if prompt.kind in _TEXTS else ()
        if example.aspects and len(example.aspects) != len(listed):
            raise DatagenError(f"{where}.aspects: one for each text expected")
        if unknown := sorted(set(example.aspects) - set(prompt.aspects)):
            hint = nearest(unknown[0], prompt.aspects)
            raise DatagenError(f"{where}.aspects: no '{unknown[0]}'; {hint}")
    change = Change(field="colour", removed="red", added="blue")
    told = ("a blue one", ("they differ in colour",), ("a blue mug", "a red mug"))
    prompt.messages(Subject("a red mug", "a blue mug", (change,), *told), Wanted(2))


def _text_in(one: Any) -> str:
    """The modification text that an entry of an answer is, or holds."""
    return str(one.get("modification", "") if isinstance(one, Mapping) else one)


def _canonical(value: Mapping[str, Any]) -> str:
    try:
        return schema.canonical_json(value)
    except (TypeError, ValueError) as error:
        raise DatagenError(f"only plain values can stand in a prompt ({error})") from error


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@functools.cache
def _environment() -> jinja2.Environment:
    return ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )


@functools.lru_cache(maxsize=256)
def _template(text: str) -> jinja2.Template:
    return _environment().from_string(text)


def _variables(text: str, part: str = "template") -> set[str]:
    try:
        return meta.find_undeclared_variables(_environment().parse(text))
    except jinja2.TemplateError as error:
        raise DatagenError(f"{part}: {error}") from error


def _rendered(text: str, names: Mapping[str, Any]) -> str:
    try:
        return _template(text).render(names).strip()
    except DatagenError:
        raise
    except Exception as error:
        # A template of the user's own may do anything that the sandbox lets it.
        told = " ".join(str(error).split())
        raise DatagenError(f"template: {type(error).__name__}: {told}") from error

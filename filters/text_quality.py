"""Rejects modification texts that are no instruction: copies, leaks of the data, broken text.

Published sets show what goes wrong. InstructPix2Pix (arXiv:2211.09800) rejects a text that is the
caption itself; FineCIR strips openings such as "To transform the reference image"; of the texts
that TransAgg (arXiv:2306.07272) took from a language model 3 % leak the name of their edit type.
Each fault is a rule of its own.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from datagen.errors import nearest
from datagen.filters import _form, _phrases
from datagen.filters._language import LANGUAGES, foreign
from datagen.filters._things import unfounded
from datagen.filters._words import captions, longest_run, words
from datagen.schema import Level
from datagen.step import Filter, Resources, Settings, verdicts

#: A rule, and what was found.
Fault = tuple[str, str] | None

#: Fields of changes that hold no property: a text that came with a pair, noise that was put in.
_NO_PROPERTY = ("text", "noise")
#: Things that a verdict names, at most.
_NAMED = 5


class TextQualitySettings(Settings):
    """``min_words``, ``max_words``: bounds, included (null: no upper one); a word is what stands
    between spaces and has a letter or digit. ``copies_caption``: reject a text that is a caption
    of the reference or target. ``max_copied``: the largest share of the text that may be one run
    of words from the target's caption. ``common_leaks``: reject texts that speak of the data or
    the prompt ("image 1", "reference image", "addition:", "negation"). ``leaks``: further phrases;
    they match whole words in any case, "#" stands for a number and a colon at the end for itself.
    ``refusals``: reject what a model says that will not or cannot ("I cannot", "no difference").
    ``artefacts``: reject what a model puts around its answer ("Sure, here", markdown, numbering,
    JSON, special tokens). ``malformed``: reject broken characters, quotes, brackets and left-over
    placeholders. ``repeated_word``: reject a word twice in a row, unless a caption says so too (a
    name). ``max_unfounded``: things that the text may name and neither a caption nor a change of
    the row does; for English texts that were written from captions. ``language``: reject texts
    in others (``en``, ``de``, ``zh`` …). ``max_foreign``: so large a share of the words that tell
    a language may tell another one. ``max_same_text``: pairs that may have one text, a
    number or a share of all pairs; all rows of a text with more are rejected (``balance`` keeps
    some).
    """

    min_words: int = Field(1, ge=0)
    max_words: int | None = Field(60, ge=1)
    copies_caption: bool = True
    max_copied: float | None = Field(None, ge=0, le=1)
    common_leaks: bool = True
    leaks: tuple[str, ...] = ()
    refusals: bool = True
    artefacts: bool = True
    malformed: bool = True
    repeated_word: bool = True
    max_unfounded: int | None = Field(None, ge=0)
    language: str | None = None
    max_foreign: float = Field(0.5, ge=0, lt=1)
    max_same_text: int | float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _bounds(self) -> TextQualitySettings:
        if self.max_words is not None and self.min_words > self.max_words:
            raise ValueError(f"min_words ({self.min_words}) is above max_words ({self.max_words})")
        most = self.max_same_text
        if isinstance(most, float) and most >= 1:
            raise ValueError(
                f"max_same_text ({most:g}): a whole number of pairs, or a share below 1, expected"
            )
        return self

    @field_validator("language")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in LANGUAGES:
            raise ValueError(f"'{value}' cannot be told; {nearest(value, LANGUAGES)}")
        return value


class _Row(NamedTuple):
    """What is judged of a row."""

    text: str
    references: list[str]
    targets: list[str]
    told: list[str]


class TextQuality(Filter[TextQualitySettings]):
    """Scores ``score_words`` (number of words), ``score_copied`` (longest run of words shared
    with a target's caption, as share of the text's words, 0 to 1, 4 decimals),
    ``score_is_caption`` (1 where the text is a caption of the pair but for case and punctuation)
    and ``score_unfounded`` (things that the text names, as far as its grammar shows them, and
    neither the captions nor the changes of the row do; null where there are neither).

    Rejects as ``too_short``, ``too_long``, ``malformed``, ``leak``, ``refusal``, ``artefact``,
    ``repeated_word``, ``copies_caption``, ``unfounded``, ``other_language`` or ``same_text``; the
    first that applies. The detail names what was found.
    """

    version = 2
    Settings = TextQualitySettings
    levels = ("triplets",)
    rules = frozenset(TextQualitySettings.model_fields)

    def __init__(self, settings: TextQualitySettings) -> None:
        """Raises DatagenError where a phrase in ``leaks`` cannot be looked for."""
        super().__init__(settings)
        common = (*_phrases.DATA, *_phrases.KINDS) if settings.common_leaks else ()
        self._leaks = _phrases.Phrases([*common, *settings.leaks])
        self._refusals = _phrases.Phrases(_phrases.REFUSALS if settings.refusals else ())

    def needs(self, level: Level) -> set[str]:
        return {"pairs", "modification"}

    def gives(self, level: Level) -> set[str]:
        return {"score_words", "score_copied", "score_is_caption", "score_unfounded"}

    def columns(self, level: Level) -> list[str]:
        return ["id", "modification", "references", "targets", "evidence"]

    def resources(self) -> Resources:
        return Resources(batch_size=4096)

    def __call__(self, rows: pa.Table) -> pa.Table:
        found = [_measure(row) for row in _rows(rows)]
        names = ("score_words", "score_copied", "score_is_caption", "score_unfounded")
        columns = list(zip(*found, strict=True)) if found else [()] * len(names)
        scores = {
            name: pa.array(values, pa.float64())
            for name, values in zip(names, columns, strict=True)
        }
        return pa.table({"id": rows["id"], **scores})

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        ids = rows["id"].to_pylist()
        names = ("score_words", "score_copied", "score_is_caption", "score_unfounded")
        scores = zip(*(rows[name].to_pylist() for name in names), strict=True)
        same = self._same(rows)
        rejected: dict[str, tuple[str, str]] = {}
        failed: dict[str, str] = {}
        for name, row, (count, copied, is_caption, things) in zip(
            ids, _rows(rows), scores, strict=True
        ):
            if count is None:
                failed[name] = "the row has no score"
                continue
            fault = (
                self._length(int(count))
                or self._wording(row)
                or self._copy(copied, bool(is_caption), row)
                or self._foundation(things, row)
                or self._language(row.text)
                or same.get(name)
            )
            if fault:
                rejected[name] = fault
        return verdicts(ids, rejected, failed)

    def _length(self, count: int) -> Fault:
        least, most = self.settings.min_words, self.settings.max_words
        if count < least:
            return "too_short", f"{count} words < {least}"
        if most is not None and count > most:
            return "too_long", f"{count} words > {most}"
        return None

    def _wording(self, row: _Row) -> Fault:
        settings, text = self.settings, row.text
        if settings.malformed and (fault := _form.malformed(text)):
            return "malformed", fault
        if leak := self._leaks.find(text):
            return "leak", f"'{leak}'"
        if refusal := self._refusals.find(text):
            return "refusal", f"'{refusal}'"
        if settings.artefacts and (artefact := _phrases.artefact(text)):
            return "artefact", artefact
        told = [*row.references, *row.targets]
        if settings.repeated_word and (word := _form.repeated(text, told)):
            return "repeated_word", f"'{word} {word}'"
        return None

    def _copy(self, copied: float, same: bool, row: _Row) -> Fault:
        if self.settings.copies_caption and same:
            said = words(row.text)
            side = "target" if any(words(one) == said for one in row.targets) else "reference"
            return "copies_caption", f"the text is the caption of the {side}"
        most = self.settings.max_copied
        if most is not None and copied > most:
            share = f"{copied:.4f} of the text from the target's caption"
            return "copies_caption", f"{share} > {most:g}"
        return None

    def _foundation(self, count: float | None, row: _Row) -> Fault:
        most = self.settings.max_unfounded
        if most is None or count is None or count <= most:
            return None
        names = unfounded(row.text, row.told)[:_NAMED]
        said = ", ".join(f"'{name}'" for name in names)
        return "unfounded", f"in no caption or change: {said}"

    def _language(self, text: str) -> Fault:
        language = self.settings.language
        share = foreign(words(text), language) if language else None
        if share is None or share <= self.settings.max_foreign:
            return None
        return "other_language", f"{share:.2f} of the telling words are not {language}"

    def _same(self, rows: pa.Table) -> dict[str, tuple[str, str]]:
        """Rule and detail of every row whose text stands in too many pairs."""
        most = self.settings.max_same_text
        if most is None:
            return {}
        ids, texts, pairs = (rows[n].to_pylist() for n in ("id", "modification", "pair"))
        of: dict[str, set[str]] = defaultdict(set)
        said = [" ".join(words(text or "")) for text in texts]
        for text, pair in zip(said, pairs, strict=True):
            of[text].add(pair)
        if isinstance(most, float):
            most = max(1, math.floor(most * len(set(pairs)) + 1e-9))
        return {
            name: ("same_text", f"{len(of[text])} pairs have this text > {most}")
            for name, text in zip(ids, said, strict=True)
            if text and len(of[text]) > most
        }


def _rows(rows: pa.Table) -> list[_Row]:
    texts = rows["modification"].to_pylist()
    references, targets = captions(rows["references"]), captions(rows["targets"])
    changes = [_changes(one) for one in rows["evidence"].to_pylist()]
    return [
        _Row(text or "", left, right, [*left, *right, *changed])
        for text, left, right, changed in zip(texts, references, targets, changes, strict=True)
    ]


def _changes(evidence: Mapping[str, Any] | None) -> list[str]:
    """What the changes of a pair say, but for texts that came with it and noise."""
    found: Sequence[Mapping[str, Any]] = (evidence or {}).get("changes") or ()
    return [
        text
        for one in found
        if one["field"] not in _NO_PROPERTY
        for text in (one["field"], one["removed"], one["added"])
        if text
    ]


def _measure(row: _Row) -> tuple[float, float, float, float | None]:
    said = words(row.text)
    things = float(len(unfounded(row.text, row.told))) if row.told else None
    if not said:
        return 0.0, 0.0, 0.0, things
    aims = [words(caption) for caption in row.targets]
    longest = max((longest_run(said, aim) for aim in aims), default=0)
    same = any(said == other for other in (*aims, *map(words, row.references)))
    return float(len(said)), round(longest / len(said), 4), float(same), things

"""Modification texts from rules: what differs between two captions, put into a sentence.

The rule-based ablation of CoVR (arXiv:2308.14746) fills template sentences with the two words
that differ. Here the kind of the words (colour, noun, number, action, name, …) chooses the
sentences, and articles and plurals follow from the captions.
"""

from __future__ import annotations

import difflib
import re
import string
from typing import Any

import pyarrow as pa
from pydantic import Field

from datagen import schema
from datagen.errors import DatagenError, nearest
from datagen.schema import Level
from datagen.step import Context, RowOperator, Settings
from datagen.texts import _caption as captions
from datagen.texts._grammar import read_change
from datagen.texts._label import is_code
from datagen.texts._places import Reading
from datagen.texts._sentences import ADD, REMOVE, REPLACE

#: Words that a user's template may use, and the slot behind each.
SLOTS = {
    "removed": "removed",
    "added": "added",
    "removed_phrase": "r",
    "added_phrase": "a",
    "head": "head",
    "field": "field",
}
#: Slots of whole captions.
WHOLE = ("reference", "target")
_KEPT = (schema.KEPT, None, None)


class TemplateSettings(Settings):
    """``texts_per_pair``: different texts for a pair, at most (fewer where it has fewer).
    ``templates``: sentences to use instead of the built-in ones, with ``{removed}`` and
    ``{added}`` (bare words), ``{removed_phrase}`` and ``{added_phrase}`` (with the article that
    suits: "a dog"), ``{head}`` (the noun that is described), ``{field}`` (the label). A change
    uses those whose words it knows. ``{reference}`` and ``{target}`` are the whole captions:
    sentences of these alone are for any two captions that differ (SPN4CIR: "{target} instead of
    {reference}"). ``max_words``: the longest text. ``max_changed_words``: how
    many words may differ on either side, for pairs mined without knowing what changes.
    """

    texts_per_pair: int = Field(1, ge=1, le=100)
    templates: tuple[str, ...] = ()
    max_words: int | None = Field(None, ge=1)
    max_changed_words: int = Field(3, ge=1, le=50)


class Template(RowOperator[TemplateSettings]):
    """Writes ``modification``. A pair is rejected as ``no_change_known`` (nothing says what
    changes, or too many words differ), ``no_visible_change`` ("is" for "are", "jumps" for
    "jumping"), ``only_codes`` (what differs are labels such as the id of a video),
    ``no_template_fits`` or ``too_long``.

    Labels that are codes are told beside no others, and texts that came with a pair (``pair:
    given``) are not used: where nothing else says what changes, the captions are compared.
    """

    version = 3
    Settings = TemplateSettings
    levels = ("pairs",)
    result = "triplets"

    def __init__(self, settings: TemplateSettings) -> None:
        super().__init__(settings)
        own = [_checked(template) for template in settings.templates]
        self._whole = tuple(text for text in own if set(_fields(text)) <= set(WHOLE))
        self._own = tuple(text for text in own if text not in self._whole)
        self._seed = 0

    def needs(self, level: Level) -> set[str]:
        return {"pairs"}

    def gives(self, level: Level) -> set[str]:
        return {"modification"}

    def columns(self, level: Level) -> list[str]:
        return ["id", "references", "targets", "evidence"]

    def open(self, context: Context) -> None:
        self._seed = context.seed

    def __call__(self, rows: pa.Table) -> pa.Table:
        out: list[tuple[Any, ...]] = []
        for row in rows.select(self.columns("pairs")).to_pylist():
            texts, fault = self._write(row)
            out += [(row["id"], text, *_KEPT) for text in texts]
            if fault is not None:
                out.append((row["id"], None, schema.REJECTED, *fault))
        names = ("id", "modification", "verdict", "rule", "detail")
        columns = zip(*out, strict=True) if out else [()] * len(names)
        arrays = [pa.array(column, pa.string()) for column in columns]
        return pa.table(arrays, names=list(names))

    def _write(self, row: dict[str, Any]) -> tuple[list[str], tuple[str, str] | None]:
        """The texts of a pair, or the rule and detail that reject it."""
        reference, target = _caption(row["references"]), _caption(row["targets"])
        texts: list[str] = []
        fault = None
        if self._whole:
            texts, fault = self._of_captions(reference, target)
        if self._own or not self._whole:
            more, fault = self._of_changes(row, reference, target)
            texts = list({text.casefold(): text for text in [*more, *texts]}.values())
        if not texts:
            return [], fault
        limit = self.settings.max_words
        short = [text for text in texts if limit is None or len(text.split()) <= limit]
        if not short:
            least = min(len(text.split()) for text in texts)
            return [], ("too_long", f"{least} > {limit} words")
        # Drawn by hash: the same for a pair whatever the batch, other for every pair and seed.
        drawn = sorted(short, key=lambda text: schema.content_id(str(self._seed), row["id"], text))
        return drawn[: self.settings.texts_per_pair], None

    def _of_captions(self, reference: str, target: str) -> tuple[list[str], tuple[str, str] | None]:
        """Texts that name whole captions, or the fault of a pair that has none to name."""
        left, right = captions.read(reference).words, captions.read(target).words
        if not left or not right:
            return [], ("no_change_known", "no caption to compare")
        if left == right:
            return [], ("no_change_known", "the captions have the same words")
        words = {"reference": _in_sentence(reference), "target": _in_sentence(target)}
        return [_filled(template, words) for template in self._whole], None

    def _of_changes(
        self, row: dict[str, Any], reference: str, target: str
    ) -> tuple[list[str], tuple[str, str] | None]:
        """Texts for what changes, or the fault of a pair of which none can be told."""
        changes = (row["evidence"] or {}).get("changes") or []
        changes = [c for c in changes if not _is_whole_text(c)]
        coded = [c for c in changes if is_code(c["field"] or "", c["removed"], c["added"])]
        if coded and len(coded) == len(changes):
            words = ", ".join(f"{c['field']}: {c['removed']} → {c['added']}" for c in coded)
            return [], ("only_codes", f"no words, but names of things: {words}"[:200])
        changes = [c for c in changes if c not in coded]
        if not changes:
            changes, why = _differences(reference, target, self.settings.max_changed_words)
            if not changes:
                return [], ("no_change_known", why)
        found = [
            read_change(c["removed"], c["added"], c["field"], reference, target) for c in changes
        ]
        readings = [reading for reading in found if reading is not None]
        if not readings:
            words = ", ".join(f"{c['removed'] or ''} → {c['added'] or ''}" for c in changes)
            return [], ("no_visible_change", words[:200])
        told = {"reference": _in_sentence(reference), "target": _in_sentence(target)}
        texts = self._candidates(readings, told)
        if not texts:
            return [], ("no_template_fits", f"{len(self._own)} templates, none for this change")
        return texts, None

    def _candidates(self, readings: list[Reading], told: dict[str, str]) -> list[str]:
        """Every text there is for these changes; no two are equal. told: the captions."""
        options = [self._sentences(one, told, alone=len(readings) == 1) for one in readings]
        if not all(options):
            return []
        count = max(map(len, options))
        texts = [
            _joined([option[number % len(option)] for option in options]) for number in range(count)
        ]
        return list({text.casefold(): text for text in texts}.values())

    def _sentences(self, reading: Reading, told: dict[str, str], alone: bool) -> list[str]:
        if self._own:
            words = {name: reading.slots.get(slot, "") for name, slot in SLOTS.items()} | told
            return [_filled(own, words) for own in self._own if _fits(own, words)]
        table = REPLACE if reading.removed and reading.added else ADD if reading.added else REMOVE
        orders, remarks = table[reading.kind]
        chosen = (*orders, *(remarks if alone else ()))
        if reading.slots.get("subject") == "it":
            # "make it turn red", but no "it turning red".
            chosen = tuple(text for text in chosen if not text.startswith("{subject}"))
        return [_filled(text, reading.slots) for text in chosen]


def _is_whole_text(change: dict[str, Any]) -> bool:
    """Whether a change is a text that came with the pair: ``text: given`` takes those."""
    return change["field"] == "text" and not change["removed"]


def _caption(members: list[dict[str, Any]] | None) -> str:
    return (members[0]["caption"] if members else None) or ""


def _in_sentence(caption: str) -> str:
    """A caption within a sentence: without its full stop, its first article in small letters."""
    words = caption.split()
    if words and words[0].lower() in captions.DETERMINERS:
        words[0] = words[0].lower()
    return " ".join(words).removesuffix(".")


def _fields(template: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]


def _fits(template: str, words: dict[str, str]) -> bool:
    return all(words[name] for name in _fields(template))


def _filled(template: str, words: dict[str, str]) -> str:
    return " ".join(template.format_map(words).split())


def _joined(sentences: list[str]) -> str:
    if len(sentences) < 3:
        return " and ".join(sentences)
    return ", ".join(sentences[:-1]) + " and " + sentences[-1]


def _checked(template: str) -> str:
    """A user's template with single braces. Raises DatagenError for a slot that does not exist."""
    text = re.sub(r"\{\{\s*(\w+)\s*\}\}", r"{\1}", template)
    place = f"text: template '{template}'"
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise DatagenError(f"{place}: {error}; write slots as {{removed}} or {{added}}") from error
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if name not in (known := (*SLOTS, *WHOLE)):
            valid = ", ".join(known)
            hint = nearest(name, known) if name else "a slot needs a name"
            raise DatagenError(f"{place}: no slot '{name}'; {hint} (valid: {valid})")
        if form or conversion:
            raise DatagenError(f"{place}: write the slot as {{{name}}}, without a format")
    if not any(name for _, name, _, _ in parts):
        raise DatagenError(f"{place}: no slot in it; valid: {', '.join((*SLOTS, *WHOLE))}")
    return text


def _differences(reference: str, target: str, most: int) -> tuple[list[dict[str, str | None]], str]:
    """Changes between two captions, word by word; none, and why, where they cannot be told."""
    left, right = captions.read(reference), captions.read(target)
    if not left.words or not right.words:
        return [], "no caption to compare"
    matcher = difflib.SequenceMatcher(None, left.words, right.words, autojunk=False)
    spans = [codes for codes in matcher.get_opcodes() if codes[0] != "equal"]
    removed = sum(end - start for _, start, end, _, _ in spans)
    added = sum(end - start for _, _, _, start, end in spans)
    if not spans:
        return [], "the captions have the same words"
    if max(removed, added) > most:
        return [], f"{max(removed, added)} words differ, {most} at most"
    if len(left.words) == removed or len(right.words) == added:
        return [], "the captions share no word"
    return [
        {
            "field": None,
            "removed": " ".join(left.surface[a:b]) or None,
            "added": " ".join(right.surface[c:d]) or None,
        }
        for _, a, b, c, d in spans
    ], ""

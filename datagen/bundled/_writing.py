"""Figures of a language model on pairs of captions that it has never seen.

Questions are asked as ``text: {op: llm}`` asks them, with the engine ``transformers``, and the
world's oracle judges the answers.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from datagen import schema
from datagen.bundled import _pairs, _questions
from datagen.bundled._pairs import Pair
from datagen.chat.subject import Change
from datagen.sources.tinyworld import oracle
from datagen.sources.tinyworld.scene import Dice
from datagen.step import Context
from datagen.texts.llm import Llm, LlmSettings

#: Seed of the pairs that are measured; no training has it.
SEED = 17
#: Kinds of pairs that are measured; ``strange`` are texts of something else.
KINDS = ("one", "two", "three", "thing", "any", "nothing", "strange")
#: What is measured of each prompt.
KINDS_OF = {"modification": KINDS, "covr": KINDS, "lasco": ("one", "strange")}

Texts = list[str] | None


def drawn(kind: str, number: int, seed: int = SEED) -> list[Pair]:
    """Pairs with a scene or clip that is held out from all training, and with true captions."""
    dice = (Dice("figures", seed, kind, at) for at in range(number))
    return [_pairs.pair(kind, one, noisy=False, held=kind != "strange") for one in dice]


def table(pairs: Sequence[Pair], changed: bool = False) -> pa.Table:
    """Rows of :data:`schema.PAIRS`. changed: with what differs, as evidence."""
    rows = []
    for at, pair in enumerate(pairs):
        known: tuple[Change, ...] = _questions.known(pair) if changed else ()
        changes = [one.model_dump() for one in known]
        evidence = {"operator": "", "reason": "", "changes": changes, "score": None}
        rows.append(
            {
                "id": f"{at:06d}",
                "references": [_member(pair.reference)],
                "targets": [_member(pair.target)],
                "evidence": evidence,
                "provenance": [],
            }
        )
    return pa.Table.from_pylist(rows, schema=schema.PAIRS)


def _member(caption: str) -> dict[str, Any]:
    place = {"id": "", "key": "", "source": "", "media": None, "labels": "{}"}
    return {**place, "caption": caption}


def written(reference: str, pairs: Sequence[Pair], prompt: str, **settings: Any) -> list[Texts]:
    """The texts of each pair, [] where the model names none; None where its answer is no good.

    reference: of the model; settings: of :class:`Llm`.
    """
    with tempfile.TemporaryDirectory() as folder:
        engine = {
            "kind": "transformers", "model": reference, "device": "cpu", "precision": "fp32",
            "batch_size": 64, "cache": folder,
        }  # fmt: skip
        told = {"engine": engine, "prompt": prompt, "max_tokens": 160, **settings}
        step = Llm(LlmSettings.model_validate(told))
        step.open(Context(seed=SEED))
        lines = step(table(pairs, changed=prompt == "lasco")).to_pylist()
    found: list[Texts] = [[] for _ in pairs]
    for line in lines:
        at = int(line["id"])
        texts = found[at]
        if line["verdict"] == schema.FAILED:
            found[at] = None
        elif line["modification"] is not None and texts is not None:
            texts.append(line["modification"])
    return found


def judged(pairs: Sequence[Pair], written: Sequence[Texts]) -> dict[str, float]:
    """Shares: ``invalid`` of answers; ``right``, ``complete``, ``minimal`` of texts, by the
    oracle; ``silent``, of pairs that differ, those without a text; ``spoke``, of pairs that do
    not, those with one. ``texts`` is how many there are."""
    count: Counter[str] = Counter()
    for pair, texts in zip(pairs, written, strict=True):
        same = pair.before is None or pair.after is None or pair.before == pair.after
        count["same" if same else "differ"] += 1
        count["invalid"] += texts is None
        count["spoke" if same else "silent"] += bool(texts) == same
        for text in texts or ():
            if pair.before is None or pair.after is None:
                continue
            said = oracle.says(text, pair.before, pair.after)
            count["texts"] += 1
            for name in ("right", "complete", "minimal"):
                count[name] += getattr(said, name)
    number = max(1, count["texts"])
    shares = {name: count[name] / number for name in ("right", "complete", "minimal")}
    shares["invalid"] = count["invalid"] / max(1, len(pairs))
    shares["silent"] = count["silent"] / max(1, count["differ"])
    shares["spoke"] = count["spoke"] / max(1, count["same"])
    return {**shares, "texts": count["texts"]}


def measure(reference: str, number: int) -> dict[str, Any]:
    """The figures of a model: by temperature, prompt and kind of pairs, ``number`` of each, what
    :func:`judged` counts."""
    found: dict[str, Any] = {}
    for temperature in (0.0, 0.7):
        by_prompt: dict[str, Any] = {}
        for prompt, kinds in KINDS_OF.items():
            by_prompt[prompt] = {}
            for kind in kinds:
                pairs = drawn(kind, number)
                texts = written(reference, pairs, prompt, temperature=temperature)
                shares = judged(pairs, texts)
                by_prompt[prompt][kind] = {name: round(value, 4) for name, value in shares.items()}
        found[f"{temperature:g}"] = by_prompt
    return found

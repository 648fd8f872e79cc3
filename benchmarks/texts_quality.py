"""What text operators make of pairs whose change is known.

`scenes`: rendered scenes in pairs whose captions differ in one word or several; the oracle says of
each text whether it leads from the reference to the target, and whether it tells nothing else.

`people`: pairs that people described. EgoCVR gives two narrations and an instruction that a person
wrote: how many pairs get a text, and how many of its words that mean something are those of the
person (precision, recall, F1 over pairs; beside it the instruction of another pair of the same
size, and the narration of the target as it stands). SugarCrepe gives captions and one edit of each,
of a known kind: whether the text names the words that the edit brought, and whether it has words
that stand in neither caption and are not those of its own sentence patterns.

    python benchmarks/texts_quality.py scenes
    python benchmarks/texts_quality.py people --data ../shared/data
    python benchmarks/texts_quality.py people --data ../shared/data \
        --engine "{kind: server, url: 'http://localhost:8000/v1', model: NAME}"
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

import datagen
from datagen import schema
from datagen.audit.tinyworld import WorldJudge
from datagen.step import Context
from datagen.texts.llm import Llm, LlmSettings
from datagen.texts.template import Template, TemplateSettings

Row = dict[str, Any]

WRITER = "{kind: transformers, model: 'bundled:tinywriter', batch_size: 64}"
PAIR = pa.schema([schema.PAIRS.field(name) for name in ("id", "references", "targets", "evidence")])
MINERS: dict[str, list[dict[str, Any]]] = {
    "one word": [{"pair": {"op": "one_word_diff", "max_per_reference": 4}}],
    "near captions": [
        {"embed": {"space": "caption", "model": "tfidf"}},
        {"pair": {"op": "knn_band", "space": "caption", "low": 0.5, "high": 0.95, "k": 20,
                  "max_per_reference": 2}},
    ],
}  # fmt: skip
#: Words that mean nothing by themselves, and those of narrations ("C" is who wears the camera).
STOP = frozenset(
    re.findall(
        r"\w+",
        """a an the this that these those it its is are was be been of to in on at by with from into
    onto for and or as but not no one ones some any her his their he she they them him person man
    woman c x y o lady there here now then so do does did has have having make let show""",
    )
)


def operators(names: Sequence[str], engine: str) -> Iterator[tuple[str, Any]]:
    """The operators that are measured, open."""
    context = Context(seed=0)
    for name in names:
        if name == "template":
            operator: Any = Template(TemplateSettings.model_validate({}))
        else:
            described = yaml.safe_load(engine)
            settings = {"engine": described, "texts_per_pair": 1, "temperature": 0.0}
            operator = Llm(LlmSettings.model_validate(settings))
            name = described["model"]
        operator.open(context)
        yield name, operator


def pair(name: str, reference: str, target: str) -> Row:
    """A pair of two captions."""
    sides = [
        {"id": f"{name}{side}", "key": name, "source": "s", "media": None, "caption": text,
         "labels": "{}"}
        for side, text in (("r", reference), ("t", target))
    ]  # fmt: skip
    return {"id": name, "references": sides[:1], "targets": sides[1:], "evidence": None}


def told(operator: Any, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """The first answer of each pair, by its id."""
    out: dict[str, dict[str, Any]] = {}
    for start in range(0, len(rows), 512):
        table = pa.Table.from_pylist(list(rows[start : start + 512]), PAIR)
        for line in operator(table).to_pylist():
            out.setdefault(line["id"], line)
    return out


def words(text: str) -> set[str]:
    """Words that mean something, without endings of number and time."""
    found = re.findall(r"[a-z]+", text.lower().replace("#c c", " "))
    bare = (re.sub(r"(?<=..)(ing|es|ed|s|e)$", "", one) for one in found if one not in STOP)
    return {re.sub(r"(.)\1$", r"\1", one) for one in bare}


# ------------------------------------------------------------------------------------ scenes


def scenes(names: Sequence[str], engine: str, count: int, out: str) -> None:
    """Share of pairs with a text, and of texts that the oracle finds right and minimal."""
    print("| pairs | operator | pairs | with a text | right | nothing else told | rejected by |")
    print("|---|---|---:|---:|---:|---:|---|")
    for miner, steps in MINERS.items():
        made = {
            "name": "texts_quality",
            "seed": 11,
            "source": {"type": "tinyworld", "count": count, "clips": 0.2},
            "steps": steps,
        }
        folder = f"{out}/{miner.replace(' ', '_')}"
        datagen.run(made, folder, report=False)
        run = datagen.load(folder)
        judge = WorldJudge(run.items().to_pylist())
        rows = run.table(run.note["steps"][-1]["id"]).to_pylist()
        for name, operator in operators(names, engine):
            answers = told(operator, rows)
            kept = [row for row in rows if answers[row["id"]]["verdict"] == schema.KEPT]
            said = [
                judge.triplet({**row, "modification": answers[row["id"]]["modification"]})
                for row in kept
            ]
            lost = Counter(one["rule"] for one in answers.values() if one["verdict"] != schema.KEPT)
            print(
                f"| {miner} | `{name}` | {len(rows):,} | {len(kept) / len(rows):.1%} | "
                f"{share(one.right for one in said)} | {share(one.minimal for one in said)} | "
                f"{listed(lost)} |"
            )


# ------------------------------------------------------------------------------------ people


def egocvr(folder: Path) -> tuple[list[Row], dict[str, str]]:
    """Pairs of narrations, and the instructions of people by their ids."""
    rows, texts = [], {}
    with (folder / "cir/egocvr/egocvr_annotations.csv").open(encoding="utf-8") as file:
        for number, line in enumerate(csv.DictReader(file)):
            name = f"{number:05}"
            ends = [
                re.sub(r"^#\s*C\s+C?\s*", "", line[f"{side}_clip_narration"]).strip()
                for side in ("video", "target")
            ]
            rows.append(pair(name, *ends))
            texts[name] = line["instruction"]
    return rows, texts


def overlap(text: str, other: str) -> tuple[float, float]:
    """Precision and recall of the words of ``text`` against those of ``other``."""
    mine, theirs = words(text), words(other)
    both = len(mine & theirs)
    return both / max(1, len(mine)), both / max(1, len(theirs))


def people(names: Sequence[str], engine: str, data: Path) -> None:
    rows, texts = egocvr(data)
    print(f"EgoCVR, {len(rows):,} pairs\n")
    print("| text | pairs with one | precision | recall | F1 | rejected by |")
    print("|---|---:|---:|---:|---:|---|")
    others = dict(zip(texts, [*list(texts.values())[1:], next(iter(texts.values()))], strict=True))
    targets = {row["id"]: row["targets"][0]["caption"] for row in rows}
    compared(("the next pair's instruction", others, {}), texts)
    compared(("the target's narration", targets, {}), texts)
    opened = list(operators(names, engine))
    for name, operator in opened:
        answers = told(operator, rows)
        given = {one: line["modification"] for one, line in answers.items() if line["modification"]}
        lost = Counter(one["rule"] for one in answers.values() if not one["modification"])
        compared((f"`{name}`", given, lost), texts)
    print("\nSugarCrepe\n")
    print("| edit | operator | pairs | with a text | names what came | adds nothing | example |")
    print("|---|---|---:|---:|---:|---:|---|")
    for path in sorted((data / "edits/sugarcrepe").glob("*.json")):
        lines = json.loads(path.read_text(encoding="utf-8")).values()
        rows = [
            pair(f"{number:05}", line["caption"], line["negative_caption"])
            for number, line in enumerate(lines)
        ]
        for name, operator in opened:
            edits(path.stem, name, rows, told(operator, rows))


def compared(one: tuple[str, Mapping[str, str], Mapping[str, int]], texts: dict[str, str]) -> None:
    """A row of the table: texts of an operator beside those of people."""
    name, given, lost = one
    found = [overlap(text, texts[key]) for key, text in given.items()]
    precision = sum(p for p, _ in found) / max(1, len(found))
    recall = sum(r for _, r in found) / max(1, len(found))
    both = [2 * p * r / (p + r) if p + r else 0.0 for p, r in found]
    print(
        f"| {name} | {len(given) / len(texts):.1%} | {precision:.2f} | {recall:.2f} | "
        f"{sum(both) / max(1, len(both)):.2f} | {listed(lost)} |"
    )


def edits(kind: str, name: str, rows: Sequence[Row], answers: Mapping[str, Any]) -> None:
    """A row of the table: texts for edits of one kind."""
    named, clean, example, count = [], [], "", 0
    for row in rows:
        text = answers[row["id"]]["modification"]
        if not text:
            continue
        count += 1
        before, after = (words(row[side][0]["caption"]) for side in ("references", "targets"))
        came = after - before
        if came:
            named.append(came <= words(text))
        clean.append(not foreign(text, before | after))
        if not example and 3 < len(text.split()) < 12:
            example = text
    print(
        f"| {kind} | `{name}` | {len(rows)} | {count / len(rows):.1%} | {share(named)} | "
        f"{share(clean)} | {example} |"
    )


#: Words of sentences that tell a change, and of no change themselves.
TELLING = words(
    """change replace swap turn put add remove instead rather than same but now with without place
    switch become becomes get rid take out away more less other another different where give bring
    also want should exchange drop leave off keep all else only shown see include included longer
    new color colour use using used first second time well action number several word"""
)


def foreign(text: str, known: set[str]) -> set[str]:
    """Words of ``text`` that no caption has and that tell no change."""
    return words(text) - known - TELLING


def share(found: Any) -> str:
    values = list(found)
    return f"{sum(map(bool, values)) / len(values):.1%}" if values else "–"


def listed(lost: Mapping[str, int]) -> str:
    most = sorted(lost.items(), key=lambda one: (-one[1], one[0]))
    return ", ".join(f"`{rule}` {count:,}" for rule, count in most) or "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["scenes", "people"])
    parser.add_argument("--operators", nargs="+", default=["template", "llm"])
    parser.add_argument("--engine", default=WRITER, help="of llm, as in a recipe")
    parser.add_argument("--count", type=int, default=1500, help="scenes")
    parser.add_argument("--out", default="/tmp/texts_quality", help="folder of the runs")
    parser.add_argument("--data", default="../shared/data", help="folder of public data")
    chosen = parser.parse_args()
    if chosen.what == "scenes":
        scenes(chosen.operators, chosen.engine, chosen.count, chosen.out)
    else:
        people(chosen.operators, chosen.engine, Path(chosen.data))


if __name__ == "__main__":
    main()

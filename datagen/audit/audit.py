"""Judges every triplet of a run, kept or lost, and sums up: ``audit/audit.json`` and
``audit/triplets.parquet`` in the run directory. What each figure means: docs/AUDIT.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from datagen import publish, schema, store
from datagen.audit import filters
from datagen.audit.filters import Truth, is_current, left_of, rows_of
from datagen.audit.judge import (
    Judge,
    Judgement,
    Nobody,
    NoiseJudge,
    Row,
    judge_for,
    noise_of,
)
from datagen.audit.leaks import leaks, sound
from datagen.audit.shortcuts import Shortcuts, shortcuts
from datagen.errors import DatagenError
from datagen.result import Run

#: Raised when a figure changes its name or meaning.
VERSION = 2
FOLDER = "audit"
#: Other right answers that are listed of a triplet.
OTHERS = 20
#: Reasons that are listed.
REASONS = 12
NO_TRUTH = (
    "{}: run has no truth to audit by: needs labels of source tinyworld or others that several "
    "items share, rows of operator noise, a space whose model takes texts, or --against"
)

TRIPLETS = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("id", "verdict", "step")),
        *(pa.field(name, pa.bool_()) for name in ("right", "complete", "minimal", "ambiguous")),
        pa.field("reason", pa.string()),
        pa.field("best", pa.bool_()),
        pa.field("others", pa.list_(pa.string())),
        pa.field("others_count", pa.int64()),
        pa.field("noise", pa.string()),
        pa.field("needs", pa.string()),
    ]
)

Line = dict[str, Any]


def audit(
    run: Run | str,
    *,
    against: Sequence[str] = (),
    write: bool = True,
    say: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """Audit a run, finished or not; every figure as plain values that JSON can hold.

    against: folders or runs of which no item should stand in this one (``leaks``). write: put
    the figures into the run directory (never those of an earlier decision). say: called with the
    triplets that are judged, and how many there are. Raises DatagenError where the run has no
    pairs yet, or nothing of it can be known.
    """
    from datagen.result import load

    opened = load(run) if isinstance(run, str) else run
    made = _made(opened)
    sound(against)
    judge = _judge(opened, made)
    asked = shortcuts(opened, made) if made is not None else {}
    if judge.name == Nobody.name and not against and all(one.trouble for one in asked.values()):
        raise DatagenError(NO_TRUTH.format(opened.out))
    truth = Truth(judge)
    lines = _lines(made, truth, say) if made is not None else []
    shown = _shortcuts(asked, lines)
    found = {
        "format": "datagen-audit",
        "version": VERSION,
        "of": opened.note.get("rows"),
        "decision": str(opened.note.get("rows"))[:8],
        "status": opened.status,
        "judge": {"name": judge.name, "about": judge.about, "known": judge.known,
                  "items": opened.items().num_rows},
        "triplets": {name: _summed(_chosen(lines, name)) for name in ("made", "kept")},
        "steps": filters.steps(opened, truth),
        "false_negatives": _false_negatives(made, lines),
        "shortcuts": shown,
        "noise": _noise(lines),
        "leaks": leaks(opened, against, write=write and is_current(opened)) if against else None,
    }  # fmt: skip
    if write and is_current(opened):
        folder = store.join(opened.out, FOLDER)
        store.make_folder(folder)
        table = pa.Table.from_pylist(lines, TRIPLETS)
        store.write_table(store.join(folder, "triplets.parquet"), table)
        # Written last: figures never stand beside the rows of another decision.
        store.write_json(store.join(folder, "audit.json"), found)
    return found


def standing(run: Run) -> dict[str, Any] | None:
    """The audit of the decision that ``run`` is opened at; None where there is none."""
    path = store.join(run.out, FOLDER, "audit.json")
    found = store.read_json(path) if store.exists(path) else None
    if not isinstance(found, dict) or found.get("version") != VERSION:
        return None
    return found if found.get("of") == run.note.get("rows") else None


def _made(run: Run) -> pa.Table | None:
    """Every triplet that was made, with what became of it; None where there is none yet."""
    left = left_of(run)
    if not any(one.level != "items" for one in left):
        raise DatagenError(
            f"{run.out}: this run is {run.status} and has no pairs to audit; the command that "
            "began it goes on with it"
        )
    return publish.gathered(left)


def _judge(run: Run, made: pa.Table | None) -> Judge:
    judge = judge_for(run)
    if judge is not None:
        return judge
    changes = made["evidence"].to_pylist() if made is not None else []
    return NoiseJudge() if any(noise_of({"evidence": one}) for one in changes) else Nobody()


# --- triplets -----------------------------------------------------------------------------------


def _lines(made: pa.Table, truth: Truth, say: Callable[[int, int], None]) -> list[Line]:
    """The rows of ``audit/triplets.parquet``."""
    judged = truth.of("triplets")
    lines: list[Line] = []
    columns = (*filters.COLUMNS, "verdict", "step", "negatives")
    for row in rows_of(made, columns):
        judgement = judged(row)
        answers = truth.judge.answers(row)
        own = {member["id"] for role in ("references", "targets") for member in row[role]}
        others = [name for name in answers or () if name not in own]
        lines.append(
            {
                **{name: row[name] for name in ("id", "verdict", "step")},
                **_values(judgement),
                "best": truth.judge.best(row),
                "others": others[:OTHERS] if answers is not None else None,
                "others_count": len(others) if answers is not None else None,
                "noise": noise_of(row),
                "needs": None,
                "right_negatives": _hits(row, answers),
            }
        )
        if len(lines) % 100 == 0:
            say(len(lines), made.num_rows)
    say(made.num_rows, made.num_rows)
    return lines


def _hits(row: Row, answers: Sequence[str] | None) -> list[bool] | None:
    """Of each negative whether it is an answer; None where that is not known."""
    if answers is None or "negatives" not in row:
        return None
    found = set(answers)
    return [one["item"]["id"] in found for one in row["negatives"] or ()]


def _values(one: Judgement) -> Line:
    names = ("right", "complete", "minimal", "ambiguous", "reason")
    return {name: getattr(one, name) for name in names}


def _chosen(lines: Sequence[Line], which: str) -> list[Line]:
    return [line for line in lines if which == "made" or line["verdict"] == schema.KEPT]


def _summed(lines: Sequence[Line]) -> dict[str, Any]:
    """Counts of rows; shares are of those that could be judged.

    A figure of which this judge knows nothing is None. Of ``known`` rows the judge can say whether
    they are complete, or minimal.
    """
    judged = [line for line in lines if line["right"] is not None]
    counts: dict[str, int | None] = {}
    known: dict[str, int] = {}
    for name in ("right", "complete", "minimal", "best", "ambiguous"):
        told = [line[name] for line in judged if line[name] is not None]
        counts[name] = sum(told) if told or not judged else None
        known[name] = len(told)
    reasons = Counter(line["reason"].partition(":")[0] for line in lines)
    ordered = sorted(reasons.items(), key=lambda one: (-one[1], one[0]))
    return {
        "rows": len(lines),
        "judged": len(judged),
        **counts,
        "known": {name: known[name] for name in ("complete", "minimal")},
        "right_share": round((counts["right"] or 0) / len(judged), 4) if judged else None,
        "reasons": dict(ordered[:REASONS]),
    }


# --- what else is known of them -------------------------------------------------------------------


def _false_negatives(made: pa.Table | None, lines: Sequence[Line]) -> dict[str, Any] | None:
    """Items that answer a right triplet as well as its target does, and negatives that do."""
    if all(line["others_count"] is None for line in lines):
        return None
    found: dict[str, Any] = {}
    for which in ("made", "kept"):
        right = [one for one in _chosen(lines, which) if one["right"]]
        counts = [line["others_count"] for line in right if line["others_count"] is not None]
        found[which] = {
            "rows": len(counts),
            "with_others": sum(count > 0 for count in counts),
            "mean": round(sum(counts) / len(counts), 4) if counts else None,
            "most": max(counts, default=0),
        }
    return {**found, "negatives": _negatives(made, lines)}


def _negatives(made: pa.Table | None, lines: Sequence[Line]) -> dict[str, int] | None:
    """How many negatives of the kept triplets are answers themselves."""
    if made is None or "negatives" not in made.column_names:
        return None
    right = [line["right_negatives"] for line in _chosen(lines, "kept") if line["right"]]
    held = [hits for hits in right if hits is not None]
    return {
        "rows": sum(map(len, held)),
        "answers": sum(map(sum, held)),
        "triplets": sum(map(any, held)),
    }


def _noise(lines: Sequence[Line]) -> dict[str, dict[str, int]]:
    """Rows with injected noise by kind, and those of them that were kept."""
    found: dict[str, dict[str, int]] = {}
    for line in lines:
        if line["noise"]:
            one = found.setdefault(line["noise"], {"made": 0, "kept": 0})
            one["made"] += 1
            one["kept"] += line["verdict"] == schema.KEPT
    return dict(sorted(found.items()))


def _shortcuts(asked: Mapping[str, Shortcuts], lines: Sequence[Line]) -> dict[str, Any]:
    """What the triplets need, by space: of the kept ones, and of all as ``made``. The lines get
    what the first space tells that could be asked."""
    kept = [line["id"] for line in _chosen(lines, "kept")]
    told = next((one for one in asked.values() if not one.trouble), None)
    for line in lines:
        line["needs"] = told.needs.get(line["id"]) if told is not None else None
    return {
        name: one.figures(kept) if one.trouble else {**one.figures(kept), "made": one.figures()}
        for name, one in asked.items()
    }

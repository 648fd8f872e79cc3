"""What each filter of a run took away, against the truth: rightly, wrongly, and at other
thresholds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datagen import note, publish, registry, schema, store, tables
from datagen.audit.judge import Judge, Judgement, Row
from datagen.result import Run

Array = np.ndarray[Any, Any]

#: Points of a curve, and rows that are judged at a time.
POINTS, ROWS = 40, 2_000
#: The share of right rows that ``keeps_99`` keeps.
KEEPS = 0.99
#: What the judges read of a row.
COLUMNS = ("id", "references", "targets", "evidence", "modification", "captions", "labels")


@dataclass
class Truth:
    """What the judge said of rows, by their id: each is asked about once."""

    judge: Judge
    said: dict[str, Judgement] = field(default_factory=dict)

    def of(self, level: str) -> Callable[[Row], Judgement]:
        """The judge's answer for a row of this level."""
        ask = {"triplets": self.judge.triplet, "pairs": self.judge.pair, "items": self.judge.item}

        def judged(row: Row) -> Judgement:
            known = self.said.get(row["id"])
            if known is None:
                known = self.said[row["id"]] = ask[level](row)
            return known

        return judged


def rows_of(table: pa.Table, columns: Sequence[str] = COLUMNS) -> Iterator[dict[str, Any]]:
    """The rows of a table as dictionaries, some at a time."""
    chosen = table.select([name for name in columns if name in table.column_names])
    for batch in chosen.to_batches(max_chunksize=ROWS):
        yield from batch.to_pylist()


def steps(run: Run, truth: Truth) -> list[dict[str, Any]]:
    """For every filter: how many right and wrong rows came in, stayed and went.

    Other steps that lost pairs or triplets are listed too, without curves.
    """
    found: list[dict[str, Any]] = []
    before: publish.Left | None = None
    for entry, place in zip(run.funnel, run.note["steps"], strict=False):
        after = publish.Left(entry["id"], store.join(run.out, place["folder"]), entry["level"])
        lost = bool(entry["rejected"] or entry["failed"])
        wanted = entry["kind"] == "filter" or (lost and before and before.level != "items")
        if before is not None and wanted:
            told = _step(run, entry, before, after, truth)
            if told is not None:
                found.append(told)
        before = after
    return found


def _step(
    run: Run, entry: dict[str, Any], before: publish.Left, after: publish.Left, truth: Truth
) -> dict[str, Any] | None:
    """The figures of one step; None where its rows cannot be judged."""
    rows = store.read_table(store.join(before.folder, "table.parquet"))
    verdicts = store.read_table(store.join(after.folder, "verdicts.parquet"))
    decided = dict(zip(verdicts["id"].to_pylist(), verdicts["verdict"].to_pylist(), strict=True))
    rules = dict(zip(verdicts["id"].to_pylist(), verdicts["rule"].to_pylist(), strict=True))
    judged = truth.of(before.level)
    right = {row["id"]: judged(row).right for row in rows_of(rows)}
    known = {name: bool(value) for name, value in right.items() if value is not None}
    if not known:
        return None
    sides = {verdict: Counter[bool]() for verdict in (schema.KEPT, schema.REJECTED, schema.FAILED)}
    by_rule: dict[str, Counter[bool]] = {}
    for name, value in known.items():
        sides[decided[name]][value] += 1
        if decided[name] != schema.KEPT:
            by_rule.setdefault(rules[name] or "error", Counter())[value] += 1
    rejected, wrong = sides[schema.REJECTED], sum(not value for value in known.values())
    rights = len(known) - wrong
    kept = sides[schema.KEPT]
    return {
        "id": entry["id"],
        "kind": entry["kind"],
        "op": entry["op"],
        "level": before.level,
        "rows": rows.num_rows,
        "judged": len(known),
        "right": rights,
        "right_share": _share(rights, len(known)),
        "kept": _counted(kept),
        "rejected": _counted(rejected),
        "failed": _counted(sides[schema.FAILED]),
        "rules": {rule: _counted(one) for rule, one in sorted(by_rule.items())},
        "right_share_after": _share(kept[True], kept.total()),
        "precision": _share(rejected[False], rejected.total()),
        "recall": _share(rejected[False], wrong),
        "right_kept": _share(kept[True], rights),
        "curves": _curves(run, entry, rows, after, known) if entry["kind"] == "filter" else [],
    }


def _counted(one: Counter[bool]) -> dict[str, int]:
    return {"rows": one.total(), "right": one[True], "wrong": one[False]}


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


# --- curves -------------------------------------------------------------------------------------


def _curves(
    run: Run, entry: dict[str, Any], rows: pa.Table, after: publish.Left, known: dict[str, bool]
) -> list[dict[str, Any]]:
    """A curve for each score that the step measured of its rows, and each rule that bounds it."""
    settings = _settings(run, entry)
    found = []
    for scores, of_items in _scores(after.folder, rows):
        for name in scores.column_names:
            for rule, side in _bounds(entry["op"], name) if name.startswith("score_") else ():
                ids, values = scores["id"].to_pylist(), _numbers(scores[name])
                if of_items:
                    values = _of_rows(rows, dict(zip(ids, values, strict=True)), side, settings)
                    ids = rows["id"].to_pylist()
                chosen = [at for at, one in enumerate(ids) if one in known]
                chosen = [at for at in chosen if np.isfinite(values[at])]
                if chosen:
                    right = np.array([known[ids[at]] for at in chosen], bool)
                    told = {"score": name, "rule": rule, "side": side}
                    drawn = curve(values[chosen], right, side)
                    found.append({**told, "in_force": settings.get(rule), **drawn})
    return found


def _scores(folder: str, rows: pa.Table) -> Iterator[tuple[pa.Table, bool]]:
    """What a filter measured of every row, also of those it lost; or, where that is told, of the
    items that the rows use."""
    for name, of_items in (("scores.parquet", False), ("measured.parquet", True)):
        path = store.join(folder, name)
        if store.exists(path):
            yield store.read_table(path), of_items
            return
    journal = store.Journal(store.join(folder.rsplit("/", 1)[0], "journal"))
    if "references" not in rows.column_names and journal.parts():
        found = tables.answers(journal, rows["id"], optional=True)
        names = ["id" if name == "unit" else name for name in found.column_names]
        yield found.rename_columns(names), False


def _of_rows(rows: pa.Table, known: dict[str, float], side: str, settings: dict[str, Any]) -> Array:
    """The worst score of the items of each row, as a filter on items decides by it: the least where
    ``low`` bounds it, else the highest; NaN where an item has none."""
    sides = {"reference": ["references"], "target": ["targets"]}
    worst = np.full(rows.num_rows, np.inf if side == "low" else -np.inf)
    for name in sides.get(str(settings.get("of")), ["references", "targets"]):
        parents, ids = tables.member_ids(rows, name)
        values = np.array([known.get(one, np.nan) for one in ids], np.float64)
        with np.errstate(invalid="ignore"):
            (np.minimum if side == "low" else np.maximum).at(worst, parents, values)
    return worst


def _numbers(column: pa.ChunkedArray) -> Array:
    found: Array = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return found


def _bounds(op: str, score: str) -> list[tuple[str, str]]:
    """The rules that bound a score, and the side on which each does; ``low`` and ``high`` where
    the operator is not known."""
    if ":" in op or op not in registry.names("filter"):
        return [("low", "low"), ("high", "high")]
    rules: frozenset[str] = getattr(registry.find("filter", op), "rules", frozenset())
    if score.endswith("_rank"):
        return [("max_rank", "high")] if "max_rank" in rules else []
    return [(side, side) for side in ("low", "high") if side in rules]


def _settings(run: Run, entry: dict[str, Any]) -> dict[str, Any]:
    from datagen.report import _steps

    return next((s["thresholds"] for s in _steps.described(run) if s["id"] == entry["id"]), {})


def curve(scores: Array, right: Array, side: str) -> dict[str, Any]:
    """What a threshold alone would do: points from keeping all to rejecting most, and
    ``keeps_99``, the strictest threshold that keeps 99 % of the right rows.

    side: ``low`` rejects scores below the threshold, ``high`` those above it. Each point has the
    threshold, the share of rows that go, the precision (share of them that are wrong), the recall
    (share of the wrong rows that go) and the share of right rows that stay.
    """
    quantiles = np.linspace(0, 1, POINTS + 1)
    thresholds = np.unique(np.quantile(scores, quantiles, method="lower"))
    points = []
    for threshold in thresholds if side == "low" else thresholds[::-1]:
        gone = scores < threshold if side == "low" else scores > threshold
        wrongly, rightly = int((gone & right).sum()), int((gone & ~right).sum())
        points.append(
            {
                "threshold": float(threshold),
                "rejected": _share(wrongly + rightly, len(scores)),
                "precision": _share(rightly, wrongly + rightly),
                "recall": _share(rightly, int((~right).sum())),
                "right_kept": _share(int(right.sum()) - wrongly, int(right.sum())),
            }
        )
    return {"keeps_99": keeps(scores[right], side), "points": points}


def keeps(scores: Array, side: str, share: float = KEEPS) -> float | None:
    """The strictest threshold that keeps at least ``share`` of ``scores``; None of no scores."""
    if not len(scores):
        return None
    ordered = np.sort(scores) if side == "low" else np.sort(-scores)
    # So many may go: those before the place of the threshold.
    may_go = int(np.floor(len(scores) * (1 - share) + 1e-9))
    value = float(ordered[may_go])
    return value if side == "low" else -value


def left_of(run: Run) -> list[publish.Left]:
    """The complete steps of a run, as :func:`datagen.publish.gathered` reads them."""
    return [
        publish.Left(entry["id"], store.join(run.out, place["folder"]), entry["level"])
        for entry, place in zip(run.funnel, run.note["steps"], strict=False)
    ]


def is_current(run: Run) -> bool:
    """Whether ``run`` is opened at the decision in force."""
    return bool(note.read(run.out).get("rows") == run.note.get("rows"))

"""What the charts of a report show, as numbers; the page draws them as SVG."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datagen import recipe_file, registry, schema, tables
from datagen.errors import DatagenError
from datagen.report import rows as report_rows
from datagen.result import Run

Array = np.ndarray[Any, Any]

VERDICTS = (schema.KEPT, schema.REJECTED, schema.FAILED)
BINS = 36
#: Up to so many points are drawn one by one.
POINTS = 1500
#: Columns (at most; one per word where there are fewer) and rows of a density.
GRID = (44, 28)
#: Share of the longest texts that stand together at the edge of a density.
LONG = 0.995


@dataclass(frozen=True)
class Histogram:
    """A score: counts per bin and verdict, bin edges, and the bounds of the filter, if any.

    level: what has the score; step: the filter that measured it, or ""; beyond: bounds so far
    from every value that the chart does not reach them; whole: a bin is one whole number.
    """

    score: str
    level: str
    step: str
    edges: list[float]
    counts: dict[str, list[int]]
    bounds: dict[str, float] = field(default_factory=dict)
    beyond: dict[str, float] = field(default_factory=dict)
    missing: int = 0
    whole: bool = False

    @property
    def highest(self) -> int:
        """The greatest number in a bin."""
        return max((sum(column) for column in zip(*self.counts.values(), strict=True)), default=0)

    @property
    def total(self) -> int:
        """Rows with a score."""
        return sum(map(sum, self.counts.values()))


@dataclass(frozen=True)
class Density:
    """A score against the length of the texts in words.

    points: (words, score, verdict) where there are few, else none; cells: (column, row, count)
    of a grid of ``columns`` over ``x`` and ``y`` (least, greatest), where there are many.
    """

    score: str
    x: tuple[float, float]
    y: tuple[float, float]
    total: int
    columns: int
    points: list[tuple[float, float, str]] = field(default_factory=list)
    cells: list[tuple[int, int, int]] = field(default_factory=list)


def histograms(run: Run, shown: pa.Table) -> list[Histogram]:
    """One histogram per score: of all rows of the filter that measured it, in the order of the
    recipe; then of the other score columns of ``shown``, by the rows' final verdicts.
    """
    found: list[Histogram] = []
    levels = {entry["id"]: before["level"] for before, entry in _pairs(run.funnel)}
    for entry in run.funnel:
        if entry["kind"] != "filter":
            continue
        verdicts = run.verdicts(entry["id"])
        level = levels.get(entry["id"], "items")
        given = report_rows.scores_of(run, entry["id"], verdicts["id"])
        if given is None:
            given = report_rows.measured(run, entry["id"])
            if given is None:
                continue
            level, verdicts = "items", _fates(run, entry["id"], given["id"])
        at = pc.index_in(verdicts["id"], value_set=given["id"].combine_chunks())
        for name in given.column_names[1:]:
            values = given[name].combine_chunks().take(at.combine_chunks())
            bounds = thresholds(run, entry["id"], name)
            found.append(histogram(name, level, entry["id"], values, verdicts["verdict"], bounds))
    known = {one.score for one in found}
    known |= {f"{name}_{side}" for name in known for side in ("reference", "target")}
    for name in sorted(n for n in shown.column_names if n.startswith("score_") and n not in known):
        found.append(histogram(name, _level(shown), "", shown[name], shown["verdict"], {}))
    mined = pc.struct_field(shown["evidence"], "score")
    if mined.null_count < len(mined):
        found.append(histogram("mining score", _level(shown), "", mined, shown["verdict"], {}))
    return [one for one in found if one.total]


def _fates(run: Run, step: str, items: pa.ChunkedArray) -> pa.Table:
    """Verdicts of items that were measured for the rows that use them: an item is kept where a
    row with it as reference or target is.
    """
    rows = run.table(step)
    used = {name for side in ("references", "targets") for name in tables.member_ids(rows, side)[1]}
    fates = [schema.KEPT if name in used else schema.REJECTED for name in items.to_pylist()]
    return pa.table({"id": items, "verdict": pa.array(fates, pa.string())})


def histogram(
    score: str,
    level: str,
    step: str,
    values: Any,
    verdicts: Any,
    bounds: Mapping[str, float],
    bins: int = BINS,
) -> Histogram:
    """Count ``values`` per bin and verdict; bins reach over the values and the bounds near them.

    A score that counts something has a bin for each number, where there are few.
    """
    numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
    names = np.asarray(verdicts.to_pylist(), dtype=object)
    known = np.isfinite(numbers)
    least, most = (numbers[known].min(), numbers[known].max()) if known.any() else (0.0, 0.0)
    room = max(most - least, abs(most), abs(least))
    near = {name: at for name, at in bounds.items() if least - room <= at <= most + room}
    least, most = float(min([least, *near.values()])), float(max([most, *near.values()]))
    whole = bool(known.any()) and not (numbers[known] % 1).any() and most - least < bins
    if whole:
        least, most = np.floor(least) - 0.5, np.ceil(most) + 0.5
        bins = round(most - least)
    elif least == most:
        least, most = least - 0.5, most + 0.5
    edges = np.linspace(least, most, bins + 1)
    counts = {
        verdict: np.histogram(numbers[known & (names == verdict)], edges)[0].tolist()
        for verdict in VERDICTS
        if verdict == schema.KEPT or (known & (names == verdict)).any()
    }
    return Histogram(
        *(score, level, step, edges.tolist(), counts, near),
        beyond={name: at for name, at in bounds.items() if name not in near},
        missing=int((~known).sum()),
        whole=whole,
    )


def thresholds(run: Run, step: str, score: str) -> dict[str, float]:
    """Bounds of ``score`` by the filter ``step``: as the recipe says, else its defaults.

    These are its settings ``low`` and ``high``, or ``min_words`` and ``max_words`` for words.
    Defaults are looked up for the filters of this package alone: a page runs no code of others.
    """
    name = score.removeprefix("score_")
    bounds = {"low": "low", "high": "high", f"min_{name}": "low", f"max_{name}": "high"}
    if name.endswith("_rank"):
        bounds = {"max_rank": "high"}
    steps = run.note["recipe"].get("steps") or []
    for known, given in zip(recipe_file.step_ids(steps), steps, strict=True):
        settings = given.get("filter")
        if known != step or not isinstance(settings, dict):
            continue
        settings = {**_defaults(str(settings.get("op", "")), bounds), **settings}
        return {
            bound: float(settings[setting])
            for setting, bound in bounds.items()
            if _number(settings.get(setting))
        }
    return {}


def _number(value: Any) -> bool:
    return type(value) in (int, float) and bool(np.isfinite(value))


def _defaults(op: str, names: Iterable[str]) -> dict[str, Any]:
    if ":" in op:
        return {}
    try:
        fields = registry.find("filter", op).Settings.model_fields
    except DatagenError:
        return {}
    return {name: fields[name].default for name in names if name in fields}


def densities(shown: pa.Table, most: int = 4) -> list[Density]:
    """Every similarity (``most`` of them) against the number of words of the texts.

    Where no filter has measured one, it is the score by which pairs were mined.
    """
    texts = shown["modification"].to_pylist()
    words = np.array([len(text.split()) if text else np.nan for text in texts], dtype=np.float64)
    verdicts = np.asarray(shown["verdict"].to_pylist(), dtype=object)
    names = [name for name in shown.column_names if name.startswith("score_")]
    names = sorted(name for name in names if "similarity" in name or "clip" in name)
    columns = {name: shown[name].to_numpy(zero_copy_only=False) for name in names}
    if not names:
        mined = pc.struct_field(shown["evidence"], "score")
        columns["mining score"] = mined.to_numpy(zero_copy_only=False)
    found = [density(name, words, column, verdicts) for name, column in columns.items()]
    return [one for one in found if one is not None][:most]


def density(score: str, words: Array, values: Array, verdicts: Array) -> Density | None:
    """One score against words; None where no row has both."""
    values = values.astype(np.float64)
    known = np.isfinite(words) & np.isfinite(values)
    if not known.any():
        return None
    x, y, names = words[known], values[known], verdicts[known]
    longest = float(np.quantile(x, LONG, method="higher"))
    x = np.minimum(x, longest)
    # Words are whole numbers: each has a column, or several share one.
    reach_x = (float(x.min()) - 0.5, longest + 0.5)
    columns = min(GRID[0], round(reach_x[1] - reach_x[0]))
    low, high = float(y.min()), float(y.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    made = Density(score, reach_x, (low, high), len(x), columns)
    if len(x) <= POINTS:
        points = list(zip(x.tolist(), y.tolist(), names.tolist(), strict=True))
        return replace(made, points=points)
    counts, _, _ = np.histogram2d(x, y, (columns, GRID[1]), (made.x, made.y))
    cells = [(int(a), int(b), int(counts[a, b])) for a, b in np.argwhere(counts > 0)]
    return replace(made, cells=cells)


def ticks(least: float, most: float, wanted: int = 5, whole: bool = False) -> list[float]:
    """Round numbers (whole ones alone) from ``least`` to ``most``, about ``wanted`` of them."""
    step = (most - least) / max(1, wanted)
    if not step > 0:
        return [least]
    size = 10.0 ** np.floor(np.log10(step))
    step = next((size * n for n in (1, 2, 2.5, 5) if size * n >= step), size * 10)
    step = max(1.0, np.ceil(step)) if whole else step
    first = np.ceil(least / step - 1e-9)
    last = np.floor(most / step + 1e-9)
    return [float(round(n * step, 12)) for n in np.arange(first, last + 1)]


def _pairs(funnel: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return list(itertools.pairwise(funnel))


def _level(shown: pa.Table) -> str:
    levels = set(shown["level"].to_pylist())
    return levels.pop() if len(levels) == 1 else "rows"

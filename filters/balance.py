"""Caps how often a reference, target, text, change or label stands in the table.

Mined collections are lopsided: a few hub pictures stand in hundreds of rows, and one opening
("make it …") in most texts. Every cap is decided over the whole table, greedily in the order of
ids. Ids are hashes of content, so the rows that stay are a fair draw, and the same one whatever
the order of the rows or the number of workers.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import AfterValidator, Field, model_validator

from datagen import schema
from datagen.errors import DatagenError
from datagen.filters._words import core
from datagen.schema import Level
from datagen.step import Filter, Resources, Settings, verdicts

Array = np.ndarray[Any, Any]

_TEXT_CAPS = ("per_text", "per_first_verb")


def _cap(value: int | float) -> int | float:
    whole = isinstance(value, int)
    if not (value >= 1 if whole else 0 < value < 1):
        raise ValueError("a whole number of rows from 1, or a share between 0 and 1, expected")
    return value


Cap = Annotated[
    Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)],
    AfterValidator(_cap),
]


class BalanceSettings(Settings):
    """Each cap is a number of rows (40), or a share of the rows that come in, not of those that
    stay (0.2; rounded down, but one row at least). ``per_reference``, ``per_target``: rows with
    that item on that side. ``per_text``: rows with that text, whatever its case and spaces.
    ``per_first_verb``: rows whose text begins with that word. ``per_change``: rows where that
    word gives way to that other. ``per_label``: for labels of the targets, rows with each value,
    as {label: cap}. A row without the thing (no text, no such label) is not capped by it.
    """

    per_reference: Cap | None = None
    per_target: Cap | None = None
    per_text: Cap | None = None
    per_first_verb: Cap | None = None
    per_change: Cap | None = None
    per_label: dict[str, Cap] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _some(self) -> BalanceSettings:
        if not any(value for _, value in self):
            raise ValueError(f"give at least one cap: {', '.join(type(self).model_fields)}")
        return self


@dataclass
class _Group:
    """The rows that one cap counts: ``rows`` (n,) row numbers in the order of ids, ascending;
    ``keys`` (n,) what is counted, as numbers into ``names``. A (row, key) stands here once.
    """

    rule: str
    cap: int
    rows: Array
    keys: Array
    names: list[str]


class Balance(Filter[BalanceSettings]):
    """Rejects a row that would exceed a cap, as ``over_per_target`` and so on.

    A row with several references, targets, changes or label values counts for each of them, and
    only rows that stay are counted. So no cap is exceeded, and no rejected row could come back
    without exceeding one. It measures nothing: all settings only decide.
    """

    Settings = BalanceSettings
    levels = ("pairs", "triplets")
    rules = frozenset(BalanceSettings.model_fields)

    def needs(self, level: Level) -> set[str]:
        texts = {"modification"} if self._text_caps() else set()
        return {"pairs"} | texts | ({"items.labels"} if self.settings.per_label else set())

    def _text_caps(self) -> list[str]:
        return [name for name in _TEXT_CAPS if getattr(self.settings, name) is not None]

    def columns(self, level: Level) -> list[str]:
        return ["id"]

    def resources(self) -> Resources:
        return Resources(batch_size=65536)

    def __call__(self, rows: pa.Table) -> pa.Table:
        return rows.select(["id"])

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        """Raises DatagenError where a cap on texts meets rows without texts."""
        if self._text_caps() and "modification" not in rows.column_names:
            raise DatagenError(
                f"balance.{self._text_caps()[0]}: pairs have no text yet; put the step after "
                "the text step"
            )
        ids = rows["id"].to_pylist()
        order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
        over = _over(self._groups(rows.take(pa.array(order))), len(ids))
        return verdicts(ids, {ids[order[at]]: why for at, why in over.items()})

    def _groups(self, rows: pa.Table) -> list[_Group]:
        """What each cap counts, for rows in the order of ids."""
        wanted, count = self.settings, rows.num_rows
        groups = []

        def add(name: str, cap: int | float | None, owner: Array, keys: Any, names: Any) -> None:
            if cap is not None:
                most = cap if isinstance(cap, int) else max(1, math.floor(cap * count + 1e-9))
                groups.append(_group(f"over_{name}", most, owner, keys, names))

        for name, column in (("per_reference", "references"), ("per_target", "targets")):
            if getattr(wanted, name) is not None:
                owner, flat = _flat(rows[column])
                keys = flat.field("id").to_pylist()
                said = [a or b for a, b in zip(flat.field("key").to_pylist(), keys, strict=True)]
                add(name, getattr(wanted, name), owner, keys, said)
        for name, read in zip(_TEXT_CAPS, (_folded, _first_word), strict=True):
            if getattr(wanted, name) is not None:
                texts = [read(text) for text in rows["modification"].to_pylist()]
                add(name, getattr(wanted, name), np.arange(count), texts, texts)
        if wanted.per_change is not None:
            owner, flat = _flat(rows["evidence"].combine_chunks().field("changes"))
            sides = (flat.field(side).to_pylist() for side in ("removed", "added"))
            said = [f"{_folded(a)} → {_folded(b)}" for a, b in zip(*sides, strict=True)]
            add("per_change", wanted.per_change, owner, said, said)
        for label, cap in sorted(wanted.per_label.items()):
            owner, said = _labels(rows["targets"], label)
            add("per_label", cap, owner, said, [f"{label}: {value}" for value in said])
        return groups


def _group(rule: str, cap: int, owner: Array, keys: Iterable[Any], names: list[Any]) -> _Group:
    """Leaves out missing keys, and keys that stand in no more rows than the cap allows."""
    codes, unique = pd.factorize(np.array(list(keys), dtype=object))
    told = np.full(len(unique), None, dtype=object)
    here = codes >= 0
    told[codes[here]] = np.array(names, dtype=object)[here]
    table = pd.DataFrame({"row": owner[here], "key": codes[here]}).drop_duplicates()
    sizes = np.bincount(table["key"], minlength=len(unique))
    table = table[sizes[table["key"].to_numpy()] > cap]
    return _Group(rule, cap, table["row"].to_numpy(), table["key"].to_numpy(), list(told))


def _over(groups: list[_Group], count: int) -> dict[int, tuple[str, str]]:
    """Rule and detail of every row that must go; rows are numbered in the order of ids."""
    of_row: dict[int, list[tuple[int, int]]] = {}
    for at, group in enumerate(groups):
        for row, key in zip(group.rows.tolist(), group.keys.tolist(), strict=True):
            of_row.setdefault(row, []).append((at, key))
    seen: Counter[Hashable] = Counter()
    kept: Counter[Hashable] = Counter()
    out: dict[int, tuple[str, str]] = {}
    for row in sorted(of_row):
        seen.update(of_row[row])
        full = next((one for one in of_row[row] if kept[one] >= groups[one[0]].cap), None)
        if full is None:
            kept.update(of_row[row])
            continue
        group = groups[full[0]]
        name = group.names[full[1]]
        out[row] = (group.rule, f"{_ordinal(seen[full])} of '{name}', cap {group.cap}")
    return out


def _flat(column: pa.Array | pa.ChunkedArray) -> tuple[Array, pa.Array]:
    """Row number of each entry of a column of lists, and the entries."""
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(lists)), lengths), lists.flatten()


def _labels(column: pa.ChunkedArray, label: str) -> tuple[Array, list[str]]:
    """Row number and value, as text, for each value of ``label`` of the targets."""
    owner, flat = _flat(column)
    coded = flat.field("labels").dictionary_encode()
    known = [_values(text, label) for text in coded.dictionary.to_pylist()]
    rows: list[int] = []
    values: list[str] = []
    for row, code in zip(owner.tolist(), coded.indices.to_pylist(), strict=True):
        found = known[code] if code is not None else []
        rows.extend([row] * len(found))
        values.extend(found)
    return np.array(rows, dtype=np.int64), values


def _values(labels: str, label: str) -> list[str]:
    try:
        value = json.loads(labels).get(label)
    except (ValueError, AttributeError, RecursionError):
        return []
    listed = value if isinstance(value, list) else [value]
    return [
        one if isinstance(one, str) else schema.canonical_json(one)
        for one in listed
        if one is not None
    ]


def _folded(text: str | None) -> str | None:
    return " ".join(text.casefold().split()) or None if text is not None else None


def _first_word(text: str | None) -> str | None:
    tokens = (text or "").lower().split()
    return next((word for token in tokens if (word := core(token))), None)


def _ordinal(number: int) -> str:
    teen = number % 100 in (11, 12, 13)
    return f"{number}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"

"""The funnel of a run for its page: every step with its reasons, and examples of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datagen import schema, store
from datagen.report.chunks import cut
from datagen.result import Run

#: Examples of a reason, and rows in which they are looked for.
EXAMPLES, SEARCHED = 3, 1 << 19


@dataclass(frozen=True)
class Reason:
    """A rule of a step: how many rows it took away, with the details of a few of them."""

    rule: str
    verdict: str
    count: int
    examples: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """A step with its counts; ``before`` is the level of its input rows."""

    id: str
    kind: str
    op: str
    before: str
    level: str
    rows_in: int
    kept: int
    rejected: int
    failed: int
    rows_out: int
    seconds: float
    reasons: list[Reason]


def steps(run: Run) -> list[Step]:
    """The steps that are complete, in order."""
    found: list[Step] = []
    for entry in run.funnel:
        rejected, failed = entry["rejected"], entry["failed"]
        shown = _examples(run, entry["id"]) if rejected or failed else {}
        reasons = [
            Reason(rule, verdict, count, shown.get((verdict, rule), []))
            for verdict, rules in ((schema.REJECTED, rejected), (schema.FAILED, failed))
            for rule, count in sorted(rules.items(), key=lambda rule: (-rule[1], rule[0]))
        ]
        found.append(
            Step(
                id=entry["id"],
                kind=entry["kind"],
                op=entry["op"],
                before=found[-1].level if found else "records",
                level=entry["level"],
                rows_in=entry["rows_in"],
                kept=entry["kept"],
                rejected=sum(rejected.values()),
                failed=sum(failed.values()),
                rows_out=entry["rows_out"],
                seconds=entry["seconds"],
                reasons=reasons,
            )
        )
    return found


def _examples(run: Run, step: str) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """The first rows of each reason, as (id or key, detail), by (verdict, rule)."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for batch in _lost(run, step):
        names = batch["key"] if "key" in batch.column_names else batch["id"]
        keys = pc.binary_join_element_wise(
            batch["verdict"], pc.fill_null(batch["rule"], "error"), "\n"
        )
        for key in pc.unique(keys).to_pylist():
            verdict, _, rule = key.partition("\n")
            have = found.setdefault((verdict, rule), [])
            if len(have) >= EXAMPLES:
                continue
            at = pc.indices_nonzero(pc.equal(keys, key))[: EXAMPLES - len(have)]
            chosen = zip(
                names.take(at).to_pylist(), batch["detail"].take(at).to_pylist(), strict=True
            )
            have += [(cut(name) or "", cut(detail) or "") for name, detail in chosen]
    return found


def _lost(run: Run, step: str) -> Iterator[pa.Table]:
    """Rows that were not kept, batch by batch, of the first :data:`SEARCHED` verdicts."""
    folder = next(one["folder"] for one in run.note["steps"] if one["id"] == step)
    path = store.join(run.out, folder, "verdicts.parquet")
    fs, inner = store.filesystem(path)
    seen = 0
    with fs.open(inner, "rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(1 << 16):
            table = pa.Table.from_batches([batch])
            yield table.filter(pc.not_equal(table["verdict"], schema.KEPT)).combine_chunks()
            seen += table.num_rows
            if seen >= SEARCHED:
                return

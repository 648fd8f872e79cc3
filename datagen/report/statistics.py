"""The figures of a run, per split, out of its tables. What each means: docs/CARD.md."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from datagen import store
from datagen.report import _aspects, _columns, _items, _leaks, _steps, _truth, _words
from datagen.report._columns import Triplets
from datagen.report._numbers import Array, histogram, share, sizes_of, summary
from datagen.report.sections import Figure, Section, sections
from datagen.result import Run

__all__ = ["NOT_MEASURED", "Figure", "Section", "sections", "statistics"]

#: Raised when a figure changes its name or meaning.
VERSION = 1

#: Figures that a card should have and a run cannot give, with the reason.
NOT_MEASURED = {
    "share of wrong triplets": "needs a known truth (datagen audit), a person or a model",
    "modality redundancy": "needs a trained retriever with text-only and image-only queries",
    "benchmark overlap": "needs the media of the benchmarks",
    "NSFW content": "no detector has run",
    "faces and other personal data": "no detector has run",
}


def statistics(run: Run) -> dict[str, Any]:
    """Every figure of ``run`` as plain values that JSON can hold.

    ``splits`` names the splits (``all`` first); a run without triplets has none, and figures of
    its items, steps and sources only. Reads columns, never media; a million triplets take about
    half a minute and 1 GB of memory.
    """
    path = _steps.triplets_path(run)
    rows = _columns.triplets(path) if path else None
    source = _steps.folder(run, "source")
    items = _items.listed(store.join(source, "table.parquet")) if source else None
    steps = _steps.described(run)
    lines = _steps.provenance(path) if path else []
    truth = _truth.known(run)
    used = {*rows.items["id"], *_columns.negatives_used(path)} if rows and path else set()
    return {
        "format": "datagen-statistics",
        "version": VERSION,
        "run": _about(run),
        "splits": list(rows.splits) if rows else [],
        **(_of_triplets(rows, path) if rows and path else {}),
        "scores": _scores(run, rows, steps),
        "items": _items.media(items) if items is not None else None,
        "sources": _items.sources(run.note["recipe"], items, used) if items is not None else [],
        "made": _items.made(run.made_by(), used),
        "steps": steps,
        "funnel": _steps.funnel(run),
        "provenance": lines,
        "models": _steps.models(steps, lines),
        "shards": _shards(run),
        "truth": truth,
        "not_measured": {
            name: why for name, why in NOT_MEASURED.items() if not _truth.tells(truth, name)
        },
    }


def _about(run: Run) -> dict[str, Any]:
    recipe = run.note["recipe"]
    return {
        "name": str(recipe.get("name") or ""),
        "about": str(recipe.get("about") or ""),
        "status": run.status,
        "seed": run.note.get("seed"),
        "versions": run.note.get("versions", {}),
        "recipe": recipe,
    }


def _of_triplets(rows: Triplets, path: str) -> dict[str, Any]:
    """Figures per split: counts, texts, aspects, leaks, negatives, media."""
    known = _words.of_texts(rows.texts)
    aspects = _aspects.matrix(rows.texts)
    labels = _leaks.label_names(_some_labels(path))
    signs = _leaks.signs(rows.texts, labels)
    copies = _leaks.copies(path)
    out: dict[str, Any] = {
        name: {} for name in ("counts", "texts", "aspects", "leaks", "negatives", "media")
    }
    for split, mask in rows.splits.items():
        text, count = rows.text[mask], int(mask.sum())
        uses = np.bincount(text[text >= 0], minlength=len(rows.texts))
        out["counts"][split] = _counts(rows, mask)
        out["texts"][split] = _words.figures(
            text, rows.texts, known, rows.pair[mask], out["texts"].get("all")
        )
        out["aspects"][split] = _balance(aspects, uses, count)
        found = _leaks.counted(signs, uses)
        found |= {name: int(hits[mask].sum()) for name, hits in copies.items()}
        out["leaks"][split] = {
            name: {"count": n, "share": share(n, count)} for name, n in found.items()
        }
        out["negatives"][split] = _negatives(rows, mask)
        seen = np.union1d(rows.references.of(mask), rows.targets.of(mask))
        out["media"][split] = _items.media(rows.items.iloc[seen])
    out["texts"] = {split: _words.without_codes(found) for split, found in out["texts"].items()}
    return out


def _some_labels(path: str) -> list[str | None]:
    """Labels of members of the first batch: the names of the fields are alike in all."""
    for batch in _columns.batches(path, ["references.labels"]):
        unique = pc.unique(_columns.flat(batch, "references", "labels"))
        labels: list[str | None] = unique.slice(0, 1000).to_pylist()
        return labels
    return []


def _counts(rows: Triplets, mask: Array) -> dict[str, Any]:
    references, targets = rows.references.of(mask), rows.targets.of(mask)
    to_row = {"reference": rows.references, "target": rows.targets}
    frames = {
        name: pd.DataFrame({"row": one.rows, name: one.items})[mask[one.rows]]
        for name, one in to_row.items()
    }
    reached = frames["target"].assign(query=rows.query[frames["target"]["row"]])
    both = frames["reference"].merge(frames["target"], on="row")
    per_query = reached.drop_duplicates(["query", "target"])["query"]
    per_target = both.drop_duplicates(["reference", "target"])["target"]
    return {
        "triplets": int(mask.sum()),
        "pairs": len(np.unique(rows.pair[mask])),
        "queries": len(np.unique(rows.query[mask])),
        "references": len(np.unique(references)),
        "targets": len(np.unique(targets)),
        "items": len(np.union1d(references, targets)),
        "triplets_per_target": summary(sizes_of(targets)),
        "targets_per_query": summary(sizes_of(per_query.to_numpy())),
        "references_per_target": summary(sizes_of(per_target.to_numpy())),
    }


def _balance(aspects: Array, uses: Array, count: int) -> dict[str, Any]:
    """Triplets per edit aspect (several each) and with none."""
    each = uses @ aspects.astype(np.int64)
    none = int(uses[~aspects.any(axis=1)].sum())
    found = dict(zip(_aspects.ASPECTS, map(int, each), strict=True)) | {"none": none}
    return {name: {"count": n, "share": share(n, count)} for name, n in found.items()}


def _negatives(rows: Triplets, mask: Array) -> dict[str, Any] | None:
    """Negatives per triplet, all and by kind; None where no step looked for any."""
    if rows.negatives is None:
        return None
    owners, kinds = rows.negatives
    number = np.cumsum(mask) - 1
    inside = mask[owners]
    codes, names = _columns.codes(kinds)
    out = {"all": summary(np.bincount(number[owners[inside]], minlength=int(mask.sum())))}
    for code, name in sorted(enumerate(names.to_pylist()), key=lambda one: str(one[1])):
        chosen = inside & (codes[0] == code)
        out[str(name)] = summary(np.bincount(number[owners[chosen]], minlength=int(mask.sum())))
    return out


def _scores(run: Run, rows: Triplets | None, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The distribution of every score over what is kept, with the thresholds in force.

    A score of items counts each item that the triplets of a split use once; without triplets it
    is that of all rows that the step left.
    """
    thresholds = {step["id"]: step["thresholds"] for step in steps}
    out = []
    for name, where in sorted(_steps.score_steps(run).items()):
        values: dict[str, Array] = {}
        if rows is not None and name in rows.scores.column_names:
            of = "triplets"
            column = rows.scores[name].to_numpy()
            values = {split: column[mask] for split, mask in rows.splits.items()}
        else:
            table = _columns.read(where["path"], ["id", name])
            level = next(one["level"] for one in run.funnel if one["id"] == where["step"])
            of = "items" if where["file"] == "measured.parquet" else level
            values = {"all": table[name].to_numpy()}
            if rows is not None and of == "items":
                values = _of_used_items(rows, table.to_pandas().set_index("id")[name])
        out.append(
            {
                "name": name.removeprefix("score_"),
                "step": where["step"],
                "of": of,
                "thresholds": thresholds.get(where["step"], {}),
                "splits": {split: summary(found) for split, found in values.items()},
                "histogram": histogram(values["all"]),
            }
        )
    return out


def _of_used_items(rows: Triplets, score: pd.Series[float]) -> dict[str, Array]:
    of_item = score.reindex(rows.items["id"]).to_numpy()
    out = {}
    for split, mask in rows.splits.items():
        used = np.union1d(rows.references.of(mask), rows.targets.of(mask))
        out[split] = of_item[used]
    return out


def _shards(run: Run) -> dict[str, Any] | None:
    """Number and bytes of the shards, all and per split; None where there are none."""
    path = store.join(run.out, "shards", "manifest.json")
    if not store.exists(path):
        return None
    manifest = store.read_json(path)
    whole = {"shards": len(manifest["shards"]), **{k: manifest[k] for k in ("triplets", "bytes")}}
    return {"splits": {"all": whole, **manifest["splits"]}, "names": _patterns(manifest["shards"])}


def _patterns(shards: list[dict[str, Any]]) -> dict[str, list[str]]:
    """File names of the shards of each split."""
    out: dict[str, list[str]] = {}
    for shard in shards:
        out.setdefault(shard["split"], []).append(shard["name"])
    return out

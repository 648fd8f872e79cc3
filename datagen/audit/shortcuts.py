"""Which triplets need composing: found by the text alone, the reference alone, or both together.

The query is a vector in a space of the run: the text's, the mean of the references', or the
weighted sum of both (each of length 1). The target counts as found where its rank among all items
of the space is ``rank`` or better; references and other targets are not counted, and of equally
near items the target is last (:mod:`datagen.ranks`). So the figures are recall at ``rank`` of the
run's own model, on the run's own items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from datagen import ranks, recipe_file, registry, tables
from datagen.embed import operator_for
from datagen.errors import DatagenError
from datagen.result import Run
from datagen.space import Space
from datagen.step import Context, Embedder

Array = np.ndarray[Any, Any]

#: What a triplet needs, in the order of the figures; the first three are also the queries.
NEEDS = ("text", "reference", "both", "neither")
QUERIES = NEEDS[:3]
#: Places at which recall is told.
AT = (1, 5, 10)
#: Texts that are embedded, and compared with all items, at a time.
CHUNK = 2048


@dataclass(frozen=True)
class Shortcuts:
    """What one space tells.

    needs: for each triplet ``text`` or ``reference`` (that one alone finds the target; where each
    does, the one that ranks it better, the text of equals), ``both`` (only together), ``neither``,
    or None where a vector or text is missing; ranks: of the target by ``text``, ``reference`` and
    ``both``, float64 with NaN, in the order of needs; trouble: why the space could not be asked.
    """

    space: str
    rank: int
    needs: Mapping[str, str | None]
    ranks: Mapping[str, Array]
    trouble: str = ""

    def figures(self, ids: Sequence[str] | None = None) -> dict[str, Any]:
        """Counts of ``needs`` and recall of each query, of all triplets or of those in ``ids``."""
        if self.trouble:
            return {"trouble": self.trouble}
        chosen = None if ids is None else set(ids)
        mask = np.array([chosen is None or one in chosen for one in self.needs], dtype=bool)
        told = [need for need, take in zip(self.needs.values(), mask, strict=True) if take]
        known = mask & np.isfinite(self.ranks["both"])
        return {
            "rank": self.rank,
            "rows": len(told),
            **{need: told.count(need) for need in NEEDS},
            "unknown": told.count(None),
            "recall": {
                query: {str(at): _share(places[known] <= at) for at in AT}
                for query, places in self.ranks.items()
            },
        }


def shortcuts(
    run: Run, triplets: pa.Table | None = None, *, rank: int = 1, weight: float = 0.5
) -> dict[str, Shortcuts]:
    """Ask every space of ``run`` whose model takes texts; by name of the space.

    triplets: those to ask for (id, references, targets, modification), by default all that were
    made; rank: how near the target must stand to count as found; weight: share of the text in the
    sum of both (0 to 1). A space whose model is not there, or has changed since, has ``trouble``.
    """
    table = run.triplets(every=True) if triplets is None else triplets
    found = {}
    for step, embedder in _embedders(run).items():
        name = str(embedder.settings.space)
        try:
            found[name] = _asked(run, step, embedder, table, rank, weight)
        except DatagenError as error:
            needs = dict.fromkeys(table["id"].to_pylist())
            found[name] = Shortcuts(name, rank, needs, {}, str(error).splitlines()[0])
    return found


def _embedders(run: Run) -> dict[str, Embedder[Any]]:
    """Embed steps that are done and whose space takes texts, by id; the last one of each space."""
    steps = run.note["recipe"].get("steps") or []
    done = {entry["id"] for entry in run.funnel}
    found: dict[str, tuple[str, Embedder[Any]]] = {}
    for name, step in zip(recipe_file.step_ids(steps), steps, strict=True):
        settings = dict(step.get("embed") or {})
        if recipe_file.kind_of(step) != "embed" or name not in done:
            continue
        for key in ("id", "resources"):
            settings.pop(key, None)
        op = str(settings.pop("op", None) or operator_for(settings))
        try:
            cls = registry.find("embed", op, str(run.note.get("base") or ""))
            operator = cls(cls.Settings.model_validate(settings))
        except (DatagenError, ValueError):
            # Of another version, or the user's own and not here: it cannot be asked.
            continue
        if isinstance(operator, Embedder):
            space = str(operator.settings.space)
            found.pop(space, None)
            if f"texts.{space}" in operator.gives("items"):
                found[space] = name, operator
    return dict(found.values())


def _asked(
    run: Run, step: str, embedder: Embedder[Any], table: pa.Table, rank: int, weight: float
) -> Shortcuts:
    then = next(place.get("revision") for place in run.note["steps"] if place["id"] == step)
    if then and embedder.revision() != then:
        raise DatagenError(
            f"{run.out}: the model of step {step} is not the one that made its space "
            f"({embedder.revision()[:24]}, {str(then)[:24]}); run the recipe again"
        )
    embedder.open(Context(step=step, out_dir=run.out))
    space = run.space(step)
    parts = [
        _ranks(space, embedder, table.slice(at, CHUNK), weight)
        for at in range(0, table.num_rows, CHUNK)
    ]
    places = {
        query: np.concatenate([np.zeros(0), *(part[query] for part in parts)]) for query in QUERIES
    }
    needs = _needs(places, rank)
    name = str(embedder.settings.space)
    return Shortcuts(name, rank, dict(zip(table["id"].to_pylist(), needs, strict=True)), places)


def _ranks(
    space: Space, embedder: Embedder[Any], rows: pa.Table, weight: float
) -> dict[str, Array]:
    """The rank of each row's target by each query; NaN where something is missing."""
    texts = rows["modification"].to_pylist()
    at: dict[str, list[list[int]]] = {}
    for side in ("references", "targets"):
        at[side] = [[] for _ in texts]
        parents, ids = tables.member_ids(rows, side)
        for number, row in zip(parents.tolist(), space.rows(ids).tolist(), strict=True):
            at[side][number].append(row)
    sound = [
        number
        for number, text in enumerate(texts)
        if text
        and text.strip()
        and all(at[side][number] and min(at[side][number]) >= 0 for side in at)
    ]
    words = embedder.texts([texts[number] for number in sound])
    fine = np.isfinite(words).all(axis=1)
    sound = [number for number, one in zip(sound, fine, strict=True) if one]
    out = {query: np.full(rows.num_rows, np.nan) for query in QUERIES}
    if not sound:
        return out
    text = ranks.unit(words[fine])
    sides = {side: [at[side][number] for number in sound] for side in at}
    reference = ranks.unit(
        np.stack([ranks.unit(space.vectors[some]).mean(axis=0) for some in sides["references"]])
    )
    queries = {"text": text, "reference": reference}
    queries["both"] = ranks.unit(weight * text + (1 - weight) * reference)
    for query, vectors in queries.items():
        out[query][sound] = ranks.ranks(space, vectors, sides["targets"], sides["references"])
    return out


def _needs(places: Mapping[str, Array], rank: int) -> list[str | None]:
    out: list[str | None] = []
    for text, reference, both in zip(*(places[q].tolist() for q in QUERIES), strict=True):
        if not np.isfinite(text):
            out.append(None)
        elif min(text, reference) <= rank:
            out.append("text" if text <= reference else "reference")
        else:
            out.append("both" if both <= rank else "neither")
    return out


def _share(found: Array) -> float | None:
    return round(float(found.mean()), 4) if len(found) else None

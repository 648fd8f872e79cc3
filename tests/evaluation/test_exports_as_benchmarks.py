"""A split is the same benchmark as a run and as what it is exported to: figures agree."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import measured_run
import numpy as np
import pytest
from known_retriever import Known, told

from datagen import media
from datagen.evaluation import protocols
from datagen.evaluation.measure import measure
from datagen.export.write import export


class ByContent(Known):
    """Media are known by their bytes, whatever they are called.

    A text that is said twice is said once: FashionIQ has two captions of every query.
    """

    def _name(self, place: Mapping[str, Any]) -> str:
        return hashlib.sha256(media.read(place)).hexdigest()

    def queries(self, references: Any, texts: Any) -> Any:
        once = [" and ".join(dict.fromkeys(str(text).split(" and "))) for text in texts]
        return super().queries(references, once)


def figures(name: str, data: str, *rules: str) -> dict[tuple[str, str], float]:
    protocol = protocols.protocol(name, rules)
    found = measure(ByContent(), protocol, protocol.read(data), probes=False)
    assert found.lost == {}
    return told(found.lines)


@pytest.mark.parametrize(
    ("form", "rules", "of_run"),
    [
        ("cirr", [], "gallery=split"),
        (
            "fashioniq",
            ["categories=[all]", "exclude_reference=true", "gallery=val"],
            "gallery=split",
        ),
        ("covr", ["file=covr_val.csv"], "gallery=targets"),
    ],
)
def test_an_export_has_the_figures_of_its_run(
    tmp_path: Path, form: str, rules: list[str], of_run: str
) -> None:
    rng = np.random.default_rng(3)
    order = rng.permutation(60).tolist()
    # Each picture is a target once: what an export tells apart is then what a run does.
    triplets: list[measured_run.Triplet] = [
        ([order[n]], order[n + 1], f"text {n}", "val") for n in range(59)
    ]
    out = measured_run.write(tmp_path, 60, triplets)
    there = tmp_path / form
    export(out, form, str(there))
    if form == "covr":
        rules = [*rules, f"clips={there / 'media'}"]
    run = figures(f"run:{out}", f"{out}#val", of_run)
    found = figures(form, str(there), *rules)
    part = "all" if form == "fashioniq" else "gallery"
    shared = [metric for p, metric in found if p == part and ("val", metric) in run]
    assert len(shared) >= 2
    for metric in shared:
        assert found[part, metric] == pytest.approx(run["val", metric])
    assert 0 < run["val", "R@10"] < 1

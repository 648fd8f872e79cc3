"""From a recipe to a retriever: a small world, a short training, and recipes compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs datagen[models]")

from datagen import runs  # noqa: E402
from datagen.comparing import results, trials  # noqa: E402
from datagen.errors import DatagenError  # noqa: E402
from datagen.training import logs, loop, settings  # noqa: E402

RECIPE: dict[str, Any] = {
    "name": "world",
    "seed": 3,
    "source": {"type": "tinyworld", "count": 400, "size": 64},
    "steps": [
        {"embed": {"space": "caption", "model": "tfidf", "width": 32}},
        {"pair": {"op": "one_word_diff", "max_per_reference": 4}},
        {"text": {"op": "template", "texts_per_pair": 1}},
        {"filter": {"op": "duplicates"}},
        {"split": {"train": 0.8, "val": 0.2, "test": 0.0}},
        {"shards": {}},
    ],
}
SMALL = [
    "model=bundled:tinyclip", "composer={op: combiner, projection: 2, hidden: 4, dropout: 0.1}",
    "learning_rate=0.002", "loader.batch_size=32", "loader.workers=0", "device=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def world(ray: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("world") / "run"
    runs.run(RECIPE, str(out), report=False)
    return str(out)


def test_a_loss_falls_and_what_is_composed_beats_both_probes(world: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    done = loop.train([world], out, settings.read("", [*SMALL, "steps=60"]))
    lost = [line["loss"] for line in logs.read(out)]
    assert np.mean(lost[-5:]) < 0.9 * np.mean(lost[:5])
    score = {kind: done.figures[kind]["mAP"] for kind in ("composed", "image alone", "text alone")}
    assert score["composed"] > max(score["image alone"], score["text alone"])
    validated = json.loads((tmp_path / "out" / "training.json").read_text())["validated"]
    assert validated[-1]["step"] == 60
    assert "text alone" in (tmp_path / "out" / "README.md").read_text()


def test_recipes_are_compared_on_one_budget(world: str, tmp_path: Path) -> None:
    places = {"one": world, "<b>other</b>": world}
    changes = ("steps=2", "loader.workers=0", "device=cpu", "loader.batch_size=16")
    found = trials.compared(places, str(tmp_path), 2, 48, changes=changes)
    one, other = found
    assert one.trained_on == other.trained_on == 48
    # The same triplets and the same seeds: the same figures.
    assert one.figures == other.figures
    rows = results.record(found, "mAP")
    assert rows[0]["mean"] == pytest.approx(50 * sum(one.figures["mAP"]))
    assert rows[0]["per_thousand"] == pytest.approx(1000 * rows[0]["mean"] / one.triplets)
    assert rows[0]["asked"] == rows[0]["painted"] == 0
    _, page = results.write(str(tmp_path), rows, "mAP", "<i>about</i>")
    text = Path(page).read_text()
    assert "<b>" not in text
    assert "<i>" not in text
    assert text.count('class="mean"') == 2
    assert text.count('class="dot"') == 4


def test_more_triplets_than_there_are_is_an_error(world: str, tmp_path: Path) -> None:
    places = {"one": world, "other": world}
    with pytest.raises(DatagenError, match="choose fewer"):
        trials.compared(places, str(tmp_path), 1, 10**6)

"""From a recipe to a retriever: a small world, a short training, and recipes compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs datagen[models]")

import datagen  # noqa: E402
from datagen import cli, runs  # noqa: E402
from datagen.comparing import results, trials  # noqa: E402
from datagen.errors import DatagenError  # noqa: E402
from datagen.training import logs, loop, retriever, settings  # noqa: E402

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


@pytest.fixture(scope="module")
def small(ray: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another world, by other pairs."""
    out = tmp_path_factory.mktemp("small") / "other"
    source = {"type": "tinyworld", "count": 200, "size": 64}
    runs.run({**RECIPE, "seed": 5, "source": source}, str(out), report=False)
    return str(out)


def recall(folder: str, run: str, most: int) -> float:
    """In per cent, of a trained folder on the split val, by counting who stands before the target;
    references are no answers, and equal answers stand before it.
    """
    found = retriever.load(folder, device="cpu")
    rows = [row for row in datagen.load(run).triplets().to_pylist() if row["split"] == "val"]
    sides = ("references", "targets")
    items = {one["id"]: one["media"] for row in rows for side in sides for one in row[side]}
    vectors = dict(zip(items, found.targets(list(items.values())), strict=True))
    asked: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        (reference,), (target,) = row["references"], row["targets"]
        asked.setdefault((reference["id"], row["modification"]), set()).add(target["id"])
    queries = found.queries([[items[name]] for name, _ in asked], [text for _, text in asked])
    hits = 0
    for query, ((reference, _), right) in zip(queries, asked.items(), strict=True):
        scores = {
            name: round(float(query.astype(float) @ vector.astype(float)), 6)
            for name, vector in vectors.items()
            if name != reference
        }
        best = max(scores[name] for name in right)
        before = sum(score >= best for name, score in scores.items() if name not in right)
        hits += before < most
    return 100 * hits / len(asked)


def test_the_command_tells_what_its_models_find(
    world: str,
    small: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By counting on the models that it wrote; asked again it trains nothing."""
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "out"
    given = ["compare", world, small, "--out", str(out), "--seeds", "2", "--metric", "R@5",
             "train.steps=3", "train.loader.workers=0", "train.loader.batch_size=16",
             "train.device=cpu"]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        cli.main(given)
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    written = json.loads((out / "compare.json").read_text())
    kept = {row["recipe"]: row for row in written["recipes"]}
    assert written["metric"] == "R@5"
    assert set(kept) == {"run", "other"}
    counts = {
        name: datagen.load(place).triplets()["split"].to_pylist().count("train")
        for name, place in (("run", world), ("other", small))
    }
    for name, row in kept.items():
        assert row["triplets"] == counts[name]
        assert row["trained_on"] == min(counts.values())
        known = [
            np.mean(
                [recall(str(out / "models" / f"{name}-{seed}"), one, 5) for one in (world, small)]
            )
            for seed in (0, 1)
        ]
        assert row["values"] == pytest.approx(known, abs=1e-6)
        assert row["mean"] == pytest.approx(np.mean(known))
        assert row["spread"] == pytest.approx(np.std(known, ddof=1))
        assert f"{row['mean']:.2f}" in printed

    def state() -> dict[str, tuple[int, bytes]]:
        files = [path for path in (out / "models").rglob("*") if path.suffix in (".jsonl", ".pt")]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = state()
    with pytest.raises(SystemExit):
        cli.main(given)
    assert state() == before
    assert json.loads((out / "compare.json").read_text()) == written


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("runs/nowhere", "neither a run"),
        ("nowhere", "no recipe 'nowhere'"),
        ("stopped", "this run is stopped; finish it first"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    world: str, tmp_path: Path, second: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if second == "stopped":
        second = str(tmp_path / second)
        note = json.loads(Path(world, "run.json").read_text())
        Path(second).mkdir()
        Path(second, "run.json").write_text(json.dumps({**note, "status": "stopped"}))
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", world, second, "--out", str(tmp_path / "out")])
    assert ended.value.code in (1, 2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert not (tmp_path / "out").exists()


def test_more_triplets_than_there_are_is_an_error(world: str, tmp_path: Path) -> None:
    places = {"one": world, "other": world}
    with pytest.raises(DatagenError, match="choose fewer"):
        trials.compared(places, str(tmp_path), 1, 10**6)

"""A run with consistency and shortcut filters, and what the audit says of the same rows."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datagen
from datagen import clip, models, refilter, schema
from datagen.audit.audit import audit
from datagen.audit.shortcuts import NEEDS, shortcuts
from datagen.errors import RecipeError

pytest.importorskip("torch", reason="needs datagen[models]")

RECIPE = """
name: shortcuts
seed: 2
source: {type: tinyworld, count: 90, size: 48, clips: 0.3, misname: 0.1}
steps:
  - embed: {space: image, model: "bundled:tinyclip", frames: 2, device: cpu, precision: fp32}
  - pair: {op: one_word_diff}
  - filter: {op: consistency, space: image, low: -2}
  - text: {op: template}
  - filter: {op: consistency, id: both, by: composed, text: modification, space: image, low: -2}
  - filter: {op: shortcut, space: image, reject: [text, reference]}
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, ray: None) -> str:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "recipe.yaml").write_text(RECIPE)
    datagen.run(str(folder / "recipe.yaml"), str(folder / "run"), report=False)
    return str(folder / "run")


def test_the_audit_agrees_with_the_filters_and_with_numpy(out: str) -> None:
    run = datagen.load(out)
    table = run.triplets(every=True)
    for step in run.funnel:
        assert not step["failed"], step
    (found,) = shortcuts(run).values()
    assert list(found.needs) == table["id"].to_pylist()
    for query, column in (
        ("text", "score_shortcut_text"),
        ("reference", "score_shortcut_reference"),
        ("both", "score_consistency_composed_rank"),
    ):
        assert found.ranks[query].tolist() == table[column].to_pylist()
    space = run.space("embed_image")
    vectors = np.asarray(space.vectors, np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    model = clip.load(models.parse("bundled:tinyclip"), device="cpu", precision="fp32")
    expected = []
    for row in table.to_pylist():
        (left,), (right,) = (
            space.rows([one["id"] for one in row[side]]).tolist()
            for side in ("references", "targets")
        )
        (text,) = model.texts([row["modification"]]).astype(np.float64)
        text /= np.linalg.norm(text)
        ranks = []
        for query in (text, vectors[left], text + vectors[left]):
            near = np.round(vectors @ (query / np.linalg.norm(query)), 6)
            rivals = np.delete(near, [left, right])
            ranks.append(1 + int((rivals >= near[right]).sum()))
        alone = min(ranks[:2]) == 1
        by = "text" if ranks[0] <= ranks[1] else "reference"
        expected.append(by if alone else "both" if ranks[2] == 1 else "neither")
    assert list(found.needs.values()) == expected
    figures = found.figures()
    assert json.loads(json.dumps(figures)) == figures
    assert {need: figures[need] for need in NEEDS} == {n: expected.count(n) for n in NEEDS}
    kept = table.filter(np.array([one == schema.KEPT for one in table["verdict"].to_pylist()]))
    some = found.figures(kept["id"].to_pylist())
    assert (some["rows"], some["text"], some["reference"]) == (kept.num_rows, 0, 0)


def test_the_place_that_keeps_99_percent_of_right_rows_does_so_when_it_decides(
    out: str, tmp_path: Path
) -> None:
    place = str(tmp_path / "run")
    shutil.copytree(out, place)

    def both() -> dict[str, Any]:
        (step,) = [one for one in audit(place)["steps"] if one["id"] == "both"]
        return step

    drawn = {one["rule"]: one for one in both()["curves"]}
    assert {rule: one["score"] for rule, one in drawn.items()} == {
        "low": "score_consistency_composed",
        "max_rank": "score_consistency_composed_rank",
    }
    assert drawn["max_rank"]["in_force"] is None
    last = drawn["max_rank"]["keeps_99"]
    assert last == int(last) > 1
    for rank, enough in ((int(last), True), (int(last) - 1, False)):
        refilter.refilter(place, [f"both.max_rank={rank}"], report=False)
        decided = both()
        assert (decided["right_kept"] >= 0.99) is enough
        assert {one["rule"]: one["in_force"] for one in decided["curves"]}["max_rank"] == rank


def test_another_threshold_measures_nothing_again(out: str) -> None:
    run = datagen.load(out)
    journal = next(Path(run.out).glob("steps/filter-shortcut-*/journal"))
    before = {path.name: path.stat().st_mtime_ns for path in journal.iterdir()}
    datagen.run(
        str(Path(run.out).parent / "recipe.yaml"), run.out, ["steps.shortcut.rank=4"], report=False
    )
    after = {path.name: path.stat().st_mtime_ns for path in journal.iterdir()}
    assert before == after
    table = datagen.load(run.out).triplets(every=True)
    solved = [
        min(text, reference) <= 4
        for text, reference in zip(
            table["score_shortcut_text"].to_pylist(),
            table["score_shortcut_reference"].to_pylist(),
            strict=True,
        )
    ]
    assert [one != schema.KEPT for one in table["verdict"].to_pylist()] == solved


def test_a_changed_model_is_trouble_of_its_space_alone(out: str) -> None:
    run = datagen.load(out)
    place = next(one for one in run.note["steps"] if one["id"] == "embed_image")
    place["revision"] = "sha256:other"
    (found,) = shortcuts(run).values()
    assert "not the one that made its space" in found.trouble
    assert found.figures() == {"trouble": found.trouble}
    assert set(found.needs.values()) == {None}


@pytest.mark.parametrize(
    ("space", "filter", "told"),
    [
        ("caption", "shortcut", "needs 'texts.caption'; no texts can be put into space 'caption'"),
        ("absent", "shortcut", "needs 'space.absent'; add 'embed: {space: absent"),
        ("words", "consistency", "needs 'images.words'; no images stand with texts in"),
    ],
)
def test_a_space_that_cannot_be_asked_is_told_before_the_run(
    tmp_path: Path, space: str, filter: str, told: str
) -> None:
    text = f"""
source: {{type: tinyworld, count: 9}}
steps:
  - embed: {{space: caption, model: tfidf}}
  - embed: {{space: words, of: caption, model: "bundled:tinyclip"}}
  - pair: {{op: one_word_diff}}
  - text: {{op: template}}
  - filter: {{op: {filter}, space: {space}}}
"""
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        datagen.run(str(path), str(tmp_path / "run"))
    (line,) = [line for line in str(caught.value).splitlines() if "needs" in line]
    assert told in line
    assert not os.path.exists(tmp_path / "run" / "run.json")

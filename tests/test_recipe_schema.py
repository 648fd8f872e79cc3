"""The JSON Schema of recipes against a validator of others, and against the recipe check itself."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import whole_runs
import yaml

from datagen import cli, recipe_file, registry
from datagen.errors import RecipeError
from datagen.recipe import STEP_KINDS, check
from datagen.recipe_schema import recipe_schema
from datagen.settings_schema import told_settings

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = recipe_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def faults(data: Any) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(data)]


def demo() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "recipes" / "demo.yaml").read_text("utf-8"))


def changed(**changes: Any) -> dict[str, Any]:
    return demo() | changes


def steps(*some: Any) -> dict[str, Any]:
    return changed(steps=list(some))


def test_it_is_a_schema_of_the_draft_that_it_names() -> None:
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    refs = set(re.findall(r'"\$ref": "#/\$defs/([^"]+)"', json.dumps(SCHEMA)))
    assert refs <= set(SCHEMA["$defs"])


def test_it_knows_every_key_kind_operator_and_setting() -> None:
    assert set(SCHEMA["properties"]) == set(recipe_file.TOP_LEVEL)
    for kind in registry.KINDS:
        for name in registry.names(kind):
            known = SCHEMA["$defs"][f"{kind}.{name}"]
            own = set(registry.find(kind, name).Settings.model_fields)
            beside = {"type", "id", "license"} if kind == "source" else {"op", "id", "resources"}
            assert set(known["properties"]) == own | beside
            assert known["description"]
            # Whoever points at a setting in an editor is told what it means.
            assert [name for name in own if not known["properties"][name].get("description")] == []
    assert set(SCHEMA["$defs"]["steps"]["items"]["properties"]) == set(STEP_KINDS)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_that_come_along_pass(path: Path) -> None:
    assert faults(yaml.safe_load(path.read_text("utf-8"))) == []
    assert faults(recipe_file.read(path.stem)[0]) == []


@pytest.mark.parametrize("page", ["RECIPES.md", "OWN_OPERATORS.md", "CLUSTER.md", "RUNS.md"])
def test_the_recipes_of_the_documentation_pass(page: str) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / page).read_text("utf-8"), re.DOTALL)
    whole = [yaml.safe_load(one) for one in blocks if re.search(r"^(source|extends):", one, re.M)]
    for data in whole:
        if isinstance(data, dict) and ("steps" in data or "extends" in data):
            assert faults(data) == []
    assert whole or page != "RECIPES.md"


@pytest.mark.parametrize(
    "data",
    [
        yaml.safe_load(whole_runs.RECIPE),
        changed(seed="${oc.env:SEED}"),
        changed(source={"type": "folder", "path": "???", "captions": ["a", "{b}"]}),
        changed(source=[{"type": "tinyworld", "id": "a", "license": "CC0-1.0"},
                        {"type": "tinyworld", "id": "b", "count": "???"}]),
        changed(source={"type": "my/source.py:Mine", "whatever": [1, {"deep": True}]}),
        changed(media={"max_bytes": 1000, "verify": False}),
        steps({"filter": {"op": "mine.py:Mine", "whatever": 1, "id": "x"}}),
        steps({"filter": {"op": "similarity", "space": "a", "low": "${seed}", "high": "1e-1"}}),
        steps({"embed": {"space": "image", "model": "open_clip:ViT-L-14/openai"}}),
        steps({"embed": {"space": "caption", "model": "hf:a/b", "resources": {"gpus": 0.5}}}),
        steps({"shards": {"max_size": "512MB"}}, {"shards": {"max_size": 1000}}),
        steps({"negatives": None}, {"split": {}}, {"shards": {"resources": {"workers": 2}}}),
        {"extends": "demo"},
        {"extends": "demo", "source": {"count": 3}, "steps": {"split": None, "mine": {"a": 1}}},
        {"extends": "demo", "steps": {"llm": {"texts_per_pair": "???", "resources": {}}}},
        {"extends": "demo", "steps": {"embed_caption": {"model": "hf:a/b"}, "filter_2": None}},
        {"extends": "demo", "steps": {"similarity_2": {"low": 0.5}, "pair": {"n": 2}}},
        {"extends": "demo", "steps": {"pair": {"op": "given", "path": "a"}, "given": {}}},
        {"extends": "demo", "steps": {"one_word_diff": {"op": "label_diff", "labels": ["a"]}}},
        {"extends": "demo", "steps": {"pair": {"op": "mine.py:Mine", "whatever": 1}}},
        steps({"pair": {"op": "union", "of": [{"op": "knn_band", "k": 3}, {"op": "m.py:A", "b": 1},
                                              {"op": "union", "of": [{"op": "group"}]}]}}),
        steps({"pair": {"op": "union", "of": ["${a}", "???"]}}),
        {"extends": "demo", "steps": [{"split": None}], "source": [{"type": "tinyworld"}]},
    ],
)  # fmt: skip
def test_what_a_recipe_may_say_passes(data: Any) -> None:
    assert faults(data) == []


@pytest.mark.parametrize(
    "data",
    [
        changed(stepz=[]),
        changed(seed=-1),
        changed(seed="many"),
        changed(media={"max_byte": 1}),
        changed(media={"min_side": 0}),
        changed(source={"count": 3}),
        changed(source={"type": "tinywrld"}),
        changed(source={"type": "tinyworld", "cuont": 3}),
        changed(source={"type": "folder"}),
        changed(source=[]),
        changed(source=[{"type": "tinyworld", "cuont": 3}]),
        changed(steps=[]),
        changed(steps={"split": None}),
        {key: value for key, value in demo().items() if key != "steps"},
        {key: value for key, value in demo().items() if key != "source"},
        steps({"fliter": {"op": "similarity"}}),
        steps({"filter": {"op": "similarity", "space": "a"}, "split": {}}),
        steps({"filter": {"op": "similarty", "space": "a"}}),
        steps({"filter": {"space": "a", "low": 0.5}}),
        steps({"filter": None}),
        steps({"filter": {"op": "similarity", "space": "a", "lo": 0.5}}),
        steps({"filter": {"op": "similarity", "low": 0.5}}),
        steps({"filter": {"op": "similarity", "space": "a", "low": 1.5}}),
        steps({"filter": {"op": "similarity", "space": "a", "low": "a lot"}}),
        steps({"filter": {"op": "similarity", "space": "a", "between": "us"}}),
        steps({"negatives": {"mined": -1}}),
        steps({"embed": {"space": "a", "model": "tfidf", "widht": 3}}),
        steps({"split": {"resources": {"cpu": 1}}}),
        steps({"split": {"resources": {"batch_size": 0}}}),
        {"extends": "demo", "stepz": {}},
        {"extends": "demo", "source": {"type": "tinyworld", "cuont": 3}},
        {"extends": "demo", "steps": {"split": 3}},
        {"extends": "demo", "steps": {"llm": {"texts_per_piar": 1}}},
        {"extends": "demo", "steps": {"llm_2": {"texts_per_piar": 1}}},
        {"extends": "demo", "steps": {"pair": {"no_such_setting": 1}}},
        {"extends": "demo", "steps": {"embed_caption": {"modle": "tfidf"}}},
        {"extends": "demo", "steps": {"one_word_diff": {"op": "label_diff", "label": ["a"]}}},
        {"extends": "demo", "steps": {"one_word_diff": {"op": "label_dif", "labels": ["a"]}}},
        {"extends": "demo", "steps": {"similarity": {"low": 2}}},
        steps({"pair": {"op": "union", "of": []}}),
        steps({"pair": {"op": "union", "of": ["knn_band"]}}),
        steps({"pair": {"op": "union", "of": [{"k": 3}]}}),
        steps({"pair": {"op": "union", "of": [{"op": "knn_bend"}]}}),
        steps({"pair": {"op": "union", "of": [{"op": "knn_band", "kk": 3}]}}),
        steps({"pair": {"op": "union", "of": [{"op": "knn_band", "id": "a"}]}}),
        steps({"pair": {"op": "union", "of": [{"op": "same_key"}]}}),
        steps({"pair": {"op": "union", "of": [{"op": "union", "of": [{"op": "group", "q": 1}]}]}}),
        {"extends": "demo", "steps": [{"fliter": None}]},
    ],
)
def test_a_typo_does_not_pass(data: Any) -> None:
    assert faults(data)


def test_the_check_of_recipes_refuses_what_the_schema_refuses() -> None:
    """One unknown setting in each step of each recipe: both see it."""
    for path in RECIPES:
        whole = yaml.safe_load(path.read_text("utf-8"))
        for number, step in enumerate(whole["steps"]):
            data = copy.deepcopy(whole)
            (kind,) = step
            data["steps"][number][kind] = {**(step[kind] or {}), "no_such_setting": 1}
            assert faults(data)
            with pytest.raises(RecipeError):
                check(recipe_file.completed(data, (), path))


def test_settings_are_told_in_the_words_of_their_docstrings() -> None:
    doc = """Settings of X.

    low, high: the band that is kept, see :class:`Other`. ``space``: where to
        compare; ``other``, ``more``: two at once.

    Nothing of this.
    """
    told = told_settings(doc, ["low", "high", "space", "other", "more", "untold"])
    assert told == {
        "low": "the band that is kept, see Other.",
        "high": "the band that is kept, see Other.",
        "space": "where to compare",
        "other": "two at once.",
        "more": "two at once.",
    }


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        cli.main(["recipes", *arguments])
    said = capsys.readouterr()
    return int(done.value.code or 0), said.out, said.err


def test_the_command_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "schema")
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(SCHEMA))


def test_the_command_lists_and_shows(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys)
    assert code == 0
    assert all(path.stem in out for path in RECIPES)
    code, out, _ = run(capsys, "show", "demo")
    assert (code, out) == (0, (ROOT / "recipes" / "demo.yaml").read_text("utf-8"))


def test_a_resolved_recipe_is_what_a_run_would_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: demo\nname: ${source.type}\nsteps: {split: null}\n")
    code, out, _ = run(capsys, "show", str(mine), "--resolved", "source.count=7", "seed=é")
    assert code == 0
    data = yaml.safe_load(out)
    assert data == recipe_file.read(str(mine), ["source.count=7", "seed=é"])[0]
    assert (data["name"], data["source"]["count"], data["seed"]) == ("tinyworld", 7, "é")
    assert "split" not in out
    code, _, err = run(capsys, "show", "demo", "source.count=7")
    assert code == 2
    assert err == "error: source.count=7: overrides go with --resolved\n"

"""A recipe says everything that is wrong with it, one line each, before anything runs."""

import copy
import importlib
import linecache
import sys
import textwrap
from pathlib import Path

import pytest
import recipe_headers
import yaml

from datagen import recipe, recipe_file, registry
from datagen.errors import DatagenError, RecipeError

OWN = "tests/own/caption_length.py:CaptionLength"


def write(folder, text, name="mine.yaml"):
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return str(path)


@pytest.fixture
def good(tmp_path):
    return write(
        tmp_path,
        f"""
        name: mine
        source: {{type: tinyworld, count: 20}}
        steps:
          - filter: {{op: "{OWN}", low: 3}}
          - embed: {{space: caption, model: tfidf}}
          - pair: {{op: one_word_diff}}
          - filter: {{op: similarity, space: caption, low: 0.2}}
          - text: {{op: template}}
          - filter: {{op: similarity, id: late, space: caption, high: 0.99}}
        """,
    )


def faults(path, *overrides):
    with pytest.raises(RecipeError) as caught:
        recipe.load(path, overrides)
    assert all("\n" not in fault for fault in caught.value.faults)
    return caught.value.faults


def test_a_good_recipe_loads_with_levels(good):
    loaded = recipe.load(good)
    assert [step.id for step in loaded.steps] == [
        "CaptionLength",
        "embed_caption",
        "one_word_diff",
        "similarity",
        "template",
        "late",
    ]
    assert [step.after for step in loaded.steps][2:] == ["pairs", "pairs", "triplets", "triplets"]


def test_half_a_gpu_is_half_a_gpu(good, tmp_path):
    """Also of an operator that says gpus=1, not 1.0."""
    own = tmp_path / "own.py"
    own.write_text(
        Path(OWN.partition(":")[0]).read_text(encoding="utf-8")
        + "\n\nclass OnGpu(CaptionLength):\n"
        "    def resources(self):\n"
        "        from datagen.step import Resources\n\n"
        "        return Resources(cpus=2, gpus=1)\n",
        encoding="utf-8",
    )
    data = yaml.safe_load(Path(good).read_text(encoding="utf-8"))
    data["steps"][0]["filter"] |= {"op": f"{own}:OnGpu", "resources": {"gpus": 0.5, "cpus": 1.5}}
    found = recipe.load(write(tmp_path, yaml.safe_dump(data), "half.yaml")).steps[0].resources
    assert (found.gpus, found.cpus) == (0.5, 1.5)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("steps.one_word_dif.min_words=3", "did you mean 'one_word_diff'?"),
        ("steps.late.lo=0.5", "late.lo: unknown setting; did you mean 'low'?"),
        ("steps.late.low=high", "late.low: Input should be a valid number"),
        ("sorce.count=3", "did you mean 'source'?"),
        ("source.cuont=3", "source.cuont: unknown setting; did you mean 'count'?"),
        ("source.type=tinywrld", "did you mean 'tinyworld'?"),
        ("steps.pair.op=one_word", "did you mean 'one_word_diff'?"),
        ("steps.late.space=captoin", "needs 'space.captoin'"),
        ("steps.late.resources={gpu: 1}", "did you mean 'gpus'?"),
        ("steps.late.resources={batch_size: 0}", "too small"),
        ("steps.late.resources={workers: 1.5}", "workers: a whole number expected, 1.5 found"),
        ("steps.late.resources={actor: 1}", "actor: true or false expected, 1 found"),
        ("seed=abc", "a whole number from 0 expected"),
        ("source.count=???", "source.count: must be given"),
        ("steps.late.space=???", "steps.late.space: must be given"),
        ("nonsense", "overrides look like"),
        ("steps.late", "overrides"),
        ("media.max_pixels=-3", "media.max_pixels"),
        ("seed=-1", "seed: a whole number from 0 expected"),
        ("seed=99999999999999999999", "seed: a whole number from 0 expected"),
        ("seed=2020-13-45", "a whole number from 0 expected, '2020-13-45' found"),
        ("source.count=&a [*a]", "nested too deeply"),
        ("name.x=1", "name: settings in the form key: value expected"),
        ("steps.late.high.x=1", "high: settings in the form key: value expected"),
        ("steps.late.resources={cpus: .inf}", "resources.cpus: inf is too small or too large"),
        ("source.type=':x'", "package.module:Class or file.py:Class expected"),
        ("source.type='..x:Y'", "package.module:Class or file.py:Class expected"),
        ("source.palette=[a, '???']", "source.palette.1: must be given"),
        ("about=!!binary aGk=", "only plain values can stand in a recipe"),
    ],
)
def test_each_fault_names_its_place_and_the_mend(good, override, expected):
    found = faults(good, override)
    assert any(expected in fault for fault in found), found


def test_all_faults_are_told_at_once(good):
    found = faults(good, "source.cuont=3", "steps.late.lo=0.5", "seed=x")
    assert len(found) == 3


def test_an_override_reaches_a_step_by_id_by_operator_and_by_kind(good):
    loaded = recipe.load(
        good,
        ["steps.late.high=0.9", "steps.pair.both_directions=false", "steps.template.seed=1"][:2],
    )
    assert loaded.steps[-1].operator.settings.high == 0.9
    assert loaded.steps[2].operator.settings.both_directions is False


def test_an_ambiguous_name_is_refused(good):
    assert "no step 'filter'" in faults(good, "steps.filter.low=0.5")[0]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("[{text: {op: template}}]", "works on pairs, but here the table holds items"),
        ("[{pair: {op: knn_band, space: look}}]", "add 'embed: {space: look"),
        ("[{filtre: {op: x}}]", "did you mean 'filter'?"),
        ("[{filter: {}}]", "op: must be given; valid:"),
        ("[{filter: {op: x}, text: {}}]", "one 'kind: {settings}' expected"),
        ("[]", "a list of steps expected"),
        ("[{filter: {op: 'nowhere.py:X'}}]", "no such file"),
        ("[{filter: {op: 'no.such.module:X'}}]", "cannot be imported"),
        ("[{filter: {op: 'datagen.schema:Level'}}]", "not a subclass"),
        (f"[{{filter: {{op: '{OWN}s'}}}}]", "did you mean 'CaptionLength'?"),
    ],
)
def test_steps_that_do_not_fit_are_explained(tmp_path, steps, expected):
    path = write(tmp_path, f"source: {{type: tinyworld}}\nsteps: {steps}\n")
    found = faults(path)
    assert any(expected in fault for fault in found), found


def test_a_recipe_extends_another_and_changes_and_drops_its_steps(good, tmp_path):
    path = write(
        tmp_path,
        """
        extends: mine.yaml
        name: child
        source: {count: 7}
        steps: {late: {high: 0.5}, CaptionLength: null}
        """,
        "child.yaml",
    )
    loaded = recipe.load(path)
    assert loaded.name == "child"
    assert loaded.sources[0].source.settings.count == 7
    assert loaded.steps[0].id == "embed_caption"
    assert loaded.steps[-1].operator.settings.high == 0.5


def test_a_recipe_that_extends_itself_is_refused(tmp_path):
    path = write(tmp_path, "extends: loop.yaml\nsource: {type: tinyworld}\n", "loop.yaml")
    with pytest.raises(DatagenError, match="extends itself"):
        recipe.load(path)


def test_another_type_of_source_takes_nothing_from_the_old_one(good, tmp_path):
    path = write(
        tmp_path,
        "extends: mine.yaml\nsource: {type: folder, path: '.', annotations: null}\n",
        "child.yaml",
    )
    data, _ = recipe_file.read(path)
    assert "count" not in data["source"]


def test_yaml_faults_carry_their_line(tmp_path):
    path = write(tmp_path, "source: {type: tinyworld\nsteps: []\n")
    with pytest.raises(DatagenError, match=r"mine\.yaml, line \d+"):
        recipe.load(path)


def test_yaml_never_builds_python_objects(tmp_path):
    path = write(tmp_path, "source: !!python/object/apply:os.system ['echo gotcha']\n")
    with pytest.raises(DatagenError):
        recipe.load(path)


def test_a_wrong_name_gives_the_nearest_recipe():
    with pytest.raises(DatagenError, match="did you mean 'demo'"):
        recipe.load("dmo")


def test_every_recipe_that_comes_with_datagen_reads():
    for name in recipe_file.names():
        data, _ = recipe_file.read(name)
        assert data["about"], name


def test_interpolation_takes_values_from_elsewhere_in_the_recipe(tmp_path):
    path = write(
        tmp_path,
        """
        seed: 4
        source: {type: tinyworld, count: 20, seed: "${seed}"}
        steps: [{embed: {space: caption, model: tfidf}}]
        """,
    )
    assert recipe.load(path).sources[0].source.settings.seed == 4


VALUES = [None, "text", 3, True, 1.5, [], [1], [None], {}, {"a": 1, "b": 2}, [[]], "${x}", "???"]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_no_value_at_any_place_is_more_than_a_line(good, tmp_path, value):
    data = yaml.safe_load(Path(good).read_text(encoding="utf-8"))
    data["media"] = {"max_bytes": 10}
    overrides = ["source.a.b=3", "steps.late.low=0.2", "steps.late.resources.cpus=2", "media.x=1"]
    child = tmp_path / "child.yaml"
    child.write_text("extends: parent.yaml\nsource: {count: 3}\nsteps: {late: {low: 1}, pair: 3}\n")
    for place in _places(data):
        changed = copy.deepcopy(data)
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        parent = tmp_path / "parent.yaml"
        parent.write_text(yaml.safe_dump(changed), encoding="utf-8")
        for name, override in [(parent, []), (child, []), *((parent, [o]) for o in overrides)]:
            try:
                recipe.load(str(name), override)
            except DatagenError as error:
                told = error.faults if isinstance(error, RecipeError) else [str(error)]
                assert told
                assert all(fault.strip() and len(fault.splitlines()) == 1 for fault in told), told


def _places(value, place=()):
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inner:
        yield (*place, key)
        if isinstance(one, (dict, list)):
            yield from _places(one, (*place, key))


@pytest.mark.parametrize("text", ["", "- a", "a: [", "a: 2020-13-45", "a: &a {b: *a}", "[" * 3000])
def test_no_text_of_a_recipe_file_is_more_than_a_line(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(DatagenError):
        recipe.load(str(path))


def test_a_path_with_a_hash_sign_is_not_cut_off(good):
    data, _ = recipe_file.read(good, ["name=/photos #2", "about='a # b'"])
    assert (data["name"], data["about"]) == ("/photos #2", "a # b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("x = (", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("class Own: pass", "not a subclass"),
        ("from datagen.step import Filter\nclass Own(Filter): pass", "does not define"),
        (
            "from datagen.step import Source\nclass Own(Source):\n"
            "  def parts(self, c): return []\n  def read(self, p, c): return None",
            "does not name its Settings",
        ),
    ],
)
def test_a_users_own_file_that_is_wrong_is_explained_in_a_line(good, tmp_path, text, expected):
    (tmp_path / "own.py").write_text(text)
    found = faults(good, "source.type=own.py:Own")
    assert any(expected in fault for fault in found), found


def test_the_mark_of_what_must_be_given_stands_in_braces_too(tmp_path):
    path = write(
        tmp_path,
        """
        source: {type: folder, path: ???, media: file}
        steps: [{embed: {space: ???, model: tfidf}}, {split: {train: 1, val: 0, test: ???}}]
        """,
    )
    found = faults(path)
    places = ("source.path", "steps.embed.space", "steps.split.test")
    assert [f.split(": ")[1] for f in found] == list(places)


def test_what_points_at_something_missing_is_missing_too():
    found = faults("eufcc_cir")
    assert any("source.labels: must be given" in fault for fault in found)


def test_the_code_of_an_own_base_class_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    base = tmp_path / "own_base.py"
    (tmp_path / "own_child.py").write_text(
        "from own_base import Base\nfrom datagen.step import Settings\n"
        "class Child(Base):\n    Settings = Settings\n"
    )
    versions = set()
    for words in ("return rows", "return rows.slice(1)"):
        base.write_text(
            "from datagen.step import RowOperator\n"
            f"class Base(RowOperator):\n    def __call__(self, rows): {words}\n"
        )
        for name in ("own_base", "own_child"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        linecache.clearcache()
        versions.add(registry.code_version(registry.find("edit", "own_child:Child")))
    assert len(versions) == 2


@pytest.mark.parametrize("name", ["covr", "cc_coir"])
def test_what_a_header_says_to_change_without_a_model_hub_is_all(tmp_path, name):
    told = recipe_headers.overrides(name, "Without a GPU and a model hub")
    # The model that comes along writes texts of rendered scenes; templates do for others.
    own = [one for one in told if not one.startswith("steps.llm.")] + ["steps.llm={op: template}"]
    assert len(own) == len(told)
    (tmp_path / "items.csv").write_text("file,caption\na.jpg,a red cup\n")
    source = [f"source.path={tmp_path}", "source.annotations=items.csv", "source.media=file"]
    found = recipe.load(name, [*source, "source.captions=caption", *own])
    assert not [step.op for step in found.steps if step.op in ("open_clip", "clip_score")]
    # TF-IDF is stricter than the sentence encoders that the published band is of.
    assert "steps.similarity.low=0.3" in told


def test_what_captions_without_media_want_is_said_where_it_is_met(tmp_path):
    (tmp_path / "items.txt").write_text("a red cup\na blue cup\n")
    source = f"source={{type: captions, path: {tmp_path}/items.txt}}"
    with pytest.raises(RecipeError, match=r"leave the step out .*near_duplicates: false"):
        recipe.load("covr_rule_based", [source])
    told = recipe_headers.overrides("covr_rule_based", "Captions without media")
    assert recipe.load("covr_rule_based", [source, *told])


def test_a_word_where_a_list_belongs_is_told_so(tmp_path):
    (tmp_path / "items.csv").write_text("file,caption\na.jpg,a red cup\n")
    source = [f"source.path={tmp_path}", "source.annotations=items.csv", "source.media=file"]
    changes = [*source, "source.captions=caption", "source.labels=all"]
    with pytest.raises(RecipeError, match=r"label_diff.labels: a list expected, 'all' found"):
        recipe.load("eufcc_cir", changes)


def test_a_changed_step_that_gets_another_operator_keeps_none_of_its_settings(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "extends: demo\nsteps:\n"
        "  one_word_diff: {op: label_diff, labels: [background]}\n"
        "  similarity: {op: similarity, low: 0.4}\n"
        "  embed_caption: {op: tfidf, width: 9}\n"
    )
    steps = {step["id"]: step for step in _told(recipe.load(str(mine)))}
    assert steps["label_diff"]["labels"] == ("background",)
    assert (steps["similarity"]["low"], steps["similarity"]["space"]) == (0.4, "caption")
    assert (steps["embed_caption"]["width"], steps["embed_caption"]["space"]) == (9, "caption")


def _told(loaded):
    return [{"id": one.id, **one.operator.settings.model_dump()} for one in loaded.steps]


def test_a_setting_of_several_kinds_is_one_fault_without_names_of_types(tmp_path):
    given = {"type": "captions", "path": str(tmp_path), "captions": 3, "labels": "al"}
    with pytest.raises(RecipeError) as caught:
        recipe.check({"source": given, "steps": [{"pair": {"op": "union", "of": ["knn_band"]}}]})
    assert caught.value.faults == [
        "recipe: source.captions: Input should be a valid string or a list expected (found 3)",
        "recipe: source.labels: a list expected or Input should be 'all' (found 'al')",
        "recipe: steps.union.of.0: Input should be a valid dictionary (found 'knn_band')",
    ]

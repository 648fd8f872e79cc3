"""Several sources in one recipe: one table of items, told apart by the ids of their sources."""

import json

import pytest

import datagen
from datagen import recipe, recipe_file
from datagen.errors import DatagenError, RecipeError

STEPS = [
    {"embed": {"space": "caption", "model": "tfidf", "width": 16}},
    {"pair": {"op": "one_word_diff"}},
    {"text": {"op": "template"}},
]


def worlds(*seeds, count=20):
    return [
        {"type": "tinyworld", "id": f"world{seed}", "seed": seed, "count": count, "size": 32}
        for seed in seeds
    ]


@pytest.fixture(scope="module")
def two(tmp_path_factory, ray):
    """A run over two worlds."""
    out = str(tmp_path_factory.mktemp("two") / "run")
    datagen.run({"source": worlds(1, 2), "steps": STEPS}, out)
    return out


def test_items_of_every_source_stand_in_one_table_under_its_id(two):
    items = datagen.load(two).items().to_pylist()
    counts = {}
    for item in items:
        seed = json.loads(item["labels"])["seed"]
        assert item["source"] == f"world{seed}"
        counts[item["source"]] = counts.get(item["source"], 0) + 1
    assert counts == {"world1": 20, "world2": 20}


def test_two_sources_give_what_each_gives_alone(two, tmp_path):
    alone = set()
    for seed in (1, 2):
        out = str(tmp_path / str(seed))
        datagen.run({"source": worlds(seed), "steps": STEPS}, out)
        alone |= set(datagen.load(out).items()["id"].to_pylist())
    assert set(datagen.load(two).items()["id"].to_pylist()) == alone


def test_one_more_source_reads_only_its_own_parts(two, tmp_path):
    out = tmp_path / "run"
    datagen.run({"source": worlds(1), "steps": STEPS}, str(out))
    (journal,) = (out / "steps").glob("source-*/journal")
    before = {path.name for path in journal.glob("part-*")}
    datagen.run({"source": worlds(1, 2), "steps": STEPS}, str(out))
    after = {path.name for path in journal.glob("part-*")}
    assert before < after
    assert len(after) == 2 * len(before)
    assert (
        datagen.load(str(out))
        .items()
        .equals(
            datagen.load(two)
            .items()
            .set_column(3, "media", datagen.load(str(out)).items()["media"])
        )
    )


def test_overrides_reach_a_source_by_its_id():
    data = recipe_file.completed(
        {"source": worlds(1, 2), "steps": STEPS}, ["source.world2.count=5", "source.world1.size=40"]
    )
    assert [(one["count"], one["size"]) for one in data["source"]] == [(20, 40), (5, 32)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("source.world3.count=5", "no source 'world3'"),
        ("source.world1=5", "source.ID.SETTING=VALUE"),
    ],
)
def test_overrides_of_no_source_are_told(change, message):
    with pytest.raises(RecipeError, match=message):
        recipe_file.completed({"source": worlds(1, 2), "steps": STEPS}, [change])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "source: an empty list"),
        (worlds(1, 1), "two sources are called 'world1'; give each an id"),
        ([{"type": "tinyworld"}, {"type": "tinyworld"}], "two sources are called 'tinyworld'"),
        ([*worlds(1), {"type": "tinywrld", "id": "b"}], "source.b"),
        ([*worlds(1), {"type": "tinyworld", "id": "b", "cuont": 3}], "source.b.cuont: unknown"),
        ([*worlds(1), 7], "source.2: must be given"),
        ([*worlds(1), {"type": "folder", "id": "b", "path": "???"}], "source.b.path: must be"),
        ([{"type": "tinyworld", "license": ["MIT"]}], "source.1.license: a text expected"),
    ],
)
def test_a_fault_names_the_source(source, message):
    with pytest.raises(RecipeError) as caught:
        recipe.check({"source": source, "steps": STEPS})
    assert message in str(caught.value)


@pytest.mark.parametrize("alone", [True, False])
def test_a_source_that_lists_nothing_is_told_by_its_id(tmp_path, alone, ray):
    (tmp_path / "items.csv").write_text("caption,file\n")
    hollow = {"id": "hollow", "type": "captions", "captions": "caption"}
    hollow["path"] = str(tmp_path / "items.csv")
    source = [hollow] if alone else [*worlds(1), hollow]
    with pytest.raises(DatagenError, match="source hollow: lists nothing at all"):
        datagen.run({"source": source, "steps": STEPS}, str(tmp_path / "run"))


def test_the_license_of_a_source_is_kept():
    (origin,) = recipe.check(
        {"source": {"type": "tinyworld", "license": "CC0-1.0"}, "steps": STEPS}
    ).sources
    assert (origin.id, origin.license) == ("tinyworld", "CC0-1.0")

"""Recipes of published methods whose texts come from captions, labels and graphs, run for real.

Every run uses the overrides that stand at the head of its recipe. The collection is a rendered
world in a folder, so that an oracle knows which texts are right; a server on loopback writes them.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import recipe_headers
import truth_server
from truth_server import Known, Question, Truth, World

import datagen
from datagen import recipe as recipes
from datagen.bundled import train_tinyclip
from datagen.errors import RecipeError
from datagen.sources.tinyworld.events import shown
from datagen.sources.tinyworld.oracle import difference, says

pytest.importorskip("aiohttp", reason="needs datagen[llm]")
pytest.importorskip("tenacity", reason="needs datagen[llm]")
pytest.importorskip("torch", reason="needs datagen[models]")

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / os.environ.get("DATAGEN_TEST_DATA", "../shared/data")
NARRATIONS = DATA / "captions" / "epic55_narrations.jsonl.gz"
TINYWRITER = Path(train_tinyclip.__file__).parent / "tinywriter"

#: One thing in each picture or clip, most of them one change away from an earlier one.
SETTINGS = {"count": 48, "size": 48, "clips": 0.25, "neighbours": 0.9, "max_objects": 1}
SEED = 5
#: Labels of the one thing, besides the background and what happens.
PARTS = ("shape", "colour", "size", "texture", "count", "position")

ALONE = "Without a GPU and a model hub"
INSTEAD = "The language model runs on a GPU of 24 GB. A server in its place"

#: The recipes of this file, with the step that asks a language model.
WRITERS = {
    "covr": "llm",
    "cc_coir": "llm",
    "lasco": "llm",
    "transagg": None,
    "transagg_llm": "quadruple",
    "transagg_combined": "rewrite",
    "magiclens": "llm",
    "mtcir": "llm",
    "tf_covr": "llm",
    "egocvr": "llm",
    "genecis_cc3m": None,
}


# ---------------------------------------------------------------- a collection in a folder


@dataclass(frozen=True)
class Place:
    """A rendered world as users have collections: files in a folder, and what is said of them."""

    folder: Path
    world: World
    url: str
    truth: Truth

    @property
    def source(self) -> list[str]:
        """The overrides that name its files, captions and labels."""
        return [
            f"source.path={self.folder / 'media'}",
            f"source.annotations={self.folder / 'items.jsonl'}",
            "source.media=file",
            "source.captions=caption",
            "source.labels=all",
        ]

    def server(self, name: str, start: str = INSTEAD) -> list[str]:
        """What the head of a recipe says to type to have a server asked, with this one in it."""
        cache = self.folder / "answers" / name
        here = {"'http://localhost:8000/v1'": self.url, "model: NAME": f"model: t, cache: {cache}"}
        told = recipe_headers.overrides(name, start)
        for old, new in here.items():
            told = [one.replace(old, new) for one in told]
        return told

    def item(self, member: Mapping[str, Any]) -> Known:
        """What a member of a triplet shows."""
        return self.world.items[int(Path(member["key"]).stem.rpartition("_")[2])]


def file_name(number: int, item: Known) -> str:
    """Names end in a number, as those of COCO do."""
    return f"COCO_train2014_{number:012d}." + ("mp4" if item.clip else "png")


def root(world: World, number: int) -> int:
    """The scene that a scene was changed from, and that one from, and so on."""
    base = json.loads(world.items[number].record["labels"])["base"]
    return number if base is None else root(world, base)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The collection, and a server that knows what it shows."""
    folder = tmp_path_factory.mktemp("collection")
    world = World(SETTINGS, SEED, folder / "world")
    (folder / "media").mkdir()
    lines = []
    for number, item in enumerate(world.items):
        labels = json.loads(item.record["labels"])
        (thing,) = labels["objects"]
        name = file_name(number, item)
        (folder / "media" / name).write_bytes(item.data)
        told = {part: str(thing[part]) for part in PARTS}
        where = [thing["shape"], "at the", thing["position"]]
        graph = [where, [thing["shape"], "on", f"{labels['background']} ground"]]
        happens = {"happens": json.dumps(labels["event"]), "video": f"V{number:02d}"}
        own = {"file": name, "caption": item.captions[0], "page": f"page {root(world, number)}"}
        lines.append(json.dumps({**labels, **told, **happens, **own, "graph": graph}))
    (folder / "items.jsonl").write_text("\n".join(lines), encoding="utf-8")
    truth = Truth(world)
    with (
        pytest.MonkeyPatch.context() as patch,
        truth_server.knowing(truth, models=("t",)) as server,
    ):
        patch.setitem(truth_server.ANSWERS, "edits", edits)
        patch.setitem(truth_server.ANSWERS, "modifications", modifications)
        yield Place(folder, world, server.url, truth)
    assert not truth.lost


# ---------------------------------------------------------------- what the server answers

_CHANGE = re.compile(
    r'^(?:property|part of the action): ("[^"]*"), \w[\w ]*: (.*), \w+: (.*)$', re.M
)
_EVERYTHING = truth_server.ANSWERS["modifications"]


def modifications(truth: Truth, asked: Question) -> dict[str, Any]:
    """Right texts for every prompt that the recipes use."""
    if changes := _CHANGE.findall(asked.text):
        told = [tuple(map(json.loads, change)) for change in changes]
        return {"modifications": [" and ".join(wording(*change) for change in told)]}
    if found := asked.labelled("request"):
        return {"modifications": [f"could it be {found[0]} please"]}
    if found := asked.labelled("should be done"):
        return {"modifications": [f"now {found[0]}"]}
    return _EVERYTHING(truth, asked)


def wording(field: str, before: str | None, after: str | None) -> str:
    """A change of a label, or of an answer to a question, as a request."""
    if "background" in field:
        return f"make the background {after}"
    if field == "position" or field.startswith("Where"):
        return f"move it to the {after}"
    return f"turn it into a {after}" if "shape" in field else f"make it {after}"


def edits(truth: Truth, asked: Question) -> dict[str, Any]:
    """An edit of a caption that leads to another item, one change away where there is one."""
    item = truth.world.of_caption[asked.labelled("caption")[0]]
    others = [one for one in truth.world.items if one is not item]
    near = min(others, key=lambda one: len(difference(item.shown, one.shown)))
    text = truth_server.request(item.shown, near.shown) or "something else"
    return {"edits": [{"modification": text, "caption": near.captions[0]}]}


# ---------------------------------------------------------------- what holds of every run


def finished(name: str, out: Path, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Run a recipe to its shards; its triplets, after checking that nothing was lost unseen."""
    datagen.run(name, str(out), overrides, report=False)
    run = datagen.load(str(out))
    assert run.status == "finished"
    for step in run.funnel:
        lost = sum(step["rejected"].values()) + sum(step["failed"].values())
        assert step["rows_in"] == step["kept"] + lost, step
        verdicts = run.verdicts(step["id"]).to_pylist()
        assert len(verdicts) == step["rows_in"]
        assert all(row["rule"] or row["verdict"] == "kept" for row in verdicts)
        assert not step["failed"], step
    rows: list[dict[str, Any]] = run.triplets().to_pylist()
    seen = {sample["key"]: sample["modification"] for sample in run.samples(decode=False)}
    assert seen == {row["id"]: row["modification"] for row in rows}
    assert rows
    return rows


def right_texts(rows: Sequence[Mapping[str, Any]]) -> int:
    """How many texts lead from the reference to the first target, as the oracle reads them."""
    return sum(
        says(
            row["modification"],
            *(shown(json.loads(row[side][0]["labels"])) for side in ("references", "targets")),
        ).right
        for row in rows
    )


def model_of(row: Mapping[str, Any], step: str) -> str | None:
    """Who wrote the text of a triplet at a step, as its provenance says."""
    (line,) = (line for line in row["provenance"] if line["step"] == step)
    return line["model"]


# ---------------------------------------------------------------- heads of recipes


@pytest.mark.parametrize("name", WRITERS)
def test_a_head_names_its_recipe_and_says_what_differs(name: str) -> None:
    head = recipe_headers.header(name)
    words = recipe_headers.command(name)
    assert words[0] == name
    assert words[-2:] == ["--out", f"runs/{name}"]
    assert "Differs: " in head
    assert all("=" in word for word in words[1:-2])
    # The command gives all that must be given: what is missing then is files alone.
    data, _ = recipes.read(name, words[1:-2])
    assert not recipes.missing(data)


@pytest.mark.parametrize("name", [name for name, step in WRITERS.items() if step])
def test_the_model_of_a_recipe_is_changed_by_one_line(name: str) -> None:
    data, _ = recipes.read(name)
    engines = [
        settings["engine"]
        for step in data["steps"]
        for settings in step.values()
        if "engine" in settings
    ]
    assert engines
    assert all(one["kind"] == "vllm" and one["max_model_len"] <= 8192 for one in engines)
    told = "Each model runs" if name == "mtcir" else INSTEAD
    data, _ = recipes.read(name, recipe_headers.overrides(name, told))
    changed = [s["engine"] for step in data["steps"] for s in step.values() if "engine" in s]
    assert len(changed) == len(engines)
    assert all(one["kind"] == "server" for one in changed)


def test_a_typo_is_told_with_its_place(place: Place) -> None:
    wrong = ["steps.llm.promt=covr", "steps.pair.max_items=3"]
    told = [*place.source, *place.server("cc_coir"), *wrong]
    with pytest.raises(RecipeError) as caught:
        recipes.load("cc_coir", told)
    assert any(
        "llm.promt: unknown setting; did you mean 'prompt'?" in f for f in caught.value.faults
    )
    assert any("max_items" in fault for fault in caught.value.faults)


# ---------------------------------------------------------------- runs


@pytest.mark.parametrize("name", ["covr", "cc_coir"])
def test_captions_that_differ_in_a_word_get_right_texts(
    name: str, place: Place, ray: None, tmp_path: Path
) -> None:
    told = recipe_headers.overrides(name, ALONE)
    # One of them as it runs without a server, where the small model is there.
    small = name == "cc_coir" and TINYWRITER.is_dir()
    told += [] if small else place.server(name)
    rows = finished(name, tmp_path / "run", [*place.source, *told])
    assert len(rows) >= 10
    assert right_texts(rows) >= (0.7 if small else 0.9) * len(rows)
    for row in rows:
        one, two = (row[side][0]["caption"].split() for side in ("references", "targets"))
        assert sum(a != b for a, b in zip(one, two, strict=True)) == 1
        assert len(row["modification"].split()) <= 10
        assert model_of(row, "llm") == ("bundled:tinywriter" if small else "t")


def test_lasco_asks_for_the_other_answer(place: Place, ray: None, tmp_path: Path) -> None:
    files = vqa(place, tmp_path)
    alone = recipe_headers.overrides("lasco", ALONE)
    told = [*place.source, *files, *alone, *place.server("lasco"), "steps.pair.k=4"]
    rows = finished("lasco", tmp_path / "run", told)
    for row in rows:
        (change,) = row["evidence"]["changes"]
        ends = [json.loads(row[side][0]["labels"]) for side in ("references", "targets")]
        part = QUESTIONS[change["field"]]
        assert [end[part] for end in ends] == [change["removed"], change["added"]]
        assert row["modification"] == wording(*(change[k] for k in ("field", "removed", "added")))
    ways = both_ways(datagen.load(str(tmp_path / "run")).table("vqa_complement").to_pylist())
    assert len(ways) > 20
    assert all(ways.values())


def both_ways(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], bool]:
    """Reference and target of each row, and whether another row leads back."""
    ways = {(row["references"][0]["id"], row["targets"][0]["id"]) for row in rows}
    return {(one, two): (two, one) in ways for one, two in sorted(ways)}


#: Questions about the one thing, and the label with the answer.
QUESTIONS = {
    "What colour is it?": "colour",
    "What is the shape of it?": "shape",
    "What is the background?": "background",
}


def vqa(place: Place, folder: Path) -> list[str]:
    """Files of VQA v2 about the collection, and the overrides that name them."""
    asked, answered = [], []
    for number, item in enumerate(place.world.items):
        labels = json.loads(item.record["labels"])
        values = {**labels["objects"][0], "background": labels["background"]}
        for which, (question, part) in enumerate(QUESTIONS.items()):
            one = {"image_id": number, "question_id": number * 1000 + which}
            asked.append({**one, "question": question})
            ten = [{"answer": values[part], "answer_id": n, "answer_confidence": "yes"}
                   for n in range(1, 11)]  # fmt: skip
            answered.append({**one, "multiple_choice_answer": values[part], "answers": ten})
    files = {"questions": asked, "annotations": answered}
    for name, rows in files.items():
        (folder / f"{name}.json").write_text(json.dumps({name: rows}))
    return [f"steps.pair.{name}={folder / name}.json" for name in files]


@pytest.mark.parametrize("name", ["transagg", "transagg_llm", "transagg_combined"])
def test_transagg_finds_the_images_of_edited_captions(
    name: str, place: Place, ray: None, tmp_path: Path
) -> None:
    told = recipe_headers.overrides(name, ALONE)
    if WRITERS[name]:
        told += place.server(name)
    rows = finished(name, tmp_path / "run", [*place.source, *told])
    for row in rows:
        assert row["targets"][0]["media"]
        assert row["evidence"]["operator"] == "caption_then_retrieve"
    if name == "transagg_llm":
        # Its edits tell other items of the collection, so these are the ones that are found.
        assert right_texts(rows) > 0.9 * len(rows) > 20
        assert not [row for row in rows if row["targets"][0]["id"] == row["references"][0]["id"]]
    given = [row for row in rows if text_of_rule(row) == row["modification"]]
    if name == "transagg":
        assert len(given) == len(rows)
    if name == "transagg_combined":
        said = [row for row in rows if row not in given]
        assert len(given) == len(said) == len({row["pair"] for row in rows})
        assert all(text_of_rule(row) in row["modification"] for row in said)


def text_of_rule(row: Mapping[str, Any]) -> str:
    """The text of the edit that found a pair."""
    (text,) = (one["added"] for one in row["evidence"]["changes"] if one["field"] == "text")
    return str(text)


def test_magiclens_pairs_images_of_one_page(place: Place, ray: None, tmp_path: Path) -> None:
    told = [
        *place.server("magiclens"),
        *recipe_headers.overrides("magiclens", "or a small one"),
    ]
    rows = finished("magiclens", tmp_path / "run", [*place.source, *told])
    assert right_texts(rows) >= 0.9 * len(rows)
    sides: dict[str, str] = {}
    for row in rows:
        pages = {json.loads(row[s][0]["labels"])["page"] for s in ("references", "targets")}
        assert len(pages) == 1
        assert sides.setdefault(pages.pop(), row["split"]) == row["split"]
        assert 0.4 <= row["score_similarity_image"] <= 0.96
        assert [one["kind"] for one in row["negatives"]] == ["reference"]


def test_mtcir_captions_groups_and_asks_both_ways(place: Place, ray: None, tmp_path: Path) -> None:
    told = [*place.server("mtcir", "Each model runs"), *recipe_headers.overrides("mtcir", ALONE)]
    source = [f"source.path={place.folder / 'media'}"]
    rows = finished("mtcir", tmp_path / "run", [*source, *told])
    right = 0
    for row in rows:
        ends = [place.item(row[side][0]) for side in ("references", "targets")]
        for item, side in zip(ends, ("references", "targets"), strict=True):
            assert row[side][0]["caption"] in item.captions
        assert "group " in row["evidence"]["reason"]
        assert len(row["modification"].split()) < 20
        assert model_of(row, "caption") == model_of(row, "llm") == "t"
        right += says(row["modification"], *(item.shown for item in ends)).right
    assert right >= 0.9 * len(rows)
    ways = both_ways(datagen.load(str(tmp_path / "run")).table("llm").to_pylist())
    assert len(ways) > 20
    assert sum(ways.values()) > 0.9 * len(ways)


def test_tf_covr_tells_the_part_of_the_action_that_differs(
    place: Place, ray: None, tmp_path: Path
) -> None:
    parts = [*PARTS, "background", "happens"]
    told = [*place.server("tf_covr"), f"steps.pair.labels=[{','.join(parts)}]"]
    rows = finished("tf_covr", tmp_path / "run", [*place.source, *told])
    for row in rows:
        (change,) = row["evidence"]["changes"]
        before = json.loads(row["references"][0]["labels"])
        for target in row["targets"]:
            after = json.loads(target["labels"])
            assert [part for part in parts if before[part] != after[part]] == [change["field"]]
            assert before["video"] != after["video"]
    still = [row for row in rows if row["evidence"]["changes"][0]["field"] != "happens"]
    assert right_texts(still) >= 0.9 * len(still) > 10


def test_egocvr_puts_narrations_into_instructions(place: Place, ray: None, tmp_path: Path) -> None:
    if not NARRATIONS.is_file():
        pytest.skip("no narrations (DATAGEN_TEST_DATA)")
    path = tmp_path / "narrations.csv"
    with gzip.open(NARRATIONS, "rt", encoding="utf-8") as lines, path.open("w") as file:
        some = [json.loads(line) for line in islice(lines, 150)]
        writer = csv.DictWriter(file, list(some[0]))
        writer.writeheader()
        writer.writerows(some)
    told = [*recipe_headers.overrides("egocvr", "Captions only"), *place.server("egocvr")]
    rows = finished("egocvr", tmp_path / "run", [f"source.path={path}", *told])
    assert len(rows) >= 10
    for row in rows:
        before, after = (json.loads(row[side][0]["labels"]) for side in ("references", "targets"))
        assert before["video"] == after["video"]
        assert 0 <= after["start"] - before["start"] <= 120
        assert (before["verb"] == after["verb"]) != (before["noun"] == after["noun"])
        assert row["modification"] == f"now {row['targets'][0]['caption']}"


def test_genecis_finds_the_same_subject_with_another_object(
    place: Place, ray: None, tmp_path: Path
) -> None:
    told = [one for one in place.source if "labels" not in one] + ["source.labels=[graph]"]
    items = [json.loads(line) for line in (place.folder / "items.jsonl").open(encoding="utf-8")]
    nouns = {noun for item in items for edge in item["graph"] for noun in (edge[0], edge[2])}
    abstract = {"top", "left", "center", "mint ground"}
    table = "\n".join(f"{noun},{3.1 if noun in abstract else 4.9}" for noun in sorted(nouns))
    (tmp_path / "nouns.csv").write_text(f"Word,Conc.M\n{table}\n")
    told += [f"steps.pair.concreteness={tmp_path / 'nouns.csv'}"]
    rows = finished("genecis_cc3m", tmp_path / "run", told)
    images: dict[str, set[str]] = {}
    for item in items:
        for subject, _, other in item["graph"]:
            if other not in abstract:
                images.setdefault(subject, set()).add(item["file"])
    for row in rows:
        before, after = (
            {
                (edge[0], f"{edge[1]} {edge[2]}")
                for edge in json.loads(row[side][0]["labels"])["graph"]
            }
            for side in ("references", "targets")
        )
        (subject,) = {edge[0] for edge in after}
        assert (subject, row["modification"]) in after - before
        assert {edge[0] for edge in before} == {subject}
        assert len(images[subject]) >= 5
        assert not [noun for noun in abstract if row["modification"].endswith(f"the {noun}")]

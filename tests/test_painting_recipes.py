"""Recipes that paint or cut their pictures, run for real with the overrides of their own heads."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import recipe_headers
import truth_server

pytest.importorskip("torch", reason="needs datagen[diffusion]")
pytest.importorskip("diffusers", reason="needs datagen[diffusion]")
pytest.importorskip("aiohttp", reason="needs datagen[llm]")
pytest.importorskip("tenacity", reason="needs datagen[llm]")
from painting_recipes import SIDES, Place, finished, line_of, near, placed

from datagen import clip, media, models
from datagen import recipe as recipes
from datagen.errors import RecipeError
from datagen.export.write import export

NAMES = (
    "instruct_pix2pix",
    "compodiff",
    "counterfactual",
    "scot",
    "cirhs",
    "syncpr",
    "ptg",
    "idmr",
    "vista_it2i",
    "tripletclip",
)
SPLIT = ("steps.split.train=0.5", "steps.split.val=0.25", "steps.split.test=0.25")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with placed(tmp_path_factory.mktemp("place")) as made:
        yield made


@pytest.mark.parametrize("name", NAMES)
def test_a_head_names_its_recipe_and_says_what_differs(name: str) -> None:
    head = recipe_headers.header(name)
    words = recipe_headers.command(name)
    assert words[0] == name
    assert words[-2:] == ["--out", f"runs/{name}"]
    assert "Differs: " in head
    # The command gives all that must be given: what is missing then is files alone.
    data, _ = recipes.read(name, words[1:-2])
    assert not recipes.missing(data)


def test_instruct_pix2pix_paints_the_best_samples_of_edited_captions(
    place: Place, ray: None, tmp_path: Path
) -> None:
    quick = [
        "steps.prompt_to_prompt.steps=2",
        "steps.prompt_to_prompt.samples=3",
        "steps.prompt_to_prompt.batch_size=3",
        "steps.prompt_to_prompt.keep.count=2",
        # Of random weights nothing is asked.
        "steps.prompt_to_prompt.keep.least={directional: -1}",
        "steps.unchanged.low=0",
        *SPLIT,
    ]
    told = place.told("instruct_pix2pix", *place.captions, *quick)
    made = finished("instruct_pix2pix", tmp_path / "run", told)
    rows = made.triplets().to_pylist()
    world = place.world
    counts: Counter[str] = Counter()
    sides: dict[str, set[str]] = {}
    for row in rows:
        (reference,), (target,) = row["references"], row["targets"]
        item = world.of_caption[reference["caption"]]
        assert target["caption"] == near(world, item).captions[0]
        assert reference["source"] == target["source"] == "prompt_to_prompt"
        assert line_of(row, "quadruple")["model"] == "t"
        assert line_of(row, "prompt_to_prompt")["revision"]
        assert row["negatives"][0]["item"]["id"] == reference["id"]
        edit = json.loads(row["edit"])
        assert 15 >= edit["guidance"] >= 0
        assert 0.1 <= edit["self_share"] <= 0.9
        assert edit["cross_share"] == 0
        counts[reference["caption"]] += 1
        sides.setdefault(reference["caption"], set()).add(row["split"])
    assert set(counts.values()) == {2}
    came = made.table("split").to_pylist()
    assert counts.keys() == {row["references"][0]["caption"] for row in came}
    assert all(len(own) == 1 for own in sides.values())
    assert set(made.verdicts("prompt_to_prompt")["rule"].to_pylist()) == {None}
    exported(made.out, tmp_path / "out", rows)


def exported(out: str, folder: Path, rows: list[dict[str, Any]]) -> None:
    """InstructPix2Pix's folders hold every sample under its own seed."""
    export(out, "instruct_pix2pix", str(folder))
    found = set()
    for listing in folder.glob("*/seeds.json"):
        for name, seeds in json.loads(listing.read_text()):
            own = listing.parent / name
            prompt = json.loads((own / "prompt.json").read_text())
            for seed in seeds:
                assert (own / f"{seed}_0.jpg").is_file()
                assert (own / f"{seed}_1.jpg").is_file()
                found.add((prompt["input"], prompt["edit"], prompt["output"], int(seed)))
    assert found == {
        (row["references"][0]["caption"], row["modification"], row["targets"][0]["caption"],
         json.loads(row["edit"])["seed"])
        for row in rows
    }  # fmt: skip


def test_compodiff_swaps_a_word_of_captions(place: Place, ray: None, tmp_path: Path) -> None:
    quick = [
        "steps.prompt_to_prompt.steps=2",
        "steps.prompt_to_prompt.samples=2",
        "steps.prompt_to_prompt.batch_size=4",
        "steps.prompt_to_prompt.keep.count=1",
        "steps.prompt_to_prompt.keep.least={directional: -1}",
        "steps.unchanged.low=0",
        *SPLIT,
    ]
    told = place.told("compodiff", *place.captions, *quick)
    made = finished("compodiff", tmp_path / "run", told)
    rows = made.triplets().to_pylist()
    for row in rows:
        ends = [row[side][0] for side in SIDES]
        one, two = (end["caption"].split() for end in ends)
        assert sum(a != b for a, b in zip(one, two, strict=True)) == 1
        (change,) = row["evidence"]["changes"]
        assert (change["removed"] in one, change["added"] in two) == (True, True)
        assert all(end["source"] == "prompt_to_prompt" for end in ends)
        assert line_of(row, "template")["operator"] == "template"
    pairs = [tuple(row[side][0]["caption"] for side in SIDES) for row in rows]
    assert len(pairs) == len(set(pairs))


def test_compodiff_takes_a_language_model_too(place: Place) -> None:
    told = recipe_headers.overrides("compodiff", "The painter runs on a GPU of 24 GB. Captions")
    told = [one.replace("http://localhost:8000/v1", place.url) for one in told]
    told = [*place.told("compodiff"), *place.captions, *told]
    checked = recipes.load("compodiff", told)
    assert [step.op for step in checked.steps[:2]] == ["quadruple", "text_quality"]


def test_counterfactual_paints_the_region_of_what_changes(
    place: Place, ray: None, tmp_path: Path
) -> None:
    quick = [
        *recipe_headers.overrides("counterfactual", "Where labels have boxes"),
        f"steps.inpaint.model={place.model('inpaint')}",
        "steps.inpaint.keep.model=bundled:tinyclip",
        "steps.inpaint.keep.least={directional: -1}",
        "steps.inpaint.steps=2",
        "steps.inpaint.size=[64, 64]",
        "steps.inpaint.samples=2",
        "steps.inpaint.quality=100",
        "steps.inpaint.area=[0.001, 0.9]",
        "steps.unchanged.low=0",
        *SPLIT,
    ]
    told = place.told("counterfactual", *place.pictures, *quick)
    made = finished("counterfactual", tmp_path / "run", told)
    rules = set(made.verdicts("inpaint")["rule"].to_pylist())
    assert rules <= {None, "no_phrase", "no_region"}
    for row in made.triplets().to_pylist():
        (reference,), (target,) = row["references"], row["targets"]
        item = place.item(reference)
        assert target["caption"] == near(place.world, item).captions[0]
        edit = json.loads(row["edit"])
        left, top, right, bottom = edit["region"]
        assert edit["prompt"] == target["caption"]
        own, painted = (np.asarray(media.image(one["media"])) for one in (reference, target))
        inside = np.zeros(own.shape[:2], bool)
        inside[top:bottom, left:right] = True
        assert np.array_equal(own[~inside], painted[~inside])
        assert not np.array_equal(own[inside], painted[inside])
        # What only its caption says stands in the box of that name.
        (box, *_) = json.loads(reference["labels"])["boxes"]
        grown = 0.02 * 64 + 1
        assert left >= box["box"][0] - grown
        assert bottom <= box["box"][3] + grown


def test_scot_trains_against_vectors_of_edited_captions(
    place: Place, ray: None, tmp_path: Path
) -> None:
    made = finished("scot", tmp_path / "run", place.told("scot", *place.captions, *SPLIT))
    ref = models.parse("bundled:tinyclip")
    encoder = clip.load(ref, device="cpu", precision="fp32", batch_size=8, trust_remote_code=False)
    rows = {row["id"]: row for row in made.triplets().to_pylist()}
    for row in rows.values():
        (reference,), (target,) = row["references"], row["targets"]
        item = place.world.of_caption[reference["caption"]]
        assert target["caption"] == near(place.world, item).captions[0]
        assert target["media"] is None
        wanted = encoder.texts([target["caption"]])[0]
        assert np.allclose(row["target_vector"], wanted, atol=2e-3)
        assert abs(np.linalg.norm(row["target_vector"]) - 1) < 1e-3
        assert [one["item"]["caption"] for one in row["negatives"]] == [reference["caption"]]
        assert line_of(row, "text_target")["model"] == "bundled:tinyclip"
    read = {one["key"]: one["target_vector"] for one in made.samples(decode=False)}
    assert {name: vector.tolist() for name, vector in read.items()} == {
        name: row["target_vector"] for name, row in rows.items()
    }


def test_ptg_hides_a_part_of_each_picture(place: Place, ray: None, tmp_path: Path) -> None:
    told = place.told("ptg", *place.pictures, *SPLIT, "steps.negatives.high=null")
    made = finished("ptg", tmp_path / "run", told)
    for row in made.triplets().to_pylist():
        (reference,), (target,) = row["references"], row["targets"]
        item = place.item(target)
        assert row["modification"] == reference["caption"] == item.captions[0]
        own, masked = (np.asarray(media.image(one["media"])) for one in (target, reference))
        edit = json.loads(row["edit"])
        hidden = np.zeros(own.shape[:2], bool)
        for left, top, right, bottom in edit["regions"]:
            hidden[top:bottom, left:right] = True
        assert np.array_equal(own[~hidden], masked[~hidden])
        assert abs(hidden.mean() - edit["hidden"]) < 1e-3
        assert 0.3 <= edit["hidden"] <= 0.62
        kinds = [one["kind"] for one in row["negatives"]]
        assert kinds[0] == "reference"
        captions = {one["item"]["caption"] for one in row["negatives"][1:]}
        assert target["caption"] not in captions


def test_idmr_cuts_objects_out_by_their_boxes(place: Place, ray: None, tmp_path: Path) -> None:
    quick = ["source.labels=[boxes]", "steps.crop.least_side=4", "steps.crop.area=[0.001, 0.9]"]
    told = [*place.pictures, *quick, *SPLIT]
    made = finished("idmr", tmp_path / "run", told)
    for row in made.triplets().to_pylist():
        (reference,), (target,) = row["references"], row["targets"]
        item = place.item(target)
        assert row["modification"] == item.captions[0]
        boxes = json.loads(target["labels"])["boxes"]
        left, top, right, bottom = json.loads(row["edit"])["region"]
        assert [left, top, right, bottom] in [one["box"] for one in boxes]
        assert reference["caption"] in [one["label"] for one in boxes]
        whole, crop = (np.asarray(media.image(one["media"])) for one in (target, reference))
        assert np.array_equal(whole[top:bottom, left:right], crop)


def test_vista_paints_given_edits_and_mines_negatives(
    place: Place, ray: None, tmp_path: Path
) -> None:
    world = place.world
    lines = []
    for item in world.items:
        asked = truth_server.request(item.shown, near(world, item).shown) or "something else"
        texts = {"input": item.captions[0], "output": near(world, item).captions[0]}
        lines.append({**texts, "edit": asked})
    path = tmp_path / "edits.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    quick = [
        f"source.before.path={path}",
        f"source.after.path={path}",
        f"steps.pair.path={path}",
        "steps.prompt_to_prompt.steps=2",
        "steps.prompt_to_prompt.samples=2",
        "steps.prompt_to_prompt.keep.least={directional: -1}",
        "steps.unchanged.low=0",
        "steps.negatives.high=null",
        "steps.split={op: by_group, train: 1, val: 0, test: 0, near_duplicates: false}",
    ]
    made = finished("vista_it2i", tmp_path / "run", place.told("vista_it2i", *quick))
    rows = made.triplets().to_pylist()
    given = {(one["input"], one["edit"], one["output"]) for one in lines}
    found = [
        (row["references"][0]["caption"], row["modification"], row["targets"][0]["caption"])
        for row in rows
    ]
    assert sorted(found) == sorted(given)
    assert all(row["negatives"][0]["kind"] == "reference" for row in rows)
    assert max(len(row["negatives"]) for row in rows) == 4
    export(made.out, "megapairs", str(tmp_path / "out"))
    read = [
        json.loads(line)
        for file in (tmp_path / "out").glob("megapairs_*.jsonl")
        for line in file.open(encoding="utf-8")
    ]
    assert len(read) == len({tuple(row[s][0]["id"] for s in SIDES) for row in rows})
    for line in read:
        assert line["hns"][0] == line["q_img"]
        for name in (line["q_img"], line["t_img"], *line["hns"]):
            assert (tmp_path / "out" / name).is_file()


@pytest.mark.parametrize("name", ["cirhs", "syncpr"])
def test_words_become_two_halves_of_one_picture_and_are_judged(
    name: str, place: Place, ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge(tmp_path / "run")
    monkeypatch.setitem(truth_server.ANSWERS, "choice", judge)
    said = {word for item in place.world.items for word in item.captions[0].split()}
    words = sorted(word for word in said if len(word) > 4)[:8]
    (tmp_path / "words.txt").write_text("\n".join(words))
    head = recipe_headers.overrides(name, "A server in place of the language model, and one")
    told = [one.replace("http://localhost:8000/v1", place.url) for one in head]
    own = f"model: t, cache: '{tmp_path / 'answers'}'"
    told = [one.replace("model: NAME", own) for one in told]
    if name == "syncpr":
        told += recipe_headers.overrides(name, "Without a GPU and a model hub")
        told += ["steps.image_similarity.low=-1", "steps.clip_score.low=-1"]
    told += [
        f"source.path={tmp_path / 'words.txt'}",
        f"steps.two_panel.model={place.model('stable_diffusion')}",
        "steps.two_panel.size=[64, 64]",
        "steps.two_panel.steps=2",
        "steps.quadruple.edits_per_item=1",
        "steps.collapsed={op: collapsed, min_structure: null, max_noise: null, min_contrast: 1}",
        "steps.unchanged.low=0" if name == "cirhs" else "steps.two_panel.samples=1",
        "steps.judge.distractors=2",
        "steps.judge.shuffles=2",
        "steps.duplicates.radius=0",
        "steps.duplicates.tolerance=0",
        *SPLIT,
    ]
    made = finished(name, tmp_path / "run", told)
    assert judge.asked > 0
    for row in made.triplets().to_pylist():
        (reference,), (target,) = row["references"], row["targets"]
        item = place.world.of_caption[reference["caption"]]
        assert any(word in reference["caption"] for word in words)
        assert target["caption"] == near(place.world, item).captions[0]
        assert row["score_judge"] == 1
        edit = json.loads(row["edit"])
        assert reference["caption"] in edit["prompt"]
        assert target["caption"] in edit["prompt"]
        assert {one["media"]["width"] for one in (reference, target)} == {64}
        if name == "syncpr":
            assert -1 <= row["score_image_similarity"] <= 1


class Judge:
    """Picks the candidate that is the painted target of the request, by its pixels."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.asked = 0
        self._targets: dict[str, list[Any]] = {}
        self._lock = threading.Lock()

    def __call__(self, truth: Any, asked: Any) -> dict[str, Any]:
        self.asked += 1
        # Questions come side by side.
        with self._lock:
            self._targets = self._targets or self._read()
        (request,) = asked.labelled("request")
        candidates = [self.mark(one) for name, many in asked.pictures.items() for one in many
                      if name != "reference"]  # fmt: skip
        apart = [
            min(float(np.abs(one - own).mean()) for own in self._targets[request])
            for one in candidates
        ]
        return {"choice": int(np.argmin(apart)) + 1}

    def _read(self) -> dict[str, list[Any]]:
        """The painted targets of every request."""
        (path,) = self.run.glob("steps/edit-*/*/table.parquet")
        found: dict[str, list[Any]] = {}
        for row in pq.read_table(path).to_pylist():
            mark = self.mark(media.image(row["targets"][0]["media"]))
            found.setdefault(row["modification"], []).append(mark)
        return found

    @staticmethod
    def mark(picture: Any) -> Any:
        return np.asarray(picture.convert("RGB").resize((32, 32)), np.float32)


def test_tripletclip_paints_hard_negatives_of_captions(
    place: Place, ray: None, tmp_path: Path
) -> None:
    quick = [
        "steps.img2img.steps=2",
        "steps.clip_score.low=-1",
        "steps.duplicates.tolerance=0",
        *SPLIT,
    ]
    told = place.told("tripletclip", *place.pictures, *quick)
    made = finished("tripletclip", tmp_path / "run", told)
    for row in made.triplets().to_pylist():
        (reference,), (target,) = row["references"], row["targets"]
        item = place.item(reference)
        assert reference["caption"] == item.captions[0]
        assert target["caption"] == near(place.world, item).captions[0]
        assert target["source"] == "img2img"
        assert json.loads(row["edit"])["strength"] == 1
        assert [one["kind"] for one in row["negatives"]] == ["reference"]


def test_a_typo_in_a_model_is_one_line(place: Place) -> None:
    told = place.told("instruct_pix2pix", *place.captions)
    wrong = "steps.prompt_to_prompt.model=bundled:tinypaint"
    with pytest.raises(RecipeError) as caught:
        recipes.load("instruct_pix2pix", [*told, wrong])
    (fault,) = caught.value.faults
    assert "prompt_to_prompt" in fault
    assert "tinypaint" in fault
    assert "\n" not in fault

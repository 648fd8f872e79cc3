"""Recipes whose models see pictures, run for real with the overrides of their own headers.

Models are a server that knows what the pictures show, so that texts can be held against the truth.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recipe_headers
import truth_server
from PIL import Image
from truth_server import Known, Question, Truth, World, request

import datagen
from datagen import models, recipe_file, schema
from datagen.audit.audit import audit
from datagen.result import Run
from datagen.sources.tinyworld.oracle import says

pytest.importorskip("aiohttp", reason="needs datagen[llm]")
pytest.importorskip("tenacity", reason="needs datagen[llm]")
pytest.importorskip("torch", reason="needs datagen[models]")

NAMES = ("megapairs", "good4cir", "hycir", "spn4cir", "fine_cir", "dense_covr", "facap")
DATA = Path(__file__).parents[1] / os.environ.get("DATAGEN_TEST_DATA", "../shared/data")
FASHION = DATA / "photos" / "fashion"
#: Scenes of two families of sixteen that differ in few things, and clips of one.
SCENES = {"type": "tinyworld", "count": 32, "size": 64, "neighbours": 0.8}
CLIPS = {"type": "tinyworld", "count": 16, "size": 48, "clips": 1.0}


class Collection:
    """A rendered world as a user has it: a folder of files, and captions.jsonl beside them."""

    def __init__(self, settings: Mapping[str, Any], seed: int, folder: Path) -> None:
        self.truth = Truth(World(settings, seed, folder / "world"))
        self.items = self.truth.world.items
        self.of: dict[str, Known] = {}
        self.folder = folder / "files"
        self.folder.mkdir()
        lines = []
        for number, item in enumerate(self.items):
            name = self.name(number)
            (self.folder / name).write_bytes(item.data)
            labels = json.loads(item.record["labels"])
            lines.append(json.dumps({"file": name, "caption": item.captions[0], **labels}))
            self.of[name] = item
        (folder / "captions.jsonl").write_text("\n".join(lines))
        self.source = [f"source.path={self.folder}"]
        self.captions = [
            f"source.annotations={folder / 'captions.jsonl'}",
            "source.media=file",
            "source.captions=caption",
        ]

    def name(self, number: int) -> str:
        return f"{number:03}.{'mp4' if self.items[number].clip else 'png'}"

    def pairs(self, some: Iterable[tuple[int, int]]) -> str:
        """The override that names a file of annotated pairs, as CIRR has them."""
        rows = [
            {
                "pairid": number,
                "reference": self.name(one).partition(".")[0],
                "target_hard": self.name(other).partition(".")[0],
                "target_soft": {},
                "caption": "another one",
                "img_set": {"id": 1},
            }
            for number, (one, other) in enumerate(some)
        ]
        path = self.folder.parent / "cap.json"
        path.write_text(json.dumps(rows))
        return f"steps.pair.path={path}"

    def shown(self, row: Mapping[str, Any]) -> list[Any]:
        """What the reference and the target of a triplet show."""
        return [self.of[row[side][0]["key"]].shown for side in ("references", "targets")]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return Collection(SCENES, 5, tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return Collection(CLIPS, 3, tmp_path_factory.mktemp("clips"))


def told(name: str, url: str, folder: Path) -> list[str]:
    """The overrides by which the header of a recipe has it run without a GPU and a model hub."""
    head = recipe_headers.header(name)
    start = "Each model runs" if "Each model runs" in head else "The model runs"
    lines = recipe_headers.overrides(name, start)
    if "Without a GPU and a model hub: that server alone" not in head:
        lines += recipe_headers.overrides(name, "Without a GPU and a model hub")
    own = f"model: tiny, cache: '{folder / 'answers'}'"
    return [
        one.replace("http://localhost:8000/v1", url).replace("model: NAME", own) for one in lines
    ]


def run(name: str, truth: Truth, folder: Path, given: Sequence[str]) -> Run:
    """Run a recipe with the overrides of its header and those ``given``."""
    truth.lost.clear()
    with truth_server.knowing(truth) as server:
        datagen.run(name, str(folder / "run"), [*told(name, server.url, folder), *given])
    assert not truth.lost
    made = datagen.load(str(folder / "run"))
    check(made)
    return made


def check(made: Run) -> None:
    """Counts are conserved, every row has a verdict, and shards hold every triplet's own bytes.

    Nothing fails, but where a filter finds two captions of the same words.
    """
    assert made.status == "finished"
    for step in made.funnel:
        lost = sum(step["rejected"].values()) + sum(step["failed"].values())
        assert step["rows_in"] == step["kept"] + lost, step
        assert set(step["failed"]) <= {"same_words"}, step
    assert set(made.triplets(every=True)["verdict"].to_pylist()) <= {"kept", "rejected", "failed"}
    triplets = {row["id"]: row for row in made.triplets().to_pylist()}
    seen = 0
    for sample in made.samples(decode=False):
        seen += 1
        row = triplets[sample["key"]]
        assert sample["modification"] == row["modification"]
        assert row["negatives"][0]["kind"] == "reference"
        for side in ("references", "targets"):
            hashes = [hashlib.sha256(data).hexdigest() for data in sample[side]]
            assert hashes == [member["media"]["sha256"] for member in row[side]]
    assert seen == len(triplets) > 0


def rules(made: Run, step: str) -> set[str | None]:
    return set(made.verdicts(step)["rule"].to_pylist())


def texts(made: Run) -> dict[tuple[str, str], set[str]]:
    """The texts of every pair, by the keys of reference and target."""
    out: dict[tuple[str, str], set[str]] = {}
    for row in made.triplets().to_pylist():
        ends = row["references"][0]["key"], row["targets"][0]["key"]
        out.setdefault(ends, set()).add(row["modification"])
    return out


@pytest.mark.parametrize("name", NAMES)
def test_the_command_of_a_header_gives_all_that_must_be_given(name: str) -> None:
    recipe, *given = recipe_headers.command(name)
    assert recipe == name
    at = given.index("--out")
    data, _ = recipe_file.read(name, [*given[:at], *given[at + 2 :]])
    assert recipe_file.missing(data) == []
    kinds = [recipe_file.kind_of(step) for step in data["steps"]]
    assert kinds.count("pair") == 1
    assert kinds[-1] == "shards"


def tiny_dino(folder: Path) -> str:
    """A random DINOv2 in the library's own format."""
    transformers = pytest.importorskip("transformers", reason="needs datagen[models]")
    models.prepare()
    import torch

    torch.manual_seed(1)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.Dinov2Config(**shape, image_size=28, patch_size=14)
    transformers.Dinov2Model(config).save_pretrained(folder)
    how = {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 28},
        "crop_size": {"height": 28, "width": 28},
        "resample": 3,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(how))
    return f"file:{folder}"


def test_megapairs_joins_what_three_spaces_find(
    scenes: Collection, ray: None, tmp_path: Path
) -> None:
    # A random DINO finds everything alike: it pairs whatever is nearest.
    bands = {"image": (0.8, 0.96), "structure": (-1.0, 1.0), "caption": (0.3, 0.96)}
    miners = [
        f"{{op: knn_band, space: {space}, low: {low}, high: {high}, max_per_reference: 1}}"
        for space, (low, high) in bands.items()
    ]
    given = [*scenes.source, *scenes.captions, "source.labels=[objects,background]"]
    # The step that the header leaves out comes back under its own name.
    head = [one for one in told("megapairs", "", tmp_path) if one == "steps.embed_structure=null"]
    assert head
    own = f"steps.embed_structure.model={tiny_dino(tmp_path / 'dino')}"
    with truth_server.knowing(scenes.truth) as server:
        scenes.truth.lost.clear()
        chosen = [one for one in told("megapairs", server.url, tmp_path) if one not in head]
        out = str(tmp_path / "run")
        datagen.run("megapairs", out, [*chosen, *given, own, f"steps.pair.of=[{','.join(miners)}]"])
    assert not scenes.truth.lost
    made = datagen.load(out)
    check(made)
    ids = made.items()["id"].to_pylist()
    expected: set[tuple[str, str]] = set()
    for space, (low, high) in bands.items():
        vectors = np.asarray(made.space(f"embed_{space}").of(ids), np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = np.round(vectors @ vectors.T, 4)
        for at, one in enumerate(ids):
            near = sorted((-cosines[at, to], ids[to]) for to in range(len(ids)) if to != at)[:20]
            inside = [name for cosine, name in near if low <= -cosine <= high]
            expected.update((one, name) for name in inside[:1])
    found = {
        (row["references"][0]["id"], row["targets"][0]["id"])
        for row in made.table("union").to_pylist()
    }
    # Equal cosines may be told apart by another rounding of a sum.
    assert len(found ^ expected) <= len(expected) // 50
    assert len(found) > len(ids)
    truth = audit(out)["triplets"]["kept"]
    assert truth["right"] == truth["complete"] == truth["judged"] == made.triplets().num_rows
    for row in made.triplets().to_pylist():
        assert len(row["negatives"]) == 5


def test_megapairs_runs_without_a_space_of_structure(
    scenes: Collection, ray: None, tmp_path: Path
) -> None:
    made = run("megapairs", scenes.truth, tmp_path, [*scenes.source, *scenes.captions])
    rows = made.triplets().to_pylist()
    assert len(rows) > 20
    assert all(says(row["modification"], *scenes.shown(row)).right for row in rows)
    spaces = {row["evidence"]["reason"].split()[0] for row in rows}
    assert spaces == {"image", "caption"}


def test_good4cir_writes_the_texts_of_given_pairs_anew(
    scenes: Collection, ray: None, tmp_path: Path
) -> None:
    pairs = [(1, 15), (3, 4), (6, 10), (19, 18), (20, 28), (23, 31)]
    # Two objects that differ in all their looks take more words than a text may have.
    more = [(8, 10), (0, 0)]
    made = run("good4cir", scenes.truth, tmp_path, [*scenes.source, scenes.pairs([*pairs, *more])])
    assert set(texts(made)) == {(scenes.name(one), scenes.name(other)) for one, other in pairs}
    assert rules(made, "staged_objects") == {None, "too_long"}
    for row in made.triplets().to_pylist():
        assert row["modification"] != "another one"
        assert says(row["modification"], *scenes.shown(row)).right, row["modification"]
        assert row["provenance"][-1]["prompt"].startswith("objects_pictured@")


def test_hycir_begins_without_any_caption(scenes: Collection, ray: None, tmp_path: Path) -> None:
    # Whole scenes take more words than most photos.
    given = [*scenes.source, "steps.caption.max_words=60"]
    made = run("hycir", scenes.truth, tmp_path, given)
    assert set(made.table("caption")["captions_by"].to_pylist()) == {"tiny"}
    rows = made.triplets().to_pylist()
    assert len(rows) > 20
    for row in rows:
        assert says(row["modification"], *scenes.shown(row)).right
        assert 0.8 <= row["evidence"]["score"] <= 0.94
        assert row["score_text_consistency_words"] > 0


def test_spn4cir_puts_both_captions_into_a_sentence(
    scenes: Collection, ray: None, tmp_path: Path
) -> None:
    shares = recipe_headers.overrides("spn4cir", "Fewer than 20,000 images")
    made = run(
        "spn4cir", scenes.truth, tmp_path, [*scenes.source, *shares, "steps.caption.max_words=60"]
    )
    ids = made.items()["id"].to_pylist()
    vectors = np.asarray(made.space("embed_image").of(ids), np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = np.round(vectors @ vectors.T, 4)
    texts_of = set()
    for row in made.triplets().to_pylist():
        reference, target = (row[side][0] for side in ("references", "targets"))
        old, new = (scenes.of[one["key"]].captions[0] for one in (reference, target))
        ways = {f"{new} instead of {old}": "instead", f"unlike {old}, I want {new}": "unlike"}
        texts_of.add(ways[row["modification"]])
        at = ids.index(reference["id"])
        near = sorted((-cosines[at, to], ids[to]) for to in range(len(ids)) if to != at)
        # 31 others: a tenth to a fifth of them are the ranks 4 to 6.
        assert target["id"] in [name for _, name in near[3:6]]
    assert texts_of == {"instead", "unlike"}


def long_ones(scenes: Collection) -> list[tuple[int, int]]:
    """Pairs of which so much differs that it takes a long text to tell it."""
    found = []
    for one in range(16):
        text = request(scenes.items[one].shown, scenes.items[31 - one].shown) or ""
        if 25 <= len(text.split()) <= 75:
            found.append((one, 31 - one))
    return found[:6]


def test_fine_cir_takes_long_texts_alone(scenes: Collection, ray: None, tmp_path: Path) -> None:
    pairs = long_ones(scenes)
    assert len(pairs) > 2
    made = run("fine_cir", scenes.truth, tmp_path, [*scenes.source, scenes.pairs([*pairs, (0, 5)])])
    assert set(texts(made)) == {(scenes.name(one), scenes.name(other)) for one, other in pairs}
    assert rules(made, "text_quality") == {None, "too_short"}
    for row in made.triplets().to_pylist():
        assert 25 <= len(row["modification"].split()) <= 75
        assert says(row["modification"], *scenes.shown(row)).right
        assert row["provenance"][-1]["prompt"].startswith("dense@")


def test_dense_covr_shows_frames_of_both_clips(
    clips: Collection, ray: None, tmp_path: Path
) -> None:
    pairs = [(15, 8), (15, 13), (8, 15), (13, 15), (4, 8), (0, 15), (0, 1)]
    rows = [
        {"pth1": clips.name(one)[:3], "pth2": clips.name(other)[:3], "edit": "other"}
        for one, other in pairs
    ]
    lines = ["pth1,pth2,edit,sim_txt", *(f"{r['pth1']},{r['pth2']},{r['edit']},0.9" for r in rows)]
    (tmp_path / "covr.csv").write_text("\n".join(lines))
    clips.truth.questions.clear()
    given = [*clips.source, *clips.captions, f"steps.pair.path={tmp_path / 'covr.csv'}"]
    made = run("dense_covr", clips.truth, tmp_path, given)
    assert {len(one.pictures["target"]) for one in clips.truth.questions} == {4}
    assert set(texts(made)) == {(clips.name(one), clips.name(other)) for one, other in pairs[:-1]}
    assert rules(made, "text_quality") == {None, "too_short"}
    for row in made.triplets().to_pylist():
        assert row["references"][0]["media"]["modality"] == "video"
        assert 15 <= len(row["modification"].split()) <= 45
        assert says(row["modification"], *clips.shown(row)).right


class Shop:
    """Product photos, known by their pixels: what their labels say is true of them."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = rows
        self.marks = np.stack([self.mark(FASHION / "images" / row["image"]) for row in rows])

    @staticmethod
    def mark(picture: Any) -> np.ndarray[Any, Any]:
        opened = picture if isinstance(picture, Image.Image) else Image.open(picture)
        small = opened.convert("RGB").resize((24, 24), Image.Resampling.BOX)
        return np.asarray(small, np.float32).ravel()

    def of_pictures(self, pictures: Sequence[Image.Image]) -> Mapping[str, Any]:
        apart = np.abs(self.marks - self.mark(pictures[0])).mean(axis=1)
        if apart.min() > 6:
            raise ValueError(f"a strange photo, {apart.min():.1f} away")
        return self.rows[int(apart.argmin())]


def differences(truth: Truth, asked: Question) -> dict[str, Any]:
    world: Any = truth.world
    one, other = (world.of_pictures(asked.pictures[side]) for side in ("reference", "target"))
    colours = one["baseColour"], other["baseColour"]
    told = [f"in {colours[1].lower()}"] if colours[0] != colours[1] else []
    return {"common": [f"a {one['subCategory']}"], "differences": told}


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Truth:
    if not FASHION.is_dir():
        pytest.skip("no real photos (DATAGEN_TEST_DATA)")
    with (FASHION / "items.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows.sort(key=lambda row: schema.content_id("facap", row["id"]))
    some = [row for row in rows if row["subCategory"] in ("Topwear", "Shoes")]
    shirts = [row for row in some if "Puma" in row["productDisplayName"]]
    files = {(FASHION / "images" / row["image"]).read_bytes(): row for row in shirts[:60]}
    monkeypatch.setitem(truth_server.ANSWERS, "differences", differences)
    world: Any = Shop(list(files.values()))
    return Truth(world)


@pytest.mark.real_data
def test_facap_says_what_a_shopper_would_of_real_photos(
    shop: Truth, ray: None, tmp_path: Path
) -> None:
    world: Any = shop.world
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, world.rows)))
    _, *head = recipe_headers.command("facap")
    source = [one for one in head if "=" in one and not one.startswith("source.path")]
    given = [
        f"source.path={FASHION}",
        *(one for one in source if not one.startswith(("source.annotations", "source.labels"))),
        f"source.annotations={tmp_path / 'items.jsonl'}",
        "source.labels=[subCategory,baseColour]",
    ]
    made = run("facap", shop, tmp_path, given)
    assert rules(made, "vlm_then_llm") == {None, "no_difference"}
    for row in made.triplets().to_pylist():
        before, after = (json.loads(row[side][0]["labels"]) for side in ("references", "targets"))
        assert before["subCategory"] == after["subCategory"]
        assert before["baseColour"] != after["baseColour"]
        assert row["modification"] == f"in {after['baseColour'].lower()}"
        assert row["provenance"][-1]["model"] == "tiny"

"""Whole runs of the recipes on real photos; their shards hold the source files' own bytes."""

import hashlib
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

import datagen as package
from datagen import schema

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / os.environ.get("DATAGEN_TEST_DATA", "../shared/data")
PHOTOS = DATA / "photos"
MOBILENET = DATA / "models" / "mobilenet_v2_1.0_224_quant.tflite"
OWN = ROOT / "tests" / "own" / "mobilenet_space.py"
CLIPS = DATA / "videos" / "exercise_2phase"
CAPTIONS = DATA / "captions"
CIRR = DATA / "cir" / "cirr"

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not PHOTOS.is_dir(), reason="no real photos (DATAGEN_TEST_DATA)"),
]

#: Texts without a language model.
TEMPLATES = "steps.llm={op: template}"
#: The recipe without a model hub: captions as TF-IDF, no image space.
NO_HUB = (
    TEMPLATES,
    "steps.embed_caption.model=tfidf",
    "steps.embed_image=null",
    "steps.pair.best_by=null",
    "steps.negatives.space=caption",
)

EXERCISES = [
    f"source.path={PHOTOS / 'exercises'}",
    "source.annotations=items.jsonl",
    'source.media=["{id}_0.jpg","{id}_1.jpg"]',
    "source.media_root=images",
    "source.captions=name",
    "source.labels=[equipment,category]",
]
#: Clips of 16 frames, known by the names of the exercises.
EXERCISE_CLIPS = [
    f"source.path={CLIPS}",
    f"source.annotations={PHOTOS / 'exercises' / 'items.jsonl'}",
    "source.media={id}.mp4",
    "source.captions=name",
]
#: Items without media have no pictures to compare.
NO_MEDIA = ("steps.duplicates=null", "steps.split.near_duplicates=false")
#: 80 photos with five captions each hold few pairs that differ in one word; neighbours do.
COCO = [
    f"source.path={PHOTOS / 'coco'}",
    "source.annotations=captions.json",
    "source.format=coco",
    "source.media=file_name",
    "source.captions=captions",
    "source.media_root=images",
    "steps.pair={op: knn_band, space: caption, low: 0.2, high: 0.96}",
    "steps.similarity.low=0.2",
    "steps.template.max_changed_words=12",
]


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    """Source settings of some of the product photos: those of the most frequent title words."""
    with (PHOTOS / "fashion" / "items.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows.sort(key=lambda row: schema.content_id(row["id"]))
    shirts = [row for row in rows if "Shirt" in row["productDisplayName"]]
    return fashion(tmp_path_factory.mktemp("products"), shirts[:450] + rows[:150])


def fashion(folder, rows):
    """Source settings of product photos whose rows are written to ``folder``."""
    chosen = {row["id"]: json.dumps(row) for row in rows}
    place = folder / "items.jsonl"
    place.write_text("\n".join(chosen.values()), encoding="utf-8")
    return [
        f"source.path={PHOTOS / 'fashion'}",
        f"source.annotations={place}",
        "source.media=image",
        "source.media_root=images",
        "source.captions=productDisplayName",
        "source.labels=[baseColour,subCategory]",
    ]


def check_the_run(out, images):
    """Counts are conserved, every triplet is in the shards, and all bytes are the files' own."""
    run = package.load(str(out))
    assert run.status == "finished"
    for step in run.funnel:
        lost = sum(step["rejected"].values()) + sum(step["failed"].values())
        assert step["rows_in"] == step["kept"] + lost, step
    triplets = run.triplets().num_rows
    media, seen = 0, 0
    for sample in run.samples(decode=False):
        seen += 1
        assert sample["modification"].strip()
        about = sample["json"]
        for role in ("references", "targets", "negatives"):
            held = [member for member in about[role] if member["file"]]
            for member, data in zip(held, sample[role], strict=True):
                media += 1
                name = member["key"].rpartition("/")[2]
                assert hashlib.sha256(data).hexdigest() == member["media"]["sha256"]
                assert data == (images / name).read_bytes(), name
    assert seen == triplets > 0
    assert media >= 2 * triplets
    return triplets


@pytest.mark.parametrize(
    ("name", "overrides"), [("covr_rule_based", ()), ("cc_coir", NO_HUB)], ids=["covr", "coir"]
)
def test_a_recipe_makes_triplets_of_product_photos(name, overrides, products, ray, tmp_path):
    package.run(name, str(tmp_path / "run"), [*products, *overrides])
    count = check_the_run(tmp_path / "run", PHOTOS / "fashion" / "images")
    print(f"{name}: {count} triplets of product photos")
    assert count >= 20


@pytest.mark.parametrize(
    ("name", "overrides"), [("covr_rule_based", ()), ("cc_coir", NO_HUB)], ids=["covr", "coir"]
)
def test_a_recipe_makes_triplets_of_exercise_photos(name, overrides, ray, tmp_path):
    package.run(name, str(tmp_path / "run"), [*EXERCISES, *overrides])
    count = check_the_run(tmp_path / "run", PHOTOS / "exercises" / "images")
    print(f"{name}: {count} triplets of exercise photos")
    assert count >= 20


@pytest.mark.parametrize(
    ("name", "overrides"),
    [("covr_rule_based", ()), ("cc_coir", [one for one in NO_HUB if "best_by" not in one])],
    ids=["covr", "coir"],
)
def test_a_recipe_makes_triplets_of_coco_photos(name, overrides, ray, tmp_path):
    package.run(name, str(tmp_path / "run"), [*overrides, *COCO])
    count = check_the_run(tmp_path / "run", PHOTOS / "coco" / "images")
    print(f"{name}: {count} triplets of COCO photos")
    assert count >= 20


def test_cc_coir_runs_with_an_open_clip_model(products, tiny_clip, ray, tmp_path):
    models = [
        TEMPLATES,
        "steps.embed_caption.model=tfidf",
        f"steps.embed_image.model={tiny_clip}",
    ]
    summary = package.run("cc_coir", str(tmp_path / "run"), [*products, *models])
    check_the_run(tmp_path / "run", PHOTOS / "fashion" / "images")
    embedded = next(step for step in summary.steps if step.id == "embed_image")
    assert embedded.kept == embedded.rows_in > 300
    space = package.load(str(tmp_path / "run")).space("embed_image")
    assert (len(space), space.width) == (embedded.rows_out, 24)


def test_a_users_own_space_pairs_products_of_one_kind_far_above_chance(ray, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")
    if not MOBILENET.is_file():
        pytest.skip("no MobileNet (DATAGEN_TEST_DATA)")
    with (PHOTOS / "fashion" / "items.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows.sort(key=lambda row: schema.content_id("own", row["id"]))
    source = fashion(tmp_path, rows[:600])
    own = tmp_path / "elsewhere" / "my_space.py"
    own.parent.mkdir()
    shutil.copy(OWN, own)
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        f"""
name: own
source:
  type: folder
  path: ???
  annotations: ???
steps:
  - embed: {{op: "elsewhere/my_space.py:MobileNet", space: photo, weights: "{MOBILENET}"}}
  - pair: {{op: knn_band, space: photo, k: 5, low: 0.5, high: 0.98, max_per_reference: 3}}
  - text: {{op: template, max_changed_words: 20}}
  - shards: {{max_size: 50MB}}
""",
        encoding="utf-8",
    )
    summary = package.run(str(recipe), str(tmp_path / "run"), source)
    assert summary.steps[1].kept == summary.steps[1].rows_in >= 590
    check_the_run(tmp_path / "run", PHOTOS / "fashion" / "images")
    run = package.load(str(tmp_path / "run"))
    kinds = [json.loads(text)["subCategory"] for text in run.items()["labels"].to_pylist()]
    # Two items drawn at random are of one kind with this probability.
    count = len(kinds)
    chance = sum(n * (n - 1) for n in Counter(kinds).values()) / (count * (count - 1))
    pairs = run.table(run.steps[2]).to_pylist()
    same = [
        json.loads(pair["references"][0]["labels"])["subCategory"]
        == json.loads(pair["targets"][0]["labels"])["subCategory"]
        for pair in pairs
    ]
    share = sum(same) / len(same)
    print(f"{len(pairs)} pairs, {share:.3f} of one subCategory, by chance {chance:.3f}")
    assert len(pairs) > 300
    assert share > 0.6
    assert share > 3 * chance


def check_the_texts(out):
    """Counts are conserved, and shards without media hold every triplet."""
    run = package.load(str(out))
    assert run.status == "finished"
    for step in run.funnel:
        lost = sum(step["rejected"].values()) + sum(step["failed"].values())
        assert step["rows_in"] == step["kept"] + lost, step
    triplets = {row["id"]: row for row in run.triplets().to_pylist()}
    seen = {sample["key"]: sample for sample in run.samples()}
    assert seen.keys() == triplets.keys() > set()
    for name, sample in seen.items():
        assert sample["modification"] == triplets[name]["modification"]
        assert sample["references"] == sample["targets"] == sample["negatives"] == []
        assert sample["json"]["references"][0]["media"] is None
    return triplets


def test_covr_makes_triplets_of_clips(ray, tmp_path):
    low = "steps.similarity.low=0.3"
    package.run("covr", str(tmp_path / "run"), [*EXERCISE_CLIPS, *NO_HUB, low])
    count = check_the_run(tmp_path / "run", CLIPS)
    print(f"covr: {count} triplets of clips")
    assert count >= 200
    for row in package.load(str(tmp_path / "run")).triplets().to_pylist():
        one, two = (row[side][0]["caption"].casefold() for side in ("references", "targets"))
        assert len(one.split()) == len(two.split())
        assert row["references"][0]["media"]["modality"] == "video"


def test_tf_covr_targets_make_the_change_that_the_labels_tell(ray, tmp_path):
    labels = ("equipment", "mechanic", "force", "level")
    chosen = [TEMPLATES, f"steps.pair.labels=[{','.join(labels)}]", "steps.pair.other=[]"]
    package.run("tf_covr", str(tmp_path / "run"), [*EXERCISE_CLIPS, *chosen])
    count = check_the_run(tmp_path / "run", CLIPS)
    rows = package.load(str(tmp_path / "run")).triplets().to_pylist()
    several = sum(len(row["targets"]) > 1 for row in rows)
    print(f"tf_covr: {count} triplets of clips, {several} of several targets")
    assert several > len(rows) / 3
    for row in rows:
        (change,) = row["evidence"]["changes"]
        before = json.loads(row["references"][0]["labels"])
        for target in row["targets"]:
            after = json.loads(target["labels"])
            assert [key for key in labels if before[key] != after[key]] == [change["field"]]
            assert (before[change["field"]], after[change["field"]]) == (
                change["removed"],
                change["added"],
            )


def test_egocvr_pairs_actions_of_one_video_in_the_order_of_time(ray, tmp_path):
    source = [
        f"source.path={CAPTIONS / 'epic55_narrations.jsonl.gz'}",
        "source.media=null",
        "source.media_root=null",
    ]
    package.run("egocvr", str(tmp_path / "run"), [TEMPLATES, *source, *NO_MEDIA])
    triplets = check_the_texts(tmp_path / "run")
    print(f"egocvr: {len(triplets)} triplets of narrations")
    assert len(triplets) > 10_000
    sides = {}
    for row in triplets.values():
        before, after = (json.loads(row[side][0]["labels"]) for side in ("references", "targets"))
        assert before["video"] == after["video"]
        assert 0 <= after["start"] - before["start"] <= 120
        assert (before["verb"] == after["verb"]) != (before["noun"] == after["noun"])
        assert sides.setdefault(before["video"], row["split"]) == row["split"]


def test_annotated_pairs_and_texts_of_cirr_come_through_a_run(ray, tmp_path):
    rows = json.loads((CIRR / "captions" / "cap.rc2.val.json").read_text())
    names = json.loads((CIRR / "image_splits" / "split.rc2.val.json").read_text())
    images = tmp_path / "images.jsonl"
    lines = [json.dumps({"file": file, "about": f"image {name}"}) for name, file in names.items()]
    images.write_text("\n".join(lines))
    recipe = tmp_path / "cirr.yaml"
    recipe.write_text(
        f"""
name: cirr
source: {{type: captions, path: "{images}", captions: about, key: file}}
steps:
  - pair: {{op: given, path: "{CIRR / "captions" / "cap.rc2.val.json"}"}}
  - text: {{op: given}}
  - shards: {{max_size: 50MB}}
""",
        encoding="utf-8",
    )
    package.run(str(recipe), str(tmp_path / "run"), [])
    triplets = check_the_texts(tmp_path / "run")
    wanted = {
        (names[row["reference"]], names[row["target_hard"]], " ".join(row["caption"].split()))
        for row in rows
    }
    assert {
        (row["references"][0]["key"], row["targets"][0]["key"], row["modification"])
        for row in triplets.values()
    } == wanted
    assert len(triplets) == len(wanted)

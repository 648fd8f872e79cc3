"""A page that is written again keeps the thumbnails of media that are gone."""

import io
import json
import re
import shutil
from pathlib import Path

import made_run
import numpy as np
import pytest
from PIL import Image

import datagen
from datagen.recipe import MediaLimits
from datagen.report import page, pictures

SIDE = pictures.SIDE


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    made_run.make(str(out), pairs=120, items=30, clips=4)
    page.write(datagen.load(str(out)))
    return out


@pytest.fixture
def run(whole, tmp_path):
    """The run with its page; its media may be taken away."""
    shutil.copytree(whole, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    return path.parent


def data(run):
    """The folder that the page reads."""
    html = (run / "report" / "index.html").read_text()
    return run / "report" / re.search(r'"folder":"([^"]+)"', html)[1]


def shown(run):
    """By item: the frames that the page shows, or the reason why there are none."""
    found, folder = {}, data(run)
    for path in sorted(folder.glob("members-*.js")):
        for member in json.loads(path.read_text().partition(",")[2].partition(",")[2][:-3]):
            if "picture" in member:
                sheet, x, y, width, height, frames, _ = member["picture"]
                whole = Image.open(folder / f"sheet-{sheet}.webp").convert("RGB")
                corners = [(x + at * SIDE, y) for at in range(frames)]
                found[member["id"]] = [
                    np.asarray(whole.crop((a, b, a + width, b + height)), int) for a, b in corners
                ]
            elif "fault" in member:
                found[member["id"]] = member["fault"]
    return found


def write_again(run):
    return Path(page.write(datagen.load(str(run)))).read_text()


@pytest.fixture
def gone(whole, run):
    """All media are gone."""
    folders = [whole / "media", run / "media"]
    for folder in folders:
        folder.rename(folder.with_name("away"))
    yield run
    for folder in folders:
        folder.with_name("away").rename(folder)


def test_thumbnails_outlive_their_media_and_do_not_fade(gone):
    before = shown(gone)
    assert len(before) == 27
    assert {len(frames) for frames in before.values()} == {1, pictures.FRAMES}
    for _ in range(5):
        html = write_again(gone)
    after = shown(gone)
    assert after.keys() == before.keys()
    for item, frames in before.items():
        assert len(after[item]) == len(frames)
        for old, new in zip(frames, after[item], strict=True):
            np.testing.assert_array_equal(old, new)
    assert f"{len(before)} of them are of an earlier page: the media are gone" in html
    assert "could not be read again" not in html
    assert len(list((gone / "report").glob("data-*"))) == 1
    assert {path.name for path in data(gone).glob("sheet-*")} == {"sheet-2.webp", "sheet-3.webp"}


def test_media_that_are_there_are_read_again(run):
    before = shown(run)
    html = write_again(run)
    assert "earlier page" not in html
    for item, frames in shown(run).items():
        for old, new in zip(before[item], frames, strict=True):
            np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("damage", ["hash", "members", "sheets", "boxes", "page"])
def test_without_a_thumbnail_of_the_same_bytes_there_is_a_reason(gone, damage):
    for path in data(gone).glob("members-*.js"):
        text = path.read_text()
        if damage == "hash":
            path.write_text(re.sub(r'"sha256":"\w{4}', '"sha256":"none', text))
        elif damage == "members":
            path.write_text(text[: len(text) // 2])
        elif damage == "boxes":
            path.write_text(re.sub(r'"picture":\[0,\d+', '"picture":[0,99999', text))
    for path in data(gone).glob("sheet-*.webp"):
        if damage == "sheets":
            path.write_bytes(path.read_bytes()[:300])
    if damage == "page":
        (gone / "report" / "index.html").write_text("mine")
    html = write_again(gone)
    lost = [why for why in shown(gone).values() if isinstance(why, str)]
    assert set(lost) == {"missing_file"}
    assert len(lost) == (27 - 4 if damage == "boxes" else 27)
    assert f"{len(lost)} items could not be read again: {len(lost)} missing file." in html


def test_the_page_shows_what_the_rows_were_made_of_not_what_lies_there_since(whole, run):
    item = next(
        one
        for one in datagen.load(str(run)).items().to_pylist()
        if one["media"] and one["media"]["format"] == "png"
    )
    before = shown(run)[item["id"]]
    place = Path(item["media"]["path"])
    kept, other = place.read_bytes(), io.BytesIO()
    Image.new("RGB", (64, 96), (1, 2, 3)).save(other, "png")
    try:
        place.write_bytes(other.getvalue())
        html = write_again(run)
    finally:
        place.write_bytes(kept)
    np.testing.assert_array_equal(shown(run)[item["id"]][0], before[0])
    assert "1 of them is of an earlier page: the media are gone" in html


def test_pictures_are_read_within_all_limits_of_the_recipe():
    given = {name: 1234 for name in MediaLimits.model_fields if name != "verify"}
    limits = pictures.limits_of({"media": {**given, "verify": False}})
    assert {name: getattr(limits, name) for name in given} == given

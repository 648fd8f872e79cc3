"""What a report gathers, counts and draws, against the tables and brute force."""

import json
import math
from collections import Counter
from pathlib import Path

import made_run
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import datagen
from datagen import media, store
from datagen.report import charts, chunks, funnel, pictures, rows


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = str(tmp_path_factory.mktemp("made"))
    truth = made_run.make(out)
    return datagen.load(out), truth


def test_every_triplet_and_every_lost_pair_is_listed_with_its_reason_and_scores(made):
    run, truth = made
    gathered = rows.gather(run, 10_000)
    found = gathered.rows.to_pandas()
    assert gathered.total == len(truth)
    for name in ("id", "level", "verdict", "modification"):
        assert gathered.rows[name].to_pylist() == truth[name].tolist()
    for name in ("rule", "step", "split"):
        assert gathered.rows[name].to_pylist() == truth[name].tolist()
    for name in ("score_similarity_caption", "score_clip_score"):
        np.testing.assert_allclose(found[name], truth[name].astype(float))


def test_a_limit_lists_a_part_of_every_verdict_and_counts_all(made):
    run, truth = made
    gathered = rows.gather(run, 40)
    assert gathered.rows.num_rows == 40
    assert gathered.total == len(truth)
    found = gathered.rows.to_pandas()
    kept = truth[truth["verdict"] == "kept"]["id"].tolist()
    assert found[found["verdict"] == "kept"]["id"].tolist() == kept[:20]
    rejected = truth[truth["rule"] == "too_low"]["id"].tolist()
    mine = found[found["rule"] == "too_low"]["id"].tolist()
    assert mine == rejected[: len(mine)]
    assert mine


@given(st.dictionaries(st.sampled_from(["", *"abcdef"]), st.integers(0, 500)), st.integers(1, 600))
def test_shares_fill_the_limit_and_favour_no_rule(sizes, limit):
    sizes = Counter(sizes)
    quota = rows.shares(sizes, limit)
    assert sum(quota.values()) == min(limit, sum(sizes.values()))
    assert all(quota[name] <= size for name, size in sizes.items())
    assert quota[""] >= min(sizes[""], limit // 2)
    others = [name for name in sizes if name and quota[name] < sizes[name]]
    if others:
        cut = [quota[name] for name in others]
        assert max(cut) - min(cut) <= 1
        assert all(quota[name] <= min(cut) + 1 for name in sizes if name)


@pytest.mark.parametrize(("steps", "level"), [(1, "items"), (2, "pairs"), (4, "triplets")])
def test_an_unfinished_run_shows_what_there_is(tmp_path, steps, level):
    made_run.make(str(tmp_path))
    made_run.cut_to(str(tmp_path), steps)
    gathered = rows.gather(datagen.load(str(tmp_path)), 1000)
    last = ("source", "made", "similarity", "text")[steps - 1]
    there = datagen.load(str(tmp_path)).table(last)
    kept = gathered.rows.to_pandas().query("verdict == 'kept'")
    assert set(kept["level"]) == {level}
    assert sorted(kept["id"]) == sorted(there["id"].to_pylist())
    shown = chunks.listing(gathered.rows)
    assert all(shown.references)


def test_a_run_that_has_done_nothing_yet_has_no_rows(tmp_path):
    made_run.make(str(tmp_path))
    made_run.cut_to(str(tmp_path), 0, "running")
    assert rows.gather(datagen.load(str(tmp_path)), 10).total == 0


@given(st.text() | st.recursive(st.text(), lambda inner: st.lists(inner)))
def test_data_is_the_same_behind_the_escapes_and_cannot_end_a_script(value):
    text = chunks.as_script(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029\x00") & set(text)


def test_long_texts_are_cut_and_say_so():
    text = "a" * 100_000
    assert (
        chunks.cut(text)
        == "a" * chunks.LONGEST + f"… ({100_000 - chunks.LONGEST:,} more characters)"
    )
    assert chunks.cut("short") == "short"
    assert chunks.cut(None) is None


def test_the_same_item_in_other_words_is_another_member(made):
    run, _ = made
    gathered = rows.gather(run, 1000)
    shown = chunks.listing(gathered.rows)
    for name, lists in (("references", shown.references), ("targets", shown.targets)):
        wanted = gathered.rows[name].to_pylist()
        assert [[shown.members[at] for at in one] for one in lists] == wanted
    wanted = [[n["item"] for n in one or []] for one in gathered.rows["negatives"].to_pylist()]
    assert [[shown.members[at] for at in one] for one in shown.negatives] == wanted
    keys = [(member["id"], member["caption"]) for member in shown.members]
    assert len(set(keys)) == len(keys)


def cell(folder, album, item, frame=0):
    place = album.places[item]
    sheet = Image.open(Path(folder) / album.sheets[place.sheet][0]).convert("RGB")
    left = place.x + frame * pictures.SIDE
    return sheet.crop((left, place.y, left + place.width, place.y + place.height))


def test_a_sheet_holds_each_picture_at_its_place(made, tmp_path):
    run, _ = made
    items = {r["id"]: r["media"] for r in run.items().to_pylist() if r["media"]}
    album = pictures.draw(items, run.out, str(tmp_path))
    assert set(album.places) == set(items)
    for name, place in items.items():
        if place["modality"] == "video":
            assert album.places[name].frames == pictures.FRAMES
            shades = [np.asarray(cell(tmp_path, album, name, at)).mean() for at in range(6)]
            assert shades == sorted(shades)
            assert shades[-1] > shades[0] + 20
        else:
            want = media.image(place)
            got = cell(tmp_path, album, name)
            assert got.size == want.size
            assert np.abs(np.asarray(got, float) - np.asarray(want, float)).mean() < 4


def test_large_pictures_keep_their_shape(tmp_path):
    Image.new("RGB", (1600, 400), (200, 30, 30)).save(tmp_path / "wide.jpg")
    place = {"path": str(tmp_path / "wide.jpg"), "modality": "image"}
    album = pictures.draw({"a": place}, str(tmp_path), str(tmp_path))
    found = album.places["a"]
    assert (found.width, found.height) == (pictures.SIDE, pictures.SIDE // 4)
    assert np.allclose(np.asarray(cell(tmp_path, album, "a")), (200, 30, 30), atol=6)


def test_media_that_cannot_be_read_have_a_reason_and_a_moved_run_finds_its_own(tmp_path):
    made_run.make(str(tmp_path / "old"))
    moved = tmp_path / "new"
    (tmp_path / "old").rename(moved)
    run = datagen.load(str(moved))
    items = {r["id"]: r["media"] for r in run.items().to_pylist() if r["media"]}
    gone, spoilt = list(items)[-2:]
    (moved / "media" / Path(items[gone]["path"]).name).unlink()
    (moved / "media" / Path(items[spoilt]["path"]).name).write_bytes(b"no picture at all")
    items[spoilt] = {**items[spoilt], "size": None}
    album = pictures.draw(items, run.out, str(tmp_path))
    assert album.places[gone] == "missing_file"
    assert album.faults == Counter({"missing_file": 1, album.places[spoilt]: 1})


def test_histograms_count_every_scored_row_of_the_filter(made):
    run, truth = made
    found = {one.score: one for one in charts.histograms(run, rows.gather(run, 10).rows)}
    assert list(found) == ["score_similarity_caption", "score_clip_score"]
    for name, one in found.items():
        known = truth[truth[name].notna()]
        if name == "score_similarity_caption":
            verdict = np.where(known["level"] == "pairs", "rejected", "kept")
        else:
            verdict = known["verdict"].to_numpy()
        assert one.total == len(known)
        for kind, counts in one.counts.items():
            values = known[name].to_numpy(float)[verdict == kind]
            bins = list(zip(one.edges[:-1], one.edges[1:], strict=True))
            brute = [sum(1 for value in values if a <= value < b) for a, b in bins]
            brute[-1] += int((values == one.edges[-1]).sum())
            assert counts == brute
        assert one.highest == max(map(sum, zip(*one.counts.values(), strict=True)))


def test_scores_of_items_are_shown_for_references_and_targets(tmp_path):
    truth = made_run.make(str(tmp_path))
    (tmp_path / "steps" / "filter-clip_score" / "journal").rename(tmp_path / "gone")
    (tmp_path / "steps" / "filter-clip_score" / "0" / "scores.parquet").unlink()
    run = datagen.load(str(tmp_path))
    scores = {name: at / 100 for at, name in enumerate(run.items()["id"].to_pylist())}
    table = pa.table({"id": list(scores), "score_clip": list(scores.values())})
    store.write_table(str(tmp_path / "steps/filter-clip_score/0/measured.parquet"), table)
    listed = rows.gather(run, 1000).rows
    for side in ("reference", "target"):
        wanted = [scores[row[f"{side}s"][0]["id"]] for row in listed.to_pylist()]
        assert listed[f"score_clip_{side}"].to_pylist() == wanted
    (found,) = (one for one in charts.histograms(run, listed) if one.score == "score_clip")
    kept = truth[truth["verdict"] == "kept"]
    used = {member["id"] for side in ("references", "targets") for m in kept[side] for member in m}
    assert found.level == "items"
    assert sum(found.counts["kept"]) == len(used)
    assert sum(found.counts["rejected"]) == len(scores) - len(used)
    assert found.bounds == {"low": 0.2, "high": 0.36}


def test_bounds_come_from_the_recipe_then_from_the_filter(made):
    run, _ = made
    assert charts.thresholds(run, "similarity", "score_similarity_caption") == {"low": 0.3}
    assert charts.thresholds(run, "clip_score", "score_clip") == {"low": 0.2, "high": 0.36}
    assert charts.thresholds(run, "text", "score_words") == {}
    run.note["recipe"]["steps"][3] = {"filter": {"op": "text_quality", "min_words": 3}}
    found = [charts.thresholds(run, "text_quality", f"score_{n}") for n in ("words", "copied")]
    assert found == [{"low": 3.0, "high": 60.0}, {}]


def test_a_score_that_counts_has_a_bar_for_each_number_and_no_room_for_far_bounds():
    words = pa.array([4.0, 4.0, 5.0, 9.0])
    verdicts = pa.array(["kept", "kept", "rejected", "kept"])
    made = charts.histogram("score_words", "triplets", "q", words, verdicts, {"low": 3, "high": 60})
    assert (made.edges[0], made.edges[-1], len(made.edges)) == (2.5, 9.5, 8)
    assert made.counts == {"kept": [0, 2, 0, 0, 0, 0, 1], "rejected": [0, 0, 1, 0, 0, 0, 0]}
    assert (made.bounds, made.beyond) == ({"low": 3}, {"high": 60})
    assert charts.ticks(2.5, 9.5, whole=True) == [4.0, 6.0, 8.0]
    same = charts.histogram("s", "triplets", "q", words[:2], verdicts[:2], {})
    assert (same.edges, same.counts["kept"]) == ([3.5, 4.5], [2])


def test_a_density_holds_every_text_once():
    rng = np.random.default_rng(0)
    words = rng.integers(1, 30, 5000).astype(float)
    scores = rng.normal(0.5, 0.1, 5000)
    scores[:40] = np.nan
    kept = np.array(["kept"] * 5000, dtype=object)
    made = charts.density("score_x", words, scores, kept)
    assert made.total == sum(count for *_, count in made.cells) == 4960
    few = charts.density("score_x", words[:100], scores[:100], kept[:100])
    assert len(few.points) == few.total == 60
    assert charts.density("score_x", words[:40], scores[:40], kept[:40]) is None
    same = charts.density("score_x", words[:9] * 0 + 3, scores[50:59] * 0, kept[:9])
    assert same.total == 9


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_within(least, width):
    found = charts.ticks(least, least + width)
    slack = width * 1e-3 + abs(least) * 1e-9
    assert len(found) <= 8
    assert all(least - slack <= tick <= least + width + slack for tick in found)
    assert all(math.isfinite(tick) for tick in found)


def test_the_funnel_shows_examples_of_each_reason(made):
    run, truth = made
    found = {step.id: step for step in funnel.steps(run)}
    assert [step.before for step in found.values()] == [
        *("records", "items", "pairs", "pairs", "triplets")
    ]
    (broken,) = found["source"].reasons
    assert (broken.rule, broken.examples) == ("truncated", [("x", "ends <early>")])
    low, error = found["clip_score"].reasons
    assert (low.rule, low.count) == ("too_low", int((truth["rule"] == "too_low").sum()))
    assert len(low.examples) == funnel.EXAMPLES
    assert error.rule == "error"
    assert {detail for _, detail in error.examples} == {"<b>boom</b>"}

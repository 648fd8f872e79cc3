"""``datagen show`` against the tables and tars themselves."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import tiny_run
from rich.console import Console
from typer.testing import CliRunner

from datagen import cli, store
from datagen.errors import DatagenError
from datagen.report import _show_text
from datagen.report.show import show

EVIL = "[bold red]markup[/] \x1b[31m \u202eback\u2066 [link=file:///etc/passwd]x[/link]"


@pytest.fixture
def made(tmp_path):
    items = [tiny_run.item(tmp_path, n, f"caption {n}") for n in range(9)]
    items += [tiny_run.item(tmp_path, 9, EVIL, labels={"a": EVIL}, kind=None)]
    rows = [
        tiny_run.triplet(
            [items[n]], [items[n + 1]], f"text {n}", split=("train", "val")[n % 3 == 0],
            negatives=[("reference", items[n]), ("mined", items[7])],
        )
        for n in range(7)
    ]  # fmt: skip
    rows += [
        tiny_run.triplet([items[0]], [items[9]], EVIL, split="train"),
        tiny_run.triplet(
            [items[8]], [items[1]], "lost", score=None, verdict="rejected", rule="too_low",
            detail="0.2 < 0.5", step="mine",
        ),
    ]  # fmt: skip
    run = tiny_run.write(tmp_path, items, rows, shards=True)
    (lost,) = (row["id"] for row in rows if row["modification"] == "lost")
    journal = store.Journal(store.join(run.out, "steps/filter-mine/journal"))
    store.make_folder(journal.folder)
    told = {"unit": [lost, "other"], "score_mine": [0.2, 0.9], "verdict": ["kept", "kept"]}
    journal.append(pa.table(told))
    return run


def printed(found, width=100):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    _show_text.print_found(found, console)
    return console.file.getvalue()


def test_a_triplet_is_shown_with_its_row_verdicts_scores_and_tar(made):
    for row in made.triplets().to_pylist():
        found = show(made, row["id"])
        assert found["kind"] == "triplet"
        for name in ("modification", "references", "targets", "negatives", "split", "provenance"):
            assert found["row"][name] == row[name]
        (score,) = found["scores"]
        assert (score["name"], score["value"], score["step"]) == (
            "similarity_caption", row["score_similarity_caption"], "similarity",
        )  # fmt: skip
        assert score["thresholds"] == {"low": 0.3}
        with tarfile.open(found["shard"]["path"]) as tar:
            keys = {name.partition(".")[0] for name in tar.getnames()}
        assert found["shard"]["key"] == row["id"]
        assert row["id"] in keys
        json.dumps(found, allow_nan=False)


def test_the_verdicts_are_those_of_every_step_on_the_row_its_pair_and_its_items(made):
    (row,) = (r for r in made.triplets().to_pylist() if r["modification"] == "text 2")
    subjects = {row["id"], row["pair"]}
    subjects |= {row[role][0]["id"] for role in ("references", "targets")}
    subjects |= {one["item"]["id"] for one in row["negatives"]}
    wanted = {
        (step, told["id"], told["verdict"])
        for step in made.steps
        for told in made.verdicts(step).to_pylist()
        if told["id"] in subjects
    }
    found = show(made, row["id"])["verdicts"]
    assert {(one["step"], one["id"], one["verdict"]) for one in found} == wanted
    assert len(found) == len(wanted)
    steps = [one["step"] for one in found]
    assert [made.steps.index(step) for step in steps] == sorted(map(made.steps.index, steps))


def test_a_lost_triplet_tells_its_rule_and_the_score_in_the_journal(made):
    (row,) = (r for r in made.triplets(every=True).to_pylist() if r["verdict"] == "rejected")
    found = show(made, row["id"][:12])
    assert found["row"]["rule"] == "too_low"
    assert found["shard"] is None
    scores = {one["name"]: one["value"] for one in found["scores"]}
    assert scores["mine"] == 0.2
    assert "too_low: 0.2 < 0.5" in printed(found)


def test_pairs_items_keys_and_prefixes_are_found(made):
    row = made.triplets().to_pylist()[0]
    pair = show(made, row["pair"])
    assert (pair["kind"], pair["triplets"]) == ("pair", {"count": 1, "ids": [row["id"]]})
    member = row["references"][0]
    wanted = {
        one["id"]
        for one in made.triplets(every=True).to_pylist()
        if member["id"] in {m["id"] for role in ("references", "targets") for m in one[role]}
    }
    for name in (member["id"], member["key"], member["id"][:15]):
        item = show(made, name)
        assert (item["kind"], item["id"]) == ("item", member["id"])
        assert set(item["triplets"]["ids"]) == wanted
    assert str(member["media"]["path"]) in printed(item, width=300)


def test_a_record_that_became_no_item_is_shown_by_its_key(made):
    path = str(Path(made.out, "steps/source-source/0/verdicts.parquet"))
    table = store.read_table(path)
    broken = {"id": "f" * 20, "verdict": "failed", "rule": "truncated", "detail": "ends early"}
    table = pa.concat_tables([table, pa.Table.from_pylist([broken], table.schema)])
    keys = [None] * (table.num_rows - 1) + ["photos/broken.jpg"]
    store.write_table(path, table.append_column("key", pa.array(keys, pa.string())))
    found = show(made, "photos/broken.jpg")
    assert found["kind"] == "record"
    assert [(v["step"], v["rule"]) for v in found["verdicts"]] == [("source", "truncated")]
    assert "truncated: ends early" in printed(found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name: name[:-3] + "zzz", "did you mean '{id}'?"),
        (lambda name: "dir/3.pn", "did you mean the item 'dir/3.png'?"),
        (lambda name: "", "give an id of a triplet"),
        (lambda name: "nothing at all", "give an id of a triplet"),
    ],
)
def test_what_is_not_there_is_one_line_with_the_nearest(made, change, said):
    name = made.triplets()["id"][0].as_py()
    with pytest.raises(DatagenError) as error:
        show(made, change(name))
    assert said.format(id=name) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unfinished_run_shows_what_is_complete(made):
    made.note["status"] = "stopped"
    for step in ("filter-mine", "shards-shards"):
        Path(made.out, "steps", step, "0", "done.json").unlink()
    row = made.table("template").to_pylist()[0]
    found = show(made, row["id"])
    assert (found["kind"], found["shard"]) == ("triplet", None)
    assert "stopped: what is complete is shown" in printed(found)
    for done in Path(made.out).rglob("done.json"):
        done.unlink()
    with pytest.raises(DatagenError, match="no step of this run is complete"):
        show(replace(made), row["id"])


def test_texts_are_neither_markup_nor_codes_for_the_terminal(made):
    (row,) = (r for r in made.triplets().to_pylist() if r["modification"].startswith("[bold"))
    for name in (row["id"], row["targets"][0]["id"]):
        text = printed(show(made, name), width=300)
        assert "[bold red]markup[/]" in text
        assert not {"\x1b", "\u202e", "\u2066"} & set(text)
        assert "none (captions only)" in text


def test_the_command_prints_text_or_json(made, monkeypatch):
    row = made.triplets().to_pylist()[0]
    cli._mount()
    runner = CliRunner()
    done = runner.invoke(cli.app, ["show", made.out, row["id"], "--json"])
    assert json.loads(done.stdout) == json.loads(json.dumps(show(made, row["id"])))
    done = runner.invoke(cli.app, ["show", made.out, row["id"]])
    assert done.exit_code == 0
    assert row["modification"] in done.stdout or "markup" in done.stdout


def test_no_id_at_all_is_asked_for(made):
    with pytest.raises(DatagenError, match="ID: give an id of a triplet"):
        show(made, "")

"""What of a finished run stands in other collections, against copies that the test made itself."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import datagen
from datagen import cli, media, store
from datagen.audit.leaks import LEAKS, leaks
from datagen.errors import DatagenError
from datagen.result import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, ray: None) -> Run:
    out = tmp_path_factory.mktemp("leaks") / "run"
    recipe: dict[str, Any] = {
        "source": {"type": "tinyworld", "count": 60, "size": 64},
        "steps": [
            {"pair": {"op": "one_word_diff"}},
            {"text": {"op": "template"}},
            {"filter": {"op": "duplicates"}},
            {"negatives": {"reference": True, "mined": 0}},
        ],
    }
    datagen.run(recipe, str(out))
    return datagen.load(str(out))


@pytest.fixture(scope="module")
def copied(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str], set[str]]:
    """A folder with copies of the pictures of two triplets, and the ids of the items whose bytes
    and whose pictures stand in it.
    """
    folder = tmp_path_factory.mktemp("benchmark")
    first, second = run.triplets().slice(0, 2).to_pylist()
    exact, again = first["targets"][0], second["references"][0]
    assert exact["id"] != again["id"]
    data = [media.read(one["media"]) for one in (exact, again)]
    (folder / "exact.png").write_bytes(data[0])
    Image.open(io.BytesIO(data[1])).convert("RGB").resize((96, 96)).save(folder / "again.png")
    return folder, {exact["id"]}, {again["id"]}


def holders(run: Run, wanted: set[str]) -> set[str]:
    """Triplets with one of these items, by looking at each."""
    return {
        row["id"]
        for row in run.triplets().to_pylist()
        if wanted & {one["id"] for one in [*row["references"], *row["targets"]]}
        | wanted & {one["item"]["id"] for one in row["negatives"]}
    }


def test_items_and_the_triplets_that_hold_them_are_found(
    run: Run, copied: tuple[Path, set[str], set[str]]
) -> None:
    folder, exact, again = copied
    found = leaks(run, [str(folder)])
    lines = store.read_table(store.join(run.out, "audit", "leaks.parquet"))
    assert lines.schema.equals(LEAKS)
    by_rule = {
        rule: {r["id"] for r in lines.to_pylist() if r["rule"] == rule} for rule in found["rules"]
    }
    assert by_rule["leak_same_bytes"] == exact
    # Scenes that differ little from the copied one may be near it as well.
    assert again <= by_rule["leak_near_duplicate"]
    ids = set(lines["id"].to_pylist())
    assert found["leaking"] == len(ids) < found["items"] / 4
    assert found["triplets_leaking"] == len(holders(run, ids))
    for row in lines.to_pylist():
        assert row["triplets_count"] == len(holders(run, {row["id"]}))
        assert set(row["triplets"]) <= holders(run, {row["id"]})
    assert json.loads(json.dumps(found)) == found
    # The same, without what the filter duplicates has measured.
    fresh = Run(run.out, {**run.note, "steps": run.note["steps"][:1]})
    assert leaks(fresh, [str(folder)], write=False) == found


def test_a_run_against_itself_leaks_whole_and_fingerprints_say_the_same(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = leaks(run, [run.out], write=False)
    assert found["leaking"] == found["items"] == found["rules"]["leak_same_bytes"]
    assert found["triplets_leaking"] == found["triplets"] == run.triplets().num_rows
    file = str(tmp_path / "prints.parquet")
    with pytest.raises(SystemExit) as ended:
        cli.main(["fingerprint", run.out, "--out", file])
    assert ended.value.code in (0, None)
    with pytest.raises(SystemExit):
        cli.main(["leaks", run.out, "--against", file, "--json"])
    told = capsys.readouterr().out
    by_file = json.loads(told[told.index("{") :])
    assert by_file["rules"] == found["rules"]
    assert by_file["against"][0]["kind"] == "fingerprints"


def test_names_and_the_mend_are_told(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = run.triplets()["targets"][0].as_py()[0]["key"]
    (tmp_path / "list.txt").write_text(f"{key}\nno_such_item\n")
    with pytest.raises(SystemExit):
        cli.main(["leaks", run.out, "--against", str(tmp_path / "list.txt")])
    told = capsys.readouterr().out
    assert "2 names)" in told
    assert "1 of " in told
    (line,) = yaml.safe_load(told.strip().splitlines()[-1])
    assert line == {"filter": {"op": "leakage", "against": [str(tmp_path / "list.txt")]}}
    (name,) = store.read_table(store.join(run.out, "audit", "leaks.parquet"))["key"].to_pylist()
    assert name == key


def test_a_collection_that_is_not_there_is_one_line(run: Run, tmp_path: Path) -> None:
    with pytest.raises(DatagenError, match="no such file or folder"):
        leaks(run, [str(tmp_path / "absent")])
    with pytest.raises(DatagenError, match="name a folder"):
        leaks(run, [])

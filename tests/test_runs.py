"""A whole run: nothing vanishes, nothing is computed twice, everything can be mended."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import broken_media
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from whole_runs import (
    OWN,
    RECIPE,
    called,
    check_files_are_whole,
    command,
    datagen,
    recipe,
    shard_hashes,
)

import datagen as package
from datagen.errors import DatagenError, RecipeError
from datagen.sources.tinyworld import oracle
from datagen.sources.tinyworld.events import shown

pytestmark = pytest.mark.usefixtures("ray")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ray):
    folder = tmp_path_factory.mktemp("finished")
    package.run(recipe(folder), str(folder / "run"))
    return folder


def parts(out):
    """Every journal part with the time it was written."""
    return {p: p.stat().st_mtime_ns for p in Path(out).glob("steps/*/journal/*.parquet")}


def test_every_row_has_a_verdict_at_every_step(finished):
    run = package.load(str(finished / "run"))
    assert run.status == "finished"
    for step in run.funnel:
        lost = sum(step["rejected"].values()) + sum(step["failed"].values())
        assert step["rows_in"] == step["kept"] + lost, step
        verdicts = run.verdicts(step["id"])
        assert verdicts.num_rows == step["rows_in"]
        assert pc.count_distinct(verdicts["id"]).as_py() == step["rows_in"]
    for before, after in zip(run.funnel, run.funnel[1:], strict=False):
        assert after["rows_in"] == before["rows_out"]


def test_triplets_are_whole_and_stand_in_the_shards(finished):
    run = package.load(str(finished / "run"))
    table = run.triplets()
    assert table.num_rows == run.funnel[-1]["rows_out"] > 100
    everything = run.triplets(every=True)
    rejected = everything.filter(pc.not_equal(everything["verdict"], "kept"))
    assert rejected.num_rows > 0
    assert all(rejected["rule"].to_pylist())
    made = next(step["rows_out"] for step in run.funnel if step["id"] == "template")
    assert everything.num_rows == made
    samples = {sample["json"]["id"]: sample for sample in run.samples(decode=False)}
    assert set(samples) == set(table["id"].to_pylist())
    for row in table.slice(0, 20).to_pylist():
        sample = samples[row["id"]]
        assert sample["modification"] == row["modification"]
        hashes = [hashlib.sha256(data).hexdigest() for data in sample["references"]]
        assert hashes == [member["media"]["sha256"] for member in row["references"]]
        assert row["negatives"][0]["kind"] == "reference"
        steps = [line["step"] for line in row["provenance"]]
        assert steps == ["one_word_diff", "template"]


def test_no_item_stands_on_two_sides(finished):
    sides = {}
    for row in package.load(str(finished / "run")).triplets().to_pylist():
        members = row["references"] + row["targets"] + [n["item"] for n in row["negatives"]]
        for member in members:
            assert sides.setdefault(member["id"], row["split"]) == row["split"]


def test_a_finished_run_run_again_says_so_and_touches_nothing(finished):
    out = finished / "run"
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    summary = package.run(str(finished / "small.yaml"), str(out))
    assert summary.status == "already finished"
    assert all(step.reused for step in summary.steps)
    after = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    assert {p.name for p in before if before[p] != after.get(p)} <= {"run.lock"}


def test_a_changed_threshold_decides_again_and_computes_nothing(finished, tmp_path):
    path, out = str(finished / "small.yaml"), str(finished / "run")
    expected = shard_hashes(out)
    before = parts(out)
    tighter = package.run(path, out, ["steps.similarity.low=0.97"])
    kept = next(s for s in tighter.steps if s.id == "similarity").kept
    first = next(s for s in package.load(out).funnel if s["id"] == "one_word_diff")["rows_out"]
    assert 0 < kept < first
    assert parts(out) == before
    back = package.run(path, out)
    assert back.status == "finished"
    assert shard_hashes(out) == expected
    assert parts(out) == before
    fresh = tmp_path / "fresh"
    package.run(path, str(fresh), ["steps.similarity.low=0.97"])
    package.run(path, out, ["steps.similarity.low=0.97"])
    assert shard_hashes(out) == shard_hashes(fresh)
    package.run(path, out)


def test_a_looser_threshold_computes_only_what_is_new(finished, tmp_path):
    out = str(tmp_path / "run")
    path = str(finished / "small.yaml")
    tight = package.run(path, out, ["steps.similarity.low=0.97"])
    before = parts(out)
    loose = package.run(path, out)
    new = [p for p in parts(out) if p not in before]
    texts = sum(pq.read_table(p).num_rows for p in new if "text-template" in str(p))
    more = [s.rows_out for s in loose.steps if s.id == "template"]
    less = [s.rows_out for s in tight.steps if s.id == "template"]
    assert texts == more[0] - less[0] > 0
    assert shard_hashes(out) == shard_hashes(finished / "run")


def test_new_items_are_added_without_reading_the_old_ones_again(tmp_path):
    text = RECIPE.replace("count: 240", "count: 200")
    out = str(tmp_path / "run")
    package.run(recipe(tmp_path, text), out)
    words = next(Path(out).glob("steps/filter-CaptionLength-*/journal"))
    before = {p for p in parts(out) if p.parent == words}
    grown = recipe(tmp_path, text.replace("count: 200", "count: 240"), "grown.yaml")
    package.run(grown, out)
    again = [p for p in parts(out) if p.parent == words and p not in before]
    scored = sum(pq.read_table(p).num_rows for p in again)
    assert 0 < scored <= 40


def test_broken_media_get_a_verdict_each_and_the_run_finishes(tmp_path):
    folder = tmp_path / "media"
    folder.mkdir()
    expected = broken_media.make(folder)
    assert len([name for name, rule in expected.items() if rule != "kept"]) >= 25
    lines = [
        json.dumps({"file": name, "caption": f"a picture of {i}"})
        for i, name in enumerate(expected)
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(lines), encoding="utf-8")
    summary = package.run(
        {
            "source": {
                "type": "folder",
                "path": str(folder),
                "annotations": str(tmp_path / "items.jsonl"),
                "media": "file",
                "captions": "caption",
            },
            "steps": [{"filter": {"op": f"{OWN}:CaptionLength"}}],
        },
        str(tmp_path / "run"),
    )
    verdicts = package.load(str(tmp_path / "run")).verdicts("source").to_pylist()
    found = {v["key"]: v["rule"] or v["verdict"] for v in verdicts}
    # What is no file at all is met by the source, which says so in its own words.
    no_files = {"not_a_file", "unreadable_file"}
    expected = {n: "missing_file" if r in no_files else r for n, r in expected.items()}
    assert found == expected
    assert all(v["detail"] for v in verdicts if v["verdict"] != "kept")
    assert summary.steps[0].rows_in == len(expected)


def test_a_row_that_raises_fails_alone_and_can_be_tried_again(tmp_path):
    text = RECIPE.replace("low: 1,", "low: 1, raise_on: ' red ',")
    out = str(tmp_path / "run")
    summary = package.run(recipe(tmp_path, text), out)
    own = summary.steps[1]
    assert own.failed["error"] > 0
    verdicts = package.load(out).verdicts("CaptionLength")
    failed = verdicts.filter(pc.equal(verdicts["verdict"], "failed"))
    assert all("ZeroDivisionError" in detail for detail in failed["detail"].to_pylist())
    before = parts(out)
    again = package.run(recipe(tmp_path, text), out, retry_failed=True)
    new = [p for p in parts(out) if parts(out)[p] != before.get(p)]
    retried = sum(pq.read_table(p).num_rows for p in new)
    assert retried == own.failed["error"]
    assert again.steps[1].failed == own.failed


def test_a_step_that_leaves_nothing_ends_the_run_with_the_reasons(finished):
    band = ["steps.similarity.low=-1", "steps.similarity.high=-0.99"]
    with pytest.raises(DatagenError, match=r"step similarity left no row of \d+ \(too_similar"):
        package.run(str(finished / "small.yaml"), str(finished / "none"), band)


def test_a_fault_in_the_recipe_leaves_no_run_behind(finished, tmp_path):
    with pytest.raises(RecipeError):
        package.run(str(finished / "small.yaml"), str(tmp_path / "run"), ["steps.text.opp=x"])
    assert not (tmp_path / "run").exists()


def test_plain_values_are_a_recipe_too(finished):
    data = yaml.safe_load(RECIPE)
    summary = package.run(data, str(finished / "run"))
    assert summary.status == "already finished"


def test_loading_what_is_no_run_is_one_line(tmp_path):
    with pytest.raises(DatagenError, match="no run here"):
        package.load(str(tmp_path))


ODD = OWN.parent / "odd_places.py"
COLOURS = ("red", "blue", "green", "white")


def captions(folder, **files):
    """A source of text files: captions only, no media."""
    folder.mkdir(exist_ok=True)
    for name, lines in files.items():
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return {"type": f"{ODD}:Lines", "path": str(folder)}


def chairs(*numbers):
    return [f"a {colour} chair number {number}" for number in numbers for colour in COLOURS]


PAIRED = [
    {"embed": {"space": "caption", "model": "tfidf", "width": 4}},
    {"pair": {"op": "one_word_diff"}},
    {"filter": {"op": "similarity", "space": "caption", "low": -1.0}},
    {"text": {"op": "template"}},
]


def scores(out):
    table = package.load(str(out)).triplets()
    return dict(
        zip(table["id"].to_pylist(), table["score_similarity_caption"].to_pylist(), strict=True)
    )


def test_captions_alone_are_enough_whatever_they_are(tmp_path):
    source = captions(
        tmp_path / "in",
        some=[*chairs(1), "", "   ", "x", "é" * 5000, "ein 红色 stuhl", "ein 蓝色 stuhl", "\u200b"],
        none=[],
        one=["a 🪑 alone"],
    )
    summary = package.run({"source": source, "steps": PAIRED}, str(tmp_path / "run"))
    assert summary.steps[0].rows_in == 12
    assert summary.steps[0].failed == {}
    assert summary.triplets >= 12


@pytest.mark.parametrize("texts", [{}, {"none": []}])
def test_a_source_of_nothing_ends_in_a_line(tmp_path, texts):
    source = captions(tmp_path / "in", **texts)
    with pytest.raises(DatagenError, match=r"lists nothing at all|left no row of 0"):
        package.run({"source": source, "steps": PAIRED}, str(tmp_path / "run"))


def test_a_part_that_cannot_be_read_is_a_failed_row_with_an_id(tmp_path):
    source = captions(tmp_path / "in", good=chairs(1))
    (tmp_path / "in/bad.txt").write_bytes(b"\xff\xfe\xff")
    summary = package.run({"source": source, "steps": PAIRED}, str(tmp_path / "run"))
    assert (summary.steps[0].kept, summary.steps[0].failed) == (4, {"error": 1})
    verdicts = package.load(str(tmp_path / "run")).verdicts("source")
    assert verdicts["id"].null_count == 0


def test_a_source_of_which_nothing_can_be_read_ends_in_a_line(tmp_path):
    source = captions(tmp_path / "in", bad=[])
    (tmp_path / "in/bad.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DatagenError, match=r"left no row of 1 \(error 1; such as: Unicode"):
        package.run({"source": source, "steps": PAIRED}, str(tmp_path / "run"))


def test_a_rejected_triplet_keeps_the_score_that_it_was_rejected_for(tmp_path):
    source = captions(tmp_path / "in", a=chairs(1), b=["a red tin", "a blue tin"])
    score = {"op": "similarity", "space": "caption", "low": -1}
    steps = [
        {"embed": {"space": "caption", "model": "tfidf", "width": 8}},
        {"pair": {"op": "one_word_diff"}},
        {"text": {"op": "template"}},
        {"filter": score},
    ]
    out = str(tmp_path / "run")
    package.run({"source": source, "steps": steps}, out)
    every = sorted(scores(out).values())
    score["low"] = low = every[len(every) // 2]
    assert every[0] < low
    package.run({"source": source, "steps": steps}, out)
    rows = package.load(out).triplets(every=True).to_pylist()
    vectors = package.load(out).space("embed_caption")
    assert {row["verdict"] for row in rows} == {"kept", "rejected"}
    for row in rows:
        ends = [row["references"][0]["id"], row["targets"][0]["id"]]
        one, two = vectors.of(ends).astype(float)
        assert row["score_similarity_caption"] == pytest.approx(one @ two, abs=1e-3)
        assert (row["verdict"] == "kept") == (row["score_similarity_caption"] >= low)


def test_what_a_retry_mends_reaches_every_later_step(tmp_path):
    source = captions(tmp_path / "in", a=[*chairs(1), "broken"], b=[*chairs(2), "broken"])
    recipe = {"source": source, "steps": PAIRED}
    out, fresh = tmp_path / "run", tmp_path / "fresh"
    first = package.run(recipe, str(out))
    assert (first.steps[0].failed, first.triplets) == ({"broken_line": 2}, 24)
    captions(tmp_path / "in", a=chairs(1, 3), b=[*chairs(2), "broken"])
    assert package.run(recipe, str(out)).status == "already finished"
    again = package.run(recipe, str(out), retry_failed=True)
    assert again.steps[0].failed == {"broken_line": 1}
    for before, after in zip(again.steps, again.steps[1:], strict=False):
        assert after.rows_in == before.rows_out
    package.run(recipe, str(fresh))
    assert scores(out) == scores(fresh)
    assert package.run(recipe, str(out)).status == "already finished"
    nothing_new = package.run(recipe, str(out), retry_failed=True)
    assert [step.reused for step in nothing_new.steps] == [False, True, True, True, True]
    assert scores(out) == scores(fresh)


def test_a_retry_that_was_killed_while_it_published_is_gone_on_with(tmp_path, monkeypatch):
    source = captions(tmp_path / "in", a=[*chairs(1), "broken"])
    recipe = {"source": source, "steps": PAIRED}
    package.run(recipe, str(tmp_path / "fresh"))
    for moment in range(4):
        out = tmp_path / f"run{moment}"
        captions(tmp_path / "in", a=[*chairs(1), "broken"])
        package.run(recipe, str(out))
        captions(tmp_path / "in", a=chairs(1, 2))
        left = [moment]

        def killed(write, left=left):
            def writing(path, value):
                if "/source-" in path and "journal" not in path:
                    left[0] -= 1
                    if left[0] < 0:
                        raise KeyboardInterrupt
                return write(path, value)

            return writing

        with monkeypatch.context() as patch:
            patch.setattr(package.store, "write_table", killed(package.store.write_table))
            patch.setattr(package.store, "write_json", killed(package.store.write_json))
            with pytest.raises(KeyboardInterrupt):
                package.run(recipe, str(out), retry_failed=True)
        assert package.load(str(out)).status == "stopped"
        ended = package.run(recipe, str(out))
        assert ended.steps[0].kept == 8, moment
        assert ended.triplets == 24, moment


def test_run_json_tells_of_the_recipe_that_ran_last(tmp_path):
    source = captions(tmp_path / "in", a=chairs(1, 2))
    out = str(tmp_path / "run")
    one = {"name": "one", "source": source, "steps": PAIRED}
    two = {"name": "two", "source": source, "steps": PAIRED[:2]}
    package.run(one, out)
    expected = scores(out)
    package.run(two, out)
    assert package.load(out).steps == ["source", "embed_caption", "one_word_diff"]
    with pytest.raises(DatagenError, match="this recipe makes no triplets"):
        package.load(out).triplets()
    back = package.run(one, out)
    assert all(step.reused for step in back.steps)
    assert scores(out) == expected
    assert package.load(out).funnel[-1]["id"] == "template"
    named = {**one, "steps": [*PAIRED[:2], {"filter": {**PAIRED[2]["filter"], "id": "sim"}}]}
    package.run(named, out)
    assert package.load(out).verdicts("sim").num_rows == 24


def test_overrides_and_extends_hold_for_plain_values_too(tmp_path):
    source = captions(tmp_path / "in", a=chairs(1))
    recipe = {"source": {**source, "path": "???"}, "steps": PAIRED}
    summary = package.run(recipe, str(tmp_path / "run"), [f"source.path={source['path']}"])
    assert summary.triplets == 12
    assert recipe["source"]["path"] == "???"
    with pytest.raises(DatagenError, match="no recipe 'dmo'"):
        package.run({**recipe, "extends": "dmo"}, str(tmp_path / "run"))


def test_edits_work_at_every_level_and_on_used_items(tmp_path):
    def stamp(name, **settings):
        return {"edit": {"op": f"{ODD}:{name}", **settings}}

    source = captions(tmp_path / "in", a=[*chairs(1), "nothing like it"])
    steps = [
        stamp("Stamp", id="on_items", mark="item"),
        *PAIRED[:2],
        stamp("StampItems", id="used", refuse="a red chair number 1"),
        stamp("Stamp", id="on_pairs", mark="pair"),
        PAIRED[3],
        stamp("Stamp", id="on_triplets", mark="triplet"),
    ]
    out = str(tmp_path / "run")
    summary = package.run({"source": source, "steps": steps}, out)
    by_id = {step.id: step for step in summary.steps}
    assert by_id["used"].rejected == {"refused": 6}
    run = package.load(out)
    assert run.table("on_items")["mark"].to_pylist() == ["item"] * 5
    assert set(run.table("on_pairs")["mark"].to_pylist()) == {"pair"}
    rows = run.triplets().to_pylist()
    assert {row["mark"] for row in rows} == {"triplet"}
    lines = ["one_word_diff", "on_pairs", "template", "on_triplets"]
    assert [line["step"] for line in rows[0]["provenance"]] == lines
    steps[-1]["edit"]["id"] = "late"
    package.run({"source": source, "steps": steps}, out)
    again = package.load(out).triplets().to_pylist()
    assert [line["step"] for line in again[0]["provenance"]] == [*lines[:-1], "late"]


def test_a_filter_that_forgets_a_row_ends_in_a_line(tmp_path):
    own = tmp_path / "forgets.py"
    own.write_text(
        "from datagen.step import Filter, Settings, verdicts\n"
        "class Forgets(Filter[Settings]):\n"
        "    Settings = Settings\n"
        "    def __call__(self, rows):\n"
        "        return rows\n"
        "    def decide(self, rows, items):\n"
        "        return verdicts(rows['id'].slice(1))\n"
    )
    source = captions(tmp_path / "in", a=chairs(1))
    recipe = {"source": source, "steps": [{"filter": {"op": f"{own}:Forgets"}}]}
    with pytest.raises(DatagenError, match="Forgets: 3 verdicts for 4 rows"):
        package.run(recipe, str(tmp_path / "run"))


@pytest.mark.parametrize("on_items", [False, True])
def test_a_filter_that_can_measure_nothing_fails_every_row(tmp_path, on_items):
    own = tmp_path / "blind.py"
    own.write_text(
        "from datagen.step import Filter, Settings, verdicts\n"
        "class Blind(Filter[Settings]):\n"
        "    Settings = Settings\n"
        "    levels = ('pairs',)\n"
        f"    on_items = {on_items}\n"
        "    def gives(self, level):\n"
        "        return {'score_blind'}\n"
        "    def __call__(self, rows):\n"
        "        raise ValueError('no light')\n"
        "    def decide(self, rows, items):\n"
        "        rows['score_blind'], items['score_blind']\n"
        "        return verdicts(rows['id'])\n"
    )
    source = captions(tmp_path / "in", a=chairs(1))
    recipe = {"source": source, "steps": [*PAIRED[:2], {"filter": {"op": f"{own}:Blind"}}]}
    with pytest.raises(DatagenError, match=r"Blind left no row of 12 .*no light"):
        package.run(recipe, str(tmp_path / "run"))


# ------------------------------------------------------------------ the command


def test_the_command_prints_the_funnel_and_the_place_of_the_shards(finished):
    done = called("run", finished / "small.yaml", "--out", finished / "run")
    assert "already finished" in done.stdout
    assert "shards" in done.stdout
    assert "one_word_diff" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["run", "demo"], 1, "--out: name the run directory"),
        (["run", "dmo", "--out", "x"], 2, "did you mean 'demo'"),
        (["run", "no/such.yaml", "--out", "x"], 2, "no such recipe file"),
        (["run", "demo", "source.cuont=1", "--out", "x"], 2, "did you mean 'count'?"),
        (["run", "cc_coir", "--out", "x"], 2, "source.path: must be given"),
        (["plan", "demo", "steps.text.op=templat"], 2, "did you mean 'template'?"),
    ],
)
def test_a_users_mistake_is_a_line_not_a_traceback(tmp_path, arguments, code, expected):
    done = called(*arguments, expect=code, env={"COLUMNS": "400"})
    assert expected in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr + done.stdout


def test_workers_that_this_machine_cannot_hold_are_refused(finished):
    wants = "steps.similarity.resources={cpus: 4000}"
    # In a process without Ray: one that is connected already may grow.
    done = datagen("run", finished / "small.yaml", wants, "--out", finished / "big", expect=2)
    assert "similarity: asks for 4000 CPUs a worker" in done.stderr.replace("\n", " ")


def test_an_unknown_level_of_logging_is_a_line():
    done = called("recipes", expect=1, env={"DATAGEN_LOG": "foo"})
    assert "DATAGEN_LOG=FOO: DEBUG, INFO, WARNING or ERROR expected" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_written_is_a_line(finished):
    done = called("run", finished / "small.yaml", "--out", "/proc/nowhere", expect=1)
    assert "Traceback" not in done.stderr
    assert "/proc/nowhere" in done.stderr


def test_a_second_process_on_the_same_run_is_refused(finished):
    code = (
        "import sys, time\nfrom datagen.lock import locked\n"
        f"with locked({str(finished / 'run')!r}):\n    print('held', flush=True)\n"
        "    time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        run = ["run", finished / "small.yaml", "--out", finished / "run"]
        done = called(*run, expect=1)
        assert "another process is at work on this run" in done.stderr
    finally:
        holder.kill()
        holder.wait()


def test_the_plan_says_what_would_be_redone(finished):
    run = ["plan", finished / "small.yaml", "--out", finished / "run"]
    assert called(*run, env={"COLUMNS": "300"}).stdout.count("done") >= 10
    changed = called(*run, "steps.text.texts_per_pair=3", env={"COLUMNS": "300"})
    lines = {line.split()[0]: line for line in changed.stdout.splitlines() if line.strip()}
    assert "done" in lines["similarity"]
    assert "to do" in lines["template"]


def test_recipes_and_doctor_speak(finished):
    assert "demo" in called("recipes").stdout
    assert "one_word_diff" in called("recipes", "show", "demo").stdout
    assert "pyarrow" in called("doctor").stdout


def test_a_full_disk_is_a_line_and_the_run_goes_on_afterwards(tmp_path):
    """The file system is a real one of 3 MB, where the machine lets us mount it."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        run = ["run", recipe(tmp_path), "source.size=128", "--out", place / "run", "--cpus", "2"]
        done = datagen(*run, expect=1)
        assert "the disk is full; free some space" in done.stderr
        assert "Traceback" not in done.stderr
        assert check_files_are_whole(place / "run") >= 0
        remount = ["mount", "-o", "remount,size=200m", str(place)]
        subprocess.run(remount, check=True, capture_output=True)
        datagen(*run)
        assert shard_hashes(place / "run")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def test_the_command_runs_as_a_module():
    done = subprocess.run(command("--help"), capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "plan" in done.stdout


def test_the_texts_of_a_run_say_what_is_true_of_its_scenes(finished):
    rows = package.load(str(finished / "run")).triplets().to_pylist()

    def judged(reference, target):
        reference, target = (shown(json.loads(m["labels"])) for m in (reference, target))
        return oracle.says(row["modification"], reference, target)

    wrong, backwards = [], 0
    for row in rows:
        reference, target = row["references"][0], row["targets"][0]
        verdict = judged(reference, target)
        if not (verdict.right and verdict.complete and verdict.minimal):
            wrong.append((reference["caption"], row["modification"], verdict.reason))
        backwards += judged(target, reference).right
    assert len(wrong) <= 0.02 * len(rows), wrong[:10]
    assert backwards == 0

"""``datagen refilter``: other thresholds give what a fresh run gives, and compute less."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from whole_runs import called as command
from whole_runs import shard_hashes

import datagen
from datagen import lock, store
from datagen import recipe as recipes
from datagen.errors import DatagenError, RecipeError
from datagen.refilter import refilter

LOW, HIGH = 0.8, 0.9


def recipe(low, photos=None):
    source = {"type": "tinyworld", "count": 80, "size": 32}
    if photos is not None:
        source = {"type": "folder", "path": str(photos)}
    return {
        "source": source,
        "steps": [
            {"embed": {"space": "caption", "model": "tfidf", "width": 16}},
            {"pair": {"op": "one_word_diff"}},
            {"filter": {"op": "similarity", "space": "caption", "low": low}},
            {"text": {"op": "template"}},
            {"filter": {"op": "duplicates"}},
            {"shards": {}},
        ],
    }


def plain(table):
    """Rows but for the places of media, which lie in the run directory."""
    rows = table.to_pylist()
    for row in rows:
        for member in [*row["references"], *row["targets"]]:
            member["media"]["path"] = os.path.basename(member["media"]["path"])
    return rows


def parts(out):
    """Every journal part with the moment at which it was written."""
    return {str(path): path.stat().st_mtime_ns for path in out.glob("steps/*/journal/part-*")}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory, ray):
    """Runs by the lower and the higher threshold, each from nothing."""
    folder = tmp_path_factory.mktemp("fresh")
    for low in (LOW, HIGH):
        datagen.run(recipe(low), str(folder / str(low)))
    few, many = (datagen.load(str(folder / str(low))).triplets() for low in (HIGH, LOW))
    assert 0 < few.num_rows < many.num_rows
    return folder


@pytest.fixture
def run(fresh, tmp_path):
    """A run by the lower threshold that a test may change; its media lie in the first one."""
    out = tmp_path / "run"
    shutil.copytree(fresh / str(LOW), out)
    return out


#: Refilters by the arguments; SIGKILL when the step named first begins, or ahead of the triplets.
KILLED = """
import os, signal, sys
from datagen import publish, runs
from datagen.refilter import refilter

def dead(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

class Reporter(runs.Silent):
    def start(self, step, total, done):
        if step.id == sys.argv[1]:
            dead()

if sys.argv[1] == "triplets":
    publish.triplets = dead
refilter(sys.argv[2], sys.argv[3:], reporter=Reporter())
"""


def killed(at, run, *changes):
    command = [sys.executable, "-c", KILLED, at, str(run), *changes]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def everything(run):
    """Bytes of what a reader of the run sees, steps aside."""
    names = ["run.json", "triplets.parquet", *(f"shards/{name}" for name in shard_hashes(run))]
    return {name: Path(run, name).read_bytes() for name in names}


def test_a_higher_threshold_gives_what_a_fresh_run_gives_and_computes_nothing(run, fresh):
    before = parts(run)
    summary = refilter(str(run), [f"similarity.low={HIGH}"])
    assert summary.status == "finished"
    assert parts(run) == before
    there, wanted = (datagen.load(str(one)) for one in (run, fresh / str(HIGH)))
    assert plain(there.triplets(every=True)) == plain(wanted.triplets(every=True))
    for step in there.steps[1:]:
        assert there.verdicts(step).equals(wanted.verdicts(step))
    assert shard_hashes(run).keys() == shard_hashes(fresh / str(HIGH)).keys()


def test_the_decision_before_stays_readable_and_comes_back_whole(run):
    old = datagen.load(str(run))
    rows, hashes = plain(old.triplets(every=True)), shard_hashes(run)
    verdicts = old.verdicts("similarity")
    refilter(str(run), [f"similarity.low={HIGH}"])
    now = datagen.load(str(run))
    first, last = now.decisions()
    assert last == now.note["rows"][:8]
    again = datagen.load(str(run), decision=first)
    assert plain(again.triplets(every=True)) == rows
    assert again.verdicts("similarity").equals(verdicts)
    assert plain(now.triplets(every=True)) != rows
    with pytest.raises(DatagenError, match=f"no decision 'nothing'; there are: {first}, {last}"):
        datagen.load(str(run), decision="nothing")
    before = parts(run)
    refilter(str(run), [f"steps.similarity.low={LOW}"])
    assert parts(run) == before
    assert shard_hashes(run) == hashes
    assert datagen.load(str(run)).decisions() == [last, first]


def test_a_wider_threshold_computes_only_the_rows_that_come_in(run, tmp_path):
    out = tmp_path / "narrow"
    datagen.run(recipe(HIGH), str(out))
    few = datagen.load(str(out)).table("similarity")["id"].to_pylist()
    before = parts(out)
    refilter(str(out), [f"similarity.low={LOW}"])
    written = [path for path in parts(out) if path not in before]
    assert written
    assert not [path for path in written if "/template-" not in path and "/text-" not in path]
    known = set()
    for path in written:
        known |= set(store.read_table(path, ["unit"])["unit"].to_pylist())
    everything = set(datagen.load(str(out)).table("similarity")["id"].to_pylist())
    assert known == everything - set(few)


def test_the_collection_need_not_be_listed_again(fresh, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, sample in enumerate(datagen.load(str(fresh / str(LOW))).items().to_pylist()):
        media = sample["media"]
        with open(media["path"], "rb") as file:
            file.seek(media["offset"])
            (photos / f"{number:03}.png").write_bytes(file.read(media["size"]))
        (photos / f"{number:03}.txt").write_text(sample["captions"][0])
    out = tmp_path / "run"
    steps = recipe(LOW, photos)["steps"][:-1]
    datagen.run({"source": recipe(LOW, photos)["source"], "steps": steps}, str(out))
    before = datagen.load(str(out)).triplets().num_rows
    shutil.rmtree(photos)
    refilter(str(out), [f"similarity.low={HIGH}"])
    assert 0 < datagen.load(str(out)).triplets().num_rows < before


def test_the_same_again_does_nothing(run):
    before = everything(run)
    assert refilter(str(run), [f"similarity.low={LOW}"]).status == "already finished"
    assert everything(run) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "rules of this run: similarity.high, similarity.low, duplicates.duration"),
        (["similarity.low"], "look like STEP.RULE=VALUE"),
        (["similarity=null"], "look like STEP.RULE=VALUE"),
        (["similarity.low.x=1"], "look like STEP.RULE=VALUE"),
        (["similarty.low=0.5"], "did you mean 'similarity'"),
        (["similarity.space=caption"], "no rule of this filter"),
        (["template.max_words=3"], "'template' is no filter"),
        (["similarity.low=7"], "less than or equal to 1"),
        (["similarity.low=high"], "valid number"),
        (["similarity.low=[0.1]"], "valid number"),
        (["similarity.low="], "valid number"),
        (["seed.low=7"], "no step 'seed'"),
    ],
)
def test_what_is_no_rule_is_told_in_a_line(fresh, changes, message):
    with pytest.raises((RecipeError, DatagenError)) as caught:
        refilter(str(fresh / str(LOW)), changes)
    assert message in str(caught.value)


def test_the_command_shows_what_was_and_where_it_still_is(run):
    done = command("refilter", run, f"similarity.low={HIGH}")
    assert " was" in done.stdout
    first, _ = datagen.load(str(run)).decisions()
    assert f"decision='{first}'" in done.stdout
    assert "no run here" in command("refilter", run.parent, "similarity.low=1", expect=1).stderr


def test_a_threshold_that_leaves_nothing_leaves_the_run_as_it_was(run):
    before = everything(run)
    scores = datagen.load(str(run)).table("one_word_diff").num_rows
    with pytest.raises(DatagenError) as caught:
        refilter(str(run), ["similarity.low=0", "similarity.high=0.01"])
    said = str(caught.value)
    assert f"step similarity left no row of {scores} (too_similar {scores}; similarity" in said
    assert said.endswith("the run stays as it was")
    assert everything(run) == before
    least, most = map(float, said.split("similarity_caption ")[1].split(")")[0].split(" to "))
    # The reach that is named lets something through.
    assert 0.01 < least < most
    assert refilter(str(run), [f"similarity.low={most}", "similarity.high=1"]).triplets > 0


def test_a_kill_before_the_shards_leaves_the_run_as_it_was(run, fresh):
    before = everything(run)
    killed("duplicates", run, f"similarity.low={HIGH}")
    assert everything(run) == before
    refilter(str(run), [f"similarity.low={HIGH}"])
    wanted = datagen.load(str(fresh / str(HIGH)))
    assert plain(datagen.load(str(run)).triplets(every=True)) == plain(wanted.triplets(every=True))


@pytest.mark.parametrize("at", ["shards", "triplets"])
def test_a_kill_while_shards_or_triplets_change_lets_nobody_read_the_wrong_ones(run, fresh, at):
    wanted = {
        low: plain(datagen.load(str(fresh / str(low))).triplets(every=True)) for low in (LOW, HIGH)
    }
    (first,) = datagen.load(str(run)).decisions()
    killed(at, run, f"similarity.low={HIGH}")
    with pytest.raises(DatagenError, match="this run is running, not finished"):
        datagen.load(str(run)).triplets()
    old = datagen.load(str(run), decision=first)
    assert plain(old.triplets(every=True)) == wanted[LOW]
    refilter(str(run), [f"similarity.low={HIGH}"])
    assert plain(datagen.load(str(run)).triplets(every=True)) == wanted[HIGH]
    # On the way back triplets.parquet is still that of the decision in between.
    killed(at, run, f"similarity.low={LOW}")
    old = datagen.load(str(run), decision=first)
    assert plain(old.triplets(every=True)) == wanted[LOW]
    refilter(str(run), [f"similarity.low={LOW}"])
    assert everything(run)["triplets.parquet"] == everything(fresh / str(LOW))["triplets.parquet"]
    assert shard_hashes(run) == shard_hashes(fresh / str(LOW))


def test_two_at_once_do_not_mix(run, monkeypatch):
    before = everything(run)
    with lock.locked(str(run)), pytest.raises(DatagenError, match="another process is at work"):
        refilter(str(run), [f"similarity.low={HIGH}"])
    assert everything(run) == before

    def slow(*arguments, check=recipes.check, **options):
        """Another one comes and goes between the first look at the run and the lock."""
        monkeypatch.setattr(recipes, "check", check)
        refilter(str(run), ["duplicates.radius=3"])
        return check(*arguments, **options)

    monkeypatch.setattr(recipes, "check", slow)
    with pytest.raises(DatagenError, match="has just changed this run; try again"):
        refilter(str(run), [f"similarity.low={HIGH}"])
    steps = datagen.load(str(run)).note["recipe"]["steps"]
    assert [step["filter"] for step in steps if "filter" in step] == [
        {"op": "similarity", "space": "caption", "low": LOW},
        {"op": "duplicates", "radius": 3},
    ]

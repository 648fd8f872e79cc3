"""A run with wrong captions and injected noise, audited; every figure counted again by hand."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
import whole_runs
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import datagen
from datagen import refilter, report, schema, store
from datagen.audit import audit as audits
from datagen.audit import filters, summary
from datagen.audit.audit import audit
from datagen.audit.command import audit_command
from datagen.audit.filters import curve, keeps
from datagen.audit.judge import NoiseJudge
from datagen.errors import DatagenError
from datagen.filters.clip_score import ClipScore
from datagen.sources.tinyworld import oracle
from datagen.sources.tinyworld.events import shown

RECIPE = f"""
name: audited
seed: 2
source:
  {{type: tinyworld, count: 140, size: 32, clips: 0.2, frames: 4, captions_per_item: 1,
    omit: 0.1, misname: 0.1, contradict: 0.1, neighbours: 0.9}}
steps:
  - filter: {{op: "{whole_runs.OWN}:CaptionLength", low: 12}}
  - embed: {{space: caption, model: tfidf, width: 16}}
  - pair: {{op: one_word_diff, max_per_reference: 3}}
  - filter: {{op: similarity, space: caption, low: 0.7, high: 0.98}}
  - text: {{op: template}}
  - text: {{op: noise, share: 0.3}}
  - negatives: {{reference: true, mined: 2, space: caption}}
  - filter: {{id: again, op: similarity, space: caption, low: 0.8}}
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory, ray):
    folder = tmp_path_factory.mktemp("audited")
    place = str(folder / "run")
    datagen.run(whole_runs.recipe(folder, RECIPE), place, report=False)
    return place


@pytest.fixture(scope="module")
def run(out):
    return datagen.load(out)


@pytest.fixture(scope="module")
def found(out):
    return audit(out)


def of(row):
    return shown(json.loads(row["labels"]))


def judged(row):
    return oracle.says(row["modification"], of(row["references"][0]), of(row["targets"][0]))


def test_every_count_is_that_of_the_oracle(run, found):
    rows = run.triplets(every=True).to_pylist()
    for which in ("made", "kept"):
        chosen = [row for row in rows if which == "made" or row["verdict"] == "kept"]
        said = [judged(row) for row in chosen]
        told = found["triplets"][which]
        assert told["rows"] == told["judged"] == len(chosen) > 20
        for name in ("right", "complete", "minimal", "ambiguous"):
            assert told[name] == sum(getattr(one, name) for one in said), name
        assert sum(told["reasons"].values()) == len(chosen)
        assert told["right"] <= told["best"] <= told["rows"]
        assert told["right_share"] == round(told["right"] / len(chosen), 4)
    assert 0 < found["triplets"]["made"]["right"] < len(rows)


def test_other_right_answers_are_all_items_that_the_oracle_calls_right(run, out, found):
    rows = run.triplets(every=True).to_pylist()
    items = [(item["id"], of(item)) for item in run.items().to_pylist()]
    lines = {
        line["id"]: line for line in pq.read_table(f"{out}/audit/triplets.parquet").to_pylist()
    }
    assert set(lines) == {row["id"] for row in rows}
    for row in rows[::6]:
        own = {member["id"] for role in ("references", "targets") for member in row[role]}
        reference = of(row["references"][0])
        brute = [
            name
            for name, what in items
            if name not in own and oracle.says(row["modification"], reference, what).right
        ]
        assert lines[row["id"]]["others"] == brute[:20]
        assert lines[row["id"]]["others_count"] == len(brute)
    right = [line for line in lines.values() if line["right"] and line["verdict"] == "kept"]
    counts = [line["others_count"] for line in right]
    told = found["false_negatives"]["kept"]
    assert (told["rows"], told["most"]) == (len(right), max(counts))
    assert told["with_others"] == sum(count > 0 for count in counts)


def test_negatives_that_are_right_answers_are_counted(run, found):
    answers = triplets = negatives = 0
    for row in run.triplets().to_pylist():
        if not judged(row).right:
            continue
        reference = of(row["references"][0])
        hits = [
            oracle.says(row["modification"], reference, of(one["item"])).right
            for one in row["negatives"]
        ]
        negatives, answers, triplets = (
            negatives + len(hits), answers + sum(hits), triplets + any(hits)
        )  # fmt: skip
    told = {"rows": negatives, "answers": answers, "triplets": triplets}
    assert found["false_negatives"]["negatives"] == told


def test_injected_noise_is_counted_by_kind(run, found):
    rows = run.triplets(every=True).to_pylist()
    kinds = {}
    for row in rows:
        for change in row["evidence"]["changes"]:
            if change["field"] == "noise":
                one = kinds.setdefault(change["added"], {"made": 0, "kept": 0})
                one["made"] += 1
                one["kept"] += row["verdict"] == "kept"
    assert found["noise"] == dict(sorted(kinds.items()))
    assert sum(one["made"] for one in kinds.values()) == round(0.3 * len(rows))


def test_each_filter_is_judged_by_the_rows_that_came_in(run, found):
    assert [step["id"] for step in found["steps"]] == ["CaptionLength", "similarity", "again"]
    words, pairs, again = found["steps"]
    captions = {item["id"]: item for item in run.items().to_pylist()}
    fits = {
        name: all(oracle.fits(of(item), text) for text in item["captions"])
        for name, item in captions.items()
    }
    assert (words["level"], words["rows"], words["right"]) == ("items", 140, sum(fits.values()))
    verdicts = run.verdicts("CaptionLength").to_pylist()
    gone = [fits[one["id"]] for one in verdicts if one["verdict"] == "rejected"]
    assert words["rejected"] == {
        "rows": len(gone), "right": sum(gone), "wrong": len(gone) - sum(gone)
    }  # fmt: skip
    assert (pairs["level"], pairs["judged"]) == ("pairs", run.table("one_word_diff").num_rows)
    assert again["level"] == "triplets"
    truth = {row["id"]: judged(row).right for row in run.table("noise").to_pylist()}
    verdicts = {row["id"]: row["verdict"] for row in run.verdicts("again").to_pylist()}
    lost = [truth[name] for name, verdict in verdicts.items() if verdict == "rejected"]
    wrong = len(truth) - sum(truth.values())
    assert again["rejected"]["rows"] == len(lost)
    assert again["precision"] == round((len(lost) - sum(lost)) / len(lost), 4)
    assert again["recall"] == round((len(lost) - sum(lost)) / wrong, 4)


def test_nothing_is_lost_between_the_verdicts(found):
    for step in found["steps"]:
        sides = [step[side] for side in ("kept", "rejected", "failed")]
        assert sum(side["rows"] for side in sides) == step["judged"]
        assert sum(side["right"] for side in sides) == step["right"]
        rules = step["rules"].values()
        assert sum(rule["rows"] for rule in rules) == sides[1]["rows"] + sides[2]["rows"]


def test_a_curve_at_the_threshold_in_force_rejects_what_the_filter_rejected(run, found):
    step = found["steps"][2]
    (low,) = [one for one in step["curves"] if one["side"] == "low" and one["in_force"]]
    assert low["in_force"] == 0.8
    scores = pq.read_table(f"{run.out}/{run._folder('again')[len(run.out) :]}/scores.parquet")
    gone = np.array(scores[low["score"]]) < 0.8
    assert gone.sum() == step["rejected"]["rows"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-1, 1).map(lambda x: round(x, 2)), st.booleans()),
        min_size=1,
        max_size=400,
    ),
    st.sampled_from(["low", "high"]),
)
def test_curves_and_thresholds_are_what_a_plain_count_gives(rows, side):
    scores = np.array([score for score, _ in rows])
    right = np.array([one for _, one in rows])
    drawn = curve(scores, right, side)
    for point in drawn["points"]:
        gone = [
            one
            for score, one in rows
            if (score < point["threshold"] if side == "low" else score > point["threshold"])
        ]
        assert point["rejected"] == round(len(gone) / len(rows), 4)
        if gone:
            assert point["precision"] == round((len(gone) - sum(gone)) / len(gone), 4)
        else:
            assert point["precision"] is None
    threshold = keeps(scores[right], side)
    assert drawn["keeps_99"] == threshold
    if not right.any():
        assert threshold is None
        return

    def stay(value):
        return np.mean(scores[right] >= value if side == "low" else scores[right] <= value)

    assert stay(threshold) >= 0.99
    stricter = [
        one for one in scores[right] if (one > threshold if side == "low" else one < threshold)
    ]
    assert all(stay(one) < 0.99 for one in stricter)


@pytest.mark.parametrize("of", ["both", "reference", "target"])
def test_scores_of_items_are_those_that_the_filter_decides_by(of):
    known = {"a": 0.1, "b": 0.4, "c": 0.7, "d": np.nan}
    sides = [(["a"], ["b"]), (["c"], ["b", "a"]), (["b"], ["c"]), (["d"], ["c"])]
    member = schema.PAIRS.field("references").type
    rows = pa.table({
        "id": [str(at) for at in range(len(sides))],
        "references": pa.array([[{"id": one} for one in left] for left, _ in sides], member),
        "targets": pa.array([[{"id": one} for one in right] for _, right in sides], member),
    })  # fmt: skip
    items = pa.table({"id": list(known), "score_clip": list(known.values())})
    for side in ("low", "high"):
        worst = filters._of_rows(rows, known, side, {"of": of})
        for at in (0.1, 0.2, 0.4, 0.5, 0.7):
            chosen = {"low": None, "of": of, side: at}
            step = ClipScore(ClipScore.Settings.model_validate(chosen))
            gone = [one == "rejected" for one in step.decide(rows, items)["verdict"].to_pylist()]
            assert gone == (worst < at if side == "low" else worst > at).tolist()


def test_what_a_judge_does_not_know_is_not_told_as_none():
    noise = {"evidence": {"changes": [{"field": "noise", "removed": "", "added": "text"}]}}
    said = [NoiseJudge().triplet(row) for row in (noise, {"evidence": None})]
    lines = [{**audits._values(one), "best": None, "verdict": "kept"} for one in said]
    told = audits._summed(lines)
    assert (told["judged"], told["right"], told["right_share"]) == (2, 1, 0.5)
    assert [told[name] for name in ("complete", "minimal", "best", "ambiguous")] == [None] * 4
    found = {
        "triplets": {"made": told, "kept": told}, "judge": {"name": "", "about": ""},
        "false_negatives": None, "noise": {}, "shortcuts": {},
    }  # fmt: skip
    assert [label for label, _, _ in summary.figures(found)] == ["triplets", "judged", "right"]


def test_figures_are_json_and_stand_in_the_run(out, run, found):
    assert json.loads(json.dumps(found)) == store.read_json(f"{out}/audit/audit.json")
    assert audits.standing(run) == store.read_json(f"{out}/audit/audit.json")
    assert not [name for name in store.names(f"{out}/audit") if name.startswith(".")]


def test_the_card_and_the_page_tell_the_standing_audit_only(out, found, tmp_path):
    place = str(tmp_path / "run")
    shutil.copytree(out, place)
    written = report.write(place, pictures=2)
    share = f"{100 * found['triplets']['kept']['right_share']:.1f} %"
    card = store.read_bytes(written["card"]).decode()
    assert "### Truth" in card
    assert share in card
    assert "how many are wrong is not measured" not in card
    assert "Not measured: share of wrong" not in card
    assert share in store.read_bytes(written["page"]).decode()
    scores = datagen.load(place).triplets()["score_similarity_caption"].to_pylist()
    half = sorted(scores)[len(scores) // 2]
    assert half > min(scores)
    refilter.refilter(place, [f"again.low={half}"], report=False)
    assert audits.standing(datagen.load(place)) is None
    card = store.read_bytes(report.write(place, pictures=2)["card"]).decode()
    assert "### Truth" not in card
    assert "how many are wrong is not measured" in card
    anew = audit(place)
    assert anew["decision"] != found["decision"]
    assert anew["triplets"]["made"] == found["triplets"]["made"]
    assert anew["triplets"]["kept"]["rows"] < found["triplets"]["kept"]["rows"]
    earlier = audit(datagen.load(place, decision=found["decision"]))
    assert earlier["triplets"] == found["triplets"]
    assert audits.standing(datagen.load(place))["decision"] == anew["decision"]


def test_a_run_on_another_file_system_is_audited_alike(out, found):
    for path in whole_files(out):
        with open(f"{out}/{path}", "rb") as file:
            store.write_bytes(f"memory://audited/{path}", file.read())
    try:
        there = audit("memory://audited")
        same = {key: value for key, value in found.items() if key != "shortcuts"}
        assert {key: there[key] for key in same} == same
        assert audits.standing(datagen.load("memory://audited")) == there
    finally:
        store.remove("memory://audited")


def whole_files(out):
    import pathlib

    root = pathlib.Path(out)
    return [
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and path.suffix in (".parquet", ".json", ".npy")
    ]


def test_a_run_that_was_killed_is_audited_as_far_as_it_is_complete(out, found, tmp_path):
    place = str(tmp_path / "run")
    shutil.copytree(out, place)
    note = store.read_json(f"{place}/run.json")
    ids = [step["id"] for step in note["steps"]]
    for step in note["steps"][ids.index("again") :]:
        store.remove(f"{place}/{step['folder']}/done.json")
    store.write_json(f"{place}/run.json", {**note, "status": "running", "funnel": []})
    part = audit(place)
    assert [step["id"] for step in part["steps"]] == ["CaptionLength", "similarity"]
    assert part["steps"] == found["steps"][:2]
    assert part["triplets"]["kept"]["rows"] == found["triplets"]["made"]["rows"]
    for step in note["steps"][ids.index("one_word_diff") :]:
        store.remove(f"{place}/{step['folder']}/done.json")
    with pytest.raises(DatagenError, match="no pairs to audit"):
        audit(place)


def test_a_run_of_which_nothing_is_known_says_what_is_needed(out, tmp_path):
    place = str(tmp_path / "run")
    shutil.copytree(out, place)
    for step in store.read_json(f"{place}/run.json")["steps"]:
        path = f"{place}/{step['folder']}/table.parquet"
        table = store.read_table(path)
        if "labels" in table.column_names:
            at = table.column_names.index("labels")
            table = table.set_column(at, "labels", pa.nulls(table.num_rows, pa.string()))
        if step["id"] in ("noise", "negatives", "again"):
            store.write_table(path, table.slice(0, 0))
        else:
            store.write_table(path, table)
    with pytest.raises(DatagenError, match="no truth to audit by: needs"):
        audit(place)


def test_a_collection_that_is_not_there_is_told_before_anything_is_judged(out, tmp_path):
    judged = []
    with pytest.raises(DatagenError, match="no such file or folder"):
        audit(out, against=[str(tmp_path / "none")], say=lambda done, of: judged.append(done))
    assert judged == []


def test_the_command_says_it_in_a_table_or_in_json(out, found):
    app = typer.Typer()
    app.command()(audit_command)
    said = CliRunner().invoke(app, [out, "--no-report"])
    assert said.exit_code == 0, said.output
    kept = found["triplets"]["kept"]
    line = next(line for line in said.output.splitlines() if line.startswith("right "))
    assert f"{kept['right']:,} ({100 * kept['right'] / kept['judged']:.1f} %)" in line
    assert "audit/audit.json" in said.output.replace("\n", "")
    said = CliRunner().invoke(app, [out, "--no-report", "--json"])
    assert json.loads(said.stdout) == json.loads(json.dumps(found))
    said = CliRunner().invoke(app, [out + "-not", "--no-report"])
    assert isinstance(said.exception, DatagenError)
    assert "no run here" in str(said.exception)

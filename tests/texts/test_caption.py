"""Captions by a model that is shown pictures, for items that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import truth_server
import yaml
from truth_server import Truth, World

from datagen import engine, plan, schema, tables
from datagen.chat import prompts
from datagen.chat.ask import Answer
from datagen.errors import DatagenError, RecipeError
from datagen.recipe import check
from datagen.step import Context
from datagen.texts.caption import Caption

pytest.importorskip("aiohttp", reason="needs datagen[llm]")
pytest.importorskip("tenacity", reason="needs datagen[llm]")

NOBODY = {"kind": "server", "url": "http://localhost:1/v1", "model": "some"}
WORLD = {"count": 16, "size": 64, "clips": 0.4, "captions_per_item": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(WORLD, 3, tmp_path_factory.mktemp("world"))


def items(world: World, captions: bool = False) -> pa.Table:
    rows = [
        {**item.record, "id": f"{at:04d}", "source": "s"} for at, item in enumerate(world.items)
    ]
    rows = rows if captions else [{**row, "captions": []} for row in rows]
    return pa.Table.from_pylist(rows, schema=schema.ITEMS)


def step(**settings: Any) -> Caption:
    return Caption(Caption.Settings.model_validate({"engine": NOBODY, **settings}))


def run(operator: Caption, rows: pa.Table) -> list[dict[str, Any]]:
    job = engine.Job(operator, Context(), "")
    found = engine.apply(job, engine._prepared(job, rows)).to_pylist()
    return sorted(found, key=lambda row: row["unit"])


class Says:
    model, revision = "some", ""

    def __init__(self, text: str = "") -> None:
        self.text = text
        self.asked = 0

    def answer(self, asks: Any, each: Any = None) -> list[Answer]:
        self.asked += len(asks)
        return [Answer(self.text) for _ in asks]


def test_items_without_captions_get_true_ones_and_keep_their_ids(
    world: World, tmp_path: Path
) -> None:
    truth = Truth(world)
    rows = items(world)
    with truth_server.knowing(truth) as server:
        described = {"kind": "server", "url": server.url, "model": "tiny"}
        described["cache"] = str(tmp_path / "kept")
        operator = step(engine=described, captions_per_item=2, max_words=60)
        operator.open(Context(step="caption", seed=7))
        found = run(operator, rows)
        operator.engines["engine"].close()
    assert not truth.lost
    assert [tuple(row["captions"]) for row in found] == [item.captions for item in world.items]
    assert {(row["verdict"], row["captions_by"]) for row in found} == {("kept", "tiny")}
    assert {len(one.pictures["shown"]) for one in truth.questions} == {1, 4}
    # As the step puts them into the table of items.
    given = pa.table({"id": [row["unit"] for row in found]}).append_column(
        "captions", pa.array([row["captions"] for row in found], pa.list_(pa.string()))
    )
    changed = tables.with_columns(rows, given)
    assert changed["id"].equals(rows["id"])
    assert changed["captions"].to_pylist() == [list(item.captions) for item in world.items]
    assert changed.schema.field("captions").type == schema.ITEMS.field("captions").type


def test_items_with_captions_pass_untouched_unless_they_are_to_be_written_anew(
    world: World,
) -> None:
    rows = items(world, captions=True).slice(0, 3)
    nothing = rows.set_column(
        rows.column_names.index("media"), "media", pa.nulls(3, schema.ITEMS.field("media").type)
    )
    for overwrite in (False, True):
        operator = step(overwrite=overwrite)
        operator.engines["engine"] = says = Says('{"captions": ["a thing", "A thing", " "]}')  # type: ignore[assignment]
        found = run(operator, rows)
        assert [row["captions"] for row in found] == [["a thing"] if overwrite else None] * 3
        assert says.asked == (3 if overwrite else 0)
        # An item of captions alone has nothing to be looked at.
        rules = [(row["verdict"], row["rule"]) for row in run(operator, nothing)]
        assert rules == [("rejected", "no_media") if overwrite else ("kept", None)] * 3
    untouched = tables.with_columns(
        rows, pa.table({"id": rows["id"], "captions": pa.nulls(3, pa.list_(pa.string()))})
    )
    assert untouched["captions"].to_pylist() == rows["captions"].to_pylist()


@pytest.mark.parametrize(
    ("said", "verdict", "rule"),
    [
        ('{"captions": []}', "rejected", "no_caption"),
        ('{"captions": ["", " "]}', "rejected", "no_caption"),
        ('{"captions": ["' + "w " * 26 + '"]}', "rejected", "too_long"),
        ('{"captions": ["' + "w" * 1001 + '"]}', "rejected", "too_long"),
        ('{"captions": "a thing"}', "failed", "wrong_shape"),
        ("a thing", "failed", "not_json"),
    ],
)
def test_an_item_that_gets_no_caption_has_a_verdict(
    world: World, said: str, verdict: str, rule: str
) -> None:
    operator = step()
    operator.engines["engine"] = Says(said)  # type: ignore[assignment]
    (row,) = run(operator, items(world).slice(0, 1))
    assert (row["verdict"], row["rule"], row.get("captions")) == (verdict, rule, None)
    assert row["detail"]


def recipe(*steps: dict[str, Any]) -> Any:
    return check({"source": {"type": "tinyworld", "count": 4}, "steps": list(steps)})


CAPTION = {"text": {"op": "caption", "engine": NOBODY}}
EMBED = {"embed": {"space": "caption", "model": "tfidf"}}
PAIR = {"pair": {"op": "one_word_diff"}}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pictures": ["reference", "target"]}, "shows target"),
        ({"template": "{{ reference }} {{ texts }}"}, "tells a caption"),
        ({"template": "{{ target }} {{ texts }}"}, "tells target"),
    ],
)
def test_a_prompt_that_is_about_more_than_one_item_is_a_line(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    own = yaml.safe_load(prompts.source("caption")) | changes
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(own))
    with pytest.raises(DatagenError, match=r"^[^\n]*$") as error:
        step(prompt=f"file:{tmp_path / 'mine.yaml'}")
    assert told in str(error.value)


def test_no_items_are_no_lines(world: World) -> None:
    operator = step()
    rows = operator.prepare(items(world).slice(0, 0))
    operator.engines["engine"] = Says()
    found = operator(rows)
    assert found.num_rows == 0
    assert found.schema.field("captions").type == pa.list_(pa.string())


def test_a_step_that_has_read_captions_cannot_stand_before_them() -> None:
    recipe(CAPTION, EMBED, PAIR)
    with pytest.raises(RecipeError) as error:
        recipe(EMBED, CAPTION, PAIR)
    (fault,) = error.value.faults
    assert "changes 'items.captions'" in fault
    assert "put this step before that one" in fault
    assert "\n" not in fault
    with pytest.raises(RecipeError, match="works on items"):
        recipe(PAIR, CAPTION)


def test_other_captions_are_other_values_for_the_steps_that_read_them() -> None:
    def values(*steps: dict[str, Any]) -> dict[str, str]:
        placed = plan.plan(recipe(*steps), "/nowhere", [], "listed")
        return {one.op: one.values for one in placed}

    file = Path(__file__).parents[1] / "own" / "caption_length.py"
    own = {"filter": {"op": f"{file}:CaptionLength"}}
    without = values(EMBED, own, PAIR)
    first = values(CAPTION, EMBED, own, PAIR)
    other = {"text": {**CAPTION["text"], "engine": {**NOBODY, "model": "other"}}}
    second = values(other, EMBED, own, PAIR)
    for op in without:
        if op not in ("tinyworld", "source"):
            assert len({without[op], first[op], second[op]}) == 3, op


def test_pairs_of_written_captions_have_a_line_of_provenance() -> None:
    def member(name: str) -> dict[str, Any]:
        return {field.name: name if field.name == "id" else None for field in schema.MEMBER}

    own = {"step": "pair", "operator": "o", "seed": 1}
    rows = [
        {"id": f"{a}{b}", "references": [member(a)], "targets": [member(b)], "provenance": [own]}
        for a, b in ("ab", "ac", "cd")
    ]
    given = pa.table({"id": list("abcd"), "captions_by": ["m1", None, "m2", None]})
    lines = [
        {"step": f"by {m}", "operator": "caption", "model": m, "seed": 1} for m in ("m1", "m2")
    ]
    made = tables.credited(pa.Table.from_pylist(rows, schema=schema.PAIRS), given, lines)
    assert made.schema == schema.PAIRS
    told = [[line["step"] for line in row] for row in made["provenance"].to_pylist()]
    assert told == [["by m1", "pair"], ["by m1", "by m2", "pair"], ["by m2", "pair"]]

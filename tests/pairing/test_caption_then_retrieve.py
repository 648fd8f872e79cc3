"""Edited captions and what is found for them, against looking at every item in plain Python."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datagen import recipe, registry, schema
from datagen.errors import DatagenError, RecipeError
from datagen.pairing import _retrieved
from datagen.pairing._edited import KINDS, Vocabulary, drawer
from datagen.pairing.caption_then_retrieve import CaptionThenRetrieve, Settings
from datagen.pairing.union import Union, UnionSettings
from datagen.space import Space
from datagen.step import Context, Result, Tables
from datagen.texts.given import Given, GivenSettings

WIDTH = 24


@dataclass
class Words:
    """An embedder whose texts are bags of hashed words."""

    width: int = WIDTH
    is_open: bool = False

    def open(self, context: Context) -> None:
        """Nothing to load."""
        self.is_open = True

    def texts(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        """Vectors (n, width); zeros for a text without words."""
        out = np.zeros((len(texts), self.width), np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().replace(".", "").split():
                out[row, int(schema.content_id(word)[:8], 16) % self.width] += 1
        return out


def make_items(captions: Sequence[Sequence[str]], hashes: Sequence[str] | None = None) -> pa.Table:
    rows = []
    for number, own in enumerate(captions):
        sha = hashes[number] if hashes else f"hash{number}"
        rows.append(
            {
                "id": schema.item_id(sha, own, "{}" if hashes is None else str(number)),
                "key": f"k{number}",
                "source": "test",
                "media": {"path": f"{number}.jpg", "sha256": sha, "modality": "image"},
                "captions": list(own),
                "labels": "{}",
            }
        )
    return pa.Table.from_pylist(rows, schema=schema.ITEMS)


def context_of(folder: Path, items: pa.Table, seed: int = 0) -> Context:
    """A space of the items' first captions."""
    firsts = [(captions or [""])[0] for captions in items["captions"].to_pylist()]
    place = str(folder / schema.content_id(*items["id"].to_pylist()))
    Space.write(place, items["id"].to_pylist(), Words().texts(firsts))
    embedders: Any = {"caption": Words()}
    return Context(seed=seed, spaces={"caption": place}, embedders=embedders)


def mine(items: pa.Table, context: Context, **chosen: Any) -> Result:
    operator = CaptionThenRetrieve(Settings(**chosen))
    return operator(Tables(items, items, "items"), context)


def rules_of(result: Result) -> dict[str, str | None]:
    columns = result.verdicts["id"].to_pylist(), result.verdicts["rule"].to_pylist()
    return dict(zip(*columns, strict=True))


def cosine(one: np.ndarray[Any, Any], two: np.ndarray[Any, Any]) -> float:
    one, two = one.astype(np.float64), two.astype(np.float64)
    return round(float(one @ two / np.sqrt(one @ one) / np.sqrt(two @ two)), 4)


def nearest(
    text: str, items: pa.Table, without: set[str], low: float, reference: str | None = None
) -> tuple[str, float] | None:
    """Straight from the words of the settings; ``reference``: the target must be nearer than it."""
    (query,) = Words().texts([text])
    if not query.any():
        return None
    scored = {}
    looks = {row["id"]: row["media"]["sha256"] for row in items.to_pylist()}
    for row in items.to_pylist():
        (vector,) = Words().texts([(row["captions"] or [""])[0]])
        if vector.any():
            scored[row["id"]] = (cosine(query, vector), row["media"]["sha256"])
    own = {looks[name] for name in without}
    able = [(-value, name) for name, (value, sha) in scored.items() if sha not in own]
    if not able or -min(able)[0] < low:
        return None
    value, name = min(able)
    if reference is not None and reference in scored and scored[reference][0] >= -value:
        return None
    return name, -value


SCENES = [
    f"{number} {colour} {thing} {doing} {place}"
    for number, thing in (("two", "dogs"), ("three", "cats"))
    for colour in ("brown", "white", "black")
    for doing in ("running", "sitting")
    for place in ("on the beach", "in the snow", "with a ball")
]


def test_targets_of_items_are_the_nearest_to_the_edited_captions(tmp_path: Path) -> None:
    items = make_items([[scene] for scene in SCENES])
    result = mine(items, context_of(tmp_path, items), low=0.6, edits_per_caption=3)
    captions = dict(zip(items["id"].to_pylist(), SCENES, strict=True))
    result.rows.validate(full=True)
    assert result.rows.schema == schema.PAIRS
    assert result.rows.num_rows == result.notes["pairs"] > 40
    for row in result.rows.to_pylist():
        (one,), (two,) = row["references"], row["targets"]
        evidence = row["evidence"]
        edited = evidence["reason"].split("'")[1]
        assert nearest(edited, items, {one["id"]}, 0.6, one["id"]) == (two["id"], evidence["score"])
        *changes, text = evidence["changes"]
        assert (text["field"], text["removed"]) == ("text", None)
        told = captions[one["id"]]
        for change in changes:
            removed, added = change["removed"] or "", change["added"] or ""
            assert removed in told
            assert added in edited
            assert removed or added
        assert (one["caption"], two["caption"]) == (told, captions[two["id"]])
        changed = json.dumps(evidence["changes"], sort_keys=True, separators=(",", ":"))
        assert row["id"] == schema.pair_id([one["id"]], [two["id"]], changed)
    notes = result.notes
    asked = notes["nothing_near"] + notes["reference_nearer"] + notes["no_text_vector"]
    assert notes["edits"] == asked + notes["pairs"] + notes["same_pair"]
    assert sum(notes["pairs_by_edit"].values()) == notes["pairs"] + notes["same_pair"]


word = st.sampled_from(["red", "dog", "cat", "runs", "sits", "snow", ""])
caption = st.lists(word, max_size=4).map(" ".join)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    captions=st.lists(caption, min_size=1, max_size=9),
    asked=st.lists(st.tuples(st.integers(0, 8), caption), min_size=1, max_size=6),
    low=st.sampled_from([-1.0, 0.5, 0.8]),
    nearer=st.booleans(),
    same=st.booleans(),
)
def test_targets_of_triplets_are_the_nearest_to_their_captions(
    tmp_path: Path,
    captions: list[str],
    asked: list[tuple[int, str]],
    low: float,
    nearer: bool,
    same: bool,
) -> None:
    hashes = [f"hash{n // 2 if same else n}" for n in range(len(captions))]
    items = make_items([[one] for one in captions], hashes)
    wanted = [(number % len(captions), text) for number, text in asked]
    triplets, everything = make_triplets(items, wanted)
    result = retrieve(everything, triplets, context_of(tmp_path, items), low=low, nearer=nearer)
    ids = items["id"].to_pylist()
    expected: dict[tuple[str, str, str], float] = {}
    for triplet, (number, text) in zip(triplets.to_pylist(), wanted, strict=True):
        reference = ids[number]
        # A reference with media stays, also where the space knows nothing of it.
        found = nearest(text, items, {reference}, low, reference if nearer else None)
        if found is not None:
            expected[reference, found[0], triplet["modification"]] = found[1]
    made = {
        (
            row["references"][0]["id"],
            row["targets"][0]["id"],
            row["evidence"]["changes"][-1]["added"],
        ): row["evidence"]["score"]
        for row in result.rows.to_pylist()
    }
    assert made == expected
    assert result.verdicts.num_rows == triplets.num_rows
    assert set(rules_of(result).values()) <= {
        *(None, "nothing_near", "reference_nearer", "no_text_vector", "same_pair", "no_caption"),
    }


def make_triplets(
    items: pa.Table, wanted: Sequence[tuple[int, str]], topic: str | None = None
) -> tuple[pa.Table, pa.Table]:
    """Triplets to new items of given captions (with ``topic`` of a new item too), and all items."""
    rows, new = [], {}
    for place, (number, text) in enumerate(wanted):
        made = [text] if topic is None else [text, topic]
        members = []
        for one in made:
            item = {
                "id": schema.item_id(None, [one], "{}"),
                "key": None,
                "source": "quadruple",
                "media": None,
                "captions": [one],
                "labels": "{}",
            }
            new[item["id"]] = item
            members.append(schema.member(item))
        reference = schema.member(items.slice(number, 1).to_pylist()[0])
        evidence = {"operator": "quadruple", "reason": "an edit", "changes": [], "score": None}
        rows.append(
            {
                "id": schema.content_id("triplet", str(place)),
                "references": [reference] if topic is None else members[1:],
                "targets": members[:1],
                "evidence": evidence,
                "provenance": [{"step": "quadruple", "operator": "quadruple", "seed": 0}],
                "pair": "",
                "modification": f"make it {text}" if place % 2 else f"now {text}",
            }
        )
    made = pa.Table.from_pylist(list(new.values()), schema=schema.ITEMS)
    everything = pa.concat_tables([items, made]).sort_by("id").combine_chunks()
    # A caption may be that of an item without media that is there already.
    first = np.unique(np.asarray(everything["id"].to_pylist()), return_index=True)[1]
    return pa.Table.from_pylist(rows, schema=schema.TRIPLETS), everything.take(pa.array(first))


def retrieve(items: pa.Table, triplets: pa.Table, context: Context, **chosen: Any) -> Result:
    operator = CaptionThenRetrieve(Settings(**chosen))
    return operator(Tables(items, triplets, "triplets"), context)


def test_a_triplet_becomes_a_pair_with_its_text_and_history(tmp_path: Path) -> None:
    items = make_items([["two dogs on the beach"], ["two dogs in the snow"], ["a cat"]])
    triplets, everything = make_triplets(items, [(0, "dogs in the snow")])
    context = context_of(tmp_path, items)
    result = retrieve(everything, triplets, context)
    (row,) = result.rows.to_pylist()
    assert row["targets"][0] == schema.member(items.slice(1, 1).to_pylist()[0])
    assert row["references"] == triplets["references"][0].as_py()
    evidence = row["evidence"]
    assert evidence["changes"] == [
        {"field": "text", "removed": None, "added": "now dogs in the snow"}
    ]
    assert evidence["reason"].startswith("an edit; nearest to 'dogs in the snow', caption simil")
    assert [line["step"] for line in row["provenance"]] == ["quadruple", "step"]
    told = Given(GivenSettings())(result.rows)
    assert told["modification"].to_pylist() == ["now dogs in the snow"]
    assert result.notes["captions_to_find"] == result.notes["captions_found"] == 1


def test_members_are_looked_for_by_captions_alone(tmp_path: Path) -> None:
    items = make_items([[], ["two dogs in the snow"], ["a cat"]])
    triplets, everything = make_triplets(items, [(0, "dogs in the snow"), (1, "a cat")])
    rows = triplets.to_pylist()
    rows[1]["targets"][0]["caption"] = None
    triplets = pa.Table.from_pylist(rows, schema=schema.TRIPLETS)
    result = retrieve(everything, triplets, context_of(tmp_path, items))
    # A photo that nothing describes is a reference; a member of nothing at all is not guessed.
    (row,) = result.rows.to_pylist()
    assert [row[side][0]["key"] for side in ("references", "targets")] == ["k0", "k1"]
    assert rules_of(result)[rows[1]["id"]] == "no_caption"
    assert (result.notes["no_caption"], result.notes["captions_found"]) == (1, 1)


def test_a_reference_that_was_written_too_is_found_first(tmp_path: Path) -> None:
    items = make_items([["two dogs on the beach"], ["two dogs in the snow"], ["a cat"]])
    triplets, everything = make_triplets(
        items, [(0, "dogs in the snow")], topic="dogs on the beach"
    )
    result = retrieve(everything, triplets, context_of(tmp_path, items))
    (row,) = result.rows.to_pylist()
    keys = [row[side][0]["key"] for side in ("references", "targets")]
    assert keys == ["k0", "k1"]
    assert result.notes["captions_to_find"] == 2


def test_members_that_the_space_holds_stay_and_equal_pairs_are_one(tmp_path: Path) -> None:
    items = make_items([["two dogs on the beach"], ["two dogs in the snow"], ["a cat"]])
    triplets, everything = make_triplets(items, [(0, "dogs in the snow"), (0, "x")])
    target = schema.member(items.slice(2, 1).to_pylist()[0])
    rows = triplets.to_pylist()
    rows[1]["targets"] = [target]
    again = {**rows[0], "id": schema.content_id("again")}
    none = {**rows[0], "id": schema.content_id("none"), "targets": []}
    triplets = pa.Table.from_pylist([*rows, again, none], schema=schema.TRIPLETS)
    result = retrieve(everything, triplets, context_of(tmp_path, items))
    assert {row["targets"][0]["key"] for row in result.rows.to_pylist()} == {"k1", "k2"}
    (kept,) = [r for r in result.rows.to_pylist() if r["targets"] == [target]]
    assert kept["evidence"]["reason"] == "an edit"
    told = rules_of(result)
    assert sorted(filter(None, told.values())) == ["no_member", "same_pair"]
    assert told[max(rows[0]["id"], again["id"])] == "same_pair"
    assert result.notes["same_pair"] == 1


def test_caps_serve_the_most_similar_first(tmp_path: Path) -> None:
    items = make_items([["two dogs"], ["two white dogs in snow"], ["two cats"]])
    wanted = [(0, "white dogs in snow"), (0, "two white dogs in snow"), (2, "white snow")]
    triplets, everything = make_triplets(items, wanted)
    context = context_of(tmp_path, items)
    result = retrieve(everything, triplets, context, low=0.1, max_per_target=1)
    (row,) = result.rows.to_pylist()
    assert row["evidence"]["score"] == 1.0
    assert sorted(filter(None, rules_of(result).values())) == ["capped", "capped"]
    scenes = make_items([[scene] for scene in SCENES])
    many = mine(scenes, context_of(tmp_path, scenes), low=0.3, nearer=False, edits_per_caption=5)
    few = mine(
        scenes, context_of(tmp_path, scenes), low=0.3, nearer=False, edits_per_caption=5,
        max_per_reference=2, max_per_target=2,
    )  # fmt: skip
    assert set(few.rows["id"].to_pylist()) < set(many.rows["id"].to_pylist())
    for side in ("references", "targets"):
        uses = Counter(row[side][0]["id"] for row in few.rows.to_pylist())
        assert max(uses.values()) <= 2


def test_order_and_parts_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = make_items([[scene, f"a photo of {scene}"] for scene in SCENES])
    first = mine(items, context_of(tmp_path, items), low=0.5)
    monkeypatch.setattr(_retrieved, "PART", 7)
    order = np.random.default_rng(0).permutation(len(items))
    shuffled = items.take(pa.array(order))
    second = mine(shuffled, context_of(tmp_path, items), low=0.5)
    assert first.rows.sort_by("id").to_pylist() == second.rows.sort_by("id").to_pylist()
    assert rules_of(first) == rules_of(second)
    assert first.notes == second.notes
    assert {row["references"][0]["caption"][:7] for row in first.rows.to_pylist()} > {"a photo"}
    other = mine(items, context_of(tmp_path, items, seed=1), low=0.5)
    assert set(other.rows["id"].to_pylist()) != set(first.rows["id"].to_pylist())
    firsts = mine(items, context_of(tmp_path, items), low=0.5, captions_per_item=1)
    assert not [
        row for row in firsts.rows.to_pylist() if "photo" in row["references"][0]["caption"]
    ]


def test_items_say_why_they_are_in_no_pair(tmp_path: Path) -> None:
    items = make_items([[], ["dog"], *[[scene] for scene in SCENES], ["three zebras eat"]])
    result = mine(items, context_of(tmp_path, items), low=0.75, edits=("number", "word"))
    told = [rules_of(result)[name] for name in items["id"].to_pylist()]
    assert told[:2] == ["no_caption", "no_edit"]
    assert told[-1] == "nothing_near"
    used = {
        row[side][0]["id"] for row in result.rows.to_pylist() for side in ("references", "targets")
    }
    kept = {name for name, rule in rules_of(result).items() if rule is None}
    assert kept == used


def test_every_kind_of_edit_says_what_it_does() -> None:
    words = Vocabulary.of([*SCENES, "two dogs", "a bird on a tree", "a bird on a tree top"] * 2)
    made = {}
    for text in (*SCENES, "two brown dogs running"):
        for edit in words.edits(text, KINDS, 9, drawer("0", text)):
            made[edit.kind] = edit
            assert edit.caption != text
            changed = text
            for old, new in edit.words:
                if old is None:
                    changed = f"{changed} {new}"
                elif new is None:
                    changed = changed.removesuffix(f" {old}")
                else:
                    changed = changed.replace(old, new, 1)
            assert changed == edit.caption
            for old, new in edit.words:
                said = new if new is not None else (old or "").removeprefix("with ")
                assert said in edit.text
    assert set(made) == set(KINDS)
    assert words.edits("", KINDS, 9, drawer("0")) == []
    assert len(words.edits(SCENES[0], KINDS, 1, drawer("0"))) == 1


def test_words_that_change_nothing_visible_are_not_exchanged() -> None:
    texts = [
        f"a {one} cat" for one in ("dogs", "dog", "running", "brown", "the", "12", "white")
    ] * 2
    words = Vocabulary.of(texts)
    for text in texts:
        for edit in words.edits(text, ("word",), 1, drawer("0", text)):
            ((old, new),) = edit.words
            assert {old, new} <= {"dog", "brown", "white"}


def test_texts_of_another_width_are_told(tmp_path: Path) -> None:
    items = make_items([[scene] for scene in SCENES])
    context = context_of(tmp_path, items)
    embedders: Any = {"caption": Words(7)}
    other = Context(spaces=context.spaces, embedders=embedders)
    with pytest.raises(DatagenError, match="7 dimensions, its items 24") as caught:
        mine(items, other)
    assert "\n" not in str(caught.value)


def test_the_embedder_that_later_steps_are_sent_holds_no_model(tmp_path: Path) -> None:
    items = make_items([[scene] for scene in SCENES])
    context = context_of(tmp_path, items)
    assert mine(items, context).rows.num_rows
    embedder: Any = context.embedders["caption"]
    assert not embedder.is_open


def test_no_items_and_no_triplets_make_no_pair(tmp_path: Path) -> None:
    items = make_items([])
    place = str(tmp_path / "none")
    Space.write(place, [], np.zeros((0, WIDTH), np.float32))
    embedders: Any = {"caption": Words()}
    context = Context(spaces={"caption": place}, embedders=embedders)
    assert mine(items, context).rows.num_rows == 0
    nothing = pa.Table.from_pylist([], schema=schema.TRIPLETS)
    result = retrieve(items, nothing, context)
    assert (result.rows.num_rows, result.verdicts.num_rows) == (0, 0)
    assert result.rows.schema == schema.PAIRS


def test_a_union_holds_what_it_finds(tmp_path: Path) -> None:
    items = make_items([[scene] for scene in SCENES])
    context = context_of(tmp_path, items)
    of = (
        {"op": "caption_then_retrieve", "low": 0.6},
        {"op": "knn_band", "space": "caption", "low": 0.1, "high": 1},
    )
    joined = Union(UnionSettings(of=of))
    assert "texts.caption" in joined.needs("items")
    found = joined(Tables(items, items, "items"), context)
    alone = mine(items, context, low=0.6)
    assert set(alone.rows["id"].to_pylist()) <= set(found.rows["id"].to_pylist())


QUADRUPLE = {
    "text": {
        "op": "quadruple",
        "engine": {"kind": "server", "url": "http://localhost:1", "model": "m"},
    }
}
EMBED = {"embed": {"op": "open_clip", "space": "caption", "model": "bundled:tinyclip"}}
FIND = {"pair": {"op": "caption_then_retrieve"}}
GIVEN = {"text": {"op": "given"}}


def test_recipes_of_items_and_of_triplets_are_checked() -> None:
    assert registry.find("pair", "caption_then_retrieve") is CaptionThenRetrieve
    source = {"type": "tinyworld"}

    def check(*steps: dict[str, Any]) -> recipe.Recipe:
        return recipe.check({"name": "n", "seed": 0, "source": source, "steps": list(steps)})

    assert [step.after for step in check(EMBED, FIND, GIVEN).steps] == [
        "items",
        "pairs",
        "triplets",
    ]
    long = check(EMBED, QUADRUPLE, FIND, GIVEN)
    assert [step.after for step in long.steps] == ["items", "triplets", "pairs", "triplets"]
    with pytest.raises(RecipeError, match=r"needs 'earlier\.caption'; put 'embed: .* before"):
        check(QUADRUPLE, FIND, GIVEN)
    with pytest.raises(RecipeError, match=r"needs 'earlier\.caption'"):
        check(EMBED, QUADRUPLE, {"embed": {**EMBED["embed"], "id": "again"}}, FIND)
    with pytest.raises(RecipeError, match=r"needs 'texts\.caption'"):
        check({"embed": {"space": "caption", "model": "tfidf"}}, FIND)
    with pytest.raises(RecipeError, match="works on triplets, but here the table holds pairs"):
        check(EMBED, QUADRUPLE, FIND, {"filter": {"op": "text_quality"}})

"""The split's guarantee, checked by brute force over items, near-duplicates and groups."""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from datagen import colours, moments, perceptual, registry, schema
from datagen.errors import DatagenError
from datagen.filters.duplicates import Duplicates, DuplicatesSettings
from datagen.split.by_group import ByGroup, ByGroupSettings
from datagen.step import Context, Result, Tables

MEASURED = [pa.field("phash", pa.uint64()), pa.field("colours", pa.binary(colours.BYTES))]
ITEMS = pa.schema([*schema.ITEMS, *MEASURED])
OF_CLIPS = pa.schema([*ITEMS, pa.field("moments", pa.large_binary())])


def item(
    name: str, phash: int | None = None, labels: dict[str, Any] | None = None, tone: int = 0
) -> Any:
    """An item of one grey ``tone``."""
    grid = None if phash is None else bytes([tone]) * colours.BYTES
    told = {"captions": [], "labels": json.dumps(labels or {})}
    return {"id": name, **told, "phash": phash, "colours": grid}


def film(name: str, hashes: list[int], tone: int = 0, seconds: float | None = 2.0) -> Any:
    """A clip of frames with these hashes, all of one grey ``tone``."""
    place = {"modality": "video", "seconds": seconds}
    whole = b"".join(value.to_bytes(8, "little") for value in hashes)
    whole += moments.COUNT * bytes([tone]) * colours.BYTES
    middle = hashes[moments.COUNT // 2]
    return {**item(name, middle, tone=tone), "key": name, "media": place, "moments": whole}


def row(
    number: int, references: list[str], targets: list[str], negatives: list[str] | None = None
) -> dict[str, Any]:
    return {
        "id": f"t{number:05d}",
        "references": [{"id": name} for name in references],
        "targets": [{"id": name} for name in targets],
        "negatives": [{"kind": "mined", "item": {"id": name}} for name in negatives or []],
    }


def tables(items: list[Any], rows: list[Any]) -> Tables:
    columns = pa.schema([*schema.TRIPLETS, schema.NEGATIVES])
    return Tables(
        pa.Table.from_pylist(items, schema=OF_CLIPS if "moments" in (items or [{}])[0] else ITEMS),
        pa.Table.from_pylist(rows, schema=columns),
        "triplets",
    )


def run(items: list[Any], rows: list[Any], seed: int = 0, **settings: Any) -> Result:
    return ByGroup(ByGroupSettings(**settings))(tables(items, rows), Context(seed=seed))


def ids(members: list[Any]) -> list[str]:
    return [member["item"]["id"] if "item" in member else member["id"] for member in members]


def sides_of_items(result: Result) -> dict[str, set[str]]:
    sides: dict[str, set[str]] = {}
    for found in result.rows.to_pylist():
        for column in ("references", "targets", "negatives"):
            for name in ids(found[column] or []):
                sides.setdefault(name, set()).add(found["split"])
    return sides


def leaks(
    result: Result,
    items: list[Any],
    radius: int,
    group: str | None = None,
    tolerance: int | None = None,
) -> list[str]:
    """Every item, near-duplicate or group that stands on two sides, found pair by pair."""
    sides = sides_of_items(result)
    out = [name for name, where in sides.items() if len(where) > 1]
    for one, other in itertools.combinations([i for i in items if i["id"] in sides], 2):
        if sides[one["id"]] == sides[other["id"]]:
            continue
        hashes = (one["phash"], other["phash"])
        if None not in hashes and (hashes[0] ^ hashes[1]).bit_count() <= radius:
            tones = [found["colours"][0] for found in (one, other)]
            if tolerance is None or abs(tones[0] - tones[1]) <= tolerance:
                out.append(f"{one['id']} ~ {other['id']}")
        if group:
            left, right = (json.loads(i["labels"]).get(group) for i in (one, other))
            if left is not None and left == right:
                out.append(f"{one['id']} {group} {other['id']}")
    return out


@st.composite
def collections(draw: st.DrawFn) -> tuple[list[Any], list[Any]]:
    count = draw(st.integers(2, 24))
    names = [f"i{number:02d}" for number in range(count)]
    bits = st.sets(st.integers(0, 12), max_size=4)
    st.one_of(st.none(), bits.map(lambda found: sum(1 << 5 * bit for bit in found)))
    items = []
    for name in names:
        phash = draw(
            st.one_of(st.none(), bits.map(lambda found: sum(1 << b * 5 for b in {*found})))
        )
        clip = draw(st.one_of(st.none(), st.integers(0, 5)))
        tone = draw(st.sampled_from([0, 12, 24, 100]))
        items.append(item(name, phash, {} if clip is None else {"clip": clip}, tone))
    some = st.lists(st.sampled_from(names), min_size=1, max_size=2)
    rows = [
        row(number, draw(some), draw(some), draw(st.lists(st.sampled_from(names), max_size=3)))
        for number in range(draw(st.integers(0, 30)))
    ]
    return items, rows


SHARES = st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.5, 0.0), (0.4, 0.3, 0.3), (0.0, 0.5, 0.5)])


@hypothesis_settings(max_examples=120, deadline=None)
@given(
    made=collections(),
    shares=SHARES,
    radius=st.integers(0, 3),
    tolerance=st.sampled_from([None, 0, 16]),
    seed=st.integers(0, 3),
)
def test_nothing_stands_on_two_sides(
    made: tuple[list[Any], list[Any]],
    shares: tuple[float, float, float],
    radius: int,
    tolerance: int | None,
    seed: int,
) -> None:
    items, rows = made
    train, val, test = shares
    if not any("clip" in json.loads(i["labels"]) for i in items):
        items.append(item("zz", None, {"clip": 9}))
    near = {"radius": radius, "tolerance": tolerance}
    settings = {"train": train, "val": val, "test": test, "group_by": "clip", **near}
    result = run(items, rows, seed=seed, **settings)
    assert leaks(result, items, radius, "clip", tolerance) == []
    verdicts = {v["id"]: v for v in result.verdicts.to_pylist()}
    kept = {found["id"]: found for found in result.rows.to_pylist()}
    assert set(verdicts) == {r["id"] for r in rows}
    assert {n for n, v in verdicts.items() if v["verdict"] == schema.KEPT} == set(kept)
    for one in rows:
        if one["id"] in kept:
            found = kept[one["id"]]
            assert ids(found["references"]) == ids(one["references"])
            assert ids(found["targets"]) == ids(one["targets"])
            left = iter(ids(one["negatives"]))
            assert all(name in left for name in ids(found["negatives"]))  # in order
        else:
            assert verdicts[one["id"]]["rule"] == "crosses_split"
    assert {found["split"] for found in kept.values()} <= {
        name for name, share in zip(("train", "val", "test"), shares, strict=True) if share
    }
    removed = sum(len(r["negatives"]) for r in rows if r["id"] in kept) - sum(
        len(found["negatives"]) for found in kept.values()
    )
    assert result.notes["removed_negatives"] == removed
    assert result.notes["lost"] == len(rows) - len(kept)


@hypothesis_settings(max_examples=25, deadline=None)
@given(made=collections(), data=st.data())
def test_row_order_and_item_order_do_not_show(
    made: tuple[list[Any], list[Any]], data: st.DataObject
) -> None:
    items, rows = made
    shares = {"train": 0.6, "val": 0.2, "test": 0.2}
    first = run(items, rows, **shares)
    again = run(data.draw(st.permutations(items)), data.draw(st.permutations(rows)), **shares)
    assert first.rows.to_pylist() == again.rows.to_pylist()
    assert first.verdicts.sort_by("id").equals(again.verdicts.sort_by("id"))
    assert first.notes == again.notes


def grid(side: int) -> tuple[list[Any], list[Any]]:
    """One component: items on a square grid, each paired with its right and lower neighbour."""
    names = {(x, y): f"g{x:03d}-{y:03d}" for x in range(side) for y in range(side)}
    links = [
        (names[x, y], names[there])
        for x, y in names
        for there in ((x + 1, y), (x, y + 1))
        if there in names
    ]
    rows = [row(number, [left], [right]) for number, (left, right) in enumerate(links)]
    return [item(name) for name in names.values()], rows


def test_one_giant_component_is_cut_to_the_shares_with_few_lost() -> None:
    items, rows = grid(50)
    result = run(items, rows, train=0.8, val=0.1, test=0.1)
    assert leaks(result, items, 4) == []
    for side, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        assert result.notes[side]["share"] == pytest.approx(share, abs=0.01)
    # A square holding a tenth of the grid has 4 * sqrt(250) = 63 edges around it.
    assert result.notes["lost"] < 3 * 2 * 63


def test_a_random_split_of_the_same_items_would_lose_many_more() -> None:
    items, rows = grid(50)
    drawn = np.random.default_rng(0).choice(3, size=len(items), p=[0.8, 0.1, 0.1])
    side = dict(zip([i["id"] for i in items], drawn.tolist(), strict=True))
    random = sum(side[ids(r["references"])[0]] != side[ids(r["targets"])[0]] for r in rows)
    assert run(items, rows, train=0.8, val=0.1, test=0.1).notes["lost"] < random / 5


def test_small_components_are_placed_whole_and_nothing_is_lost() -> None:
    rows = [row(n, [f"a{n // 2}"], [f"b{n}"]) for n in range(400)]
    items = [item(name) for r in rows for name in ids(r["references"] + r["targets"])]
    items = list({i["id"]: i for i in items}.values())
    result = run(items, rows, train=0.9, val=0.05, test=0.05)
    assert result.notes["lost"] == 0
    assert Counter(result.rows["split"].to_pylist()) == {"train": 360, "val": 20, "test": 20}


def test_a_giant_component_stays_whole_where_small_ones_fill_the_small_sides() -> None:
    items, rows = grid(20)
    extra = [row(10_000 + n, [f"x{n}"], [f"y{n}"]) for n in range(100)]
    items += [item(f"{letter}{n}") for n in range(100) for letter in "xy"]
    result = run(items, rows + extra, train=0.9, val=0.05, test=0.05)
    assert result.notes["lost"] == 0
    assert result.notes["val"]["share"] == pytest.approx(0.05, abs=0.005)


def test_near_duplicates_keep_their_rows_together_only_when_asked() -> None:
    items = [
        item(f"{letter}{n}", 0b1011 if n % 2 else 0b0011) for n in range(40) for letter in "rt"
    ]
    rows = [row(n, [f"r{n}"], [f"t{n}"]) for n in range(40)]
    together = run(items, rows, train=0.5, val=0.25, test=0.25)
    assert set(together.rows["split"].to_pylist()) == {"train"}  # one node cannot be cut
    apart = run(items, rows, train=0.5, val=0.25, test=0.25, near_duplicates=False)
    assert Counter(apart.rows["split"].to_pylist()) == {"train": 20, "val": 10, "test": 10}


def test_what_the_filter_calls_near_duplicates_never_stands_on_two_sides() -> None:
    rng = np.random.default_rng(0)
    items = [
        item(f"i{at:03}", int(rng.integers(0, 4)), tone=int(rng.choice([0, 9, 40, 49, 80, 255])))
        for at in range(200)
    ]
    rows = [row(at, [f"i{at:03}"], [f"i{(at + 100) % 200:03}"]) for at in range(200)]
    result = run(items, rows, train=0.4, val=0.3, test=0.3)
    sides = sides_of_items(result)
    assert len(set.union(*sides.values())) > 1
    made = tables(items, rows)
    across = [
        {**one, "id": f"x{at}", "targets": [{"id": other}]}
        for at, (one, other) in enumerate(
            (row(0, [left], []), right)
            for left, right in itertools.combinations(sorted(sides), 2)
            if sides[left] != sides[right]
        )
    ]
    crossing = pa.Table.from_pylist(across, schema=made.rows.schema)
    verdicts = Duplicates(DuplicatesSettings(same_text=False)).decide(crossing, made.items)
    assert set(verdicts["verdict"].to_pylist()) == {schema.KEPT}


def test_colour_variants_stay_together_only_where_colours_do_not_count() -> None:
    items = [
        item(f"{letter}{n}", 0b1011, tone=6 * n + (3 if letter == "t" else 0))
        for n in range(0, 40, 4)
        for letter in "rt"
    ]
    rows = [row(n, [f"r{n}"], [f"t{n}"]) for n in range(0, 40, 4)]
    shares = {"train": 0.5, "val": 0.5, "test": 0}
    assert len(set(run(items, rows, **shares).rows["split"].to_pylist())) == 2
    for table in (items, [{**one, "colours": None} for one in items]):
        blind = run(table, rows, tolerance=None, **shares)
        assert set(blind.rows["split"].to_pylist()) == {"train"}
    unknown = [
        {**one, "colours": None if at == 3 else one["colours"]} for at, one in enumerate(items)
    ]
    assert set(run(unknown, rows, **shares).rows["split"].to_pylist()) == {"train"}
    made = tables(items, rows)
    bare = Tables(made.items.drop_columns(["colours"]), made.rows, "triplets")
    found = ByGroup(ByGroupSettings(**shares))(bare, Context(seed=0))
    assert set(found.rows["split"].to_pylist()) == {"train"}


def paired(items: list[Any]) -> list[Any]:
    """Each item with a partner of its own, which has no hash."""
    return [row(at, [one["id"]], [f"partner{at:03}"]) for at, one in enumerate(items)]


def across(sides: dict[str, set[str]]) -> list[tuple[str, str]]:
    pairs = itertools.combinations(sorted(sides), 2)
    return [(one, other) for one, other in pairs if sides[one] != sides[other]]


def test_what_the_filter_calls_near_duplicate_clips_never_stands_on_two_sides() -> None:
    rng = np.random.default_rng(3)
    bases = rng.integers(0, 2**63, (12, moments.COUNT))
    items = []
    for at in range(150):
        hashes = [int(value) for value in bases[at % 12]]
        for which in rng.integers(0, moments.COUNT, 2):
            hashes[which] ^= int(rng.integers(0, 2**20))
        tone, seconds = int(rng.choice([0, 9, 40, 80])), rng.choice([2.0, 2.3, 3.0, 9.0])
        items.append(film(f"i{at:03}", hashes, tone, seconds if at % 40 else None))
        # An image of the very middle frame is near other images alone.
        items.append({**items[-1], "id": f"j{at:03}", "moments": None})
    result = run(items, paired(items), train=0.4, val=0.3, test=0.3)
    assert all(result.notes[side]["rows"] > 40 for side in ("train", "val", "test"))
    sides = {name: where for name, where in sides_of_items(result).items() if name[0] in "ij"}
    made = tables(items, [row(at, [a], [b]) for at, (a, b) in enumerate(across(sides))])
    verdicts = Duplicates(DuplicatesSettings(same_text=False)).decide(made.rows, made.items)
    assert set(verdicts["verdict"].to_pylist()) == {schema.KEPT}
    # Pairs of one side that are near-duplicates are there, so that this says something.
    alike = [("i000", f"i{at:03}") for at in range(12, 150, 12)]
    made = tables(items, [row(at, [a], [b]) for at, (a, b) in enumerate(alike)])
    verdicts = Duplicates(DuplicatesSettings(same_text=False)).decide(made.rows, made.items)
    assert schema.REJECTED in verdicts["verdict"].to_pylist()


def test_clips_that_share_their_middle_frame_are_no_group() -> None:
    rng = np.random.default_rng(4)
    items = []
    for at in range(40):
        hashes = rng.integers(0, 2**63, moments.COUNT).tolist()
        hashes[moments.COUNT // 2] = 0
        items.append(film(f"i{at:03}", hashes))
    shares = {"train": 0.5, "val": 0.25, "test": 0.25}
    found = Counter(run(items, paired(items), **shares).rows["split"].to_pylist())
    assert found == {"train": 20, "val": 10, "test": 10}
    # Where the middle frame is all that is known, it counts.
    bare = [{key: value for key, value in one.items() if key != "moments"} for one in items]
    assert set(run(bare, paired(items), **shares).rows["split"].to_pylist()) == {"train"}


def test_copies_of_a_clip_stay_together_until_its_length_differs() -> None:
    items = [film(f"i{at}", [1, 2, 3, 4, 5], seconds=2.0 * 2 ** (at % 2)) for at in range(20)]
    shares = {"train": 0.5, "val": 0.5, "test": 0}
    sides = sides_of_items(run(items, paired(items), **shares))
    for at in range(2, 20):
        assert sides[f"i{at}"] == sides[f"i{at % 2}"]
    assert sides["i0"] != sides["i1"]
    loose = run(items, paired(items), **shares, duration=0.5)
    assert set(loose.rows["split"].to_pylist()) == {"train"}


def test_a_clip_and_an_image_of_its_middle_frame_may_part() -> None:
    clips = [film(f"c{at}", [1, 2, 3, 4, 5]) for at in range(10)]
    images = [{**one, "id": f"p{one['id']}", "moments": None} for one in clips]
    items = [*clips, *images]
    result = run(items, paired(items), train=0.5, val=0.5, test=0)
    sides = sides_of_items(result)
    assert {frozenset(sides[one["id"]]) for one in clips} != {
        frozenset(sides[one["id"]]) for one in images
    }
    for kind in (clips, images):
        assert len({frozenset(sides[one["id"]]) for one in kind}) == 1


def test_items_without_a_hash_stand_alone() -> None:
    rows = [row(n, [f"r{n}"], [f"t{n}"]) for n in range(20)]
    items = [item(f"{letter}{n}", None) for n in range(20) for letter in "rt"]
    result = run(items, rows, train=0.5, val=0.25, test=0.25)
    assert Counter(result.rows["split"].to_pylist()) == {"train": 10, "val": 5, "test": 5}


def test_hashes_that_were_stored_as_signed_numbers_mean_the_same() -> None:
    made = tables([item("r", 1 << 63), item("t", (1 << 63) | 1)], [row(0, ["r"], ["t"])])
    signed = made.items["phash"].to_numpy().view(np.int64)
    items = made.items.drop_columns(["phash"]).append_column("phash", pa.array(signed))
    operator = ByGroup(ByGroupSettings())
    one = operator(made, Context())
    other = operator(Tables(items, made.rows, "triplets"), Context())
    assert one.rows.equals(other.rows)


def test_a_negative_on_another_side_is_removed_and_the_row_kept() -> None:
    rows = [row(n, [f"r{n}"], [f"t{n}"], [f"t{(n + 1) % 40}", "alone"]) for n in range(40)]
    items = [item(f"{letter}{n}") for n in range(40) for letter in "rt"] + [item("alone")]
    result = run(items, rows, train=0.5, val=0.25, test=0.25)
    assert result.notes["lost"] == 0
    assert result.notes["removed_negatives"] > 0
    assert leaks(result, items, 4) == []
    # An item that is only a negative goes where most rows use it, so those rows keep it.
    keeps = [r["split"] for r in result.rows.to_pylist() if "alone" in ids(r["negatives"])]
    assert keeps == ["train"] * 20


def test_a_crossing_row_names_the_sides_it_crosses() -> None:
    items, rows = grid(30)
    result = run(items, rows, train=0.8, val=0.2, test=0.0)
    lost = [v for v in result.verdicts.to_pylist() if v["verdict"] == schema.REJECTED]
    assert lost
    assert {(v["rule"], v["detail"]) for v in lost} == {("crosses_split", "items in train and val")}


def test_a_star_is_not_torn_apart_for_a_few_rows() -> None:
    items = [item("hub")] + [item(f"leaf{n}") for n in range(200)]
    rows = [row(n, ["hub"], [f"leaf{n}"]) for n in range(200)]
    result = run(items, rows, train=0.9, val=0.05, test=0.05)
    assert result.notes["lost"] == 0
    assert result.notes["train"]["share"] == 1.0


def test_no_more_is_lost_than_allowed() -> None:
    rng = np.random.default_rng(1)
    items = [item(f"n{n}") for n in range(300)]
    links = rng.integers(0, 300, size=(1500, 2))
    rows = [row(n, [f"n{a}"], [f"n{b}"]) for n, (a, b) in enumerate(links)]
    for allowed in (0.0, 0.05, 0.2):
        result = run(items, rows, train=0.6, val=0.2, test=0.2, max_lost=allowed)
        assert result.notes["lost_share"] <= allowed
    assert run(items, rows, train=0.6, val=0.2, test=0.2).notes["val"]["rows"] > 100


def test_another_seed_gives_another_split() -> None:
    rows = [row(n, [f"r{n}"], [f"t{n}"]) for n in range(50)]
    items = [item(f"{letter}{n}") for n in range(50) for letter in "rt"]
    shares = {"train": 0.5, "val": 0.25, "test": 0.25}
    one, other = (run(items, rows, seed=seed, **shares).rows["split"] for seed in (0, 1))
    assert one.to_pylist() != other.to_pylist()


def test_everything_on_one_side_needs_no_cut() -> None:
    items, rows = grid(5)
    result = run(items, rows, train=1.0, val=0, test=0)
    assert set(result.rows["split"].to_pylist()) == {"train"}
    assert result.notes["lost"] == 0


def test_an_empty_table_stays_empty() -> None:
    result = run([], [])
    assert len(result.rows) == 0
    assert result.rows.schema.field("split").type == pa.string()


def test_pairs_without_negatives_are_split_as_well() -> None:
    made = tables([item("r"), item("t")], [row(0, ["r"], ["t"])])
    pairs = Tables(made.items, made.rows.select(schema.PAIRS.names), "pairs")
    result = ByGroup(ByGroupSettings())(pairs, Context())
    assert result.rows.column_names == [*schema.PAIRS.names, "split"]


def test_a_label_that_no_item_has_is_named() -> None:
    with pytest.raises(DatagenError, match="no item has the label 'clip'"):
        run([item("r"), item("t")], [row(0, ["r"], ["t"])], group_by="clip")


@pytest.mark.parametrize("shares", [(0.9, 0.2, 0.1), (0.5, 0.1, 0.1), (1.2, -0.1, -0.1)])
def test_shares_that_do_not_sum_to_one_are_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ValidationError):
        ByGroupSettings(train=shares[0], val=shares[1], test=shares[2])


def test_needs_follow_the_settings() -> None:
    assert registry.find("split", "by_group") is ByGroup
    assert ByGroup(ByGroupSettings()).needs("triplets") == {"pairs", "items.phash"}
    bare = ByGroupSettings(near_duplicates=False, group_by="clip")
    assert ByGroup(bare).needs("triplets") == {"pairs", "items.labels"}


def test_items_that_came_in_after_they_were_measured_are_measured_here(tmp_path: Path) -> None:
    """A mined negative or a new target that copies an item of another row stays on its side."""
    draw = np.random.default_rng(0)
    known: list[Any] = []
    for number in range(60):
        picture = Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64))
        data = io.BytesIO()
        picture.save(data, "PNG")
        # Every third has a copy, which nobody measured.
        for copy in range(2 if number % 3 == 0 else 1):
            path = tmp_path / f"{number}-{copy}.png"
            path.write_bytes(data.getvalue())
            place = {"path": str(path), "offset": 0, "modality": "image"}
            made = item(f"i{number:02d}-{copy}")
            known.append({**made, "key": path.name, "media": place})
            if not copy:
                phash, grid = perceptual.signature(data.getvalue())
                known[-1] |= {"phash": phash, "colours": grid}
    rows = [row(n, [f"i{n:02d}-0"], [f"i{n + 1:02d}-0"]) for n in range(0, 60, 2)]
    for n, one in enumerate(rows):
        copied = f"i{3 * ((7 * n) % 20):02d}-1"
        if n % 2:
            one["targets"].append({"id": copied})
        else:
            one["negatives"].append({"kind": "mined", "item": {"id": copied}})
    result = run(known, rows, train=0.5, val=0.25, test=0.25)
    assert result.notes["hashed"] == 20
    sides = sides_of_items(result)
    both = [f"i{n:02d}" for n in range(0, 60, 3) if {f"i{n:02d}-{c}" for c in (0, 1)} <= set(sides)]
    assert len(both) > 3
    assert all(sides[f"{name}-0"] == sides[f"{name}-1"] for name in both)
    assert len({str(where) for where in sides.values()}) == 3


def test_items_that_cannot_be_decoded_are_counted(tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"no picture")
    place = {"path": str(tmp_path / "no.png"), "offset": 0, "modality": "image"}
    made = [item("a", 1), {**item("b"), "key": "no.png", "media": place}]
    notes = run(made, [row(0, ["a"], ["b"])]).notes
    told = {name: notes[name] for name in ("hashed", "without_hash", "examples_without_hash")}
    assert told == {"hashed": 0, "without_hash": 1, "examples_without_hash": ["no.png"]}

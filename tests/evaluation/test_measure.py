"""What is measured of what is there: missing and broken media, probes, parts, splits of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import measured_run
import numpy as np
import pytest
from known_retriever import Known, query, ranked, told, touch

from datagen.errors import DatagenError
from datagen.evaluation import protocols, results
from datagen.evaluation.benchmark import Asked, Benchmark, Part, Picture, Query, without
from datagen.evaluation.itcpr import Itcpr, ItcprSettings
from datagen.evaluation.measure import IMAGE, TEXT, MissingMedia, measure

PROTOCOL = Itcpr(ItcprSettings())


def small(folder: Path, absent: tuple[str, ...] = (), **more: Any) -> Benchmark:
    """Six queries of ten images; query n has the target n and, of even ones, n + 1."""
    touch(folder, [f"{n}.jpg" for n in range(10) if f"{n}.jpg" not in absent])
    touch(folder, [f"r{n}.jpg" for n in range(6) if f"r{n}.jpg" not in absent])
    names = [f"{n}.jpg" for n in range(10)]
    asked = tuple(
        Asked(n, (f"{n}.jpg",) if n % 2 else (f"{n}.jpg", f"{n + 1}.jpg")) for n in range(6)
    )
    queries = tuple(Query(str(n), (f"r{n}.jpg",), (f"text {n}",)) for n in range(6))
    pictures = {
        name: Picture(str(folder / name), there=name not in absent)
        for name in (*names, *(f"r{n}.jpg" for n in range(6)))
    }
    part = Part("gallery", tuple(names), asked, **more)
    return Benchmark(queries, (part,), pictures, (), "they come from elsewhere")


def by_hand(numbers: list[int], items: list[int]) -> float:
    """mINP of these queries among these items."""
    found = []
    for n in numbers:
        order = ranked(query([f"r{n}"], f"text {n}"), [str(m) for m in items])
        targets = [m for m in ([n] if n % 2 else [n, n + 1]) if m in items]
        found.append(len(targets) / max(order.index(str(m)) + 1 for m in targets))
    return float(np.mean(found))


def test_media_that_are_not_there_stop_it_before_any_model_is_asked(tmp_path: Path) -> None:
    read = small(tmp_path, ("r1.jpg", "5.jpg", "4.jpg"))
    retriever = Known()
    with pytest.raises(MissingMedia) as wrong:
        measure(retriever, PROTOCOL, read)
    assert retriever.asked == []
    assert "3 of 16 images or clips are missing" in str(wrong.value)
    assert "they come from elsewhere" in str(wrong.value)
    assert "--allow-missing" in str(wrong.value)
    assert sorted(wrong.value.lost) == [str(tmp_path / n) for n in ("4.jpg", "5.jpg", "r1.jpg")]


def test_allowed_it_measures_what_is_there_and_says_so_in_every_line(tmp_path: Path) -> None:
    read = small(tmp_path, ("r1.jpg", "5.jpg", "4.jpg"))
    found = measure(Known(), PROTOCOL, read, allow_missing=True)
    # Query 1 has no reference, 4 and 5 have no target; 4.jpg was no other's.
    values = told(found.lines)
    expected = by_hand([0, 2, 3], [0, 1, 2, 3, 6, 7, 8, 9])
    assert values["gallery", "mINP"] == pytest.approx(expected)
    assert {line.partial for line in found.lines} == {"3 of 6 queries, 8 of 10 items"}
    assert "left out: 2 queries without any target" in found.notes
    assert "left out: 1 queries without their reference" in found.notes
    assert set(found.lost.values()) == {"not there"}
    record = results.record(found, PROTOCOL, "m", "d")
    assert all(figure["partial"] and figure["of_queries"] == 6 for figure in record["figures"])


def test_broken_media_are_found_one_by_one(tmp_path: Path) -> None:
    read = small(tmp_path)
    with pytest.raises(MissingMedia, match="1 of 16"):
        measure(Known(broken=["7"]), PROTOCOL, read)
    found = measure(Known(broken=["7", "r2"]), PROTOCOL, read, allow_missing=True)
    expected = by_hand([0, 1, 3, 4, 5], [0, 1, 2, 3, 4, 5, 6, 8, 9])
    assert told(found.lines)["gallery", "mINP"] == pytest.approx(expected)
    assert found.lost == {
        str(tmp_path / "7.jpg"): "corrupt: 7",
        "query 2 of r2.jpg": "corrupt: r2",
    }


def test_a_model_without_finite_vectors_is_no_silent_last_place(tmp_path: Path) -> None:
    class Mute(Known):
        def queries(self, references: Any, texts: Any) -> Any:
            found = super().queries(references, texts)
            found[[text == "text 3" for text in texts]] = np.nan
            return found

    read = small(tmp_path)
    with pytest.raises(MissingMedia, match="query 3 of r3"):
        measure(Mute(), PROTOCOL, read)
    found = measure(Mute(), PROTOCOL, read, allow_missing=True)
    assert {line.queries for line in found.lines} == {5}
    for kind in ("composed", IMAGE, TEXT):
        assert ("gallery", "mINP") in told(found.lines, kind)


def test_probes_ask_with_one_half_each_in_the_same_gallery(tmp_path: Path) -> None:
    read = small(tmp_path)
    found = measure(Known(), PROTOCOL, read)
    for kind, parts in ((IMAGE, (True, False)), (TEXT, (False, True))):
        penalties = []
        for n in range(6):
            asked = query([f"r{n}"] if parts[0] else [], f"text {n}" if parts[1] else None)
            order = ranked(asked, [str(m) for m in range(10)])
            targets = [n] if n % 2 else [n, n + 1]
            penalties.append(len(targets) / max(order.index(str(m)) + 1 for m in targets))
        assert told(found.lines, kind)["gallery", "mINP"] == pytest.approx(np.mean(penalties))
    alone = measure(Known(), PROTOCOL, read, probes=False)
    assert [set(line.values) for line in alone.lines] == [{"composed"}] * len(alone.lines)


def test_what_is_asked_many_times_is_embedded_once(tmp_path: Path) -> None:
    read = small(tmp_path)
    queries = tuple(Query(one.id, ("r0.jpg",), ("the same",)) for one in read.queries)
    retriever = Known()
    measure(retriever, PROTOCOL, Benchmark(queries, read.parts, read.pictures))
    assert len(retriever.asked) == 10 + 3


def test_a_target_counts_though_it_is_the_reference_too(tmp_path: Path) -> None:
    read = small(tmp_path)
    (part,) = read.parts
    asked = (Asked(1, ("1.jpg",), ("1.jpg", "2.jpg", "elsewhere")),)
    one = Benchmark(read.queries, (Part("gallery", part.gallery, asked),), read.pictures)
    order = ranked(query(["r1"], "text 1"), [str(m) for m in range(10)], ["2"])
    found = told(measure(Known(), PROTOCOL, one, probes=False).lines)
    assert found["gallery", "mAP"] == pytest.approx(1 / (order.index("1") + 1))


def test_small_galleries_of_a_query_must_be_whole(tmp_path: Path) -> None:
    read = small(tmp_path)
    (part,) = read.parts
    own = [
        Asked(one.query, one.targets, (), tuple(dict.fromkeys([*one.targets, "8.jpg", "9.jpg"])))
        for one in part.asked
    ]
    own[1] = Asked(1, ("1.jpg",), (), ("1.jpg", "7.jpg"))
    for whole, left in ((True, 5), (False, 6)):
        lists = Part("own", part.gallery, tuple(own), whole_lists=whole)
        reduced = without(Benchmark(read.queries, (lists,), read.pictures), ["7.jpg"])
        assert len(reduced.benchmark.parts[0].asked) == left
        assert reduced.benchmark.parts[0].queries == 6


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    read = small(tmp_path, tuple(f"r{n}.jpg" for n in range(6)))
    with pytest.raises(DatagenError, match="no query can be asked"):
        measure(Known(), PROTOCOL, read, allow_missing=True)


# ---------------------------------------------------------------- splits of runs


def run_of(tmp_path: Path) -> str:
    """A finished run of eight items with media, and one of words alone."""
    triplets = [
        ([0], 1, "redder", "val"),
        ([0], 2, "redder", "val"),
        ([3, 4], 5, "both", "val"),
        ([5], 8, "words", "val"),
        ([6], 7, "wrong", "val"),
        ([6], 7, "train only", "train"),
        ([7], 7, "the same", "val"),
    ]
    return measured_run.write(tmp_path, 8, triplets)


def test_a_split_of_a_run_is_a_benchmark(tmp_path: Path) -> None:
    out = run_of(tmp_path)
    protocol = protocols.protocol(f"run:{out}#val")
    read = protocol.read(f"{out}#val")
    (part,) = read.parts
    told_apart = {
        (read.queries[one.query].references, read.queries[one.query].texts[0]): one
        for one in part.asked
    }
    # Two triplets with the same reference and text are one query of two targets.
    i = [measured_run.name(n) for n in range(9)]
    assert set(told_apart[(i[0],), "redder"].targets) == {i[1], i[2]}
    assert told_apart[(i[3], i[4]), "both"].without == (i[3], i[4])
    assert set(part.gallery) == {i[n] for n in (0, 1, 2, 3, 4, 5, 7, 8)}
    assert len(part.asked) == 3
    assert read.notes == ("1 queries left out, whose only target is their reference",)
    retriever = Known()
    found = told(measure(retriever, protocol, read, probes=False).lines)
    names = {i[n]: f"p{n}" for n in range(8)} | {i[8]: "only words"}
    hits = []
    for (references, text), one in told_apart.items():
        asked = query([names[name] for name in references], text)
        order = ranked(asked, [names[n] for n in part.gallery], [names[n] for n in references])
        hits.append(any(names[name] in order[:1] for name in one.targets))
    assert found["val", "R@1"] == pytest.approx(np.mean(hits))
    targets = protocols.protocol(f"run:{out}", ["gallery=targets"]).read(out)
    assert set(targets.parts[0].gallery) == {i[n] for n in (1, 2, 5, 7, 8)}


def test_a_split_that_is_not_there_has_the_nearest_name(tmp_path: Path) -> None:
    out = run_of(tmp_path)
    with pytest.raises(DatagenError, match="no split 'vall'; did you mean 'val'"):
        protocols.protocol(f"run:{out}").read(f"{out}#vall")
    with pytest.raises(DatagenError, match="run:DIR#SPLIT"):
        protocols.protocol("run")

"""The figures of a run as texts to show: sections of rows, one column per split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from datagen.audit import summary

#: Entries of a list of frequent values that are shown.
SHOWN = 10

_COUNTS = {
    "triplets": "",
    "pairs": "",
    "queries": "different references with their text",
    "references": "different items",
    "targets": "different items",
    "items": "different items that are reference or target",
}
_PER = {
    "triplets_per_target": "triplets per target",
    "targets_per_query": "targets per query",
    "references_per_target": "references per target",
}
_KINDS = {
    "compare_change": "compare and change",
    "spatial_relations_background": "spatial relations and background",
    "none": "none of these",
}
_LEAKS = {
    "template_syntax": ("template syntax", "such as {colour}, <mask>, %s"),
    "label_name": ("names of labels", "such as baseColour, or colour:"),
    "numbered_medium": ("numbered media", "such as image 2, the second photo"),
    "word_reference": ("the word 'reference'", ""),
    "word_target": ("the word 'target'", ""),
    "file_extension": ("file names", "such as .jpg"),
    "modality_word": ("words for the medium", "image, photo, video, …; often good English"),
    "reference_caption": ("equal to the reference's caption", ""),
    "target_caption": ("equal to the target's caption", ""),
}


@dataclass(frozen=True)
class Figure:
    """One row: its label, a text per split (``all`` where it belongs to none), and a note."""

    label: str
    values: dict[str, str]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """Figures that belong together. Labels, values and notes are plain text: escape them."""

    title: str
    figures: list[Figure] = field(default_factory=list)


def sections(stats: dict[str, Any]) -> list[Section]:
    """All figures of ``stats`` (from :func:`datagen.report.statistics.statistics`)."""
    made = [
        *(_of_triplets(stats) if stats["splits"] else []),
        *(_truth(stats["truth"]) if stats.get("truth") else []),
        Section("Scores", [_score(one) for one in stats["scores"]]),
        Section("Sources", [_source(one) for one in stats["sources"]]),
        Section("Made by steps", [_made(one) for one in stats.get("made", ())]),
        Section("Models", [_model(one) for one in stats["models"]]),
        Section("Items of the sources", _media({"all": stats["items"]}) if stats["items"] else []),
        Section("Shards", _shards(stats["shards"]) if stats["shards"] else []),
        Section("Not measured", [Figure(k, {"all": v}) for k, v in stats["not_measured"].items()]),
    ]
    return [section for section in made if section.figures]


def _truth(found: Mapping[str, Any]) -> list[Section]:
    """What an audit found of the triplets, and of the filters."""
    steps = [
        Figure(name, dict(zip(summary.HEADINGS, texts, strict=True)), note)
        for name, texts, note in summary.filters({"steps": found["steps"]})
    ]
    triplets = [Figure(label, texts, note) for label, texts, note in summary.figures(found)]
    return [Section("Truth", triplets), Section("Truth of the filters", steps)]


def number(value: float | None) -> str:
    """A number for readers: 1,234, 12.3, 0.123; an en dash for none."""
    if value is None:
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    size = abs(value)
    return f"{value:,.0f}" if size >= 1000 else f"{value:.1f}" if size >= 10 else f"{value:.3g}"


def percent(value: float) -> str:
    """A share for readers: 0 %, <0.1 %, 12.3 %."""
    if 0 < value < 0.001:
        return "<0.1 %"
    return "0 %" if not value else "100 %" if value == 1 else f"{100 * value:.1f} %"


def size(count: int) -> str:
    """Bytes for readers, in powers of 1000."""
    left = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if left < 1000:
            return f"{left:.0f} {unit}" if unit == "B" else f"{left:.1f} {unit}"
        left /= 1000
    return f"{left:.1f} TB"


def spread(found: Mapping[str, Any] | None) -> str:
    """``mean 6.7, median 7, 4–11`` (5th to 95th percentile); an en dash for no value."""
    if found is None:
        return "–"
    if found["min"] == found["max"]:
        return number(found["min"])
    low, high = number(found["p5"]), number(found["p95"])
    return f"mean {number(found['mean'])}, median {number(found['p50'])}, {low} to {high}"


def _field(per_split: Mapping[str, Any], name: str, say: Callable[[Any], str]) -> dict[str, str]:
    return {split: say(values[name]) if values else "–" for split, values in per_split.items()}


def _of_triplets(stats: dict[str, Any]) -> list[Section]:
    counts = stats["counts"]
    rows = [Figure(k, _field(counts, k, number), n) for k, n in _COUNTS.items()]
    rows += [
        Figure(label, _field(counts, k, spread), "mean, median, 5 to 95 %")
        for k, label in _PER.items()
    ]
    aspects = stats["aspects"]
    kinds = [
        Figure(
            _KINDS.get(name, name.replace("_", " ")),
            _field(aspects, name, lambda v: percent(v["share"])),
        )
        for name in aspects["all"]
    ]
    leaks = [
        Figure(label, _field(stats["leaks"], name, _hits), note)
        for name, (label, note) in _LEAKS.items()
    ]
    return [
        Section("Triplets", rows),
        Section("Modification texts", _texts(stats["texts"])),
        Section("Kinds of edit", kinds),
        Section("First words", _frequent(stats["texts"], "first_words")),
        Section("First verbs", [*_frequent(stats["texts"], "first_verbs"), _verbless(stats)]),
        Section("Most frequent texts", _frequent(stats["texts"], "frequent")),
        Section("Leaks", leaks),
        Section("Negatives per triplet", _negatives(stats["negatives"])),
        Section("Media of the triplets", _media(stats["media"])),
    ]


def _hits(found: Mapping[str, Any]) -> str:
    return f"{found['count']:,} ({percent(found['share'])})" if found["count"] else "0"


def _texts(texts: Mapping[str, Any]) -> list[Figure]:
    return [
        Figure("words per text", _field(texts, "words", spread), "mean, median, 5 to 95 %"),
        Figure("different texts", _field(texts, "unique", number)),
        Figure("share of different texts", _field(texts, "unique_share", percent)),
        Figure("triplets that share their text", _field(texts, "repeated_share", percent)),
        Figure("vocabulary", _field(texts, "vocabulary", number), "different words"),
        Figure("texts per pair", _field(texts, "per_pair", spread), "mean, median, 5 to 95 %"),
    ]


def _frequent(texts: Mapping[str, Any], name: str) -> list[Figure]:
    """The most frequent values over all splits, with their share in each."""
    shares = {
        split: {entry["value"]: entry["share"] for entry in found.get(name, [])}
        for split, found in texts.items()
    }
    return [
        Figure(value, {split: percent(found.get(value, 0.0)) for split, found in shares.items()})
        for value in list(shares["all"])[:SHOWN]
    ]


def _verbless(stats: dict[str, Any]) -> Figure:
    return Figure("no known verb", _field(stats["texts"], "without_verb_share", percent))


def _negatives(per_split: Mapping[str, Any]) -> list[Figure]:
    kinds = per_split["all"] or {}
    return [
        Figure(
            "all kinds" if kind == "all" else kind,
            _field(per_split, kind, lambda v: f"mean {number(v['mean'])}" if v else "–"),
        )
        for kind in kinds
    ]


def _media(per_split: Mapping[str, Any]) -> list[Figure]:
    def listed(name: str) -> list[Figure]:
        label = {"modalities": "", "formats": "format "}[name]
        counts = {split: values[name] for split, values in per_split.items()}
        return [
            Figure(f"{label}{kind}", {s: number(found.get(kind, 0)) for s, found in counts.items()})
            for kind in per_split["all"][name]
        ]

    rows = [Figure("items", _field(per_split, "items", number))]
    if any(values["without_media"] for values in per_split.values()):
        without = _field(per_split, "without_media", number)
        rows.append(Figure("without media", without, "captions only"))
    rows += [*listed("modalities"), *listed("formats")]
    for name, note in (("width", "pixels"), ("height", "pixels"), ("seconds", "of clips")):
        if per_split["all"][name]:
            note = f"{note}; mean, median, 5 to 95 %"
            rows.append(Figure(name, _field(per_split, name, spread), note))
    rows.append(Figure("bytes", _field(per_split, "bytes", size)))
    return rows


def _score(score: Mapping[str, Any]) -> Figure:
    in_force = ", ".join(f"{name} {value}" for name, value in score["thresholds"].items())
    note = f"step {score['step']}" + (f": {in_force}" if in_force else "")
    of = "" if score["of"] == "triplets" else f" (of {score['of']})"
    return Figure(f"{score['name']}{of}", {s: spread(v) for s, v in score["splits"].items()}, note)


def licence_of(source: Mapping[str, Any]) -> str:
    """The licence of a source in words: what the recipe states, else what its items' labels say."""
    if source["license"]:
        return str(source["license"])
    found = source["licences_of_items"]
    if not found:
        return "not stated"
    shown = ", ".join(f"{one['value']} ({one['count']:,})" for one in found[:SHOWN])
    more = [f"{len(found) - SHOWN} others"] if len(found) > SHOWN else []
    rest = source["items_without_licence"]
    return "; ".join([f"by item: {shown}", *more, *([f"not stated ({rest:,})"] if rest else [])])


def _source(source: Mapping[str, Any]) -> Figure:
    used = f"{source['items']:,} items, {source['items_used']:,} used"
    kind = source["type"] or "not in the recipe"
    return Figure(source["id"], {"all": f"{used}; licence: {licence_of(source)}"}, str(kind))


def _made(step: Mapping[str, Any]) -> Figure:
    used = f"{step['items']:,} items, {step['items_used']:,} used"
    return Figure(step["step"], {"all": used}, "items that stand in no source")


def _model(model: Mapping[str, Any]) -> Figure:
    revision = model["revision"] or "no revision known"
    return Figure(model["model"], {"all": revision}, f"used by {', '.join(model['steps'])}")


def _shards(shards: Mapping[str, Any]) -> list[Figure]:
    per_split = shards["splits"]
    return [
        Figure("shards", _field(per_split, "shards", number)),
        Figure("bytes", _field(per_split, "bytes", size)),
    ]

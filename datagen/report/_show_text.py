"""What ``datagen show`` prints. Texts of the run are never markup, nor codes for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from datagen.report._markdown import line
from datagen.report.sections import size

#: Longest text that is printed whole (characters).
_MOST = 2_000
_COLOURS = {"kept": "green", "rejected": "yellow", "failed": "red"}


def print_found(found: Mapping[str, Any], console: Console) -> None:
    """Print what :func:`datagen.report.show.show` found."""
    row = found["row"]
    console.print(Text.assemble((f"{found['kind']} ", "bold"), (_clean(found["id"]), "bold cyan")))
    if row.get("modification") is not None:
        console.print(Text.assemble("\n  ", (f"“{_clean(row['modification'])}”", "bold")))
    _pairs(console, "", _facts(found))
    seen: set[str] = set()
    for role in ("references", "targets"):
        for member in row.get(role) or ():
            _pairs(console, role[:-1], _member(member))
            seen.add(member["id"])
    if found["kind"] == "item":
        _pairs(console, "item", _member(row))
    evidence = row.get("evidence")
    if evidence:
        _pairs(console, "evidence", _evidence(evidence))
    _scores(console, found["scores"])
    for number, negative in enumerate(row.get("negatives") or ()):
        score = "" if negative["score"] is None else f", score {negative['score']:g}"
        title = f"negative {number} ({_clean(negative['kind'])}{score})"
        item = negative["item"]
        known = [("id", f"{item['id']} (as above)")] if item["id"] in seen else _member(item)
        seen.add(item["id"])
        _pairs(console, title, known)
    _verdicts(console, found["verdicts"])
    _provenance(console, row.get("provenance") or ())


def _facts(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    row = found["row"]
    facts: list[tuple[str, Any]] = [("pair", row.get("pair")), ("split", row.get("split"))]
    lost = [row[name] for name in ("verdict", "rule", "step", "detail") if row.get(name)]
    facts.append(("verdict", ", ".join(map(str, lost))))
    if "shard" in found:
        shard = found["shard"]
        facts.append(("shard", f"{shard['path']}, key {shard['key']}" if shard else "in none"))
    if "triplets" in found:
        made = found["triplets"]
        rest = made["count"] - len(made["ids"])
        more = f" and {rest:,} more" if rest else ""
        facts.append(
            ("triplets", f"{made['count']:,}: {', '.join(made['ids'])}{more}".rstrip(": "))
        )
    if found["status"] != "finished":
        facts.append(("run", f"{found['status']}: what is complete is shown"))
    return facts


def _member(item: Mapping[str, Any]) -> list[tuple[str, Any]]:
    captions = item.get("captions") or [item.get("caption")]
    return [
        ("id", item.get("id")),
        ("key", item.get("key")),
        ("source", item.get("source")),
        *(("caption", caption) for caption in captions),
        ("labels", item.get("labels") if item.get("labels") != "{}" else None),
        *_medium(item.get("media")),
    ]


def _medium(media: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    if media is None:
        return [("media", "none (captions only)")]
    what = [str(media["modality"] or ""), str(media["format"] or "")]
    if media["width"]:
        what.append(f"{media['width']}×{media['height']} pixels")
    if media["seconds"] is not None:
        what.append(f"{media['seconds']:g} s")
    if media["frames"] is not None:
        what.append(f"{media['frames']} frames")
    offset = f", offset {media['offset']:,}" if media["offset"] else ""
    length = f", {media['size']:,} bytes ({size(media['size'])})" if media["size"] else ""
    return [
        ("media", f"{media['path']}{offset}{length}"),
        ("", " ".join(word for word in what if word)),
        ("sha256", media["sha256"]),
    ]


def _evidence(evidence: Mapping[str, Any]) -> list[tuple[str, Any]]:
    changes = [
        (f"change of {change['field']}", f"{change['removed'] or '–'} → {change['added'] or '–'}")
        for change in evidence["changes"] or ()
    ]
    return [
        ("operator", evidence["operator"]),
        ("reason", evidence["reason"]),
        *changes,
        ("score", evidence["score"]),
    ]


def _pairs(console: Console, title: str, facts: Iterable[tuple[str, Any]]) -> None:
    """A block of names and values; what is empty is left out."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    table.add_column(style="dim", no_wrap=True, min_width=9)
    table.add_column(overflow="fold")
    for name, value in facts:
        if value is not None and value != "":
            table.add_row(Text(_clean(name)), Text(_clean(value)))
    if table.row_count:
        _print(console, title, table)


def _scores(console: Console, scores: Sequence[Mapping[str, Any]]) -> None:
    table = _headed("score", "value", "of", "step", "thresholds")
    for one in scores:
        limits = ", ".join(f"{name} {value}" for name, value in one["thresholds"].items())
        value = "–" if one["value"] is None else f"{one['value']:g}"
        _add(table, one["name"], value, one["of"], one["step"], limits)
    if scores:
        _print(console, "scores", table)


def _verdicts(console: Console, verdicts: Sequence[Mapping[str, Any]]) -> None:
    table = _headed("step", "of", "id", "verdict", "why")
    for one in verdicts:
        why = ": ".join(str(one[name]) for name in ("rule", "detail") if one.get(name))
        verdict = Text(_clean(one["verdict"]), _COLOURS.get(one["verdict"], ""))
        _add(table, one["step"], one["of"], one["id"], verdict, why)
    if verdicts:
        _print(console, "verdicts", table)


def _provenance(console: Console, lines: Sequence[Mapping[str, Any]]) -> None:
    table = _headed("step", "operator", "model", "revision", "seed", "prompt")
    for one in lines:
        names = ("step", "operator", "model", "revision", "seed", "prompt")
        _add(table, *("" if one[name] is None else one[name] for name in names))
    if lines:
        _print(console, "provenance", table)


def _headed(*headings: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _add(table: Table, *cells: Any) -> None:
    table.add_row(*(cell if isinstance(cell, Text) else Text(_clean(cell)) for cell in cells))


def _print(console: Console, title: str, table: Table) -> None:
    console.print()
    if title:
        console.print(Text(title, "bold"))
    console.print(table)


def _clean(value: Any) -> str:
    return line(value, _MOST)

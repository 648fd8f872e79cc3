"""An audit as texts: figures for the card and the page, tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Found = Mapping[str, Any]

#: Rows of the table of triplets: the count, what it says, and what that means.
_COUNTS = {
    "right": "the text leads from the reference to the target",
    "complete": "nothing that changed is left unsaid",
    "minimal": "nothing is told that did not change",
    "best": "no other item is nearer to what is asked for",
    "ambiguous": "read in another way, the text gives another picture",
}
_LABELS = {"best": "target among the best answers"}
#: What a triplet needs to be solved in a space.
_NEEDS = {
    "text": "solved by the text alone",
    "reference": "solved by the reference alone",
    "both": "solved by both together only",
    "neither": "solved by none of these",
}
SIDES = ("made", "kept")


def share(part: int | None, whole: int) -> str:
    """``558 (94.6 %)``; an en dash of nothing."""
    if part is None or not whole:
        return "–"
    return f"{part:,} ({100 * part / whole:.1f} %)"


def percent(value: float | None) -> str:
    """``94.6 %``; an en dash for none."""
    return "–" if value is None else f"{100 * value:.1f} %"


def figures(found: Found) -> list[tuple[str, dict[str, str], str]]:
    """What is known of the triplets as (label, texts by ``made`` and ``kept``, note)."""
    sides = {side: found["triplets"][side] for side in SIDES}
    rows = [
        ("triplets", {side: f"{one['rows']:,}" for side, one in sides.items()}, ""),
        (
            "judged",
            {side: share(one["judged"], one["rows"]) for side, one in sides.items()},
            f"by {found['judge']['name']}: {found['judge']['about']}",
        ),
    ]
    for name, note in _COUNTS.items():
        if all(one[name] is None for one in sides.values()):
            continue
        texts = {
            side: share(one[name], one["known"].get(name, one["judged"]))
            for side, one in sides.items()
        }
        rows.append((_LABELS.get(name, name), texts, note))
    if others := found["false_negatives"]:
        texts = {side: share(others[side]["with_others"], others[side]["rows"]) for side in SIDES}
        rows.append(("with other right answers", texts, "of those that are right"))
        if negatives := others["negatives"]:
            text = share(negatives["answers"], negatives["rows"])
            rows.append(("negatives that are right answers", {"kept": text}, ""))
    for kind, one in found["noise"].items():
        rows.append((f"injected noise: {kind}", {side: f"{one[side]:,}" for side in SIDES}, ""))
    return [*rows, *_needed(found)]


def _needed(found: Found) -> list[tuple[str, dict[str, str], str]]:
    rows = []
    for space, counts in found["shortcuts"].items():
        if "trouble" in counts:
            continue
        sides = {"made": counts["made"], "kept": counts}
        note = f"the target stands at place {counts['rank']} among all items of space {space}"
        for name, label in _NEEDS.items():
            texts = {side: share(one[name], one["rows"]) for side, one in sides.items()}
            rows.append((f"{label} ({space})", texts, note))
    return rows


def filters(found: Found) -> list[tuple[str, list[str], str]]:
    """Of every step that takes rows away: its id, texts for :data:`HEADINGS`, and the thresholds
    that would keep 99 % of the right rows."""
    rows = []
    for step in found["steps"]:
        texts = [
            f"{step['judged']:,} {step['level']}",
            percent(step["right_share"]),
            percent(step["right_share_after"]),
            f"{step['rejected']['rows'] + step['failed']['rows']:,}",
            percent(step["precision"]),
            percent(step["recall"]),
            percent(step["right_kept"]),
        ]
        keeps = ", ".join(_keeps(one) for one in step["curves"])
        rows.append((step["id"], texts, f"keeps 99 % of the right rows: {keeps}" if keeps else ""))
    return rows


#: precision: share of the rejected rows that are wrong; recall: share of the wrong rows that go.
HEADINGS = (
    "judged",
    "right before",
    "after",
    "gone",
    "precision",
    "recall",
    "right kept",
)


def _keeps(curve: Found) -> str:
    value = curve["keeps_99"]
    name = curve["score"].removeprefix("score_")
    force = curve["in_force"]
    now = "" if force is None else f" (in force {force:g})"
    return f"{name} {curve['rule']} {'–' if value is None else f'{value:g}'}{now}"


def show(found: Found, console: Console) -> None:
    """Print the audit."""
    judge = found["judge"]
    known = f"knows {judge['known']:,} of {judge['items']:,} items"
    console.print(f"{'judge':9} {escape(judge['name'])} [dim]{escape(judge['about'])}; {known}[/]",
                  soft_wrap=True, highlight=False)  # fmt: skip
    console.print()
    table = _table("", *SIDES)
    for label, texts, _ in figures(found):
        table.add_row(escape(label), *(texts.get(side, "") for side in SIDES))
    console.print(table)
    if found["steps"]:
        console.print()
        table = _table("step", *HEADINGS)
        told = filters(found)
        for name, columns, _ in told:
            table.add_row(escape(name), *map(escape, columns))
        console.print(table)
        for name, _, keeps in told:
            if keeps:
                console.print(f"{escape(name)}: {escape(keeps)}", soft_wrap=True, highlight=False)
    for space, one in found["shortcuts"].items():
        if "trouble" in one:
            text = f"space {space} not asked: {one['trouble']}"
            console.print(escape(text), soft_wrap=True, highlight=False)
    wrong = {
        reason: count
        for reason, count in found["triplets"]["kept"]["reasons"].items()
        if count and reason not in _RIGHT
    }
    if wrong:
        console.print("\nof the kept ones", highlight=False)
        for reason, count in wrong.items():
            console.print(f"{count:9,} {escape(reason)}", soft_wrap=True, highlight=False)


#: Reasons of rows that are right.
_RIGHT = frozenset(["says what changed", "names what changed", "no noise injected"])


def _table(*headings: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(headings[0], no_wrap=True)
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    return table

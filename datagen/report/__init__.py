"""What a run says of itself: figures, a dataset card, and a page to look at."""

from __future__ import annotations

from datagen import note, schema, store
from datagen.errors import DatagenError
from datagen.result import Run


def write(run: Run | str, *, pictures: int = 1_000, rows: int = 50_000) -> dict[str, str]:
    """Write the dataset card and the page of a run into its directory; their paths by name.

    pictures: kept rows of the page that have pictures, and half as many of each rule; rows: how
    many it lists at most. Raises DatagenError for an earlier decision: the page of a run is that
    of the decision in force.
    """
    from datagen.report import card, page
    from datagen.report.statistics import statistics
    from datagen.result import load

    opened = load(run) if isinstance(run, str) else run
    current = note.read(opened.out).get("rows")
    if opened.status == "finished" and not note.in_force(opened.out, opened.note):
        raise DatagenError(
            f"{opened.out}: decision {str(opened.note.get('rows'))[:8]} is an earlier one, and the "
            f"page is that of the one in force, {str(current)[:8]}; 'datagen refilter' goes back"
        )
    stats = statistics(opened)
    shown = page.write(opened, pictures=pictures, rows=rows, stats=stats)
    written = {"page": shown, "card": card.write(opened, stats)}
    done = {"of": _mark(opened), "written": written}
    store.write_json(store.join(opened.out, "report", "done.json"), done)
    return written


def standing(run: Run) -> dict[str, str] | None:
    """What :func:`write` wrote of the run as it stands; None where it has not."""
    path = store.join(run.out, "report", "done.json")
    done = store.read_json(path) if store.exists(path) else {}
    there = done.get("of") == _mark(run) and all(map(store.exists, done["written"].values()))
    return dict(done["written"]) if there else None


def _mark(run: Run) -> str:
    return schema.content_id(schema.canonical_json(run.note))

"""What a comparison prints and writes, of figures that are made up."""

from __future__ import annotations

import io
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs datagen[models]")

from rich.console import Console  # noqa: E402

from datagen.comparing import results, trials  # noqa: E402


def rows(asked: int = 0, seeds: int = 3) -> list[dict[str, Any]]:
    values = [0.4475, 0.4375, 0.45][:seeds]
    found = [
        trials.Trial(name, name, 12345, 114, trials.Cost(413.9, count, 0), {"R@1": values})
        for name, count in (("covr_rule_based", asked), ("transagg", 0))
    ]
    return results.record(found, "R@1")


def printed(some: list[dict[str, Any]]) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=80).print(results.table(some, "R@1"))
    return out.getvalue().splitlines()


def test_a_comparison_fits_into_80_columns_with_whole_names() -> None:
    lines = printed(rows(asked=123456))
    assert [line.split()[0] for line in lines[-2:]] == ["covr_rule_based", "transagg"]
    assert "12,345" in lines[-1]
    assert "123,456" in lines[-2]
    assert "…" not in "".join(lines)


def test_columns_in_which_no_recipe_has_anything_are_left_out() -> None:
    told = " ".join(printed(rows(seeds=1)))
    assert "triplets" in told
    assert not {"asked", "painted", "±"} & set(told.split())
    assert {"asked", "±"} <= set(" ".join(printed(rows(asked=1))).split())

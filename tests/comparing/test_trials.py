"""What is told of a comparison before any recipe runs."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs datagen[models]")

from datagen import cli  # noqa: E402


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["demo"], "name at least two recipes"),
        (["demo", "transagg", "train.stepps=4"], "did you mean 'steps'?"),
        (["demo", "transagg", "--on", "cirr"], "run:DIR#SPLIT expected"),
        (["demo", "transagg", "-r", "covrr"], "did you mean 'covr'?"),
    ],
)
def test_mistakes_are_told_before_recipes_run(
    given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", *given, "--out", str(tmp_path / "out")])
    assert ended.value.code in (1, 2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert not (tmp_path / "out").exists()

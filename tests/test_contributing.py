"""The worked example of CONTRIBUTING.md is code that works."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from datagen import registry
from datagen.step import Filter

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"<!-- file: (?P<name>[\w.]+) -->\n```python\n(?P<code>.*?)```", re.DOTALL)
BLOCKS = dict(BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
FILTER = "datagen.filters.caption_words"


def load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Path]:
    for name, code in BLOCKS.items():
        (tmp_path / name).write_text(code)
    yield tmp_path
    sys.modules.pop(FILTER, None)
    sys.modules.pop("test_caption_words_of_the_guide", None)


def test_the_guide_holds_a_filter_and_its_test() -> None:
    assert sorted(BLOCKS) == ["caption_words.py", "test_caption_words.py"]
    assert len(BLOCKS["caption_words.py"].splitlines()) < 50


def test_the_filter_of_the_guide_is_found_as_an_operator(files: Path) -> None:
    cls = registry.find("filter", f"{files / 'caption_words.py'}:CaptionWords")
    assert issubclass(cls, Filter)


def test_the_test_of_the_guide_passes(files: Path) -> None:
    load(FILTER, files / "caption_words.py")
    module = load("test_caption_words_of_the_guide", files / "test_caption_words.py")
    claims = [value for name, value in vars(module).items() if name.startswith("test_")]
    assert len(claims) == 1
    claims[0]()


def test_the_folders_that_the_guide_names_are_those_of_the_registry() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `([\w/]+)/` \| (?:`(\w+)`|–) \|$", text, re.MULTILINE)
    assert {row[0] for row in rows} == set(registry.KINDS)
    for kind, folder, default in rows:
        package = registry.KINDS[kind].package.replace(".", "/")
        assert (ROOT / folder).samefile(ROOT / package)
        assert registry.KINDS[kind].default == (default or None)

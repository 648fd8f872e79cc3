"""What the folders promise: links, packages, import directions, and calls that never happen."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "datagen"
LINKS = ("filters", "recipes", "cluster")
OPERATORS = (
    "sources",
    "embed",
    "pairing",
    "texts",
    "edits",
    "filters",
    "negatives",
    "split",
    "shards",
)
#: The contract, and libraries that know nothing of recipes and runs.
FILTERS_MAY_IMPORT = {
    *("schema", "step", "space", "media", "models", "errors", "perceptual"),
    *("chat", "clip", "faults", "frames", "leaks", "moments", "preprocess", "store", "ranks"),
    *("vision", "pinned"),
}
MOST_LINES = 450


def modules() -> Iterator[tuple[str, Path]]:
    """(dotted name below datagen, file) of every module; links are followed."""
    for folder, folders, files in os.walk(PACKAGE, followlinks=True):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(files):
            if name.endswith(".py"):
                path = Path(folder, name)
                dotted = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
                yield dotted.removesuffix(".__init__"), path


MODULES = dict(modules())
NAMES = sorted(MODULES)


def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imported(name: str) -> set[str]:
    """Dotted names that the module imports, at any depth of its code."""
    found: set[str] = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import, line {node.lineno}"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def ours(name: str) -> set[str]:
    """What the module imports of datagen, as dotted names below it."""
    below = {one.removeprefix("datagen.") for one in imported(name) if one[:8] == "datagen."}
    known = set(MODULES)
    # ``from datagen.step import Filter`` names a thing in a module: keep the module.
    return {one if one in known else one.rpartition(".")[0] or one for one in below}


def operator_of(name: str) -> str | None:
    """``filters.similarity`` for a module of that operator; None for shared helpers and others."""
    parts = name.split(".")
    if parts[0] not in OPERATORS or len(parts) < 2 or parts[1].startswith("_"):
        return None
    return ".".join(parts[:2])


@pytest.mark.parametrize("name", LINKS)
def test_the_folders_at_the_top_are_linked_into_the_package(name: str) -> None:
    link = PACKAGE / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
    assert link.resolve() == ROOT / name


def test_a_wheel_holds_what_lies_behind_the_links(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    for link in LINKS:
        for path in (ROOT / link).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"datagen/{path.relative_to(ROOT)}" in held
    assert "datagen/py.typed" in held
    tops = {name.split("/")[0] for name in held}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"datagen"}


@pytest.mark.parametrize("name", [name for name in NAMES if operator_of(name)])
def test_an_operator_imports_no_other_operator(name: str) -> None:
    others = {operator_of(one) for one in ours(name)} - {None, operator_of(name)}
    assert not others


@pytest.mark.parametrize("name", [name for name in NAMES if name.split(".")[0] in OPERATORS])
def test_shared_helpers_of_operators_stay_in_their_folder(name: str) -> None:
    folder = name.split(".")[0]
    foreign = [
        one
        for one in ours(name)
        if one.split(".")[0] in OPERATORS and one.split(".")[0] != folder and "._" in one
    ]
    assert not foreign


@pytest.mark.parametrize("name", [name for name in NAMES if name.split(".")[0] == "filters"])
def test_a_filter_knows_only_the_contract(name: str) -> None:
    tops = {one.split(".")[0] for one in ours(name)}
    assert tops <= FILTERS_MAY_IMPORT | {"filters"}


@pytest.mark.parametrize("name", NAMES)
def test_only_the_engine_gathering_and_the_cluster_package_import_ray(name: str) -> None:
    if name not in ("engine", "gather") and name.split(".")[0] != "cluster":
        assert not {one for one in imported(name) if one.split(".")[0] == "ray"}


@pytest.mark.parametrize("name", NAMES)
def test_a_module_is_short_enough_to_read_in_one_sitting(name: str) -> None:
    lines = MODULES[name].read_text(encoding="utf-8").count("\n")
    assert lines <= MOST_LINES


@pytest.mark.parametrize("name", NAMES)
def test_data_is_never_executed(name: str) -> None:
    assert not list(forbidden(tree(name)))


@pytest.mark.parametrize(
    "code",
    [
        "eval(text)",
        "exec(text)",
        "pickle.load(file)",
        "pickle.loads(data)",
        "numpy.load(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text)",
        "os.system(command)",
        "subprocess.run(command, shell=True)",
        "Model.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_the_check_for_executed_data_catches(code: str) -> None:
    assert list(forbidden(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    ["torch.load(path, weights_only=True)", "yaml.safe_load(text)", "model.eval()", "np.load(p)"],
)
def test_the_check_for_executed_data_lets_pass(code: str) -> None:
    assert not list(forbidden(ast.parse(code)))


def forbidden(code: ast.AST) -> Iterator[str]:
    """Calls that run what the data says."""
    for node in ast.walk(code):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {key.arg: ast.unparse(key.value) for key in node.keywords}
        never = {"eval", "exec", "compile", "os.system", "os.popen", "yaml.load"}
        pickles = called.split(".")[0] in {"pickle", "dill", "marshal", "shelve", "joblib"}
        if called in never or (pickles and called.split(".")[-1] in {"load", "loads", "open"}):
            yield called
        if called == "torch.load" and keywords.get("weights_only") != "True":
            yield "torch.load without weights_only=True"
        for setting in ("allow_pickle", "trust_remote_code", "shell"):
            if keywords.get(setting) == "True":
                yield f"{called}({setting}=True)"

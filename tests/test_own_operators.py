"""The operators of docs/OWN_OPERATORS.md work: found in every way, tested, and in a real run."""

import os
import re
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFilter

import datagen
from datagen import registry
from datagen.step import Embedder, Filter, Source

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "OWN_OPERATORS.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"<!-- file: ([\w.]+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))
POINTS = tomllib.loads(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0])
COLOURS = ["red", "green", "blue", "orange"]


def write(folder, *names):
    for name in names:
        (folder / name).write_text(FILES[name])
    return folder


def command(*arguments, cwd, expect=0, path=()):
    """Run Python with ``path`` in front of the modules; returns what it said."""
    places = os.pathsep.join([*map(str, path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": places, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with the files of the page, and a shop: 32 sharp photos, 4 blurred, 1 broken."""
    folder = write(tmp_path_factory.mktemp("my shop"), "shop.py", "shop.yaml")
    (folder / "colours.txt").write_text("#ff0000\n#008000\n#0000ff\n#ffa500\n#ffffff\n")
    photos = folder / "photos"
    photos.mkdir()
    products = []
    for colour in COLOURS:
        for number in range(9):
            photo = Image.new("RGB", (48, 48), "white")
            draw = ImageDraw.Draw(photo)
            for stripe in range(0, 48, 8):
                draw.rectangle((stripe, number, stripe + 3, 47), fill=colour)
            if number == 8:
                photo = photo.filter(ImageFilter.GaussianBlur(20))
            photo.save(photos / f"{colour}{number}.png")
            products.append((f"{colour}{number}.png", f"a {colour} towel number {number}", colour))
    (photos / "cut.png").write_bytes((photos / "red0.png").read_bytes()[:60])
    products.append(("cut.png", "a red towel that is cut", "red"))
    with sqlite3.connect(folder / "shop.db") as connection:
        connection.execute("create table products (photo, title, colour)")
        connection.executemany("insert into products values (?, ?, ?)", products)
    connection.close()
    return folder


@pytest.fixture(scope="module")
def run(shop):
    """The run of the page's recipe."""
    said = command("-m", "datagen", "run", "shop.yaml", "--out", "runs/shop", cwd=shop)
    return datagen.load(str(shop / "runs" / "shop")), said


def test_the_tests_of_the_page_pass(tmp_path):
    write(tmp_path, "shop.py", "test_shop.py")
    said = command("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py", cwd=tmp_path)
    assert "3 passed" in said


def test_a_run_with_the_operators_of_the_page_knows_the_truth_of_the_shop(run):
    made, _ = run
    steps = {step["id"]: step for step in made.funnel}
    assert steps["source"]["rows_in"] == 37
    assert sum(steps["source"]["failed"].values()) == 1
    assert steps["Sharpness"]["rejected"] == {"blurred": 4}
    assert steps["embed_colours"]["kept"] == 32
    verdicts = made.verdicts("Sharpness").to_pylist()
    keys = dict(zip(*(made.items()[name].to_pylist() for name in ("id", "key")), strict=True))
    blurred = {keys[row["id"]] for row in verdicts if row["rule"] == "blurred"}
    assert blurred == {f"{colour}8.png" for colour in COLOURS}


def test_towels_of_one_colour_are_neighbours_in_the_space_of_the_page(run):
    made, _ = run
    items = made.table("Sharpness")
    colours = [key.rstrip("0123456789.png") for key in items["key"].to_pylist()]
    vectors = made.space("embed_colours").of(items["id"])
    cosines = vectors @ vectors.T
    for row, colour in enumerate(colours):
        same = [cosines[row, at] for at, other in enumerate(colours) if other == colour]
        others = [cosines[row, at] for at, other in enumerate(colours) if other != colour]
        assert min(same) > max(others)


def test_triplets_of_the_shop_change_the_colour_and_read_back(run):
    made, _ = run
    samples = list(made.samples())
    assert len(samples) == made.triplets().num_rows > 0
    assert {sample["targets"][0].size for sample in samples} == {(48, 48)}


def test_a_changed_rule_measures_nothing_again(shop, run):
    plan = command(
        *("-m", "datagen", "plan", "shop.yaml", "--out", "runs/shop", "steps.Sharpness.low=3"),
        cwd=shop,
    )
    lines = {line.split()[0]: line for line in plan.splitlines() if line.strip()}
    assert "done" in lines["source"]
    assert "going on, 36 rows" in lines["Sharpness"]


def test_the_recipe_is_found_and_its_file_beside_it_from_another_folder(shop, tmp_path):
    places = [f"source.path={shop}/shop.db", f"source.photos={shop}/photos"]
    colours = f"steps.embed.colours={shop}/colours.txt"
    said = command("-m", "datagen", "plan", shop / "shop.yaml", *places, colours, cwd=tmp_path)
    assert "Sharpness" in said


def test_faults_of_the_shop_are_lines_before_the_run(shop):
    said = command(
        *(
            "-m",
            "datagen",
            "plan",
            "shop.yaml",
            "source.path=none.db",
            "steps.embed.colours=none.txt",
        ),
        cwd=shop,
        expect=2,
    )
    assert "none.db: no such database; set `path`" in said
    assert "colours: none.txt: no such file" in said


def test_an_operator_of_a_file_is_explained(shop):
    said = command("-m", "datagen", "operators", "shop.py:Sharpness", cwd=shop)
    assert "the mean step between neighbouring pixels" in said
    assert re.search(r"low +2\.0 +float", said)


def test_settings_within_settings_are_explained_where_they_stand(shop):
    said = command("-m", "datagen", "operators", "text.llm", cwd=shop)
    assert re.search(r"engine +must be given +{kind: server, …}", said)
    of_server = said.partition("engine of kind server")[2].partition("engine of kind")[0]
    assert re.search(r"concurrency +32 +int +Requests at once", of_server)
    assert re.search(r"price_in +0\.0 +float", of_server.partition("engine.budget")[2])
    of_model = said.partition("engine of kind transformers")[2]
    assert re.search(r"batch_size +8 +int", of_model)


def test_a_module_that_python_can_import_is_found(tmp_path, monkeypatch):
    (tmp_path / "shop_tools").mkdir()
    (tmp_path / "shop_tools" / "photos.py").write_text(FILES["shop.py"])
    monkeypatch.syspath_prepend(tmp_path)
    assert issubclass(registry.find("filter", "shop_tools.photos:Sharpness"), Filter)


@pytest.fixture
def installed(tmp_path):
    """A site folder with a package that names the page's operators as its entry points."""
    folder = write(tmp_path, "shop.py") / "shop-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 1.0\n")
    points = POINTS["project"]["entry-points"]["datagen.operators"]
    lines = [f"{name} = {place}" for name, place in points.items()]
    (folder / "entry_points.txt").write_text("\n".join(["[datagen.operators]", *lines, ""]))
    return tmp_path


def test_operators_of_an_installed_package_are_listed_and_explained(installed, tmp_path):
    listed = command("-m", "datagen", "operators", cwd=ROOT, path=[installed])
    for name in POINTS["project"]["entry-points"]["datagen.operators"]:
        assert name in listed
    said = command("-m", "datagen", "operators", "filter.sharpness", cwd=ROOT, path=[installed])
    assert "the mean step between neighbouring pixels" in said


def test_operators_of_an_installed_package_run_by_name(installed, shop):
    text = FILES["shop.yaml"]
    for kind, cls in (("shop", "Shop"), ("sharpness", "Sharpness"), ("palette", "Palette")):
        text = text.replace(f'"shop.py:{cls}"', kind)
    # Beside no shop.py: only the package can bring the operators.
    recipes = shop / "by_name"
    recipes.mkdir(exist_ok=True)
    (recipes / "by_name.yaml").write_text(text)
    arguments = ["-m", "datagen", "run", recipes / "by_name.yaml", "--out", "runs/by_name"]
    command(*arguments, cwd=shop, path=[installed])
    steps = {step["id"]: step for step in datagen.load(str(shop / "runs" / "by_name")).funnel}
    assert steps["sharpness"]["rejected"] == {"blurred": 4}


def test_the_kinds_of_the_page_are_those_of_the_contract(shop):
    for kind, name, base in (
        ("source", "Shop", Source),
        ("filter", "Sharpness", Filter),
        ("embed", "Palette", Embedder),
    ):
        assert issubclass(registry.find(kind, f"shop.py:{name}", str(shop)), base)

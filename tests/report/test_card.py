"""The dataset card, read by the Hub's own parser, by datasets, and by a Markdown renderer."""

import html
import json
import re
from pathlib import Path

import pytest
import tiny_run
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from datagen.report import _hub, _markdown, card
from datagen.report.statistics import statistics

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "[click](javascript:alert(1)) ![x](http://evil.example/x.png)",
    "| a | b |\n|---|---|\n| `x` | ``y`` ```z``` |",
    "---\nlicense: mit\n---\n# heading",
    "{{ 7 * 7 }}{% raw %}",
    "http://evil.example www.evil.example <http://evil.example> a@evil.example",
    "\u202eright to left\u2066 \x1b[31mred \x00 \u2028 end`",
    "<!-- comment -->&lt;b&gt; *bold* _it_ ~~no~~ $x$ \\",
)
TAGS = {
    "h1",
    "h2",
    "h3",
    "p",
    "code",
    "pre",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "ul",
    "li",
}
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def world(out, captions, **options):
    return [tiny_run.item(out, n, caption, **options) for n, caption in enumerate(captions)]


@pytest.fixture
def made(tmp_path):
    """Shards of two splits; media of two formats, and triplets of one and of two references."""
    items = world(tmp_path, [f"caption {n}" for n in range(4)], labels={"licence": "CC-BY-4.0"})
    items.append(
        tiny_run.item(tmp_path, 4, "as jpeg", kind="jpeg", labels={"licence": "cc-by-4.0"})
    )
    rows = [
        tiny_run.triplet([items[0]], [items[1]], "make it red", split="train"),
        tiny_run.triplet(
            *([items[0], items[4]], [items[2]], "join them"),
            split="train",
            negatives=[("reference", items[0]), ("mined", items[4])],
        ),
        tiny_run.triplet([items[1]], [items[4]], "as jpeg", split="train"),
        tiny_run.triplet([items[2]], [items[3]], "make it blue", split="val"),
    ]
    return tiny_run.write(tmp_path, items, rows, shards=True)


def parts(path):
    """The metadata and the Markdown of a card."""
    _, head, body = Path(path).read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_hubs_own_parser_reads_the_metadata_and_writes_it_back(made):
    hub = pytest.importorskip("huggingface_hub", reason="needs datagen[hf]")
    path = card.write(made)
    read = hub.DatasetCard.load(path)
    head, _ = parts(path)
    told = read.data.to_dict()
    assert told == head
    again = hub.DatasetCardData(**told, ignore_metadata_errors=False)
    assert yaml.safe_load(again.to_yaml()) == head
    assert head["license"] == "cc-by-4.0"
    assert head["size_categories"] == ["n<1K"]
    assert head["task_categories"] == ["image-feature-extraction"]
    assert "composed-image-retrieval" in head["tags"]
    assert "language" not in head


def test_datasets_loads_the_folder_by_its_card(made, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="needs datagen[hf]")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    card.write(made)
    loaded = datasets.load_dataset(made.out, cache_dir=str(tmp_path / "cache"))
    assert {name: rows.num_rows for name, rows in loaded.items()} == {"train": 3, "val": 1}
    kept = {row["id"]: row for row in made.triplets().to_pylist()}
    for row in [*loaded["train"], *loaded["val"]]:
        truth = kept[row["__key__"]]
        assert row["txt"] == truth["modification"]
        assert row["json"]["scores"]["similarity_caption"] == truth["score_similarity_caption"]
        told = [one["caption"] for one in row["json"]["references"]]
        assert told == [one["caption"] for one in truth["references"]]
        there = {name for name in row if row[name] is not None and name[:2] != "__"}
        files = [one["file"] for role in ("references", "targets", "negatives")
                 for one in row["json"][role]]  # fmt: skip
        assert there == {"txt", "json", *files}
        for name in files:
            assert row[name].size == (8, 6)


def test_figures_are_written_as_json_beside_the_card(made):
    card.write(made)
    told = json.loads(Path(made.out, "report", "statistics.json").read_text(encoding="utf-8"))
    assert told == json.loads(json.dumps(statistics(made)))


def test_a_card_that_a_person_changed_stays_and_ours_is_written_anew(made):
    path = Path(card.write(made))
    first = path.read_bytes()
    assert card.write(made) == str(path)
    assert path.read_bytes() == first
    path.write_text(
        path.read_text(encoding="utf-8").replace("# tiny", "# My data"), encoding="utf-8"
    )
    changed = path.read_bytes()
    beside = Path(card.write(made))
    assert beside == Path(made.out, "report", "README.md")
    assert (path.read_bytes(), beside.read_bytes()) == (changed, first)


def rendered(path):
    return MARKDOWN.render(parts(path)[1])


def test_hostile_texts_are_inert_in_the_card(tmp_path):
    items = [
        tiny_run.item(tmp_path, n, text, source=text, labels={"license": text})
        for n, text in enumerate(HOSTILE)
    ]
    rows = [tiny_run.triplet([one], [items[0]], one["captions"][0]) for one in items[1:]]
    recipe = {**tiny_run.RECIPE, "name": HOSTILE[0], "about": HOSTILE[7] + HOSTILE[1]}
    recipe["source"] = {"type": "folder", "id": HOSTILE[2], "path": "````\n</script>" + HOSTILE[3]}
    versions = {"datagen": HOSTILE[1]}
    run = tiny_run.write(tmp_path, items, rows, recipe=recipe, note={"versions": versions})
    path = card.write(run)
    head, _ = parts(path)
    assert head["pretty_name"] == HOSTILE[0]
    assert head["license"] == "other"
    page = rendered(path)
    tags = set(re.findall(r"<([a-z0-9]+)", page))
    assert tags <= TAGS
    assert "{{ 7 * 7 }}" in html.unescape(page)
    assert not re.search("[\x00-\x08\x1b\u202e\u2066\u2028]", page)
    # No text has opened a section, and none has made a cell of its own.
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == ["Examples", "Figures", "Steps", "How it was made", "Sources and licences",
                      "Reading it", "Limits"]  # fmt: skip
    for table in re.findall(r"<table>.*?</table>", page, re.DOTALL):
        widths = {len(re.findall("<t[hd][ >]", row)) for row in table.split("</tr>")[:-1]}
        assert len(widths) == 1
    # Every row of a table that was written is one row of a table that is shown.
    written = [line for line in parts(path)[1].splitlines() if line.startswith("|")]
    rules = [line for line in written if set(line) <= set("|-: ") and "-" in line]
    assert page.count("<tr>") == len(written) - len(rules)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=40) | st.sampled_from(HOSTILE))
def test_any_text_comes_out_of_a_renderer_as_it_went_in(text):
    shown = _markdown.line(text)
    for made in (_markdown.code(text), _markdown.plain(text)):
        page = MARKDOWN.render(f"| head |\n|---|\n| {made} |\n")
        (cell,) = re.findall(r"<td>(.*?)</td>", page, re.DOTALL)
        cell = html.unescape(re.sub(r"^<code>(.*)</code>$", r"\1", cell, flags=re.DOTALL))
        assert cell.strip() == shown.strip() or (not shown and cell == "–")
        assert "<a" not in page


@given(st.text(alphabet="`~a\n |", max_size=60))
def test_no_text_leaves_its_block(text):
    tokens = MARKDOWN.parse(f"{_markdown.block(text, 'yaml')}\n\nend\n")
    assert [token.type for token in tokens] == [
        "fence",
        *("paragraph_open", "inline", "paragraph_close"),
    ]
    assert tokens[0].content.rstrip() == text.rstrip()


@pytest.mark.parametrize(
    ("sources", "wanted"),
    [
        ([("MIT", [], 0)], {"license": "mit"}),
        ([("CC0-1.0", [], 0), ("cc0-1.0", [], 0)], {"license": "cc0-1.0"}),
        ([("ODbL-1.0", [], 0)], {"license": "odbl"}),
        ([(None, [], 5)], {"license": "unknown"}),
        ([("MIT", [], 0), (None, [], 5)], {"license": "other", "license_name": "see-sources"}),
        ([("MIT", [], 0), ("CC0-1.0", [], 0)], {"license": "other", "license_name": "see-sources"}),
        ([("My Own: v2", [], 0)], {"license": "other", "license_name": "my-own-v2"}),
        ([(None, ["MIT", "mit"], 0)], {"license": "mit"}),
        ([(None, ["MIT"], 1)], {"license": "other", "license_name": "see-sources"}),
        ([(None, ["1", "2"], 0)], {"license": "other", "license_name": "see-sources"}),
    ],
)
def test_the_licence_is_what_all_sources_agree_on(sources, wanted):
    told = [
        {"license": stated, "licences_of_items": [{"value": v} for v in labels],
         "items_without_licence": without, "items_used": 1}
        for stated, labels, without in sources
    ]  # fmt: skip
    unused = {**told[0], "license": "GPL-3.0", "items_used": 0}
    assert _hub.license_of([*told, unused]) == wanted


@pytest.mark.parametrize(
    ("count", "name"),
    [
        *((999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (10**5, "100K<n<1M")),
        *((10**9, "1B<n<10B"), (10**13, "n>1T")),
    ],
)
def test_sizes_are_the_hubs_classes(count, name):
    assert _hub.size_category(count) == name


def test_the_card_tells_recipe_steps_prompts_and_limits(made):
    _, body = parts(card.write(made))
    fence = re.search(r"```yaml\n(.*?)```", body, re.DOTALL)
    assert yaml.safe_load(fence[1]) == made.note["recipe"]
    assert "```\ndo it\n```" in body
    assert "`mine` | 4 | 4 (100 %) | 4 triplets" in body
    assert "Not measured: benchmark overlap" in body
    assert 'load_dataset("PATH/OF/THIS/FOLDER", split="train"' in body


def test_a_password_in_an_address_is_left_out():
    text = card.recipe_text({"source": {"path": "https://user:secret@host/x"}, "at": "a@b"})
    assert yaml.safe_load(text) == {"source": {"path": "https://…@host/x"}, "at": "a@b"}


@pytest.mark.parametrize("status", ["finished", "stopped"])
def test_runs_without_triplets_or_shards_have_cards_too(made, status):
    made.note["status"] = status
    for path in ("triplets.parquet", "shards/manifest.json"):
        Path(made.out, path).unlink()
    head, body = parts(card.write(made))
    assert "configs" not in head
    assert "5 items" in body
    assert "## Examples" not in body


def test_triplets_without_shards_are_loaded_from_their_table(made, tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs datagen[hf]")
    Path(made.out, "shards", "manifest.json").unlink()
    card.write(made)
    rows = datasets.load_dataset(made.out, split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.num_rows == 4

"""The page in a browser: what it shows, that it asks nobody, and that texts stay texts."""

import json
import os
import re
import shutil
from pathlib import Path

import made_run
import pytest
import tiny_run

import datagen
from datagen import report, store
from datagen.report import page
from datagen.report.show import show
from datagen.report.statistics import statistics

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

CHROMIUM = os.environ.get("DATAGEN_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (DATAGEN_CHROMIUM)")

HOSTILE = {
    0: "</script><img src=x onerror=alert(1)><script>alert(2)</script>",
    1: "{{ 7 * 7 }} {% for x in y %} ${7*7} #{7*7} <%= 7*7 %>",
    2: "\u202eright to left override \u2066 isolate \u200f mark",
    3: "a \x00 null, a \u2028 separator, \u2029 another, \x1b[31m red",
    4: "long " + "w" * 100_000 + " end",
    5: '" onmouseover="alert(3)" x=\'" --> <!-- ]]> &lt;b&gt; \\u003cb\\u003e',
    6: "javascript:alert(4) <svg/onload=alert(5)> `${alert(6)}` __proto__ constructor",
    7: "כלב אדום و قطة سوداء 红色的猫 🙂",
}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        made = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield made
        made.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    truth = made_run.make(str(out))
    return Path(page.write(datagen.load(str(out)))), truth


@pytest.fixture
def opened(browser):
    """Opens a page and fails the test where it errs or asks anything but files."""
    contexts, faults = [], []

    def visit(path, fragment="", *, width=1280, height=900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda said: faults.append(said.text))
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        tab.on("request", lambda asked: asked.url.startswith("file://") or faults.append(asked.url))
        tab.goto(f"file://{path}{fragment}")
        return tab

    yield visit
    for context in contexts:
        context.close()
    assert not faults


def settle(tab, drawn=0):
    # Waiting for a function would need eval, which the page forbids.
    tab.wait_for_selector(f"#list[data-drawn]:not([data-drawn='{drawn}'])", timeout=20_000)


def count(tab):
    return int(tab.get_attribute("#list", "data-drawn"))


def ids(tab):
    """Ids of all rows that are found, page by page."""
    found = tab.eval_on_selector_all(".card", "cards => cards.map(card => card.dataset.id)")
    while tab.is_enabled("#next"):
        before = count(tab)
        tab.click("#next")
        settle(tab, before)
        found += tab.eval_on_selector_all(".card", "cards => cards.map(card => card.dataset.id)")
    return found


def choose(tab, **values):
    for name, value in values.items():
        before = count(tab)
        tab.select_option(f"#{name}", value)
        settle(tab, before)


def test_the_list_is_every_triplet_of_the_run_in_order_of_id(made, opened):
    path, truth = made
    tab = opened(path)
    settle(tab)
    assert ids(tab) == truth["id"].tolist()
    choose(tab, **{"f-level": "triplets"})
    triplets = datagen.load(str(path.parent.parent)).triplets(every=True)
    assert ids(tab) == triplets["id"].to_pylist()


def test_a_card_shows_text_members_scores_evidence_and_verdict(made, opened):
    path, truth = made
    for _, row in truth.groupby("verdict").head(2).iterrows():
        tab = opened(path, f"#q={row['id']}")
        settle(tab)
        (card,) = tab.query_selector_all(".card")
        shown = card.inner_text()
        for text in (row["modification"], row["evidence"]["reason"], row["split"]):
            assert text is None or text in shown
        assert f"{row['score_similarity_caption']:.4f}" in shown
        for member in (*row["references"], *row["targets"]):
            assert member["caption"] in shown
        labels = [tile.get_attribute("aria-label") for tile in card.query_selector_all(".tile")]
        wanted = [
            f"{role}: {row[f'{role}s'][0]['caption']}"
            for role in ("reference", "target")
            if row[f"{role}s"][0]["media"]
        ]
        assert [label for label in labels if label] == wanted
        if row["verdict"] != "kept":
            assert row["detail"] in shown
            assert f"{row['verdict']} by {row['step']}" in shown


@pytest.mark.parametrize(
    ("facet", "value"),
    [
        *(("verdict", "rejected"), ("verdict", "failed"), ("rule", "too_low")),
        *(("step", "clip_score"), ("split", "val"), ("level", "pairs")),
    ],
)
def test_filters_give_the_rows_that_pandas_gives(made, opened, facet, value):
    path, truth = made
    tab = opened(path)
    settle(tab)
    choose(tab, **{f"f-{facet}": value})
    wanted = truth[truth[facet] == value]["id"].tolist()
    assert wanted
    assert ids(tab) == wanted
    assert f"of {len(wanted)}" in tab.inner_text("#count")


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("score", ["score_clip_score", "score_similarity_caption"])
def test_orders_are_those_of_pandas(made, opened, score, down):
    path, truth = made
    tab = opened(path)
    settle(tab)
    choose(tab, sort=score)
    if down:
        before = count(tab)
        tab.click("#down")
        settle(tab, before)
    values = truth.astype({score: float})
    wanted = values.sort_values(score, ascending=not down, kind="stable", na_position="last")
    assert ids(tab) == wanted["id"].tolist()


@pytest.mark.parametrize("query", ["mug", "RED hat", '"a red"', "times turn", "zebra", "12 times"])
def test_a_search_finds_words_in_texts_and_captions(made, opened, query):
    path, truth = made
    tab = opened(path)
    settle(tab)
    before = count(tab)
    tab.fill("#q", query)
    settle(tab, before)
    terms = [phrase or word for phrase, word in re.findall(r'"([^"]+)"|(\S+)', query.lower())]
    members = truth["references"] + truth["targets"]
    texts = truth["modification"].fillna("") + members.map(
        lambda found: "\n" + "\n".join(member["caption"] for member in found)
    )
    wanted = truth[[all(term in text.lower() for term in terms) for text in texts]]
    assert ids(tab) == wanted["id"].tolist()
    if query == "zebra":
        assert "No row" in tab.inner_text("#list")


def test_keys_move_search_open_and_close(made, opened):
    path, truth = made
    tab = opened(path)
    settle(tab)
    focused = "document.activeElement.dataset.id"
    tab.keyboard.press("j")
    assert tab.evaluate(focused) == truth["id"][0]
    tab.keyboard.press("j")
    tab.keyboard.press("ArrowDown")
    assert tab.evaluate(focused) == truth["id"][2]
    tab.keyboard.press("k")
    assert tab.evaluate(focused) == truth["id"][1]
    tab.keyboard.press("Enter")
    tab.wait_for_selector("dialog[open]")
    assert truth["id"][1] in tab.inner_text("#panel-title")
    assert tab.url.endswith(f"#t={truth['id'][1]}")
    tab.keyboard.press("j")
    tab.wait_for_selector(f"#panel-title:has-text('{truth['id'][2]}')")
    tab.keyboard.press("Escape")
    tab.wait_for_selector("dialog", state="hidden")
    assert "t=" not in tab.url
    before = count(tab)
    tab.keyboard.press("j")
    tab.keyboard.press("ArrowRight")
    settle(tab, before)
    assert tab.evaluate(focused) == truth["id"][16]
    tab.keyboard.press("/")
    assert tab.evaluate("document.activeElement.id") == "q"
    tab.keyboard.press("Escape")
    assert tab.evaluate("document.activeElement.id") != "q"


def test_details_and_negatives_show_everything_about_a_triplet(made, opened):
    path, truth = made
    row = truth[[len(n) == 3 if isinstance(n, list) else False for n in truth["negatives"]]].iloc[0]
    tab = opened(path, f"#t={row['id']}")
    tab.wait_for_selector("dialog[open]")
    shown = tab.inner_text("#panel-body")
    for member in (*row["references"], *row["targets"]):
        assert member["id"] in shown
        assert member["key"] in shown
    for text in (row["id"], row["pair"], row["evidence"]["changes"][0]["removed"], "made"):
        assert text in shown
    assert len(tab.query_selector_all("#panel-body .negatives figure")) == 3
    tab.keyboard.press("Escape")
    before = count(tab)
    tab.fill("#q", row["id"])
    settle(tab, before)
    assert not tab.is_visible(".card .negatives")
    tab.click(".card button[aria-expanded]")
    tab.wait_for_selector(".card .negatives figure")
    assert tab.get_attribute(".card button[aria-expanded]", "aria-expanded") == "true"


def test_hostile_texts_are_shown_as_they_are_and_do_nothing(tmp_path, opened):
    truth = made_run.make(str(tmp_path), captions=HOSTILE, texts=HOSTILE)
    note = json.loads((tmp_path / "run.json").read_text())
    note["recipe"]["name"] = note["recipe"]["about"] = note["error"] = HOSTILE[0]
    (tmp_path / "run.json").write_text(json.dumps(note))
    path = report.write(str(tmp_path))["page"]
    markup = Path(path).read_text(encoding="utf-8")
    assert "<img" not in markup
    tab = opened(path)
    settle(tab)
    assert tab.inner_text("h1") == HOSTILE[0]
    shown = set()
    while True:
        shown.update(tab.eval_on_selector_all(".told", "all => all.map(one => one.textContent)"))
        if not tab.is_enabled("#next"):
            break
        before = count(tab)
        tab.click("#next")
        settle(tab, before)
    made = set(truth["modification"].dropna())
    wanted = [text for number, text in HOSTILE.items() if number != 4 and text in made]
    assert len(wanted) >= 6
    assert set(wanted) <= shown
    assert any(text.startswith("long www") and "more characters" in text for text in shown)
    assert tab.evaluate("document.querySelectorAll('img, #list script, #list svg').length") == 0
    for name in truth[truth["modification"].isin(made)]["id"].head(12):
        tab.goto(f"file://{path}#t={name}")
        tab.wait_for_selector("dialog[open]")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1280


def test_the_policy_of_the_page_lets_no_other_code_run(made, browser):
    path, _ = made
    tab = browser.new_context().new_page()
    tab.goto(f"file://{path}")
    settle(tab)
    said = []
    tab.on("console", lambda message: said.append(message.text))
    tab.evaluate(
        """() => {
            const picture = document.createElement("img");
            picture.src = "https://example.com/x.png";
            const script = document.createElement("script");
            document.body.append(picture, script);
        }"""
    )
    tab.wait_for_timeout(300)
    assert any("Content Security Policy" in text for text in said)
    with pytest.raises(playwright.Error, match="TrustedScript"):
        tab.evaluate("() => { document.body.setAttribute('onclick', 'alert(1)'); }")
    with pytest.raises(playwright.Error, match="TrustedHTML"):
        tab.evaluate("() => { document.body.innerHTML = '<b>x</b>'; }")
    tab.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_no_sideways_scroll_and_all_texts_have_contrast(made, opened, scheme):
    path, _ = made
    tab = opened(path, width=360, height=720, color_scheme=scheme)
    settle(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1]
    assert (int(dark.split(",")[0]) < 60) == (scheme == "dark")
    assert tab.evaluate(CONTRASTS) == []
    tab.click(".card .details")
    tab.wait_for_selector("dialog[open]")
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    assert tab.evaluate("document.getElementById('panel-body').scrollWidth") <= 360


#: Texts whose contrast with the nearest painted ground is below 4.5 (WCAG 2.2, AA).
CONTRASTS = """() => {
    const parse = (text) => {
        const all = text.match(/[\\d.]+/g).map(Number);
        const scale = text.startsWith("color(") ? 255 : 1;
        return [...all.slice(0, 3).map((value) => value * scale), all.length > 3 ? all[3] : 1];
    };
    const light = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map((v) => v / 255)
            .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const ground = (node) => {
        for (let at = node; at; at = at.parentElement) {
            const found = parse(getComputedStyle(at).backgroundColor);
            if (found[3] > 0.7) return found;
        }
        return [255, 255, 255, 1];
    };
    const faults = [];
    for (const node of document.querySelectorAll("body *")) {
        const own = [...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
        const hidden = !node.checkVisibility() || node.disabled || node.closest("script, svg");
        if (!own || hidden) continue;
        const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) faults.push([node.tagName, node.className, node.textContent, ratio]);
    }
    return faults;
}"""


def test_the_theme_can_be_turned_and_stays(made, opened):
    path, _ = made
    tab = opened(path, color_scheme="light")
    settle(tab)
    ground = "getComputedStyle(document.body).backgroundColor"
    before = tab.evaluate(ground)
    tab.click("#theme")
    assert tab.evaluate(ground) != before
    tab.reload()
    settle(tab)
    assert tab.evaluate(ground) != before


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_film_strips_move_only_where_movement_is_wanted(made, opened, motion):
    path, truth = made
    clip = next(
        row
        for _, row in truth.iterrows()
        if any(m["media"] and m["media"]["modality"] == "video" for m in row["references"])
    )
    tab = opened(path, f"#q={clip['id']}", reduced_motion=motion)
    settle(tab)
    tab.evaluate("document.getElementById('list').scrollIntoView({behavior: 'instant'})")
    seen = set()
    for _ in range(12):
        seen.add(
            tab.evaluate(
                "document.querySelector('.tile[tabindex] .picture').style.backgroundPosition"
            )
        )
        tab.wait_for_timeout(120)
    assert (len(seen) > 2) == (motion == "no-preference")
    label = tab.get_attribute("#play", "aria-label")
    assert label == ("Pause clips" if motion == "no-preference" else "Play clips")


def test_rules_of_the_funnel_lead_to_their_rows(made, opened):
    path, truth = made
    tab = opened(path)
    settle(tab)
    button = tab.query_selector("button[data-rule='too_different']")
    tab.evaluate("for (const one of document.querySelectorAll('.why details')) one.open = true")
    before = count(tab)
    button.click()
    settle(tab, before)
    assert ids(tab) == truth[truth["rule"] == "too_different"]["id"].tolist()


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4])
def test_a_run_that_was_stopped_shows_how_far_it_came(tmp_path, opened, steps):
    made_run.make(str(tmp_path))
    made_run.cut_to(str(tmp_path), steps)
    path = page.write(datagen.load(str(tmp_path)))
    tab = opened(path)
    if steps:
        settle(tab)
    assert tab.inner_text(".status") == "stopped"
    assert len(tab.query_selector_all(".funnel tbody tr:first-child")) == steps
    assert "clip_score" in tab.inner_text("#funnel")
    assert tab.evaluate("document.documentElement.scrollWidth") == 1280


@pytest.mark.parametrize("noted", [0, 2])
def test_a_run_that_was_killed_shows_what_is_done_though_its_note_tells_of_less(
    tmp_path, opened, noted
):
    made_run.make(str(tmp_path), status="running")
    whole = datagen.load(str(tmp_path))
    note = {**whole.note, "funnel": whole.funnel[:noted]}
    store.write_json(str(tmp_path / "run.json"), note)
    # A step behind one that is not done does not count, though it stands.
    (tmp_path / "steps" / "text-text" / "0" / "done.json").unlink()
    run = datagen.load(str(tmp_path))
    assert run.funnel == whole.funnel[:3]
    path = report.write(run)["page"]
    tab = opened(path)
    settle(tab)
    shown = tab.eval_on_selector_all(".funnel tbody th code", "all => all.map(n => n.textContent)")
    assert shown == ["source", "made", "similarity"]
    assert tab.inner_text("#rows-title") == "Pairs"
    assert "Not done yet: text, clip_score." in tab.inner_text("#funnel")
    stats = statistics(run)
    assert [step["id"] for step in stats["funnel"]] == shown
    assert [score["name"] for score in stats["scores"]] == ["similarity_caption"]
    assert stats["items"]["items"] == 40
    assert show(run, whole.table("similarity")["id"][0].as_py())["kind"] == "pair"
    assert "is not finished and has no triplets yet" in (tmp_path / "README.md").read_text()


def test_many_targets_stand_in_rows_and_the_last_are_shown_when_asked_for(tmp_path, opened):
    items = [tiny_run.item(tmp_path, n, f"caption {n}") for n in range(12)]
    rows = [tiny_run.triplet(items[:1], items[1:11], "one of ten", score=None)]
    tab = opened(page.write(tiny_run.write(tmp_path, items, rows)))
    settle(tab)
    targets = ".members.target figure"
    assert len(tab.query_selector_all(targets)) == 6
    assert tab.locator(".card").bounding_box()["height"] < 700
    tab.click("text=4 more")
    told = tab.eval_on_selector_all(targets, "all => all.map(one => one.innerText)")
    wanted = [f"Target {n}\ncaption {n}" for n in range(1, 11)]
    assert [" ".join(one.split()) for one in told] == [" ".join(one.split()) for one in wanted]


def test_texts_of_any_length_leave_the_page_at_a_readable_size(tmp_path, opened):
    texts = dict.fromkeys(range(8), "x" * 100000)
    made_run.make(str(tmp_path), texts=texts, captions={0: "word " * 20_000})
    run = datagen.load(str(tmp_path))
    run.note["recipe"].update(name="long name " * 200, about="so much " * 500)
    path = page.write(run)
    assert os.path.getsize(path) < 300_000
    tab = opened(path)
    settle(tab)
    assert tab.evaluate("document.documentElement.scrollHeight") < 20_000
    assert tab.inner_text("#count").startswith("1–16 of 80")


def test_items_alone_stand_side_by_side(tmp_path, opened):
    made_run.make(str(tmp_path))
    made_run.cut_to(str(tmp_path), 1)
    tab = opened(page.write(datagen.load(str(tmp_path))))
    settle(tab)
    boxes = [one.bounding_box() for one in tab.query_selector_all(".card")[:3]]
    assert len({box["y"] for box in boxes}) == 1
    assert "Reference" not in tab.inner_text("#list")


def test_pictures_that_are_left_out_or_lost_have_a_tile_and_a_count(tmp_path, opened):
    truth = made_run.make(str(tmp_path))
    for number in (11, 12):
        for path in (tmp_path / "media").glob(f"{number}.*"):
            path.unlink()
    run = datagen.load(str(tmp_path))
    tab = opened(page.write(run))
    settle(tab)
    assert "2 items could not be read again: 2 missing file" in tab.inner_text("#rows")
    before = count(tab)
    tab.fill("#q", '"number 12"')
    settle(tab, before)
    assert "cannot be read: missing file" in tab.inner_text("#list")
    tab = opened(page.write(run, pictures=0, rows=30))
    settle(tab)
    triplets, pairs = (int((truth["level"] == level).sum()) for level in ("triplets", "pairs"))
    said = f"30 of {triplets} triplets and {pairs} rejected pairs are listed"
    assert said in tab.inner_text("#rows")
    assert len(ids(tab)) == 30
    assert tab.query_selector(".picture") is None
    assert len([name for name in os.listdir(tmp_path / "report") if name[:5] == "data-"]) == 1


def test_a_run_of_captions_alone_shows_texts(tmp_path, opened):
    truth = made_run.make(str(tmp_path), media=False)
    tab = opened(page.write(datagen.load(str(tmp_path))))
    settle(tab)
    assert ids(tab) == truth["id"].tolist()
    assert tab.query_selector(".picture") is None
    assert tab.query_selector(".card .tile.words").inner_text()


def test_the_page_is_small_and_names_no_path_of_media(made):
    path, _ = made
    assert path.stat().st_size < 1_000_000
    out = str(path.parent.parent)
    for file in path.parent.rglob("*"):
        if file.is_file():
            assert out.encode() not in file.read_bytes()


def test_the_command_writes_page_and_card(tmp_path, capsys):
    from datagen.cli import main

    made_run.make(str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path), "--pictures", "5", "--rows", "50"])
    assert ended.value.code == 0
    said = capsys.readouterr().out.split()
    assert said[said.index("page") + 1] == str(tmp_path / "report" / "index.html")
    assert (tmp_path / "report" / "index.html").exists()
    assert (tmp_path / "README.md").exists()
    assert (tmp_path / "report" / "recipe.yaml").exists()


def test_a_run_on_a_store_gets_its_page_there(tmp_path):
    out = "memory://runs/made"
    made_run.make(out)
    path = page.write(datagen.load(out))
    assert path == "memory://runs/made/report/index.html"
    names = store.names(store.join(out, "report"))
    (folder,) = [name for name in names if name.startswith("data-")]
    assert {"index-0.js", "rows-0.js", "sheet-0.webp"} <= set(
        store.names(store.join(out, "report", folder))
    )


def test_figures_of_several_splits_break_between_words_on_a_phone(made, opened):
    path, _ = made
    tab = opened(path, width=390, height=844)
    cells = tab.query_selector_all("#figures .broad td.num")
    shown = [cell for cell in cells if cell.inner_text().startswith("mean")]
    assert shown
    # The widest word of "mean 3.32, median 2, 2 to 6" and a cell's padding.
    assert min(cell.bounding_box()["width"] for cell in shown) > 70
    assert tab.eval_on_selector("html", "page => page.scrollWidth") == 390

"""``datagen prompts``, and servers that are asked whether they are there."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any

import obeying_server
import pyarrow as pa
import pytest

from datagen import cli, prompts_command, registry, schema
from datagen.chat import pictures, prompts, reach
from datagen.chat.ask import Answer, Ask
from datagen.chat.rendering import step_settings
from datagen.chat.server import Servers
from datagen.errors import DatagenError


def said(capsys: Any, *arguments: str) -> tuple[str, str]:
    try:
        cli.main(["prompts", *arguments])
    except SystemExit:
        pass
    found = capsys.readouterr()
    return found.out, found.err


def test_prompts_are_listed_and_shown(capsys: Any) -> None:
    for arguments in ([], ["list"]):
        out, _ = said(capsys, *arguments)
        listed = [line.split()[0] for line in out.splitlines() if line[:1].isalpha()]
        assert listed == ["prompt", *prompts.names()]
    out, _ = said(capsys, "show", "covr")
    assert out.startswith("# covr@1#")
    assert "{{ reference }}" in out


def test_what_is_rendered_is_what_is_asked(capsys: Any) -> None:
    ask = prompts_command.of_texts("a <b>", "two", (), {"texts_per_pair": 3})
    arguments = ["--reference", "a <b>", "--target", "two", "--set", "texts_per_pair=3"]
    out, _ = said(capsys, "render", "modification", *arguments, "--json")
    found = json.loads(out)
    assert found["messages"] == list(ask.messages)
    assert (found["schema"], found["seed"]) == (ask.schema, ask.seed)
    out, _ = said(capsys, "render", "modification", *arguments)
    for message in ask.messages:
        assert f"── {message['role']}\n{message['content']}\n" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["modification"], "give --reference and --target"),
        (["modification", "runs/x"], "belong together"),
        (["modification", "--reference", "a"], "no_caption"),
        (["modificatio", "--reference", "a", "--target", "b"], "did you mean 'modification'?"),
        (["rewrite_short", "--reference", "a", "--target", "b"], "no_text"),
        (["covr", "--reference", "a", "--target", "b", "--set", "texts=3"], "unknown setting"),
        (["covr", "--reference", "a", "--target", "b", "--set", "x"], "NAME=VALUE"),
        (["lasco", "--change", "red"], "FIELD:REMOVED:ADDED"),
        (["lasco", "runs/nowhere", "abc"], "nowhere"),
    ],
)
def test_what_cannot_be_rendered_is_a_line(capsys: Any, arguments: list[str], told: str) -> None:
    out, err = said(capsys, "render", *arguments)
    assert out == ""
    assert told in err
    assert len(err.splitlines()) == 1


def test_a_server_that_is_there_and_knows_the_model_has_no_fault() -> None:
    with obeying_server.running(models=("tiny", "other")) as server:
        assert not list(reach.faults(Servers(server.url, "tiny")))
        (told,) = reach.faults(Servers(server.url, "tinny"))
        assert "did you mean 'tiny'?" in told
        both = Servers(["http://127.0.0.1:9/v1", server.url], "tiny")
        assert not list(reach.faults(both))
    (told,) = reach.faults(Servers(server.url, "tiny"))
    assert "cannot be reached" in told
    assert "\n" not in told


def test_a_server_on_this_machine_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with obeying_server.running(models=("tiny",)) as server:
        assert not list(reach.faults(Servers(server.url, "tiny")))
        # Any other is asked by the proxy, which is not there.
        (told,) = reach.faults(Servers("http://node.example:8000/v1", "tiny"))
    assert "cannot be reached" in told
    assert "refused" in told


def test_a_key_that_is_named_and_missing_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    with obeying_server.running() as server:
        (told,) = reach.faults(Servers(server.url, "tiny", key_env="SOME_KEY"))
        assert "SOME_KEY" in told
        monkeypatch.setenv("SOME_KEY", "secret-1")
        assert not list(reach.faults(Servers(server.url, "tiny", key_env="SOME_KEY")))
        assert server.keys[-1] == "Bearer secret-1"


def test_a_pair_that_is_no_pair_is_refused() -> None:
    with pytest.raises(DatagenError, match="no_caption"):
        prompts_command.of_texts("", "b")


def test_prompts_that_show_pictures_are_rendered_for_rows_of_a_run(
    capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from PIL import Image

    from datagen import result
    from datagen.report import show

    path = tmp_path / "a.png"
    Image.new("RGB", (90, 60), "red").save(path)
    media = {"path": str(path), "offset": 0, "size": path.stat().st_size, "modality": "image"}
    member = {"caption": "a <red> thing", "media": media}
    rows = {
        "p": {"kind": "pair", "row": {"id": "p", "references": [member], "targets": [member]}},
        "i": {"kind": "item", "row": {"id": "i", "media": media}},
        "n": {"kind": "pair", "row": {"id": "n", "references": [member], "targets": []}},
    }
    engine = {"kind": "server", "url": "http://localhost/v1", "model": "m"}
    steps = [
        {"text": {"op": "caption", "engine": engine, "captions_per_item": 3, "picture_size": 40}},
        {"text": {"op": "vlm_then_llm", "vlm": engine, "llm": engine, "picture_size": 50}},
    ]

    run = SimpleNamespace(note={"recipe": {"steps": steps, "seed": 4}, "base": ""})
    monkeypatch.setattr(result, "load", lambda _: run)
    monkeypatch.setattr(show, "show", lambda run, name: rows[name])
    out, _ = said(capsys, "render", "describe", "run", "p")
    assert "reference:\n(image/jpeg, " in out
    assert '"a \\u003cred\\u003e thing"' in out
    shown = json.loads(said(capsys, "render", "describe", "run", "p", "--json")[0])
    sizes = []
    for name, row in (("describe", "p"), ("caption", "i")):
        shown = json.loads(said(capsys, "render", name, "run", row, "--json")[0])
        parts = shown["messages"][-1]["content"]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        sizes += [Image.open(io.BytesIO(pictures.file_of(url))).size for url in urls]
    assert sizes == [(50, 33), (50, 33), (40, 27)]
    assert parts[-1]["text"] == "Number of descriptions: 3"
    for arguments, told in (
        (["describe", "run", "n"], "the target has no image or clip"),
        (["from_differences", "run", "p"], "notes of an earlier answer"),
        (["dense", "--reference", "a", "--target", "b"], "shows pictures (reference, target)"),
    ):
        out, err = said(capsys, "render", *arguments)
        assert (out, len(err.splitlines())) == ("", 1)
        assert told in err


ENGINE = {"kind": "server", "url": "http://localhost/v1", "model": "m"}


class Says:
    """An engine that gives no answer, and keeps what was asked."""

    model, revision = "m", ""

    def __init__(self) -> None:
        self.asked: list[Ask] = []

    def answer(self, asks: Any, each: Any = None) -> list[Answer]:
        self.asked += asks
        return [Answer(None, "none")] * len(asks)


def row_of(kind: str) -> dict[str, Any]:
    empty = dict.fromkeys(field.name for field in schema.MEMBER)
    if kind == "item":
        return {"id": "x", "media": None, "captions": ["a red mug", "another"]}
    return {
        "id": "x",
        "pair": "p",
        "references": [{**empty, "id": "a", "caption": "a red mug"}],
        "targets": [{**empty, "id": "b", "caption": "a blue mug"}],
        "evidence": None,
        "provenance": [],
        "modification": "please make the mug blue",
    }


@pytest.mark.parametrize(
    ("settings", "prompt", "kind"),
    [
        ({"op": "quadruple", "edits_per_item": 7, "temperature": 0.2}, "edits", "item"),
        ({"op": "rewrite", "to": "short", "texts_per_triplet": 3}, "rewrite_short", "triplet"),
        ({"op": "rewrite", "to": "reverse", "max_words": 9}, "rewrite_reverse", "triplet"),
        ({"op": "rewrite", "to": "reverse", "prompt": "covr"}, "covr", "pair"),
    ],
)
def test_what_is_rendered_for_a_row_of_a_run_is_what_its_step_asks(
    settings: dict[str, Any], prompt: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datagen import result
    from datagen.report import show

    row = row_of(kind)
    cls = registry.find("text", settings["op"])
    own = {name: value for name, value in settings.items() if name != "op"}
    operator: Any = cls(cls.Settings.model_validate({**own, "engine": ENGINE}))
    operator.engines["engine"], operator._seed = Says(), 4
    table = schema.TRIPLETS if kind != "item" else schema.ITEMS
    operator(pa.Table.from_pylist([row], schema=table))

    other = {"text": {"op": "rewrite", "to": "paraphrase", "engine": ENGINE, "temperature": 1.5}}
    steps = [other, {"text 2": {**settings, "engine": ENGINE, "id": "mine"}}]
    run = SimpleNamespace(note={"recipe": {"steps": steps, "seed": 4}, "base": ""})
    monkeypatch.setattr(result, "load", lambda _: run)
    monkeypatch.setattr(show, "show", lambda run, name: {"kind": kind, "row": row})
    assert [prompts_command.of_run("run", "x", {"prompt": prompt})] == operator.engines[
        "engine"
    ].asked


def test_the_step_that_asks_a_prompt_is_told_by_its_prompt_and_no_other_setting() -> None:
    steps = [
        {"text": {"op": "rewrite", "to": "dense", "engine": ENGINE, "max_words": 11}},
        {"text": {"op": "vlm", "prompt": "dense", "engine": ENGINE, "max_words": 22}},
    ]
    assert step_settings(steps, "dense")["max_words"] == 22
    assert step_settings(steps, "rewrite_dense")["max_words"] == 11
    assert step_settings(steps, "covr")["max_words"] == 11
    assert "to" not in step_settings(steps, "covr")


def test_a_text_on_the_command_line_is_told(capsys: Any) -> None:
    arguments = ["--reference", "A", "--target", "B", "--text", "add a <cat>"]
    out, _ = said(capsys, "render", "rewrite_reverse", *arguments)
    assert 'old request: "add a \\u003ccat\\u003e"\nin hand: "B"\nwanted: "A"\n' in out

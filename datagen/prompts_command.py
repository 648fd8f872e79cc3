"""``datagen prompts``: list them, show one, and print what would be sent for a pair."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datagen import registry
from datagen.chat import prompts
from datagen.chat.ask import Ask
from datagen.chat.rendering import rendered, step_settings
from datagen.errors import DatagenError

prompts_app = typer.Typer(
    help="List the prompts for language models, show one, or render one for a pair.",
    invoke_without_command=True,
)
Name = Annotated[str, typer.Argument(help="Name of a prompt, or file:my.yaml.")]


@prompts_app.callback()
def list_prompts(context: typer.Context) -> None:
    """List the prompts for language models, show one, or render one for a pair."""
    if context.invoked_subcommand is None:
        _list()


@prompts_app.command("list")
def list_command() -> None:
    """List the prompts that come with datagen."""
    _list()


def _list() -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("prompt", no_wrap=True)
    table.add_column("version", justify="right")
    for heading in ("what it asks for", "of a pair it tells"):
        table.add_column(heading)
    for name in prompts.names():
        prompt = prompts.load(name)
        shown = ["pictures"] if prompt.pictures else []
        told = ", ".join(shown + sorted(prompt.needs))
        table.add_row(name, str(prompt.version), escape(prompt.about), told)
    Console().print(table)


@prompts_app.command("show")
def show_prompt(name: Name) -> None:
    """Print a prompt as it stands in its file, and what it is called in provenance."""
    prompt, text = prompts.load(name), prompts.source(name)
    sys.stdout.write(f"# {prompt.fingerprint}\n{text}")


@prompts_app.command("render")
def render_prompt(
    name: Name,
    run: Annotated[
        str | None, typer.Argument(help="Run directory; its step says the other settings.")
    ] = None,
    pair: Annotated[
        str | None, typer.Argument(metavar="ID", help="A pair, triplet or item of the run.")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="Caption of the reference.")] = None,
    target: Annotated[str | None, typer.Option(help="Caption of the target.")] = None,
    text: Annotated[
        str | None, typer.Option(help="The modification text, for prompts of op rewrite.")
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option(help="What changes: FIELD:REMOVED:ADDED; several.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the step: texts_per_pair=3, aspects=[addition]."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="As one JSON object, with every parameter.")
    ] = False,
) -> None:
    """Print exactly what would be sent to a model for a row: captions, or a row of a run."""
    if (run is None) != (pair is None):
        raise DatagenError("render: a run and the id of one of its pairs belong together")
    given = any(one is not None for one in (reference, target, text)) or bool(change)
    if (run is None) != given:
        raise DatagenError(
            "render: give --reference and --target (or --change), or a run and the id of a pair"
        )
    said = {"prompt": name, **_settings(settings or ())}
    if run is None and (shown := prompts.load(name).pictures):
        raise DatagenError(
            f"render: prompt '{name}' shows pictures ({', '.join(shown)}), which no option gives; "
            "name a run and the id of one of its pairs, triplets or items"
        )
    if run is not None and pair is not None:
        ask = of_run(run, pair, said)
    else:
        ask = of_texts(reference or "", target or "", change or (), said, text or "")
    sys.stdout.write(_as_json(ask) if as_json else _as_text(ask))


def of_texts(
    reference: str,
    target: str,
    changes: Any = (),
    said: Mapping[str, Any] | None = None,
    text: str = "",
) -> Ask:
    """The ask for two captions, ``FIELD:REMOVED:ADDED`` changes and a text. Raises DatagenError."""
    members = [[{"caption": text}] for text in (reference, target)]
    evidence = {"changes": [_change(text) for text in changes]}
    row = {"id": "", "references": members[0], "targets": members[1], "evidence": evidence}
    row["modification"] = text
    return rendered(row, said or {}, 0)


def of_run(run: str, wanted: str, said: Mapping[str, Any] | None = None) -> Ask:
    """The ask for a pair, an item or a triplet (or its pair, where the prompt tells no text) of a
    run, with the settings of the step that asks it.

    said: settings that take the place of these. Raises DatagenError.
    """
    from datagen import result

    opened = result.load(run)
    recipe, base = opened.note["recipe"], str(opened.note.get("base") or "")
    # A file that was given beside the recipe lies there still.
    with registry.starting_from(base):
        name = str((said or {}).get("prompt"))
        prompt = prompts.load(name)
        own = step_settings(recipe["steps"], name, base)
        row = _row(opened, wanted, prompt)
        return rendered(row, {**own, **(said or {})}, int(recipe.get("seed", 0)))


def _row(opened: Any, wanted: str, prompt: prompts.Prompt) -> dict[str, Any]:
    """The row of a run that ``prompt`` is asked about, as a pair or triplet."""
    from datagen.report.show import show

    found = show(opened, wanted)
    row: dict[str, Any] = found["row"]
    if found["kind"] == "triplet" and "text" in prompt.uses:
        return row
    if found["kind"] == "triplet":
        # The way back of a pair is in no table of pairs: the triplet tells all of it.
        back: dict[str, Any] = {
            "kind": "pair",
            "row": {**row, "id": row["pair"], "modification": None},
        }
        found = show(opened, row["pair"]) if _lists(opened, row["pair"]) else back
        row = found["row"]
    if found["kind"] == "item":
        # A step that writes captions tells none.
        told = (row.get("captions") or [None])[0] if prompt.kind != "captions" else None
        return {"id": row["id"], "references": [{"caption": told, "media": row["media"]}]}
    if found["kind"] not in ("pair", "triplet"):
        raise DatagenError(f"{wanted}: this is a {found['kind']}; name a pair, triplet or item")
    return row


def _lists(run: Any, name: str) -> bool:
    from datagen.report import _lookup

    with contextlib.suppress(DatagenError):
        return _lookup.find(run, name) == ("pair", name)
    return False


def _settings(texts: Any) -> dict[str, Any]:
    import yaml

    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise DatagenError(f"--set {text}: NAME=VALUE expected, such as texts_per_pair=3")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise DatagenError(f"--set {text}: not a value ({type(error).__name__})") from error
    return found


def _change(text: str) -> dict[str, str | None]:
    parts = text.split(":")
    if len(parts) != 3:
        raise DatagenError(f"--change {text}: FIELD:REMOVED:ADDED expected; parts may be empty")
    return dict(zip(("field", "removed", "added"), [part or None for part in parts], strict=True))


def _as_json(ask: Ask) -> str:
    whole = {
        "messages": list(ask.messages),
        "schema": ask.schema,
        "max_tokens": ask.max_tokens,
        "temperature": ask.temperature,
        "seed": ask.seed,
        "stop": list(ask.stop),
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _as_text(ask: Ask) -> str:
    turns = [f"── {one['role']}\n{_content(one['content'])}\n" for one in ask.messages]
    schema = json.dumps(ask.schema, ensure_ascii=False)
    numbers = f"max_tokens {ask.max_tokens}, temperature {ask.temperature:g}, seed {ask.seed}"
    return "\n".join([*turns, f"── schema of the answer\n{schema}\n", f"── {numbers}\n"])


def _content(content: Any) -> str:
    """The content of a turn; pictures by what they are."""
    if isinstance(content, str):
        return content
    return "\n".join(
        part["text"] if part["type"] == "text" else f"({_picture(part['image_url']['url'])})"
        for part in content
    )


def _picture(url: str) -> str:
    kind = url.partition(";")[0].removeprefix("data:")
    return f"{kind}, {len(url.partition(',')[2]) * 3 // 4:,} bytes"

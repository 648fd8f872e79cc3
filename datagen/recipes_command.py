"""``datagen recipes``: list them, show one, and the JSON Schema for editors."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datagen import recipe_file
from datagen.errors import RecipeError

recipes_app = typer.Typer(
    help="List the recipes, show one, or print the JSON Schema for editors.",
    invoke_without_command=True,
)


@recipes_app.callback()
def list_recipes(context: typer.Context) -> None:
    """List the recipes, show one, or print the JSON Schema for editors."""
    if context.invoked_subcommand is not None:
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("recipe", "what it builds"):
        table.add_column(heading)
    for known in recipe_file.names():
        data, _ = recipe_file.read(known)
        table.add_row(known, escape(str(data.get("about", ""))))
    Console().print(table)


@recipes_app.command("show")
def show_recipe(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or path of a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="With --resolved: source.path=photos")
    ] = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="After extends, overrides and ${…}.")
    ] = False,
) -> None:
    """Print a recipe as it stands in its file, or as a run would read it."""
    if not resolved:
        if overrides:
            raise RecipeError(f"{overrides[0]}: overrides go with --resolved")
        text = recipe_file.find(recipe).read_text(encoding="utf-8")
    else:
        data, _ = recipe_file.read(recipe, overrides or ())
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)
    sys.stdout.write(text)


@recipes_app.command("schema")
def show_schema() -> None:
    """Print the JSON Schema of recipes, by which editors complete and check them."""
    from datagen.recipe_schema import recipe_schema

    sys.stdout.write(json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n")

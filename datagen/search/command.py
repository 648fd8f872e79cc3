"""``datagen search``: what a retriever finds for a reference and a text."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer


def search_command(
    model: Annotated[
        str, typer.Argument(help="A model reference, or a folder that datagen train wrote.")
    ],
    gallery: Annotated[
        str, typer.Option("--gallery", "-g", help="A run, or a folder of images and clips.")
    ] = "",
    image: Annotated[
        list[str] | None,
        typer.Option("--image", "-i", help="The reference, an image or a clip; may be repeated."),
    ] = None,
    text: Annotated[str | None, typer.Option("--text", "-t", help="The modification.")] = None,
    out: Annotated[str, typer.Option("--out", "-o", help="The page.")] = "search.html",
    top: Annotated[int, typer.Option(help="Answers.", min=1, max=1000)] = 20,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    batch_size: Annotated[int, typer.Option(help="Images of every forward pass.", min=1)] = 64,
) -> None:
    """Find the images and clips of a gallery that a reference with a modification asks for."""
    from rich.console import Console
    from rich.markup import escape

    from datagen.errors import DatagenError
    from datagen.search import page
    from datagen.search.gallery import References, embedded, listed, nearest
    from datagen.training import retriever

    text = (text or "").strip() or None
    if not image and text is None:
        raise DatagenError("name a reference (--image), a text (--text), or both")
    if not gallery:
        raise DatagenError("--gallery: name a run, or a folder of images and clips")
    if os.path.isdir(out):
        raise DatagenError(f"--out {out}: a folder stands here; name the page, {out}/search.html")
    asked = [_reference(one) for one in image or ()]
    console, err = Console(), Console(stderr=True)
    with err.status("loading the model", spinner="dots") as status:

        def say(what: str, done: int, of: int) -> None:
            status.update(f"{what}: {done:,} of {of:,}")

        items = listed(gallery)
        found = retriever.load(model, device=device, batch_size=batch_size)
        mark = f"{_revision(model)} {getattr(found, 'choice', None)}"
        items, vectors, lost = embedded(found, items, mark, say)
        (query,) = found.queries([[one.place for one in asked]], [text])
    own = References([one.place for one in asked])
    rows: list[tuple[int, float]] = []
    for row, score in nearest(query, vectors, len(items)):
        if len(rows) == top:
            break
        if not own.holds(items[row].place):
            rows.append((row, score))
    shown = [page.Shown(items[row], rank, score) for rank, (row, score) in enumerate(rows, 1)]
    page.write(out, asked, text, shown, f"{model} in {gallery}, {len(items):,} items")
    _show(console, shown)
    if lost:
        name, reason = next(iter(lost.items()))
        console.print(
            f"[yellow]{len(lost):,} of {len(items) + len(lost):,} items cannot be read "
            f"({escape(name)}: {escape(reason)})[/]",
            soft_wrap=True,
        )
    console.print(f"page {escape(out)}", soft_wrap=True, highlight=False)


def _reference(path: str) -> Any:
    from datagen import store
    from datagen.errors import DatagenError
    from datagen.search.gallery import Item, place_of

    if not os.path.isfile(path):
        raise DatagenError(f"--image {path}: no such file; name an image or a clip")
    place = place_of(path)
    if place is None:
        raise DatagenError(f"--image {path}: no image and no clip")
    return Item(os.path.basename(path), {**place, "sha256": store.file_hash(path)})


def _revision(model: str) -> str:
    """What identifies the model's weights."""
    from datagen import models

    folder = os.path.isdir(os.path.expanduser(model))
    return f"{model} {models.revision(models.parse(f'file:{model}' if folder else model))}"


def _show(console: Any, shown: Any) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("score", justify="right")
    table.add_column("item", overflow="fold")
    if any(one.item.caption for one in shown):
        table.add_column("caption", overflow="fold")
    for one in shown:
        told = [escape(one.item.name), escape(one.item.caption)][: len(table.columns) - 2]
        table.add_row(str(one.rank), f"{one.score:.3f}", *told)
    console.print(table)

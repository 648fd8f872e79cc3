"""What the comments at the head of a shipped recipe tell a user to type."""

import shlex
from pathlib import Path

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def header(name: str) -> str:
    """The comments at the head of a recipe, without their marks."""
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").partition("\nname:")[0]
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in text.splitlines())


def overrides(name: str, start: str) -> list[str]:
    """The overrides below the line of the header that begins with ``start``, as a shell takes them.

    They stand in the indented lines that follow the sentence.
    """
    lines = header(name).splitlines()
    begins = [at for at, line in enumerate(lines) if line.startswith(start)]
    assert len(begins) == 1, f"the header of {name} says '{start}' {len(begins)} times"
    told: list[str] = []
    for line in lines[begins[0] + 1 :]:
        if line.startswith("    "):
            told.append(line)
        elif told or not line:
            break
    assert told, f"the header of {name} tells nothing below '{start}'"
    return shlex.split("\n".join(told))


def command(name: str) -> list[str]:
    """The arguments of the command at the head of a recipe, from its name on."""
    told = header(name).partition("\n\n")[0].replace("\\\n", " ")
    words = shlex.split(told)
    assert words[:2] == ["datagen", "run"], told
    return words[2:]

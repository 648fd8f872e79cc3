"""Draws triplets of a finished run, as the README shows them.

python docs/pictures/triplets.py runs/demo docs/pictures/triplets.png
"""

import sys
import textwrap

from PIL import Image, ImageDraw, ImageFont

import datagen

SIDE, GAP, TEXT = 150, 14, 210


def font(size):
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def fitted(image):
    image = image.copy()
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return image


def chosen(run, count):
    """Triplets whose texts start differently, so that the picture shows some variety."""
    seen, out = set(), []
    for sample in run.samples():
        opening = sample["modification"].split()[0]
        if opening not in seen and len(sample["negatives"]) >= 3:
            seen.add(opening)
            out.append(sample)
        if len(out) == count:
            break
    return out


def sheet(samples):
    """One row per triplet: reference, modification, target, hard negatives."""
    columns = [GAP, 2 * GAP + SIDE, 3 * GAP + SIDE + TEXT]
    columns += [4 * GAP + 2 * SIDE + TEXT + 24 + i * (SIDE + GAP) for i in range(3)]
    width = columns[-1] + SIDE + GAP
    page = Image.new("RGB", (width, 40 + len(samples) * (SIDE + GAP)), "white")
    draw = ImageDraw.Draw(page)
    heads = ["reference", "modification text", "target", "hard negatives"]
    for x, head in zip(columns, heads, strict=False):
        draw.text((x, 12), head, fill="#666", font=font(15))
    for row, sample in enumerate(samples):
        y = 40 + row * (SIDE + GAP)
        page.paste(fitted(sample["references"][0]), (columns[0], y))
        page.paste(fitted(sample["targets"][0]), (columns[2], y))
        for x, negative in zip(columns[3:], sample["negatives"], strict=False):
            page.paste(fitted(negative), (x, y))
        lines = textwrap.wrap(sample["modification"], 24)
        top = y + SIDE / 2 - 12 * len(lines)
        draw.text((columns[1], top), "\n".join(lines), fill="#111", font=font(17), spacing=6)
    return page


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sheet(chosen(datagen.load(sys.argv[1]), 5)).save(sys.argv[2], optimize=True)

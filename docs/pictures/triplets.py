"""Draws triplets of a finished run, as the README shows them.

python docs/pictures/triplets.py runs/demo docs/pictures/triplets.png
"""

import sys
import textwrap

from PIL import Image, ImageDraw, ImageFont

import datagen

SIDE, GAP, TEXT, HEAD = 144, 10, 212, 34
#: Between the triplet and its hard negatives.
GUTTER = 26
NEGATIVES = 3


def font(size):
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def fitted(image):
    """The image on a square of SIDE pixels; small ones are enlarged, with their edges kept."""
    scale = SIDE / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    drawn = image.resize(size, Image.Resampling.LANCZOS)
    square = Image.new("RGB", (SIDE, SIDE), "#f4f4f4")
    square.paste(drawn, ((SIDE - drawn.width) // 2, (SIDE - drawn.height) // 2))
    return square


def chosen(run, count):
    """Triplets whose texts start differently, so that the picture shows some variety."""
    seen, out = set(), []
    for sample in run.samples():
        opening = sample["modification"].split()[0]
        if opening not in seen and len(sample["negatives"]) >= NEGATIVES:
            seen.add(opening)
            out.append(sample)
        if len(out) == count:
            break
    return out


def sheet(samples):
    """One row per triplet: reference, modification, target, hard negatives."""
    columns = [GAP, 2 * GAP + SIDE, 3 * GAP + SIDE + TEXT]
    first = columns[-1] + SIDE + GUTTER
    columns += [first + at * (SIDE + GAP) for at in range(NEGATIVES)]
    width = columns[-1] + SIDE + GAP
    page = Image.new("RGB", (width, HEAD + len(samples) * (SIDE + GAP)), "white")
    draw = ImageDraw.Draw(page)
    heads = ["reference", "modification text", "target", "hard negatives"]
    for x, head in zip(columns, heads, strict=False):
        draw.text((x, 9), head, fill="#666", font=font(15))
    for row, sample in enumerate(samples):
        y = HEAD + row * (SIDE + GAP)
        pictures = [sample["references"][0], sample["targets"][0], *sample["negatives"]]
        for x, picture in zip([columns[0], *columns[2:]], pictures, strict=False):
            page.paste(fitted(picture), (x, y))
        text = "\n".join(textwrap.wrap(sample["modification"], 22))
        middle = (columns[1], y + SIDE / 2)
        draw.multiline_text(middle, text, fill="#111", font=font(17), spacing=6, anchor="lm")
    return page


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sheet(chosen(datagen.load(sys.argv[1]), 5)).save(sys.argv[2], optimize=True)

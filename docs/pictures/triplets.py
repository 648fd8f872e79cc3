"""Draws triplets of a finished run, as the README shows them; clips play.

python docs/pictures/triplets.py runs/demo docs/pictures/triplets.webp
"""

import sys
import textwrap

from PIL import Image, ImageDraw, ImageFont

import datagen

SIDE, GAP, TEXT, HEAD = 144, 10, 212, 34
#: Between the triplet and its hard negatives.
GUTTER = 26
NEGATIVES = 3
#: Words of events that show in a small picture.
SEEN = (" move", " slide", " grow", " shrink", " glide")
#: Frames of the picture, and how long each is shown (ms); the last one stays.
FRAMES, SHOWN, STAYS = 12, 125, 1200


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


def chosen(run, images, clips):
    """Triplets of images, then of clips, whose texts start differently."""
    left = {False: images, True: clips}
    seen, shown, out = set(), set(), {False: [], True: []}
    for sample in run.samples(frames=FRAMES):
        moves = isinstance(sample["references"][0], list)
        opening = (moves, sample["modification"].split()[0])
        enough = len(sample["negatives"]) >= NEGATIVES
        alike = all(isinstance(one, list) == moves for one in sample["targets"])
        # Of clips, those in which something moves, grows or shrinks are seen at a glance.
        alike &= not moves or any(verb in sample["modification"] for verb in SEEN)
        members = sample["json"]["references"] + sample["json"]["targets"]
        fresh = shown.isdisjoint(member["id"] for member in members)
        if opening not in seen and enough and alike and fresh and left[moves]:
            seen.add(opening)
            shown.update(member["id"] for member in members)
            left[moves] -= 1
            out[moves].append(sample)
        if not any(left.values()):
            break
    return out[False] + out[True]


def at(picture, moment):
    """What an image or clip shows at a moment."""
    return picture[moment] if isinstance(picture, list) else picture


def sheet(samples, moment):
    """One row per triplet: reference, modification, target, hard negatives."""
    columns = [GAP, 2 * GAP + SIDE, 3 * GAP + SIDE + TEXT]
    first = columns[-1] + SIDE + GUTTER
    columns += [first + number * (SIDE + GAP) for number in range(NEGATIVES)]
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
            page.paste(fitted(at(picture, moment)), (x, y))
        text = "\n".join(textwrap.wrap(sample["modification"], 22))
        middle = (columns[1], y + SIDE / 2)
        draw.multiline_text(middle, text, fill="#111", font=font(17), spacing=6, anchor="lm")
    return page


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    samples = chosen(datagen.load(sys.argv[1]), images=3, clips=2)
    first, *rest = [sheet(samples, moment) for moment in range(FRAMES)]
    times = [SHOWN] * (FRAMES - 1) + [STAYS]
    first.save(sys.argv[2], save_all=True, append_images=rest, duration=times, loop=0, quality=80)

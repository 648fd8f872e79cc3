"""A vision-language model that is always right, behind a real server on loopback.

It speaks the chat protocol of OpenAI. It decodes the pictures that it is sent, finds by their
pixels which scenes or clips of a rendered world they show (or by captions, where there are no
pictures), and answers as the world's oracle knows, for every kind of prompt.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import obeying_server
from PIL import Image

from datagen.sources.tinyworld import TinyWorld, TinyWorldSettings
from datagen.sources.tinyworld.events import Act, Clip, Shown, scene_of
from datagen.sources.tinyworld.oracle import Change, difference, says
from datagen.sources.tinyworld.scene import Thing
from datagen.step import Context

#: Pictures are compared at this side (pixels), by the root of the mean square of RGB values.
SIDE = 32
#: Pictures further apart than this from all of the world are of nothing that it knows.
FAR = 14.0
_JPEG = "data:image/jpeg;base64,"
#: A labelled JSON string of a prompt, such as ``in hand: "a red mug"``.
_LABELLED = re.compile(r'^([\w ,()]+): ("(?:[^"\\]|\\.)*")$', re.MULTILINE)

#: What differs in an object, as lists of objects are told to be compared.
_STRING = r'("(?:[^"\\]|\\.)*"|null)'
_OBJECT = re.compile(rf"^object: {_STRING}, in hand: {_STRING}, wanted: {_STRING}$", re.MULTILINE)


@dataclass(frozen=True)
class Known:
    """An image or clip of the world: its record as the source lists it, what it shows, its
    captions, and its file.
    """

    record: Mapping[str, Any]
    shown: Shown
    captions: tuple[str, ...]
    data: bytes
    clip: bool

    def frames(self, number: int) -> list[Image.Image]:
        """So many frames at even distances; an image is its one frame."""
        if not self.clip:
            return [Image.open(io.BytesIO(self.data)).convert("RGB")]
        with av.open(io.BytesIO(self.data)) as container:
            every = [frame.to_image() for frame in container.decode(video=0)]
        places = [(2 * at + 1) * len(every) // (2 * number) for at in range(number)]
        return [every[at] for at in places]


class World:
    """All that a rendered source lists: what its pictures and captions mean.

    settings: of the source; seed: of the run; folder: where it is rendered once more.
    """

    def __init__(self, settings: Mapping[str, Any], seed: int, folder: Path) -> None:
        plain = {name: value for name, value in settings.items() if name not in ("type", "id")}
        source = TinyWorld(TinyWorldSettings(**plain))
        context = Context("source", seed, str(folder), str(folder))
        self.items: list[Known] = []
        for part in source.parts(context):
            for record in source.read(part, context).to_pylist():
                self.items.append(_known(record))
        self.of_caption: dict[str, Known] = {}
        for item in self.items:
            for caption in item.captions:
                self.of_caption.setdefault(caption, item)
        self._marks: dict[int, tuple[list[Known], np.ndarray[Any, Any]]] = {}

    def of_pictures(self, pictures: Sequence[Image.Image]) -> Known:
        """What pictures show, a clip's frames in order. Raises ValueError for strange ones."""
        number = len(pictures)
        if number not in self._marks:
            items = [item for item in self.items if item.clip or number == 1]
            marks = np.stack([_mark(item.frames(number)) for item in items])
            self._marks[number] = items, marks
        items, marks = self._marks[number]
        apart = np.sqrt(((marks - _mark(pictures)) ** 2).mean(axis=1))
        at = int(apart.argmin())
        if apart[at] > FAR:
            raise ValueError(f"{number} pictures of nothing that is known, {apart[at]:.1f} away")
        return items[at]


def _known(record: Mapping[str, Any]) -> Known:
    from datagen.sources.tinyworld.events import shown

    place = record["media"]
    with open(place["path"], "rb") as file:
        file.seek(place["offset"])
        data = file.read(place["size"])
    told = shown(json.loads(record["labels"]))
    return Known(record, told, tuple(record["captions"]), data, place["modality"] == "video")


def _mark(pictures: Sequence[Image.Image]) -> np.ndarray[Any, Any]:
    fitted = [one.resize((SIDE, SIDE), Image.Resampling.BOX) for one in pictures]
    return np.concatenate([np.asarray(one, np.float32).ravel() for one in fitted])


# ---------------------------------------------------------------- what is asked


@dataclass
class Question:
    """What stands in the last turn of a request.

    key: what the answer must hold; pictures: those of each side, decoded; files: their bytes;
    texts: labelled JSON strings, in order; number: how many answers are asked for.
    """

    key: str
    schema: Mapping[str, Any]
    text: str
    pictures: dict[str, list[Image.Image]] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)
    texts: list[tuple[str, str]] = field(default_factory=list)
    number: int = 1

    def labelled(self, label: str) -> list[str]:
        """The texts under a label."""
        return [text for name, text in self.texts if name == label]


def question(body: Mapping[str, Any]) -> Question:
    """Read a request. Raises ValueError for pictures that are none, or hold more than pixels."""
    schema = body["response_format"]["json_schema"]["schema"]
    content = body["messages"][-1]["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    keys = [one for one in schema["required"] if one in ANSWERS]
    found = Question(keys[-1], schema, "")
    side = ""
    for part in parts:
        if part["type"] == "image_url":
            url = part["image_url"]["url"]
            if not url.startswith(_JPEG) or not side:
                raise ValueError(f"no picture of a side: {url[:40]}")
            data = base64.b64decode(url.removeprefix(_JPEG), validate=True)
            found.files.setdefault(side, []).append(data)
            found.pictures.setdefault(side, []).append(_decoded(data))
            continue
        label = re.fullmatch(
            r"(\w+(?: \d+)?)(?: \(\d+ frames of a clip, in order of time\))?:", part["text"]
        )
        side = label[1] if label else ""
        found.text += "" if label else part["text"]
    found.texts = [(name, json.loads(text)) for name, text in _LABELLED.findall(found.text)]
    asked = re.search(r"^Number of \w+(?: at most)?: (\d+)$", found.text, re.MULTILINE)
    found.number = int(asked[1]) if asked else 1
    return found


def _decoded(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    if picture.format != "JPEG" or picture.mode != "RGB":
        raise ValueError(f"a picture of {picture.format}, {picture.mode}")
    if extra := set(picture.info) - {"jfif", "jfif_version", "jfif_unit", "jfif_density"}:
        raise ValueError(f"a picture that holds {extra}")
    picture.load()
    return picture


# ---------------------------------------------------------------- what is true


def request(reference: Shown, target: Shown) -> str | None:
    """A text that the oracle calls right, complete and minimal; None where none was found."""
    changes = difference(reference, target)
    names = [_ways(change, reference, target) for change in changes]
    for ways in itertools.islice(itertools.product(*names), 400):
        text = " and ".join(filter(None, ways))
        verdict = says(text, reference, target)
        if text and verdict.right and verdict.complete and verdict.minimal:
            return text
    return None


def _ways(change: Change, reference: Shown, target: Shown) -> list[str]:
    """Phrases for one change, the usual one first."""
    after = change.after
    if change.attribute == "background":
        return [f"make the background {after}"]
    if change.attribute == "object":
        if after is None:
            return [f"remove the {_noun(change.before)}"]
        return [f"add {_article(after)} {_told(after)} at the {after.position}"]
    if change.attribute == "event":
        return _happenings(change, reference)
    assert change.at is not None
    thing = scene_of(reference).objects[change.at]
    the = f"the {_noun(thing)}"
    if change.attribute == "shape":
        new = f"a {after}" if thing.count == 1 else _plural(after, thing.count)
        return [f"replace {the} with {new}", f"turn {the} into {new}"]
    if change.attribute == "count":
        new = f"{_COUNTS[after]} {_plural(thing.shape, after)}"
        return [
            f"show {new} instead of {_COUNTS[thing.count]}",
            f"make it {_COUNTS[after]} {thing.colour} {_plural(thing.shape, after)}",
        ]
    if change.attribute == "position":
        return [f"move {the} to the {after}", f"put {the} in the {after}"]
    return [f"make {the} {after}"]


_COUNTS = {1: "one", 2: "two", 3: "three", 4: "four"}


def _plural(shape: str, count: int) -> str:
    ends = "es" if shape in ("cross",) else "s"
    return shape if count == 1 else shape + ends


def _noun(thing: Thing) -> str:
    return _plural(thing.shape, thing.count)


def _article(thing: Thing) -> str:
    return "a" if thing.count == 1 else _COUNTS[thing.count]


def _told(thing: Thing) -> str:
    pattern = "" if thing.texture == "plain" else f"{thing.texture} "
    return f"{thing.size} {pattern}{thing.colour} {_noun(thing)}"


def _happenings(change: Change, reference: Shown) -> list[str]:
    scene = scene_of(reference)
    act: Act | None = change.after
    the = "the background" if change.at is None else f"the {_noun(scene.objects[change.at])}"
    if act is None:
        return [f"let {the} stay still", ""]
    if act.kind == "position":
        return [f"let {the} move to the {act.to}"]
    if act.kind == "size":
        return [f"let {the} {'grow' if act.to == 'large' else 'shrink'}"]
    if act.kind == "count":
        return [f"let {the} become {_COUNTS[act.to]}"]
    if act.kind in ("spin", "vanish", "appear"):
        return [f"let {the} {act.kind}"]
    return [f"let {the} turn {act.to}"]


# ---------------------------------------------------------------- answers


class Truth:
    """Answers questions about a world; lost: what it could not answer, and why."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.questions: list[Question] = []
        self.lost: list[str] = []

    def answer(self, body: Mapping[str, Any]) -> str:
        """The content of the answer to a request."""
        try:
            asked = question(body)
            self.questions.append(asked)
            return json.dumps(ANSWERS[asked.key](self, asked))
        except (ValueError, KeyError) as error:
            self.lost.append(str(error))
            return f"I do not know: {error}"

    def side(self, asked: Question, name: str) -> Known:
        """The reference or target of a question: by its pictures, else by its caption."""
        # Where one side alone is shown, it has no name.
        shown = asked.pictures.get(name) or asked.pictures.get("shown")
        if shown:
            return self.world.of_pictures(shown)
        told = [text for _, text in asked.texts if text in self.world.of_caption]
        place = 0 if name == "reference" else -1
        if not told:
            raise ValueError(f"nothing tells the {name}")
        return self.world.of_caption[told[place]]

    def change(self, asked: Question) -> str | None:
        """The request that leads from the reference to the target."""
        return request(self.side(asked, "reference").shown, self.side(asked, "target").shown)


def _modifications(truth: Truth, asked: Question) -> dict[str, Any]:
    objects = [tuple(map(json.loads, found)) for found in _OBJECT.findall(asked.text)]
    if objects:
        # What differs is told as lists of attributes: no scene is known.
        return {"modifications": [" and ".join(p for one in objects for p in _of_object(*one))]}
    notes = [note for note in asked.labelled("seen") if note.startswith("differs: ")]
    if notes:
        # Whoever saw the pictures has noted what to ask for.
        text = " and ".join(note.removeprefix("differs: ") for note in notes)
    else:
        text = truth.change(asked) or ""
    return {"modifications": [text] if text else []}


def _of_object(name: str, before: str | None, after: str | None) -> list[str]:
    """Phrases for an object of which the attributes ``before`` become ``after``."""
    if after is None:
        return [f"remove the {name}"]
    told = after.split(", ")
    place = " ".join(one for one in told if one.startswith("at the "))
    looks = [one for one in told if not one.startswith("at the ")]
    if before is None:
        return [" ".join(filter(None, ["add a", *looks, name, place]))]
    counts = [one for one in looks if one in _COUNTS.values()]
    found = [f"show {one} {_plural(name, 2)}" for one in counts]
    found += [f"make the {name} {one}" for one in looks if one not in counts]
    return found + ([f"move the {name} to {place.removeprefix('at ')}"] if place else [])


def _differences(truth: Truth, asked: Question) -> dict[str, Any]:
    reference, target = (truth.side(asked, name).shown for name in ("reference", "target"))
    text = request(reference, target)
    kept = {thing.shape for thing in scene_of(reference).objects}
    both = sorted(kept & {thing.shape for thing in scene_of(target).objects})
    answer: dict[str, Any] = {"differences": text.split(" and ") if text else []}
    if "common" in asked.schema["properties"]:
        answer = {"common": [f"a {shape}" for shape in both], **answer}
    return answer


def _captions(truth: Truth, asked: Question) -> dict[str, Any]:
    return {"captions": list(truth.side(asked, "reference").captions[: asked.number])}


def _objects(truth: Truth, asked: Question) -> dict[str, Any]:
    what = truth.side(asked, "reference").shown
    listed = [
        {
            "name": thing.shape,
            "attributes": [
                *([_COUNTS[thing.count]] if thing.count > 1 else []),
                *(thing.size, thing.colour),
                *([thing.texture] if thing.texture != "plain" else []),
                f"at the {thing.position}",
                *_doing(what, at),
            ],
        }
        for at, thing in enumerate(scene_of(what).objects)
    ]
    return {"objects": [*listed, {"name": "background", "attributes": [scene_of(what).background]}]}


def _doing(what: Shown, at: int) -> list[str]:
    happens = isinstance(what, Clip) and what.at == at
    return [f"{what.act.kind} {what.act.to or ''}".strip()] if happens else []  # type: ignore[union-attr]


def _choice(truth: Truth, asked: Question) -> dict[str, Any]:
    raise ValueError("what a choice means is said by its prompt: give an answer of your own")


#: Answers by the key that a prompt's schema requires. Tests may put others in place of these.
ANSWERS: dict[str, Callable[[Truth, Question], dict[str, Any]]] = {
    "modifications": _modifications,
    "differences": _differences,
    "captions": _captions,
    "objects": _objects,
    "edits": _choice,
    "choice": _choice,
}


@contextmanager
def knowing(truth: Truth, models: tuple[str, ...] = ("tiny",)) -> Iterator[obeying_server.Server]:
    """A server that answers by ``truth``; its ``url`` ends in /v1."""
    with obeying_server.running(models=models) as server:
        server.of_body = truth.answer
        yield server

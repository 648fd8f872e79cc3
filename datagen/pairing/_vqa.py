"""Files of the VQA v2 data set: questions, the answers of ten people each, complementary pairs."""

from __future__ import annotations

import functools
import json
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datagen import store
from datagen.errors import DatagenError
from datagen.ingest import clean_caption
from datagen.pairing import _given_files as files

_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
} | {"none": "0"}
_ARTICLES = frozenset(["a", "an", "the"])
_MARKS = str.maketrans({mark: " " for mark in string.punctuation if mark not in "'%$-:./,"})
#: Answers that say nothing of the picture.
NO_ANSWERS = frozenset(
    [
        *("", "na", "n/a", "idk", "unknown", "unsure", "not sure", "unclear", "i don't know"),
        *("don't know", "dont know", "can't tell", "cant tell", "cannot tell", "can't see"),
        *("not possible", "unanswerable", "not applicable", "nothing to see", "?"),
    ]
)


@dataclass(frozen=True)
class Consensus:
    """What most people said: their own words, the form that is compared, and the share of them."""

    answer: str
    form: str
    agreement: float


@dataclass(frozen=True)
class Asked:
    """A question about an image. image: its id as a text; form: the question as it is compared."""

    image: str
    question: str
    form: str


def question_form(text: str) -> str:
    """A question in small letters, without marks: two that are equal ask the same."""
    return " ".join(re.sub(r"[^\w\s']", " ", text.casefold()).split())


def answer_form(text: str) -> str:
    """An answer as it is compared: small letters, no marks or articles, numbers in digits."""
    words = text.casefold().translate(_MARKS).split()
    words = [word.strip(".,:") for word in words]
    return " ".join(_NUMBERS.get(word, word) for word in words if word and word not in _ARTICLES)


def consensus(answers: Sequence[str]) -> Consensus | None:
    """The answer that most people gave; of equals the first by its form. None without answers."""
    forms = [answer_form(one) for one in answers]
    if not forms:
        return None
    counts = Counter(forms)
    form = min(counts, key=lambda one: (-counts[one], one))
    said = Counter(one for one, own in zip(answers, forms, strict=True) if own == form)
    words = min(said, key=lambda one: (-said[one], one))
    return Consensus(words, form, counts[form] / len(forms))


def questions(path: str) -> dict[int, Asked]:
    """Questions by id. Raises DatagenError where the file is none of VQA's questions."""
    return _questions(path, store.stamp(path))


def answers(path: str) -> dict[int, Consensus | None]:
    """The consensus of each question, by its id; None where nobody answered.

    An annotation without answers has its ``multiple_choice_answer``, with the agreement of all.
    Raises DatagenError where the file is none of VQA's annotations.
    """
    return _answers(path, store.stamp(path))


def complementary(path: str) -> tuple[tuple[int, int], ...]:
    """Pairs of question ids. Raises DatagenError where the file is no list of such pairs."""
    return _complementary(path, store.stamp(path))


@functools.lru_cache(maxsize=8)
def _questions(path: str, stamp: str) -> dict[int, Asked]:
    forms: dict[str, tuple[str, str]] = {}
    found = {}
    for number, row in _rows(path, "questions", "annotations", lambda one: one):
        question = row.get("question")
        if not isinstance(question, str):
            raise _bad(path, "questions", number, "question", question, "a text")
        text = clean_caption(question)
        said = forms.setdefault(text, (text, question_form(text)))
        found[_number(path, "questions", number, row, "question_id")] = Asked(
            _image(path, "questions", number, row), *said
        )
    return found


@functools.lru_cache(maxsize=8)
def _answers(path: str, stamp: str) -> dict[int, Consensus | None]:
    known: dict[Consensus | None, Consensus | None] = {}

    def compact(row: dict[str, Any]) -> dict[str, Any]:
        # Ten dictionaries a question would fill the memory many times over.
        given = row.get("answers") or []
        if "question_id" in row and isinstance(given, list):
            said = [one.get("answer") if isinstance(one, dict) else None for one in given]
            said = said or [row.get("multiple_choice_answer", "")]
            sound = all(isinstance(one, str) for one in said)
            row["answers"] = None
            if sound:
                one = consensus([clean_caption(answer) for answer in said if answer])
                row["answers"] = known.setdefault(one, one)
                row["sound"] = True
        return row

    found = {}
    for number, row in _rows(path, "annotations", "questions", compact):
        name = _number(path, "annotations", number, row, "question_id")
        if row.get("sound") is not True:
            raise _bad(path, "annotations", number, "answers", "no such", 'a list of {"answer": …}')
        found[name] = row["answers"]
    return found


@functools.lru_cache(maxsize=8)
def _complementary(path: str, stamp: str) -> tuple[tuple[int, int], ...]:
    pairs = _json(path, None)
    if not isinstance(pairs, list):
        raise DatagenError(f"{path}: a JSON list of pairs of question ids was expected")
    found = []
    for number, pair in enumerate(pairs, 1):
        whole = isinstance(pair, list) and len(pair) == 2
        if not whole or not all(isinstance(one, int) and one is not True for one in pair):
            raise DatagenError(
                f"{path}: entry {number}: two question ids were expected, {str(pair)[:60]!r} found"
            )
        found.append((pair[0], pair[1]))
    return tuple(found)


def _rows(
    path: str, key: str, other: str, hook: Callable[[dict[str, Any]], dict[str, Any]]
) -> Iterable[tuple[int, Mapping[str, Any]]]:
    data = _json(path, hook)
    rows = data.get(key) if isinstance(data, dict) else None
    if not isinstance(rows, list):
        mixed = isinstance(data, dict) and isinstance(data.get(other), list)
        hint = f"this is the file of {other}" if mixed else "give the JSON of VQA v2 as published"
        raise DatagenError(f"{path}: a JSON object with the list '{key}' was expected; {hint}")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DatagenError(f"{path}: {key} {number}: an object was expected")
        yield number, row


def _json(path: str, hook: Callable[[dict[str, Any]], dict[str, Any]] | None) -> Any:
    with files.reading(path), files.opened(path) as file:
        try:
            return json.load(file, object_hook=hook)
        except (ValueError, RecursionError) as error:
            raise DatagenError(f"{path}: not JSON ({error})") from error


def _number(path: str, key: str, number: int, row: Mapping[str, Any], name: str) -> int:
    value = row.get(name)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 1 << 63:
        raise _bad(path, key, number, name, value, "a whole number")
    return value


def _image(path: str, key: str, number: int, row: Mapping[str, Any]) -> str:
    value = row.get("image_id")
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise _bad(path, key, number, "image_id", value, "a number or a name")
    return clean_caption(str(value))


def _bad(path: str, key: str, number: int, name: str, value: Any, expected: str) -> DatagenError:
    found = "none" if value is None else f"{str(value)[:60]!r}"
    return DatagenError(f"{path}: {key} {number}: {name}: {expected} was expected, {found} found")

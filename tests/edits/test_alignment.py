import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen.edits._alignment import align, common, swaps

pytest.importorskip("transformers", reason="needs datagen[models]")
import tiny_diffusers

WORDS = st.lists(st.sampled_from("abc"), max_size=7)


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return tiny_diffusers._clip_tokenizer()


def longest_by_trying(first: list[str], second: list[str]) -> int:
    """Length of the longest subsequence of ``first`` that is one of ``second``."""
    for size in range(len(first), 0, -1):
        of_second = set(itertools.combinations(second, size))
        if any(one in of_second for one in itertools.combinations(first, size)):
            return size
    return 0


@given(WORDS, WORDS)
def test_common_words_are_a_longest_common_subsequence(first: list[str], second: list[str]) -> None:
    pairs = common(first, second)
    assert len(pairs) == longest_by_trying(first, second)
    assert all(first[i] == second[j] for i, j in pairs)
    for before, after in itertools.pairwise(pairs):
        assert before[0] < after[0]
        assert before[1] < after[1]


@given(WORDS, WORDS)
def test_swapped_words_stand_alone_between_the_same_neighbours(
    first: list[str], second: list[str]
) -> None:
    pairs = common(first, second)
    anchors = [(-1, -1), *pairs, (len(first), len(second))]
    for i, j in swaps(pairs, len(first), len(second)):
        assert first[i] != second[j]
        assert (i - 1, j - 1) in anchors
        assert (i + 1, j + 1) in anchors


def tokens(tokenizer, caption: str) -> list[str]:  # type: ignore[no-untyped-def]
    ids = tokenizer(caption, padding="max_length", max_length=77, truncation=True)["input_ids"]
    return list(tokenizer.convert_ids_to_tokens(ids))


def test_a_swapped_word_takes_the_place_of_the_old_one(tokenizer) -> None:  # type: ignore[no-untyped-def]
    # start a red shirt on a table end
    both = "a red shirt on a table", "a blue shirt on a table"
    assert np.array_equal(align([tokenizer], *both).taken, np.eye(77))
    assert not align([tokenizer], *both).own.any()
    own = align([tokenizer], *both, swapped=False).own
    assert np.flatnonzero(own).tolist() == [2]
    assert tokens(tokenizer, both[1])[2] == "blue</w>"


def test_a_word_of_other_length_shares_the_map_equally(tokenizer) -> None:  # type: ignore[no-untyped-def]
    # "dog" is one token, "zebu" is spelled in four.
    assert tokens(tokenizer, "a zebu")[2:6] == ["z", "e", "b", "u</w>"]
    found = align([tokenizer], "a dog on grass", "a zebu on grass")
    assert found.taken[2, 2:6].tolist() == [0.25] * 4
    assert found.taken[3, 6] == found.taken[4, 7] == 1
    assert not found.own.any() or np.flatnonzero(found.own).min() > 8
    back = align([tokenizer], "a zebu on grass", "a dog on grass")
    assert back.taken[2:6, 2].tolist() == [1] * 4


def test_new_words_keep_their_own_maps_and_old_ones_move(tokenizer) -> None:  # type: ignore[no-untyped-def]
    # start a dog end        start a red and white dog end
    found = align([tokenizer], "a dog", "a red and white dog")
    assert np.flatnonzero(found.own[:7]).tolist() == [2, 3, 4]
    assert found.taken[0, 0] == found.taken[1, 1] == found.taken[2, 5] == found.taken[3, 6] == 1
    # What fills up has its own place in both captions.
    assert np.array_equal(found.taken[7:, 7:], np.eye(70))


def test_words_are_aligned_whole(tokenizer) -> None:  # type: ignore[no-untyped-def]
    # Both are spelled and share letters, which are no words.
    found = align([tokenizer], "a zebu and xylo", "a red zoo", swapped=False)
    kept = [tokens(tokenizer, "a red zoo")[j] for j in np.flatnonzero(found.own)]
    assert kept[:2] == ["red</w>", "z"]
    assert "o</w>" in kept


@given(st.text("ab zq,", max_size=20), st.text("ab zq,", max_size=20))
def test_each_token_has_one_map(first: str, second: str) -> None:
    tokenizer = tiny_diffusers._clip_tokenizer()
    found = align([tokenizer], first, second)
    taken = found.taken.sum(axis=0)
    assert ((found.own == 1) == (taken == 0)).all()
    assert found.same == (tokens(tokenizer, first) == tokens(tokenizer, second))
    if found.same:
        assert np.array_equal(found.taken, np.eye(77))


def test_captions_that_differ_behind_what_is_read_are_the_same(tokenizer) -> None:  # type: ignore[no-untyped-def]
    long = "a dog and " * 30
    assert align([tokenizer], long + "cat", long + "shoe").same
    assert not align([tokenizer], "a dog", "a cat").same


def test_only_what_all_tokenizers_agree_on_is_shared(tokenizer) -> None:  # type: ignore[no-untyped-def]
    from transformers import CLIPTokenizer

    letters = [*tiny_diffusers._LETTERS, *(f"{one}</w>" for one in tiny_diffusers._LETTERS)]
    names = dict.fromkeys([*letters, "<|startoftext|>", "<|endoftext|>"])
    speller = CLIPTokenizer(
        vocab={name: number for number, name in enumerate(names)}, merges=[], model_max_length=77
    )
    # start a b o red end, and start a b o r e d end
    found = align([tokenizer, speller], "a b o red", "a b o blue", swapped=False)
    assert (found.taken[range(4), range(4)] == 1).all()
    assert found.own[4] == 1
    alone = align([tokenizer], "a b o red", "a b o blue", swapped=False)
    assert alone.taken[5, 5] == 1
    assert found.own[5] == 1

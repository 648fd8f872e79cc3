"""Records become items: captions are cleaned the same way everywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen.ingest import clean_caption


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a red\x00dress\r\n in\tthe  sun ", "a red dress in the sun"),
        ("\u202egnp.ssalc\u202c a dress", "gnp.ssalc a dress"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("👩\u200d🎨 paints", "👩\u200d🎨 paints"),
        ("\ufeffdress", "dress"),
        (None, ""),
        (" \x85\u3000", ""),
    ],
)
def test_captions_lose_controls_and_keep_letters(raw, clean):
    assert clean_caption(raw) == clean


@given(st.text())
def test_a_clean_caption_is_clean(text):
    once = clean_caption(text)
    assert clean_caption(once) == once
    assert not any(
        ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or 0x202A <= ord(c) <= 0x202E for c in once
    )

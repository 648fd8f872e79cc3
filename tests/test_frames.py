"""Frames of clips: the frame that comes out is the one that is shown then, and is upright."""

from __future__ import annotations

import gc
import io
import os
import weakref
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import broken_clips
import broken_media
import numpy as np
import pytest
import tiny_clips
from broken_clips import FRAMES, TRUTH
from coded_clips import HEIGHT, WIDTH, clip, coded, number, quiet, shown
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datagen import demux, frames, media

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / os.environ.get("DATAGEN_TEST_DATA", "../shared/data")
CASES = broken_clips.cases()


def verdict(act: Callable[[], Any]) -> str:
    """The rule of the MediaError that ``act`` raises, or kept."""
    try:
        act()
    except media.MediaError as error:
        return error.rule if error.detail and "\n" not in error.detail else "no detail"
    return broken_clips.KEPT


def numbers(data: bytes, choice: frames.Choice) -> list[int]:
    return [number(frame.image) for frame in frames.sample(data, choice)]


# What comes in.


@pytest.mark.parametrize("name", CASES)
def test_every_odd_clip_is_kept_or_refused_by_the_rule_it_deserves(name: str) -> None:
    data, rule = CASES[name]
    assert verdict(lambda: media.verify(data)) == rule
    assert verdict(lambda: media.verify(data)) == rule
    if name in TRUTH:
        found = media.verify(data)
        assert (found.format, found.width, found.height, found.frames) == TRUTH[name]
        assert media.probe(data) == found
    # Without a check it may pass; nothing but MediaError may come out.
    for choice in ("first", 3, "key", (0.0, 9.0)):
        verdict(lambda c=choice: frames.sample(data, c))


@pytest.mark.parametrize("name", sorted(TRUTH))
def test_odd_clips_give_the_pictures_that_went_in(name: str) -> None:
    _, width, height, count = TRUTH[name]
    found = frames.sample(CASES[name][0], tuple(_times(CASES[name][0])))
    assert len(found) == count
    turns = {"turned_90.mp4": 1, "turned_180.mp4": 2, "turned_270.mov": 3}
    for at, frame in enumerate(found):
        assert frame.image.mode == "RGB"
        assert frame.image.size == (width, height)
        size = (width, height) if name in ("odd_sides.mkv", "one_pixel.mkv") else (WIDTH, HEIGHT)
        wanted = coded(at, *size).astype(int)
        if name == "grey.mkv":
            wanted[:] = wanted.mean(axis=2, keepdims=True)
        if name == "clear.mov":
            wanted[2 * (HEIGHT // 3) :] = 255
        if name == "wide_pixels.mp4":
            wanted = wanted.repeat(2, axis=1)
        if name == "mirrored.mp4":
            wanted = wanted[:, ::-1]
        wanted = np.rot90(wanted, turns.get(name, 0))
        # Edges blur where chroma has half the size; what a picture shows does not.
        assert np.abs(np.asarray(frame.image).astype(int) - wanted).mean() < 12


def _times(data: bytes) -> list[float]:
    """When the frames of a clip begin, by a plain decode of everything."""
    with av.open(io.BytesIO(data)) as reader:
        stream = next(s for s in reader.streams.video if not s.disposition & 0x400)
        times = [float(frame.time) for frame in reader.decode(stream)]
    return [time - times[0] for time in times]


# Which frames are chosen.


def chosen(data: bytes, choice: frames.Choice) -> list[int]:
    """The numbers of the frames that are shown at the times of ``choice``, by trying each."""
    film = shown(data)
    with av.open(io.BytesIO(data)) as reader:
        last = list(reader.decode(video=0))[-1]
        length = film[-1][0] + last.duration * Fraction(last.time_base)
    if choice == "first":
        return [film[0][1]]
    if choice == "middle":
        choice = 1
    if isinstance(choice, int):
        wanted = [length * (2 * part + 1) / (2 * choice) for part in range(choice)]
    else:
        assert isinstance(choice, tuple)
        wanted = [Fraction(second) for second in choice]
    found = []
    for time in wanted:
        at = film[0][1]
        for begin, which in film:
            if begin <= time:
                at = which
        found.append(at)
    return found


CODECS = {
    "h264": ("mp4", "libx264", {"g": "8", "bf": "3", "x264-params": "b-pyramid=normal"}),
    "h264 open": ("matroska", "libx264", {"g": "8", "bf": "2", "x264-params": "open-gop=1"}),
    "h264 waves": ("matroska", "libx264", {"x264-params": "intra-refresh=1:keyint=10"}),
    "hevc": ("mp4", "libx265", {"x265-params": "log-level=none:pools=1:crf=12:keyint=9"}),
    "vp8": ("webm", "libvpx", {"g": "8", "auto-alt-ref": "1", "lag-in-frames": "9"}),
    "vp9": ("webm", "libvpx-vp9", {"g": "8", "auto-alt-ref": "1", "lag-in-frames": "9"}),
    "mpeg4": ("avi", "mpeg4", {"g": "8", "bf": "2"}),
    "mpeg2": ("matroska", "mpeg2video", {"g": "8", "bf": "2", "b": "4000000"}),
    "mjpeg": ("avi", "mjpeg", {}),
}


@pytest.mark.parametrize("name", CODECS)
def test_leaps_give_the_very_pixels_of_a_decode_of_everything(name: str) -> None:
    kind, codec, options = CODECS[name]
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    rate = 25 if codec == "mpeg2video" else 12
    data = clip(kind, codec, 40, rate=rate, options={**quiet(codec), **options}, pix_fmt=pix_fmt)
    assert [which for _, which in shown(data)] == list(range(40))
    for choice in (1, 2, 3, 7, 40, "first", "middle", (0.0, 1.0, 0.3), (99.0, -1.0)):
        found = numbers(data, choice)
        assert found == chosen(data, choice), choice
    every = frames.sample(data, 40)
    for choice in (1, 3, 5, "key"):
        for frame in frames.sample(data, choice):
            same = next(one for one in every if one.seconds == frame.seconds)
            assert frame.image.tobytes() == same.image.tobytes()


@given(
    gaps=st.lists(st.integers(1, 3000), min_size=0, max_size=12),
    parts=st.integers(1, 14),
    kind=st.sampled_from(["mp4", "matroska"]),
)
@settings(max_examples=60, deadline=None)
def test_of_uneven_frames_those_are_chosen_that_are_shown_then(
    gaps: list[int], parts: int, kind: str
) -> None:
    times = [0]
    for gap in gaps:
        times.append(times[-1] + gap)
    data = clip(kind, "mpeg4", times=times, options={"g": "3"})
    assert numbers(data, parts) == chosen(data, parts)
    assert numbers(data, "middle") == chosen(data, "middle")
    assert numbers(data, "first") == [0]


@given(st.lists(st.floats(-3, 30, allow_nan=False), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_given_seconds_give_the_frame_shown_then_in_their_order(seconds: list[float]) -> None:
    data = CASES["uneven.mp4"][0]
    # A microsecond before a frame begins counts as its beginning.
    wanted = tuple(Fraction(second) + Fraction(1, 1_000_000) for second in seconds)
    assert numbers(data, tuple(seconds)) == chosen(data, wanted)


def test_seconds_that_were_given_out_name_the_same_frame_again() -> None:
    for name in ("uneven.mp4", "late.mkv", "good.mkv", "vp9.webm", "divx.avi"):
        data = CASES[name][0]
        once = frames.sample(data, TRUTH[name][3])
        again = frames.sample(data, tuple(frame.seconds for frame in once))
        assert [frame.seconds for frame in again] == [frame.seconds for frame in once]


@pytest.mark.parametrize("name", CASES)
def test_a_clip_read_once_gives_what_one_read_twice_gives(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = CASES[name][0]

    def found(choice: frames.Choice) -> Any:
        try:
            made = frames.sample(data, choice)
        except media.MediaError as error:
            return error.rule, error.detail
        return [(frame.seconds, frame.image.size, frame.image.tobytes()) for frame in made]

    choices: tuple[frames.Choice, ...] = (3, "first", "key")
    once, probed = [found(choice) for choice in choices], verdict(lambda: media.probe(data))
    for most in ("HELD_PACKETS", "HELD_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(demux, most, 0)
            assert [found(choice) for choice in choices] == once
            assert verdict(lambda: media.probe(data)) == probed


def test_only_clips_of_many_packets_are_opened_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    opens = []
    plain = av.open
    monkeypatch.setattr(demux.av, "open", lambda *a, **k: opens.append(1) or plain(*a, **k))
    frames.sample(CASES["good.mp4"][0], 8)
    assert len(opens) == 1
    monkeypatch.setattr(demux, "HELD_PACKETS", FRAMES - 1)
    frames.sample(CASES["good.mp4"][0], 8)
    assert len(opens) == 3


def test_key_frames_are_those_that_need_no_other_and_at_most_eight() -> None:
    assert numbers(CASES["good.mp4"][0], "key") == [0, 8, 16]
    many = clip(frames=40, options={"g": "1"})
    assert numbers(many, "key") == [2, 7, 12, 17, 22, 27, 32, 37]
    assert numbers(clip(frames=5), "key") == [0]


def test_a_short_clip_gives_its_frames_again() -> None:
    assert numbers(CASES["one_frame.mp4"][0], 3) == [0, 0, 0]
    assert numbers(clip(frames=2), 5) == [0, 0, 1, 1, 1]


def test_an_image_is_its_one_frame() -> None:
    data = broken_media.encode(broken_media.scene(), "PNG")
    for choice in (1, 8, "middle", (3.0, 4.0)):
        (frame,) = frames.sample(data, choice)
        assert frame.seconds == 0.0
        assert frame.image.tobytes() == media.decode(data).tobytes()


@pytest.mark.parametrize("choice", [0, -1, "last", (), (float("nan"),), (0.0, float("inf"))])
def test_what_is_no_choice_is_refused(choice: Any) -> None:
    with pytest.raises(ValueError, match="no choice of frames"):
        frames.sample(CASES["good.mp4"][0], choice)


def test_trimmed_clips_show_what_their_edit_list_keeps() -> None:
    # The edit list starts at the sixth frame, within a group: what stands before is decoded, as
    # others depend on it, and never shown.
    data = bytearray(clip(frames=20, rate=10, options={"g": "10", "bf": "0"}))
    at = bytes(data).index(b"elst") + 4
    entry = at + 8
    data[entry : entry + 8] = (1000).to_bytes(4, "big") + (6 * 1024 * 10 // 10).to_bytes(4, "big")
    with av.open(io.BytesIO(bytes(data))) as reader:
        assert reader.streams.video[0].time_base == Fraction(1, 10240)
        plain = [number(frame.to_image()) for frame in reader.decode(video=0)]
    assert plain[0] == 6
    assert numbers(bytes(data), len(plain)) == plain
    assert media.verify(bytes(data)).frames == len(plain)


# How they look.


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_a_display_matrix_moves_every_pixel_where_it_says(
    swap: bool, signs: tuple[int, int]
) -> None:
    one = 1 << 16
    a, d = (0, 0) if swap else (signs[0] * one, signs[1] * one)
    b, c = (signs[0] * one, signs[1] * one) if swap else (0, 0)
    data = _with_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
    plain = np.asarray(frames.sample(_with_matrix(None), "first")[0].image)
    # By the format's definition, the pixel (x, y) is shown at (a x + c y, b x + d y).
    spots = {}
    for y in range(HEIGHT):
        for x in range(WIDTH):
            spots[(a * x + c * y) // one, (b * x + d * y) // one] = plain[y, x]
    left, top = min(x for x, _ in spots), min(y for _, y in spots)
    (frame,) = frames.sample(data, "first")
    assert frame.image.size == ((HEIGHT, WIDTH) if swap else (WIDTH, HEIGHT))
    upright = np.asarray(frame.image)
    for (x, y), pixel in spots.items():
        assert (upright[y - top, x - left] == pixel).all()
    found = media.probe(data)
    assert (found.width, found.height) == frame.image.size


def _with_matrix(matrix: list[int] | None) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as writer:
        stream: Any = writer.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.set_display_matrix(matrix)
        writer.mux(stream.encode(av.VideoFrame.from_ndarray(coded(77), format="rgb24")))
        writer.mux(stream.encode())
    return out.getvalue()


@pytest.mark.parametrize(("matrix", "full"), [("bt709", 0), ("bt709", 1), ("smpte170m", 0)])
def test_colours_follow_the_matrix_and_the_range_of_the_clip(matrix: str, full: int) -> None:
    # Limited range, and both matrices, from their definitions.
    red, blue = (0.2126, 0.0722) if matrix == "bt709" else (0.299, 0.114)
    colour = np.array([200, 60, 30])
    luma = red * colour[0] + (1 - red - blue) * colour[1] + blue * colour[2]
    chroma = ((colour[2] - luma) / (2 - 2 * blue), (colour[0] - luma) / (2 - 2 * red))
    low, scale, swing = (0, 1.0, 1.0) if full else (16, 219 / 255, 224 / 255)
    planes = [round(low + scale * luma), *(round(128 + swing * value) for value in chroma)]
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as writer:
        stream: Any = writer.add_stream("libx264", rate=12, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.colorspace = 1 if matrix == "bt709" else 6
        stream.codec_context.color_range = 2 if full else 1
        flat = np.concatenate(
            [np.full(32 * 32 // (1 if at == 0 else 4), planes[at], np.uint8) for at in range(3)]
        ).reshape(48, 32)
        frame = av.VideoFrame.from_ndarray(flat, format="yuv420p")
        frame.colorspace = 1 if matrix == "bt709" else 5
        frame.color_range = 2 if full else 1
        writer.mux(stream.encode(frame))
        writer.mux(stream.encode())
    (found,) = frames.sample(out.getvalue(), "first")
    assert np.abs(np.asarray(found.image).astype(int) - colour).max() <= 4


# Limits and damage.


@pytest.mark.parametrize(
    ("limits", "rule"),
    [
        (media.Limits(max_video_bytes=100), "too_many_bytes"),
        (media.Limits(max_bytes=100), broken_clips.KEPT),
        (media.Limits(max_pixels=WIDTH * HEIGHT - 1), "too_many_pixels"),
        (media.Limits(max_side=WIDTH - 1), "too_many_pixels"),
        (media.Limits(min_side=HEIGHT + 1), "too_small"),
        (media.Limits(max_seconds=1.99), "too_long"),
        (media.Limits(max_frames=FRAMES - 1), "too_many_frames"),
        (media.Limits(max_seconds=2, max_frames=FRAMES), broken_clips.KEPT),
    ],
)
def test_limits_hold_for_clips(limits: media.Limits, rule: str) -> None:
    data = CASES["good.mp4"][0]
    assert verdict(lambda: media.probe(data, limits)) == rule
    assert verdict(lambda: media.verify(data, limits)) == rule
    assert verdict(lambda: frames.sample(data, "first", limits)) == rule


def test_limits_are_judged_by_what_is_displayed() -> None:
    wide = media.Limits(max_side=2 * WIDTH - 1)
    assert verdict(lambda: media.probe(CASES["wide_pixels.mp4"][0], wide)) == "too_many_pixels"


def test_a_clip_that_breaks_off_gives_the_frames_before() -> None:
    for name in ("cut_60.mkv", "cut_pieces.mp4", "cut.webm", "cut_90.avi"):
        data = CASES[name][0]
        assert verdict(lambda d=data: media.verify(d)) == "truncated"
        count = media.probe(data).frames
        assert count is not None
        assert 1 < count < FRAMES
        found = numbers(data, count)
        # The last ones may stand before others that are lost.
        assert found[:2] == [0, 1], name
        assert found == sorted(set(found))


def test_damage_concerns_the_frames_that_depend_on_it_alone() -> None:
    data = clip("matroska", frames=48, options={"g": "8", "bf": "0"})
    with av.open(io.BytesIO(data)) as reader:
        spots = [(p.pos, p.size) for p in reader.demux(video=0) if p.size]
    start, stop = spots[20][0] + 16, sum(spots[20])
    for broken in (
        broken_clips.damaged(data, start, stop),
        data[:start] + b"\0" * (stop - start) + data[stop:],
    ):
        assert verdict(lambda d=broken: media.verify(d)) == "corrupt"
        for which in (0, 15, 16, 19, 24, 40, 47):
            assert numbers(broken, (which / 12 + 0.01,)) == [which]
        for which in (20, 21, 23):
            time = (which / 12 + 0.01,)
            assert verdict(lambda d=broken, t=time: frames.sample(d, t)) == "corrupt"


def test_long_clips_are_checked_in_places_and_at_their_end() -> None:
    data = clip("matroska", frames=640, options={"g": "40", "bf": "0"})
    with av.open(io.BytesIO(data)) as reader:
        spots = [(p.pos + 16, p.pos + p.size) for p in reader.demux(video=0) if p.size]
    rules = {}
    for which in (0, 50, 80, 639):
        broken = broken_clips.damaged(data, *spots[which])
        rules[which] = verdict(lambda d=broken: media.verify(d))
    kept = broken_clips.KEPT
    assert rules == {0: "corrupt", 50: kept, 80: "corrupt", 639: "corrupt"}
    broken = broken_clips.damaged(data, *spots[50])
    assert numbers(broken, (49 / 12 + 0.01,)) == [49]
    assert verdict(lambda: frames.sample(broken, (51 / 12 + 0.01,))) == "corrupt"


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_damage_raises_anything_but_a_media_error(data: st.DataObject) -> None:
    blob = bytearray(CASES[data.draw(st.sampled_from(sorted(TRUTH)))][0])
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, len(blob) - 1))
        blob[at : at + 4] = data.draw(st.binary(min_size=0, max_size=6))
    cut = bytes(blob[: data.draw(st.integers(1, max(1, len(blob))))])
    verdict(lambda: media.verify(cut))
    verdict(lambda: frames.sample(cut, data.draw(st.sampled_from([1, 4, "key", (0.5,)]))))


# Real clips.


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.exists(), reason="real clips: set DATAGEN_TEST_DATA")
def test_real_clips_are_probed_and_sampled_as_a_plain_decode_says() -> None:
    real = sorted(DATA.glob("videos/intel/*.m*")) + sorted(DATA.glob("videos/misc/*.m*"))
    assert len(real) == 18
    for path in real + sorted(DATA.glob("videos/exercise_2phase/*.mp4"))[::60]:
        data = path.read_bytes()
        with av.open(io.BytesIO(data)) as reader:
            stream = reader.streams.video[0]
            film = [(f.pts, f.duration) for f in reader.decode(stream)]
            unit = Fraction(stream.time_base)
        times = [(pts - film[0][0]) * unit for pts, _ in film]
        length = times[-1] + film[-1][1] * unit
        found = media.verify(data)
        assert found.frames == len(film), path.name
        assert found.seconds == pytest.approx(float(length), abs=1e-5), path.name
        middles = [length * (2 * part + 1) / 16 for part in range(8)]
        wanted = [max(time for time in times if time <= middle) for middle in middles]
        sampled = frames.sample(data, 8)
        assert [frame.seconds for frame in sampled] == [round(float(t), 6) for t in wanted]
        assert {frame.image.size for frame in sampled} == {(found.width, found.height)}
        assert isinstance(sampled[0].image, Image.Image)


def test_decoded_frames_do_not_wait_for_the_garbage_collector() -> None:
    """They are megabytes each, and too few Python objects for it to hurry."""
    data = tiny_clips.fade(24, seed=5)
    frames.sample(data, 8)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        frames.sample(data, 8)
        media.verify(data)
        gc.collect()
        waiting = {type(one).__name__ for one in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not {name for name in waiting if "Frame" in name or "Co" in name}


def test_pictures_are_given_away_one_at_a_time() -> None:
    """So many frames of a large clip are never held at once."""
    data = tiny_clips.fade(24, seed=5)
    given_away: list[weakref.ref[Image.Image]] = []
    most = 0

    def fit(picture: Image.Image) -> bytes:
        nonlocal most
        given_away.append(weakref.ref(picture))
        most = max(most, sum(one() is not None for one in given_away))
        return picture.tobytes()

    found = frames.fitted(data, fit, 20)
    assert most <= 2
    wanted = [(frame.image.tobytes(), frame.seconds) for frame in frames.sample(data, 20)]
    assert found == wanted

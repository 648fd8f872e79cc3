"""Media: whatever the bytes, the answer is a picture or a MediaError with a rule."""

from __future__ import annotations

import http.server
import io
import os
import pickle
import tarfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import broken_media
import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from datagen import fetch, media

DATA = Path(__file__).parent / ".." / os.environ.get("DATAGEN_TEST_DATA", "../shared/data")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("odd")
    return folder, broken_media.make(folder)


def verdict(act: Callable[[], Any]) -> str:
    """The rule of the MediaError that ``act`` raises, or kept."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            act()
        except media.MediaError as error:
            return error.rule if error.detail and "\n" not in error.detail else "no detail"
    return broken_media.KEPT


def pixels(data: bytes, **options: Any) -> np.ndarray[Any, Any]:
    return np.asarray(media.decode(data, **options)).astype(int)


def test_every_odd_file_is_kept_or_refused_by_the_rule_it_deserves(
    odd: tuple[Path, dict[str, str]],
) -> None:
    folder, expected = odd
    assert len(expected) > 70
    places = {name: {"path": str(folder / name)} for name in expected}
    found = {name: verdict(lambda p=p: media.verify(media.read(p))) for name, p in places.items()}
    assert found == expected
    found = {name: verdict(lambda p=p: media.image(p)) for name, p in places.items()}
    assert found == expected


def test_kept_media_have_their_true_format_and_displayed_size(
    odd: tuple[Path, dict[str, str]],
) -> None:
    folder, _ = odd
    for name, (kind, width, height) in broken_media.TRUTH.items():
        data = (folder / name).read_bytes()
        assert media.probe(data) == media.Probe(kind, width, height, "image"), name
        picture = media.decode(data)
        assert (picture.mode, picture.size) == ("RGB", (width, height)), name


def test_nothing_but_media_errors_and_no_bomb_warning_comes_out_of_big_headers() -> None:
    data = broken_media.png(12_000, 12_000, 1, 0, b"\0" * 99)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert verdict(lambda: media.probe(data)) == "too_many_pixels"
        wide = media.Limits(max_pixels=200_000_000)
        assert media.probe(data, wide).width == 12_000
        assert verdict(lambda: media.decode(data, limits=wide)) == "truncated"


@pytest.mark.parametrize(
    ("limits", "rule"),
    [
        (media.Limits(max_bytes=100), "too_many_bytes"),
        (media.Limits(max_pixels=96 * 64 - 1), "too_many_pixels"),
        (media.Limits(max_side=95), "too_many_pixels"),
        (media.Limits(min_side=65), "too_small"),
        (media.Limits(max_pixels=96 * 64, max_side=96, min_side=64), broken_media.KEPT),
    ],
)
def test_limits_are_judged_before_pixels_are_decoded(limits: media.Limits, rule: str) -> None:
    header = broken_media.cut(broken_media.encode(broken_media.scene(), "JPEG"), 0.9)
    assert verdict(lambda: media.probe(header, limits)) == rule
    cut = rule if rule != broken_media.KEPT else "truncated"
    assert verdict(lambda: media.decode(header, limits=limits)) == cut


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_are_turned_as_exif_says(orientation: int, kind: str) -> None:
    # Stored so that showing it as EXIF says gives the scene again.
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    shown = broken_media.scene()
    stored = shown.transpose(Image.Transpose(back[orientation])) if orientation > 1 else shown
    block = broken_media.exif(orientation)
    options: dict[str, Any] = {
        "JPEG": {"exif": block, "quality": 95},
        "PNG": {"exif": block[6:]},
        "WEBP": {"exif": block, "lossless": True},
        "TIFF": {"tiffinfo": {274: orientation}},
    }[kind]
    data = broken_media.encode(stored, kind, **options)
    assert np.abs(pixels(data) - np.asarray(shown).astype(int)).mean() < 10
    found = media.probe(data)
    assert (found.width, found.height) == shown.size


def test_sixteen_bits_are_scaled_not_clipped(odd: tuple[Path, dict[str, str]]) -> None:
    for name in ("grey16.png", "rgb16.png", "rgb16.tif"):
        assert np.unique(pixels((odd[0] / name).read_bytes())).tolist() == [128], name
    row = b"\0" + b"".join(value.to_bytes(2, "big") for value in (0, 257, 300, 65_535))
    data = broken_media.png(4, 1, 16, 0, row)
    assert pixels(data)[0, :, 0].tolist() == [0, 1, 1, 255]


def test_float_and_wide_integer_greys_use_the_whole_range() -> None:
    for values in ([0.0, 0.5, 1.0], [0.0, 127.5, 255.0], [-10.0, 0.0, 10.0], [0, 2e6, 4e6]):
        data = broken_media.encode(Image.fromarray(np.array([values], np.float32)), "TIFF")
        assert pixels(data)[0, :, 0].tolist() == [0, 128, 255], values
    data = broken_media.encode(Image.fromarray(np.array([[0, 65_535]], np.int32)), "TIFF")
    assert pixels(data)[0, :, 0].tolist() == [0, 255]
    nothing = np.full((2, 2), np.nan, np.float32)
    assert pixels(broken_media.encode(Image.fromarray(nothing), "TIFF")).max() == 0


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    half = Image.new("LA", (4, 4), (0, 128))
    assert np.unique(pixels(broken_media.encode(clear, "PNG"))).tolist() == [255]
    assert np.unique(pixels(broken_media.encode(half, "PNG"))).tolist() == [127]
    one = Image.new("P", (4, 4), 3)
    one.putpalette([10, 20, 30] * 256)
    assert np.unique(pixels(broken_media.encode(one, "PNG", transparency=3))).tolist() == [255]
    assert np.unique(pixels(broken_media.encode(one, "GIF", transparency=3))).tolist() == [255]


def test_cmyk_colours_come_out_right_and_not_inverted() -> None:
    for colour in ((255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 0)):
        picture = Image.new("RGB", (32, 32), colour).convert("CMYK")
        data = broken_media.encode(picture, "JPEG", quality=95)
        assert np.abs(pixels(data) - np.array(colour)).max() <= 6


def test_a_ycck_jpeg_has_the_colours_of_its_inks() -> None:
    # Adobe stores inverted inks; in YCCK the three colour inks are stored as luma and chroma, and
    # only the transform byte of the Adobe marker tells so.
    inks = (200, 100, 50)
    planes = Image.new("RGB", (32, 32), inks).convert("YCbCr").getpixel((0, 0))
    stored = Image.new("CMYK", (32, 32), (*(255 - value for value in planes), 0))
    data = bytearray(broken_media.encode(stored, "JPEG", quality=100, subsampling=0))
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    data[at] = 2
    assert np.abs(pixels(bytes(data)) - (255 - np.array(inks))).max() <= 3


def test_a_draft_keeps_the_smallest_side_that_was_asked_for() -> None:
    picture = broken_media.scene(640, 480)
    data = broken_media.encode(picture, "JPEG")
    for draft in (1, 59, 60, 61, 120, 121, 240, 480, 5000):
        size = media.decode(data, draft=draft).size
        assert min(size) >= min(draft, 480)
        assert min(size) <= max(60, 2 * draft)
    small = media.decode(data, draft=120).resize((32, 32))
    full = media.decode(data).resize((32, 32))
    assert np.abs(np.asarray(small).astype(int) - np.asarray(full)).mean() < 6


def test_media_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(media.MediaError("truncated", "a\nb")))  # noqa: S301
    assert (error.rule, error.detail) == ("truncated", "a b")


def test_damage_that_a_decoder_forgives_is_found_by_checksums() -> None:
    data = bytearray(broken_media.encode(broken_media.scene(), "PNG"))
    assert verdict(lambda: media.verify(bytes(data))) == broken_media.KEPT
    data[-20] ^= 1  # the checksum of the pixels
    assert verdict(lambda: media.verify(bytes(data))) in ("corrupt", "truncated")


def test_verifying_twice_says_the_same(odd: tuple[Path, dict[str, str]]) -> None:
    folder, expected = odd
    for name in expected:
        if (folder / name).is_file():
            data = (folder / name).read_bytes()
            assert verdict(lambda d=data: media.verify(d)) == verdict(
                lambda d=data: media.verify(d)
            )
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


KINDS = ("good.jpg", "progressive.jpg", "turned.jpg", "good.png", "good.webp", "still.gif")
GOOD = broken_media.good(KINDS)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_no_damage_raises_anything_but_a_media_error(data: st.DataObject) -> None:
    damaged = bytearray(GOOD[data.draw(st.sampled_from(KINDS))])
    for _ in range(data.draw(st.integers(0, 8))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    blob = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    verdict(lambda: media.probe(blob))
    judged = verdict(lambda: media.verify(blob))
    # What verify passes must decode.
    found = verdict(lambda: media.decode(blob, draft=16))
    assert judged != broken_media.KEPT or found == broken_media.KEPT


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_no_image(blob: bytes) -> None:
    assert verdict(lambda: media.verify(blob)) != broken_media.KEPT


@pytest.fixture
def tar(tmp_path: Path) -> tuple[str, int, bytes]:
    """A tar, where its second member begins, and that member."""
    member = broken_media.encode(broken_media.scene(), "JPEG")
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in (("a.txt", b"first"), ("b.jpg", member), ("c.txt", b"last")):
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    with tarfile.open(path) as archive:
        return str(path), archive.getmember("b.jpg").offset_data, member


def test_a_member_of_a_tar_is_read_in_place(tar: tuple[str, int, bytes]) -> None:
    path, offset, member = tar
    place = {"path": path, "offset": offset, "size": len(member)}
    assert media.read(place) == member
    assert media.image(place).size == broken_media.scene().size
    beyond = place | {"size": 1 << 20}
    assert verdict(lambda: media.read(beyond)) == "truncated"
    assert verdict(lambda: media.read(place | {"offset": 1 << 30})) == "truncated"
    assert verdict(lambda: media.read(place | {"offset": -1})) == "corrupt"


def test_other_stores_are_read_through_fsspec(tar: tuple[str, int, bytes]) -> None:
    path, offset, member = tar
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/media-test/shard.tar", Path(path).read_bytes())
    place = {"path": "memory://media-test/shard.tar", "offset": offset, "size": len(member)}
    assert media.read(place) == member
    assert verdict(lambda: media.read(place | {"size": 1 << 20})) == "truncated"
    gone = {"path": "memory://media-test/gone.jpg", "offset": 0, "size": 9}
    assert verdict(lambda: media.read(gone)) == "missing_file"


def test_a_file_longer_than_allowed_is_refused_without_reading_it_whole(tmp_path: Path) -> None:
    with open(tmp_path / "long.jpg", "wb") as file:
        file.truncate(1 << 40)
    assert verdict(lambda: media.read({"path": str(tmp_path / "long.jpg")})) == "too_many_bytes"
    clip = {"path": str(tmp_path / "long.jpg"), "modality": "video", "size": 65 << 20}
    assert len(media.read(clip)) == 65 << 20


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("", "missing_file"),
        ("nul\0byte.jpg", "missing_file"),
        ("surrogate\udcff/x.jpg", "missing_file"),
        ("x" * 5000, "unreadable_file"),
        ("http://127.0.0.1/x.jpg", "http_not_allowed"),
        ("HTTPS://example.com/x.jpg", "http_not_allowed"),
        ("simplecache::http://127.0.0.1/x.jpg", "protocol_not_allowed"),
        ("zip://x.jpg::http://127.0.0.1/x.zip", "protocol_not_allowed"),
        ("ftp://127.0.0.1/x.jpg", "protocol_not_allowed"),
        ("nonsense://x", "protocol_not_allowed"),
    ],
)
def test_paths_that_lead_nowhere_are_refused(path: str, rule: str) -> None:
    assert verdict(lambda: media.read({"path": path})) == rule


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.0", "224.0.0.1", "240.0.0.1", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "not one",
    ],
)  # fmt: skip
def test_addresses_inside_a_network_are_not_public(address: str) -> None:
    assert not fetch.is_public(address)


def test_addresses_of_the_internet_are_public() -> None:
    for address in ("93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34"):
        assert fetch.is_public(address)


class _Server(http.server.BaseHTTPRequestHandler):
    body = b"0123456789" * 100

    def do_GET(self) -> None:
        if self.path == "/gone":
            self.send_error(404)
        elif self.path in ("/moved", "/inward"):
            self.send_response(302)
            target = "/file" if self.path == "/moved" else "http://169.254.169.254/secret"
            self.send_header("Location", target)
            self.end_headers()
        elif self.path == "/round":
            self.send_response(302)
            self.send_header("Location", "/round")
            self.end_headers()
        elif self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "5000")
            self.end_headers()
            self.wfile.write(self.body)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.body)))
            self.end_headers()
            self.wfile.write(self.body)

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_address[1]}"
        served.shutdown()


def test_fetching_stops_at_addresses_that_are_not_public(server: str) -> None:
    allowed = media.Limits(allow_http=True)
    assert verdict(lambda: media.read({"path": f"{server}/file"}, allowed)) == "http_not_allowed"

    def local_only(address: str) -> bool:
        return address == "127.0.0.1"

    def get(path: str, offset: int = 0, size: int = 10_000) -> bytes:
        return fetch.fetch(f"{server}{path}", offset, size, 10, local_only)

    assert get("/file") == _Server.body
    assert get("/moved") == _Server.body
    assert get("/file", 13, 9) == _Server.body[13:22]  # a server that ignores ranges
    assert verdict(lambda: get("/inward")) == "http_not_allowed"
    assert verdict(lambda: get("/gone")) == "missing_file"
    assert verdict(lambda: get("/round")) == "unreadable_file"
    assert verdict(lambda: get("/short")) == "truncated"
    assert verdict(lambda: fetch.fetch("http://[bad", 0, 9, 1)) == "unreadable_file"


def clip(kind: str, codec: str, frames: int = 12, turn: int = 0) -> bytes:
    """A clip of noise, 64 by 48 pixels, 12 frames a second, to be shown turned by degrees."""
    av = pytest.importorskip("av")
    out = io.BytesIO()
    noise = np.random.default_rng(0)
    with av.open(out, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if turn:
            stream.set_display_rotation(turn)
        for _ in range(frames):
            pixels = noise.integers(0, 255, (48, 64, 3)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "codec", "name"),
    [
        ("mp4", "mpeg4", "mp4"),
        ("mov", "mpeg4", "mov"),
        ("matroska", "mpeg4", "mkv"),
        ("webm", "libvpx", "webm"),
        ("avi", "mpeg4", "avi"),
    ],
)
def test_clips_are_probed_and_refused_as_images(kind: str, codec: str, name: str) -> None:
    data = clip(kind, codec)
    found = media.probe(data)
    assert (found.format, found.modality, found.width, found.height) == (name, "video", 64, 48)
    assert found.frames == 12
    assert found.seconds == pytest.approx(1.0, abs=0.1)
    assert media.verify(data) == found
    assert verdict(lambda: media.decode(data)) == "not_an_image"
    small = media.Limits(max_bytes=10, max_video_bytes=10)
    assert verdict(lambda: media.probe(data, small)) == "too_many_bytes"


def test_a_clip_taken_upright_has_the_size_that_is_shown() -> None:
    for turn, size in ((90, (48, 64)), (180, (64, 48)), (270, (48, 64))):
        found = media.probe(clip("mp4", "mpeg4", turn=turn))
        assert (found.width, found.height) == size
    narrow = media.Limits(max_side=63)
    assert verdict(lambda: media.probe(clip("mp4", "mpeg4"), narrow)) == "too_many_pixels"


def test_a_container_without_pictures_is_no_clip() -> None:
    av = pytest.importorskip("av")
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 16_000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    assert verdict(lambda: media.probe(out.getvalue())) == "no_video"


def test_damaged_clips_are_refused_not_raised() -> None:
    data = clip("mp4", "mpeg4")
    assert verdict(lambda: media.probe(data[: len(data) // 2])) in ("corrupt", "truncated")
    for at in range(0, len(data), 97):
        damaged = data[:at] + b"\xa5" * 8 + data[at + 8 :]
        verdict(lambda d=damaged: media.probe(d))


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.exists(), reason="real photos: set DATAGEN_TEST_DATA")
def test_real_photos_and_clips_are_all_kept() -> None:
    photos = sorted(DATA.glob("photos/*/images/**/*.jpg"))[::9]
    clips = sorted(DATA.glob("videos/*/*.m*"))[::20]
    assert len(photos) > 100
    for path in (*photos, *clips):
        data = media.read({"path": str(path), "size": path.stat().st_size})
        found = media.verify(data)
        if found.modality == "image":
            assert media.decode(data).size == (found.width, found.height)

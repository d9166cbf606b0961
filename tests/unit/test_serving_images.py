"""Pictures that strangers send: formats, limits, bombs, and what is fetched from where."""

from __future__ import annotations

import http.server
import io
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from setok.config import LimitsConfig
from setok.errors import DataError
from setok.serving import fetching
from setok.serving.fetching import fetch
from setok.serving.images import SMALL_BYTES, ImageReader, png
from tests.served import data_url, opened, picture

READER = ImageReader(LimitsConfig(max_image_bytes=200_000, max_image_pixels=1_000_000), size=32)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_formats_that_are_taken(kind: str) -> None:
    shown = READER.from_data_url(data_url(picture(kind=kind), f"image/{kind.lower()}"))
    assert shown.pixels.shape == (3, 32, 32)
    assert shown.pixels.dtype == np.uint8
    assert shown.size == (32, 40)
    red = shown.pixels[:, 12, 10].astype(int)
    assert red[0] > 150 > red[1]


@pytest.mark.parametrize("kind", ["TIFF", "ICO", "PPM", "PDF", "TGA"])
def test_formats_that_are_not(kind: str) -> None:
    with pytest.raises(DataError, match=r"not an image that is taken(.|\n)*PNG, JPEG"):
        READER.from_bytes(picture(kind=kind))


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more than its few bytes say."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


REFUSED: dict[str, tuple[str, str]] = {
    "a path": ("/etc/passwd", "is no data URL"),
    "a file": ("file:///etc/passwd", "is no data URL"),
    "elsewhere": ("http://example.com/a.png", "is no data URL"),
    "not base64": ("data:image/png,abc", "is no data URL"),
    "bad base64": ("data:image/png;base64,@@@@", "holds no base64"),
    "nothing": ("data:image/png;base64,", "starts with nothing"),
    "no picture": (data_url(b"hello, world"), "it starts with 68 65 6c"),
    "cut off": (data_url(picture()[:60]), "truncated|damaged"),
    "a long file": (data_url(b"\x89PNG\r\n\x1a\n" + b"x" * 199_993), r"image too large: 200001 bytes of 200000"),
    "a very long text": (data_url(b"x" * 900_000), r"image too large: about 900000 bytes"),
    "wide": (data_url(bomb(20_000, 10)), "longest side allowed"),
    "many pixels": (data_url(bomb(4000, 4000)), r"16000000 pixels of 1000000"),
    "a bomb": (data_url(bomb(60_000, 60_000)), "image too large"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_and_why(name: str) -> None:
    url, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        READER.from_data_url(url)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP"]),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=12),
    keep=st.integers(0, 10**6),
)
def test_broken_files_are_refused_or_read_and_nothing_else(
    kind: str, changes: list[tuple[int, int]], keep: int
) -> None:
    data = bytearray(picture(kind=kind))
    for place, value in changes:
        data[place % len(data)] = value
    data = data[: 1 + keep % len(data)] if keep % 3 == 0 else data
    try:
        shown = READER.from_bytes(bytes(data))
    except DataError:
        return
    assert shown.pixels.shape == (3, 32, 32)


def test_pictures_and_masks_as_png() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(opened(png(pixels))), pixels)
    mask = pixels[..., 0] > 100
    assert np.array_equal(np.asarray(opened(png(mask))) > 0, mask)


# ------------------------------------------------------------ from other hosts


class Host(http.server.BaseHTTPRequestHandler):
    """Answers by the path."""

    def do_GET(self) -> None:
        paths = {"/big": (200, b"x" * 5000), "/away": (302, b""), "/gone": (404, b"")}
        status, body = paths.get(self.path, (200, f"{self.path} of {self.headers['Host']}".encode()))
        self.send_response(status)
        if status == 302:
            self.send_header("location", "http://127.0.0.1/secret")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """``pictures.example`` at a public address, which leads to a server on this machine."""
    server = http.server.HTTPServer(("127.0.0.1", 0), Host)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    connect = socket.create_connection
    asked: list[Any] = []

    def redirected(address: tuple[str, int], timeout: float) -> socket.socket:
        asked.append(address)
        assert address[0] == PUBLIC[0]
        return connect(server.server_address[:2], timeout=timeout)

    monkeypatch.setattr(fetching.socket, "create_connection", redirected)
    yield "pictures.example"
    server.shutdown()
    thread.join()
    server.server_close()
    assert asked, "it connected to nothing"


PUBLIC = ["93.184.215.14"]


def get(url: str, *hosts: str, addresses: list[str] = PUBLIC, max_bytes: int = 4000) -> bytes:
    return fetch(url, hosts, max_bytes=max_bytes, resolve=lambda host, port: addresses)


def test_what_allowed_hosts_have_is_fetched(host: str) -> None:
    assert get("http://pictures.example/a.png?b=1", host) == b"/a.png?b=1 of pictures.example"
    assert get("http://PICTURES.example:80", host) == b"/ of pictures.example"


@pytest.mark.parametrize(
    ("path", "message"),
    [("/away", "a redirect, which is not followed"), ("/gone", "status 404"), ("/big", "more than 4000 bytes")],
)
def test_what_they_may_not_answer(host: str, path: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        get(f"http://pictures.example{path}", host)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "::1", "fe80::1%eth0", "::ffff:127.0.0.1", "0.0.0.0"],
)
def test_private_addresses_are_never_asked(address: str) -> None:
    with pytest.raises(DataError, match="has a private address"):
        get("http://pictures.example/", "pictures.example", addresses=[*PUBLIC, address])


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example/",
        "http://sub.pictures.example/",
        "ftp://pictures.example/",
        "file:///etc/passwd",
        "http://pictures.example@other.example/",
        "http:///",
    ],
)
def test_other_hosts_are_not_asked(url: str) -> None:
    with pytest.raises(DataError, match=r"pictures are not fetched from(.|\n)*or have it at: pictures.example"):
        get(url, "pictures.example")


def test_names_that_mean_nothing() -> None:
    with pytest.raises(DataError, match="is not known"):
        fetching.resolve("no-such-host.invalid", 80)
    with pytest.raises(DataError, match="impossible port"):
        get("http://pictures.example:99999/", "pictures.example")


def test_a_gif_shows_its_first_frame() -> None:
    file = io.BytesIO()
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert READER.from_bytes(file.getvalue()).pixels[:, 5, 5].tolist() == [255, 0, 0]


def test_small_pictures_are_told_from_those_that_take_long() -> None:
    reader = READER
    small = data_url(picture(40, 32))
    seen = reader.small_from_data_url(small)
    assert seen is not None
    wanted = reader.from_data_url(small)
    assert seen.size == wanted.size == (32, 40)
    assert (seen.pixels == wanted.pixels).all()
    many_pixels = data_url(picture(300, 300))
    assert len(many_pixels) < SMALL_BYTES
    assert reader.small_from_data_url(many_pixels) is None
    assert reader.from_data_url(many_pixels).size == (300, 300)
    rng = np.random.default_rng(0)
    many_bytes = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (120, 120, 3), np.uint8)).save(many_bytes, "PNG")
    assert reader.small_from_data_url(data_url(many_bytes.getvalue())) is None
    assert reader.small_from_data_url("data:image/png;base64,AAAA") is None
    few = READER.limits.model_copy(update={"max_image_pixels": 1000})
    assert ImageReader(few, size=32).small_from_data_url(small) is None

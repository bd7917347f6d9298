"""Test pictures in the terminal: only where it can show them, and without breaking the progress below."""

import io
import sys
from types import SimpleNamespace

import pytest
from PIL import Image
from rich.progress import Progress

from ltx_client.shared.console.rich_console import Console
from ltx_client.terminal.watching import terminal_images
from ltx_client.terminal.watching.progress import BarDisplay, PlainDisplay


@pytest.fixture
def terminal(monkeypatch):
    stream = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(terminal_images, "sys", SimpleNamespace(stdin=stream, stdout=stream, stderr=stream))
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def jpeg():
    data = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(data, "JPEG")
    return data.getvalue()


def can(monkeypatch, name):
    """Answer as a terminal that can show pictures in this way."""
    from textual_image import renderable

    monkeypatch.setattr(renderable, "Image", getattr(renderable, name))


@pytest.mark.parametrize(("kind", "mark"), [("SixelImage", "\x1bP"), ("TGPImage", "\U0010eeee")])
def test_a_picture_goes_above_the_bar(terminal, monkeypatch, jpeg, capfd, kind, mark):
    """Kitty gets the picture separately; placeholder characters say where it belongs."""
    can(monkeypatch, kind)
    picture = terminal_images.detect(None)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, height=24)
    with Progress(console=console, auto_refresh=False) as progress:
        progress.add_task("denoising", total=8)
        BarDisplay(progress, with_ids=False).show_picture(picture(jpeg))
    drawn = screen.getvalue()
    assert mark in drawn
    assert ("\x1b_G" in capfd.readouterr().out) == (kind == "TGPImage")
    assert drawn.rindex("denoising") > drawn.rindex(mark)


def encoded(kind, size=(64, 48)):
    data = io.BytesIO()
    Image.new("L", size).save(data, kind)
    return data.getvalue()


def said_to_be(width, height):
    """Return a JPEG whose frame header has another size."""
    data = encoded("JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[at + 4 :]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a JPEG"),
        (b"\x1b]0;title\x07", "not a JPEG"),
        (encoded("JPEG")[:300], "not a JPEG"),
        (encoded("PNG"), "not a JPEG"),
        (said_to_be(8000, 8000), "too large"),
        (said_to_be(65000, 60000), "too large"),
    ],
    ids=["nothing", "text", "half of one", "another format", "too large", "far too large"],
)
@pytest.mark.parametrize("limit", [Image.MAX_IMAGE_PIXELS, None], ids=["Pillow's limit", "no limit of Pillow's"])
def test_what_is_no_preview_is_not_shown(terminal, monkeypatch, data, said, limit):
    """Whoever may write as a worker may write anything; `ltx_models.media` raises Pillow's limit for its process."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    can(monkeypatch, "SixelImage")
    screen = io.StringIO()
    Console(file=screen, force_terminal=True, width=80, height=24).print(terminal_images.detect(None)(data))
    assert said in screen.getvalue() and "\x1b" not in screen.getvalue()


def test_where_there_are_none(terminal, monkeypatch, jpeg, capsys):
    can(monkeypatch, "HalfcellImage")
    assert terminal_images.detect(None) is None
    can(monkeypatch, "SixelImage")
    assert terminal_images.detect(wanted=False) is None
    monkeypatch.setenv("TERM", "dumb")
    assert terminal_images.detect(None) is None
    monkeypatch.setenv("TERM", "xterm")
    PlainDisplay(with_ids=False).show_picture(terminal_images.detect(None)(jpeg))
    assert capsys.readouterr() == ("", "")
    terminal_images.sys.stdout = io.StringIO()
    assert terminal_images.detect(None) is None


def test_without_the_package(terminal, monkeypatch):
    monkeypatch.setitem(sys.modules, "textual_image", None)
    assert terminal_images.detect(None) is None

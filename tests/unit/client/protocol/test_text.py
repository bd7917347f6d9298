"""Test which characters of a text may be printed on a terminal."""

import json
import re
import sys
import unicodedata

import pytest

from ltx_client.protocol.text import is_printable, json_text, printable

SHOWN_FORMATS = {0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x600, 0x606)}
JOINERS = {0x200C, 0x200D}


def test_every_control_and_invisible_format_is_replaced_and_nothing_else():
    for code in range(sys.maxunicode + 1):
        letter = chr(code)
        if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            assert is_printable(letter) == (code in SHOWN_FORMATS | JOINERS), hex(code)
        elif unicodedata.category(letter) != "Cn":
            assert is_printable(letter), hex(code)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "�]0;title�"),
        ("\x1b[31mred", "�[31mred"),
        ("\x9b31m", "�31m"),
        ("exe.\u202egpj", "exe.�gpj"),
        ("two\r\nlines\tand\u2028more\x85", "two  lines and more "),
        ("\udcff", "�"),
        ("a\x08\x7f", "a��"),
    ],
)
def test_what_becomes_of_controls(text, shown):
    assert printable(text) == shown
    assert len(shown) == len(text)


@pytest.mark.parametrize(
    "name", ["مريم العلي", "דנה כהן", "می‌خواهم", "👩‍👩‍👧 👍🏽 ❤️ 🇩🇪", "Ünal Çelik", "क्‍ष", "山田　太郎", "a b", ""]
)
def test_names_of_all_the_world_stay_readable(name):
    assert printable(name) == name


def test_lines_of_our_own_stay():
    assert printable("one\ntwo\x1b\r\n", lines=True) == "one\ntwo� \n"


def test_json_is_the_same_data_without_controls():
    data = {"é\u202e": ["\x1b[31m\n\x7f\x9b\u2028\ud800\U000e0041", "👩‍👩‍👧", 1, None]}
    for indent in (None, 2):
        text = json_text(data, indent=indent)
        assert json.loads(text) == data
        assert is_printable(re.sub("\n *", "", text))
        assert "👩‍👩‍👧" in text

"""The one way to show foreign text: control characters, passwords in addresses, formulas."""

import csv
import io
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xvit.utils.text import hide_secrets, printable, spreadsheet_cell

ANY_TEXT = st.text(st.characters(codec=None))  # lone surrogates too


@given(ANY_TEXT)
def test_printable_text_is_one_line_that_no_terminal_obeys(text):
    shown = printable(text)
    categories = {unicodedata.category(character) for character in shown if character not in "\u200c\u200d"}
    assert not categories & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert printable(shown) == shown


@given(ANY_TEXT.filter(lambda text: "\\" not in text and "://" not in text))
def test_escapes_are_those_of_python_and_lose_nothing(text):
    original = re.sub(
        r"\\(x..|u....|U........|.)", lambda match: match[0].encode().decode("unicode_escape"), printable(text)
    )
    assert original == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe 动作 (2)_$|`*", "größe 动作 (2)_$|`*"),
        ("می\u200cروم 👩\u200d🚒", "می\u200cروم 👩\u200d🚒"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J \x7f \0", r"\x9b2J \x7f \x00"),
        ("a\nxvit: done\r\tb", r"a\nxvit: done\r\tb"),
        ("a\u2028b\u2029c\x85d\vf", r"a\u2028b\u2029c\x85d\x0bf"),
        ("\u202egpj.exe\u2066\u200f\u061c", r"\u202egpj.exe\u2066\u200f\u061c"),
        ("\ufeffa\u200bb\u00adc\U000e0041", r"\ufeffa\u200bb\xadc\U000e0041"),
        ("caf\udce9.mp4", r"caf\udce9.mp4"),
    ],
)
def test_what_people_see(text, shown):
    assert printable(text) == shown


SECRETS = {
    "rtsp://user:pass@host:554/door": "rtsp://host:554/door",
    "rtsp://user@host/door": "rtsp://host/door",
    "rtsp://user:p@ss@host/door": "rtsp://host/door",
    "rtsp://user:pa/ss@host/door": "rtsp://...",
    "rtsp://user:pa?ss@host/door": "rtsp://...",
    "rtsp://user:pa#ss@host/door": "rtsp://...",
    "rtsp://u:a@b/c@host/door": "rtsp://...",
    "http://host/live.ts?token=secret": "http://host/live.ts?...",
    "http://host?token=secret": "http://host?...",
    "http://host/live.ts#token=secret": "http://host/live.ts?...",
    "HTTPS://user:pass@[::1]:80/a?x=1&token=secret#c": "HTTPS://[::1]:80/a?...",
    "http://host/live.ts?mail=a@b.c&token=secret": "http://host/live.ts?...",
    "http://host/a@b.ts": "http://host/a@b.ts",
    "rtsp://192.0.2.7/door": "rtsp://192.0.2.7/door",
    "hf://user/model@main": "hf://user/model@main",
    "clip?token=1.mp4": "clip?token=1.mp4",
    "/dev/video0": "/dev/video0",
}


@pytest.mark.parametrize("address", SECRETS)
def test_addresses_lose_passwords_and_queries(address):
    assert hide_secrets(address) == SECRETS[address]
    assert printable(f"cannot open {address} (refused)") == f"cannot open {SECRETS[address]} (refused)"


VISIBLE = st.text(st.characters(min_codepoint=ord("!"), max_codepoint=ord("~")))


@given(
    user=st.text(st.characters(codec="utf-8", exclude_characters="/?#:"), min_size=1),
    password=VISIBLE.map("S3CRET{}".format),
    query=st.tuples(VISIBLE, VISIBLE).map("T0KEN".join),
)
def test_no_secret_is_left_of_any_address(user, password, query):
    shown = hide_secrets(f"rtsp://{user}:{password}@camera/door?{query}")
    assert "S3CRET" not in shown
    assert "T0KEN" not in shown


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "＝", "＋", "－", "＠"])
def test_no_cell_is_a_formula(start):
    assert spreadsheet_cell(f"{start}HYPERLINK(1)") == f"'{start}HYPERLINK(1)"


@given(ANY_TEXT)
def test_a_cell_is_one_cell_and_no_formula(text):
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerow([spreadsheet_cell(text)])
    [[cell]] = csv.reader(io.StringIO(written.getvalue(), newline=""))
    assert cell.removeprefix("'") == printable(text).removeprefix("'")
    assert not cell.startswith(tuple("=+-@\t\r\n"))


@pytest.mark.parametrize("text", ["", "moving left", "a=b", "'quoted'", "1-2", "动作"])
def test_other_cells_stay(text):
    assert spreadsheet_cell(text) == text

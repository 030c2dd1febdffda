"""Text from files: one line, nothing that a terminal or a spreadsheet would run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.text import printable, table_cell


@given(st.text(st.characters(), max_size=300), st.integers(10, 250))
def test_whatever_a_file_holds_becomes_one_short_printable_line(text, limit):
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    assert shown.encode("utf-8").decode() == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain Größe", "plain Größe"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("two\r\nlines\tand a tab", "two lines and a tab"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\udcff", "\\udcff"),
        ("<Thing object at 0x7f0a12> broke", "<Thing object> broke"),
    ],
)
def test_what_does_not_print_is_written_as_its_code(text, shown):
    assert printable(text) == shown


def test_a_long_text_is_cut_with_dots():
    assert printable("a" * 300, 20) == "a" * 17 + "..."


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)"])
def test_a_formula_becomes_text(text):
    assert table_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-1.5", "+3", "CTA", "", "1.2.840"])
def test_numbers_and_words_stay(text):
    assert table_cell(text) == text

"""Text that comes from files, made safe to show on a terminal, in a page, in a table."""

import re

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # as in "<object at 0x7f12>"
FORMULA = ("=", "+", "-", "@")  # a spreadsheet runs what begins so


def printable(text: object, limit: int = 200) -> str:
    """Return text as one line of at most `limit` characters that can be shown anywhere.

    What does not print (escape sequences, control and direction characters, bytes that are no
    UTF-8) is written as its code. Memory addresses are left out.
    """
    line = " ".join(ADDRESS.sub("", str(text)).split())
    shown = "".join(_code_of(character) for character in line[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def table_cell(text: str) -> str:
    """Return text that no spreadsheet takes for a formula: a ' goes before it."""
    is_formula = text.startswith(FORMULA) and not _is_number(text)
    return f"'{text}" if is_formula else text


def _code_of(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

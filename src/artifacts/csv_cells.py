"""Read a csv table that people made: every cell as text, every fault with its line."""

import csv
import io
import re
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from src.artifacts.files import reading
from src.artifacts.paths import PUT_THE_DATA, UID, ArtifactError

SEPARATORS = {";": "semicolons (;)", "\t": "tabs", "|": "bars (|)"}
SAVE = 'save it as comma-separated UTF-8 text (in a spreadsheet: "CSV UTF-8")'
NO_COMMAS = f"is separated by {{}}, not by commas: {SAVE}"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
ZIP = b"PK\x03\x04"  # a workbook begins so
INVISIBLE = "\ufeff\u200b"  # byte order mark, blank of no width
SCIENTIFIC = re.compile(r"[0-9]+([.,][0-9]+)?[eE][+-]?[0-9]+")
LISTED = 5  # lines that a message names


def read_cells(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Return all named columns as text without blanks around it; index: line of the file.

    Empty lines, columns without a name and further columns of the same name are left out.
    Raise ArtifactError if one of the `columns` is missing or repeated, or a row is too long.
    """
    with reading(path, "a csv table", SAVE):
        (line, header), *rows = rows_of(path, text_of(path))
    require_columns(path, header, columns, line)
    for name in columns:
        if header.count(name) > 1:
            raise ArtifactError(f"{path}, line {line} names column {name!r} twice: delete one")
    cells = [row_of(path, line, row, len(header)) for line, row in rows]
    table = pd.DataFrame(cells, columns=header, index=[line for line, _ in rows], dtype=str)
    return table.loc[:, (table.columns != "") & ~table.columns.duplicated()]


def text_of(path: Path) -> str:
    """Return the text of a file in UTF-8. Raise ArtifactError that names what it is instead."""
    content = path.read_bytes()
    if content.startswith(UTF_16) or b"\0" in content[:1000]:
        raise ArtifactError(f"{path} is UTF-16 text, not UTF-8: {SAVE}")
    if content.startswith(ZIP):
        raise ArtifactError(f"{path} is a workbook or zip file, not a csv table: {SAVE}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ArtifactError(f"{path}, line {line} is not UTF-8 text: {SAVE}") from error


def rows_of(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Return (line, cells without blanks around them) of each row that holds anything."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, line = [], 1
    try:
        for cells in reader:
            cells = [cell.strip().strip(INVISIBLE).strip() for cell in cells]
            if any(cells):
                rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ArtifactError(
            f"{path}, line {line} cannot be read ({error}): look for a double quote too many"
        ) from error
    if not rows:
        raise ArtifactError(f"{path} is empty: {PUT_THE_DATA}")
    return rows


def require_columns(path: Path, header: list[str], columns: tuple[str, ...], line: int = 1) -> None:
    """Raise ArtifactError if one of the `columns` is not in the header.

    Quote no name of the file unless it resembles a wanted one: a first row may hold a patient.
    """
    missing = [name for name in columns if name not in header]
    if not missing:
        return
    for character, separator in SEPARATORS.items():
        names = [name.strip(' "') for name in ",".join(header).split(character)]
        if not set(missing).isdisjoint(names):
            raise ArtifactError(f"{path}, line {line} {NO_COMMAS.format(separator)}")
    guess = closest(missing[0], [name for name in header if name not in columns])
    advice = f"rename {guess!r}" if guess else "the first line must name it, spelled so"
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    raise ArtifactError(f"{path}, line {line} has no column {missing[0]!r}{more}: {advice}")


def row_of(path: Path, line: int, cells: list[str], count: int) -> list[str]:
    """Return exactly `count` cells: spreadsheets omit empty cells at the end, or add some."""
    separator = separator_of(cells)
    if separator and count > 1:
        raise ArtifactError(f"{path}, line {line} {NO_COMMAS.format(separator)}")
    if any(cells[count:]):
        raise ArtifactError(
            f"{path}, line {line} has {len(cells)} cells under {count} names of columns: "
            'put a cell that holds a comma between double quotes ("), or name every column'
        )
    return (cells + [""] * count)[:count]


def separator_of(cells: list[str]) -> str | None:
    """Return the name of the separator of a row in which no comma separates anything."""
    if len(cells) > 1:
        return None
    found = [name for character, name in SEPARATORS.items() if character in cells[0]]
    return found[0] if found else None


def check_uids(path: Path, uids: pd.Series) -> None:
    """Raise ArtifactError with the line of the first cell that is no UID. index: lines."""
    for line, uid in uids.items():
        place = f"{path}, column {uids.name!r}, line {line}"
        if not uid:
            raise ArtifactError(f"{place}: an empty cell is not a DICOM UID: write it there")
        if UID.fullmatch(uid) and set(uid) != {"."}:
            continue
        check_not_scientific(path, uids[[line]])
        raise ArtifactError(
            f"{place}: what is written there is not a DICOM UID (digits and points, at most 64)"
        )


def check_not_scientific(path: Path, uids: pd.Series) -> None:
    """Raise ArtifactError if a spreadsheet took a UID for a number. index: lines."""
    changed = uids[uids.map(lambda uid: SCIENTIFIC.fullmatch(uid) is not None)]
    if len(changed):
        raise ArtifactError(
            f"{path}, column {uids.name!r}, {lines_text(changed.index)}: {changed.iloc[0]} was a "
            "UID before a spreadsheet made it a number: import this column of the original as text"
        )


def closest(word: str, known: list[str] | tuple[str, ...]) -> str | None:
    """Return the known word that resembles `word` most, None if none does."""
    by_lower_case = {other.lower(): other for other in known}
    found = get_close_matches(word.lower(), by_lower_case, n=1, cutoff=0.7)
    return by_lower_case[found[0]] if found else None


def lines_text(lines: pd.Index | list[int]) -> str:
    """Return "line 3", or "lines 3, 4, 5, 6, 7 and 12 more"."""
    shown = ", ".join(str(line) for line in lines[:LISTED])
    more = f" and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
    return f"line{'s' * (len(lines) > 1)} {shown}{more}"

"""The csv tables that people write: what is mended, what is refused and how that is said."""

import csv
import io

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.artifacts.paths import ArtifactError, DataFolder
from src.artifacts.tables import read_localizers, read_meta, read_table, read_train, write_table
from src.labels import LABELS, LOCATIONS, PRESENT

HEADER = ["SeriesInstanceUID", "PatientAge", "Modality", *LABELS]
ROWS = [
    ["1.2.1", "60", "CTA", *"00000000000000"],
    ["1.2.2", "", "MRA", *"10000000000001"],
    ["1.2.3", "71", "MRI T2", *"00000000000101"],
]
TRUTH = {row[0]: [int(label) for label in row[3:]] for row in ROWS}
FORMULA = "=cmd|' /C calc'!A0"
LOCALIZERS = (
    "SeriesInstanceUID,SOPInstanceUID,coordinates,location\n"
    "1.2.2,1.5.1,\"{'x': 3.5, 'y': 4.5}\",Left Infraclinoid Internal Carotid Artery\n"
    "1.2.3,1.5.2,\"{'x': 3.5, 'y': 4.5}\",Basilar Tip\n"
)


def text_of(rows: list[list[str]], **form) -> str:
    stream = io.StringIO()
    csv.writer(stream, **{"lineterminator": "\n"} | form).writerows(rows)
    return stream.getvalue()


def changed(row: int, column: str, cell: str) -> str:
    """Return the table with one cell changed; row 0 is the header."""
    rows = [list(line) for line in (HEADER, *ROWS)]
    rows[row][HEADER.index(column)] = cell
    return text_of(rows)


def read(folder, content: str | bytes) -> pd.DataFrame:
    data = DataFolder(folder)
    data.train.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_train(data)


GOOD = text_of([HEADER, *ROWS])
REFUSED = {  # what people save: what the message must hold
    "semicolons": (text_of([HEADER, *ROWS], delimiter=";"), "line 1 is separated by semicolons"),
    "tabs": (text_of([HEADER, *ROWS], delimiter="\t"), "line 1 is separated by tabs"),
    "one row with semicolons": (GOOD + ";".join(ROWS[0]), "line 5 is separated by semicolons"),
    "UTF-16": (GOOD.encode("utf-16"), "is UTF-16 text, not UTF-8"),
    "UTF-16 without mark": (GOOD.encode("utf-16-le"), "is UTF-16 text, not UTF-8"),
    "Latin-1": (changed(2, "Modality", "Gefäß").encode("latin-1"), "line 3 is not UTF-8"),
    "a workbook": (b"PK\x03\x04" + bytes(90), "UTF-8"),
    "nothing": ("", "is empty"),
    "blank lines": ("\n" * 5000, "is empty"),
    "a header alone": (text_of([HEADER]), "has no rows"),
    "no header": (text_of(ROWS), "line 1 has no column 'SeriesInstanceUID'"),
    "yes": (changed(3, "Basilar Tip", "yes"), "'Basilar Tip', line 4: 'yes' is neither"),
    "a label of 2": (changed(1, "Basilar Tip", "2"), "'Basilar Tip', line 2: '2' is neither"),
    "half a label": (changed(1, "Basilar Tip", "0.5"), "line 2: '0.5' is neither"),
    "a column twice": (
        text_of([[*row, row[5]] for row in (HEADER, *ROWS)]),
        f"{LABELS[2]!r} twice",
    ),
    "another spelling": (changed(0, "Basilar Tip", "Basilar tip"), "rename 'Basilar tip'"),
    "an unnamed index": (text_of([HEADER, *(["7", *row] for row in ROWS)]), "line 2 has 18 cells"),
    "scientific": (changed(1, HEADER[0], "1.2E+10"), "line 2: 1.2E+10 was a UID"),
    "scientific, comma": (changed(2, HEADER[0], "1,2E+10"), "line 3: 1,2E+10 was a UID"),
    "an empty UID": (changed(3, HEADER[0], ""), "line 4: an empty cell is not a DICOM UID"),
    "no UID": (
        changed(3, HEADER[0], "pat_000"),
        "line 4: what is written there is not a DICOM UID",
    ),
    "a series twice": (changed(3, HEADER[0], "1.2.1"), "line 4: series 1.2.1 appears twice"),
    "an open quote": (GOOD.replace("MRA", '"MRA'), "line 3 cannot be read"),
    "present 0": (changed(2, LABELS[PRESENT], "0"), "line 3: 'Aneurysm Present' is 0, but"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_ambiguous_is_refused_with_its_place(case, tmp_path):
    content, expected = REFUSED[case]
    with pytest.raises(ArtifactError) as error:
        read(tmp_path, content)
    message = str(error.value)
    assert expected in message
    assert message.startswith(f"{tmp_path / 'train.csv'}") and "\n" not in message


def test_the_line_is_that_of_the_file(tmp_path):
    """Blank lines and cells of several lines come before it."""
    rows = [[*HEADER, "note"], [*ROWS[0], "two\nlines"], [*ROWS[1][:-1], "?", ""]]
    with pytest.raises(ArtifactError, match="line 1004: '\\?' is neither"):
        read(tmp_path, "\n" + text_of(rows).replace("\n1.2.2", "\n" * 1000 + "1.2.2"))


def test_at_most_five_lines_are_listed(tmp_path):
    rows = [[f"1.3.{k}", "", "CTA", "1", *"0000000000000"] for k in range(9)]
    with pytest.raises(ArtifactError, match=r"lines 2, 3, 4, 5, 6 and 4 more: 'Aneurysm Present'"):
        read(tmp_path, text_of([HEADER, *rows]))


@pytest.mark.parametrize("cell", ["Müller^Hans", "HANS MUELLER"])
def test_a_name_in_the_place_of_a_uid_or_a_column_is_not_quoted(cell, tmp_path):
    for content in (changed(1, HEADER[0], cell), text_of([[cell], *ROWS])):
        with pytest.raises(ArtifactError) as error:
            read(tmp_path, content)
        assert cell.split()[0] not in str(error.value)


BLANKS = st.sampled_from(["", " ", "  ", "\t", "\xa0", "\ufeff"])
FALSE, TRUE = st.sampled_from(["0", "0.0", "False", "FALSE"]), st.sampled_from(["1", "1.0", "TRUE"])


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_what_is_obvious_is_mended(tmp_path_factory, data):
    """Blanks, marks, ends of lines, quotes, blank rows, unnamed columns, 1.0: the labels stay."""
    rows = [["", *HEADER]]
    for number, row in enumerate(ROWS):
        labels = [data.draw(TRUE if label == "1" else FALSE) for label in row[3:]]
        rows.append([str(number), *row[:3], *labels])
    for row in rows:
        for column, cell in enumerate(row):
            row[column] = f"{data.draw(BLANKS)}{cell}{data.draw(BLANKS)}" if cell.strip() else cell
        row.extend([""] * data.draw(st.integers(0, 3)))
    quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    gap = data.draw(st.sampled_from(["", end * 3, f",,,{end}"]))
    text = "".join(text_of([row], quoting=quoting, lineterminator=end) + gap for row in rows)
    mark = data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    table = read(tmp_path_factory.mktemp("mended"), mark + text.encode())
    found = table.set_index("SeriesInstanceUID")[list(LABELS)]
    assert {uid: found.loc[uid].tolist() for uid in found.index} == TRUTH
    assert table.Modality.tolist() == ["CTA", "MRA", "MRI T2"]
    assert table.columns.tolist() == HEADER


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_damage_crashes_it(tmp_path_factory, data):
    """Any bytes in any place: a table, or one sentence that can be shown."""
    content = bytearray(GOOD.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        stop = start + data.draw(st.integers(0, 30))
        content[start:stop] = data.draw(
            st.binary(max_size=20) | st.sampled_from([b'"', b",", b";"])
        )
    try:
        table = read(tmp_path_factory.getbasetemp(), bytes(content))
    except ArtifactError as error:
        assert str(error).isprintable() and len(str(error)) < 600
    else:
        labels = table[list(LABELS)]
        assert (labels.isin([0, 1]) | labels.isna()).all(axis=None)


def test_localizers_are_texts_with_their_lines(tmp_path):
    data = DataFolder(tmp_path)
    data.localizers.write_text(LOCALIZERS.replace("\n1.2.3", "\n\n\n 1.2.3 "))
    table = read_localizers(data)
    assert table.line.tolist() == [2, 5]
    assert table.SeriesInstanceUID.tolist() == ["1.2.2", "1.2.3"]
    assert table.location.tolist() == [LOCATIONS[0], "Basilar Tip"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1.5.2", "1.5E+9", r"'SOPInstanceUID', line 3: 1\.5E\+9 was a UID"),
        ('"', "", "line 2 has 5 cells under 4 names of columns"),
        ("coordinates", "coords", "no column 'coordinates'"),
        (",", ";", "line 1 is separated by semicolons"),
    ],
)
def test_faulty_localizers_are_refused_with_their_place(old, new, message, tmp_path):
    data = DataFolder(tmp_path)
    data.localizers.write_text(LOCALIZERS.replace(old, new))
    with pytest.raises(ArtifactError, match=rf"train_localizers\.csv.*{message}"):
        read_localizers(data)


def test_a_table_of_series_that_was_edited_is_checked_again(tmp_path):
    data = DataFolder(tmp_path)
    columns = {"length": 4, "h": 8, "w": 8, "mod": "CT", "plane": "axial", "orientation": ""}
    meta = pd.DataFrame(ROWS, columns=HEADER).assign(**columns)
    write_table(data.train_meta, meta)
    assert read_meta(data)[list(LABELS)].to_numpy().tolist() == list(TRUTH.values())
    meta.loc[1, LABELS[PRESENT]] = "0"
    write_table(data.train_meta, meta)
    with pytest.raises(ArtifactError, match=r"train_meta\.csv, line 3: 'Aneurysm Present' is 0"):
        read_meta(data)
    data.train_meta.write_text(data.train_meta.read_text().replace(",", ";"))
    with pytest.raises(ArtifactError, match=r"train_meta\.csv, line 1 is separated by semicolons"):
        read_meta(data)


def test_no_cell_is_a_formula_or_moves_the_cursor(tmp_path):
    cells = [FORMULA, "+1+1", "-2+3", "@SUM(A1)", "\x1b[31mred", "a\r\n=1", "\udcff", "-1.5", "CTA"]
    numbers = [0.1 + 0.2, -1.0, 1e-9, 3.0, 1e300, float("nan"), 5.0, 6.0, -7.25]
    table = pd.DataFrame({"patient_id": cells, FORMULA: numbers, "mixed": [1, None, *"abcdefg"]})
    path = tmp_path / "table.csv"
    write_table(path, table)
    lines = path.read_text().splitlines()
    assert len(lines) == 1 + len(cells) and all(line.isprintable() for line in lines)
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    assert header[1] == f"'{FORMULA}"
    starts = [row[0][0] for row in rows]
    assert starts == ["'", "'", "'", "'", "\\", "a", "\\", "-", "C"]
    assert [row[1] for row in rows] == ["" if n != n else repr(n) for n in numbers]
    assert [row[2] for row in rows] == ["1", "", *"abcdefg"]
    assert read_table(path).patient_id.nunique() == len(cells)


def test_a_plain_table_is_written_as_pandas_writes_it(tmp_path):
    labels = dict.fromkeys(LABELS, 0.125)
    table = pd.DataFrame({"SeriesInstanceUID": ["1.2", "1.3"], "sex": ["Female", None], **labels})
    write_table(tmp_path / "a.csv", table.astype({LABELS[0]: "float32"}))
    assert (tmp_path / "a.csv").read_text() == table.to_csv(index=False)

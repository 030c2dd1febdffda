"""What tools/score.py reads and refuses: each fault is one sentence with its place."""

import numpy as np
import pandas as pd
import pytest

from src.labels import LABELS, PRESENT
from src.script import UserError
from tools.scoring import tables
from tools.scoring.tables import PATIENT, UID, UNKNOWN, ranges, years_of

HEAD = ",".join((UID, *LABELS))
ROW = "0," * PRESENT + "0"


def written(path, text):
    path.write_text(text)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "table.csv"


def test_an_empty_cell_is_unknown_and_every_spelling_of_0_and_1_is_read(path):
    cells = ["", "1", "0", "1.0", "True", "false", " 1 ", *["0"] * 6, "1"]
    truth = tables.read_truth(written(path, f"{HEAD}\n1.2,{','.join(cells)}\n1.10,{ROW}\n"))
    assert truth[UID].tolist() == ["1.10", "1.2"]  # sorted as texts, as in the report
    expected = [np.nan, 1, 0, 1, 1, 0, 1, *[0] * 6, 1]
    np.testing.assert_array_equal(truth.loc[1, list(LABELS)].astype(float), expected)
    assert (truth[[PATIENT, *tables.GROUPS]] == "").all(axis=None)


@pytest.mark.parametrize("name", ["PatientID", "patient_id", "Patient ID"])
def test_patients_and_groups_are_found_under_their_usual_names(path, name):
    text = f"{HEAD},{name},plane,Modality\n1.2,{ROW},007,axial,CTA\n"
    truth = tables.read_truth(written(path, text))
    assert truth.loc[0, [PATIENT, "Plane", "Modality"]].tolist() == ["007", "axial", "CTA"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty: it needs a line"),
        (HEAD + "\n", "has no rows"),
        (HEAD.replace(UID, "Series") + f"\n1.2,{ROW}\n", f"no column '{UID}'"),
        (HEAD.replace("Basilar Tip", "basilar tip") + f"\n1.2,{ROW}\n", "rename 'basilar tip'"),
        (f"{HEAD}\n1.2,{ROW}\n1.3,{ROW}\n1.2,{ROW}\n", "line 4: series 1.2 appears twice, .* 2"),
        (f"{HEAD}\n1.2E+10,{ROW}\n", "UID before a spreadsheet"),
        (f"{HEAD}\nDoe^Jane,{ROW}\n", "line 2: what is written there is not a DICOM UID"),
        (f"{HEAD}\n1.2,{ROW[:-1]}0.5\n", "'Aneurysm Present', line 2: 0.5 is neither 0 nor 1 nor"),
        (f"{HEAD}\n1.2,{ROW[:-1]}2\n", "'Aneurysm Present', line 2: 2 is no number from 0 to 1"),
        (f"{HEAD}\n1.2,{ROW[:-1]}Doe\n", "line 2: what is written there is no number from 0"),
        (f"{HEAD}\n1.2,1{ROW[1:]}\n", "line 2: 'Aneurysm Present' is 0, but a location is 1"),
        (f"{HEAD};x\n".replace(",", ";") + "1.2;0\n", "semicolons"),
    ],
)
def test_labels_that_are_none_are_one_sentence(path, text, reason):
    with pytest.raises(UserError, match=reason) as error:
        tables.read_truth(written(path, text))
    assert "Doe" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("", "an empty cell is no number from 0 to 1"),
        ("1.01", "1.01 is no number from 0 to 1"),
        ("-0.1", "-0.1 is no number"),
        ("nan", "what is written there is no number"),
        ("inf", "what is written there is no number"),
        ("Doe", "what is written there is no number"),
    ],
)
def test_probabilities_that_are_none_are_one_sentence(path, cell, reason):
    text = f"{HEAD}\n1.2,{ROW}\n1.3,{cell}{ROW[1:]}\n"
    with pytest.raises(UserError, match=f"column '{LABELS[0]}', line 3: {reason}"):
        tables.read_probabilities(written(path, text))


def test_a_file_that_is_not_there_is_one_sentence(path):
    for read in (tables.read_truth, tables.read_probabilities, tables.read_patients):
        with pytest.raises(UserError, match=r"table\.csv is missing: check the path"):
            read(path)


def of_series(*uids, value=0.0):
    return pd.DataFrame(value, range(len(uids)), LABELS).assign(**{UID: list(uids)})


def test_rows_are_joined_by_series_and_the_rest_is_left_out(path):
    truth = of_series("1.1", "1.2", "1.3")
    truth.loc[1, list(LABELS)] = np.nan
    predictions = of_series("1.4", "1.3", "1.1")
    predictions[LABELS[5]] = [0.4, 0.3, 0.1]
    table, probabilities = tables.joined(truth, predictions, False, path)
    assert table[UID].tolist() == ["1.1", "1.3"] and probabilities[:, 5].tolist() == [0.1, 0.3]


def test_a_series_without_prediction_is_refused_unless_that_is_asked_for(path):
    truth, predictions = of_series("1.1", "1.2", "1.3"), of_series("1.2")
    with pytest.raises(UserError, match=r"no row for 2 of 3 series of TRUTH, the first is 1\.1"):
        tables.joined(truth, predictions, False, path)
    assert tables.joined(truth, predictions, True, path)[0][UID].tolist() == ["1.2"]
    with pytest.raises(UserError, match=r"no series in common: .* with 1\.1"):
        tables.joined(truth, of_series("1.9"), True, path)
    with pytest.raises(UserError, match="no label that is known"):
        tables.joined(truth.replace(0.0, np.nan), predictions, True, path)


def test_patients_of_another_file(path):
    table = of_series("1.1", "1.2").assign(PatientID="")
    written(path, f"{UID},PatientID\n1.2,b\n1.1,a\n1.3,c\n")
    assert tables.with_patients(table, path)[PATIENT].tolist() == ["a", "b"]
    assert tables.with_patients(table, None) is table
    with pytest.raises(UserError, match=r"no row for 1 of 3 series of TRUTH, the first is 1\.7"):
        tables.with_patients(of_series("1.1", "1.7", "1.2"), path)
    with pytest.raises(UserError, match="no column 'PatientID'"):
        tables.read_patients(written(path, f"{UID},person\n1.2,b\n"))


@pytest.mark.parametrize(
    ("cell", "years"),
    [("63", 63), ("6.5", 6.5), ("063Y", 63), ("018M", 1.5), ("026w", 0.5), ("", None), ("o", None)],
)
def test_ages(cell, years):
    assert years_of(cell) == pytest.approx(np.nan if years is None else years, nan_ok=True)


def test_ranges_begin_at_their_limits():
    values = np.array([2.9, 3.0, 4.9, 5.0, 99.0, np.nan])
    found = ranges(values, (3.0, 5.0), "mm")
    places = {name: np.flatnonzero(chosen).tolist() for name, chosen in found.items()}
    assert places == {"under 3 mm": [0], "3 to 5 mm": [1, 2], "5 mm or more": [3, 4], UNKNOWN: [5]}
    assert list(ranges(values[:2], (), "mm")) == ["any mm"]


def test_groups_of_a_column():
    table = pd.DataFrame(
        {"Modality": ["MRA", "", "CTA"], "Plane": "", "PatientAge": ["30", "60", "x"]}
    )
    found = tables.groups_of(table, "Modality", ())
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "CTA": [False, False, True],
        "MRA": [True, False, False],
        UNKNOWN: [False, True, False],
    }
    assert tables.groups_of(table, "Plane", ()) == {}
    assert list(tables.groups_of(table, "PatientAge", (40.0, 60.0))) == [
        "under 40 years",
        "60 years or more",
        UNKNOWN,
    ]

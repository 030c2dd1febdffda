"""data/overrides.csv: labels that people corrected, in place of those of train.csv."""

import numpy as np
import pandas as pd
import pytest

import create_folds
from src.artifacts.files import read_pickle
from src.artifacts.paths import ArtifactError, DataFolder
from src.artifacts.tables import (
    read_folds,
    read_localizers,
    read_overrides,
    read_spots,
    read_train,
)
from src.labels import LABELS, LOCATIONS, MIRROR, PRESENT
from src.preprocess import survey
from tests.conftest import FOLDS

PRESENCE = LABELS[PRESENT]
UID = "SeriesInstanceUID"


def deal(data: DataFolder) -> None:
    create_folds.main(create_folds.Config(data.root, folds=FOLDS))


def write(data: DataFolder, *rows, head="series,label,value,reason") -> None:
    lines = [head, *(",".join(map(str, row)) for row in rows)]
    data.overrides.write_text("\n".join(lines) + "\n")


def tables_of(data: DataFolder) -> dict[str, bytes]:
    names = (data.folds(FOLDS), data.spots(FOLDS), data.labels, data.safe_slices)
    return {path.name: path.read_bytes() for path in names}


@pytest.fixture
def placed(copied):
    """A series with one localizer, its UID and label, and a healthy one."""
    series = read_folds(copied)
    localizers = read_localizers(copied)
    once = localizers[~localizers[UID].duplicated(keep=False)]
    sided = once[~once.location.isin(["Anterior Communicating Artery", *LOCATIONS[-2:]])]
    row = sided.iloc[0]
    return row[UID], row.location, series[UID][series[PRESENCE] == 0].iloc[0]


def test_without_the_file_nothing_changes(tiny, copied):
    deal(copied)
    assert tables_of(copied) == tables_of(tiny)
    write(copied)
    deal(copied)
    assert tables_of(copied) == tables_of(tiny)


def test_values_are_replaced_and_no_series_moves(tiny, copied, placed, capsys):
    uid, label, healthy = placed
    other = LABELS[MIRROR[LABELS.index(label)]]
    write(
        copied,
        (uid, label, 0, "other side"),
        (uid, other, 1.0, ""),
        (healthy, LOCATIONS[11], ""),
        ("9.9.9", PRESENCE, 1, "not ours"),
    )
    deal(copied)
    said = capsys.readouterr().out
    assert "4 lines change 3 labels of 2 series" in said
    assert "1 of 4 lines name no series of" in said
    assert "train_meta.csv that has an array: line 5" in said
    before, after = (read_folds(data).set_index(UID) for data in (tiny, copied))
    assert after.loc[uid, label] == 0 and after.loc[uid, other] == 1
    assert np.isnan(after.loc[healthy, LOCATIONS[11]])
    assert (before.fold == after.fold).all()
    changed = [(uid, label), (uid, other), (healthy, LOCATIONS[11])]
    for place in changed:
        after.loc[place] = before.loc[place]
    pd.testing.assert_frame_equal(before, after, check_dtype=False)


@pytest.mark.parametrize("whole", [False, True])
def test_localizers_of_a_label_that_is_no_more_are_dropped(whole, copied, placed, capsys):
    uid, label, _ = placed
    zeros = [name for name in LOCATIONS if read_folds(copied).set_index(UID).at[uid, name] == 1]
    write(copied, *[(uid, name, 0, "") for name in ([*zeros, PRESENCE] if whole else [label])])
    deal(copied)
    line = read_localizers(copied).query(f"{UID} == @uid").line.iloc[0]
    assert f"1 localizers dropped: overridden (line {line})" in capsys.readouterr().out
    spots = read_spots(copied)
    theirs = spots[spots[UID] == uid]
    assert not theirs.location.isin(LOCATIONS).any()
    assert (read_pickle(copied.labels)[uid] == 1).sum() == 0
    # Healthy now: a negative row of its own. Else an aneurysm may be anywhere: none.
    assert len(theirs) == whole
    assert (uid in read_pickle(copied.safe_slices)) == whole


def test_the_check_counts_the_corrected_labels(copied, placed, capsys):
    """preprocess_data.py --check, which deals no folds and may run before there are arrays."""
    uid, label, healthy = placed
    write(copied, (uid, label, "", ""), (healthy, LOCATIONS[11], ""))
    survey.check_tables(copied, read_train(copied), True)
    said = capsys.readouterr().out
    assert "2 lines change 2 labels of 2 series" in said
    assert "2 of " in said and "labels are unknown (empty cells), in 2 of" in said


def test_an_unknown_label_keeps_its_localizer(copied, placed):
    uid, label, _ = placed
    write(copied, (uid, label, "", "unclear"), head=f"{UID},label,value,reason")
    deal(copied)
    spots = read_spots(copied)
    assert (spots[spots[UID] == uid].location == label).any()


def test_presence_0_beside_a_location_is_refused_with_its_lines(copied, placed):
    uid, _, healthy = placed
    write(copied, (healthy, LOCATIONS[3], 1, ""))
    with pytest.raises(ArtifactError, match=r"overrides\.csv, line 2: .*override both"):
        deal(copied)
    write(copied, (healthy, PRESENCE, 1, ""), (uid, PRESENCE, 0, ""), (healthy, LOCATIONS[3], 1))
    with pytest.raises(ArtifactError, match=r"overrides\.csv, line 3: after"):
        deal(copied)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("1.2", "Basilar tip", 1), "line 2: 'Basilar tip' is none .* did you mean 'Basilar Tip'"),
        (("1.2", "Nothing at all", 1), "line 2: 'Nothing at all' is none of the 14 labels;"),
        (("1.2", "Basilar Tip", 2), "line 2: '2' is neither 0 nor 1"),
        (("../x", "Basilar Tip", 1), "line 2: what is written there is not a DICOM UID"),
        (("", "Basilar Tip", 1), "line 2: an empty cell is not a DICOM UID"),
        (("1.2", "Basilar Tip", 1), "none of its 1 lines names a series"),
    ],
)
def test_lines_that_say_nothing_are_one_sentence(row, said, copied):
    write(copied, row)
    before = tables_of(copied)
    with pytest.raises(ArtifactError, match=said):
        deal(copied)
    with pytest.raises(ArtifactError, match=said):
        survey.check_tables(copied, read_train(copied), True)
    assert tables_of(copied) == before


def test_a_label_has_one_value(copied):
    write(copied, ("1.2", "Basilar Tip", 1), ("1.2", "Basilar Tip", 0))
    with pytest.raises(ArtifactError, match="line 3: a line before"):
        read_overrides(copied)
    write(copied, ("1.2", 1), head="series,value")
    with pytest.raises(ArtifactError, match="no column 'label'"):
        read_overrides(copied)
    write(copied, ("Basilar Tip", 1), head="label,value")
    with pytest.raises(ArtifactError, match=f"no column '{UID}'"):
        read_overrides(copied)

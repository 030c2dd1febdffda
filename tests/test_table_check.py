"""Labels against localizers: before hours are spent, and before the first fold is dealt."""

import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import create_folds
import train_stage1
from src.artifacts.paths import ArtifactError, DataFolder
from src.artifacts.tables import read_folds, read_spots
from src.labels import LABELS, LOCATIONS, PRESENT
from src.sampling import table_check
from src.script import UserError
from tests.conftest import FOLDS, ROOT
from tests.data_folders import make_data, run
from tests.dicom_files import volume, write_axial
from tests.test_train_stage1 import small

GOOD = "{'x': 3.0, 'y': 4.0}"
PLACE = "Basilar Tip"


def series_table(*positive: list[str]) -> pd.DataFrame:
    """Return a row per list of positive labels."""
    rows = [{label: int(label in labels) for label in LABELS} for labels in positive]
    uids = [f"1.{k}" for k in range(len(rows))]
    return pd.DataFrame(rows).assign(SeriesInstanceUID=uids)


def localizers(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """Return rows of (series, coordinates, location) from line 2."""
    table = pd.DataFrame(rows, columns=["SeriesInstanceUID", "coordinates", "location"])
    return table.assign(SOPInstanceUID="1.2.3", line=range(2, len(rows) + 2))


def script(name: str, root, *flags: str) -> SimpleNamespace:
    command = [sys.executable, str(ROOT / name), "--data-dir", str(root), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    return SimpleNamespace(code=done.returncode, out=done.stdout, error=done.stderr.splitlines())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_the_counts_equal_the_slow_definition(seed):
    generator = np.random.default_rng(seed)
    chosen = [LOCATIONS[k] for k in generator.integers(0, 3, 6)]
    series = series_table(*([place, LABELS[PRESENT]] if place != PLACE else [] for place in chosen))
    series.loc[generator.random(6) < 0.3, list(LABELS)] = 0
    rows = [
        (f"1.{generator.integers(8)}", generator.choice([GOOD, GOOD, "?"]), LOCATIONS[k])
        for k in generator.integers(0, 4, 7)
    ]
    checked = table_check.with_faults(localizers(*rows), series)
    counts = table_check.count_table(checked, series)
    label_of = {row.SeriesInstanceUID: row for _, row in series.iterrows()}
    for label in LABELS:
        wanted = [0, 0, 0, 0]
        usable = [
            (uid, place)
            for uid, coordinates, place in rows
            if uid in label_of and coordinates == GOOD and label in (place, LABELS[PRESENT])
        ]
        for uid, row in label_of.items():
            wanted[0] += row[label]
            wanted[1] += row[label] and uid not in [other for other, _ in usable]
        for uid, _ in usable:
            wanted[2] += 1
            wanted[3] += label_of[uid][label] == 0
        assert counts.loc[label].tolist() == wanted, label


def said(rows: list[tuple], *positive: list[str]) -> str:
    series = series_table(*positive)
    return "\n".join(table_check.doubts(table_check.with_faults(localizers(*rows), series), series))


POSITIVE = [PLACE, LABELS[PRESENT]]


@pytest.mark.parametrize(
    ("rows", "labels", "expected"),
    [
        ([("1.0", GOOD, PLACE)], POSITIVE, ""),
        (
            [("1.0", GOOD, PLACE), ("1.0", GOOD, "basilar\x1b[1m tip")],
            POSITIVE,
            "1 of 2 localizers left out, unknown location: 'basilar\\x1b[1m tip' "
            "(line 3, did you mean 'Basilar Tip'?)",
        ),
        (
            [("1.0", GOOD, PLACE), ("1.0", "3, 4", PLACE), ("1.0", "3, 4", PLACE)],
            POSITIVE,
            "perhaps f: '3, 4' (lines 3, 4)",
        ),
        (
            [("1.0", GOOD, PLACE), ("1.9", GOOD, PLACE)],
            POSITIVE,
            "1 of 2 localizers left out, series not in the table of series: line 3",
        ),
        ([("1.0", GOOD, PLACE)] * 2, POSITIVE, "1 of 2 localizers written before: line 3"),
        (
            [("1.0", GOOD, PLACE)],
            [*POSITIVE, LOCATIONS[0]],
            "1 of 2 positive locations and 0 of 1 positive series without localizer",
        ),
        (
            [("1.0", GOOD, PLACE), ("1.0", GOOD, LOCATIONS[0])],
            POSITIVE,
            "1 of 2 localizers at a location whose label is 0, 0 of them in series without "
            "aneurysm: line 3",
        ),
        (
            [("1.0", GOOD, PLACE)],
            [],
            "1 of 1 localizers at a location whose label is 0, 1 of them in series without",
        ),
        (
            [("1.0", GOOD, PLACE)],
            [LABELS[PRESENT]],
            "1 of 1 series with an aneurysm at no location",
        ),
        ([("1.0", GOOD, PLACE)], [], "no series has an aneurysm"),
    ],
)
def test_each_doubt_is_said_with_its_lines(rows, labels, expected):
    text = said(rows, labels)
    assert expected in text and bool(text) == bool(expected)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("1.0", GOOD, "basilar tip")], r"'basilar tip' \(line 2, did you mean 'Basilar Tip'\?\)"),
        ([("1.0", GOOD, "BA")] * 7, r"'BA' \(lines 2, 3, 4, 5, 6 and 2 more\)"),
        ([("1.0", "3;4", PLACE)], r"coordinates are not .*'3;4' \(line 2\)"),
        ([("1.9", GOOD, PLACE)], "1 of 1 localizers left out, series not in the table"),
        ([], "has no rows, but 1 series have an aneurysm"),
    ],
)
def test_it_stops_where_no_aneurysm_is_left(rows, expected, tmp_path):
    with pytest.raises(ArtifactError, match=rf"{tmp_path / 'x.csv'} .*{expected}"):
        table_check.report(tmp_path / "x.csv", localizers(*rows), series_table(POSITIVE))


@pytest.fixture
def dealt(tiny, tmp_path) -> DataFolder:
    """The tiny data set with its tables, to be changed."""
    root = tmp_path / "data"
    arrays = shutil.ignore_patterns("npy_*", "series", "train_*_folds.csv", "label_dict.pkl")
    shutil.copytree(tiny.root, root, ignore=arrays)
    for name in ("npy_sequence", "series"):
        (root / name).symlink_to(tiny.root / name)
    return DataFolder(root)


def test_localizers_in_other_words_stop_both_scripts_before_they_write(dealt):
    text = dealt.localizers.read_text()
    for location in LOCATIONS:
        text = text.replace(location, location.lower())
    dealt.localizers.write_text(text)
    before = sorted(path.name for path in dealt.root.iterdir())
    check = script("preprocess_data.py", dealt.root, "--check")
    fold = script("create_folds.py", dealt.root, "--folds", str(FOLDS))
    for done in (check, fold):
        assert done.code == 1 and len(done.error) == 1, done.error
        assert done.error[0].startswith(f"error: {dealt.localizers} leaves no aneurysm")
        assert "unknown location: '" in done.error[0] and "did you mean '" in done.error[0]
        assert "Aneurysm Present" in done.out
    assert "can be read" not in check.out  # it stopped before the series
    assert sorted(path.name for path in dealt.root.iterdir()) == before


def test_localizers_that_point_to_no_slice_stop_the_folds(dealt):
    table = pd.read_csv(dealt.localizers, dtype=str)
    table.assign(SOPInstanceUID="9.9").to_csv(dealt.localizers, index=False)
    with pytest.raises(ArtifactError, match=r"SOPInstanceUID not in the series \(lines 2, 3"):
        create_folds.main(create_folds.Config(data_dir=dealt.root, folds=FOLDS))
    assert not list(dealt.root.glob("train_*_folds.csv"))


def test_labels_that_are_all_0_stop_the_folds(dealt):
    meta = pd.read_csv(dealt.train_meta)
    meta.assign(**dict.fromkeys(LABELS, 0)).to_csv(dealt.train_meta, index=False)
    with pytest.raises(ArtifactError, match=r"no series of .* has an aneurysm"):
        create_folds.main(create_folds.Config(data_dir=dealt.root, folds=FOLDS))


def test_dropped_localizers_are_said_with_their_lines(dealt, capsys):
    table = pd.read_csv(dealt.localizers, dtype=str)
    table.loc[[1, 3], "SOPInstanceUID"] = "9.9"
    dealt.localizers.write_text(table.to_csv(index=False).replace("\n", "\n\n"))
    create_folds.main(create_folds.Config(data_dir=dealt.root, folds=FOLDS))
    expected = "2 localizers dropped: SOPInstanceUID not in the series (lines 5, 9)"
    assert expected in capsys.readouterr().out
    assert (read_spots(dealt).class_id != PRESENT).sum() == len(table) - 2


@pytest.mark.parametrize("folds", [1, 0, -2])
def test_one_fold_is_refused(folds, dealt):
    with pytest.raises(UserError, match=f"--folds {folds}: give --folds 2 or more"):
        create_folds.main(create_folds.Config(data_dir=dealt.root, folds=folds))


def test_no_training_on_negatives_alone(tiny):
    tables = train_stage1.read_spot_tables(tiny)
    tables.spots = tables.spots[(tables.spots.class_id == PRESENT) | (tables.spots.fold == 0)]
    with pytest.raises(ArtifactError, match="fold 0 leaves no spot with an aneurysm to train on"):
        train_stage1.make_datasets(small(tiny, None), tables)


def test_missing_localizers_are_said_before_the_series_are_read(tmp_path, capsys):
    make_data(tmp_path, 1)
    run(tmp_path)
    assert "train_localizers.csv is missing: create_folds.py needs it" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "train.csv")
    table[[PLACE, LABELS[PRESENT]]] = 1
    table.to_csv(tmp_path / "train.csv", index=False)
    run(tmp_path)
    with pytest.raises(ArtifactError, match=r"train_localizers\.csv is missing"):
        run(tmp_path, check=True)


def test_what_a_file_names_itself_is_no_formula_in_any_table(tmp_path, capsys):
    uids = make_data(tmp_path, 4)
    patient = "=cmd|' /C calc'!A0"
    for uid in uids[2:]:
        shutil.rmtree(tmp_path / "series" / uid)
    write_axial(tmp_path / "series" / uids[2], volume((4, 16, 14)), PatientID=patient)
    (tmp_path / "series" / uids[3]).mkdir()
    (tmp_path / "series" / uids[3] / "=cmd\x1b[31m").write_text("no DICOM " * 99)
    for check in (True, False):
        run(tmp_path, check=check)
    printed = capsys.readouterr().out.replace("\n", "")
    assert "=cmd\\x1b[31m" in printed and printed.isprintable()
    for name in ("train_meta.csv", "failed_series.csv", "series_report.csv"):
        text = (tmp_path / name).read_text()
        assert ",=" not in text and text.replace("\n", "").isprintable()
    assert f"'{patient}" in pd.read_csv(tmp_path / "train_meta.csv").patient_id.tolist()


def test_patients_stay_together_whatever_their_id_begins_with(dealt):
    meta = pd.read_csv(dealt.train_meta, dtype={"SeriesInstanceUID": str})
    ids = [f"=P{k // 2}" for k in range(len(meta))]
    create_folds.write_table(dealt.train_meta, meta.assign(patient_id=ids))
    create_folds.main(create_folds.Config(data_dir=dealt.root, folds=FOLDS))
    folds = read_folds(dealt).set_index("SeriesInstanceUID").fold
    assert folds[meta.SeriesInstanceUID].groupby(ids).nunique().eq(1).all()

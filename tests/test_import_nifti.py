"""The whole import: what it writes, again and again, and what the stages make of it."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydicom import dcmread

from src.artifacts.paths import DataFolder
from src.artifacts.tables import read_localizers
from src.labels import LABELS, LOCATIONS, PRESENT
from src.script import UserError
from tests.conftest import ROOT
from tests.nifti_files import affine, ball, picture, save
from tests.nifti_trees import scan, table
from tools import import_nifti
from tools.import_nifti import Config

SCRIPT = ROOT / "tools" / "import_nifti.py"


def run(source: Path, out: Path, **flags) -> import_nifti.Outcome:
    return import_nifti.main(Config(source, out=out, workers=1, **flags))


def train_of(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "train.csv", dtype=str, keep_default_na=False)


def times(out: Path) -> dict[str, int]:
    """Return when each file of the series was written."""
    return {str(path): path.stat().st_mtime_ns for path in out.glob("series/*/*")}


def small(root: Path) -> Path:
    """Write two patients, one of them twice, and a control."""
    scan(root, "sub-1", "1", 1, 1)
    scan(root, "sub-1", "2", 2, 2)
    scan(root, "sub-2", "1", 3, 1, dtype=np.float32)
    scan(root, "sub-3", "1", 4, 0)
    groups = {("sub-1", "1"): "patient", ("sub-1", "2"): "patient", ("sub-2", "1"): "patient"}
    table(root, groups | {("sub-3", "1"): "control"})
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    """A small data set and what is made of it; read only."""
    root = tmp_path_factory.mktemp("small")
    run(small(root / "source"), root / "out")
    return root / "source", root / "out"


@pytest.fixture
def copied(made, tmp_path) -> tuple[Path, Path]:
    for path in made:
        shutil.copytree(path, tmp_path / path.name)  # with times
    return tmp_path / "source", tmp_path / "out"


def test_the_tables(made):
    _, out = made
    train = train_of(out)
    assert train.columns.tolist() == [
        "SeriesInstanceUID", "PatientID", "PatientAge", "PatientSex", "Modality", *LABELS,
    ]  # fmt: skip
    assert train[LABELS[PRESENT]].tolist().count("1") == 3 and len(train) == 4
    for _, row in train.iterrows():
        assert set(row[list(LOCATIONS)]) == ({""} if row[LABELS[PRESENT]] == "1" else {"0"})
    localizers = read_localizers(DataFolder(out))
    assert len(localizers) == 4 and set(localizers.location) == {""}
    columns = pd.read_csv(out / "train_localizers.csv").columns.tolist()
    assert columns[-2:] == ["radius_mm", "volume_mm3"]
    scans = pd.read_csv(out / "imported_scans.csv", index_col="scan")
    patients = {}
    for name, uid in scans.SeriesInstanceUID.items():
        files = list((out / "series" / uid).iterdir())
        assert len(files) == 24
        [patients[name]] = {dcmread(path, stop_before_pixels=True).PatientID for path in files}
    assert patients["sub-1_ses-1"] == patients["sub-1_ses-2"] == "ds003949 sub-1"
    assert len(set(patients.values())) == 3
    assert pd.read_csv(out / "left_out.csv").empty
    assert pd.read_csv(out / "failed_import.csv").empty


def test_a_second_run_writes_nothing_again(copied, capsys):
    source, out = copied
    before, tables = times(out), train_of(out)
    run(source, out)
    assert "4 scans, 4 of them done before" in capsys.readouterr().out
    assert times(out) == before and train_of(out).equals(tables)


@pytest.mark.parametrize("change", ["mask", "slice", "record", "modality"])
def test_what_has_changed_is_made_again(change, copied, capsys):
    source, out = copied
    uid = pd.read_csv(out / "imported_scans.csv", index_col="scan").SeriesInstanceUID["sub-2_ses-1"]
    before = times(out)
    if change == "mask":
        [mask] = source.glob("derivatives/*/sub-2/*/*/*mask.nii.gz")
        save(mask, ball((40, 44, 24), (30, 30, 20)), affine("RAS", (0.5, 0.55, 0.7)))
    elif change == "slice":
        next((out / "series" / uid).iterdir()).unlink()
    elif change == "record":
        (out / "imported" / f"{uid}.json").write_text("{")
    run(source, out, modality="MRI T2" if change == "modality" else "MRA")
    changed = {
        Path(path).parent.name for path, when in times(out).items() if before.get(path) != when
    }
    assert changed == ({uid} if change != "modality" else set(train_of(out).SeriesInstanceUID))
    places = pd.read_csv(out / "train_localizers.csv").groupby("SeriesInstanceUID").coordinates
    [place] = places.get_group(uid)
    assert ("'x': 9.0" in place) == (change == "mask")


def test_an_interrupted_run_continues(copied, monkeypatch, capsys, tmp_path):
    source, _ = copied
    out, whole = tmp_path / "again", import_nifti.run_in_workers

    def stopped(*arguments):
        for number, result in enumerate(whole(*arguments)):
            if number == 2:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(import_nifti, "run_in_workers", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(source, out)
    assert not (out / "train.csv").exists()
    monkeypatch.setattr(import_nifti, "run_in_workers", whole)
    run(source, out)
    done = int(capsys.readouterr().out.split("4 scans, ")[2].split()[0])
    assert 2 <= done < 4 and len(train_of(out)) == 4
    assert not list(out.glob("**/.*"))


def test_the_check_writes_nothing(copied, tmp_path, capsys):
    source, _ = copied
    save(source / "sub-4/ses-1/anat/sub-4_ses-1_angio.nii", picture(), affine())
    bad = source / "sub-5/ses-1/anat/sub-5_ses-1_angio.nii"
    save(bad, picture((4, 4, 4, 4)), affine())
    with open(source / "participants.tsv", "a") as file:
        file.write("sub-5\t1\tcontrol\n")
    outcome = run(source, tmp_path / "nothing", check=True)
    assert not (tmp_path / "nothing").exists() and len(outcome.failed) == 1
    said = capsys.readouterr().out
    assert "4 of 5 scans can be imported: 3 positive, 1 healthy" in said
    assert "columns            40 to 40, 0.500 to 0.500 mm apart" in said
    assert "1 left out: unknown group" in said and "1 failed: not_3d" in said


def test_a_scan_that_is_gone_leaves_the_tables(copied, capsys):
    source, out = copied
    shutil.rmtree(source / "sub-2")
    run(source, out)
    assert len(train_of(out)) == 3
    assert "1 series of earlier runs are no longer in the source" in capsys.readouterr().out


def test_two_data_sets_in_one_folder(copied, tmp_path):
    source, out = copied
    first = train_of(out)
    for name, value in (("x", 1), ("y", 2), ("z", 0)):
        save(tmp_path / "adam" / name / "orig" / "TOF.nii.gz", picture(), affine())
        treated = ball(centre=(18, 12, 5), value=2 * (name == "x"))
        mask = ball(value=value) + treated
        save(tmp_path / "adam" / name / "aneurysms.nii.gz", mask, affine())
    outcome = run(tmp_path / "adam", out)
    assert outcome.left_out == [("y", "treated: its aneurysms are all treated")]
    both = train_of(out)
    assert len(both) == 6 and set(first.SeriesInstanceUID) < set(both.SeriesInstanceUID)
    assert pd.read_csv(out / "left_out.csv").scan.tolist() == ["y"]
    [ignored] = pd.read_csv(out / "train_ignored.csv").to_dict("records")
    assert ignored["SeriesInstanceUID"] in set(both.SeriesInstanceUID)
    assert ignored["coordinates"] == "{'x': 5.0, 'y': 7.0}" and ignored["radius_mm"] > 1
    assert (both.PatientID != "").all() and both.PatientID.nunique() == 5
    run(source, out, name="other")  # the same files under another name are other series
    assert len(train_of(out)) == 10


def test_bad_files_end_nothing(copied, tmp_path):
    source, _ = copied
    [image] = source.glob("sub-1/ses-1/anat/*angio.nii.gz")
    image.write_bytes(image.read_bytes()[:-1000])
    [mask] = source.glob("derivatives/*/sub-2/*/*/*mask.nii.gz")
    mask.write_text("no mask")
    out = tmp_path / "out of bad ü"
    command = [sys.executable, SCRIPT, source, "--out", out, "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 3 and "Traceback" not in done.stdout + done.stderr
    failed = pd.read_csv(out / "failed_import.csv")
    assert failed.scan.tolist() == ["sub-1_ses-1", "sub-2_ses-1"]
    assert set(failed.reason) == {"damaged"} and len(train_of(out)) == 2
    for path in source.glob("sub-*/**/*.nii.gz"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of the 4 scans can be imported"):
        run(source, out)


def test_without_nibabel(made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(UserError, match=r"pip install nibabel==\d"):
        run(made[0], tmp_path)
    hidden = "import runpy, sys; sys.modules['nibabel'] = None; "
    code = f"{hidden}runpy.run_path(sys.argv[1], {{}}, '__main__')"
    command = [sys.executable, "-c", code, SCRIPT, "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "nibabel" in done.stdout

"""The two real data sets, names and tables as they are, with synthetic volumes put in."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from src.dicom import open_series
from src.labels import LABELS, PRESENT
from tests.conftest import ROOT
from tests.nifti_files import RAS_TO_LPS, affine, ball, picture, save
from tools import import_nifti

TREES = ROOT.parent / "shared" / "openneuro"
SHAPE = (16, 14, 9)
TO_RAS = affine("LAS", (0.4, 0.45, 0.6), (0.15, -0.05, 0))

pytestmark = pytest.mark.skipif(
    not TREES.exists(), reason="names of the real data sets are not here"
)


def fill(name: str, root: Path, subjects: str) -> list[Path]:
    """Make a tree with volumes in place of the real ones; return its masks of lesions.

    subjects: pattern of those whose files are made
    """
    masks = []
    for line in (TREES / name / "paths.txt").read_text().splitlines():
        path = root / line
        if not re.search(subjects, line):
            continue
        if line.endswith(("_angio.nii.gz", "_desc-brain_mask.nii.gz")):
            save(path, picture(SHAPE, len(line)), TO_RAS)
        elif "_desc-Lesion_" in line and line.endswith(".nii.gz"):
            masks.append(save(path, lesion(len(masks)), TO_RAS))
        elif "/Nifti Aneurysm Only/" in line:
            masks.append(as_slicer_exports(path, len(masks)))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (root / "participants.tsv").write_bytes((TREES / name / "participants.tsv").read_bytes())
    return masks


def lesion(number: int) -> np.ndarray:
    centre = np.random.default_rng(number).integers(3, (13, 11, 6))
    return ball(SHAPE, centre, radius=2)


def as_slicer_exports(path: Path, number: int) -> Path:
    """Write a mask with rows along other directions, cut to a box around its lesion."""
    image = nib.Nifti1Image(lesion(number), TO_RAS)
    [box] = ndimage.find_objects(lesion(number))
    return save(path, *whole(image.slicer[box].as_reoriented([[0, -1], [1, -1], [2, 1]])))


def whole(image: nib.Nifti1Image) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(image.dataobj), image.affine


def check(out: Path, masks: list[Path]) -> None:
    """Each mask of an imported scan is a localizer where nibabel has its centre of mass."""
    localizers = pd.read_csv(out / "train_localizers.csv")
    scans = pd.read_csv(out / "imported_scans.csv", index_col="scan")
    count = 0
    for name, uid in scans.SeriesInstanceUID.items():
        session = re.match(r"(sub-\d+)_(ses-\d+)", name)
        expected = [
            centre_of(path) for path in masks if f"/{session[1]}/{session[2]}/" in str(path)
        ]
        series = open_series(out / "series" / uid)
        assert series.patient_id.endswith(f" {session[1]}")
        rows = localizers[localizers.SeriesInstanceUID == uid]
        assert len(rows) == len(expected)
        for row in rows.itertuples():
            x, y = (float(number) for number in re.findall(r"-?\d+\.\d+", row.coordinates))
            found = series.patient_point(series.sop_uids.index(row.SOPInstanceUID), x, y)
            away = np.linalg.norm(np.array(expected) - found, axis=1)
            assert away.min() < 1e-3 and 0.8 < row.radius_mm < 1.6  # the balls' centres are voxels
        count += len(rows)
    assert count == len(localizers)


def centre_of(path: Path) -> np.ndarray:
    image = nib.load(path)
    centre = ndimage.center_of_mass(np.asarray(image.dataobj))
    return (RAS_TO_LPS @ image.affine @ [*centre, 1])[:3]


def test_lausanne(tmp_path):
    root, out = tmp_path / "ds003949", tmp_path / "out"
    masks = fill("ds003949", root, r"sub-(0[0-2]\d|074|482)")
    outcome = import_nifti.main(import_nifti.Config(root, out=out))
    assert not outcome.failed and [name for name, _ in outcome.left_out] == ["sub-482_ses-20140210"]
    groups = pd.read_csv(root / "participants.tsv", sep="\t", dtype=str)
    groups = groups.set_index("sub-" + groups.participant_id.str[4:] + "_ses-" + groups.exam_date)
    train = pd.read_csv(out / "train.csv", index_col=0)
    scans = pd.read_csv(out / "imported_scans.csv", index_col="scan")
    assert len(train) == len(scans) > 10
    for name, uid in scans.SeriesInstanceUID.items():
        assert train.at[uid, LABELS[PRESENT]] == (groups.group[name] == "patient")
    check(out, masks)


def test_brisbane(tmp_path):
    root, out = tmp_path / "ds005096", tmp_path / "out"
    masks = fill("ds005096", root, r"sub-0(0[0-3]|15|18|22|26|32|39|51)")
    outcome = import_nifti.main(import_nifti.Config(root, out=out))
    assert not outcome.failed and len(outcome.left_out) == 30 and len(outcome.done) == 7
    train = pd.read_csv(out / "train.csv", index_col=0)
    assert (train[LABELS[PRESENT]] == 1).all() and train[LABELS[0]].isna().all()
    own = [path for path in masks if "/sub-001/sub-002/" not in str(path)]
    check(out, own)

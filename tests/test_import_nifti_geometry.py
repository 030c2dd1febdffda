"""Every voxel of a NIfTI file is where nibabel says, read back by SimpleITK and by our reader."""

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.dicom import open_series, read_series
from tests.nifti_files import (
    RAS_TO_LPS,
    SHAPE,
    TILT,
    affine,
    as_itk_reads,
    ball,
    imported,
    indices_of,
    job,
    picture,
    save,
)

CODES = [
    "".join(letters)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*axes)
]  # all 48 ways to store an array
MM, PIXEL = 1e-5, 0.05  # tolerances


def check_voxels(path: Path, folder: Path) -> None:
    """Each voxel of the file is in the DICOM series, at the same place."""
    image = nib.load(path)
    values, to_lps = as_itk_reads(folder)
    points = indices_of(image.shape) @ (RAS_TO_LPS @ image.affine).T
    there = points @ np.linalg.inv(to_lps).T
    nearest = np.rint(there).astype(int)
    assert np.abs(there - nearest).max() < 1e-4
    assert np.array_equal(values[tuple(nearest[:, :3].T)], image.get_fdata().ravel())


def check_lesion(path: Path, folder: Path, localizer: dict, centre) -> None:
    """A localizer is where the file has its lesion, by our reader: within half a slice."""
    series = open_series(folder)
    expected = (RAS_TO_LPS @ nib.load(path).affine @ [*centre, 1])[:3]
    index = series.sop_uids.index(localizer["sop_uid"])
    found = np.array(series.patient_point(index, localizer["x"], localizer["y"])) - expected
    orientation = np.array(series.slices[0].orientation)
    across, down = found @ orientation[:3], found @ orientation[3:]
    slice_, row, column = series.spacing
    assert abs(across) < PIXEL * column and abs(down) < PIXEL * row
    assert np.linalg.norm(found) ** 2 - across**2 - down**2 <= (slice_ / 2 + MM) ** 2


@pytest.mark.parametrize("code", CODES)
def test_every_orientation_of_an_array(code, tmp_path):
    to_ras = affine(code, turn=(TILT, 0, TILT / 2))
    image = save(tmp_path / "a.nii", picture(), to_ras)
    mask = save(tmp_path / "m.nii", ball(), to_ras)
    task = job(tmp_path / "out", image, mask)
    [localizer] = imported(task)["localizers"]
    check_voxels(image, task.series)
    check_lesion(image, task.series, localizer, (8, 9, 5))
    series = read_series(task.series)
    assert series.plane == "axial" and series.orientation == "" and not series.warnings


def test_a_mask_may_be_stored_along_other_axes(tmp_path):
    image = save(tmp_path / "a.nii", picture(), affine("LAS"))
    turned = nib.load(image).as_reoriented([[0, -1], [2, 1], [1, -1]])
    voxel = nib.affines.apply_affine(
        np.linalg.inv(turned.affine) @ nib.load(image).affine, (8, 9, 5)
    )
    mask = save(tmp_path / "m.nii", ball(turned.shape, voxel), turned.affine)
    task = job(tmp_path / "out", image, mask)
    [localizer] = imported(task)["localizers"]
    check_lesion(image, task.series, localizer, (8, 9, 5))


def test_the_largest_error_in_mm(tmp_path):
    """An MRA turned by 12 degrees, of the size of a real one in the plane."""
    to_ras = affine("LAS", (0.39, 0.39, 0.55), (TILT, TILT / 3, 0))
    image = save(tmp_path / "a.nii.gz", picture((512, 448, 4)), to_ras)
    task = job(tmp_path / "out", image, present=False)
    imported(task)
    series = open_series(task.series)
    to_lps = RAS_TO_LPS @ nib.load(image).affine
    corners = [(511 - x, 447 - y) for x, y in ((0, 0), (511, 0), (0, 447), (511, 447))]
    for index, (i, j) in itertools.product(range(4), corners):
        x, y = i if to_lps[0, 0] > 0 else 511 - i, j if to_lps[1, 1] > 0 else 447 - j
        found = np.array(series.patient_point(index, x, y))
        assert np.abs(found - (to_lps @ [i, j, index, 1])[:3]).max() < 1e-6


angles = st.floats(-np.pi, np.pi)
spacings = st.tuples(*[st.floats(0.2, 3)] * 3)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(CODES), spacings, st.tuples(angles, angles, angles), st.integers(0, 2**32))
def test_any_affine(code, spacing, turn, seed):
    """Also those at 45 degrees, where the nearest axis is a matter of taste."""
    shape = (9, 7, 5)
    generator = np.random.default_rng(seed)
    centre = [generator.integers(0, side) for side in shape]
    with TemporaryDirectory() as folder:
        to_ras = affine(code, spacing, turn)
        image = save(Path(folder) / "a.nii", picture(shape, seed), to_ras)
        mask = save(Path(folder) / "m.nii", ball(shape, centre, 0), to_ras)
        task = job(Path(folder) / "out", image, mask)
        [localizer] = imported(task)["localizers"]
        check_voxels(image, task.series)
        check_lesion(image, task.series, localizer, centre)
        assert open_series(task.series).plane == "axial" or max(np.abs(turn)) > 0.3


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 1)])
def test_sform_alone_qform_alone_and_both(codes, tmp_path):
    to_ras = affine("PIR", turn=(0.1, 0.2, 0.3))
    image = save(tmp_path / "a.nii", picture(), to_ras, codes)
    task = job(tmp_path / "out", image, save(tmp_path / "m.nii", ball(), to_ras, codes))
    imported(task)
    check_voxels(image, task.series)


def test_nifti_2(tmp_path):
    image = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti2Image(picture(), affine("RAS"), dtype=np.int16), image)
    task = job(tmp_path / "out", image, present=False)
    imported(task)
    check_voxels(image, task.series)


def test_the_shape_that_is_turned(tmp_path):
    image = save(tmp_path / "a.nii", picture(), affine("SRA"))  # slices, columns, rows
    task = job(tmp_path / "out", image, save(tmp_path / "m.nii", ball(), affine("SRA")))
    imported(task)
    assert open_series(task.series).shape == (SHAPE[0], SHAPE[2], SHAPE[1])

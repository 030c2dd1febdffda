"""The values of a NIfTI file arrive: exactly where 16 bits hold them, else within half a step."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from src.dicom import read_series
from tests.nifti_files import affine, as_itk_reads, imported, job, picture, save
from tools.nifti.dicom_files import uid_of
from tools.nifti.errors import NiftiError
from tools.nifti.grid import open_volume
from tools.nifti.voxels import read_voxels

LPS = affine("LPS")  # stored as DICOM is: nothing is turned


def values_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj, np.float64)


@pytest.mark.parametrize(
    "dtype, low, high",
    [
        ("i2", -32768, 32767),
        (">i2", -2000, 2000),
        ("u1", 0, 255),
        ("i1", -128, 127),
        ("u2", 0, 65535),
        ("i4", -1024, 3071),
        ("u4", 0, 65535),
        ("i8", -5, 5),
        ("f4", -1024, 3071),
        ("f8", 0, 4000),
    ],
)
def test_whole_numbers_are_exact(dtype, low, high, tmp_path):
    array = np.random.default_rng(1).integers(low, high + 1, (9, 8, 4)).astype(dtype)
    array[0, 0, :2] = low, high
    image = save(tmp_path / "a.nii.gz", array, LPS)
    task = job(tmp_path / "out", image, present=False)
    assert imported(task)["notes"] == []
    found, _ = as_itk_reads(task.series)
    assert np.array_equal(found, array.astype(np.float64))
    ours = read_series(task.series).pixels.transpose(2, 1, 0)
    assert np.array_equal(ours, array.astype(np.float32))


@pytest.mark.parametrize("scale", [(0.25, -3.0), (2.5, 0.0), (0.1, 1.7), (-1.0, 100.0)])
@pytest.mark.parametrize("dtype", ["i2", "u1", "u2"])
def test_slope_and_intercept_of_the_file(scale, dtype, tmp_path):
    array = picture((9, 8, 4)).clip(0, 255).astype(dtype)
    image = save(tmp_path / "a.nii", array, LPS, scale=scale)
    assert np.array_equal(nib.load(image).dataobj.get_unscaled(), array)  # as meant
    task = job(tmp_path / "out", image, present=False)
    assert imported(task)["notes"] == []
    found, _ = as_itk_reads(task.series)
    assert np.allclose(found, values_of(image), rtol=1e-12, atol=1e-9)
    [first, *_] = sorted(task.series.iterdir())
    assert np.isin(dcmread(first).pixel_array, array).all()


@pytest.mark.parametrize("low, high", [(0, 1), (-1e-6, 3e-6), (-1000.5, 3000.25), (1e6, 3e7)])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4"])
def test_others_are_within_half_a_step(low, high, dtype, tmp_path):
    if dtype == "i4":
        low, high = low * 1000, min(high * 10000, 2e9)  # int32 holds no more
    array = np.random.default_rng(2).uniform(low, high, (20, 30, 4)).astype(dtype)
    task = job(tmp_path / "out", save(tmp_path / "a.nii", array, LPS), present=False)
    record = imported(task)
    slope = float(dcmread(next(task.series.iterdir())).get("RescaleSlope", 1))
    found, _ = as_itk_reads(task.series)
    assert np.abs(found - array).max() <= slope / 2 * (1 + 1e-9)
    assert slope <= (high - low) / 65000 or record["notes"] == []
    if dtype != "i4":
        assert "within half a step" in record["notes"][0]


@settings(max_examples=40, deadline=None)
@given(
    st.floats(-1e20, 1e20),
    st.floats(1e-12, 1e20),
    st.integers(0, 2**32),
    st.sampled_from([np.float32, np.float64]),
)
def test_any_floats(low, width, seed, dtype):
    array = (low + width * np.random.default_rng(seed).random((6, 5, 4))).astype(dtype)
    with TemporaryDirectory() as folder:
        path = save(Path(folder) / "a.nii", array, LPS)
        try:
            voxels = read_voxels(path, *open_volume(path))
        except NiftiError as error:
            assert error.reason == "bad_scale"
            assert np.ptp(array.astype(np.float64)) < 1e-8 * np.abs(array).max()
            return
    error = voxels.stored * voxels.slope + voxels.intercept - array
    rounding = 4 * np.finfo(np.float64).eps * np.abs(array).max()
    assert np.abs(error).max() <= abs(voxels.slope) / 2 * (1 + 1e-9) + rounding


@pytest.mark.parametrize("modality", ["MRA", "MRI T2", "MRI T1post", "CTA"])
@pytest.mark.parametrize(
    "dtype, scale", [("i2", None), ("u2", None), ("f4", None), ("u1", (0.1, 2))]
)
def test_the_files_are_valid_dicom(modality, dtype, scale, tmp_path):
    array = (picture() * 0.17).astype(dtype)
    image = save(tmp_path / "a.nii", array, affine("LAS", turn=(0.2, 0, 0)), scale=scale)
    known = {"age": "57", "sex": "Female"} if dtype == "i2" else {}
    task = job(tmp_path / "out", image, modality=modality, present=False, **known)
    imported(task)
    program = Path(sys.executable).with_name("dciodvfy")
    for path in sorted(task.series.iterdir())[:1]:
        said = subprocess.run([program, "-new", path], capture_output=True, text=True).stderr
        assert "Error" not in said, said
        assert ("CTImage" if modality == "CTA" else "MRImage") in said


def test_dciodvfy_finds_errors(tmp_path):
    task = job(tmp_path / "out", save(tmp_path / "a.nii", picture(), LPS), present=False)
    imported(task)
    path = next(task.series.iterdir())
    data = dcmread(path)
    del data.ImageOrientationPatient, data.ScanningSequence
    data.save_as(path)
    program = Path(sys.executable).with_name("dciodvfy")
    said = subprocess.run([program, "-new", path], capture_output=True, text=True).stderr
    assert said.count("Error") >= 2


def test_what_the_files_say_of_the_patient(tmp_path):
    path = save(tmp_path / "Jane Doe 1950.nii", picture(), LPS)
    image = nib.load(path, mmap=False)
    image.header["descrip"], image.header["aux_file"] = b"Jane Doe", b"Jane Doe"
    nib.save(image, path)
    known = {"age": "57", "sex": "Female", "patient": "Jane Doe", "is_pseudonym": False}
    task = job(tmp_path / "out", path, present=False, **known)
    imported(task)
    for file in task.series.iterdir():
        data = dcmread(file)
        assert b"Jane" not in file.read_bytes() and b"Doe" not in file.read_bytes()
        assert data.PatientID == task.patient_id and len(data.PatientID) == 16
        assert data.PatientAge == "057Y" and data.PatientSex == "F" and not data.PatientName
        assert file.stem == data.SOPInstanceUID and data.SeriesInstanceUID == task.uid


def test_uids_come_from_names_alone(tmp_path):
    image = save(tmp_path / "a.nii", picture(), LPS)
    tasks = [job(tmp_path / out, image, present=False) for out in ("one", "two")]
    for task in tasks:
        imported(task)
    first, second = (sorted(path.name for path in task.series.iterdir()) for task in tasks)
    assert first == second and len(set(first)) == 12
    assert tasks[0].uid == tasks[1].uid == uid_of("set", "a.nii") != uid_of("set", "b.nii")
    for name in (tasks[0].uid, *first):
        number = int(name.removeprefix("2.25.").removesuffix(".dcm"))
        assert name.startswith("2.25.") and number < 2**128 and len(name.removesuffix(".dcm")) <= 64

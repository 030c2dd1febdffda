"""Outputs for other programs agree in the patient's millimetres, as other programs read them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset, dcmread

from tests.dicom_files import AXES
from tests.predicted import Predicted, predicted
from tools.outputs import canvas
from tools.outputs.write import KINDS, write_outputs

RADIUS = 4.0  # mm, of the ring: the phantom is small
CASES = [  # plane, code, storage, oblique, mm of the view
    ("axial", "", "files", False, 0.0),
    ("axial", "TXY", "files", False, 0.0),
    ("axial", "X", "frames", True, 14.0),
    ("coronal", "T", "files", False, 14.0),
    ("coronal", "X", "frames", False, 0.0),
    ("coronal", "Y", "files", True, 14.0),
    ("sagittal", "TXY", "files", False, 0.0),
    ("sagittal", "", "frames", True, 14.0),
]


def written(out: Path, case: Predicted, kinds=KINDS) -> dict[str, str]:
    out.mkdir(exist_ok=True)
    return write_outputs(kinds, out, "a", case.prepared, case.prediction)


def fiducials(out: Path) -> np.ndarray:
    [markups] = json.loads((out / "a.mrk.json").read_text())["markups"]
    assert markups["coordinateSystem"] == "LPS" and markups["coordinateUnits"] == "mm"
    return np.array([point["position"] for point in markups["controlPoints"]])


def hottest(out: Path) -> tuple[np.ndarray, sitk.Image, float]:
    """Return the place of the hottest voxel by SimpleITK, which nibabel confirms, and its value."""
    image, other = sitk.ReadImage(str(out / "a.nii.gz")), nib.load(out / "a.nii.gz")
    values = sitk.GetArrayFromImage(image)
    assert np.array_equal(values.transpose(2, 1, 0), other.get_fdata(dtype=np.float32))
    index = np.unravel_index(values.argmax(), values.shape)[::-1]
    place = np.array(image.TransformIndexToPhysicalPoint([int(number) for number in index]))
    for affine in (other.affine, other.get_qform(), other.get_sform()):
        np.testing.assert_allclose((affine @ [*index, 1])[:3], place * [-1, -1, 1], atol=1e-3)
    return place, image, float(values.max())


def reported(out: Path, folder: Path) -> np.ndarray:
    """Return the places (k, 3) of the points of the report, by the tags of their images alone."""
    images = {data.SOPInstanceUID: data for data in map(dcmread, folder.iterdir())}
    points = []
    for item in items_of(dcmread(out / "a.sr.dcm")):
        if item.ValueType != "SCOORD":
            continue
        [[x, y], source] = item.GraphicData, item.ContentSequence[0].ReferencedSOPSequence[0]
        image = images[source.ReferencedSOPInstanceUID]
        frame = source.get("ReferencedFrameNumber", 1)
        position, orientation, (down, across) = geometry(image, frame)
        # PS3.3 C.18.6.1.1: 0, 0 is the corner of the first pixel, whose centre has the position.
        x, y = (x - 0.5) * across, (y - 0.5) * down
        points.append(position + orientation[:3] * x + orientation[3:] * y)
    return np.array(points)


def items_of(item: Dataset) -> Iterator[Dataset]:
    """Yield an item of a report and all below it."""
    yield item
    for child in item.get("ContentSequence", []):
        yield from items_of(child)


def geometry(data, frame: int) -> list[np.ndarray]:
    if "PerFrameFunctionalGroupsSequence" not in data:
        parts = data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing
    else:
        shared = data.SharedFunctionalGroupsSequence[0]
        per_frame = data.PerFrameFunctionalGroupsSequence[frame - 1]
        parts = (
            per_frame.PlanePositionSequence[0].ImagePositionPatient,
            shared.PlaneOrientationSequence[0].ImageOrientationPatient,
            shared.PixelMeasuresSequence[0].PixelSpacing,
        )
    return [np.array(part, float) for part in parts]


def ringed(path: Path) -> np.ndarray:
    """Return the place of the ring's centre in a capture: SimpleITK's pixels, pydicom's tags."""
    image = sitk.ReadImage(str(path))
    pixels = sitk.GetArrayFromImage(image)[0]
    rows, columns = np.nonzero((pixels == canvas.RING).all(axis=2))
    position, orientation, spacing = geometry(dcmread(path), 1)
    # Its left end and its lower end: at the upper right is the number.
    x, y = columns.min() + RADIUS / spacing[1], rows.max() - RADIUS / spacing[0]
    return position + orientation[:3] * spacing[1] * x + orientation[3:] * spacing[0] * y


@pytest.mark.parametrize("plane, code, storage, oblique, view_mm", CASES)
def test_all_outputs_agree_on_the_place(
    plane, code, storage, oblique, view_mm, tmp_path, monkeypatch
):
    monkeypatch.setattr(canvas, "RING_MM", RADIUS)
    case = predicted(tmp_path / "1.2.3", plane, code, storage, oblique, view_mm)
    out = tmp_path / "out"
    assert written(out, case) == {}
    [finding] = case.prediction.findings
    np.testing.assert_allclose(finding.patient, case.place, atol=0.5)
    np.testing.assert_allclose(fiducials(out), [finding.patient])
    np.testing.assert_allclose(reported(out, case.folder), [finding.patient], atol=0.01)
    np.testing.assert_allclose(ringed(out / "a.capture-1.dcm"), finding.patient, atol=0.15)
    place, image, value = hottest(out)
    expected = np.array(image.TransformPhysicalPointToContinuousIndex(case.place))
    highest = np.array(image.TransformPhysicalPointToIndex(place))
    assert np.abs(expected - highest).max() < 1
    assert value == pytest.approx(finding.probability, abs=0.001)
    names = ["a.capture-1.dcm", "a.mrk.json", "a.nii.gz", "a.sr.dcm"]
    assert sorted(path.name for path in out.iterdir()) == names


@pytest.mark.parametrize("plane", AXES)
def test_the_picture_itself_is_at_its_place(plane, tmp_path):
    """Without rings: the spot is the brightest of the picture, but for the letters' white."""
    case = predicted(tmp_path / "1.2.3", plane, "TX", oblique=True, localised=False)
    out = tmp_path / "out"
    assert set(written(out, case)) == {"slicer", "nifti"}
    image = sitk.ReadImage(str(out / "a.capture-1.dcm"))
    pixels = sitk.GetArrayFromImage(image)[0]
    rows, columns = np.nonzero((pixels == 255).all(axis=2))
    index = [float(columns.mean()), float(rows.mean()), 0.0]
    place = image.TransformContinuousIndexToPhysicalPoint(index)
    np.testing.assert_allclose(place, case.place, atol=0.3)
    assert np.ptp(rows) * image.GetSpacing()[1] < 4


def test_slices_that_were_passed_over_are_no_voxels(tmp_path):
    case = predicted(tmp_path / "1.2.3", stride=2)
    out = tmp_path / "out"
    assert written(out, case, ["nifti"]) == {}
    place, image, _ = hottest(out)
    assert image.GetSize() == (40, 40, 4) and image.GetSpacing()[2] == pytest.approx(5.0)
    assert place[2] == pytest.approx(case.place[2])


@pytest.mark.parametrize("storage", ["files", "frames"])
def test_dciodvfy_finds_no_error(storage, tmp_path):
    case = predicted(tmp_path / "1.2.3", "coronal", "Y", storage)
    assert written(tmp_path / "out", case, ["sr", "capture"]) == {}
    for name, kind in (("a.sr.dcm", "Comprehensive3DSR"), ("a.capture-1.dcm", "SCImage")):
        said = dciodvfy(tmp_path / "out" / name)
        assert kind in said and "Error" not in said and "Warning" not in said, said
    data = dcmread(tmp_path / "out" / "a.sr.dcm")
    del data.StudyInstanceUID, data.ValueType
    data.save_as(tmp_path / "broken.dcm")
    assert dciodvfy(tmp_path / "broken.dcm").count("Error") >= 2


def dciodvfy(path: Path) -> str:
    program = Path(sys.executable).with_name("dciodvfy")
    return subprocess.run([program, "-new", path], capture_output=True, text=True).stderr

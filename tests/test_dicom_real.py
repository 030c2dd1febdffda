"""The reader against real files, and against SimpleITK and pydicom."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from src.dicom import DicomError, open_series, read_series

REAL = Path(__file__).resolve().parents[2] / "shared" / "realdicom"


PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


# folder, slices, rows, columns, plane,
# first and last position, first and last sum, lowest and highest value
TRUTH = [
    (
        "ct_head_phantom_5mm",
        28,
        512,
        512,
        "axial",
        696.21,
        831.21,
        -225928747,
        -251570255,
        -1024,
        782,
    ),
    ("t1post_axial_320x260", 24, 320, 260, "axial", -74.445, 75.055, 65545296, 13535821, 0, 2505),
    ("mr_sagittal_mprage", 64, 256, 256, "sagittal", -26.332, 30.368, 6938884, 6645661, 0, 625),
    ("mr_enhanced_reversed", 96, 128, 128, "sagittal", -100.424, 89.576, 179328, 172241, 0, 2927),
    (
        "slope_per_frame",
        8,
        256,
        256,
        "sagittal",
        91.894,
        100.294,
        35458058.3,
        35435392.7,
        0,
        1081.748,
    ),
    ("slope_per_slice", 4, 28, 64, "axial", None, None, None, None, 33.443825, 96.467984),
    ("classic_and_enhanced", 7, 512, 512, "axial", None, None, None, None, -1024, 334),
]


real_only = pytest.mark.skipif(not REAL.exists(), reason="the real series are not here")


@real_only
@pytest.mark.parametrize("row", TRUTH, ids=lambda row: row[0])
def test_real_series(row):
    folder, slices, rows, columns, plane, first, last, first_sum, last_sum, lowest, highest = row
    series = read_series(REAL / folder)
    assert series.pixels.shape == (slices, rows, columns) and series.pixels.dtype == np.float32
    assert series.plane == plane and np.all(np.diff(series.positions) > 0)
    assert series.pixels.min() == pytest.approx(
        lowest, abs=1e-3
    ) and series.pixels.max() == pytest.approx(highest, abs=1e-3)
    if first is not None:
        assert series.positions[[0, -1]] == pytest.approx([first, last], abs=1e-3)
        assert series.pixels[[0, -1]].sum(axis=(1, 2), dtype=float) == pytest.approx(
            [first_sum, last_sum], rel=1e-7
        )


@real_only
def test_real_names_and_frames():
    assert [piece.file.path.name for piece in open_series(REAL / "ct_head_phantom_5mm").slices][
        ::27
    ] == ["I10", "I280"]
    assert open_series(REAL / "ct_head_phantom_5mm").dropped == [("DIRFILE", "no_pixels")]
    assert [piece.file.path.name for piece in open_series(REAL / "slope_per_slice").slices] == [
        f"00{k}.dcm" for k in range(1, 5)
    ]
    assert open_series(REAL / "mr_sagittal_mprage").slices[0].file.path.name.startswith("0123-")
    assert open_series(REAL / "mr_enhanced_reversed").frames.tolist() == list(range(96))
    assert open_series(REAL / "slope_per_frame").frames.tolist() == list(range(7, -1, -1))


@real_only
def test_the_same_slices_as_files_and_as_frames(tmp_path):
    both = read_series(REAL / "classic_and_enhanced")
    assert len(both.pixels) == 7 and len(both.dropped) == 7
    shutil.copytree(
        REAL / "classic_and_enhanced", tmp_path / "files", ignore=shutil.ignore_patterns("volume*")
    )
    files, frames = (
        read_series(tmp_path / "files"),
        read_series(REAL / "classic_and_enhanced" / "volume.dcm"),
    )
    assert np.array_equal(files.pixels, frames.pixels) and np.array_equal(files.pixels, both.pixels)


@real_only
@pytest.mark.parametrize(
    "folder",
    [
        "ct_head_phantom_5mm",
        "t1post_axial_320x260",
        "mr_sagittal_mprage",
        "slope_per_slice",
        "classic_and_enhanced",
    ],
)
def test_equals_simpleitk(folder, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    shutil.copytree(
        REAL / folder, tmp_path / "series", ignore=shutil.ignore_patterns("volume*", "DIRFILE")
    )
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "series"))
    expected = (
        sitk.GetArrayFromImage(sitk.ReadImage(names))
        if folder != "slope_per_slice"
        else _one_by_one(sitk, names)
    )
    series = read_series(tmp_path / "series")
    direction = np.array(pydicom.dcmread(names[0]).ImageOrientationPatient, float)
    normal = np.cross(direction[:3], direction[3:])
    if normal[np.abs(normal).argmax()] < 0:  # SimpleITK goes along it as it is
        names, expected = names[::-1], expected[::-1]
    assert [piece.file.path.name for piece in series.slices] == [Path(name).name for name in names]
    np.testing.assert_allclose(series.pixels, expected, rtol=1e-6)


def _one_by_one(sitk, names) -> np.ndarray:
    """SimpleITK takes one slope for a whole series."""
    return np.concatenate([sitk.GetArrayFromImage(sitk.ReadImage(name)) for name in names])


GREY = [
    "693_J2KI.dcm", "CT_small.dcm", "J2K_pixelrep_mismatch.dcm", "MR_small.dcm",
    "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_expb.dcm", "MR_small_implicit.dcm",
    "MR_small_jp2klossless.dcm", "MR_small_padded.dcm", "examples_overlay.dcm",
]  # fmt: skip
JPEG_LS = [
    "JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm", "MR_small_jpeg_ls_lossless.dcm",
]  # fmt: skip


@pytest.mark.parametrize("name", GREY)
def test_equals_pydicom(name):
    data = pydicom.dcmread(PYDICOM_FILES / name)
    expected = data.pixel_array * float(data.get("RescaleSlope", 1)) + float(
        data.get("RescaleIntercept", 0)
    )
    np.testing.assert_allclose(read_series(PYDICOM_FILES / name).pixels[0], expected, rtol=1e-6)


@pytest.mark.parametrize("name", JPEG_LS)
def test_equals_gdcm(name):
    """pydicom has no decoder of JPEG-LS here."""
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(PYDICOM_FILES / name)))
    assert np.array_equal(read_series(PYDICOM_FILES / name).pixels, image)


@pytest.mark.filterwarnings("ignore")
def test_every_other_file_of_pydicom_gives_a_reason():
    reasons = {}
    for path in sorted(PYDICOM_FILES.iterdir()):
        if path.is_file() and path.name not in GREY + JPEG_LS:
            with pytest.raises(DicomError) as caught:
                read_series(path)
            reasons[path.name] = caught.value.reason
    assert (
        reasons["MR_truncated.dcm"] == "truncated"
        and reasons["README.txt"] == "not_dicom"
        and reasons["reportsi.dcm"] == "no_pixels"
    )
    assert (
        reasons["rtdose.dcm"] == "other_modality"
        and reasons["SC_jpeg_no_color_transform.dcm"] == "colour"
    )
    assert set(reasons.values()) == {
        "truncated",
        "not_dicom",
        "no_pixels",
        "other_modality",
        "colour",
    }

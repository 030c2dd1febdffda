"""Images that are no slices, by their ImageType."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from src.dicom import open_series, read_series
from tests.dicom_files import dataset, reason, save, volume

AXIAL, CORONAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]
SLICE, LOCALIZER = "ORIGINAL\\PRIMARY\\AXIAL", "ORIGINAL\\PRIMARY\\LOCALIZER"


def write(folder: Path, name: str, kind: str | None, places=range(8), seed=0, **tags) -> np.ndarray:
    """Write slices of one kind; return their pixels."""
    directions = tags.pop("ImageOrientationPatient", AXIAL)
    images = volume((len(places), 6, 8), seed=seed)
    along = np.cross(directions[:3], directions[3:])
    for k, place in enumerate(places):
        header = {
            "ImagePositionPatient": (along * place).tolist(),
            "ImageOrientationPatient": directions,
            "SOPInstanceUID": f"1.2.{seed}.{k}",
            "SliceThickness": 1,
        }
        kinds = {} if kind is None else {"ImageType": kind.split("\\")}
        save(dataset(images[k], **header | kinds | tags), folder / f"{name}{k:03d}")
    return images


NO_SLICES = {
    "DERIVED\\SECONDARY\\PROJECTION IMAGE": "projection",
    "ORIGINAL\\PRIMARY\\PROJECTION IMAGE\\M\\FFE": "projection",
    "DERIVED\\SECONDARY\\AXIAL\\CT_SOM5 MIP": "projection",
    "DERIVED\\SECONDARY\\MPR\\COLLAPSED": "projection",
    "DERIVED\\PRIMARY\\ANGIO\\MIN_IP": "projection",
    "DERIVED\\SECONDARY\\MIP\\NONE ": "projection",
    "DERIVED\\SECONDARY\\REFORMATTED\\minip": "projection",
    LOCALIZER: "localizer",
    "ORIGINAL\\PRIMARY\\SCOUT": "localizer",
    "ORIGINAL\\PRIMARY\\SURVIEW": "localizer",
    "ORIGINAL\\PRIMARY\\LOCALIZER\\CT_SOM5 TOP": "localizer",
    "DERIVED\\PRIMARY\\DIFFUSION\\ADC\\ND": "derived",
    "DERIVED\\PRIMARY\\DIFFUSION\\FA": "derived",
    "DERIVED\\PRIMARY\\T2 MAP": "derived",
    "DERIVED\\PRIMARY\\T2MAP": "derived",
    "DERIVED\\PRIMARY\\PERFUSION\\TTP": "derived",
    "DERIVED\\PRIMARY\\PERFUSION\\RELCBF": "derived",
    "DERIVED\\PRIMARY\\M\\SUBTRACTION": "derived",
    "DERIVED\\SECONDARY\\M\\SUB\\ND": "derived",
    "ORIGINAL\\PRIMARY\\M\\ND\\MOSAIC": "mosaic",
    "DERIVED\\SECONDARY\\SCREEN SAVE": "screenshot",
    "DERIVED\\SECONDARY\\PROT": "screenshot",
}


@pytest.mark.parametrize("kind", NO_SLICES)
def test_left_out_by_name_where_slices_are_there(kind, tmp_path):
    """Also as many of them as slices, at the positions of slices, first by instance number."""
    write(tmp_path, "a", kind, seed=1, InstanceNumber=1)
    slices = write(tmp_path, "b", SLICE, InstanceNumber=2)
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, slices)
    assert {reason for _, reason in series.dropped} == {NO_SLICES[kind]}
    assert series.warnings[0].startswith("8 images are left out: ")


@pytest.mark.parametrize(
    "kind", ["ORIGINAL\\PRIMARY\\M_FFE\\M\\FFE", "ORIGINAL\\PRIMARY\\OTHER", None]
)
def test_names_of_slices(kind, tmp_path):
    slices = write(tmp_path, "b", kind)
    write(tmp_path, "a", LOCALIZER, range(1), ImageOrientationPatient=CORONAL, Rows=6)
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, slices) and series.dropped == [("a000", "localizer")]


@pytest.mark.parametrize(
    "kind",
    [
        "DERIVED\\SECONDARY\\REFORMATTED\\AVERAGE",
        "DERIVED\\SECONDARY\\AXIAL\\CT_SOM5 MPR",
        "DERIVED\\SECONDARY\\MPR\\CSA MPR\\\\CSAPARALLEL\\M\\ND",
        "DERIVED\\SECONDARY\\AXIAL",
        "DERIVED\\PRIMARY\\DIFFUSION\\ADC\\ND",
    ],
)
def test_a_series_that_is_wholly_derived_is_read(kind, tmp_path):
    slices = write(tmp_path, "a", kind)
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, slices) and not series.dropped
    assert bool(series.warnings) == ("ADC" in kind)


def test_originals_count_before_more_slices_that_were_derived_from_them(tmp_path):
    slices = write(tmp_path, "a", SLICE)
    reformat = "DERIVED\\SECONDARY\\REFORMATTED"
    write(tmp_path, "b", reformat, range(30), seed=1, ImageOrientationPatient=CORONAL)
    write(tmp_path, "c", reformat, seed=2)
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, slices)
    reasons = {name[0]: why for name, why in series.dropped}
    assert reasons == {"b": "other_orientation", "c": "derived"}


def test_one_reference_image_is_not_the_volume(tmp_path):
    write(tmp_path, "a", SLICE, range(1), seed=1)
    maps = write(tmp_path, "b", "DERIVED\\PRIMARY\\PERFUSION\\CBF", range(20))
    assert np.array_equal(read_series(tmp_path).pixels, maps)


@pytest.mark.parametrize("each", [1, 5])
def test_surviews_are_no_volume(each, tmp_path):
    for seed, directions in enumerate((AXIAL, CORONAL, SAGITTAL)):
        write(
            tmp_path,
            "abc"[seed],
            LOCALIZER,
            range(each),
            seed=seed,
            ImageOrientationPatient=directions,
        )
    assert reason(tmp_path) == "localizer"


def test_one_surview_is_no_volume(tmp_path):
    write(tmp_path, "a", LOCALIZER, range(1))
    assert reason(tmp_path) == "localizer"


def test_projections_that_turn_are_no_volume(tmp_path):
    for k in range(20):
        angle = k / 10
        turned = [np.cos(angle), np.sin(angle), 0, 0, 0, -1]
        kind = "DERIVED\\SECONDARY\\MIP"
        write(tmp_path, f"{k}-", kind, range(1), seed=k, ImageOrientationPatient=turned)
    assert reason(tmp_path) == "projection"


def test_a_whole_stack_of_a_doubtful_kind_is_read_with_a_warning(tmp_path):
    slices = write(tmp_path, "a", LOCALIZER, range(12))
    series = read_series(tmp_path)
    assert (
        np.array_equal(series.pixels, slices) and "all slices are localizers" in series.warnings[0]
    )


def test_mosaics_are_refused_by_name(tmp_path):
    kind = "ORIGINAL\\PRIMARY\\M\\ND\\MOSAIC"
    write(tmp_path, "a", kind, [0, 0, 0], AcquisitionNumber=1)
    assert reason(tmp_path) == "mosaic"


def test_mosaics_that_only_a_private_tag_names(tmp_path):
    write(tmp_path, "a", "ORIGINAL\\PRIMARY\\M\\ND\\NORM", [0, 0, 0], AcquisitionNumber=1)
    for path in tmp_path.iterdir():
        data = pydicom.dcmread(path)
        data.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
        data.add_new(0x0019100A, "US", 36)
        save(data, path)
    assert reason(tmp_path) == "mosaic"


def test_a_dose_report_between_slices(tmp_path):
    slices = write(tmp_path, "b", SLICE)
    write(tmp_path, "a", "DERIVED\\SECONDARY\\SCREEN SAVE", [3.5], seed=1)
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, slices)
    assert series.warnings == ["1 image is left out: pictures of a screen (such as dose reports)"]


def test_a_folder_with_everything_is_read_as_a_person_would(tmp_path):
    """Time points, a projection, maps, localizers, a second orientation and a thumbnail."""
    points = []
    for point in range(3):
        images = write(
            tmp_path / "dynamic",
            f"t{point}-",
            "ORIGINAL\\PRIMARY\\M\\ND",
            range(12),
            seed=point,
            AcquisitionTime=f"120{point}00",
        )
        points.append(images)
    write(tmp_path, "mip", "DERIVED\\SECONDARY\\PROJECTION IMAGE", [3], seed=4)
    write(tmp_path, "ttp", "DERIVED\\PRIMARY\\PERFUSION\\TTP", range(12), seed=5)
    write(tmp_path, "loc", LOCALIZER, range(3), seed=6, ImageOrientationPatient=SAGITTAL)
    write(tmp_path, "cor", SLICE, range(5), seed=7, ImageOrientationPatient=CORONAL)
    (tmp_path / "notes.txt").write_text("a note")
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, points[0])
    reasons = {name[:3].rstrip("0"): why for name, why in series.dropped if name[0] != "t"}
    assert reasons == {
        "mip": "projection",
        "loc": "localizer",
        "cor": "other_orientation",
        "not": "not_dicom",
    }
    words = " ".join(series.warnings)
    for phrase in ("projections (MIP)", "maps computed", "localizers", "3 time points by acquis"):
        assert phrase in words
    assert len(open_series(tmp_path).dropped) == 24 + 1 + 12 + 3 + 5 + 1

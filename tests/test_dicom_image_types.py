"""Kinds of images by their ImageType, without files."""

import pytest

from src.dicom.errors import DicomError
from src.dicom.kinds import component_of, is_derived, kind_of, true_slices
from tests.slices_in_memory import a_slice


def images(count: int, image_type: str) -> list:
    return [a_slice(k, instance=k, tags={"ImageType": image_type}) for k in range(count)]


@pytest.mark.parametrize(
    ("tags", "component"),
    [
        ({"ImageType": "ORIGINAL\\PRIMARY\\M_FFE\\M\\FFE"}, "magnitude"),
        ({"ImageType": "ORIGINAL\\PRIMARY\\PHASE MAP\\P"}, "phase"),
        ({"ImageType": "ORIGINAL\\PRIMARY\\ r "}, "real"),
        ({"ImageType": "ORIGINAL\\PRIMARY"}, ""),
        ({"ImageType": "ORIGINAL\\M1\\2P"}, "magnitude"),
        ({"FrameType": "ORIGINAL\\I", "ImageType": "ORIGINAL\\M"}, "imaginary"),
        ({"ComplexImageComponent": "phase", "ImageType": "ORIGINAL\\M"}, "phase"),
        ({"ComplexImageComponent": "MIXED", "ImageType": "ORIGINAL\\M"}, "magnitude"),
    ],
)
def test_components(tags, component):
    assert component_of(a_slice(tags=tags)) == component


def test_the_values_of_a_frame_come_first():
    tags = {"FrameType": "DERIVED\\MIP", "ImageType": "ORIGINAL\\PRIMARY"}
    assert is_derived(a_slice(tags=tags)) and kind_of(a_slice(tags=tags)) == "projection"
    assert not is_derived(a_slice(tags={"ImageType": "ORIGINAL\\DERIVED"}))


@pytest.mark.parametrize(
    ("words", "kind"), [("ADC\\MIP", "projection"), ("MIP\\SCOUT", "localizer"), ("M\\ND", "")]
)
def test_the_worst_of_several_kinds_decides(words, kind):
    assert kind_of(images(1, f"DERIVED\\{words}")[0]) == kind


def test_slices_alone_are_kept_as_they_are():
    slices = images(3, "ORIGINAL\\PRIMARY")
    assert true_slices(slices) == (slices, [], [])


@pytest.mark.parametrize(("slices", "maps", "kept"), [(2, 20, 2), (2, 21, 21), (1, 10, 1)])
def test_fewer_slices_than_a_tenth_of_the_maps_are_no_volume(slices, maps, kept):
    """They are left out as another reconstruction, and the maps as maps."""
    found, left_out, notes = true_slices(
        images(slices, "ORIGINAL\\M") + images(maps, "DERIVED\\CBF")
    )
    assert len(found) == kept and len(left_out) == slices + maps - kept
    name = "maps computed from others (such as ADC, perfusion, subtraction)"
    if kept == maps:
        assert {reason for _, reason in left_out} == {"other_reconstruction"}
        rest = "2 images are left out: slices that belong to no map"
        assert notes == [f"all slices are {name}", rest]
    else:
        assert {reason for _, reason in left_out} == {"derived"}
        assert notes == [f"{maps} images are left out: {name}"]


def test_the_best_kind_where_no_image_is_a_slice():
    found, left_out, notes = true_slices(images(2, "DERIVED\\MIP") + images(9, "ORIGINAL\\SCOUT"))
    assert len(found) == 2 and {reason for _, reason in left_out} == {"localizer"}
    assert notes == [
        "all slices are projections (MIP)",
        "9 images are left out: localizers (scouts, surviews)",
    ]


def test_mosaics_alone_are_refused_and_beside_slices_left_out():
    with pytest.raises(DicomError, match="all images are Siemens mosaics") as caught:
        true_slices(images(3, "ORIGINAL\\MOSAIC"))
    assert caught.value.reason == "mosaic"
    found, left_out, _ = true_slices(images(3, "ORIGINAL\\MOSAIC") + images(1, "ORIGINAL"))
    assert len(found) == 1 and {reason for _, reason in left_out} == {"mosaic"}

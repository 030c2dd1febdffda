"""What headers say about acquisitions, trait by trait."""

import math
from datetime import datetime, timedelta

import pytest

from src.dicom.traits import (
    TRAITS,
    Trait,
    b_value,
    component,
    dimensions,
    direction,
    label,
    number,
    origin,
    stack,
    text,
    time,
)
from tests.slices_in_memory import a_slice


def of(value, **tags):
    """Return what a function says about a slice with these tags."""
    return value(a_slice(tags=tags))


def test_the_first_number_that_is_there():
    echo = number("EffectiveEchoTime", "EchoTime")
    assert of(echo, EchoTime="5.5", EffectiveEchoTime="7") == 7.0
    assert of(echo, EchoTime="5.5") == 5.5 and of(echo) is None
    assert of(echo, EchoTime="five") is None and of(echo, EchoTime="0") == 0.0
    assert of(echo, EchoTime="5", EffectiveEchoTime="") == 5.0


def test_words_are_in_capitals():
    kernel = text("ConvolutionKernel")
    assert of(kernel, ConvolutionKernel="h30s") == "H30S"
    assert of(kernel, ConvolutionKernel="") is None and of(kernel) is None


@pytest.mark.parametrize(
    ("clock", "seconds"),
    [
        ("000000", 0.0),
        ("123456.25", 45296.25),
        ("12:34:56.25", 45296.25),
        ("12", 43200.0),
        ("1234", 45240.0),
        ("123456+0100", 45296.0),
        ("123456.5-0500", 45296.5),
        ("1234567", None),
        ("1", None),
        ("noon", None),
        ("", None),
    ],
)
def test_times_are_seconds(clock, seconds):
    assert of(time("AcquisitionTime"), AcquisitionTime=clock) == seconds


def test_dates_count_days():
    """Differences as those of the calendar."""
    clock = time("AcquisitionDateTime", "AcquisitionTime")
    before, after = datetime(2020, 1, 1, 23, 59, 58, 500000), datetime(2020, 1, 2, 1, 2, 3)
    seconds = [of(clock, AcquisitionDateTime=f"{t:%Y%m%d%H%M%S.%f}") for t in (before, after)]
    assert timedelta(seconds=seconds[1] - seconds[0]) == after - before
    assert of(clock, AcquisitionTime="000001", AcquisitionDateTime="") == 1.0


@pytest.mark.parametrize(
    ("tags", "value"),
    [
        ({"DiffusionBValue": "1000", "SiemensB": "5"}, 1000.0),
        ({"SiemensB": "0", "PhilipsB": "9"}, 0.0),
        ({"PhilipsB": "800"}, 800.0),
        ({"GEB": "1000000800\\8\\0\\0"}, 800.0),
        ({"GEB": "800\\8"}, 800.0),
        ({"GEB": "999999999"}, 999999999.0),
        ({"GEB": "x\\8"}, None),
        ({"GEB": ""}, None),
        ({}, None),
    ],
)
def test_b_values_of_three_makers(tags, value):
    assert of(b_value, **tags) == value


def test_directions_differ_in_any_component_of_any_maker():
    empty = of(direction)
    names = ["DiffusionGradientOrientation", "SiemensDirection"]
    names += [f"GEDirection{axis}" for axis in "XYZ"] + [f"PhilipsDirection{a}" for a in "XYZ"]
    found = {of(direction, **{name: "0.5"}) for name in names}
    assert empty is None and len(found) == len(names) and None not in found


def test_kinds_of_signal():
    assert of(origin, ImageType="DERIVED\\SECONDARY") == "derived"
    assert of(origin, ImageType="ORIGINAL\\PRIMARY") == of(origin) == "original"
    assert of(component, ImageType="ORIGINAL\\PRIMARY\\P") == "phase"
    assert of(component, ImageType="ORIGINAL\\PRIMARY") is None


def test_dimensions_and_stacks():
    assert of(dimensions, DimensionIndexValues="1\\12") == (1, 12)
    assert of(dimensions, DimensionIndexValues="") is None and of(dimensions) is None
    assert of(stack, StackID="02") == 2.0 and of(stack, StackID="b") == "B" and of(stack) is None


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (5.5, "ms", "5.5 ms is"),
        (0.0, "s/mm2", "0 s/mm2 is"),
        (5.5, "", ""),
        (math.inf, "ms", ""),
        (math.nan, "ms", ""),
        (5, "ms", ""),
        (None, "ms", ""),
        ("DOE^JANE", "ms", ""),
        ((1, 2), "ms", ""),
        ("magnitude", "", "the magnitude is"),
        ("original", "", "the original is"),
        ("derived", "", "the derived is"),
        ("phase", "ms", "the phase is"),
    ],
)
def test_labels_show_numbers_and_known_words_and_nothing_else(value, unit, words):
    assert label(Trait("things", origin, "other_pass", unit), value) == words


def test_what_each_trait_may_do():
    """The list of the design: which run with time, which tear any volume, where the first wins."""
    named = {trait.what for trait in TRAITS if trait.in_time}
    assert named == {
        "time points by temporal position",
        "cardiac phases",
        "acquisitions by acquisition number",
        "time points by acquisition time",
        "cardiac phases by trigger time",
        "time points by content time",
        "passes by instance number",
    }
    assert [trait.what for trait in TRAITS if trait.strict] == ["image types", "b-values"]
    assert [trait.what for trait in TRAITS if trait.first_wins] == ["image types", "image types"]
    assert [trait.what for trait in TRAITS if trait.weak] == ["passes by instance number"]


def test_the_last_trait_is_the_folder(tmp_path):
    assert TRAITS[-1].value(a_slice(path=tmp_path / "a" / "file")) == str(tmp_path / "a")
    thick = a_slice(tags={"SliceThickness": "2.5"})
    assert {trait.value(thick) for trait in TRAITS if "thickness" in trait.what} == {2.5}
    of_instance = TRAITS[-2].value
    assert of_instance(a_slice(instance=7)) < of_instance(a_slice(instance=8))
    assert of_instance(a_slice(instance=None)) is None

"""What tells acquisitions and reconstructions apart, in the order in which it is asked."""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from src.dicom.fields import vector
from src.dicom.header import MAX_FRAMES, Slice
from src.dicom.kinds import COMPONENTS, component_of, is_derived

FIRST_WORDS = ("original", "magnitude")  # of a trait's values, these come first
KNOWN_WORDS = ("original", "derived", *COMPONENTS.values())  # they may be shown
Value = float | str | tuple | None


class Trait(NamedTuple):
    """Something in which slices of two acquisitions differ."""

    what: str  # for people, in the plural
    value: Callable[[Slice], Value]  # None if the slice does not say
    reason: str  # code of those that are left out
    unit: str = ""  # of a value that may be shown
    in_time: bool = False  # its values run with time and can differ from slice to slice
    of_day: bool = False  # its values are seconds of a day, mostly without the date
    strict: bool = False  # slices that differ are never of one volume
    first_wins: bool = False  # the first group is taken unless it is much smaller
    weak: bool = False  # tells acquisitions apart only if most positions are repeated


def number(*names: str) -> Callable[[Slice], float | None]:
    """Return a function: slice -> the first of the tags that it has, as a number."""

    def value(slice_: Slice) -> float | None:
        for name in names:
            found = vector(slice_.tags, name, 1)
            if found:
                return found[0]
        return None

    return value


def text(name: str) -> Callable[[Slice], str | None]:
    """Return a function: slice -> the tag as a word in capitals."""

    def value(slice_: Slice) -> str | None:
        return slice_.tags.get(name, "").upper() or None

    return value


def time(*names: str) -> Callable[[Slice], float | None]:
    """Return a function: slice -> the first of the tags that it has, in seconds."""

    def value(slice_: Slice) -> float | None:
        for name in names:
            # Old files have colons; what follows a sign is the time zone.
            clock = slice_.tags.get(name, "").replace(":", "")
            found = re.match(r"(\d{8})?(\d\d)(\d\d)?(\d\d(?:\.\d*)?)?(?:[+-]|$)", clock)
            if found:
                day, hour, minute, second = (float(part or 0) for part in found.groups())
                return ((day * 24 + hour) * 60 + minute) * 60 + second
        return None

    return value


def b_value(slice_: Slice) -> float | None:
    """Return the diffusion weighting in s/mm2, also from private tags of three makers."""
    siemens_or_philips = number("DiffusionBValue", "SiemensB", "PhilipsB")(slice_)
    if siemens_or_philips is not None:
        return siemens_or_philips
    first = slice_.tags.get("GEB", "").split("\\")[0]
    return float(int(first) % 10**9) if first.isdecimal() else None


def direction(slice_: Slice) -> str | None:
    """Return the diffusion gradient's direction as text."""
    names = ("DiffusionGradientOrientation", "SiemensDirection", "GEDirection", "PhilipsDirection")
    found = [slice_.tags.get(name + axis, "") for name in names for axis in ("", "X", "Y", "Z")]
    return "\\".join(found) if any(found) else None


def origin(slice_: Slice) -> str:
    """Return original or derived."""
    return "derived" if is_derived(slice_) else "original"


def component(slice_: Slice) -> str | None:
    """Return magnitude, phase, real or imaginary."""
    return component_of(slice_) or None


def dimensions(slice_: Slice) -> tuple[int, ...] | None:
    """Return a frame's indices in all dimensions but that of position."""
    values = slice_.tags.get("DimensionIndexValues", "").split("\\")
    return tuple(map(int, values)) if values[0] else None


def corner(slice_: Slice) -> tuple[int, ...] | None:
    """Return where the first pixel is within the plane of the slice, in whole mm."""
    if slice_.position is None or slice_.orientation is None:
        return None
    along = np.reshape(slice_.orientation, (2, 3)) @ slice_.position
    return tuple(np.rint(along).astype(int).tolist())


def stack(slice_: Slice) -> float | str | None:
    """Return the name of a stack of frames, mostly a number."""
    found = number("StackID")(slice_)
    return text("StackID")(slice_) if found is None else found


def instance(slice_: Slice) -> int | None:
    """Return a number that grows by instance and then by stored frame; files may have neither."""
    if slice_.instance is None and slice_.frame < 0:
        return None
    return (slice_.instance or 0) * MAX_FRAMES + slice_.frame


def label(trait: Trait, value: Value) -> str:
    """Return a value for people if it is a number with a unit or a known word, else ""."""
    if value in KNOWN_WORDS:
        return f"the {value} is"
    is_number = isinstance(value, float) and math.isfinite(value)
    return f"{value:g} {trait.unit} is" if is_number and trait.unit else ""


PASS, ACQUISITION, RECONSTRUCTION = "other_pass", "other_acquisition", "other_reconstruction"
TRAITS = (
    Trait("image types", component, PASS, strict=True, first_wins=True),
    Trait("image types", origin, "derived", first_wins=True),
    Trait("b-values", number("DiffusionBValue"), PASS, "s/mm2", strict=True),
    Trait("b-values", b_value, PASS, "s/mm2"),
    Trait("diffusion directions", direction, PASS),
    Trait("echo times", number("EffectiveEchoTime", "EchoTime"), PASS, "ms"),
    Trait("echoes", number("EchoNumbers"), PASS),
    Trait("repetition times", number("RepetitionTime"), PASS, "ms"),
    Trait("inversion times", number("InversionTime", "InversionTimes"), PASS, "ms"),
    Trait("tube voltages", number("KVP"), PASS, "kV"),
    Trait("flip angles", number("FlipAngle"), PASS, "degrees"),
    Trait("reconstruction kernels", text("ConvolutionKernel"), RECONSTRUCTION),
    Trait("slice thicknesses", lambda slice_: slice_.thickness, RECONSTRUCTION, "mm"),
    Trait("sequences", text("SequenceName"), PASS),
    Trait("image types", text("ImageType"), RECONSTRUCTION),
    Trait("frame types", text("FrameType"), RECONSTRUCTION),
    Trait("directions of flow", text("VelocityEncodingDirection"), PASS),
    Trait("contrast media", text("ContrastBolusAgent"), PASS),
    Trait("stacks", stack, PASS),
    Trait(
        "time points by temporal position",
        number("TemporalPositionIndex", "TemporalPositionTimeOffset", "TemporalPositionIdentifier"),
        PASS,
        in_time=True,
    ),
    Trait(
        "cardiac phases",
        number("NominalPercentageOfCardiacPhase", "NominalCardiacTriggerDelayTime"),
        PASS,
        in_time=True,
    ),
    Trait("groups of frames by dimension index", dimensions, PASS),
    Trait(
        "acquisitions by acquisition number",
        number("FrameAcquisitionNumber", "AcquisitionNumber"),
        PASS,
        in_time=True,
    ),
    Trait(
        "time points by acquisition time",
        time("FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionTime"),
        PASS,
        in_time=True,
        of_day=True,
    ),
    Trait("cardiac phases by trigger time", number("TriggerTime"), PASS, in_time=True),
    Trait(
        "time points by content time",
        time("FrameReferenceDateTime", "ContentTime"),
        PASS,
        in_time=True,
        of_day=True,
    ),
    Trait("series descriptions", text("SeriesDescription"), RECONSTRUCTION),
    Trait("fields of view", corner, RECONSTRUCTION),
    Trait(
        "passes by instance number",
        instance,
        PASS,
        in_time=True,
        weak=True,
    ),
    Trait("folders", lambda slice_: str(slice_.file.path.parent), PASS),
)

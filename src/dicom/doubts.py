"""Whether headers are right about what stored values mean: a few slices decide.

Tags are believed unless air and soft tissue prove otherwise. Every doubt is put into words.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from src.dicom.decoders import listed_frames
from src.dicom.errors import DicomError
from src.dicom.fields import NATIVE
from src.dicom.header import FileHeader, Slice
from src.dicom.pixels import background, is_padding, iter_words, values

SAMPLED_SLICES, SAMPLED_SIDE = 8, 128  # how many slices, and pixels a side, are looked at
# HU. Soft tissue is a peak: there are fewer pixels below and above it.
AIR, TISSUE, BELOW, ABOVE = (-1100, -900), (-20, 100), (-160, -40), (120, 240)
BONE, DENSE_BONE = 250, 1274  # HU and more
EDGE = (0.85, 0.97)  # distance from the middle, 1 at the border
OFFSET = 1024  # what scanners add to HU to store them without a sign

Sample = list[tuple[Slice, np.ndarray]]  # a slice, and stored values (h, w) of it


class Reading(NamedTuple):
    """A way to understand stored values that a header does not know."""

    note: str  # the warning if it is right
    of: Callable[[Slice], Slice]  # a slice -> the same slice, understood so
    lowest_is_air: bool  # else the lowest value is padding


class Evidence(NamedTuple):
    """What a head in HU would show."""

    fraction: float  # of air or of soft tissue among the pixels, whichever is less
    layered: bool  # soft tissue is a peak, and air is around it
    bone: bool  # there is some, and most of it is not dense
    open_edge: bool  # near the edge of the images there is more air than soft tissue

    @property
    def agrees(self) -> bool:
        return self.fraction > 0.001 and self.layered

    @property
    def suggests(self) -> bool:
        return self.fraction > 0.02

    @property
    def proves(self) -> bool:
        return self.suggests and self.layered and self.bone and self.open_edge


def settle_doubts(slices: list[Slice]) -> tuple[list[Slice], list[str]]:
    """Return the slices of one volume, mended where a header is proved wrong, and warnings."""
    notes = _other_doubts(slices)
    for settle in (_settle_high_bit, _settle_padding, _settle_rescaling):
        slices, more = settle(slices)
        notes += more
    return slices, notes


def _settle_high_bit(slices: list[Slice]) -> tuple[list[Slice], list[str]]:
    """If HighBit is too high, read the low bits like GDCM and dcm2niix, unless they are empty."""
    too_high = [slice_ for slice_ in slices if slice_.file.high_bit >= slice_.file.stored]
    if not too_high:
        return slices, []
    file = too_high[0].file
    below = file.high_bit + 1 - file.stored
    pixels = np.concatenate([stored.ravel() for _, stored in _sample(too_high)] or [[]])
    pixels = pixels[pixels > 0].astype(np.uint32)
    empty = np.count_nonzero(pixels % (1 << below) == 0) / max(len(pixels), 1)
    claim = f"HighBit is {file.high_bit}, but BitsStored is {file.stored}"
    if empty >= max(0.5, 2.0**-below + 0.25):  # by chance it is 2**-below
        return slices, [f"{claim}: the high bits are read, the low ones are empty"]

    def in_low_bits(slice_: Slice) -> Slice:
        high_bit = min(slice_.file.high_bit, slice_.file.stored - 1)
        return replace(slice_, file=replace(slice_.file, high_bit=high_bit))

    return list(map(in_low_bits, slices)), [f"{claim}: the low bits are read"]


def _settle_padding(slices: list[Slice]) -> tuple[list[Slice], list[str]]:
    """Ignore a padding value that is brighter than background and scattered over the images."""
    bright = [slice_ for slice_ in slices if _has_bright_padding(slice_)]
    if not bright:
        return slices, []
    count = beside_another = 0
    for slice_, stored in _sample(bright):
        padding = is_padding(stored, slice_.file)
        count += np.count_nonzero(padding[:, :-1])
        beside_another += np.count_nonzero(padding[:, :-1] & padding[:, 1:])
    if beside_another >= count / 2:
        return slices, []

    def unpadded(slice_: Slice) -> Slice:
        return replace(slice_, file=replace(slice_.file, padding=None))

    note = "the padding value is scattered over the images like any other: it was ignored"
    return list(map(unpadded, slices)), [note]


def _has_bright_padding(slice_: Slice) -> bool:
    if slice_.file.padding is None:
        return False
    return max(slice_.slope * end + slice_.intercept for end in slice_.file.padding) > background(
        slice_
    )


def _settle_rescaling(slices: list[Slice]) -> tuple[list[Slice], list[str]]:
    """Change the rescaling of CT, or the sign, if its head is in HU only then."""
    readings = _readings(slices)
    sample = _sample(slices) if readings else []
    if not sample:
        return slices, []
    doubtful = False
    if not _evidence(sample).agrees:
        for reading in readings:
            evidence = _evidence(sample, reading)
            if evidence.proves:
                return list(map(reading.of, slices)), [reading.note]
            doubtful |= evidence.suggests
    if not any(slice_.rescaled for slice_ in slices):
        return slices, ["CT without rescale tags: its stored values are taken for HU"]
    note = "air and soft tissue do not fit the rescale tags of this CT: they were believed"
    return slices, [note] if doubtful else []


def _readings(slices: list[Slice]) -> list[Reading]:
    """Return how else the stored values of a series may be meant, likeliest first."""
    files = [slice_.file for slice_ in slices]
    if any(file.modality != "CT" or file.is_float or file.modality_lut for file in files):
        return []
    signed = all(file.signed for file in files)
    if signed and all(-1100 <= slice_.intercept <= -900 for slice_ in slices):
        note = "CT stored in HU: its rescale intercept was ignored"
        return [Reading(note, lambda slice_: replace(slice_, intercept=0.0), False)]
    if any(slice_.intercept != 0 or slice_.slope != 1 for slice_ in slices):
        return []
    note = f"CT stored as HU + {OFFSET} without a rescale intercept: {OFFSET} was subtracted"
    readings = [Reading(note, lambda slice_: replace(slice_, intercept=-float(OFFSET)), True)]
    if not any(file.signed for file in files):
        readings += [_as_signed(bits) for bits in sorted({files[0].stored, 12}, reverse=True)]
    return readings


def _as_signed(bits: int) -> Reading:
    """Return the reading as two's complement of so many bits."""

    def understood(slice_: Slice) -> Slice:
        file = slice_.file
        used = min(bits, file.stored)
        padding = file.padding and tuple(sorted(_signed(end) for end in file.padding))
        file = replace(file, signed=True, stored=used, high_bit=used - 1, padding=padding)
        return replace(slice_, file=file)

    note = f"CT in two's complement of {bits} bits, marked as unsigned: it was read as signed"
    return Reading(note, understood, True)


def _signed(number: float) -> float:
    return number - (1 << 16) if number >= 1 << 15 else number


def _evidence(sample: Sample, reading: Reading | None = None) -> Evidence:
    """Return what there is of a head in the sampled slices, understood as their tags say or so."""
    understood = [(reading.of(slice_) if reading else slice_, stored) for slice_, stored in sample]
    hu = np.stack([values(stored, slice_) for slice_, stored in understood])
    patient = ~np.stack([is_padding(stored, slice_.file) for slice_, stored in understood])
    not_lowest = patient & (hu > hu.min())
    air = _between(hu, AIR) & (not_lowest if reading and not reading.lowest_is_air else patient)
    tissue = _between(hu, TISSUE) & patient
    bone = np.count_nonzero(patient & (hu > BONE))
    beside = max(np.count_nonzero(_between(hu, ends) & patient) for ends in (BELOW, ABOVE))
    found = min(np.count_nonzero(air), np.count_nonzero(tissue))
    return Evidence(
        fraction=found / max(np.count_nonzero(not_lowest), 1),
        layered=np.count_nonzero(tissue) > 2 * beside and _around(air, tissue),
        bone=bone > 0.01 * found and np.count_nonzero(hu > DENSE_BONE) < bone / 2,
        open_edge=_near_edge(air) > _near_edge(tissue),
    )


def _around(outer: np.ndarray, inner: np.ndarray) -> bool:
    """Return whether `outer` (n, h, w) is farther from the middle of `inner` than `inner` is."""
    if not outer.any() or not inner.any():
        return False
    y, x = np.indices(inner.shape[1:])
    outer, inner = outer.sum(axis=0), inner.sum(axis=0)  # (h, w)
    middle_y, middle_x = np.average(y, weights=inner), np.average(x, weights=inner)
    distance = (y - middle_y) ** 2 + (x - middle_x) ** 2
    return np.average(distance, weights=outer) > np.average(distance, weights=inner)


def _near_edge(found: np.ndarray) -> int:
    """Return how many pixels (n, h, w) there are just inside the largest ellipse of the images."""
    down, across = (np.linspace(-1, 1, side) for side in found.shape[1:])
    radius = np.hypot(down[:, None], across[None])
    return np.count_nonzero(found[:, (radius > EDGE[0]) & (radius < EDGE[1])])


def _between(hu: np.ndarray, ends: tuple[int, int]) -> np.ndarray:
    return (hu >= ends[0]) & (hu <= ends[1])


def _sample(slices: list[Slice]) -> Sample:
    """Return some pixels of some slices. What cannot be decoded is named when all is read."""
    sample = []
    for index in np.linspace(0, len(slices) - 1, min(len(slices), SAMPLED_SLICES)).astype(int):
        file = slices[index].file
        step = max(1, max(file.rows, file.columns) // SAMPLED_SIDE)
        try:
            stored = next(iter_words([slices[index]]))
        except DicomError:
            continue
        sample.append((slices[index], stored[::step, ::step]))
    return sample


def _other_doubts(slices: list[Slice]) -> list[str]:
    files = [slice_.file for slice_ in slices]
    is_ct = files[0].modality == "CT"
    monochrome1 = any(file.monochrome1 for file in files)
    units = {file.modality_lut.unit for file in files if file.modality_lut}
    rescaled = {slice_.rescaled for slice_ in slices}
    by_path = {file.path: file for file in files}
    more = any(map(_has_more, by_path.values()))
    doubts = {
        "MONOCHROME1 was inverted": monochrome1 and not is_ct,
        "MONOCHROME1 concerns the display: HU were not inverted": monochrome1 and is_ct,
        "a rescale slope of 0": any(slice_.slope == 0 for slice_ in slices),
        "some slices have rescale tags, others have none": is_ct and len(rescaled) > 1,
        "the Modality LUT of this CT does not say that it gives HU": is_ct and bool(units - {"HU"}),
        "more frames in the pixel data than NumberOfFrames says: the first are read": more,
    }
    return [doubt for doubt, holds in doubts.items() if holds]


def _has_more(file: FileHeader) -> bool:
    if file.syntax in NATIVE:
        return file.length // file.frame_bytes > file.frames
    return listed_frames(file) > file.frames

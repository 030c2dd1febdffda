"""An opened series -> the prepared images of its slices: what every network of this project reads.

Pixels go straight from stored values to prepared intensities by lookup tables.
`tests/reference.py` holds the slow plain version that gives the same images.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from src.dicom import Series, read_words
from src.dicom.header import Slice
from src.dicom.pixels import MAX_TABLE_BITS, every_stored_value, is_padding, values
from src.orientation import canonical
from src.preprocess.head import find_head, sample_slices
from src.preprocess.intensity import (
    apply_window,
    codes_of,
    float16_of,
    prepared_image,
    resize,
    window_of,
)
from src.preprocess.metadata import metadata_of


@dataclass
class PreparedSeries:
    """A series and the prepared images of those of its slices that were asked for."""

    series: Series
    numbers: np.ndarray  # (k,) ascending slice numbers
    images: Iterable[np.ndarray]  # k images (S, S) float16 in 0..5; made one by one, and once

    def in_memory(self) -> "PreparedSeries":
        """Return the same with `images` as one array (k, S, S)."""
        images = iter(self.images)
        first = next(images)
        stack = np.empty((len(self.numbers), *first.shape), first.dtype)
        stack[0] = first
        for place, image in enumerate(images, 1):
            stack[place] = image
        return replace(self, images=stack)

    @cached_property
    def head(self) -> tuple[float, float] | None:
        """Return the head's centre as `find_head` does.

        The images must be in memory, those that `sample_slices` names among them.
        """
        numbers = sample_slices(len(self.series.slices))
        images = self.images[np.searchsorted(self.numbers, numbers)]
        return find_head(images, numbers, metadata_of(self.series))


def prepare(
    series: Series,
    size: int,
    mr_window: str,
    choose: Callable[[int], np.ndarray] = np.arange,
) -> PreparedSeries:
    """Read the slices of an opened series and prepare them: resized, 0..5, left is left.

    size: side of the images in pixels.
    mr_window: "percentile" of the whole series, or "fixed" (the published one).
    choose: number of slices -> the ascending slice numbers that are wanted; all by default.

    Raise DicomError if none of them can be decoded.
    """
    stored, numbers = _read(series, mr_window, choose)
    return PreparedSeries(series, numbers, _images(series, stored, numbers, size, mr_window))


def _read(
    series: Series, mr_window: str, choose: Callable[[int], np.ndarray]
) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Return the stored values (h, w) by slice number, and the numbers that `choose` wants.

    Only the chosen slices are read, unless the window needs the whole series.
    A slice that cannot be decoded leaves the series, so the choice is made again.
    """
    while True:
        length = len(series.slices)
        needs_all = series.modality != "CT" and mr_window == "percentile"
        wanted = np.arange(length) if needs_all else choose(length)
        found = read_words(series, wanted)
        if len(wanted) == length:  # all were read: those that remain need not be read again
            wanted = np.arange(len(series.slices))
        elif length != len(series.slices):
            continue
        return dict(zip(wanted.tolist(), found, strict=True)), choose(len(series.slices))


def _images(
    series: Series, stored: dict[int, np.ndarray], numbers: np.ndarray, size: int, mr_window: str
) -> Iterator[np.ndarray]:
    """Yield the images (size, size) float16 of the slices `numbers`."""
    window = window_of(series.modality, mr_window, lambda: _histogram(series, stored))
    resized = series.shape[1:] != (size, size)
    tables = {}
    for number in numbers.tolist():
        slice_, pixels = series.slices[number], stored[number]
        if slice_.file.allocated > MAX_TABLE_BITS:
            image = prepared_image(_scaled(pixels, slice_, window), size)
        else:
            key = _table_key(slice_)
            if key not in tables:
                tables[key] = _table(slice_, window, resized)
            image = cv2.LUT(pixels, tables[key])
            image = float16_of(resize(image, size)) if resized else image.view(np.float16)
        yield np.ascontiguousarray(canonical(image, series.orientation))


def _table(slice_: Slice, window: tuple[float, float], resized: bool) -> np.ndarray:
    """Return what each stored value becomes: a code to resize, or the bits of float16."""
    scaled = _scaled(every_stored_value(slice_.file), slice_, window)
    return codes_of(scaled) if resized else scaled.astype(np.float16).view(np.int16)


def _scaled(stored: np.ndarray, slice_: Slice, window: tuple[float, float]) -> np.ndarray:
    """Return stored values, any shape, as float32 in 0..5. Padding is background."""
    scaled = apply_window(values(stored, slice_), window)
    if slice_.file.padding is not None:
        scaled[is_padding(stored, slice_.file)] = 0
    return scaled


def _table_key(slice_: Slice) -> tuple:
    """Return what a lookup table depends on: slices with the same key share one."""
    file = slice_.file
    bits = (file.allocated, file.stored, file.high_bit)
    coding = (file.signed, file.is_float, file.inverted, file.padding, file.modality_lut)
    return (slice_.slope, slice_.intercept, bits, coding)


def _histogram(series: Series, stored: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of all pixels of a series, and how often each occurs; both (m,).

    Padding shows nothing of the patient: it is left out, unless there is nothing else.
    """
    counts = {}  # a slice, and how often each stored value occurs, by what a table depends on
    found = []  # (a slice, stored values, how often each occurs)
    for number, slice_ in enumerate(series.slices):
        bits = slice_.file.allocated
        if bits > MAX_TABLE_BITS:
            found.append((slice_, *np.unique(stored[number], return_counts=True)))
        else:
            first = (slice_, np.zeros(1 << bits, np.int64))
            _, occurs = counts.setdefault(_table_key(slice_), first)
            occurs += np.bincount(stored[number].ravel(), minlength=1 << bits)
    for slice_, occurs in counts.values():
        at = np.flatnonzero(occurs)
        found.append((slice_, every_stored_value(slice_.file)[at], occurs[at]))
    all_values = np.concatenate([values(numbers, slice_) for slice_, numbers, _ in found])
    all_counts = np.concatenate([occurs for _, _, occurs in found])
    padding = np.concatenate([is_padding(numbers, slice_.file) for slice_, numbers, _ in found])
    chosen = ~padding if not padding.all() else padding
    return all_values[chosen], all_counts[chosen]

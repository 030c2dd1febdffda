"""An opened series -> the prepared images of its slices: what every network of this project reads.

Pixels go straight from stored values to prepared intensities by lookup tables.
`tests/reference.py` holds the slow plain version that gives the same images.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from src.dicom import Series, read_words
from src.dicom.header import Slice
from src.dicom.pixels import lookup_table, values
from src.orientation import canonical
from src.preprocess.intensity import (
    apply_window,
    codes_of,
    float16_of,
    prepared_image,
    resize,
    window_of,
)


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
    tables = {_table_key(slice_): lookup_table(slice_) for slice_ in series.slices}
    window = window_of(series.modality, mr_window, lambda: _histogram(series, stored, tables))
    resized = series.shape[1:] != (size, size)
    for key, table in tables.items():
        if table is not None:
            scaled = apply_window(table, window)
            tables[key] = codes_of(scaled) if resized else scaled.astype(np.float16).view(np.int16)
    for number in numbers.tolist():
        slice_ = series.slices[number]
        table = tables[_table_key(slice_)]
        if table is None:  # stored values of more than 16 bits
            image = prepared_image(apply_window(values(stored[number], slice_), window), size)
        elif resized:
            image = float16_of(resize(cv2.LUT(stored[number], table), size))
        else:
            image = cv2.LUT(stored[number], table).view(np.float16)
        yield np.ascontiguousarray(canonical(image, series.orientation))


def _table_key(slice_: Slice) -> tuple:
    """Return what a lookup table depends on: slices with the same key share one."""
    file = slice_.file
    bits = (file.allocated, file.stored, file.high_bit)
    return (slice_.slope, slice_.intercept, bits, file.signed, file.is_float, file.inverted)


def _histogram(
    series: Series, stored: dict[int, np.ndarray], tables: dict[tuple, np.ndarray | None]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of all pixels of a series, and how often each occurs; both (m,)."""
    counts = dict.fromkeys(tables, 0)  # of each stored value, by lookup table
    found = []  # (values, counts)
    for number, slice_ in enumerate(series.slices):
        key = _table_key(slice_)
        if tables[key] is None:
            found.append(np.unique(values(stored[number], slice_), return_counts=True))
        else:
            counts[key] += np.bincount(stored[number].ravel(), minlength=len(tables[key]))
    for key, table in tables.items():
        if table is not None:
            occurs = counts[key] > 0
            found.append((table[occurs], counts[key][occurs]))
    all_values, all_counts = zip(*found, strict=True)
    return np.concatenate(all_values), np.concatenate(all_counts)

"""An opened series to the prepared images of its slices."""

from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np

from src.dicom import Series, read_words
from src.dicom.header import Slice
from src.dicom.pixels import lookup_table, values
from src.orientation import canonical
from src.preprocess.intensity import (
    CT_WINDOW,
    MR_FIXED_WINDOW,
    apply_window,
    codes_of,
    float16_of,
    percentile_window,
    prepared_image,
    resize,
    window_of,
)


def prepare(series, size: int, mr_window: str, indices: np.ndarray | None = None) -> np.ndarray:
    """A dicom.Series -> what is stored and encoded: (k, size, size) float16 in 0..TOP, in-plane canonical.

    indices: (k,) slices to prepare, all where None; the window always comes from the whole series.
    """
    window = window_of(series.pixels, series.modality, mr_window)
    indices = np.arange(len(series.pixels)) if indices is None else indices
    out = np.empty((len(indices), size, size), np.float16)
    for place, index in enumerate(indices):
        out[place] = canonical(
            prepared_image(apply_window(series.pixels[index], window), size), series.orientation
        )
    return out


def read_words_of(
    series: Series, mr_window: str, choose: Callable[[int], np.ndarray]
) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Of an opened series the raw words (h, w) by slice number, and which slices `choose(number of slices)` wants, (k,) ascending.

    Only their words are read, unless the window is of the whole series. A slice that cannot be decoded leaves the series, and the choice is
    made anew; one that is not read is not noticed. Raises DicomError where none can be.
    """
    whole = series.modality != "CT" and mr_window == "percentile"
    length = 0
    while length != len(series.slices):
        length = len(series.slices)
        chosen = choose(length)
        read = np.arange(length) if whole else chosen
        found = read_words(series, read)
    return dict(zip(read.tolist(), found, strict=True)), chosen


def stacked(images: Iterator[np.ndarray], count: int) -> np.ndarray:
    """(count, S, S) of as many images, each put to its place at once."""
    first = next(images)
    out = np.empty((count, *first.shape), first.dtype)
    out[0] = first
    for place, image in enumerate(images, 1):
        out[place] = image
    return out


def prepared_images(
    series: Series,
    words: Sequence[np.ndarray] | dict[int, np.ndarray],
    size: int,
    mr_window: str,
    chosen: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """(size, size) float16 in 0..TOP, in-plane canonical, of the slices `chosen`, all where None, one by one. words: by slice number."""
    tables = {_meaning(piece): lookup_table(piece) for piece in series.slices}
    window = _window(series, words, tables, mr_window)
    resized = series.shape[1:] != (size, size)
    for key, table in tables.items():
        if table is not None:
            scaled = apply_window(table, window)
            tables[key] = codes_of(scaled) if resized else scaled.astype(np.float16).view(np.int16)
    for index in range(len(series.slices)) if chosen is None else chosen.tolist():
        piece, stored = series.slices[index], words[index]
        table = tables[_meaning(piece)]
        if table is None:  # words of more than 16 bits
            image = prepared_image(apply_window(values(stored, piece), window), size)
        elif resized:
            image = float16_of(resize(cv2.LUT(stored, table), size))
        else:
            image = cv2.LUT(stored, table).view(np.float16)
        yield np.ascontiguousarray(canonical(image, series.orientation))


def _meaning(piece: Slice) -> tuple:
    """Slices that agree in it give the same words the same values."""
    file = piece.file
    return (
        piece.slope,
        piece.intercept,
        file.allocated,
        file.stored,
        file.high_bit,
        file.signed,
        file.is_float,
        file.inverted,
    )


def _window(
    series: Series,
    words: Sequence[np.ndarray] | dict[int, np.ndarray],
    tables: dict,
    mr_window: str,
) -> tuple[float, float]:
    if series.modality == "CT":
        return CT_WINDOW
    if mr_window == "fixed":
        return MR_FIXED_WINDOW
    counts = dict.fromkeys(tables, 0)
    found = []  # (values, how often each)
    for index, piece in enumerate(series.slices):
        key, stored = _meaning(piece), words[index]
        if tables[key] is None:
            found.append(np.unique(values(stored, piece), return_counts=True))
        else:
            counts[key] += np.bincount(stored.ravel(), minlength=len(tables[key]))
    found += [
        (tables[key][count > 0], count[count > 0])
        for key, count in counts.items()
        if tables[key] is not None
    ]
    return percentile_window(*map(np.concatenate, zip(*found, strict=True)))

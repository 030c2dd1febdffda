"""From rescaled units to prepared intensities: window, clip, resize. No files, no torch."""

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np

TOP = 5.0  # prepared intensities run from 0 (background) to TOP
CT_WINDOW = (0.0, 600.0)  # HU
MR_FIXED_WINDOW = (-1200.0, 4000.0)  # rescaled units; the published MR window
MR_PERCENTILES = (1.0, 99.8)  # of all pixels of the series
CODES = 65535  # largest of the integers that stand for 0..TOP while an image is resized


def window_of(
    modality: str, mr_window: str, histogram: Callable[[], tuple[np.ndarray, np.ndarray]]
) -> tuple[float, float]:
    """Return the two intensities that become 0 and TOP, in HU (CT) or rescaled units (MR).

    modality: "CT" or "MR".
    mr_window: "percentile" or "fixed" (the published one).
    histogram: returns the values of all pixels of the series and how often each occurs;
        it is called only if the window depends on them.
    """
    if modality == "CT":
        return CT_WINDOW
    if mr_window == "fixed":
        return MR_FIXED_WINDOW
    return percentile_window(*histogram())


def percentile_window(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Return the MR_PERCENTILES of pixels, exactly as numpy.percentile interpolates them.

    values, counts: (m,), the pixels' values and how often each occurs.
    """
    order = np.argsort(values)
    values, at_or_below = values[order], np.cumsum(counts[order])

    def value_at(rank: int) -> float:
        return float(values[np.searchsorted(at_or_below, rank, side="right")])

    ends = []
    for percentile in MR_PERCENTILES:
        rank = percentile / 100 * (at_or_below[-1] - 1)
        below, above = value_at(int(rank)), value_at(int(np.ceil(rank)))
        ends.append(below + (above - below) * (rank - int(rank)))
    low, high = ends
    return low, max(high, low + 1e-6)


def apply_window(pixels: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Clip to the window and scale to 0..TOP; float32, same shape."""
    low, high = window
    scaled = (pixels.astype(np.float32) - np.float32(low)) * np.float32(TOP / (high - low))
    return np.clip(scaled, 0.0, TOP, out=scaled)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resize (H, W) to (size, size), linear, pixel centres aligned; or return it as it is."""
    if image.shape == (size, size):
        return image
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def codes_of(scaled: np.ndarray) -> np.ndarray:
    """Code 0..TOP as uint16: finer than float16 but for the darkest, and quick to resize."""
    return np.rint(scaled * np.float32(CODES / TOP)).astype(np.uint16)


def float16_of(codes: np.ndarray) -> np.ndarray:
    """Decode `codes_of` to float16 in 0..TOP, by a table: numpy's conversion is slow."""
    return cv2.LUT(codes, _float16_table().view(np.int16)).view(np.float16)


@cache
def _float16_table() -> np.ndarray:
    return (np.arange(CODES + 1) * np.float32(TOP / CODES)).astype(np.float16)


def prepared_image(scaled: np.ndarray, size: int) -> np.ndarray:
    """Resize (H, W) float32 in 0..TOP to (size, size) float16; exact if the size stays."""
    if scaled.shape == (size, size):
        return scaled.astype(np.float16)
    return float16_of(resize(codes_of(scaled), size))

"""From rescaled units to the intensities that the network reads: window, clip, resize. No files, no torch."""

from functools import cache

import cv2
import numpy as np

TOP = 5.0  # prepared intensities run from 0 (background) to TOP
CT_WINDOW = (0.0, 600.0)  # HU
MR_FIXED_WINDOW = (-1200.0, 4000.0)  # rescaled units; the published MR window
CODES = 65535  # largest of the integers that stand for 0..TOP while an image is resized
MR_PERCENTILES = (1.0, 99.8)  # of all pixels of the series


def window_of(
    pixels: np.ndarray, modality: str, mr_window: str = "percentile"
) -> tuple[float, float]:
    """The two intensities that become 0 and TOP: fixed for CT, from the whole series or fixed for MR.

    pixels: (N, H, W) in HU or rescaled units; mr_window: "percentile" or "fixed" (the published one).
    """
    if modality == "CT":
        return CT_WINDOW
    if mr_window == "fixed":
        return MR_FIXED_WINDOW
    return percentile_window(*np.unique(pixels, return_counts=True))


def percentile_window(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The window MR_PERCENTILES of pixels, told as values and how often each occurs; exact, interpolated as numpy.percentile does."""
    order = np.argsort(values)
    values, at_or_below = values[order], np.cumsum(counts[order])
    ends = []
    for percentile in MR_PERCENTILES:
        rank = percentile / 100 * (at_or_below[-1] - 1)
        below, above = (
            float(values[np.searchsorted(at_or_below, whole, side="right")])
            for whole in (int(rank), int(np.ceil(rank)))
        )
        ends.append(below + (above - below) * (rank - int(rank)))
    low, high = ends
    return low, max(high, low + 1e-6)


def apply_window(pixels: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Clip to the window and scale to 0..TOP; float32, same shape."""
    low, high = window
    scaled = (pixels.astype(np.float32) - np.float32(low)) * np.float32(TOP / (high - low))
    return np.clip(scaled, 0.0, TOP, out=scaled)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W) -> (size, size), linear, both with pixel centres aligned; an image of that size is returned as it is."""
    if image.shape == (size, size):
        return image
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def codes_of(scaled: np.ndarray) -> np.ndarray:
    """Intensities 0..TOP -> uint16, same shape: finer than float16 for all but the darkest, and quick to resize."""
    return np.rint(scaled * np.float32(CODES / TOP)).astype(np.uint16)


def float16_of(codes: np.ndarray) -> np.ndarray:
    """`codes_of` back to intensities 0..TOP, float16; a table, as numpy's float16 conversion is slow."""
    return cv2.LUT(codes, _float16_table().view(np.int16)).view(np.float16)


@cache
def _float16_table() -> np.ndarray:
    return (np.arange(CODES + 1) * np.float32(TOP / CODES)).astype(np.float16)


def prepared_image(scaled: np.ndarray, size: int) -> np.ndarray:
    """(H, W) float32 in 0..TOP -> (size, size) float16, exact where no resize is needed."""
    return (
        scaled.astype(np.float16)
        if scaled.shape == (size, size)
        else float16_of(resize(codes_of(scaled), size))
    )

"""The slow plain way from pixels to prepared images, which the quick way must equal."""

import numpy as np

from src.dicom import Series
from src.orientation import canonical
from src.preprocess.intensity import apply_window, prepared_image, window_of


def plain_window(
    pixels: np.ndarray, modality: str, mr_window: str = "percentile"
) -> tuple[float, float]:
    """Return the window of a series from all its pixels (n, h, w)."""
    return window_of(modality, mr_window, lambda: np.unique(pixels, return_counts=True))


def plain_images(
    series: Series, size: int, mr_window: str, numbers: np.ndarray | None = None
) -> np.ndarray:
    """Return (k, size, size) float16 in 0..5, in-plane canonical, of a series that was read whole.

    numbers: (k,) slices to prepare, all by default; the window comes from the whole series.
    """
    pixels = series.pixels
    window = plain_window(pixels, series.modality, mr_window)
    numbers = np.arange(len(pixels)) if numbers is None else numbers
    images = np.empty((len(numbers), size, size), np.float16)
    for image, number in zip(images, numbers, strict=True):
        scaled = apply_window(pixels[number], window)
        image[:] = canonical(prepared_image(scaled, size), series.orientation)
    return images

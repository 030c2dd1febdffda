"""The slow plain way from pixels to prepared images, which the quick way must equal."""

import numpy as np
import pydicom

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
    pixels, padding = series.pixels, padding_of(series)
    shown = pixels if padding.all() else pixels[~padding]
    window = plain_window(shown, series.modality, mr_window)
    numbers = np.arange(len(pixels)) if numbers is None else numbers
    images = np.empty((len(numbers), size, size), np.float16)
    for image, number in zip(images, numbers, strict=True):
        scaled = apply_window(pixels[number], window)
        scaled[padding[number]] = 0
        image[:] = canonical(prepared_image(scaled, size), series.orientation)
    return images


def padding_of(series: Series) -> np.ndarray:
    """Return where pixels (n, h, w) are padding by the header, as pydicom reads it."""
    padding = np.zeros(series.shape, bool)
    for number, slice_ in enumerate(series.slices):
        data = pydicom.dcmread(slice_.file.path, stop_before_pixels=True)
        if "PixelPaddingValue" in data:
            stored = pydicom.dcmread(slice_.file.path).pixel_array
            stored = stored[slice_.frame] if slice_.frame >= 0 else stored
            value = data.PixelPaddingValue
            limit = data.get("PixelPaddingRangeLimit", value)
            padding[number] = (stored >= min(value, limit)) & (stored <= max(value, limit))
    return padding

"""Which slices a network reads, and where the pixels of its crop lie. Pure array functions."""

from collections.abc import Sequence

import numpy as np

DEFAULT_SPACING = (1.0, 0.5, 0.5)  # mm between slices, rows, columns, for series that do not tell


def spacing_or_default(spacing: Sequence[float | None]) -> tuple[float, float, float]:
    """Return mm between slices, rows and columns; DEFAULT_SPACING replaces what a series does not tell."""
    known = zip(spacing, DEFAULT_SPACING, strict=True)
    return tuple(value if value and value > 0 else default for value, default in known)


def resized_point(position, length: int, size: int):
    """Where a pixel coordinate (or an array of them) along an axis of `length` pixels lies after `resize`; pixel centres are integers."""
    return (position + 0.5) * size / length - 0.5


def original_point(position: float, length: int, size: int) -> float:
    """`resized_point` undone: a coordinate of the resized image in pixels of the original axis."""
    return (position + 0.5) * length / size - 0.5


def neighbours(index, step, length: int) -> np.ndarray:
    """Indices (..., 3) of the slices index - step, index, index + step; beyond either end the edge slice is repeated.

    The one rule for training, extraction and end to end. index, step: int or integer arrays that broadcast.
    """
    beside = np.asarray(index)[..., None] + np.asarray(step)[..., None] * np.array([-1, 0, 1])
    return np.minimum(np.maximum(beside, 0), length - 1)


def crop_margin(size: int, crop: int) -> int:
    """Pixels left of and above the centre crop."""
    return (size - crop) // 2


def centre_crop(images, crop: int):
    """(..., S, S) -> (..., crop, crop), a view; arrays and tensors alike."""
    margin = crop_margin(images.shape[-1], crop)
    return images[..., margin : margin + crop, margin : margin + crop]


STEPS = (1, 2)  # slices between a slice and its neighbours
MIRRORABLE = ("axial", "coronal")  # planes whose image x axis is the patient's left-right axis


def thin(length: int, cut: int, generator: np.random.Generator | None = None) -> np.ndarray:
    """Which slices of a long series the sequence model reads: every k-th, k = length // cut, from slice 0.

    With a generator (training) the stride is drawn from 1..k and the start from the slices before it.
    """
    stride = max(1, length // cut)
    if generator is None:
        return np.arange(0, length, stride)
    stride = int(generator.integers(1, stride + 1))
    return np.arange(int(generator.integers(stride)), length, stride)


def slice_positions(positions: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Positions in mm of the chosen slices, float32; slice number times 1 mm where the series has none. positions: (n,), NaN = none."""
    chosen = positions[indices]
    if np.isfinite(positions).all():
        return chosen.astype(np.float32)
    return (indices * DEFAULT_SPACING[0]).astype(np.float32)

"""Which slices a network reads, and where the pixels of its crop are. Pure array functions."""

from collections.abc import Sequence

import numpy as np

from src.artifacts.ranges import SPACINGS

STEPS = (1, 2)  # numbers of the steps to the neighbours; as published, in slices, too
MIRRORABLE = ("axial", "coronal")  # planes whose image x axis is the patient's left-right axis
DEFAULT_SPACING = (1.0, 0.5, 0.5)  # mm between slices, rows, columns, if a series has none


def spacing_or_default(spacing: Sequence[float | None]) -> tuple[float, float, float]:
    """Return mm between slices, rows and columns.

    DEFAULT_SPACING replaces what is missing or not plausible.
    """
    known = zip(spacing, SPACINGS.values(), DEFAULT_SPACING, strict=True)
    return tuple(
        value if value and least <= value <= most else default
        for value, (least, most), default in known
    )


def resized_point(position, length: int, size: int):
    """Return a coordinate, or an array of them, after `resize` of `length` pixels to `size`."""
    return (position + 0.5) * size / length - 0.5


def original_point(position: float, length: int, size: int) -> float:
    """Undo `resized_point`."""
    return (position + 0.5) * length / size - 0.5


def step_counts(step_mm: Sequence[float], spacing: float | None) -> tuple[int, int]:
    """Return how many slices away the neighbours are, at the first and at the second step.

    step_mm: the two distances in mm; both 0: the published STEPS.
    spacing: mm between slices; a default replaces what is missing.
    """
    if not any(step_mm):
        return STEPS
    between, _, _ = spacing_or_default((spacing, None, None))
    # Rounded first: a spacing that went through a table must not turn 2.5 into 2 or 3.
    first, second = (max(1, int(round(mm / between, 6) + 0.5)) for mm in step_mm)
    return first, second


def neighbours(index, step, length: int) -> np.ndarray:
    """Return slices (..., 3): index - step, index, index + step; beyond an end the edge slice.

    index, step: int or integer arrays that broadcast.
    """
    beside = np.asarray(index)[..., None] + np.asarray(step)[..., None] * np.array([-1, 0, 1])
    return np.minimum(np.maximum(beside, 0), length - 1)


def crop_margin(size: int, crop: int) -> int:
    """Return the pixels left of and above the centre crop."""
    return (size - crop) // 2


def centre_crop(images, crop: int):
    """Return a view (..., crop, crop) of an array or tensor (..., S, S)."""
    margin = crop_margin(images.shape[-1], crop)
    return images[..., margin : margin + crop, margin : margin + crop]


def thin(length: int, cut: int, generator: np.random.Generator | None = None) -> np.ndarray:
    """Return the slices (k,) that the sequence model reads: every n-th, n = length // cut, from 0.

    With a generator (training) the stride is drawn from 1..n, and the start from 0..stride - 1.
    """
    stride = max(1, length // cut)
    start = 0
    if generator is not None:
        stride = int(generator.integers(1, stride + 1))
        start = int(generator.integers(stride))
    return np.arange(start, length, stride)


def slice_positions(positions: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return positions (k,) in mm of the chosen slices, float32.

    positions: (n,), of all slices; if any is NaN, the slice number times 1 mm replaces them all.
    """
    if np.isfinite(positions).all():
        return positions[indices].astype(np.float32)
    return (indices * DEFAULT_SPACING[0]).astype(np.float32)

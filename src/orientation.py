"""Left is left: which plane a series is of, and its images and points in the canonical orientation. No pydicom here."""

import numpy as np

PLANES = (
    "sagittal",
    "coronal",
    "axial",
)  # by the axis along which the normal has its largest component


def normal_of(orientation: tuple[float, ...]) -> np.ndarray:
    """Unit normal (3) of the slices; its largest component is positive: to the patient's left, back or head."""
    normal = np.cross(orientation[:3], orientation[3:])
    normal /= np.linalg.norm(normal)
    return normal if normal[np.abs(normal).argmax()] > 0 else -normal


def plane_of(orientation: tuple[float, ...] | None) -> str:
    """axial, coronal, sagittal, or unknown."""
    return "unknown" if orientation is None else PLANES[np.abs(normal_of(orientation)).argmax()]


def orientation_code(orientation: tuple[float, ...] | None) -> str:
    """What brings an image into the canonical orientation: T transposes, then X mirrors the columns' index, then Y the rows' index.

    Axial and coronal: columns run to the patient's left. Axial rows run to the back, coronal and sagittal ones to the feet. Sagittal
    columns run to the back. An unknown orientation is left as it is.
    """
    if orientation is None:
        return ""
    plane = plane_of(orientation)
    across = np.array([0, 1, 0] if plane == "sagittal" else [1, 0, 0])
    down = np.array([0, 1, 0] if plane == "axial" else [0, 0, -1])
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    transposed = abs(row @ across) + abs(column @ down) < abs(row @ down) + abs(column @ across)
    if transposed:
        row, column = column, row
    return "T" * bool(transposed) + "X" * bool(row @ across < 0) + "Y" * bool(column @ down < 0)


def canonical(pixels: np.ndarray, orientation: str) -> np.ndarray:
    """(..., h, w) as stored -> a view in the canonical orientation (see `orientation_code`)."""
    if "T" in orientation:
        pixels = pixels.swapaxes(-1, -2)
    if "X" in orientation:
        pixels = pixels[..., ::-1]
    return pixels[..., ::-1, :] if "Y" in orientation else pixels


def canonical_shape(height: int, width: int, orientation: str) -> tuple[int, int]:
    """Return height and width of the canonical image of a stored one of height x width."""
    return (width, height) if "T" in orientation else (height, width)


def canonical_point(
    x: float, y: float, orientation: str, height: int, width: int
) -> tuple[float, float]:
    """Where column x, row y of a stored image of height x width lies in the canonical one; pixel centres are integers."""
    if "T" in orientation:
        x, y, height, width = y, x, width, height
    return width - 1 - x if "X" in orientation else x, height - 1 - y if "Y" in orientation else y


def stored_point(
    x: float, y: float, orientation: str, height: int, width: int
) -> tuple[float, float]:
    """`canonical_point` undone: column and row in the stored image of height x width."""
    tall, wide = (width, height) if "T" in orientation else (height, width)
    x, y = wide - 1 - x if "X" in orientation else x, tall - 1 - y if "Y" in orientation else y
    return (y, x) if "T" in orientation else (x, y)

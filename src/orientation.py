"""Left is left: the plane of a series, and its images and points in the canonical orientation.

An orientation is six numbers, DICOM's ImageOrientationPatient: the directions along a row and down
a column, in patient coordinates (x to the left, y to the back, z to the head).
"""

import numpy as np

PLANES = ("sagittal", "coronal", "axial")  # by the axis of the normal's largest component


def normal_of(orientation: tuple[float, ...]) -> np.ndarray:
    """Return the unit normal (3,) of the slices.

    Its sign is fixed: the largest component points to the patient's left, back or head.
    """
    normal = np.cross(orientation[:3], orientation[3:])
    normal /= np.linalg.norm(normal)
    return normal if normal[np.abs(normal).argmax()] > 0 else -normal


def plane_of(orientation: tuple[float, ...] | None) -> str:
    """Return axial, coronal, sagittal, or unknown."""
    return "unknown" if orientation is None else PLANES[np.abs(normal_of(orientation)).argmax()]


def orientation_code(orientation: tuple[float, ...] | None) -> str:
    """Return what brings a stored image into the canonical orientation.

    T transposes it, then X mirrors the index of the columns, then Y the index of the rows.
    In canonical axial and coronal images, columns run to the patient's left; in sagittal ones, to
    the back. Axial rows run to the back; coronal and sagittal rows run to the feet.
    The code is empty if the orientation is unknown.
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
    """Return a view of stored images (..., h, w) in the canonical orientation.

    orientation: what `orientation_code` returns
    """
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
    """Return where column x, row y of a stored image of height x width is in the canonical one.

    Pixel centres are integers.
    """
    if "T" in orientation:
        x, y = y, x
    return _mirrored(x, y, orientation, *canonical_shape(height, width, orientation))


def stored_point(
    x: float, y: float, orientation: str, height: int, width: int
) -> tuple[float, float]:
    """Undo `canonical_point`: return column and row in the stored image of height x width."""
    x, y = _mirrored(x, y, orientation, *canonical_shape(height, width, orientation))
    return (y, x) if "T" in orientation else (x, y)


def _mirrored(x: float, y: float, orientation: str, height: int, width: int) -> tuple[float, float]:
    if "X" in orientation:
        x = width - 1 - x
    if "Y" in orientation:
        y = height - 1 - y
    return x, y

"""Read a folder: find its DICOM files by content, not by name, and return the volume in them.

`canonical(series.pixels, series.orientation)` makes left left in every series.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from src.dicom.doubts import settle_doubts
from src.dicom.errors import DicomError, require
from src.dicom.folder import by_series, no_volume, read_headers
from src.dicom.header import MAX_PIXELS, Slice
from src.dicom.order import build_stack, gap_warning
from src.dicom.pixels import iter_words, values
from src.orientation import orientation_code, plane_of
from src.text import printable


@dataclass
class Series:
    """One volume, its slices in order."""

    slices: list[Slice]
    positions: np.ndarray | None  # (n,) mm along the normal, ascending
    spacing: tuple[float | None, float | None, float | None]  # mm between slices, rows, columns
    plane: str  # axial, coronal, sagittal, unknown
    orientation: str  # what `canonical` does to the images
    dropped: list[tuple[str, str]]  # (file name, reason)
    warnings: list[str]
    pixels: np.ndarray | None = (
        None  # (n, h, w) float32 in HU (CT) or rescaled units (MR), as stored
    )

    @property
    def sop_uids(self) -> list[str]:
        return [slice_.file.sop_uid for slice_ in self.slices]

    @property
    def frames(self) -> np.ndarray:
        """(n,) 0-based stored frame, -1 for single-frame files."""
        return np.array([slice_.frame for slice_ in self.slices])

    @property
    def modality(self) -> str:
        return self.slices[0].file.modality

    @property
    def patient_id(self) -> str:
        # Some writers leave it out of a part of the files.
        known = (slice_.file.patient_id for slice_ in self.slices)
        return next(filter(None, known), "")

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.slices), self.slices[0].file.rows, self.slices[0].file.columns

    def patient_point(self, index: int, x: float, y: float) -> tuple[float, float, float] | None:
        """Return column x, row y of a slice in patient coordinates, or None if tags are missing.

        They are in mm: to the left, back and head (DICOM PS3.3 C.7.6.2.1.1).
        """
        slice_ = self.slices[index]
        if slice_.position is None or slice_.orientation is None or slice_.pixel_spacing is None:
            return None
        row_spacing, column_spacing = slice_.pixel_spacing
        across, down = np.array(slice_.orientation[:3]), np.array(slice_.orientation[3:])
        origin = np.array(slice_.position)
        return tuple((origin + across * column_spacing * x + down * row_spacing * y).tolist())


def read_series(folder: str | Path) -> Series:
    """Return the volume of a folder with its pixels. Raise DicomError if there is none."""
    series = open_series(folder)
    series.pixels = np.empty(series.shape, np.float32)
    failed: dict[int, DicomError] = {}
    for index, stored in _iter_stored(series, range(len(series.slices)), failed):
        values(stored, series.slices[index], out=series.pixels[index])
    _remove_failed(series, failed)
    return series


def read_words(series: Series, chosen: np.ndarray | None = None) -> list[np.ndarray]:
    """Return the stored values (h, w) of the slices `chosen` (k,), all if None, in order.

    Slices that cannot be decoded leave the series, and the list. src/dicom/pixels.py says what
    stored values mean.
    """
    failed: dict[int, DicomError] = {}
    indices = range(len(series.slices)) if chosen is None else chosen.tolist()
    found = dict(_iter_stored(series, indices, failed))
    _remove_failed(series, failed)
    return [found[index] for index in sorted(found) if index not in failed]


def open_series(folder: str | Path) -> Series:
    """Return the volume of a folder without its pixels. Raise DicomError if there is none."""
    return _series_of(Path(folder), *read_headers(Path(folder)))


def open_all(
    folder: str | Path, below: bool = True
) -> tuple[list[tuple[str, Series | DicomError]], list[tuple[str, str]]]:
    """Return all series in a folder, by default also below it, and the files that belong to none.

    The first list holds (UID, series), sorted by UID; an error replaces a series without a volume.
    The second holds (file name, reason); a single series has them in `dropped` instead.
    Files of two patients are two series even under one UID. Files without a UID are one series a
    folder. Raise DicomError if there is no series at all.
    """
    slices, dropped = read_headers(Path(folder), below)
    groups = by_series(slices)
    of_one, of_none = (dropped, []) if len(groups) == 1 else ([], dropped)
    found: list[tuple[str, Series | DicomError]] = []
    for key in sorted(groups):
        try:
            found.append((key[0], _series_of(Path(folder), groups[key], of_one)))
        except DicomError as error:
            found.append((key[0], error))
    return found, of_none


def _series_of(folder: Path, slices: list[Slice], dropped: list[tuple[str, str]]) -> Series:
    """Return the largest volume among the slices. dropped: (file name, reason) of other files."""
    try:
        stack = build_stack(slices)
    except DicomError as error:
        raise DicomError(error.reason, f"{folder}: {error}") from None
    first, count = stack.slices[0], len(stack.slices)
    small = count * first.file.rows * first.file.columns <= MAX_PIXELS
    require(small, "too_large", f"{folder}: {count} slices")
    between = first.slice_spacing
    pixel_spacings = (slice_.pixel_spacing for slice_ in stack.slices)
    if stack.positions is not None and count > 1:
        between = float(np.median(np.diff(stack.positions)))
    series = Series(
        slices=stack.slices,
        positions=stack.positions,
        spacing=(between, *next(filter(None, pixel_spacings), (None, None))),
        plane=plane_of(first.orientation),
        orientation=orientation_code(first.orientation),
        dropped=dropped + [(_name(slice_), reason) for slice_, reason in stack.left_out],
        warnings=stack.warnings + gap_warning(stack.positions, between),
    )
    _note_spacings(series)
    series.slices, doubts = settle_doubts(series.slices)
    series.warnings += doubts
    return series


def _iter_stored(
    series: Series, indices: Iterable[int], failed: dict[int, DicomError]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number of the slice, stored values) of the slices `indices`, file by file.

    All of a file's slices go to `failed` if one cannot be decoded, also those that were yielded.
    """

    def place(index: int) -> tuple[str, int]:
        return str(series.slices[index].file.path), series.slices[index].frame

    for _, group in groupby(sorted(indices, key=place), key=lambda index: place(index)[0]):
        of_file = list(group)
        try:
            images = iter_words([series.slices[index] for index in of_file])
            yield from zip(of_file, images, strict=True)
        except DicomError as error:
            failed |= dict.fromkeys(of_file, error)


def _remove_failed(series: Series, failed: dict[int, DicomError]) -> None:
    """Remove slices that cannot be decoded; the spacing stays. Raise DicomError if none is left."""
    if not failed:
        return
    series.dropped += [(_name(series.slices[k]), error.reason) for k, error in failed.items()]
    kept = [k for k in range(len(series.slices)) if k not in failed]
    if not kept:
        folder = series.slices[0].file.path.parent
        raise no_volume(folder, series.dropped, next(iter(failed.values())))
    gaps_before = gap_warning(series.positions, series.spacing[0])
    series.slices = [series.slices[k] for k in kept]
    if series.positions is not None:
        series.positions = series.positions[kept]
    if series.pixels is not None:
        series.pixels = series.pixels[kept]
    warnings = [warning for warning in series.warnings if warning not in gaps_before]
    series.warnings = warnings + gap_warning(series.positions, series.spacing[0])


def _name(slice_: Slice) -> str:
    name = printable(slice_.file.path.name)
    return name if slice_.frame < 0 else f"{name} frame {slice_.frame}"


def _note_spacings(series: Series) -> None:
    doubts = {
        "no pixel spacing": series.spacing[1] is None,
        "no distance between slices": series.spacing[0] is None,
    }
    series.warnings += [doubt for doubt, holds in doubts.items() if holds]

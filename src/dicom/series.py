"""A folder of DICOM files -> one ordered, rescaled volume with its geometry, or a named reason why there is none.

    series = read_series("data/series/1.2.3")       # headers and pixels
    series = open_series("data/series/1.2.3")       # headers only
    canonical(series.pixels, series.orientation)    # left is left in every series

Files are found by content, not by name. Of several series, sizes or orientations in a folder the largest group is taken. Slices are
ordered along the slice normal, whose sign is fixed: it points to the patient's left, back or head. Where there are no positions,
instance numbers give the order, then SOP UIDs. What is left out stands in `dropped`, what is doubtful in `warnings`.
"""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from src.dicom.fields import DicomError, require
from src.dicom.header import MAX_PIXELS, Slice, read_header
from src.dicom.order import build_stack, gap_warning
from src.dicom.pixels import check_decoder, iter_words, values
from src.orientation import orientation_code, plane_of

MINOR = (
    "not_dicom",
    "no_pixels",
    "empty",
    "other_modality",
)  # reasons that name a folder's failure only where there is no other
AIR, SOFT_TISSUE = (-1100, -900), (-20, 100)  # HU


@dataclass
class Series:
    """One volume. pixels: (n, h, w) float32 in HU (CT) or rescaled units (MR), as stored in the plane; None before they are read."""

    slices: list[Slice]
    positions: np.ndarray | None  # (n,) mm along the normal, ascending
    spacing: tuple[float | None, float | None, float | None]  # mm between slices, rows, columns
    plane: str  # axial, coronal, sagittal, unknown
    orientation: str  # what `canonical` does to the images
    dropped: list[tuple[str, str]]  # (file name, reason)
    warnings: list[str]
    pixels: np.ndarray | None = None

    @property
    def sop_uids(self) -> list[str]:
        return [piece.file.sop_uid for piece in self.slices]

    @property
    def frames(self) -> np.ndarray:
        """(n,) 0-based stored frame, -1 for single-frame files."""
        return np.array([piece.frame for piece in self.slices])

    @property
    def modality(self) -> str:
        return self.slices[0].file.modality

    @property
    def patient_id(self) -> str:
        return self.slices[0].file.patient_id

    def patient_point(self, index: int, x: float, y: float) -> tuple[float, float, float] | None:
        """Column x, row y of a slice in patient coordinates (mm; to the left, back and head; DICOM PS3.3 C.7.6.2.1.1); None where tags are missing."""
        piece = self.slices[index]
        if piece.position is None or piece.orientation is None or piece.pixel_spacing is None:
            return None
        row_spacing, column_spacing = piece.pixel_spacing
        across, down = np.array(piece.orientation[:3]), np.array(piece.orientation[3:])
        return tuple(
            (
                np.array(piece.position) + across * column_spacing * x + down * row_spacing * y
            ).tolist()
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.slices), self.slices[0].file.rows, self.slices[0].file.columns


def read_series(folder: str | Path) -> Series:
    """The volume of a folder. Raises DicomError where there is none."""
    series = open_series(folder)
    series.pixels = np.empty(series.shape, np.float32)
    slices = series.slices

    def receive(index: int, words: np.ndarray) -> None:
        values(words, slices[index], out=series.pixels[index])

    _read_pixels(series, receive)
    return series


def read_words(series: Series, chosen: np.ndarray | None = None) -> list[np.ndarray]:
    """Raw words (h, w) of the slices `chosen` (k,) of an opened series, all where None, in order; see dicom_pixels for their meaning.

    Slices that cannot be decoded leave the series, and the list.
    """
    words: dict[int, np.ndarray] = {}
    kept = _read_pixels(series, words.__setitem__, chosen)
    return [words[k] for k in kept if k in words]


def open_series(folder: str | Path) -> Series:
    """A series without its pixels, from headers alone (and a few slices of CT whose intercept is in doubt)."""
    return _series_of(Path(folder), *_read_headers(Path(folder)))


def open_all(
    folder: str | Path,
) -> tuple[list[tuple[str, Series | DicomError]], list[tuple[str, str]]]:
    """(UID, series) of every series in a folder and below it, in the order of their UIDs, an error in place of one that gives no volume; and
    the files that belong to none, with reasons: to the one series where there is but one.

    Files of two patients are two series even under one UID; files without a UID are one series a folder. Raises DicomError where there is no
    series at all.
    """
    slices, dropped = _read_headers(Path(folder))
    groups: dict[tuple[str, str, str], list[Slice]] = {}
    for piece in slices:
        place = "" if piece.file.series_uid else str(piece.file.path.parent)
        groups.setdefault((piece.file.series_uid, piece.file.patient_id, place), []).append(piece)
    found: list[tuple[str, Series | DicomError]] = []
    for key in sorted(groups):
        try:
            found.append(
                (key[0], _series_of(Path(folder), groups[key], dropped if len(groups) == 1 else []))
            )
        except DicomError as error:
            found.append((key[0], error))
    return found, dropped if len(groups) > 1 else []


def _series_of(folder: Path, slices: list[Slice], dropped: list[tuple[str, str]]) -> Series:
    """The largest volume among the slices."""
    stack = build_stack(slices)
    dropped += [(_name(piece), reason) for piece, reason in stack.left_out]
    first = stack.slices[0]
    require(
        len(stack.slices) * first.file.rows * first.file.columns <= MAX_PIXELS,
        "too_large",
        f"{folder}: {len(stack.slices)} slices",
    )
    distances = np.diff(stack.positions) if stack.positions is not None else []
    between = float(np.median(distances)) if len(distances) else first.slice_spacing
    series = Series(
        slices=stack.slices,
        positions=stack.positions,
        spacing=(between, *(first.pixel_spacing or (None, None))),
        plane=plane_of(first.orientation),
        orientation=orientation_code(first.orientation),
        dropped=dropped,
        warnings=stack.warnings + gap_warning(stack.positions, between),
    )
    _note_header_doubts(series)
    _ignore_false_intercept(series)
    return series


def _read_pixels(
    series: Series, receive: Callable[[int, np.ndarray], None], chosen: np.ndarray | None = None
) -> list[int]:
    """Hand index and words of each slice, or of the chosen ones, to `receive`, file by file. Slices of files that cannot be decoded leave
    the series; who stays."""
    failed: dict[int, DicomError] = {}
    asked = range(len(series.slices)) if chosen is None else chosen.tolist()
    order = sorted(asked, key=lambda k: (str(series.slices[k].file.path), series.slices[k].frame))
    for _, group in groupby(order, key=lambda k: series.slices[k].file.path):
        indices = list(group)
        try:
            for index, words in zip(
                indices, iter_words([series.slices[k] for k in indices]), strict=True
            ):
                receive(index, words)
        except DicomError as error:
            failed |= dict.fromkeys(indices, error)
    kept = [k for k in range(len(series.slices)) if k not in failed]
    if failed:
        series.dropped += [(_name(series.slices[k]), error.reason) for k, error in failed.items()]
        if not kept:
            raise _no_volume(
                series.slices[0].file.path.parent, series.dropped, next(iter(failed.values()))
            )
        _keep_slices(series, kept)
    return kept


def _keep_slices(series: Series, indices: list[int]) -> None:
    """Leave only the slices `indices` in a series; its spacing stays."""
    gaps_before = gap_warning(series.positions, series.spacing[0])
    series.slices = [series.slices[k] for k in indices]
    series.positions = None if series.positions is None else series.positions[indices]
    series.pixels = None if series.pixels is None else series.pixels[indices]
    warnings = [warning for warning in series.warnings if warning not in gaps_before]
    series.warnings = warnings + gap_warning(series.positions, series.spacing[0])


def _read_headers(folder: Path) -> tuple[list[Slice], list[tuple[str, str]]]:
    try:
        require(folder.exists(), "missing", f"{folder} does not exist")
        paths, dropped = _visible_files(folder)
    except OSError as error:
        raise DicomError("unreadable", f"{folder}: {error.strerror}") from None
    require(len(paths) + len(dropped) > 0, "no_dicom", f"{folder} holds no files")
    slices, first_error = (
        [],
        DicomError("unreadable", "a folder may not be entered") if dropped else None,
    )
    for path in paths:
        try:
            found = read_header(path)
            check_decoder(found[0].file)
            slices += found
        except DicomError as error:
            dropped.append((_text(path.name), error.reason))
            first_error = (
                error if first_error is None or first_error.reason in MINOR else first_error
            )
    if not slices:
        raise _no_volume(folder, dropped, first_error)
    return slices, dropped


def _visible_files(folder: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """All files below a folder, and the folders that may not be entered, with a reason; links to files are followed, links to folders are not
    (they may lead in circles)."""
    if folder.is_file():
        return [folder], []
    found, locked = [], []
    for parent, folders, names in os.walk(
        folder,
        onerror=lambda error: locked.append((_text(Path(error.filename).name), "unreadable")),
    ):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found), locked


def _no_volume(folder: Path, dropped: list[tuple[str, str]], example: DicomError) -> DicomError:
    counts = Counter(reason for _, reason in dropped)
    reason = max(counts, key=lambda reason: (reason not in MINOR, counts[reason]))
    listed = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    return DicomError(reason, f"{folder}: no slice can be read ({listed}); {example}")


def _name(piece: Slice) -> str:
    name = _text(piece.file.path.name)
    return name if piece.frame < 0 else f"{name} frame {piece.frame}"


def _text(name: str) -> str:
    """A file's name that can be written anywhere, also where it is no UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def _note_header_doubts(series: Series) -> None:
    doubts = {
        "no pixel spacing": series.spacing[1] is None,
        "no distance between slices": series.spacing[0] is None,
        "MONOCHROME1 was inverted": any(piece.file.inverted for piece in series.slices),
        "a rescale slope of 0": any(piece.slope == 0 for piece in series.slices),
    }
    series.warnings += [doubt for doubt, holds in doubts.items() if holds]


def _ignore_false_intercept(series: Series) -> None:
    """CT that is stored in HU although its tags say intercept -1024: air then lies near -2024, and brain where air should be.

    Judged on a few slices without their lowest value, which is padding: both air and soft tissue must be far more frequent among the
    stored values than among the rescaled ones.
    """
    if not all(
        piece.file.modality == "CT" and piece.file.signed and -1100 <= piece.intercept <= -900
        for piece in series.slices
    ):
        return
    stored = [replace(piece, intercept=0.0) for piece in series.slices]
    as_stored, as_tagged = [], []
    for index in np.linspace(0, len(stored) - 1, min(len(stored), 8)).astype(int):
        try:
            sample = values(next(iter_words([stored[index]])), stored[index])[::2, ::2]
        except DicomError:
            continue  # it will be named when the pixels are read
        as_stored.append(sample)
        as_tagged.append(sample + np.float32(series.slices[index].intercept))
    if as_stored and _head_share(as_stored) > max(0.02, 3 * _head_share(as_tagged)):
        series.slices = stored
        series.warnings.append("CT stored in HU: its rescale intercept was ignored")


def _head_share(images: list[np.ndarray]) -> float:
    """The lesser of the shares of air and of soft tissue: large in a head in HU."""
    pixels = np.stack(images)
    pixels = pixels[pixels > pixels.min()]
    return min(
        np.count_nonzero((pixels >= low) & (pixels <= high)) / max(len(pixels), 1)
        for low, high in (AIR, SOFT_TISSUE)
    )

"""One series: DICOM in, prepared arrays and facts out. What a worker of preprocess_data.py does; no torch here.

The pixels are the same as those of `volume.prepare(read_series(folder), ...)`, made faster: straight from stored words by lookup tables.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from src import artifacts
from src.array_writer import write_volume
from src.artifacts import DataFolder
from src.dicom import DicomError, Series, canonical, open_series, read_words
from src.dicom_headers import Slice
from src.dicom_pixels import lookup_table, values
from src.volume import CT_WINDOW, MR_FIXED_WINDOW, apply_window, codes_of, float16_of, percentile_window, prepared_image, resize


@dataclass(frozen=True)
class Job:
    """A series to prepare and how."""

    data_dir: Path
    uid: str
    image_size: int
    mr_window: str
    write_slices: bool


@dataclass(frozen=True)
class Failed:
    """A series that gave no arrays."""

    reason: str
    detail: str


def prepare_series(job: Job) -> dict | Failed:
    """Write the arrays of a series, then its facts; the facts, or why there are none."""
    data = DataFolder(job.data_dir)
    cv2.setNumThreads(1)  # one worker a core
    try:
        series = open_series(data.series(job.uid))
        words = read_words(series)
        size = job.image_size
        write_volume(data, job.uid, prepared_images(series, words, size, job.mr_window), (len(words), size, size), job.write_slices)
    except DicomError as error:
        return Failed(error.reason, error.message)
    except MemoryError:
        return Failed("too_large", f"{data.series(job.uid)}: it does not fit into memory")
    facts = facts_of(series)
    artifacts.write_json(data.facts(job.uid), facts)
    return facts


def prepared_images(series: Series, words: list[np.ndarray], size: int, mr_window: str) -> Iterator[np.ndarray]:
    """(size, size) float16 in 0..TOP, in-plane canonical, slice by slice."""
    tables = {_meaning(piece): lookup_table(piece) for piece in series.slices}
    window = _window(series, words, tables, mr_window)
    resized = series.shape[1:] != (size, size)
    for key, table in tables.items():
        if table is not None:
            scaled = apply_window(table, window)
            tables[key] = codes_of(scaled) if resized else scaled.astype(np.float16).view(np.int16)
    for piece, stored in zip(series.slices, words, strict=True):
        table = tables[_meaning(piece)]
        if table is None:  # words of more than 16 bits
            image = prepared_image(apply_window(values(stored, piece), window), size)
        elif resized:
            image = float16_of(resize(cv2.LUT(stored, table), size))
        else:
            image = cv2.LUT(stored, table).view(np.float16)
        yield np.ascontiguousarray(canonical(image, series.orientation))


def facts_of(series: Series) -> dict:
    """What the later stages and people need to know of a series, as plain values."""
    length, height, width = series.shape
    return {
        "length": length,
        "h": height,
        "w": width,
        "mod": series.modality,
        "plane": series.plane,
        "orientation": series.orientation,
        "slice_spacing": series.spacing[0],
        "row_spacing": series.spacing[1],
        "column_spacing": series.spacing[2],
        "patient_id": series.patient_id,
        "sop_uids": series.sop_uids,
        "frames": series.frames.tolist(),
        "positions": None if series.positions is None else series.positions.tolist(),
        "dropped": series.dropped,
        "warnings": series.warnings,
    }


def _meaning(piece: Slice) -> tuple:
    """Slices that agree in it give the same words the same values."""
    file = piece.file
    return (piece.slope, piece.intercept, file.allocated, file.stored, file.high_bit, file.signed, file.is_float, file.inverted)


def _window(series: Series, words: list[np.ndarray], tables: dict, mr_window: str) -> tuple[float, float]:
    if series.modality == "CT":
        return CT_WINDOW
    if mr_window == "fixed":
        return MR_FIXED_WINDOW
    counts = dict.fromkeys(tables, 0)
    found = []  # (values, how often each)
    for piece, stored in zip(series.slices, words, strict=True):
        key = _meaning(piece)
        if tables[key] is None:
            found.append(np.unique(values(stored, piece), return_counts=True))
        else:
            counts[key] += np.bincount(stored.ravel(), minlength=len(tables[key]))
    found += [(tables[key][count > 0], count[count > 0]) for key, count in counts.items() if tables[key] is not None]
    return percentile_window(*map(np.concatenate, zip(*found, strict=True)))

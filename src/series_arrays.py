"""One series: DICOM in, prepared arrays and facts out. What a worker of preprocess_data.py does; no torch here.

The pixels are the same as those of `volume.prepare(read_series(folder), ...)`, made faster: straight from stored words by lookup tables.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from src import artifacts
from src.array_writer import write_volume
from src.artifacts import ArtifactError, DataFolder
from src.dicom import DicomError, Series, canonical, open_series, read_words
from src.dicom_fields import uid_name
from src.dicom_headers import Slice
from src.dicom_pixels import lookup_table, values
from src.volume import CT_WINDOW, MR_FIXED_WINDOW, apply_window, codes_of, float16_of, percentile_window, prepared_image, resize
from src.workers import Failure


@dataclass(frozen=True)
class Job:
    """A series to prepare and how."""

    data_dir: Path
    uid: str
    image_size: int
    mr_window: str
    write_slices: bool


def prepare_series(job: Job) -> dict | Failure:
    """Write the arrays of a series, then its facts; the facts, or why there are none."""
    cv2.setNumThreads(1)  # one worker a core
    return _or_failure(_prepare, job)


def survey_series(job: Job) -> dict | Failure:
    """The facts of a series and how it is stored, from its headers."""
    return _or_failure(_survey, job)


def _or_failure(function: Callable[[Job], dict], job: Job) -> dict | Failure:
    try:
        return function(job)
    except DicomError as error:
        return Failure(error.reason, error.message)
    except ArtifactError:
        raise  # a full disk stops the run: it would be the same for the next series
    except MemoryError:
        return Failure("too_large", f"series {job.uid} does not fit into the memory of a worker")
    except Exception as error:  # no series may stop the run
        return Failure("unexpected", f"series {job.uid}: {type(error).__name__}: {error}")


def _prepare(job: Job) -> dict:
    data = DataFolder(job.data_dir)
    series = open_series(data.series(job.uid))
    words = read_words(series)
    images = prepared_images(series, words, job.image_size, job.mr_window)
    write_volume(data, job.uid, images, (len(words), job.image_size, job.image_size), job.write_slices)
    facts = facts_of(series)
    artifacts.write_json(data.facts(job.uid), facts, sync=False)  # to wait for the disk would halve the speed
    return facts


def _survey(job: Job) -> dict:
    series = open_series(DataFolder(job.data_dir).series(job.uid))
    syntaxes = {uid_name(piece.file.syntax) for piece in series.slices}
    storage = "multi-frame" if series.slices[0].frame >= 0 else "one file a slice"
    return facts_of(series) | {"syntax": " and ".join(sorted(syntaxes)), "storage": storage}


def read_words_of(series: Series, mr_window: str, choose: Callable[[int], np.ndarray]) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Of an opened series the raw words (h, w) by slice number, and which slices `choose(number of slices)` wants, (k,) ascending.

    Only their words are read, unless the window is of the whole series. A slice that cannot be decoded leaves the series, and the choice is
    made anew; one that is not read is not noticed. Raises DicomError where none can be.
    """
    whole = series.modality != "CT" and mr_window == "percentile"
    length = 0
    while length != len(series.slices):
        length = len(series.slices)
        chosen = choose(length)
        read = np.arange(length) if whole else chosen
        found = read_words(series, read)
    return dict(zip(read.tolist(), found, strict=True)), chosen


def stacked(images: Iterator[np.ndarray], count: int) -> np.ndarray:
    """(count, S, S) of as many images, each put to its place at once."""
    first = next(images)
    out = np.empty((count, *first.shape), first.dtype)
    out[0] = first
    for place, image in enumerate(images, 1):
        out[place] = image
    return out


def prepared_images(
    series: Series, words: Sequence[np.ndarray] | dict[int, np.ndarray], size: int, mr_window: str, chosen: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """(size, size) float16 in 0..TOP, in-plane canonical, of the slices `chosen`, all where None, one by one. words: by slice number."""
    tables = {_meaning(piece): lookup_table(piece) for piece in series.slices}
    window = _window(series, words, tables, mr_window)
    resized = series.shape[1:] != (size, size)
    for key, table in tables.items():
        if table is not None:
            scaled = apply_window(table, window)
            tables[key] = codes_of(scaled) if resized else scaled.astype(np.float16).view(np.int16)
    for index in range(len(series.slices)) if chosen is None else chosen.tolist():
        piece, stored = series.slices[index], words[index]
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


def _window(series: Series, words: Sequence[np.ndarray] | dict[int, np.ndarray], tables: dict, mr_window: str) -> tuple[float, float]:
    if series.modality == "CT":
        return CT_WINDOW
    if mr_window == "fixed":
        return MR_FIXED_WINDOW
    counts = dict.fromkeys(tables, 0)
    found = []  # (values, how often each)
    for index, piece in enumerate(series.slices):
        key, stored = _meaning(piece), words[index]
        if tables[key] is None:
            found.append(np.unique(values(stored, piece), return_counts=True))
        else:
            counts[key] += np.bincount(stored.ravel(), minlength=len(tables[key]))
    found += [(tables[key][count > 0], count[count > 0]) for key, count in counts.items() if tables[key] is not None]
    return percentile_window(*map(np.concatenate, zip(*found, strict=True)))

"""One series: DICOM in, prepared arrays and facts out. What a worker of preprocess_data.py does; no torch here.

The pixels are the same as those of `volume.prepare(read_series(folder), ...)`, made faster: straight from stored words by lookup tables.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from src.artifacts.files import write_json
from src.artifacts.paths import ArtifactError, DataFolder
from src.dicom import DicomError, Series, open_series, read_words
from src.dicom.fields import uid_name
from src.preprocess.array_files import write_volume
from src.preprocess.images import prepared_images
from src.worker_pool import Failure


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
    write_volume(
        data, job.uid, images, (len(words), job.image_size, job.image_size), job.write_slices
    )
    facts = facts_of(series)
    write_json(data.facts(job.uid), facts, sync=False)  # to wait for the disk would halve the speed
    return facts


def _survey(job: Job) -> dict:
    series = open_series(DataFolder(job.data_dir).series(job.uid))
    syntaxes = {uid_name(piece.file.syntax) for piece in series.slices}
    storage = "multi-frame" if series.slices[0].frame >= 0 else "one file a slice"
    return facts_of(series) | {"syntax": " and ".join(sorted(syntaxes)), "storage": storage}


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


def slice_uids(facts: dict[str, dict]) -> dict[str, list[str]]:
    """{uid: SOPInstanceUIDs in slice order}."""
    return {uid: fact["sop_uids"] for uid, fact in facts.items()}


def geometry(facts: dict[str, dict]) -> dict[str, dict[str, np.ndarray]]:
    """{uid: positions (n,) in mm along the normal, NaN where unknown, and stored frames (n,), -1 in single-frame files}."""
    return {
        uid: {
            "positions": np.array(fact["positions"] or [np.nan] * fact["length"], float),
            "frames": np.array(fact["frames"], int),
        }
        for uid, fact in facts.items()
    }

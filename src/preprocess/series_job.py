"""What a worker of preprocess_data.py does with one series: DICOM in, arrays and metadata out."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from src.artifacts.files import write_json
from src.artifacts.paths import DataFolder
from src.dicom import Series, open_series
from src.dicom.fields import uid_name
from src.preprocess.array_files import write_volume
from src.preprocess.images import prepare
from src.worker_pool import Failure, attempt


@dataclass(frozen=True)
class Job:
    """A series to prepare, and how."""

    data_dir: Path
    uid: str
    image_size: int
    mr_window: str
    write_slices: bool


def prepare_series(job: Job) -> dict | Failure:
    """Write the arrays of a series, then its metadata; return the metadata."""
    cv2.setNumThreads(1)  # one worker a core
    return attempt(_prepare, job)


def survey_series(job: Job) -> dict | Failure:
    """Return the metadata of a series and how it is stored, from its headers alone."""
    return attempt(_survey, job)


def _prepare(job: Job) -> dict:
    data = DataFolder(job.data_dir)
    prepared = prepare(open_series(data.series(job.uid)), job.image_size, job.mr_window)
    shape = (len(prepared.numbers), job.image_size, job.image_size)
    write_volume(data, job.uid, prepared.images, shape, job.write_slices)
    metadata = metadata_of(prepared.series)
    # Not synced: to wait for the disk would halve the speed.
    write_json(data.facts(job.uid), metadata, sync=False)
    return metadata


def _survey(job: Job) -> dict:
    series = open_series(DataFolder(job.data_dir).series(job.uid))
    syntaxes = {uid_name(slice_.file.syntax) for slice_ in series.slices}
    storage = "multi-frame" if series.slices[0].frame >= 0 else "one file a slice"
    return metadata_of(series) | {"syntax": " and ".join(sorted(syntaxes)), "storage": storage}


def metadata_of(series: Series) -> dict:
    """Return what later stages and people need to know of a series, as plain values."""
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


def slice_uids(metadata: dict[str, dict]) -> dict[str, list[str]]:
    """Return {uid: SOPInstanceUIDs in slice order} from {uid: metadata}."""
    return {uid: series["sop_uids"] for uid, series in metadata.items()}


def geometry(metadata: dict[str, dict]) -> dict[str, dict[str, np.ndarray]]:
    """Return {uid: {"positions", "frames"}} from {uid: metadata}.

    positions: (n,) float, mm along the normal, NaN where unknown.
    frames: (n,) int, 0-based stored frames, -1 in single-frame files.
    """
    found = {}
    for uid, series in metadata.items():
        positions = series["positions"] or [np.nan] * series["length"]
        found[uid] = {
            "positions": np.array(positions, float),
            "frames": np.array(series["frames"], int),
        }
    return found

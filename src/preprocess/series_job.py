"""What a worker of preprocess_data.py does with one series: DICOM in, arrays and metadata out."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from src.artifacts.files import read_json, read_layout, read_slices, write_json
from src.artifacts.paths import ArtifactError, DataFolder
from src.dicom import open_series
from src.dicom.fields import uid_name
from src.preprocess.array_files import has_arrays, write_volume
from src.preprocess.head import find_head, sample_slices
from src.preprocess.images import prepare
from src.preprocess.metadata import metadata_of
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
    whole = has_arrays(data, job.uid, job.image_size, job.write_slices)
    if whole and not has_head(data, job.uid):  # of an older version
        metadata = read_json(data.facts(job.uid))
    else:
        prepared = prepare(open_series(data.series(job.uid)), job.image_size, job.mr_window)
        shape = (len(prepared.numbers), job.image_size, job.image_size)
        write_volume(data, job.uid, prepared.images, shape, job.write_slices)
        metadata = metadata_of(prepared.series)
    metadata["head"] = _head_of(data, job.uid, metadata)
    # Not synced: to wait for the disk would halve the speed.
    write_json(data.facts(job.uid), metadata, sync=False)
    return metadata


def _head_of(data: DataFolder, uid: str, metadata: dict) -> tuple[float, float] | None:
    """Return the head's centre in the arrays of a series; see `find_head`."""
    numbers = sample_slices(metadata["length"])
    path = data.sequence(uid)
    images = read_slices(path, numbers, layout=read_layout(path))
    return find_head(images, numbers, metadata)


def has_head(data: DataFolder, uid: str) -> bool:
    """Return whether the metadata of a series say where its head is, or that none was found."""
    try:
        head = read_json(data.facts(uid)).get("head", ())
    except ArtifactError:
        return False
    if head is None:
        return True
    return type(head) is list and len(head) == 2 and all(type(at) is float for at in head)


def _survey(job: Job) -> dict:
    series = open_series(DataFolder(job.data_dir).series(job.uid))
    syntaxes = {uid_name(slice_.file.syntax) for slice_ in series.slices}
    storage = "multi-frame" if series.slices[0].frame >= 0 else "one file a slice"
    return metadata_of(series) | {"syntax": " and ".join(sorted(syntaxes)), "storage": storage}


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

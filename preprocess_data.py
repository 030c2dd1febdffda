"""Stage 1 of 8: DICOM series to arrays that are ready for the network.

Reads   data/train.csv                         its PatientID, if it has one, is that of the folds
        data/train_localizers.csv              if it exists: only compared with the labels
        data/overrides.csv                     only --check, if it exists: are its lines right?
        data/series/{SeriesInstanceUID}/       any files; DICOM is recognised by its content

Writes  data/npy_sequence/{uid}.npy            (n, size, size) float16, intensities 0..5,
                                               left is left in every series
        data/npy_sequence/{uid}.json           metadata of the series, written last
        data/npy_sequence/settings.json        how all arrays were made
        data/npy_slice/{uid}/{i:04d}.npy       (size, size) float16, the same images one by one
        data/train_meta.csv                    train.csv and length, h, w, mod, plane,
                                               orientation, spacings, patient_id, and
                                               the head's centre: head_x, head_y, fractions
                                               of the image, empty if none was found
        data/slice_uids_dict.pkl               {uid: SOPInstanceUIDs in slice order}
        data/slice_geometry_dict.pkl           {uid: positions in mm and stored frames}
        data/failed_series.csv                 series that could not be read, and why

CT: HU 0..600 become 0..5. MR: the 1st and 99.8th percentile of the series become 0 and 5.
An interrupted run continues where it stopped. Exit code 0; 3 if some series failed; 1 if none
could be read.
"""

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from src import distributed
from src.artifacts.files import read_json, write_pickle
from src.artifacts.next_stage import after
from src.artifacts.paths import ArtifactError, DataFolder
from src.artifacts.provenance import settle
from src.artifacts.tables import read_train, write_table
from src.preprocess import survey
from src.preprocess.array_files import has_arrays, remove_partial
from src.preprocess.series_job import (
    Job,
    geometry,
    has_head,
    prepare_series,
    slice_uids,
    survey_series,
)
from src.progress import progress
from src.sampling.view import HEAD_COLUMNS
from src.script import OK, SOME_FAILED, run_script
from src.worker_pool import Failure, Limits, run_in_workers

NEEDED = {"length": int, "sop_uids": list, "frames": list}  # of the metadata, by create_folds.py
METADATA_COLUMNS = (
    "length",
    "h",
    "w",
    "mod",
    "plane",
    "orientation",
    "slice_spacing",
    "row_spacing",
    "column_spacing",
    "patient_id",
)


@dataclass
class Config:
    data_dir: Path = Path("data")  # the challenge's tables and series/; results go there, too
    image_size: int = 512  # pixels, rows and columns of every image
    mr_window: Literal["percentile", "fixed"] = "percentile"  # fixed: the published -1200..4000
    write_slices: bool = True  # also one file a slice; without, half the disk is enough
    workers: int = 2  # processes
    shard: str | None = None  # i/n: every n-th series from the i-th; last, a run without it
    check: bool = False  # write no arrays: only report on the data set, in series_report.csv
    time_limit: int = 600  # seconds a series may take
    memory_limit: float = 8.0  # GiB of address space a worker may take


def main(config: Config, submit: Callable = run_in_workers) -> pd.DataFrame:
    """Prepare all series; return those that failed.

    submit: does the jobs as `run_in_workers` does, perhaps elsewhere
        (tools/preprocess_with_dask.py).
    """
    data = DataFolder(config.data_dir)
    train = read_train(data)
    survey.check_tables(data, train, config.check)
    part = config.shard or "1/1"
    uids = distributed.share(train.SeriesInstanceUID.tolist(), part)
    if config.check:
        metadata, failed = run_all(survey_series, config, uids, submit)
        use_given_patients(metadata, train)
        survey.report(data, train, metadata, failed)
        return some_left(failed, uids, data.series_report)

    settings = {"image_size": config.image_size, "mr_window": config.mr_window}
    settle(data.array_settings, settings, "give the same settings, or another --data-dir")
    missing = [uid for uid in uids if not is_done(config, uid)]
    print(f"{len(uids)} series, {len(uids) - len(missing)} of them done before")
    _, failed = run_all(prepare_series, config, missing, submit)
    print(f"{len(uids) - len(failed)} of {len(uids)} series are ready")
    survey.print_failures(failed)
    if config.shard:
        print(f"shard {config.shard} is done; a last run without --shard writes the tables")
        return failed

    write_table(data.failed_series, failed)
    some_left(failed, uids, data.failed_series)
    metadata = write_tables(data, train[~train.SeriesInstanceUID.isin(failed.SeriesInstanceUID)])
    survey.print_doubts(metadata)
    print(f"wrote {data.sequences} and {data.train_meta}")
    return failed


def is_done(config: Config, uid: str) -> bool:
    """Return whether an earlier run has prepared a series."""
    data = DataFolder(config.data_dir)
    whole = has_arrays(data, uid, config.image_size, config.write_slices)
    return whole and has_head(data, uid)


def run_all(
    function: Callable[[Job], dict | Failure], config: Config, uids: list[str], submit: Callable
) -> tuple[dict[str, dict], pd.DataFrame]:
    """Run a job on each series.

    Return {uid: metadata} of the series that succeeded; SeriesInstanceUID, reason and detail of
    the others.
    """
    jobs = [
        Job(config.data_dir, uid, config.image_size, config.mr_window, config.write_slices)
        for uid in uids
    ]
    limits = Limits(config.time_limit, config.memory_limit)
    outcomes = submit(function, jobs, config.workers, limits)
    metadata, failed, slices = {}, [], 0
    try:
        with (
            closing(outcomes),
            progress(None, "preprocess", " series", total=len(jobs)) as bar,
        ):
            for job, outcome in outcomes:
                if isinstance(outcome, Failure):
                    failed.append((job.uid, outcome.reason, outcome.detail))
                else:
                    metadata[job.uid] = outcome
                    slices += outcome["length"]
                bar.update()
                rate = slices / max(bar.format_dict["elapsed"], 1e-3)
                bar.set_postfix_str(f"{rate:.0f} slices/s, {len(failed)} failed", refresh=False)
    finally:
        remove_partial(DataFolder(config.data_dir))
    return metadata, pd.DataFrame(failed, columns=["SeriesInstanceUID", "reason", "detail"])


def some_left(failed: pd.DataFrame, uids: list[str], table: Path) -> pd.DataFrame:
    """Return the failed series; raise ArtifactError if these are all."""
    if len(failed) == len(uids):
        raise ArtifactError(f"none of the {len(uids)} series could be read: see {table}")
    return failed


def write_tables(data: DataFolder, prepared: pd.DataFrame) -> dict[str, dict]:
    """Write the tables that later stages read; return {uid: metadata}.

    prepared: the rows of train.csv whose series are prepared.
    """
    metadata = {uid: read_json(data.facts(uid), NEEDED) for uid in prepared.SeriesInstanceUID}
    use_given_patients(metadata, prepared)
    write_pickle(data.slice_uids, slice_uids(metadata))
    write_pickle(data.geometry, geometry(metadata))
    columns = {name: [series[name] for series in metadata.values()] for name in METADATA_COLUMNS}
    for axis, name in enumerate(HEAD_COLUMNS):
        columns[name] = [series["head"] and series["head"][axis] for series in metadata.values()]
    write_table(data.train_meta, prepared.assign(**columns))
    return metadata


def use_given_patients(metadata: dict[str, dict], train: pd.DataFrame) -> None:
    """Where train.csv has a PatientID, put it in place of that of the series' files."""
    if "PatientID" not in train:
        return
    for uid, patient in zip(train.SeriesInstanceUID, train.PatientID, strict=True):
        if patient and uid in metadata:
            metadata[uid]["patient_id"] = patient


if __name__ == "__main__":
    failed_series = run_script(main, Config, __doc__, following=after(__file__))
    sys.exit(SOME_FAILED if len(failed_series) else OK)

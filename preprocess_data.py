"""Stage 1 of 8: DICOM series to arrays that are ready for the network.

Reads   data/train.csv, data/series/{SeriesInstanceUID}/ (any files; what is DICOM is told by content)

Writes  data/npy_sequence/{uid}.npy            (n, size, size) float16, intensities 0..5, left is left in every series
        data/npy_sequence/{uid}.json           what is known of the series, written last; settings.json: how all were made
        data/npy_slice/{uid}/{i:04d}.npy       (size, size) float16, the same images one by one
        data/train_meta.csv                    train.csv and length, h, w, mod, plane, orientation, spacings, patient_id
        data/slice_uids_dict.pkl               {uid: SOPInstanceUIDs in slice order}
        data/slice_geometry_dict.pkl           {uid: positions in mm and stored frames, in slice order}
        data/failed_series.csv                 series that could not be read, and why

CT: HU 0..600 become 0..5. MR: the 1st and 99.8th percentile of the series become 0 and 5.
A run that was stopped goes on where it was. Ends with 0; with 3 where some series failed; with 1 where none could be read.
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
from src.artifacts.paths import ArtifactError, DataFolder
from src.artifacts.provenance import settle
from src.artifacts.tables import read_train, write_table
from src.preprocess.array_files import has_arrays, remove_partial
from src.preprocess.series_job import Job, geometry, prepare_series, slice_uids, survey_series
from src.preprocess.survey import print_doubts, print_failures, report
from src.progress import progress
from src.script import OK, SOME_FAILED, run_script
from src.worker_pool import Failure, Limits, run_in_workers

FACTS_IN_META = (
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
    data_dir: Path = Path("data")  # the challenge's tables and series/; all results go there, too
    image_size: int = 512  # pixels, rows and columns of every image
    mr_window: Literal["percentile", "fixed"] = (
        "percentile"  # fixed: -1200..4000, for weights trained with the published window
    )
    write_slices: bool = True  # also one file a slice; without, half the disk is enough
    workers: int = 2  # processes
    shard: str | None = (
        None  # i/n: only every n-th series, beginning with the i-th; a last run without it writes the tables
    )
    check: bool = False  # write no arrays: only report what the series are, on screen and in data/series_report.csv
    time_limit: int = 600  # seconds a series may take
    memory_limit: float = 8.0  # GiB of address space a worker may take


def main(config: Config, submit: Callable = run_in_workers) -> pd.DataFrame:
    """The series that failed. submit: has the jobs done, here or elsewhere, as `run_in_workers` does (tools/preprocess_with_dask.py)."""
    data = DataFolder(config.data_dir)
    train = read_train(data)
    part = config.shard or "1/1"
    uids = distributed.share(train.SeriesInstanceUID.tolist(), part)
    if config.check:
        facts, failed = run_all(survey_series, config, uids, submit)
        report(data, train, facts, failed)
        return some_left(failed, uids, data.series_report)

    settings = {"image_size": config.image_size, "mr_window": config.mr_window}
    settle(data.array_settings, settings, "give the same settings, or another --data-dir", part)
    missing = [
        uid for uid in uids if not has_arrays(data, uid, config.image_size, config.write_slices)
    ]
    print(f"{len(uids)} series, {len(uids) - len(missing)} of them done before")
    _, failed = run_all(prepare_series, config, missing, submit)
    print(f"{len(uids) - len(failed)} of {len(uids)} series are ready")
    print_failures(failed)
    if config.shard:
        print(f"shard {config.shard} is done; a last run without --shard writes the tables")
        return failed

    write_table(data.failed_series, failed)
    some_left(failed, uids, data.failed_series)
    facts = write_tables(data, train[~train.SeriesInstanceUID.isin(failed.SeriesInstanceUID)])
    print_doubts(facts)
    return failed


def run_all(
    function: Callable[[Job], dict | Failure], config: Config, uids: list[str], submit: Callable
) -> tuple[dict[str, dict], pd.DataFrame]:
    """({uid: facts} of the series that went well, SeriesInstanceUID, reason and detail of the others)."""
    jobs = [
        Job(config.data_dir, uid, config.image_size, config.mr_window, config.write_slices)
        for uid in uids
    ]
    results = submit(function, jobs, config.workers, Limits(config.time_limit, config.memory_limit))
    facts, failed, slices = {}, [], 0
    try:
        with closing(results), progress(None, "preprocess", " series", total=len(jobs)) as bar:
            for job, outcome in results:
                if isinstance(outcome, Failure):
                    failed.append((job.uid, outcome.reason, outcome.detail))
                else:
                    facts[job.uid] = outcome
                    slices += outcome["length"]
                bar.update()
                bar.set_postfix_str(
                    f"{slices / max(bar.format_dict['elapsed'], 1e-3):.0f} slices/s, {len(failed)} failed",
                    refresh=False,
                )
    finally:
        remove_partial(DataFolder(config.data_dir), [uid for uid in uids if uid not in facts])
    return facts, pd.DataFrame(failed, columns=["SeriesInstanceUID", "reason", "detail"])


def some_left(failed: pd.DataFrame, uids: list[str], table: Path) -> pd.DataFrame:
    """The failed series, unless these are all."""
    if len(failed) == len(uids):
        raise ArtifactError(f"none of the {len(uids)} series could be read: see {table}")
    return failed


def write_tables(data: DataFolder, prepared: pd.DataFrame) -> dict[str, dict]:
    """Gather the facts of the prepared series (rows of train.csv) into the tables that later stages read; the facts."""
    facts = {uid: read_json(data.facts(uid)) for uid in prepared.SeriesInstanceUID}
    write_pickle(data.slice_uids, slice_uids(facts))
    write_pickle(data.geometry, geometry(facts))
    columns = {name: [fact[name] for fact in facts.values()] for name in FACTS_IN_META}
    write_table(data.train_meta, prepared.assign(**columns))
    return facts


if __name__ == "__main__":
    failed_series = run_script(main, Config, __doc__)
    sys.exit(SOME_FAILED if len(failed_series) else OK)

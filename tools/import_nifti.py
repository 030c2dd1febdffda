"""Bring NIfTI angiographies with masks of aneurysms into the challenge's shape.

    python tools/import_nifti.py path/to/ds003949 --out data --check
    python tools/import_nifti.py path/to/ds003949 --out data

Needs the package nibabel: pip install nibabel==5.4.2

Reads   one of these layouts (docs/open_data.md):
        ds003949  OpenNeuro, Lausanne: controls, and patients with masks of lesions
        ds005096  OpenNeuro, Brisbane: patients, of whom one session or two have masks
        adam      the ADAM challenge: */orig/TOF.nii.gz, */aneurysms.nii.gz, */location.txt
        pairs     images/ and masks/ of the same names; scans.csv and points.csv if there are any
        images    every NIfTI file, without annotation: series for tools/predict.py, in no table;
                  only with --layout images

Writes  {out}/series/{SeriesInstanceUID}/{SOPInstanceUID}.dcm
        {out}/train.csv             a row per series; an empty label is unknown
        {out}/train_localizers.csv  a row per aneurysm, with radius_mm and volume_mm3
        {out}/train_ignored.csv     treated aneurysms in series with untreated ones
        {out}/imported/{uid}.json   what was made from which scan
        {out}/imported_scans.csv    the same as a table
        {out}/left_out.csv          scans that are neither positive nor negative, and why
        {out}/failed_import.csv     scans that could not be read, and why

Notes
  - A scan with an aneurysm: presence 1, the 13 locations empty. A healthy one: all 14 labels 0.
    Unannotated scans and those whose aneurysms are all treated are left out.
  - Several data sets can go into one folder, one after the other.
  - An interrupted run continues where it stopped. A scan or mask that has changed is read again.
Exit code 3 if some scans failed.
"""

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.artifacts.atomic import remove_stale
from src.labels import MODALITIES
from src.progress import progress
from src.script import OK, SOME_FAILED, UserError, run_script
from src.text import printable
from src.worker_pool import Failure, Limits, run_in_workers
from tools.nifti.errors import nibabel
from tools.nifti.job import Job, check_scan, import_scan, is_done
from tools.nifti.layouts import READERS, layout_of
from tools.nifti.scans import LeftOut
from tools.nifti.tables import read_records, write_tables

LAYOUTS = ("auto", *READERS)


@dataclass
class Config:
    source: Annotated[Path, tyro.conf.Positional]  # folder of the data set
    out: Path = Path("data")  # for series/ and the tables
    layout: Literal[LAYOUTS] = "auto"  # auto: by its names
    name: str = ""  # of the data set, part of all UIDs; "": the layout's, of pairs the folder's
    modality: Literal[MODALITIES] = "MRA"  # CTA is written as CT, all others as MR
    workers: int = 2  # processes
    check: bool = False  # write nothing: only report on the data set, from headers
    time_limit: int = 600  # seconds a scan may take
    memory_limit: float = 8.0  # GiB of address space a worker may take


@dataclass
class Outcome:
    """What became of the scans."""

    done: dict[str, dict] = field(default_factory=dict)  # {UID: record}
    left_out: list[tuple[str, str]] = field(default_factory=list)  # (scan, reason)
    failed: list[tuple[str, str, str]] = field(default_factory=list)  # (scan, reason, detail)


def main(config: Config) -> Outcome:
    """Import all scans of a data set; return what became of each."""
    nibabel()
    outcome = Outcome()
    jobs = list_jobs(config, outcome)
    if config.check:
        run_all(check_scan, jobs, config, outcome)
        report_check(outcome, jobs)
        return some_left(outcome, jobs)

    waiting = [job for job in jobs if not is_done(job)]
    print(f"{len(jobs)} scans, {len(jobs) - len(waiting)} of them done before")
    try:
        run_all(import_scan, waiting, config, outcome)
    finally:
        remove_stale(config.out / "series")
    current = {job.uid for job in jobs} - {job.uid for job in waiting} | outcome.done.keys()
    records, gone = read_records(config.out, set_name(config), current)
    write_tables(config.out, records, outcome.left_out, outcome.failed)
    report(config.out, records, gone, outcome)
    return some_left(outcome, jobs)


def list_jobs(config: Config, outcome: Outcome) -> list[Job]:
    """Return the scans to import; put those that are left out by names alone into `outcome`."""
    layout = chosen_layout(config)
    jobs, names = [], set()
    for found in READERS[layout](config.source):
        if found.name in names:
            found = LeftOut(found.name, "twice: another file of this name was taken")
        names.add(found.name)
        if isinstance(found, LeftOut):
            outcome.left_out.append((found.name, found.reason))
        else:
            jobs.append(Job(found, set_name(config), config.modality, config.out))
    if not names:
        raise UserError(f"{config.source} holds no scan of the layout {layout}: choose --layout")
    print(f"{config.source}: layout {layout}, {len(names)} scans")
    return jobs


def chosen_layout(config: Config) -> str:
    return layout_of(config.source) if config.layout == "auto" else config.layout


def set_name(config: Config) -> str:
    """Return the name of the data set, which distinguishes its patients from those of others."""
    layout = chosen_layout(config)
    own = layout in ("pairs", "images")
    return config.name or (config.source.resolve().name if own else layout)


def run_all(
    work: Callable[[Job], dict | LeftOut | Failure],
    jobs: list[Job],
    config: Config,
    outcome: Outcome,
) -> None:
    """Do the work on each scan; put what becomes of it into `outcome`."""
    limits = Limits(config.time_limit, config.memory_limit)
    results = run_in_workers(work, jobs, config.workers, limits)
    with closing(results), progress(results, "import", " scans", total=len(jobs)) as bar:
        for job, result in bar:
            if isinstance(result, Failure):
                outcome.failed.append((job.scan.name, result.reason, result.detail))
            elif isinstance(result, LeftOut):
                outcome.left_out.append((result.name, result.reason))
            else:
                outcome.done[job.uid] = result
            bar.set_postfix_str(f"{len(outcome.failed)} failed", refresh=False)
    outcome.failed.sort()
    outcome.left_out.sort()


def report_check(outcome: Outcome, jobs: list[Job]) -> None:
    """Print what the headers say."""
    found = list(outcome.done.values())
    names = {True: "positive", False: "healthy", None: "decided by the mask"}
    good = [job.scan for job in jobs if job.uid in outcome.done]
    said = Counter(names[scan.present] if scan.annotated else "without annotation" for scan in good)
    print(f"{len(good)} of {len(jobs)} scans can be imported: {listed(said)}")
    print(f"patients           {len({record['patient_id'] for record in found})}")
    if found:
        spacings = np.array([record["spacing"] for record in found])  # (n, 3)
        shapes = np.array([record["shape"] for record in found])
        for axis, name in enumerate(("columns", "rows", "slices")):
            low, high = shapes[:, axis].min(), shapes[:, axis].max()
            near, far = spacings[:, axis].min(), spacings[:, axis].max()
            print(f"{name:18s} {low} to {high}, {near:.3f} to {far:.3f} mm apart")
    print_others(outcome)


def report(out: Path, records: dict[str, dict], gone: int, outcome: Outcome) -> None:
    """Print what is in the folder now, and what is not."""
    positive = sum(record["present"] for record in records.values())
    plain = sum(not record["annotated"] for record in records.values())
    lesions = [lesion for record in records.values() for lesion in record["localizers"]]
    print(f"{out}: {len(records)} series, {positive} with an aneurysm, {len(lesions)} localizers")
    if plain:
        print(f"{plain} series without annotation: for tools/predict.py, in no table")
    radii = [lesion["radius_mm"] for lesion in lesions if lesion["radius_mm"] is not None]
    if radii:
        low, middle, high = np.quantile(radii, (0, 0.5, 1))
        print(f"{'radius':18s} {low:.1f} to {high:.1f} mm, median {middle:.1f}")
    notes = Counter(note.lstrip("0123456789 ") for r in records.values() for note in r["notes"])
    for note, count in notes.items():
        print(f"{count} series: {note}")
    if gone:
        print(f"{gone} series of earlier runs are no longer in the source: not in the tables")
    print_others(outcome)


def print_others(outcome: Outcome) -> None:
    """Print how many scans were left out or failed, and why, with an example of each failure."""
    for reason, count in Counter(reason for _, reason in outcome.left_out).items():
        print(f"{count} left out: {printable(reason)}")
    table = pd.DataFrame(outcome.failed, columns=["scan", "reason", "detail"])
    for reason, count in table.reason.value_counts().items():
        example = table[table.reason == reason].iloc[0]
        print(f"{count} failed: {reason}, for example {printable(example.scan)}: {example.detail}")


def listed(counts: Counter) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"


def some_left(outcome: Outcome, jobs: list[Job]) -> Outcome:
    """Return the outcome; raise UserError if all scans failed."""
    if jobs and len(outcome.failed) == len(jobs):
        scan, _, detail = outcome.failed[0]
        raise UserError(f"none of the {len(jobs)} scans can be imported, {scan} because {detail}")
    return outcome


if __name__ == "__main__":
    result = run_script(main, Config, __doc__, interrupted="run it again: it continues")
    sys.exit(SOME_FAILED if result.failed else OK)

"""What a data set holds: tables from the metadata of its series, on screen and as csv."""

import re
from collections import Counter
from collections.abc import Iterable

import pandas as pd

from src.artifacts.paths import DataFolder
from src.artifacts.tables import read_localizers, write_table
from src.labels import LABELS, PRESENT
from src.preprocess.series_job import geometry, slice_uids
from src.sampling import overrides, table_check
from src.sampling.spots import locate_all
from src.text import printable

COUNTED = ["mod", "plane", "orientation", "storage", "syntax"]  # values of these are counted
SPACINGS = ["slice_spacing", "row_spacing", "column_spacing"]
COLUMNS = [*COUNTED, "length", "h", "w", *SPACINGS, "patient_id"]
QUANTILES = (0, 0.05, 0.5, 0.95, 1)


def check_tables(data: DataFolder, train: pd.DataFrame, closely: bool) -> None:
    """Print what is doubtful about labels and localizers, before hours are spent on the series.

    Raise ArtifactError if no localizer can be used.
    closely: print the counts, too, require the localizers of series with an aneurysm, and check
        the corrected labels.
    """
    positives = int(train[LABELS[PRESENT]].sum())
    if not (data.localizers.exists() or (closely and positives)):
        print(f"warning: {data.localizers} is missing: create_folds.py needs it")
        return
    localizers = read_localizers(data)
    if closely:
        train, localizers, _ = overrides.apply(data, train, localizers, str(data.train))
    table_check.report(data.localizers, localizers, train, counts=closely)


def report(
    data: DataFolder, train: pd.DataFrame, metadata: dict[str, dict], failed: pd.DataFrame
) -> None:
    """Print what was found, and write series_report.csv with one row a series."""
    table = series_table(metadata, failed)
    write_table(data.series_report, table)
    print(
        f"{len(metadata)} of {len(metadata) + len(failed)} series can be read, "
        f"{int(table.length.sum())} slices; one row each in {data.series_report}"
    )
    for name in COUNTED:
        print_counts(name, table[name].dropna())
    print_counts("size", (f"{series['h']} x {series['w']}" for series in metadata.values()))
    for name in ("length", "slice_spacing", "row_spacing"):
        quantiles = table[name].quantile(QUANTILES)
        listed = ", ".join(f"{level:.0%}: {value:.2f}" for level, value in quantiles.items())
        print(f"{name:18s} {listed}")
    print_doubts(metadata)
    print_patients(table)
    print_lost_localizers(data, train, metadata)
    print_failures(failed)


def series_table(metadata: dict[str, dict], failed: pd.DataFrame) -> pd.DataFrame:
    """Return one row a series: its metadata, or why it cannot be read."""
    good = pd.DataFrame(list(metadata.values()), columns=COLUMNS)
    good.insert(0, "SeriesInstanceUID", list(metadata))
    good["dropped"] = [dropped_reasons(series) for series in metadata.values()]
    good["warnings"] = ["; ".join(series["warnings"]) for series in metadata.values()]
    return good.merge(failed, on="SeriesInstanceUID", how="outer")


def dropped_reasons(series: dict) -> str:
    """Return the reasons for which files were left out of a series, with their counts."""
    return listed(Counter(reason for _, reason in series["dropped"]))


def print_counts(name: str, values: Iterable) -> None:
    """Print each value and how often it occurs, the most frequent first, in one line."""
    print(f"{name:18s} {listed(Counter(values)) or 'none'}")


def print_doubts(metadata: dict[str, dict]) -> None:
    """Print why files were left out of the series that were read, and what is doubtful."""
    reasons, doubts = Counter(), Counter()
    for series in metadata.values():
        reasons.update(reason for _, reason in series["dropped"])
        doubts.update(kind_of(warning) for warning in series["warnings"])
    print_counts("files left out", reasons)
    print_counts("doubtful series", doubts)


def print_patients(table: pd.DataFrame) -> None:
    """Print how many patients there are, and how many of them have several series."""
    counts = table.patient_id[table.patient_id.fillna("") != ""].value_counts()
    print(f"{'patients':18s} {len(counts)}, {(counts > 1).sum()} of them with several series")


def print_failures(failed: pd.DataFrame) -> None:
    """Print each reason once, with an example."""
    for reason, count in failed.reason.value_counts().items():
        example = printable(failed.detail[failed.reason == reason].iloc[0])
        print(f"{count} failed: {reason}, for example {example}")


def print_lost_localizers(data: DataFolder, train: pd.DataFrame, metadata: dict[str, dict]) -> None:
    """Count the localizers that point to no slice or no pixel."""
    if not data.localizers.exists():
        return
    localizers = read_localizers(data)
    localizers = localizers[localizers.SeriesInstanceUID.isin(train.SeriesInstanceUID)]
    meta = pd.DataFrame.from_dict(metadata, orient="index", columns=None)
    found, dropped = locate_all(localizers, meta, slice_uids(metadata), geometry(metadata))
    lost = listed(Counter(dropped.reason)) or "none"
    print(f"{'localizers':18s} {len(found)} point to a slice; lost: {lost}")


def kind_of(warning: str) -> str:
    """Return a warning without its numbers."""
    return re.sub(r"\d+(\.\d+)?", "#", warning)


def listed(counts: Counter) -> str:
    """Return "value count, value count", the most frequent first."""
    return ", ".join(
        f"{printable(value or 'none')} {count}" for value, count in counts.most_common()
    )

"""What the series of a data set are: tables from the facts of each series (see `series_arrays.facts_of`), on screen and as csv."""

import re
from collections import Counter

import pandas as pd

from src.artifacts.paths import DataFolder
from src.artifacts.tables import read_table, write_table
from src.preprocess.series_job import geometry, slice_uids
from src.sampling.spots import locate_all

COUNTED = ("mod", "plane", "orientation", "storage", "syntax")  # facts whose values are counted
COLUMNS = (
    *COUNTED,
    "length",
    "h",
    "w",
    "slice_spacing",
    "row_spacing",
    "column_spacing",
    "patient_id",
)


def report(
    data: DataFolder, train: pd.DataFrame, facts: dict[str, dict], failed: pd.DataFrame
) -> None:
    """Print what was found and write one row a series."""
    table = series_table(facts, failed)
    write_table(data.series_report, table)
    print(
        f"{len(facts)} of {len(facts) + len(failed)} series can be read, {int(table.length.sum())} slices; one row each in {data.series_report}"
    )
    for name in COUNTED:
        print_counts(name, table[name].dropna())
    print_counts("size", [f"{fact['h']} x {fact['w']}" for fact in facts.values()])
    for name in ("length", "slice_spacing", "row_spacing"):
        print(
            f"{name:18s} "
            + ", ".join(
                f"{share:.0%}: {table[name].quantile(share):.2f}"
                for share in (0, 0.05, 0.5, 0.95, 1)
            )
        )
    print_doubts(facts)
    patients = Counter(fact["patient_id"] for fact in facts.values() if fact["patient_id"])
    print(
        f"{'patients':18s} {len(patients)}, {sum(count > 1 for count in patients.values())} of them with several series"
    )
    print_lost_localizers(data, train, facts)
    print_failures(failed)


def series_table(facts: dict[str, dict], failed: pd.DataFrame) -> pd.DataFrame:
    """One row a series: its facts, or why it cannot be read."""
    good = pd.DataFrame(
        [{name: fact[name] for name in COLUMNS} for fact in facts.values()], columns=COLUMNS
    )
    good.insert(0, "SeriesInstanceUID", list(facts))
    good["dropped"] = [
        _joined(Counter(reason for _, reason in fact["dropped"])) for fact in facts.values()
    ]
    good["warnings"] = ["; ".join(fact["warnings"]) for fact in facts.values()]
    return good.merge(failed, on="SeriesInstanceUID", how="outer")


def print_counts(name: str, values) -> None:
    """One line: each value and how often it occurs, the most frequent first."""
    print(f"{name:18s} {_joined(Counter(values)) or 'none'}")


def print_doubts(facts: dict[str, dict]) -> None:
    """Two lines: files left out of the series that were read, by reason, and what is doubtful in how many series."""
    print_counts(
        "files left out", (reason for fact in facts.values() for _, reason in fact["dropped"])
    )
    print_counts(
        "doubtful series",
        (kind_of(warning) for fact in facts.values() for warning in fact["warnings"]),
    )


def print_failures(failed: pd.DataFrame) -> None:
    """One line a reason, with an example."""
    for reason, count in failed.reason.value_counts().items():
        print(
            f"{count} failed: {reason}, for example {failed.detail[failed.reason == reason].iloc[0]}"
        )


def print_lost_localizers(data: DataFolder, train: pd.DataFrame, facts: dict[str, dict]) -> None:
    """Count the localizers that point to no slice or no pixel."""
    if not data.localizers.exists():
        return
    localizers = read_table(
        data.localizers, ("SeriesInstanceUID", "SOPInstanceUID", "coordinates", "location")
    )
    localizers = localizers[localizers.SeriesInstanceUID.isin(train.SeriesInstanceUID)]
    meta = pd.DataFrame.from_dict(facts, orient="index", columns=None)
    found, dropped = locate_all(localizers, meta, slice_uids(facts), geometry(facts))
    print(
        f"{'localizers':18s} {len(found)} point to a slice; lost: {_joined(Counter(dropped.reason)) or 'none'}"
    )


def kind_of(warning: str) -> str:
    """A warning without its numbers."""
    return re.sub(r"\d+(\.\d+)?", "#", warning)


def _joined(counts: Counter) -> str:
    return ", ".join(f"{value or 'none'} {count}" for value, count in counts.most_common())

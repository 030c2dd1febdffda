"""Stage 2 of 8: deal the series into folds and find the spots.

Reads   data/train_meta.csv, slice_uids_dict.pkl, slice_geometry_dict.pkl (preprocess_data.py), data/train_localizers.csv

Writes  data/train_{N}_folds.csv          train_meta.csv and the fold of each series
        data/train_stage1_{N}_folds.csv   one row a spot: aneurysms, and slices without one
        data/label_dict.pkl               {uid: (n, 14) uint8}, labels of each slice
        data/f_dict_sample.pkl            {uid: slices safe for negatives}
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from src.artifacts.files import read_pickle, write_pickle
from src.artifacts.paths import ArtifactError, DataFolder
from src.artifacts.tables import read_meta, read_table, remove_fold_tables, write_table
from src.labels import LABELS, LOCATIONS, PRESENT
from src.sampling import folds, spots
from src.script import run_script


@dataclass
class Config:
    data_dir: Path = Path("data")  # the challenge's tables and what preprocess_data.py made
    folds: int = 10  # into how many the series are dealt
    seed: int = 42  # of ties between equal series, and of the negative spots' slices


def main(config: Config) -> pd.DataFrame:
    data = DataFolder(config.data_dir)
    meta = read_meta(data)
    slice_uids, geometry = read_pickle(data.slice_uids), read_pickle(data.geometry)
    localizers = read_table(
        data.localizers, ("SeriesInstanceUID", "SOPInstanceUID", "coordinates", "location")
    )
    meta = only_prepared(data, meta)

    meta["fold"] = folds.deal(meta, config.folds, config.seed)
    by_uid = meta.set_index("SeriesInstanceUID", drop=False).rename_axis(None)

    found, dropped = spots.locate_all(localizers, by_uid, slice_uids, geometry)
    labels, safe = label_slices(by_uid, found, dropped)
    table = spots.spot_table(found, by_uid, slice_uids, safe, config.seed)

    remove_fold_tables(data)
    write_pickle(data.labels, labels)
    write_pickle(data.safe_slices, safe)
    write_table(data.spots(config.folds), table)
    write_table(data.folds(config.folds), meta)
    describe(meta, table, dropped)
    return table


def only_prepared(data: DataFolder, meta: pd.DataFrame) -> pd.DataFrame:
    """The series whose arrays are there; the others are counted and left out."""
    there = meta.SeriesInstanceUID.map(lambda uid: data.sequence(uid).exists())
    if not there.any():
        raise ArtifactError(
            f"none of the {len(meta)} series of {data.train_meta} has an array in {data.sequences}: run preprocess_data.py first"
        )
    if not there.all():
        print(
            f"{int((~there).sum())} series have no array in {data.sequences} and are left out, the first is {meta[~there].SeriesInstanceUID.iloc[0]}"
        )
    return meta[there].reset_index(drop=True)


def label_slices(meta: pd.DataFrame, found: list[dict], dropped: pd.DataFrame) -> tuple[dict, dict]:
    """({uid: labels of each slice}, {uid: safe slices}). A series with an aneurysm whose place is not known has no safe slices."""
    lost = set(dropped.SeriesInstanceUID)
    spots_of = {uid: [] for uid in meta.index}
    for spot in found:
        spots_of[spot["SeriesInstanceUID"]].append(spot)
    labels, safe = {}, {}
    for uid, facts in meta.iterrows():
        here = spots_of[uid]
        labels[uid] = spots.slice_labels(facts.length, here)
        unplaced = {label for label in LOCATIONS if facts[label] == 1} - {
            spot["location"] for spot in here
        }
        unknown = uid in lost or unplaced or (facts[LABELS[PRESENT]] == 1 and not here)
        slices = spots.safe_slices(facts.length, [spot["f"] for spot in here])
        if not unknown and (not here or len(slices) > spots.FEWEST_SAFE):
            safe[uid] = slices
    return labels, safe


def describe(meta: pd.DataFrame, table: pd.DataFrame, dropped: pd.DataFrame) -> None:
    """What a person wants to see before training: sizes of the folds, rare labels, dropped localizers."""
    sizes = meta.groupby("fold")[LABELS[PRESENT]].agg(["size", "sum"])
    print("fold    " + " ".join(f"{fold:5d}" for fold in sizes.index))
    print("series  " + " ".join(f"{size:5d}" for size in sizes["size"]))
    print("present " + " ".join(f"{count:5d}" for count in sizes["sum"]))
    for label, missing in (meta.groupby("fold")[list(LABELS)].sum() == 0).sum().items():
        if missing:
            print(f"{label} is missing in {missing} of {len(sizes)} folds: its AUC there is n/a")
    kinds = (
        table.class_id.ne(PRESENT)
        .map({True: "positive", False: "negative"})
        .where(table.f >= 0, "negative beside a positive")
    )
    print(
        f"{len(table)} spots: "
        + ", ".join(f"{count} {kind}" for kind, count in kinds.value_counts().items())
    )
    for reason, count in dropped.reason.value_counts().items():
        print(f"{count} localizers dropped: {reason}")


if __name__ == "__main__":
    run_script(main, Config, __doc__)

"""Stage 2 of 8: deal the series into folds, and list the slices that train_stage1.py trains on.

Reads   data/train_meta.csv, slice_uids_dict.pkl, slice_geometry_dict.pkl (preprocess_data.py)
        data/train_localizers.csv; data/npy_sequence/, which series have arrays
        data/overrides.csv, if it exists: labels that people corrected
        data/train_ignored.csv, if it exists: aneurysms without label; slices near them are no
          negatives

Writes  data/train_{N}_folds.csv           train_meta.csv and the fold of each series
        data/train_stage1_{N}_folds.csv    one row per spot: a slice (column f) with an
                                           aneurysm, or without one
        data/label_dict.pkl                {uid: (n, 14) uint8}, labels of each slice: 0, 1, or
                                           255 where nobody knows
        data/f_dict_sample.pkl             {uid: slices safe for negatives}
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src.artifacts.csv_cells import lines_text
from src.artifacts.files import read_pickle, write_pickle
from src.artifacts.next_stage import after
from src.artifacts.paths import ArtifactError, DataFolder
from src.artifacts.plausible import read_geometry
from src.artifacts.tables import (
    read_ignored,
    read_localizers,
    read_meta,
    remove_fold_tables,
    write_table,
)
from src.labels import LABELS, LOCATIONS, NEGATIVE, PRESENT
from src.sampling import folds, overrides, spots, table_check
from src.script import run_script


@dataclass
class Config:
    data_dir: Path = Path("data")  # the challenge's tables and what preprocess_data.py made
    folds: int = 10  # number of folds
    seed: int = 42  # breaks ties in the dealing; picks the slice of each series without aneurysm
    safe_distance: int = 5  # slices; negatives are farther than this from every aneurysm
    safe_fraction: float = 0.05  # and farther than this fraction of the series' slices
    too_few_safe: int = 5  # a series with an aneurysm needs more safe slices to give negatives


def main(config: Config) -> pd.DataFrame:
    data = DataFolder(config.data_dir)
    meta = read_meta(data)
    slice_uids, geometry = read_pickle(data.slice_uids), read_geometry(data)
    localizers = read_localizers(data)
    meta = only_prepared(data, meta)
    # By the labels before overrides: these move no series to another fold.
    meta["fold"] = folds.deal(meta, config.folds, config.seed)
    meta, localizers, overridden = overrides.apply(
        data, meta, localizers, f"{data.train_meta} that has an array"
    )
    by_uid = meta.set_index("SeriesInstanceUID", drop=False).rename_axis(None)

    table_check.report(data.localizers, localizers, meta)
    found, dropped = spots.locate_all(localizers, by_uid, slice_uids, geometry)
    require_positives(data, meta, found, pd.concat([dropped, overridden]))
    ignored = spots.slices_of(read_ignored(data), slice_uids, geometry)
    labels, safe = label_slices(by_uid, found, dropped, config, ignored)
    table = spots.spot_table(found, by_uid, slice_uids, safe, config.seed)

    remove_fold_tables(data)
    write_pickle(data.labels, labels)
    write_pickle(data.safe_slices, safe)
    write_table(data.spots(config.folds), table)
    write_table(data.folds(config.folds), meta)
    describe(meta, table, pd.concat([dropped, overridden]))
    print(f"wrote {data.folds(config.folds)} and {data.spots(config.folds).name}")
    return table


def only_prepared(data: DataFolder, meta: pd.DataFrame) -> pd.DataFrame:
    """Return the series that have arrays. Raise ArtifactError if none has."""
    exists = meta.SeriesInstanceUID.map(lambda uid: data.sequence(uid).exists())
    if not exists.any():
        raise ArtifactError(
            f"none of the {len(meta)} series of {data.train_meta} has an array in "
            f"{data.sequences}: run preprocess_data.py first"
        )
    if not exists.all():
        first = meta[~exists].SeriesInstanceUID.iloc[0]
        count = int((~exists).sum())
        print(
            f"{count} series have no array in {data.sequences} and are left out, "
            f"the first is {first}"
        )
    return meta[exists].reset_index(drop=True)


def require_positives(
    data: DataFolder, meta: pd.DataFrame, found: list[dict], dropped: pd.DataFrame
) -> None:
    """Raise ArtifactError if no series or no slice with an aneurysm is left to train on."""
    if not (meta[LABELS[PRESENT]] == 1).any():
        raise ArtifactError(
            f"no series of {data.train_meta} has an aneurysm, and nothing can be trained without: "
            f"correct {data.train} and run preprocess_data.py again"
        )
    if not found:
        raise ArtifactError(
            f"{data.localizers} has no localizer that points to a slice "
            f"({'; '.join(dropped_lines(dropped))}): correct it, stage 1 needs aneurysms"
        )


def label_slices(
    meta: pd.DataFrame,
    found: list[dict],
    dropped: pd.DataFrame,
    config: Config,
    ignored: dict[str, list[int]] | None = None,
) -> tuple[dict, dict]:
    """Return {uid: labels of each slice} and {uid: safe slices}.

    A series has no safe slices if one of its localizers was dropped, if one of its labels has no
    localizer, if nobody knows whether it has an aneurysm, or if they are too few beside its
    aneurysms. meta: by SeriesInstanceUID. ignored: {uid: slices of aneurysms without label}.
    """
    spots_of = {uid: [] for uid in meta.index}
    for spot in found:
        spots_of[spot["SeriesInstanceUID"]].append(spot)
    dropped_uids = set(dropped.SeriesInstanceUID)
    labels, safe = {}, {}
    for uid, series in meta.iterrows():
        ours = spots_of[uid]
        known = series[list(LABELS)].to_numpy(float)  # NaN: unknown
        labels[uid] = spots.slice_labels(series.length, ours, known)
        positive = {label for label in LOCATIONS if series[label] == 1}
        unplaced = positive - {spot["location"] for spot in ours}
        nowhere = series[LABELS[PRESENT]] == 1 and not ours
        if uid in dropped_uids or unplaced or nowhere or np.isnan(known[PRESENT]):
            continue
        at = [spot["f"] for spot in ours] + (ignored or {}).get(uid, [])
        slices = spots.safe_slices(series.length, at, config.safe_distance, config.safe_fraction)
        if not ours or len(slices) > config.too_few_safe:
            safe[uid] = slices
    return labels, safe


def describe(meta: pd.DataFrame, table: pd.DataFrame, dropped: pd.DataFrame) -> None:
    """Print sizes of the folds, rare labels, kinds of spots and dropped localizers."""
    sizes = meta.groupby("fold")[LABELS[PRESENT]].agg(["size", "sum"]).astype(int)
    print("fold    " + " ".join(f"{fold:5d}" for fold in sizes.index))
    print("series  " + " ".join(f"{size:5d}" for size in sizes["size"]))
    print("present " + " ".join(f"{count:5d}" for count in sizes["sum"]))
    missing = (meta.groupby("fold")[list(LABELS)].sum() == 0).sum()
    for label, count in missing[missing.between(1, len(sizes) - 1)].items():
        print(f"{label} is missing in {count} of {len(sizes)} folds: its AUC there is n/a")
    nowhere = int((missing == len(sizes)).sum())
    if nowhere:
        print(f"{nowhere} of the 14 labels are missing in all folds: they have no AUC")
    kinds = table.class_id.ne(NEGATIVE).map({True: "positive", False: "negative"})
    kinds = kinds.where(
        table.f != spots.DRAWN, "negative in a series with an aneurysm"
    ).value_counts()
    print(f"{len(table)} spots: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    for line in dropped_lines(dropped):
        print(line)


def dropped_lines(dropped: pd.DataFrame) -> list[str]:
    """Return how many localizers were dropped for each reason, and where they are written."""
    lines_of = dropped.groupby("reason").line.agg(list)
    return [
        f"{len(lines)} localizers dropped: {reason} ({lines_text(lines)})"
        for reason, lines in lines_of.items()
    ]


if __name__ == "__main__":
    run_script(main, Config, __doc__, following=after(__file__))

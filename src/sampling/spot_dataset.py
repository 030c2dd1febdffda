"""Samples of stage 1. A sample depends on (seed, epoch, index) only: not on the number of workers, not on the batch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset, default_collate

from src.artifacts.files import array_layout, read_pickle, read_slices
from src.artifacts.paths import ArtifactError, DataFolder
from src.artifacts.tables import read_folds, read_spots
from src.labels import LABELS, MIRROR, PRESENT
from src.sampling import augment
from src.sampling.loader import empty_images
from src.sampling.slices import (
    DEFAULT_SPACING,
    MIRRORABLE,
    STEPS,
    crop_margin,
    neighbours,
    resized_point,
)
from src.sampling.spots import PUBLISHED_SIDE, window_labels

SIGMA = 3.0  # mm, of the heatmap's Gaussians


@dataclass
class SpotTables:
    """What the samples of stage 1 are made from, beside the arrays."""

    data: DataFolder
    spots: pd.DataFrame  # rows of train_stage1_N_folds.csv
    labels: dict[str, np.ndarray]  # {uid: (n, 14) uint8}
    safe: dict[str, np.ndarray]  # {uid: slices without aneurysm near}
    hard: dict[str, np.ndarray]  # {uid: slices on which an earlier model erred}
    meta: pd.DataFrame  # train_meta.csv by SeriesInstanceUID


class SpotDataset(Dataset):
    """Spots as three neighbouring slices, the 14 labels, and where the aneurysms are.

    Keyed by (epoch, row). With `augmentation` None the spot's own slice with neighbours at step 1; else slice, step, order of the
    neighbours and augmentation are drawn.
    """

    def __init__(
        self,
        tables: SpotTables,
        rows: pd.DataFrame,
        crop: int,
        seed: int,
        augmentation: augment.Augmentation | None,
    ):
        self.tables, self.rows, self.crop, self.seed, self.augmentation = (
            tables,
            rows.to_dict("records"),
            crop,
            seed,
            augmentation,
        )
        positives = tables.spots[tables.spots.class_id != PRESENT]
        groups = positives.groupby("SeriesInstanceUID")
        self.aneurysms = {
            uid: (group.f.to_numpy(), group[["x_512", "y_512"]].to_numpy(np.float64))
            for uid, group in groups
        }  # slices (k,), places (k, 2)
        self.most_points = max((len(slices) for slices, _ in self.aneurysms.values()), default=1)
        self.size = self._check_arrays()
        here = tables.meta.loc[sorted({row["SeriesInstanceUID"] for row in self.rows})]
        self.mirrorable = (here.plane.isin(MIRRORABLE)).to_dict()
        self.sigma = {uid: pixel_sigma(meta, self.size) for uid, meta in here.iterrows()}

    def _check_arrays(self) -> int:
        """Side of the prepared images in pixels. Every array is there, whole, and as long as its labels, before training begins."""
        sizes = set()
        for uid in {row["SeriesInstanceUID"] for row in self.rows}:
            path = self.tables.data.sequence(uid)
            _, shape, dtype = array_layout(path)
            length = len(self.tables.labels[uid])
            if dtype != np.float16 or len(shape) != 3 or shape[0] != length or shape[1] != shape[2]:
                raise ArtifactError(
                    f"{path} holds {shape} {dtype}, not {length} square slices float16: run preprocess_data.py and create_folds.py again"
                )
            sizes.add(shape[1])
        if len(sizes) != 1 or self.crop > min(sizes):
            raise ArtifactError(
                f"the arrays are {sorted(sizes)} pixels wide and the crop is {self.crop}: choose a --crop-size that fits"
            )
        return sizes.pop()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        sample, path, triplet = self._describe(key)
        return sample | {"images": read_slices(path, triplet)}  # (3, S, S) float16

    def __getitems__(self, keys: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """A whole batch, the images read straight to where the loader hands them over."""
        described = [self._describe(key) for key in keys]
        images = empty_images((len(keys), 3, self.size, self.size))  # (B, 3, S, S)
        for out, (_, path, triplet) in zip(images.numpy(), described, strict=True):
            read_slices(path, triplet, out)
        return default_collate([sample for sample, _, _ in described]) | {"images": images}

    def _describe(self, key: tuple[int, int]) -> tuple[dict, Path, np.ndarray]:
        """A sample without its images, and which slices (3,) of which array they are."""
        epoch, index = key
        row = self.rows[index]
        uid = row["SeriesInstanceUID"]
        generator = np.random.default_rng([self.seed, epoch, index])
        slice_, step = (
            (int(row["f"]), 1) if self.augmentation is None else self.draw_slice(row, generator)
        )

        triplet = neighbours(slice_, step, int(row["length"]))
        if self.augmentation is not None and generator.random() < 0.5:
            triplet = triplet[::-1]
        labels = self._window_labels(uid, slice_, step)
        sample = {
            "index": index,
            "points": self._points(uid, slice_, step),
            "sigma": self.sigma[uid],
        }
        if self.augmentation is not None:
            drawn = augment.draw(
                self.augmentation, generator, self.size, self.crop, self.mirrorable[uid]
            )
            sample |= drawn.tensors()
            sample["points"] = drawn.move(sample["points"])
            labels = labels[list(MIRROR)] if drawn.mirrored else labels
        else:
            sample["points"] -= np.float32(crop_margin(self.size, self.crop))
        return (
            sample | {"labels": labels.astype(np.float32)},
            self.tables.data.sequence(uid),
            triplet,
        )

    def truth(self) -> pd.DataFrame:
        """SeriesInstanceUID, slice and the 14 labels of each row as they are evaluated, at step 1."""
        rows = [
            {"SeriesInstanceUID": row["SeriesInstanceUID"], "slice": int(row["f"])}
            for row in self.rows
        ]
        labels = [self._window_labels(row["SeriesInstanceUID"], row["slice"], 1) for row in rows]
        return pd.concat(
            [pd.DataFrame(rows), pd.DataFrame(np.stack(labels), columns=list(LABELS))], axis=1
        )

    def _window_labels(self, uid: str, slice_: int, step: int) -> np.ndarray:
        return window_labels(self.tables.labels[uid], slice_, step)

    def draw_slice(self, row: dict, generator: np.random.Generator) -> tuple[int, int]:
        """Slice and step of a training sample: a positive spot's slice or one beside it, or a slice safe for negatives."""
        uid = row["SeriesInstanceUID"]
        step = STEPS[generator.integers(len(STEPS))]
        if row["class_id"] != PRESENT:
            shift = generator.integers(-1, 2) if generator.random() < 0.5 else 0
            return int(min(max(row["f"] + shift, 0), row["length"] - 1)), step
        choices = self.tables.safe[uid]
        if generator.random() < 0.5 and uid in self.tables.hard:
            hard = np.intersect1d(self.tables.hard[uid], choices)
            choices = hard if len(hard) else choices
        return int(choices[generator.integers(len(choices))]), step

    def _points(self, uid: str, slice_: int, step: int) -> np.ndarray:
        """x, y of the aneurysms within the label window, in pixels of the prepared image: (most_points, 2) float32, the rest NaN."""
        points = np.full((self.most_points, 2), np.nan, np.float32)
        if uid in self.aneurysms:
            slices, places = self.aneurysms[uid]
            near = places[np.abs(slices - slice_) <= step]
            points[: len(near)] = resized_point(near, PUBLISHED_SIDE, self.size)
        return points


def pixel_sigma(meta: pd.Series, size: int) -> np.ndarray:
    """The heatmap's sigma along x and y in pixels of the prepared image: (2,) float32."""
    row_spacing = meta.row_spacing if meta.row_spacing > 0 else DEFAULT_SPACING[1]
    column_spacing = meta.column_spacing if meta.column_spacing > 0 else DEFAULT_SPACING[2]
    width, height = meta.w * column_spacing, meta.h * row_spacing  # mm
    if "T" in meta.orientation:
        width, height = height, width
    return np.array([SIGMA * size / width, SIGMA * size / height], np.float32)


def read_spot_tables(data: DataFolder) -> SpotTables:
    """All tables that stage 1 reads; f_dict_hard.pkl where it is there."""
    meta = read_folds(data).set_index("SeriesInstanceUID", drop=False)
    hard = read_pickle(data.hard_slices) if data.hard_slices.exists() else {}
    return SpotTables(
        data, read_spots(data), read_pickle(data.labels), read_pickle(data.safe_slices), hard, meta
    )


def training_rows(spots: pd.DataFrame, fold: int) -> pd.DataFrame:
    """Spots outside the held-out fold: every row once, the positives once more."""
    outside = spots[spots.fold != fold]
    return pd.concat([outside[outside.class_id != PRESENT], outside], ignore_index=True)


def held_out_rows(spots: pd.DataFrame, fold: int) -> pd.DataFrame:
    """Spots of the held-out fold that are evaluated: those whose slice is fixed, each slice once."""
    rows = spots[(spots.fold == fold) & (spots.f >= 0)]
    return rows.drop_duplicates(["SeriesInstanceUID", "f"]).reset_index(drop=True)

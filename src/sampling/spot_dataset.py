"""Samples of stage 1. A sample depends on (seed, epoch, index) only, not on workers or batches."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset, default_collate

from src.artifacts.files import array_layout, read_pickle, read_slices
from src.artifacts.paths import ArtifactError, DataFolder
from src.artifacts.plausible import require_finite
from src.artifacts.tables import read_folds, read_spots
from src.labels import LABELS, MIRROR, NEGATIVE
from src.sampling import augment, slices
from src.sampling.loader import empty_images
from src.sampling.slices import MIRRORABLE, STEPS, step_counts
from src.sampling.spots import PUBLISHED_SIDE, window_labels, with_nan
from src.sampling.view import View, require_heads, view_of_row


@dataclass
class SpotTables:
    """What the samples of stage 1 are made from, beside the arrays."""

    data: DataFolder
    spots: pd.DataFrame  # rows of train_stage1_N_folds.csv
    labels: dict[str, np.ndarray]  # {uid: (n, 14) uint8}, 255 where nobody knows
    safe: dict[str, np.ndarray]  # {uid: slices far from every aneurysm}
    hard: dict[str, np.ndarray]  # {uid: slices on which an earlier model erred}
    meta: pd.DataFrame  # train_N_folds.csv by SeriesInstanceUID


class SpotDataset(Dataset):
    """Spots as three neighbouring slices, the 14 labels and the aneurysms' points.

    Keyed by (epoch, row). Slice, step, order of the neighbours and augmentation are drawn; with
    `augmentation` None the sample is the spot's own slice at the first step.
    sigma_mm: of the heatmap's Gaussians; only training needs it.
    view_mm, step_mm: mm that the crop spans, and to the neighbours; 0: as published.
    """

    def __init__(
        self,
        tables: SpotTables,
        rows: pd.DataFrame,
        crop: int,
        seed: int,
        augmentation: augment.Augmentation | None,
        sigma_mm: float | None = None,
        view_mm: float = 0.0,
        step_mm: tuple[float, float] = (0.0, 0.0),
    ):
        self.tables, self.rows, self.crop = tables, rows.to_dict("records"), crop
        self.seed, self.augmentation = seed, augmentation
        positives = tables.spots[tables.spots.class_id != NEGATIVE]
        groups = positives.groupby("SeriesInstanceUID")[["f", "x_512", "y_512"]]
        self.aneurysms = {uid: group.to_numpy(np.float64) for uid, group in groups}  # (k, 3)
        self.most_points = max(map(len, self.aneurysms.values()), default=1)
        self.size = self._check_arrays()
        meta = tables.meta.loc[rows.SeriesInstanceUID.unique()]
        require_heads(meta, view_mm)
        self.mirrorable = meta.plane.isin(MIRRORABLE).to_dict()
        self.views: dict[str, View] = {}
        self.steps: dict[str, tuple[int, int]] = {}  # slices to the neighbours, at either step
        self.sigma: dict[str, np.ndarray] = {}  # (2,) each
        for uid, series in meta.iterrows():
            self.views[uid] = view_of_row(series, self.size, crop, view_mm)
            self.steps[uid] = step_counts(step_mm, series.slice_spacing)
            if sigma_mm is not None:
                self.sigma[uid] = pixel_sigma(series, self.views[uid], sigma_mm)

    def _check_arrays(self) -> int:
        """Return the images' side in pixels. Raise ArtifactError if an array does not fit."""
        sizes = set()
        for uid in {row["SeriesInstanceUID"] for row in self.rows}:
            path = self.tables.data.sequence(uid)
            _, shape, dtype = array_layout(path)
            if uid not in self.tables.labels:
                raise ArtifactError(
                    f"series {uid} is not in {self.tables.data.labels}: run create_folds.py again"
                )
            length = len(self.tables.labels[uid])
            if dtype != np.float16 or len(shape) != 3 or shape[0] != length or shape[1] != shape[2]:
                raise ArtifactError(
                    f"{path} holds {shape} {dtype}, not {length} square slices float16: "
                    "run preprocess_data.py and create_folds.py again"
                )
            sizes.add(shape[1])
        if len(sizes) != 1 or self.crop > min(sizes):
            raise ArtifactError(
                f"the arrays are {sorted(sizes)} pixels wide and the crop is {self.crop}: "
                "choose a --crop-size that fits"
            )
        return sizes.pop()

    def outside(self) -> tuple[int, int]:
        """Return how many aneurysms an evaluated crop does not show, and of how many."""
        outside, count = 0, 0
        for uid, view in self.views.items():
            aneurysms = self.aneurysms.get(uid, np.empty((0, 3)))  # f, x, y
            points = view.to_crop(slices.resized_point(aneurysms[:, 1:], PUBLISHED_SIDE, self.size))
            outside += int(((points < -0.5) | (points > self.crop - 0.5)).any(axis=1).sum())
            count += len(aneurysms)
        return outside, count

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        sample, path, triplet = self._describe(key)
        images = require_finite(read_slices(path, triplet), path)
        return sample | {"images": images}  # (3, S, S) float16

    def __getitems__(self, keys: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """Return a whole batch, its images read directly into the memory of the batch."""
        images = empty_images((len(keys), 3, self.size, self.size))  # (B, 3, S, S) float16
        samples = []
        for key, out in zip(keys, images.numpy(), strict=True):
            sample, path, triplet = self._describe(key)
            require_finite(read_slices(path, triplet, out), path)
            samples.append(sample)
        return default_collate(samples) | {"images": images}

    def uid_of(self, row: int) -> str:
        return self.rows[row]["SeriesInstanceUID"]

    def _describe(self, key: tuple[int, int]) -> tuple[dict, Path, np.ndarray]:
        """Return a sample without its images, their array and their slices (3,)."""
        epoch, index = key
        row = self.rows[index]
        uid = row["SeriesInstanceUID"]
        slice_, step = int(row["f"]), self.steps[uid][0]
        generator = np.random.default_rng([self.seed, epoch, index])
        if self.augmentation is not None:
            slice_, step = self.draw_slice(row, generator)
        triplet = slices.neighbours(slice_, step, int(row["length"]))
        labels = window_labels(self.tables.labels[uid], slice_, step)
        points = self._points(uid, slice_, step)

        sample = {"index": index}
        if uid in self.sigma:
            sample["sigma"] = self.sigma[uid]
        view = self.views[uid]
        if self.augmentation is None:
            points = view.to_crop(points).astype(np.float32)
            if view.in_mm:
                sample["matrix"] = view.matrix
        else:
            triplet = triplet[::-1] if generator.random() < 0.5 else triplet
            mirrorable = self.mirrorable[uid]
            drawn = augment.draw(
                self.augmentation,
                generator,
                self.size,
                self.crop,
                mirrorable,
                view,
                points=points,
                margin=max(sample.get("sigma", (0.0, 0.0))),
            )
            sample |= vars(drawn)
            points = drawn.move(points)
            labels = labels[list(MIRROR)] if drawn.mirrored else labels
        sample |= {"points": points, "labels": with_nan(labels).astype(np.float32)}
        return sample, self.tables.data.sequence(uid), triplet

    def truth(self) -> pd.DataFrame:
        """Return SeriesInstanceUID, slice and the 14 labels of each row, as evaluated."""
        table = pd.DataFrame(self.rows, columns=["SeriesInstanceUID", "f"])
        table = table.rename(columns={"f": "slice"}).astype({"slice": int})
        windows = [
            window_labels(self.tables.labels[uid], f, self.steps[uid][0])
            for uid, f in table.to_numpy()
        ]
        labels = pd.DataFrame(with_nan(np.stack(windows)), columns=list(LABELS))
        return pd.concat([table, labels], axis=1)

    def draw_slice(self, row: dict, generator: np.random.Generator) -> tuple[int, int]:
        """Draw a slice, and how many slices away its neighbours are.

        The slice is at or beside a positive's; of a negative a safe one.
        """
        uid = row["SeriesInstanceUID"]
        step = self.steps[uid][STEPS[generator.integers(len(STEPS))] - 1]
        if row["class_id"] != NEGATIVE:
            shift = generator.integers(-1, 2) if generator.random() < 0.5 else 0
            return int(min(max(row["f"] + shift, 0), row["length"] - 1)), step
        choices = self.tables.safe[uid]
        if generator.random() < 0.5 and uid in self.tables.hard:
            hard = np.intersect1d(self.tables.hard[uid], choices)
            choices = hard if len(hard) else choices
        return int(choices[generator.integers(len(choices))]), step

    def _points(self, uid: str, slice_: int, step: int) -> np.ndarray:
        """Return x, y of the aneurysms in the label window: (most_points, 2) float32, or NaN."""
        points = np.full((self.most_points, 2), np.nan, np.float32)
        aneurysms = self.aneurysms.get(uid, np.empty((0, 3)))  # f, x, y
        near = aneurysms[np.abs(aneurysms[:, 0] - slice_) <= step, 1:]
        points[: len(near)] = slices.resized_point(near, PUBLISHED_SIDE, self.size)
        return points


def pixel_sigma(meta: pd.Series, view: View, sigma_mm: float) -> np.ndarray:
    """Return the heatmap's sigma along x and y in virtual pixels: (2,) float32.

    Raise ArtifactError if it is not a positive number.
    """
    sigma = (sigma_mm * view.size / view.extent).astype(np.float32)
    if not (np.isfinite(sigma) & (sigma > 0)).all():
        raise ArtifactError(
            f"series {meta.SeriesInstanceUID}: {sigma_mm} mm of its {meta.h} x {meta.w} images are "
            f"{sigma.tolist()} pixels: give another --sigma-mm, or run preprocess_data.py again"
        )
    return sigma


def read_spot_tables(data: DataFolder) -> SpotTables:
    """Read all tables of stage 1; f_dict_hard.pkl only if it exists."""
    labels, safe = read_pickle(data.labels), read_pickle(data.safe_slices)
    hard = read_pickle(data.hard_slices) if data.hard_slices.exists() else {}
    meta = read_folds(data).set_index("SeriesInstanceUID", drop=False)
    return SpotTables(data, read_spots(data), labels, safe, hard, meta)


def training_rows(spots: pd.DataFrame, fold: int) -> pd.DataFrame:
    """Return the spots outside the held-out fold, the positives twice."""
    outside = spots[spots.fold != fold]
    return pd.concat([outside[outside.class_id != NEGATIVE], outside], ignore_index=True)


def held_out_rows(spots: pd.DataFrame, fold: int) -> pd.DataFrame:
    """Return the evaluated spots of the held-out fold: the slice is fixed, each slice once."""
    rows = spots[(spots.fold == fold) & (spots.f >= 0)]
    return rows.drop_duplicates(["SeriesInstanceUID", "f"]).reset_index(drop=True)

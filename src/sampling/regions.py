"""Where in the head the aneurysms of each location lie, learned from localizers.

A place is measured in mm to the patient's left, back and head from the centre of the network's
view. In a view in mm that is the head's; where the head was not found, nothing is said. Across the
slices only the left counts, from the middle of a sagittal stack, which shows both halves of the
head unless it is thin.

To the left all planes share one table of the 13 locations; other axes have one a plane, since what
is visible of a head has another centre there. A table holds mean, scale and degrees of freedom of
Student's t of each location: of a normal distribution that has been seen in n localizers, what
the next one is expected to be (Gelman et al., Bayesian Data Analysis, 3rd edition, section 3.3).
With few localizers it is wide, and far from all of them it is never 0.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from src.labels import LOCATIONS, MIRROR
from src.sampling.slices import resized_point, spacing_or_default
from src.sampling.spots import PUBLISHED_SIDE
from src.sampling.view import HEAD_COLUMNS, View, require_heads, view_of_row

FEWEST = 5  # localizers of an axis, for a table
OF_MEAN, OF_VARIANCE = 0.5, 2.0  # localizers that the prior, all locations together, is worth
FARTHEST = 150.0  # mm of a place from the middle of the head; what is farther is an error
LEAST_STACK = 60.0  # mm of a sagittal stack; a thinner one may show one half of the head
LEFT = "left"
EACH = np.arange(len(LOCATIONS))
MIRRORED = np.array(MIRROR[: len(LOCATIONS)])


class Stack(NamedTuple):
    """The slices of a series."""

    length: int
    between: float | None  # mm between them, None or NaN if unknown


def from_centre(
    plane: str, view: View, points: np.ndarray, slices: np.ndarray, stack: Stack
) -> dict[str, np.ndarray]:
    """Return the mm (k,) of each axis of places in a series; empty if its plane is unknown.

    points: (k, 2) x and y in pixels of the crop. slices: (k,) their numbers.
    """
    across, down = ((points - (view.crop - 1) / 2) * view.pixel_mm).T
    axes = {
        "axial": {LEFT: across, "axial back": down},
        "coronal": {LEFT: across, "coronal head": -down},
        "sagittal": {"sagittal back": across, "sagittal head": -down},
    }
    found = axes.get(plane, {})
    between, _, _ = spacing_or_default((stack.between, None, None))
    if plane == "sagittal" and stack.length * between >= LEAST_STACK:
        found[LEFT] = (np.asarray(slices) - (stack.length - 1) / 2) * between
    return found


def learn(
    series: pd.DataFrame, spots: pd.DataFrame, size: int, crop: int, view_mm: float
) -> dict[str, list]:
    """Return the tables (13, 3), as lists, of all axes with enough localizers.

    series: rows of train_{N}_folds.csv to learn from; spots: train_stage1_{N}_folds.csv, whole.
    size, crop, view_mm: of the network's images and its view.
    Raise ArtifactError if a view in mm lacks the heads' centres.
    """
    tables = {}
    for axis, (values, labels) in places_of(series, spots, size, crop, view_mm).items():
        likely = np.abs(values) < FARTHEST
        values, labels = values[likely], labels[likely]
        if len(values) >= FEWEST and np.ptp(values) > 0:
            tables[axis] = _table(values, labels, axis == LEFT).tolist()
    return tables


def places_of(
    series: pd.DataFrame, spots: pd.DataFrame, size: int, crop: int, view_mm: float
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the mm and the labels, both (n,), of the localizers of each axis. See `learn`."""
    require_heads(series, view_mm)
    located = spots[spots.class_id.between(0, len(LOCATIONS) - 1)].groupby("SeriesInstanceUID")
    parts: dict[str, list] = {}
    for _, row in series[series.SeriesInstanceUID.isin(located.groups)].iterrows():
        if view_mm and row[HEAD_COLUMNS].isna().any():
            continue
        own = located.get_group(row.SeriesInstanceUID)
        points = resized_point(own[["x_512", "y_512"]].to_numpy(float), PUBLISHED_SIDE, size)
        view = view_of_row(row, size, crop, view_mm)
        stack = Stack(row.length, row.slice_spacing)
        places = from_centre(row.plane, view, view.to_crop(points), own.f.to_numpy(), stack)
        for axis, values in places.items():
            parts.setdefault(axis, []).append((values, own.class_id.to_numpy(int)))
    return {
        axis: tuple(np.concatenate(column) for column in zip(*pairs, strict=True))
        for axis, pairs in parts.items()
    }


def _table(values: np.ndarray, labels: np.ndarray, is_left: bool) -> np.ndarray:
    """Return mean, scale and degrees of freedom (13, 3) of each location.

    A mirrored head is as likely: each localizer counts for its location and, mirrored, for the one
    on the other side. values: (n,) mm; labels: (n,) their locations.
    """
    values = np.concatenate([values, -values if is_left else values])  # (2 n,)
    labels = np.concatenate([labels, MIRRORED[labels]])
    middle, variance = values.mean(), values.var()
    of_label = (labels[:, None] == EACH).astype(float)  # (2 n, 13)
    of_label[:, MIRRORED == EACH] /= 2  # midline: both copies are of the same location
    counts = of_label.sum(axis=0)  # (13,)
    means = values @ of_label / np.maximum(counts, 1)
    squares = ((values[:, None] - means) ** 2 * of_label).sum(axis=0)

    weight, freedom = OF_MEAN + counts, OF_VARIANCE + counts
    squares += OF_VARIANCE * variance + OF_MEAN * counts / weight * (means - middle) ** 2
    expected = (OF_MEAN * middle + counts * means) / weight
    scale = np.sqrt(squares / freedom * (weight + 1) / weight)
    return np.stack([expected, scale, freedom], axis=1)


def names_there(
    regions: dict[str, list], places: dict[str, np.ndarray], probabilities: np.ndarray
) -> np.ndarray:
    """Return the probabilities (k, 13) of an aneurysm's location, given its place, too.

    By Bayes: what the network says of the features there, times how often aneurysms of a location
    lie there, if that is known. The 13 add up to 1.

    regions: of `learn`. places: of `from_centre`. probabilities: (k, 13) by the features.
    """
    logs = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)).astype(np.float64)
    for axis in sorted(places.keys() & regions.keys()):
        logs += log_density(places[axis][:, None], *np.array(regions[axis]).T)
    likely = np.exp(logs - logs.max(axis=1, keepdims=True))
    return likely / likely.sum(axis=1, keepdims=True)


def log_density(
    values: np.ndarray, mean: np.ndarray, scale: np.ndarray, freedom: np.ndarray
) -> np.ndarray:
    """Return the logarithm of the density of Student's t; scipy.stats takes a second to import."""
    from scipy.special import gammaln

    peak = gammaln((freedom + 1) / 2) - gammaln(freedom / 2) - np.log(freedom * np.pi) / 2
    distance = ((values - mean) / scale) ** 2 / freedom
    return peak - np.log(scale) - (freedom + 1) / 2 * np.log1p(distance)

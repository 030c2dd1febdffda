"""Where in the head the aneurysms of each location lie, learned from localizers.

A place is measured in mm to the patient's left, back and head. In the image it is measured from the
centre of the network's view, which is that of the head. Across the slices only the left counts,
from the middle of the stack: sagittal series show both halves of the head.

To the left all planes have one table of the 13 locations; the rest is of each plane its own, since
what is visible of a head has another centre there. A table holds mean, scale and degrees of freedom
of Student's t of each location: of a normal distribution that has been seen in n localizers, what
the next one is expected to be (Gelman et al., Bayesian Data Analysis, 3rd edition, section 3.3).
With few localizers it is wide, and far from all of them it is never 0.
"""

import numpy as np
import pandas as pd

from src.labels import LOCATIONS, MIRROR, NEGATIVE, NOT_LOCATED
from src.sampling.slices import resized_point, spacing_or_default
from src.sampling.spots import PUBLISHED_SIDE
from src.sampling.view import View, view_of_row

FEWEST = 5  # localizers of an axis, for a table
OF_MEAN, OF_VARIANCE = 0.5, 2.0  # localizers that the prior, all locations together, is worth
LEFT = "left"
EACH = np.arange(len(LOCATIONS))
MIRRORED = np.array(MIRROR[: len(LOCATIONS)])


def from_centre(
    plane: str, view: View, points: np.ndarray, along: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the mm (k,) of each axis of places on the slices of a series; none in no plane.

    points: (k, 2) x and y in pixels of the crop. along: (k,) of `along_stack`.
    """
    across, down = ((points - (view.crop - 1) / 2) * view.pixel_mm).T
    axes = {
        "axial": {LEFT: across, "axial back": down},
        "coronal": {LEFT: across, "coronal head": -down},
        "sagittal": {LEFT: along, "sagittal back": across, "sagittal head": -down},
    }
    return axes.get(plane, {})


def along_stack(slices: np.ndarray, length: int, between: float | None) -> np.ndarray:
    """Return the mm (k,) of slices along their normal from the middle of `length` slices."""
    spacing, _, _ = spacing_or_default((between, None, None))
    return (np.asarray(slices) - (length - 1) / 2) * spacing


def learn(
    series: pd.DataFrame, spots: pd.DataFrame, size: int, crop: int, view_mm: float
) -> dict[str, list]:
    """Return the tables (13, 3), as lists, of all axes with enough localizers.

    series: rows of train_{N}_folds.csv to learn from; spots: train_stage1_{N}_folds.csv, whole.
    size, crop, view_mm: of the network's images and its view.
    """
    located = spots[~spots.class_id.isin([NEGATIVE, NOT_LOCATED])].groupby("SeriesInstanceUID")
    found: dict[str, list] = {}
    for _, row in series[series.SeriesInstanceUID.isin(located.groups)].iterrows():
        own = located.get_group(row.SeriesInstanceUID)
        points = resized_point(own[["x_512", "y_512"]].to_numpy(float), PUBLISHED_SIDE, size)
        view = view_of_row(row, size, crop, view_mm)
        along = along_stack(own.f.to_numpy(), row.length, row.slice_spacing)
        places = from_centre(row.plane, view, view.to_crop(points), along)
        for axis, values in places.items():
            found.setdefault(axis, []).append([values, own.class_id.to_numpy()])
    tables = {}
    for axis, parts in found.items():
        values, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
        if len(values) >= FEWEST and np.ptp(values) > 0:
            tables[axis] = _table(values, labels, axis == LEFT).tolist()
    return tables


def _table(values: np.ndarray, labels: np.ndarray, is_left: bool) -> np.ndarray:
    """Return mean, scale and degrees of freedom (13, 3) of each location.

    A mirrored head is as likely: each localizer counts for its location and, mirrored, for the one
    on the other side. values: (n,) mm; labels: (n,) their locations.
    """
    values = np.concatenate([values, -values if is_left else values])  # (2 n,)
    labels = np.concatenate([labels, MIRRORED[labels]])
    middle, variance = values.mean(), values.var()
    of_label = (labels[:, None] == EACH).astype(float)  # (2 n, 13)
    of_label[:, MIRRORED == EACH] /= 2  # they are in it twice
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
    lie there; the 13 add up to 1. Without a table of any axis they stay as they are.

    regions: of `learn`. places: of `from_centre`. probabilities: (k, 13) by the features.
    """
    known = places.keys() & regions.keys()
    if not known:
        return probabilities
    logs = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)).astype(np.float64)
    for axis in sorted(known):
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

"""The figure of sampling: from which slices of two series stage 1 draws, and what it drew."""

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from src.artifacts.files import read_slices
from src.labels import PRESENT
from src.sampling.slices import neighbours, resized_point, step_counts
from src.sampling.spot_dataset import SpotDataset, SpotTables, held_out_rows, training_rows
from src.sampling.spots import PUBLISHED_SIDE
from tools.figures import canvas
from tools.figures.canvas import GREY, INK, LIGHT, OTHER, PAPER, SMALL, SOFT_OTHER, SOFT_TRUE, TRUE

SEED = 44  # of train_stage1.py
AS_PUBLISHED = (0.0, 0.0)  # mm to the neighbours: 1 and 2 slices
THUMBNAILS = 10
SCORED = "scored"
MOST_SAMPLES, MOST_EPOCHS = 12, 8  # drawn in a series, beside those that are scored
MOST_NUMBERS = 36  # on the slice axis; in longer series the pictures have them

LANE = 0.165  # inches, height of a sample; the unit of the vertical axis
RIBBON = (0.9, 2.4)  # lanes, bottom and top of the row of numbered slices
PICTURES = (3.3, 8.7)  # lanes, bottom and top


class Zone(IntEnum):
    """What a slice is to the sampler; a later one overrides an earlier one."""

    MARGIN = 0
    WINDOW = 1
    ANEURYSM = 2
    SAFE = 3
    HARD = 4


STYLES = {  # zone: (colour of its cell, of its number)
    Zone.MARGIN: (LIGHT, INK),
    Zone.WINDOW: (SOFT_TRUE, INK),
    Zone.ANEURYSM: (TRUE, "white"),
    Zone.SAFE: (SOFT_OTHER, INK),
    Zone.HARD: (OTHER, "white"),
}
KEY = {  # name: (zone, meaning)
    "aneurysm": (Zone.ANEURYSM, "a localizer points here; positives: this slice or one beside it"),
    "label window": (Zone.WINDOW, "a sample that reaches the aneurysm from here has its labels"),
    "margin": (Zone.MARGIN, "too near for a negative, too far for a positive: nothing is drawn"),
    "safe": (Zone.SAFE, "no aneurysm near: negatives are drawn from anywhere here"),
    "hard": (Zone.HARD, "safe, but an earlier network erred here: half of the negatives"),
    "sample": (
        None,
        "a slice, its neighbours at step 1 or 2; orange: positive, blue: negative",
    ),
    SCORED: (None, "the samples of a held-out series, always the same"),
}


@dataclass
class SliceAxis:
    """A series as the sampler sees it."""

    series: pd.Series  # its row of train_meta.csv
    zones: np.ndarray  # (n,) Zone of each slice
    samples: pd.DataFrame  # see `drawn_samples`
    shown: np.ndarray  # (k,) slices that are pictured
    images: np.ndarray  # (k, S, S) float16 in 0..TOP
    points: pd.DataFrame  # f, x, y of the aneurysms, x and y in pixels of the images


def look(tables: SpotTables, uid: str, step_mm: tuple[float, float] = AS_PUBLISHED) -> SliceAxis:
    """Return the zones, samples and pictures of a series; step_mm: as trained."""
    zones = zones_of(tables, uid, step_mm)
    shown = pictured(zones)
    images = read_slices(tables.data.sequence(uid), shown)
    spots = tables.spots[tables.spots.SeriesInstanceUID == uid]
    spots = spots[spots.class_id != PRESENT]
    points = resized_point(spots[["x_512", "y_512"]], PUBLISHED_SIDE, images.shape[-1])
    points = points.set_axis(["x", "y"], axis=1).assign(f=spots.f)
    samples = drawn_samples(tables, uid, step_mm)
    return SliceAxis(tables.meta.loc[uid], zones, samples, shown, images, points)


def zones_of(
    tables: SpotTables, uid: str, step_mm: tuple[float, float] = AS_PUBLISHED
) -> np.ndarray:
    """Return the Zone of each slice of a series, (n,)."""
    distance = distance_to_aneurysm(tables, uid)
    reach = max(step_counts(step_mm, tables.meta.slice_spacing[uid]))
    zones = np.where(distance <= reach, Zone.WINDOW, Zone.MARGIN)
    zones[distance == 0] = Zone.ANEURYSM
    nothing = np.empty(0, int)
    safe = tables.safe.get(uid, nothing)
    zones[safe] = Zone.SAFE
    zones[np.intersect1d(safe, tables.hard.get(uid, nothing))] = Zone.HARD
    return zones


def distance_to_aneurysm(tables: SpotTables, uid: str) -> np.ndarray:
    """Return the slices from each slice of a series to the nearest one with an aneurysm, (n,)."""
    with_aneurysm = np.flatnonzero((tables.labels[uid] == 1).any(axis=1))
    slices = np.arange(len(tables.labels[uid]))
    return np.abs(slices[:, None] - with_aneurysm).min(axis=1, initial=len(slices))


def drawn_samples(
    tables: SpotTables, uid: str, step_mm: tuple[float, float] = AS_PUBLISHED
) -> pd.DataFrame:
    """Return the samples of the first epochs, bit for bit, and those that are scored.

    The epochs are those of a training that holds out the next fold.
    Columns: name (of the epoch), slice, step, positive (whether the sample has a label).
    """
    own = tables.meta.fold[uid]
    rows = training_rows(tables.spots, (own + 1) % (tables.meta.fold.max() + 1))
    rows = rows[rows.SeriesInstanceUID == uid]
    dataset = SpotDataset(tables, rows, crop=1, seed=SEED, augmentation=None, step_mm=step_mm)
    samples = []
    for epoch in range(min(MOST_EPOCHS, max(1, MOST_SAMPLES // len(rows)))):
        for index, row in zip(rows.index, dataset.rows, strict=True):
            generator = np.random.default_rng([SEED, epoch, index])
            samples.append((f"epoch {epoch + 1}", *dataset.draw_slice(row, generator)))
    spots = tables.spots[tables.spots.SeriesInstanceUID == uid]
    first = dataset.steps[uid][0]
    samples += [(SCORED, int(slice_), first) for slice_ in held_out_rows(spots, own).f]
    table = pd.DataFrame(samples, columns=["name", "slice", "step"])
    return table.assign(positive=distance_to_aneurysm(tables, uid)[table.slice] <= table.step)


def pictured(zones: np.ndarray) -> np.ndarray:
    """Return slices at even distances, the nearest one to each aneurysm moved onto it."""
    count = min(THUMBNAILS, len(zones))
    shown = ((np.arange(count) + 0.5) * len(zones) / count).astype(int)
    for slice_ in np.flatnonzero(zones == Zone.ANEURYSM):
        shown[np.abs(shown - slice_).argmin()] = slice_
    return shown


def draw(axes: list[SliceAxis], path: Path) -> None:
    """Draw one series below the other, then the key."""
    with canvas.style():
        lanes = [len(axis.samples) + PICTURES[1] + 3 for axis in axes] + [1.6 * len(KEY)]
        figure = canvas.new_figure(LANE * sum(lanes))
        figure.get_layout_engine().set(hspace=0.08)
        panels = figure.subplots(len(lanes), 1, height_ratios=lanes)
        for panel, axis in zip(panels, axes, strict=False):
            what = "with an aneurysm" if len(axis.points) else "without aneurysm"
            facts = f"{axis.series.Modality}, {len(axis.zones)} slices"
            canvas.title(panel, f"a series {what}", facts)
            draw_pictures(panel, axis)
            draw_zones(panel, axis.zones)
            draw_samples(panel, axis.samples, len(axis.zones))
        draw_key(panels[-1])
        canvas.save(figure, path)


def draw_pictures(panel: Axes, axis: SliceAxis) -> None:
    """Draw slices at even distances, framed in the colour of their zone and tied to it."""
    pitch = len(axis.zones) / len(axis.shown)
    bottom, top = PICTURES
    for number, (slice_, image) in enumerate(zip(axis.shown, axis.images, strict=True)):
        color = STYLES[axis.zones[slice_]][0]
        left = number * pitch - 0.5
        leader = ([left + pitch / 2, slice_], [bottom, RIBBON[1]])
        panel.plot(*leader, color=color, linewidth=2)
        place = (left + 0.01 * pitch, bottom, 0.98 * pitch, top - bottom)
        picture = panel.inset_axes(place, transform=panel.transData)
        canvas.show_slice(picture, image)
        picture.spines[:].set(visible=True, color=color, linewidth=2)
        if len(axis.zones) > MOST_NUMBERS:
            canvas.chip(picture, 0.07, 0.07, str(slice_), va="bottom")
        here = axis.points[axis.points.f == slice_]
        canvas.circle(picture, here.x, here.y, size=12)


def draw_zones(panel: Axes, zones: np.ndarray) -> None:
    """Draw a numbered cell for each slice; in a long series one for each run of a zone."""
    numbered = len(zones) <= MOST_NUMBERS
    changes = np.flatnonzero(np.diff(zones)) + 1
    borders = range(len(zones) + 1) if numbered else [0, *changes, len(zones)]
    bottom, top = RIBBON
    for first, end in pairwise(borders):
        face, ink = STYLES[zones[first]]
        cell = {"width": end - first, "align": "edge", "edgecolor": "white", "facecolor": face}
        panel.bar(first - 0.5, top - bottom, bottom=bottom, **cell)
        if numbered:
            place = {"ha": "center", "va": "center_baseline", "fontsize": SMALL}
            panel.text(first, (bottom + top) / 2, str(first), color=ink, **place)


def draw_samples(panel: Axes, samples: pd.DataFrame, length: int) -> None:
    """Draw each sample in a lane, the epochs on bands: three slices, the middle one large."""
    heights, names = [sum(RIBBON) / 2], ["slice"]
    for number, (name, lanes) in enumerate(samples.groupby("name", sort=False).groups.items()):
        if number % 2 == 0:
            panel.axhspan(0.5 - lanes[0], -0.5 - lanes[-1], color=PAPER, linewidth=0)
        heights.append(-(lanes[0] + lanes[-1]) / 2)
        names.append(name)
    for lane, sample in enumerate(samples.itertuples()):
        first, middle, last = neighbours(sample.slice, sample.step, length)
        color = TRUE if sample.positive else OTHER
        panel.plot([first, last], [-lane, -lane], "o-", color=color, linewidth=1.2, markersize=2.6)
        panel.plot(middle, -lane, "o", color=color, markersize=5.5)
    panel.set_yticks(heights, names, fontsize=SMALL)
    panel.tick_params(left=False)
    panel.set(xlim=(-0.5, length - 0.5), ylim=(0.5 - len(samples), PICTURES[1] + 0.3), xticks=[])
    panel.spines[:].set_visible(False)


def draw_key(panel: Axes) -> None:
    """Explain the zones and the samples, a line each: a sign, a name, a meaning."""
    signs = {"sample": Line2D([], [], color=GREY, marker="o", markersize=5)}
    for name, (zone, _) in KEY.items():
        if zone is not None:
            signs[name] = Patch(facecolor=STYLES[zone][0])
    blank = Line2D([], [], linestyle="none")
    handles = [signs.get(name, blank) for name in KEY] + [blank] * len(KEY)
    labels = [*KEY, *(meaning for _, meaning in KEY.values())]
    place = {"loc": "upper left", "borderaxespad": 0, "frameon": False, "columnspacing": -1.5}
    key = panel.legend(handles, labels, ncols=2, **place)
    for name in key.get_texts()[: len(KEY)]:
        name.set_weight("bold")
    panel.axis("off")

"""The figure of sampling: on the slices of two series, from where stage 1 draws its positives and its negatives, and what it drew."""

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from src.artifacts.files import read_slices
from src.labels import PRESENT
from src.sampling.slices import STEPS, neighbours, resized_point
from src.sampling.spot_dataset import SpotDataset, SpotTables, held_out_rows, training_rows
from src.sampling.spots import PUBLISHED_SIDE
from tools.figures.canvas import (
    GREY,
    INK,
    LIGHT,
    MARK,
    OTHER,
    PAPER,
    SMALL,
    SOFT_OTHER,
    SOFT_TRUE,
    TRUE,
    Sheet,
    chip,
    fonts,
    show_slice,
)

SEED = 44  # of train_stage1.py
LEFT, RIGHT = 0.85, 9.85  # inches, of the slice axis
THUMBNAILS = 10
THUMBNAIL, LEADER, RIBBON = (
    0.86,
    0.16,
    0.27,
)  # inches: side of a slice, height of the lines below it, height of the zones
SCORED = "scored"
LANE, LINE = 0.165, 0.26  # inches: height of a drawn sample, of a line of the key
MOST_SAMPLES, MOST_EPOCHS = 9, 8  # drawn in a series, beside those that are scored
MOST_NUMBERS = 36  # on the slice axis; in longer series the pictures have them


class Zone(IntEnum):
    """What a slice is to the sampler; a later one overrides an earlier one."""

    MARGIN = 0
    WINDOW = 1
    ANEURYSM = 2
    SAFE = 3
    HARD = 4


STYLES = {  # zone: (face, number, hatch)
    Zone.MARGIN: (PAPER, GREY, "////"),
    Zone.WINDOW: (SOFT_TRUE, INK, None),
    Zone.ANEURYSM: (TRUE, "white", None),
    Zone.SAFE: (SOFT_OTHER, INK, None),
    Zone.HARD: (OTHER, "white", None),
}
KEY = {  # zone: (name, what is drawn there)
    Zone.ANEURYSM: (
        "aneurysm",
        "a localizer points here; positives are this slice or one beside it",
    ),
    Zone.WINDOW: ("label window", "a sample whose three slices reach the aneurysm has its labels"),
    Zone.MARGIN: ("margin", "too near for a negative, too far for a positive: nothing is drawn"),
    Zone.SAFE: ("safe", "no aneurysm near: negatives are drawn from anywhere here"),
    Zone.HARD: (
        "hard",
        "safe, but an earlier network erred here: half of the negatives are drawn from these",
    ),
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


def look(tables: SpotTables, uid: str) -> SliceAxis:
    zones = zones_of(tables, uid)
    shown = pictured(zones)
    images = read_slices(tables.data.sequence(uid), shown)
    spots = tables.spots[
        (tables.spots.SeriesInstanceUID == uid) & (tables.spots.class_id != PRESENT)
    ]
    x, y = (
        resized_point(spots[column], PUBLISHED_SIDE, images.shape[-1])
        for column in ("x_512", "y_512")
    )
    return SliceAxis(
        tables.meta.loc[uid],
        zones,
        drawn_samples(tables, uid),
        shown,
        images,
        pd.DataFrame({"f": spots.f, "x": x, "y": y}),
    )


def zones_of(tables: SpotTables, uid: str) -> np.ndarray:
    """(n,) Zone of each slice of a series."""
    with_aneurysm = tables.labels[uid].any(axis=1)  # (n,)
    slices = np.arange(len(with_aneurysm))
    distance = np.abs(slices[:, None] - slices[with_aneurysm]).min(axis=1, initial=len(slices))
    zones = np.where(distance <= max(STEPS), Zone.WINDOW, Zone.MARGIN)
    zones[with_aneurysm] = Zone.ANEURYSM
    safe, hard = (slices_of.get(uid, np.empty(0, int)) for slices_of in (tables.safe, tables.hard))
    zones[safe] = Zone.SAFE
    zones[np.intersect1d(safe, hard)] = Zone.HARD
    return zones


def drawn_samples(tables: SpotTables, uid: str) -> pd.DataFrame:
    """Samples of a series: those that the first epochs draw, bit for bit, where the next fold is held out; and those that are scored where its own is.

    Columns: name (of the epoch), slice, step, positive (whether the sample has a label).
    """
    own = tables.meta.fold[uid]
    rows = training_rows(tables.spots, (own + 1) % (tables.meta.fold.max() + 1))
    rows = rows[rows.SeriesInstanceUID == uid]
    dataset = SpotDataset(tables, rows, crop=1, seed=SEED, augmentation=None)
    samples = []
    for epoch in range(min(MOST_EPOCHS, max(1, MOST_SAMPLES // len(rows)))):
        for index, row in zip(rows.index, dataset.rows, strict=True):
            slice_, step = dataset.draw_slice(row, np.random.default_rng([SEED, epoch, index]))
            samples.append((f"epoch {epoch + 1}", slice_, step))
    spots = tables.spots[tables.spots.SeriesInstanceUID == uid]
    samples += [(SCORED, int(f), 1) for f in held_out_rows(spots, own).f]
    table = pd.DataFrame(samples, columns=["name", "slice", "step"])
    with_aneurysm = np.flatnonzero(tables.labels[uid].any(axis=1))
    distance = np.abs(table.slice.to_numpy()[:, None] - with_aneurysm).min(
        axis=1, initial=len(tables.labels[uid])
    )
    return table.assign(positive=distance <= table.step)


def pictured(zones: np.ndarray) -> np.ndarray:
    """Ascending: slices at even distances, the nearest one to each aneurysm moved onto it."""
    count = min(THUMBNAILS, len(zones))
    shown = ((np.arange(count) + 0.5) * len(zones) / count).astype(int)
    for slice_ in np.flatnonzero(zones == Zone.ANEURYSM):
        shown[np.abs(shown - slice_).argmin()] = slice_
    return shown


def draw(axes: list[SliceAxis], path: Path) -> None:
    """One series above the other, below them the key."""
    with fonts():
        heights = [0.42 + THUMBNAIL + LEADER + RIBBON + LANE * len(axis.samples) for axis in axes]
        sheet = Sheet(sum(heights) + 0.3 * len(axes) + LINE * (len(KEY) + 1) + 0.1)
        top = sheet.height - 0.1
        for axis, height in zip(axes, heights, strict=True):
            draw_series(sheet, axis, top)
            top -= height + 0.3
        draw_key(sheet, top)
        sheet.save(path)


def draw_series(sheet: Sheet, axis: SliceAxis, top: float) -> None:
    """Downwards from `top`: title, pictures, zones, samples."""
    what = "with an aneurysm" if len(axis.points) else "without aneurysm"
    sheet.title(
        LEFT, top - 0.22, f"a series {what}", f"{axis.series.Modality}, {len(axis.zones)} slices"
    )
    bottom = top - 0.42 - THUMBNAIL
    draw_pictures(sheet, axis, bottom)
    bottom -= LEADER + RIBBON
    draw_zones(sheet.panel(LEFT, bottom, RIGHT - LEFT, RIBBON), axis.zones)
    sheet.text(LEFT - 0.1, bottom + RIBBON / 2, "slice", SMALL, ha="right", va="center_baseline")
    height = LANE * len(axis.samples)
    draw_samples(
        sheet.panel(LEFT, bottom - height - 0.04, RIGHT - LEFT, height),
        axis.samples,
        len(axis.zones),
    )


def draw_pictures(sheet: Sheet, axis: SliceAxis, bottom: float) -> None:
    """Slices at even distances, each framed in the colour of its zone and tied to its place on the axis."""
    pitch, slice_width = (RIGHT - LEFT) / len(axis.shown), (RIGHT - LEFT) / len(axis.zones)
    for place, (slice_, image) in enumerate(zip(axis.shown, axis.images, strict=True)):
        middle = LEFT + (place + 0.5) * pitch
        zone = Zone(axis.zones[slice_])
        color = LIGHT if zone == Zone.MARGIN else STYLES[zone][0]
        sheet.ground.plot(
            [middle, LEFT + (slice_ + 0.5) * slice_width],
            [bottom, bottom - LEADER],
            color=color,
            linewidth=2,
        )
        panel = sheet.panel(middle - THUMBNAIL / 2, bottom, THUMBNAIL, THUMBNAIL)
        show_slice(panel, image)
        panel.spines[:].set(visible=True, color=color, linewidth=2)
        if len(axis.zones) > MOST_NUMBERS:
            chip(panel, 0.07, 0.07, str(slice_), va="bottom")
        here = axis.points[axis.points.f == slice_]
        panel.plot(
            here.x,
            here.y,
            "o",
            markersize=11,
            markerfacecolor="none",
            markeredgecolor=MARK,
            markeredgewidth=1.3,
        )


def draw_zones(axes: Axes, zones: np.ndarray) -> None:
    """A numbered cell for each slice; in a long series a cell for each run of one zone."""
    changes = np.flatnonzero(np.diff(zones)) + 1
    borders = (
        np.array([0, *changes, len(zones)])
        if len(zones) > MOST_NUMBERS
        else np.arange(len(zones) + 1)
    )
    for first, end in pairwise(borders):
        draw_cell(axes, first - 0.5, 0, end - first, 1, zones[first])
        if len(zones) <= MOST_NUMBERS:
            axes.text(
                first,
                0.46,
                str(first),
                fontsize=SMALL,
                color=STYLES[zones[first]][1],
                ha="center",
                va="center_baseline",
            )
    axes.set(xlim=(-0.5, len(zones) - 0.5), ylim=(0, 1))
    axes.axis("off")


def draw_cell(
    axes: Axes, left: float, bottom: float, width: float, height: float, zone: Zone
) -> None:
    face, _, hatch = STYLES[zone]
    axes.add_patch(
        Rectangle(
            (left, bottom),
            width,
            height,
            facecolor=face,
            edgecolor=LIGHT if hatch else "white",
            hatch=hatch,
            linewidth=0,
        )
    )
    axes.add_patch(
        Rectangle((left, bottom), width, height, fill=False, edgecolor="white", linewidth=1)
    )


def draw_samples(axes: Axes, samples: pd.DataFrame, length: int) -> None:
    """Each sample in a lane, the epochs on bands."""
    for number, (name, group) in enumerate(samples.reset_index().groupby("name", sort=False)):
        first, last = group.index[0], group.index[-1]
        if number % 2 == 0:
            axes.axhspan(first - 0.5, last + 0.5, color=PAPER, linewidth=0)
        axes.text(
            -0.5 - 0.011 * length,
            (first + last) / 2,
            name,
            fontsize=SMALL,
            ha="right",
            va="center_baseline",
            color=INK,
        )
    scored = samples[samples.name == SCORED]
    if len(scored):
        right = scored.slice.mean() < length / 2
        x, side = (length - 0.6, "right") if right else (-0.4, "left")
        axes.text(
            x,
            scored.index[-1],
            "where the series is held out, always the same",
            fontsize=SMALL,
            color=GREY,
            ha=side,
            va="center_baseline",
        )
    for lane, sample in enumerate(samples.itertuples()):
        draw_sample(
            axes,
            neighbours(sample.slice, sample.step, length),
            lane,
            TRUE if sample.positive else OTHER,
        )
    axes.set(xlim=(-0.5, length - 0.5), ylim=(len(samples) - 0.5, -0.5))
    axes.axis("off")


def draw_sample(axes: Axes, triplet: np.ndarray, y: float, color: str) -> None:
    """Three slices, the middle one large."""
    axes.plot(triplet[[0, 2]], [y, y], "o-", color=color, linewidth=1.2, markersize=2.6)
    axes.plot(triplet[1], y, "o", color=color, markersize=5.5)


def draw_key(sheet: Sheet, top: float) -> None:
    """What each zone is to the sampler, and what a sample is, a line each."""
    for line, (zone, (name, meaning)) in enumerate(KEY.items()):
        y = top - LINE * line - 0.14
        draw_cell(sheet.ground, LEFT, y - 0.09, 0.34, 0.18, zone)
        explain(sheet, y, name, meaning)
    y = top - LINE * len(KEY) - 0.14
    draw_sample(sheet.ground, LEFT + np.array([0.03, 0.17, 0.31]), y, GREY)
    explain(
        sheet,
        y,
        "sample",
        "a slice and its neighbours, 1 or 2 slices away; orange: positive, blue: negative",
    )


def explain(sheet: Sheet, y: float, name: str, meaning: str) -> None:
    sheet.text(LEFT + 0.48, y, name, weight="bold", va="center_baseline")
    sheet.text(LEFT + 1.7, y, meaning, va="center_baseline")

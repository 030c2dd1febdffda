"""The contact sheet of tools/audit_labels.py: a slice for each proposal, and where to look."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from src.artifacts.files import read_slices
from src.labels import LABELS
from src.orientation import canonical_point, canonical_shape
from src.sampling.slices import resized_point
from src.sampling.spots import PUBLISHED_SIDE
from tools.figures.canvas import (
    MARK,
    SMALL,
    WIDTH,
    circle,
    new_figure,
    save,
    short_name,
    show_slice,
)
from tools.figures.canvas import style as figure_style

COLUMNS = 4
CAPTION = 0.65  # inches, of a panel's height
SHOWN = 12  # last characters of a UID


class Panel(NamedTuple):
    """One proposal and its slice. Points are pixels of a prepared image of 512 x 512."""

    row: Any  # a row of the table of proposals
    path: Path  # the series' array
    slice: int
    cross: tuple[float, float] | None  # x, y of the finding
    circles: np.ndarray  # (k, 2) x, y of the localizers on this slice


def prepared_point(column: float, row: float, series: pd.Series) -> tuple[float, float]:
    """Return x, y in the prepared image of a point of the stored one."""
    x, y = canonical_point(column, row, series.orientation, series.h, series.w)
    height, width = canonical_shape(series.h, series.w, series.orientation)
    return resized_point(x, width, PUBLISHED_SIDE), resized_point(y, height, PUBLISHED_SIDE)


def draw_sheet(panels: list[Panel], path: Path) -> None:
    """Write the sheet as a PNG."""
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with figure_style():
        figure = new_figure(rows * (WIDTH / columns + CAPTION))
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for number, (each, panel) in enumerate(zip(axes, panels, strict=False), 1):
            draw_panel(each, panel, number)
        for each in axes[len(panels) :]:
            each.axis("off")
        save(figure, path)


def draw_panel(axes: Any, panel: Panel, number: int) -> None:
    image = read_slices(panel.path, np.array([panel.slice]))[0]
    show_slice(axes, image)
    side = image.shape[-1]
    if panel.cross:
        x, y = (resized_point(value, PUBLISHED_SIDE, side) for value in panel.cross)
        axes.plot(x, y, "+", color=MARK, markersize=14, markeredgewidth=1.5)
    if len(panel.circles):
        x, y = resized_point(panel.circles, PUBLISHED_SIDE, side).T
        circle(axes, x, y, 16)
    axes.set(xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5))
    row = panel.row
    label = "Present" if row.label == LABELS[-1] else short_name(row.label)
    lines = [
        f"{number}  {label} → {row.value}",
        f"{row.reason}, p {row.probability:.2f}",
        f"…{row.SeriesInstanceUID[-SHOWN:]}, slice {panel.slice}",
    ]
    axes.set_title("\n".join(lines), loc="left", fontsize=SMALL)

"""The style that the three figures share: palette, titles, boxes, arrows, slices and bars."""

from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, FigureBase
from matplotlib.text import Text
from PIL import Image

from src.artifacts.files import atomic
from src.labels import LABELS, LOCATIONS, PRESENT
from src.preprocess.intensity import TOP

WIDTH, DPI = 10.0, 160  # inches, pixels an inch: legible when shown at half of its 1600 pixels
SMALL, TEXT, TITLE = 10, 11, 13  # points
STYLE = {"font.family": "DejaVu Sans", "font.size": TEXT, "hatch.linewidth": 0.8}

# Colours of Okabe and Ito 2008: the colour-blind can tell them apart, and so can a grey print.
INK, GREY, LIGHT, PAPER = "#222222", "#767676", "#C8CDD2", "#F0F0F0"
TRUE, SOFT_TRUE = "#D55E00", "#F6C59B"  # an aneurysm; slices that see it
OTHER, SOFT_OTHER = "#0072B2", "#B5D9EE"  # no aneurysm
MARK = "#56E0FF"  # on slices
BRIGHTER = 0.6  # exponent of the slices' grey values, so that the brain shows beside the bone

ABBREVIATIONS = {
    "Internal Carotid Artery": "ICA",
    "Middle Cerebral Artery": "MCA",
    "Anterior Cerebral Artery": "ACA",
    "Anterior Communicating Artery": "AComA",
    "Posterior Communicating Artery": "PComA",
}


def style():
    """Return the context in which a figure is drawn; a user's matplotlibrc has no say in it."""
    return matplotlib.rc_context(matplotlib.rcParamsDefault | STYLE)


def new_figure(height: float) -> Figure:
    """Return a white figure, `height` inches high; matplotlib keeps its axes and texts apart."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.09, h_pad=0.09, wspace=0.02, hspace=0.03)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG whose values are multiples of 5: no eye sees it, and slices take far less."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    pixels = np.asarray(Image.open(buffer).convert("RGB"))  # (H, W, 3)
    with atomic(path) as file:
        Image.fromarray(pixels - pixels % 5).save(file, "PNG", optimize=True)


def title(axes: Axes, bold: str, plain: str = "") -> None:
    """Write a heading above the axes, its explanation behind it."""
    heading = axes.set_title(bold, loc="left", fontsize=TITLE, weight="bold", color=INK)
    explain(axes, heading, plain, GREY)


def explain(axes: Axes, heading: Text, plain: str, color: str) -> None:
    """Write small text behind a heading."""
    place = {"xycoords": heading, "textcoords": "offset points", "va": "bottom"}
    axes.annotate(plain, (1, 0), (8, 0), color=color, **place).set_in_layout(False)


def box(axes: Axes, x: float, y: float, name: str, text: str) -> Text:
    """Draw a rounded box around a bold name and the lines of text below it."""
    bold = rf"$\bf{{{name}}}$".replace(" ", r"\ ")
    ground = {"boxstyle": "round,pad=0.6", "facecolor": PAPER, "edgecolor": LIGHT}
    place = {"ha": "center", "va": "center", "linespacing": 1.4}
    return axes.text(x, y, f"{bold}\n{text}", fontsize=SMALL, color=INK, bbox=ground, **place)


def arrow(axes: Axes, start: tuple, end: tuple, bend: float = 0) -> None:
    """Draw an arrow between two places.

    start, end: (x, y, artist), in fractions of the artist's extent.
    """
    (*tail, source), (*head, target) = start, end
    look = {"arrowstyle": "simple,head_length=0.7,head_width=0.8,tail_width=0.14"}
    look |= {"facecolor": GREY, "edgecolor": "none", "connectionstyle": f"arc3,rad={bend}"}
    look |= {"shrinkA": gap(source), "shrinkB": gap(target)}
    arrow = axes.annotate("", head, tail, xycoords=target, textcoords=source, arrowprops=look)
    arrow.set_in_layout(False)


def gap(artist: Artist) -> float:
    """Return the points between an arrow and what it joins; a box is larger than its text."""
    return 9 if isinstance(artist, Text) else 3


def show_slice(axes: Axes, image: np.ndarray) -> None:
    """Show prepared intensities (S, S), 0..TOP; data coordinates are their pixels."""
    norm = PowerNorm(BRIGHTER, 0, TOP)
    axes.imshow(image.astype(np.float32), cmap="gray", norm=norm, interpolation="bicubic")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def circle(axes: Axes, x: np.ndarray, y: np.ndarray, size: float, label: str = "") -> None:
    """Circle aneurysms on a slice; size in points."""
    look = {"markerfacecolor": "none", "markeredgecolor": MARK, "markeredgewidth": size / 10}
    axes.plot(x, y, "o", markersize=size, label=label, **look)


def chip(axes: Axes, x: float, y: float, text: str, color: str = "white", **style) -> None:
    """Write small type that is legible on bone and on background; x, y in 0..1 of the axes."""
    ground = {"boxstyle": "round,pad=0.2", "facecolor": "black", "alpha": 0.65, "edgecolor": "none"}
    style |= {"transform": axes.transAxes, "fontsize": SMALL, "weight": "bold", "bbox": ground}
    axes.text(x, y, text, color=color, **style)


def short_name(label: str) -> str:
    """Return a label as a reading room says it: Left Middle Cerebral Artery -> Left MCA."""
    for long, short in ABBREVIATIONS.items():
        label = label.replace(long, short)
    return label


def probability_bars(
    figure: FigureBase, bold: str, probabilities: np.ndarray, truth: np.ndarray
) -> None:
    """Fill the figure with a heading and 14 probabilities (14,), the true ones (1) marked."""
    axes, truth = figure.subplots(), truth == 1  # NaN: nobody knows
    heading = figure.suptitle(bold, x=0.02, ha="left", fontsize=TITLE, weight="bold", color=INK)
    explain(axes, heading, "● true labels", TRUE)
    rows = np.arange(len(LABELS), dtype=float)
    rows[PRESENT] += 0.45
    whole = axes.barh(rows, 1, height=0.72, color=PAPER)
    axes.barh(rows, probabilities, height=0.72, color=np.where(truth, TRUE, LIGHT))
    numbers = [f"{probability:.2f}" for probability in probabilities]
    numbers = axes.bar_label(whole, numbers, padding=3, fontsize=SMALL)
    names = axes.set_yticks(rows, [short_name(label) for label in LABELS], fontsize=SMALL)
    axes.tick_params(left=False, pad=14)
    for index in np.flatnonzero(truth):
        names[index].label1.set(color=TRUE, weight="bold")
        numbers[index].set(color=TRUE, weight="bold")
        dot = {"textcoords": "offset points", "ha": "right", "va": "center", "color": TRUE}
        axes.annotate("●", (0, rows[index]), (-3, 0), **dot)
    axes.axhline(len(LOCATIONS) - 0.28, color=LIGHT, linewidth=1)
    axes.set(xlim=(0, 1), ylim=(rows[-1] + 0.5, -0.5), xticks=[])
    axes.spines[:].set_visible(False)

"""What the figures share: the sheet in inches, the palette, boxes and arrows, slices, bars of the 14 probabilities."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

from src.artifacts.files import atomic
from src.labels import LABELS, LOCATIONS, PRESENT
from src.preprocess.intensity import TOP
from src.sampling.slices import MIRRORABLE

WIDTH, DPI = (
    10.0,
    160,
)  # inches, pixels an inch: 1600 pixels, still legible when shown at half of that
SMALL, TEXT, TITLE = 10, 11, 13  # points
FONTS = {"font.family": "DejaVu Sans", "font.size": TEXT, "hatch.linewidth": 0.8}

# Of Okabe and Ito 2008: told apart by the colour-blind, and by their lightness in print.
INK, GREY, LIGHT, PAPER = "#222222", "#767676", "#C9CDD1", "#F1F3F5"
TRUE, SOFT_TRUE = "#D55E00", "#F6C59B"  # an aneurysm; where it is seen from
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


class Sheet:
    """A white figure WIDTH inches wide, on which everything is placed in inches from the lower left corner."""

    def __init__(self, height: float):
        self.height = height
        self.figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
        self.canvas = FigureCanvasAgg(self.figure)
        self.ground = self.panel(0, 0, WIDTH, height)
        self.ground.set(xlim=(0, WIDTH), ylim=(0, height))
        self.ground.axis("off")

    def panel(self, left: float, bottom: float, width: float, height: float) -> Axes:
        return self.figure.add_axes(
            (left / WIDTH, bottom / self.height, width / WIDTH, height / self.height)
        )

    def text(
        self, x: float, y: float, text: str, size: float = TEXT, color: str = INK, **style
    ) -> None:
        self.ground.text(x, y, text, fontsize=size, color=color, **style)

    def title(self, x: float, y: float, bold: str, plain: str = "", color: str = GREY) -> None:
        """A heading, its explanation behind it."""
        drawn = self.ground.text(x, y, bold, fontsize=TITLE, weight="bold", color=INK)
        right = drawn.get_window_extent(self.canvas.get_renderer()).x1 / DPI
        self.text(right + 0.12, y, plain, color=color)

    def box(
        self,
        left: float,
        bottom: float,
        width: float,
        height: float,
        name: str,
        facts: str = "",
        color: str = PAPER,
        edge: str = LIGHT,
    ) -> None:
        """A rounded box with a name and, below it in small type, facts."""
        shape = FancyBboxPatch(
            (left, bottom),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.09",
            facecolor=color,
            edgecolor=edge,
            linewidth=1.2,
        )
        self.ground.add_patch(shape)
        middle, lines = left + width / 2, facts.count("\n") + 1 if facts else 0
        top = bottom + height / 2 + 0.088 * lines
        self.text(middle, top, name, weight="bold", ha="center", va="center")
        if facts:
            self.text(
                middle, top - 0.11, facts, SMALL, GREY, ha="center", va="top", linespacing=1.25
            )

    def arrow(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        bend: str = "arc3,rad=0",
        color: str = GREY,
    ) -> None:
        style = "simple,head_length=7,head_width=8,tail_width=1.4"
        shape = FancyArrowPatch(
            start,
            end,
            arrowstyle=style,
            connectionstyle=bend,
            facecolor=color,
            edgecolor="none",
            shrinkA=0,
            shrinkB=0,
        )
        self.ground.add_patch(shape)

    def save(self, path: Path) -> None:
        """As PNG without alpha, every value a multiple of 3: no eye sees it, and the noise of the slices takes a quarter less."""
        self.canvas.draw()
        pixels = np.asarray(self.canvas.buffer_rgba())[..., :3]  # (H, W, 3)
        with atomic(path) as file:
            Image.fromarray(pixels - pixels % 3).save(file, "PNG", optimize=True)


def fonts():
    """The context in which a figure is drawn: its fonts, and nothing of a user's matplotlibrc."""
    return matplotlib.rc_context(matplotlib.rcParamsDefault | FONTS)


def show_slice(axes: Axes, image: np.ndarray) -> None:
    """image: (S, S) prepared intensities 0..TOP; data coordinates are its pixels."""
    axes.imshow(
        image.astype(np.float32),
        cmap="gray",
        norm=PowerNorm(BRIGHTER, 0, TOP),
        interpolation="bicubic",
    )
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def chip(axes: Axes, x: float, y: float, text: str, color: str = "white", **style) -> None:
    """Small type on a slice, legible on bone and on background; x, y in 0..1 of the axes."""
    ground = {"boxstyle": "round,pad=0.2", "facecolor": "black", "alpha": 0.65, "edgecolor": "none"}
    axes.text(
        x,
        y,
        text,
        transform=axes.transAxes,
        color=color,
        fontsize=SMALL,
        weight="bold",
        bbox=ground,
        **style,
    )


def name_sides(axes: Axes, plane: str) -> None:
    """R and L of the patient on an image whose x axis is that axis."""
    for x, letter, side in (
        ((0.03, "R", "left"), (0.97, "L", "right")) if plane in MIRRORABLE else ()
    ):
        chip(axes, x, 0.5, letter, ha=side, va="center")


def short_name(label: str) -> str:
    """A label as it is said in a reading room: Left Middle Cerebral Artery -> Left MCA."""
    for long, short in ABBREVIATIONS.items():
        label = label.replace(long, short)
    return label


def probability_bars(axes: Axes, probabilities: np.ndarray, truth: np.ndarray) -> None:
    """The 14 outputs as horizontal bars, the true ones marked; both (14,). Aneurysm Present is set apart below the 13 locations."""
    rows = np.arange(len(LABELS), dtype=float)
    rows[PRESENT] += 0.45
    colors = [TRUE if true else LIGHT for true in truth]
    axes.barh(rows, np.ones(len(rows)), height=0.72, color=PAPER)
    axes.barh(rows, probabilities, height=0.72, color=colors)
    for row, label, probability, true in zip(rows, LABELS, probabilities, truth, strict=True):
        style = {
            "fontsize": SMALL,
            "va": "center_baseline",
            "color": TRUE if true else INK,
            "weight": "bold" if true else "normal",
        }
        axes.annotate(
            short_name(label), (0, row), (-14, 0), textcoords="offset points", ha="right", **style
        )
        axes.annotate(
            "●" if true else "", (0, row), (-3, 0), textcoords="offset points", ha="right", **style
        )
        axes.annotate(f"{probability:.2f}", (1, row), (3, 0), textcoords="offset points", **style)
    axes.axhline(len(LOCATIONS) - 0.28, color=LIGHT, linewidth=1)
    axes.set(xlim=(0, 1), ylim=(rows[-1] + 0.5, -0.5), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)

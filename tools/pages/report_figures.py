"""The pictures of tools/report.py."""

import io
import textwrap
from collections.abc import Callable

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.artifacts.files import atomic
from src.artifacts.paths import ALL_DATA, EncoderFolder
from src.evaluation import calibration, metrics
from src.evaluation.scoring import FEWEST
from src.labels import LABELS, PRESENT
from tools.pages.render import data_uri
from tools.pages.report_inputs import Pooled, best_epoch
from tools.pages.report_scores import PRESENCE, SCORE, Cell

# Colours that the colour-blind can tell apart (Okabe and Ito 2008).
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "0.6"
FOLD_COLOURS = (BLUE, ORANGE, "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "0.2")
DASHES = ("-", "--", ":")  # for more folds than colours
STYLE = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "xtick.labelsize": 8,
    "ytick.labelsize": 8, "legend.fontsize": 8, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": "0.5", "xtick.color": "0.3", "ytick.color": "0.3",
}  # fmt: skip


def saved(folder: EncoderFolder, name: str, draw: Callable[..., Figure], *content) -> str:
    """Draw a picture, save it beside the page, and return it as a source for the page."""
    picture = png(draw, *content)
    with atomic(folder.report_picture(name)) as file:
        file.write(picture)
    return data_uri(picture, "png")


def png(draw: Callable[..., Figure], *content) -> bytes:
    with matplotlib.rc_context(STYLE):
        file = io.BytesIO()
        draw(*content).savefig(file, format="png")
    return file.getvalue()


def new_figure(height: float) -> Figure:
    """height: inches."""
    return Figure(figsize=(11, height), dpi=160, layout="constrained")


def draw_rocs(judged: Pooled, cells: dict[str, Cell], draws: int) -> Figure:
    """Draw the ROC curve of each label, the presence first."""
    labels, probabilities = judged.arrays()
    figure = new_figure(7.05)
    panels = figure.subplots(3, 5, sharex=True, sharey=True).ravel()
    for panel, k in zip(panels, (PRESENT, *range(PRESENT)), strict=False):
        panel.set_title("\n".join(textwrap.wrap(LABELS[k], 26)), loc="left")
        _draw_roc(panel, labels[:, k], probabilities[:, k], cells[LABELS[k]], draws)
        panel.label_outer(remove_inner_ticks=True)
    panels[-1].axis("off")
    panels[-6].tick_params(bottom=True, labelbottom=True)  # nothing below it
    figure.supxlabel("false positive rate", fontsize=9)
    figure.supylabel("true positive rate", fontsize=9)
    return figure


def _draw_roc(panel: Axes, truth: np.ndarray, scores: np.ndarray, area: Cell, draws: int) -> None:
    panel.plot([0, 1], [0, 1], ":", color=GREY, linewidth=1)
    lines = [f"{(truth == 1).sum()} positive"]
    if area.ends:
        lines.insert(0, f"{area.ends[0]:.3f} to {area.ends[1]:.3f}")
    if area.value is not None:
        lines.insert(0, f"AUC {area.value:.3f}")
        grid = np.linspace(0, 1, 101)
        if min((truth == 1).sum(), (truth == 0).sum()) >= FEWEST:
            band = metrics.roc_band(truth, scores, grid, draws)
            panel.fill_between(grid, *band, color=BLUE, alpha=0.2, linewidth=0)
        panel.plot(*metrics.roc_points(truth, scores), color=BLUE, linewidth=1.5)
    corner = {"ha": "right", "va": "bottom", "transform": panel.transAxes}
    panel.text(0.98, 0.04, "\n".join(lines), fontsize=8, **corner)
    panel.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    panel.set(xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))


def draw_groups(columns: dict[str, list[list]]) -> Figure:
    """Draw two scores of each group of series; a panel a column; {column: `group_row` of each}."""
    if not columns:
        return new_figure(1)
    heights = []
    for place in range(0, len(columns), 2):  # two panels beside each other
        heights.append(max(map(len, list(columns.values())[place : place + 2])) + 1.8)
    figure = new_figure(0.42 * sum(heights) + 0.3)
    grid = {"height_ratios": heights, "sharex": True, "squeeze": False}
    panels = figure.subplots(len(heights), min(len(columns), 2), **grid).ravel()
    for panel in panels[len(columns) :]:
        panel.axis("off")
    for panel, (column, groups) in zip(panels, columns.items(), strict=False):
        names, series, _, scores, presences, *_ = zip(*groups, strict=True)
        _draw_marks(panel, scores, -0.13, label=SCORE, color=BLUE, marker="o")
        _draw_marks(panel, presences, 0.13, label=PRESENCE, color=ORANGE, marker="D")
        ticks = [f"{name} ({count})" for name, count in zip(names, series, strict=True)]
        panel.set_yticks(range(len(groups)), ticks)
        panel.set_ylim(len(groups) - 0.5, -0.5)
        panel.set_title(column, loc="left")
        panel.set_xlabel("AUC (number of series in brackets)")
        panel.grid(axis="x", alpha=0.3)
        panel.tick_params(axis="y", length=0, labelsize=9)
        panel.tick_params(axis="x", labelbottom=True)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper right", ncols=2, frameon=False)
    return figure


def _draw_marks(panel: Axes, cells: list[Cell | None], offset: float, label: str, **style) -> None:
    """Draw one score of each group with its interval. offset: of its row, downwards."""
    panel.plot([], [], linestyle="", markersize=5, label=label, **style)  # for the legend
    for row, cell in enumerate(cells):
        if cell:
            ends = cell.ends or (cell.value, cell.value)
            panel.hlines(row + offset, *ends, color=style["color"], alpha=0.6)
            panel.plot(cell.value, row + offset, markersize=5, **style)


def draw_reliability(curves: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Figure:
    """Draw the fraction of positives in bins against their probability.

    curves: {name: labels 0 or 1, probabilities before and after calibration, all (N,)}
    """
    figure = new_figure(4.8)
    styles = (("as predicted", ORANGE, "s-"), ("calibrated", BLUE, "D-"))
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for panel, (name, (truth, *probabilities)) in zip(panels, curves.items(), strict=True):
        panel.plot([0, 1], [0, 1], ":", color=GREY, linewidth=1, label="exact")
        highest = 0
        for each, (text, colour, marker) in zip(probabilities, styles, strict=True):
            predicted, observed, counts = calibration.reliability(truth, each)
            low, high = calibration.wilson(observed, counts)
            error = calibration.calibration_error(truth, each)
            panel.errorbar(
                predicted, observed, (observed - low, high - observed), fmt=marker, color=colour,
                markersize=4, linewidth=1.2, elinewidth=0.8, label=f"{text}: error {error:.3f}",
            )  # fmt: skip
            highest = max(highest, predicted.max(), high.max())
        panel.set_title(name, loc="left")
        limits = np.array([-0.02, 1]) * 1.04 * min(1, highest)
        panel.set(xlim=limits, ylim=limits, aspect="equal")
        panel.set(xlabel="mean probability of a bin", ylabel="fraction of positives")
        panel.grid(alpha=0.3)
        panel.legend(loc="best", frameon=False)
    return figure


def draw_training(histories: dict[str, dict[int, list[dict]]]) -> Figure:
    """Draw loss and held-out score by epoch: a column a stage, a line a fold, a dot if kept."""
    histories = {stage: folds for stage, folds in histories.items() if folds}
    figure = new_figure(5.4)
    panels = figure.subplots(2, len(histories), squeeze=False)
    lines = {}
    for (losses, scores), (stage, folds) in zip(panels.T, histories.items(), strict=True):
        for place, (fold, rows) in enumerate(folds.items()):
            colour = FOLD_COLOURS[place % len(FOLD_COLOURS)]
            dashes = DASHES[place // len(FOLD_COLOURS) % len(DASHES)]
            style = {"color": colour, "linestyle": dashes, "linewidth": 1.3}
            epochs = [row["epoch"] for row in rows]
            name = "all data" if fold == ALL_DATA else f"fold {fold}"
            (lines[name],) = losses.plot(epochs, [row["loss"] for row in rows], **style)
            scored = {row["epoch"]: row["scores"]["score"] for row in rows if row["scores"]}
            scores.plot(scored.keys(), scored.values(), **style)
            if scored:
                best = best_epoch(rows)
                scores.plot(best, scored[best], "o", color=colour)
        losses.set_title(f"stage {stage[-1]}, training loss", loc="left")
        scores.set_title(f"stage {stage[-1]}, weighted score of the held-out fold", loc="left")
        losses.set_ylim(bottom=0)
        for panel in (losses, scores):
            panel.grid(alpha=0.3)
            panel.set_xlabel("epoch")
            panel.xaxis.get_major_locator().set_params(integer=True)
    place = "outside upper right"
    figure.legend(lines.values(), lines.keys(), loc=place, ncols=10, frameon=False)
    return figure

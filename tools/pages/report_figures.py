"""The pictures of tools/report.py, each in two shapes: wide for a screen, narrow for a telephone."""

import io
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.artifacts.files import atomic
from src.artifacts.paths import EncoderFolder
from tools.pages import report_page
from tools.pages.report_inputs import best_epoch

BLUE, ORANGE, GREY = (
    "#0072b2",
    "#d55e00",
    "0.6",
)  # told apart by the colour-blind (Okabe and Ito 2008)
FOLD_COLOURS = (BLUE, ORANGE, "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "0.2")
DASHES = ("-", "--", ":")  # of further folds, seven at a time
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
}
STYLE |= {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.5",
    "xtick.color": "0.3",
    "ytick.color": "0.3",
}
WIDE, NARROW = 11.0, 3.8  # inches
DPI = 160


@dataclass
class Roc:
    """The curve of one label. Without `points` where it has not both classes."""

    label: str
    positives: int
    area: float | None
    ends: list[float] | None  # 95 % interval of the area
    points: tuple[np.ndarray, np.ndarray]  # false and true positive rates
    grid: np.ndarray  # false positive rates of the band
    band: np.ndarray  # (2, G) true positive rates


@dataclass
class Reliability:
    """A reliability curve before and after the temperatures: of each (predicted, observed, low, high), and the calibration error."""

    name: str
    before: tuple[np.ndarray, ...]
    after: tuple[np.ndarray, ...]
    errors: tuple[float, float]


def saved(
    folder: EncoderFolder, name: str, draw: Callable, content: Any, shows: str, caption: str
) -> str:
    """Draw a picture in both shapes, save both, and return them as HTML. draw: one of the functions below."""
    files = {"": png(draw, content, narrow=False), "_narrow": png(draw, content, narrow=True)}
    for ending, file in files.items():
        with atomic(folder.report_picture(name + ending)) as out:
            out.write(file)
    return report_page.picture(*files.values(), shows, caption)


def png(draw: Callable, content: Any, narrow: bool) -> bytes:
    """The file of a picture that `draw(new_figure, content, narrow)` makes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    def new_figure(height: float) -> Figure:
        return Figure(figsize=(NARROW if narrow else WIDE, height), dpi=DPI, layout="constrained")

    with matplotlib.rc_context(STYLE):
        file = io.BytesIO()
        FigureCanvasAgg(draw(new_figure, content, narrow)).print_png(file)
    return file.getvalue()


def draw_rocs(new_figure, rocs: list[Roc], narrow: bool):
    """One small panel a label."""
    columns = 2 if narrow else 5
    rows = -(-len(rocs) // columns)
    figure = new_figure((2.1 if narrow else 2.35) * rows)
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True))
    for panel, roc in zip(axes, rocs, strict=False):
        _draw_roc(panel, roc)
    for panel in axes[len(rocs) :]:
        panel.axis("off")
    for panel in axes[: len(rocs)]:
        panel.label_outer(remove_inner_ticks=True)
    for panel in axes[max(0, len(rocs) - columns) : len(rocs)]:  # nothing below them
        panel.tick_params(bottom=True, labelbottom=True)
    figure.supxlabel("false positive rate", fontsize=9)
    figure.supylabel("true positive rate", fontsize=9)
    return figure


def _draw_roc(panel, roc: Roc) -> None:
    panel.set_title("\n".join(textwrap.wrap(roc.label, 26)), loc="left")
    panel.plot([0, 1], [0, 1], ":", color=GREY, linewidth=1)
    facts = [f"{roc.positives} positive"]
    if roc.area is not None:
        panel.fill_between(roc.grid, *roc.band, color=BLUE, alpha=0.2, linewidth=0)
        panel.plot(*roc.points, color=BLUE, linewidth=1.5)
        facts = [
            f"AUC {roc.area:.3f}",
            *([f"{roc.ends[0]:.3f} to {roc.ends[1]:.3f}"] if roc.ends else []),
            *facts,
        ]
    panel.text(
        0.98, 0.04, "\n".join(facts), ha="right", va="bottom", fontsize=8, transform=panel.transAxes
    )
    panel.set(
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        xticks=(0, 0.5, 1),
        yticks=(0, 0.5, 1),
        aspect="equal",
    )


def draw_groups(new_figure, groups: dict[str, dict[str, dict]], narrow: bool):
    """Weighted score and AUC of presence of each value of a column, with intervals; a panel a column."""
    most = max(len(values) for values in groups.values())
    figure = new_figure(
        sum(0.42 * len(values) + 0.8 for values in groups.values()) + 0.3
        if narrow
        else 0.42 * most + 1.2
    )
    heights = [len(values) for values in groups.values()]
    shape = dict(nrows=len(groups), height_ratios=heights) if narrow else dict(ncols=len(groups))
    for panel, (column, values) in zip(
        np.ravel(figure.subplots(**shape, sharex=True)), groups.items(), strict=True
    ):
        for offset, key, name, colour, marker in (
            (0.13, "score", "weighted score", BLUE, "o"),
            (-0.13, "present", "Aneurysm Present", ORANGE, "D"),
        ):
            known = [
                (place, scores) for place, scores in enumerate(values.values()) if "score" in scores
            ]
            places = np.array([place for place, _ in known]) - offset
            panel.hlines(
                places,
                *np.reshape(
                    [scores["intervals"][key] or [scores[key]] * 2 for _, scores in known], (-1, 2)
                ).T,
                color=colour,
                linewidth=1.5,
                alpha=0.6,
            )
            panel.plot(
                [scores[key] for _, scores in known],
                places,
                marker,
                color=colour,
                markersize=5,
                label=name,
            )
        panel.set_yticks(
            range(len(values)),
            [f"{name} ({scores['n_series']})" for name, scores in values.items()],
        )
        panel.set_ylim(len(values) - 0.5, -0.5)
        panel.set_title(column, loc="left")
        if not narrow or column == list(groups)[-1]:
            panel.set_xlabel("AUC (number of series in brackets)")
        panel.grid(axis="x", alpha=0.3)
        panel.tick_params(axis="y", length=0, labelsize=9)
    figure.legend(
        *panel.get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False
    )
    return figure


def draw_reliability(new_figure, curves: list[Reliability], narrow: bool):
    """Share of positives against probability, before and after."""
    figure = new_figure(3.7 * len(curves) if narrow else 4.8)
    shape = dict(nrows=len(curves)) if narrow else dict(ncols=len(curves))
    for panel, curve in zip(np.ravel(figure.subplots(**shape)), curves, strict=True):
        panel.plot([0, 1], [0, 1], ":", color=GREY, linewidth=1, label="exact")
        for points, error, name, colour, marker in zip(
            (curve.before, curve.after),
            curve.errors,
            ("as predicted", "with temperature"),
            (ORANGE, BLUE),
            "sD",
            strict=True,
        ):
            predicted, observed, low, high = points
            panel.errorbar(
                predicted, observed, (observed - low, high - observed), fmt=f"{marker}-", color=colour, markersize=4,
                linewidth=1.2, elinewidth=0.8, label=f"{name}: error {error:.3f}",
            )  # fmt: skip
        panel.set_title(curve.name, loc="left")
        most = 1.04 * min(1, max(values.max() for values in (*curve.before, *curve.after)))
        panel.set(
            xlim=(-0.02 * most, most),
            ylim=(-0.02 * most, most),
            aspect="equal",
            xlabel="mean probability of a bin",
            ylabel="share of positives",
        )
        panel.grid(alpha=0.3)
        panel.legend(loc="best", frameon=False)
    return figure


def draw_training(new_figure, histories: dict[str, dict[int, list[dict]]], narrow: bool):
    """Loss and held-out score by epoch, a line a fold, the epoch that was kept marked; a column a stage."""
    stages = [stage for stage, folds in histories.items() if folds]
    figure = new_figure(2.2 * 2 * len(stages) + 0.4 if narrow else 5.4)
    panels = figure.subplots(*((2 * len(stages), 1) if narrow else (2, len(stages))), squeeze=False)
    panels = np.reshape(panels, (len(stages), 2)) if narrow else panels.T  # (stage, loss or score)
    for stage, (losses, scores) in zip(stages, panels, strict=True):
        for place, (fold, rows) in enumerate(histories[stage].items()):
            colour, dashes = (
                FOLD_COLOURS[place % len(FOLD_COLOURS)],
                DASHES[place // len(FOLD_COLOURS) % len(DASHES)],
            )
            losses.plot(
                [row["epoch"] for row in rows],
                [row["loss"] for row in rows],
                dashes,
                color=colour,
                linewidth=1.3,
                label=f"fold {fold}",
            )
            scored = [row for row in rows if row["scores"]]
            scores.plot(
                [row["epoch"] for row in scored],
                [row["scores"]["score"] for row in scored],
                dashes,
                color=colour,
                linewidth=1.3,
            )
            if best := best_epoch(rows):
                scores.plot(best["epoch"], best["scores"]["score"], "o", color=colour, markersize=6)
        losses.set_title(f"stage {stage[-1]}, training loss", loc="left")
        scores.set_title(f"stage {stage[-1]}, weighted score of the held-out fold", loc="left")
        losses.set_ylim(bottom=0)
        for panel in (losses, scores):
            panel.grid(alpha=0.3)
            panel.set_xlabel("epoch")
            panel.xaxis.get_major_locator().set_params(integer=True)
    handles = {
        label: handle
        for losses, _ in panels
        for handle, label in zip(*losses.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper right",
        ncols=3 if narrow else 10,
        frameon=False,
    )
    return figure

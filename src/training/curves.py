"""Loss and scores of a run by epoch, as a picture to look at while the run goes on."""

from collections.abc import Callable
from pathlib import Path

from src.artifacts.files import atomic, read_json_lines

DOTS = {"marker": "o", "markersize": 3}


def draw_progress(metrics: Path, picture: Path) -> None:
    """Draw the json lines of a run as a PNG: loss above, held-out scores and best epoch below.

    Without any score, only the loss.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_json_lines(metrics)
    scored = [row for row in rows if row["scores"]]
    count = 2 if scored else 1
    figure = Figure(figsize=(8, 3 * count), layout="constrained")
    panels = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    plot_epochs(panels[0], rows, lambda row: row["loss"], color="0.3", **DOTS)
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel("training loss")
    if scored:
        draw_scores(panels[1], scored)
    panels[-1].set_xlabel("epoch")
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    with atomic(picture, sync=False) as file:
        FigureCanvasAgg(figure).print_png(file)


def draw_scores(axes, scored: list[dict]) -> None:
    """Plot score and presence of the epochs that have scores, and mark the best."""
    plot_epochs(axes, scored, lambda row: row["scores"]["score"], label="weighted score", **DOTS)
    with_presence = [row for row in scored if row["scores"]["present"] is not None]
    plot_epochs(
        axes, with_presence, lambda row: row["scores"]["present"], label="Aneurysm Present", **DOTS
    )
    best = max(scored, key=lambda row: row["scores"]["score"])
    label = f"best: {best['scores']['score']:.3f}, epoch {best['epoch']}"
    axes.axvline(best["epoch"], color="0.7", linestyle="--", zorder=0, label=label)
    axes.legend(loc="lower right", frameon=False)
    axes.set_ylabel("held-out AUC")


def plot_epochs(axes, rows: list[dict], value_of: Callable[[dict], float], **style) -> None:
    """Plot a value of each row against the row's epoch. style: as matplotlib's `plot` takes it."""
    axes.plot([row["epoch"] for row in rows], [value_of(row) for row in rows], **style)

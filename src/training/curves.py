"""Loss and scores of a run by epoch, as a picture to look at while the run goes on."""

from collections.abc import Callable
from pathlib import Path

from src.artifacts.files import atomic, read_json_lines


def draw_progress(metrics: Path, picture: Path) -> None:
    """Draw the json lines of a run as a PNG: loss above, held-out scores and best epoch below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_json_lines(metrics)
    scored = [row for row in rows if row["scores"]]
    figure = Figure(figsize=(8, 6), layout="constrained")
    losses, scores = figure.subplots(2, 1, sharex=True)
    dots = {"marker": "o", "markersize": 3}
    plot_epochs(losses, rows, lambda row: row["loss"], color="0.3", **dots)
    plot_epochs(scores, scored, lambda row: row["scores"]["score"], label="weighted score", **dots)
    plot_epochs(
        scores, scored, lambda row: row["scores"]["present"], label="Aneurysm Present", **dots
    )
    if scored:
        best = max(scored, key=lambda row: row["scores"]["score"])
        label = f"best: {best['scores']['score']:.3f}, epoch {best['epoch']}"
        scores.axvline(best["epoch"], color="0.7", linestyle="--", zorder=0, label=label)
        scores.legend(loc="lower right", frameon=False)
    losses.set_ylim(bottom=0)
    losses.set_ylabel("training loss")
    scores.set_ylabel("held-out AUC")
    scores.set_xlabel("epoch")
    for axes in (losses, scores):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    with atomic(picture, sync=False) as file:
        FigureCanvasAgg(figure).print_png(file)


def plot_epochs(axes, rows: list[dict], value_of: Callable[[dict], float], **style) -> None:
    """Plot a value of each row against the row's epoch. style: as matplotlib's `plot` takes it."""
    axes.plot([row["epoch"] for row in rows], [value_of(row) for row in rows], **style)

"""Loss and scores of a run by epoch, as a picture that can be looked at while the run goes on."""

from pathlib import Path

from src.artifacts.files import atomic, read_json_lines

SCORES = {
    "score": "weighted score",
    "present": "Aneurysm Present",
}  # key in the scores: name in the picture


def draw_progress(metrics: Path, picture: Path) -> None:
    """From the json lines of a run (run.Run) to a PNG: the loss above, the held-out scores below, the best epoch marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_json_lines(metrics)
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(8, 6), layout="constrained")
    losses, scores = figure.subplots(2, 1, sharex=True)
    losses.plot(epochs, [row["loss"] for row in rows], "o-", color="0.3", markersize=3)
    losses.set_ylabel("training loss")
    losses.set_ylim(bottom=0)
    scored = [row for row in rows if row["scores"]]
    for key, name in SCORES.items():
        scores.plot(
            [row["epoch"] for row in scored],
            [row["scores"][key] for row in scored],
            "o-",
            markersize=3,
            label=name,
        )
    if scored:
        best = max(scored, key=lambda row: row["scores"]["score"])
        scores.axvline(
            best["epoch"],
            color="0.7",
            linestyle="--",
            zorder=0,
            label=f"best: {best['scores']['score']:.3f}, epoch {best['epoch']}",
        )
        scores.legend(loc="lower right", frameon=False)
    scores.set_ylabel("held-out AUC")
    scores.set_xlabel("epoch")
    for axes in (losses, scores):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    with atomic(picture, sync=False) as file:
        FigureCanvasAgg(figure).print_png(file)

"""Whether the probabilities of tools/report.py are calibrated; fits and saves the temperatures."""

import numpy as np

from src.artifacts.files import write_json
from src.artifacts.paths import EncoderFolder
from src.evaluation import calibration
from src.labels import LABELS, LOCATIONS, PRESENT
from src.sampling.folds import seeded_order
from tools.pages.report_figures import Reliability, draw_reliability, saved
from tools.pages.report_inputs import UID, Pooled

TOGETHER = "the 13 locations together"
HEAD = (
    "label", "positive", "temperature", "log loss", "log loss\nafter", "error", "error\nafter",
    "error\nby chance",
)  # fmt: skip


def section(folder: EncoderFolder, judged: Pooled) -> dict:
    """Fit and save the temperatures; return what the page says of them."""
    truth, probabilities = judged.arrays()
    logits = calibration.logit(probabilities)  # (N, 14)
    parts = judged.table.fold.to_numpy()
    if len(judged.folds) == 1:
        parts = np.array([seeded_order(uid, 0) % 2 for uid in judged.table[UID]])
    cooled = calibration.crossfit(truth, logits, parts)  # (N, 14)
    fitted = calibration.fit_temperatures(truth, logits).tolist()
    temperatures = dict(zip(LABELS, fitted, strict=True))
    write_json(
        folder.temperatures,
        {"temperatures": temperatures, "folds": judged.folds, "n_series": judged.series},
    )

    columns = {LABELS[PRESENT]: [PRESENT], TOGETHER: list(range(PRESENT))}
    curves = {}
    for name, chosen in columns.items():
        labels = truth[:, chosen].ravel()
        curves[name] = [reliability(labels, each[:, chosen].ravel()) for each in (logits, cooled)]
    columns |= {label: [k] for k, label in enumerate(LOCATIONS)}
    rows = []
    for name, chosen in columns.items():
        temperature = f"{temperatures[name]:.2f}" if name in temperatures else "each its own"
        arrays = (each[:, chosen].ravel() for each in (truth, logits, cooled))
        rows.append([name, int(truth[:, chosen].sum()), temperature, *measures(*arrays)])
    return {
        "picture": saved(folder, "calibration", draw_reliability, curves),
        "head": HEAD,
        "rows": rows,
        "bins": calibration.BINS,
        "file": folder.temperatures.name,
        "fewest": calibration.FEWEST,
        "unfitted": [
            label for k, label in enumerate(LABELS) if not calibration.can_fit(truth[:, k])
        ],
    }


def reliability(truth: np.ndarray, logits: np.ndarray) -> Reliability:
    """Return the curve of labels 0 or 1 and logits, both (N,)."""
    probabilities = calibration.sigmoid(logits)
    predicted, observed, counts = calibration.reliability(truth, probabilities)
    low, high = calibration.wilson(observed, counts)
    error = calibration.calibration_error(truth, probabilities)
    return Reliability(predicted, observed, low, high, error)


def measures(truth: np.ndarray, before: np.ndarray, after: np.ndarray) -> list[float]:
    """Return the log loss, then the error, before and after, then the error by chance; all (N,)."""
    losses = [calibration.log_loss(truth, logits) for logits in (before, after)]
    errors = [reliability(truth, logits).error for logits in (before, after)]
    return [*losses, *errors, calibration.chance_error(calibration.sigmoid(after))]

"""Whether the probabilities of tools/report.py are calibrated; fits and saves the temperatures."""

import numpy as np

from src.artifacts.files import write_json
from src.artifacts.paths import EncoderFolder
from src.evaluation import calibration
from src.labels import LABELS, LOCATIONS, PRESENT
from src.sampling.folds import seeded_order
from tools.pages.report_figures import draw_reliability, saved
from tools.pages.report_inputs import UID, Pooled
from tools.pages.report_scores import PRESENCE

TOGETHER = "the 13 locations together"


def section(folder: EncoderFolder, judged: Pooled) -> dict:
    """Fit and save the temperatures; return what the page says of them."""
    truth, probabilities = judged.arrays()
    logits = calibration.logit(probabilities)  # (N, 14)
    parts = judged.table.fold.to_numpy()
    if len(judged.folds) == 1:
        parts = np.array([seeded_order(uid, 0) % 2 for uid in judged.table[UID]])
    cooled = calibration.crossfit(truth, logits, parts)  # (N, 14)
    temperatures = dict(zip(LABELS, calibration.fit_temperatures(truth, logits), strict=True))
    content = {"temperatures": temperatures, "folds": judged.folds, "n_series": judged.series}
    write_json(folder.temperatures, content)

    columns = {PRESENCE: [PRESENT], TOGETHER: list(range(PRESENT))}
    columns |= {label: [k] for k, label in enumerate(LOCATIONS)}
    rows, curves = [], {}
    for name, chosen in columns.items():
        labels, before, after = (each[:, chosen].ravel() for each in (truth, logits, cooled))
        temperature = f"{temperatures[name]:.2f}" if name in temperatures else "each its own"
        losses = [calibration.log_loss(labels, each) for each in (before, after)]
        probabilities = [calibration.sigmoid(each) for each in (before, after)]
        curves[name] = labels, *probabilities
        errors = [calibration.calibration_error(labels, each) for each in probabilities]
        chance = calibration.chance_error(probabilities[1])
        rows.append([name, int(labels.sum()), temperature, *losses, *errors, chance])
    drawn = {name: curves[name] for name in (PRESENCE, TOGETHER)}
    can_fit = [calibration.can_fit(column) for column in truth.T]
    return {
        "picture": saved(folder, "calibration", draw_reliability, drawn),
        "rows": rows,
        "bins": calibration.BINS,
        "file": folder.temperatures.name,
        "fewest": calibration.FEWEST,
        "unfitted": [label for label, fits in zip(LABELS, can_fit, strict=True) if not fits],
    }

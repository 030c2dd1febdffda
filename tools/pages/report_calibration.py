"""The part of tools/report.py that says whether the probabilities mean what they say, and that fits and saves the temperatures."""

import numpy as np

from src.artifacts.files import write_json
from src.artifacts.paths import EncoderFolder
from src.evaluation import calibration
from src.labels import LABELS, LOCATIONS, PRESENT
from src.sampling.folds import seeded_order
from tools.pages import report_figures, report_page
from tools.pages.report_inputs import Pooled

TOGETHER = "the 13 locations together"
WHAT = (
    "A probability is calibrated where, of all cases that get it, that share is positive. One temperature a label divides its logit: above 1 it makes "
    "the probabilities less extreme, below 1 more. It changes no AUC, and it cannot mend probabilities that are all too high or all too low."
)
MEASURES = (
    f"Error: the expected calibration error, the mean distance between mean probability and share of positives in {calibration.BINS} bins of equally many "
    "cases, weighted by their size (Guo et al. 2017, there with bins of equal width). Error by chance: what the error after would be if the probabilities "
    "were exactly right, since bins are finite; an error near that is no error. Log loss: in nats, smaller is better."
)


def section(folder: EncoderFolder, judged: Pooled) -> str:
    """Fits and saves the temperatures; the reliability before and after as HTML."""
    truth, probabilities = judged.arrays()
    logits = calibration.logit(probabilities)  # (N, 14)
    several = len(judged.folds) > 1
    parts = (
        judged.table.fold.to_numpy()
        if several
        else np.array([seeded_order(uid, 0) % 2 for uid in judged.table.SeriesInstanceUID])
    )
    cooled = calibration.crossfit(truth, logits, parts)  # (N, 14)
    temperatures = dict(
        zip(LABELS, calibration.fit_temperatures(truth, logits).tolist(), strict=True)
    )
    write_json(
        folder.temperatures,
        {"temperatures": temperatures, "folds": judged.folds, "n_series": judged.series},
    )

    fitted = (
        "those of each fold are fitted on the other folds"
        if several
        else "those of each half of the series are fitted on the other half"
    )
    caption = f"{judged.name.capitalize()}. Bars: 95 % intervals of the share in a bin (Wilson 1927). The temperatures are cross-fitted: {fitted}."
    curves = [
        _curve(name, truth[:, chosen], logits[:, chosen], cooled[:, chosen])
        for name, chosen in _curves_of().items()
    ]
    drawn = report_figures.saved(
        folder,
        "calibration",
        report_figures.draw_reliability,
        curves,
        "Reliability curves before and after",
        caption,
    )
    tables = [_table(truth, logits, cooled, temperatures), report_page.paragraph(MEASURES, "note")]
    return "\n".join(
        [
            report_page.paragraph(WHAT),
            drawn,
            *tables,
            report_page.paragraph(_saved(folder, truth, judged), "note"),
        ]
    )


def _curves_of() -> dict[str, slice]:
    return {LABELS[PRESENT]: slice(PRESENT, PRESENT + 1), TOGETHER: slice(0, PRESENT)}


def _curve(
    name: str, truth: np.ndarray, logits: np.ndarray, cooled: np.ndarray
) -> report_figures.Reliability:
    """All (N, k), taken together."""
    curves, errors = [], []
    for each in (logits, cooled):
        probabilities = calibration.sigmoid(each).ravel()
        predicted, observed, counts = calibration.reliability(truth.ravel(), probabilities)
        curves.append((predicted, observed, *calibration.wilson(observed, counts)))
        errors.append(calibration.calibration_error(truth.ravel(), probabilities))
    return report_figures.Reliability(name, *curves, tuple(errors))


def _table(
    truth: np.ndarray, logits: np.ndarray, cooled: np.ndarray, temperatures: dict[str, float]
) -> str:
    """Positives, temperature, log loss and error before and after: of presence, of the locations together, of each location."""
    chosen = _curves_of() | {label: slice(k, k + 1) for k, label in enumerate(LOCATIONS)}
    rows = []
    for name, columns in chosen.items():
        labels, before, after = (
            truth[:, columns].ravel(),
            logits[:, columns].ravel(),
            cooled[:, columns].ravel(),
        )
        losses = [calibration.log_loss(labels, each) for each in (before, after)]
        errors = [
            calibration.calibration_error(labels, calibration.sigmoid(each))
            for each in (before, after)
        ]
        temperature = f"{temperatures[name]:.2f}" if name in temperatures else "each its own"
        rows.append(
            [
                name,
                int(labels.sum()),
                temperature,
                *losses,
                *errors,
                calibration.chance_error(calibration.sigmoid(after)),
            ]
        )
    head = [
        "label",
        "positive",
        "temperature",
        "log loss",
        "log loss\nafter",
        "error",
        "error\nafter",
        "error\nby chance",
    ]
    return report_page.table(head, rows)


def _saved(folder: EncoderFolder, truth: np.ndarray, judged: Pooled) -> str:
    """Where the temperatures lie, what they are good for, and which were not fitted."""
    kept = [label for k, label in enumerate(LABELS) if not calibration.can_fit(truth[:, k])]
    text = (
        f"The temperatures in the table are fitted on all {judged.series:,} series and saved as {folder.temperatures.name}; the columns “after” are "
        "cross-fitted, as in the picture, and a label too rare there keeps 1. They belong to predictions made as these "
        "were: a mean of several networks, or of mirrored images, needs its own."
    )
    if not kept:
        return text
    return f"{text} Fewer than {calibration.FEWEST} positives, or negatives, and therefore a temperature of 1 that was not fitted: {', '.join(kept)}."

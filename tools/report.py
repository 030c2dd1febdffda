"""One page that shows how good the trained networks are: scores, ROC curves, modalities and planes,
calibration and training, over all evaluated folds.

Every series is judged by the network that never saw it: the page pools the predictions of all folds
that the eval scripts have scored, and names these folds.

Reads
  model/{encoder}/fold-{k}/predictions_{stage1,stage2,end_to_end}.csv  (else those of fold-all/)
  model/{encoder}/fold-{k}/metrics_{stage1,stage2}.jsonl
  model/{encoder}/localisation.json  if it exists: {"rows": [{"name": .., "value": ..}]}
  data/train_{N}_folds.csv, train_stage1_{N}_folds.csv, label_dict.pkl

Writes
  model/{encoder}/report/report.html  needs no other file and loads nothing
  model/{encoder}/report/*.png        its pictures
  model/{encoder}/temperatures.json   {"temperatures": {label: t}, "folds": [k], "n_series": n}:
                                      calibrated logit = logit / t
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.artifacts.files import atomic, read_json
from src.artifacts.paths import DataFolder, EncoderFolder
from src.evaluation import metrics, score_report
from src.labels import LABELS, LOCATIONS, PRESENT
from src.progress import progress
from src.script import run_script, versions
from tools.pages import report_calibration, report_figures, report_scores
from tools.pages.render import render
from tools.pages.report_figures import saved
from tools.pages.report_inputs import Pooled, read_evaluations, read_histories
from tools.pages.report_scores import MEAN, SCORE, Cell, cells_of

PRESENCE = LABELS[PRESENT]


@dataclass
class Config:
    data_dir: Path = Path("data")  # tables
    model_dir: Path = Path("model")  # evaluated networks
    encoder: str = "convnext_base.dinov3_lvd1689m"  # as trained

    draws: int = 1000  # of the bootstrap


def main(config: Config) -> Path:
    folder = EncoderFolder(config.model_dir, config.encoder)
    evaluations = read_evaluations(DataFolder(config.data_dir), config.model_dir, config.encoder)
    folds = sorted({fold for pooled in evaluations.values() for fold in pooled.folds})
    histories = read_histories(config.model_dir, config.encoder, folds)
    scores = {}
    for name, pooled in progress(evaluations.items(), "scores", " tables"):
        draws = 0 if name == "stage1" else config.draws  # rows of spots are not independent
        scores[name] = report_scores.scores_of(pooled.table, draws)
    cells = {name: cells_of(found) for name, found in scores.items()}
    most = max(("end_to_end", "stage2"), key=lambda name: fold_count(evaluations, name))
    judged = evaluations[most]

    parts = {
        "scores": lambda: scores_section(evaluations, cells, histories, folds),
        "roc": lambda: roc_picture(folder, judged, cells[most], config.draws),
        "groups": lambda: groups_section(folder, judged, config.draws),
        "calibration": lambda: report_calibration.section(folder, judged),
        "training": lambda: training_picture(folder, histories),
        "localisation": lambda: localisation_rows(folder),
    }
    sections = {name: make() for name, make in progress(parts.items(), "report", " sections")}
    page = render(
        "report.html",
        title=f"Aneurysm detection: {config.encoder}",
        judged=judged,
        folds=folds_text(judged.folds),
        headline=cells[most],
        draws=config.draws,
        time=time.strftime("%Y-%m-%d %H:%M"),
        versions=[f"{package} {version}" for package, version in versions().items()],
        **{"PRESENCE": PRESENCE, "MEAN": MEAN, "SCORE": SCORE},
        **sections,
    )
    with atomic(folder.report_page) as file:
        file.write(page)
    title = f"{judged.name}, {folds_text(judged.folds)}: {judged.series} series"
    print(score_report.score_table(scores[most], title))
    print(f"temperatures: {folder.temperatures}\nreport: {folder.report_page}")
    return folder.report_page


def fold_count(evaluations: dict[str, Pooled], name: str) -> int:
    return len(evaluations[name].folds) if name in evaluations else 0


def folds_text(folds: list[int]) -> str:
    """Name each fold, or the first and the last if none between them is missing."""
    if len(folds) > 2 and folds == list(range(folds[0], folds[-1] + 1)):
        return f"folds {folds[0]} to {folds[-1]}"
    return f"fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))}"


def scores_section(
    evaluations: dict[str, Pooled],
    cells: dict[str, dict[str, Cell]],
    histories: dict,
    folds: list[int],
) -> dict:
    """Return the table of the 14 AUCs and the weighted score, and that of each fold alone."""
    pooled = list(evaluations.values())
    names = [f"{each.name}\n{each.unit}\n{folds_text(each.folds)}" for each in pooled]
    rows = report_scores.fold_table(evaluations, histories, folds)
    mean = report_scores.mean_row(rows, len(pooled))
    epochs = ["epoch chosen\nstage 1", "epoch chosen\nstage 2"]
    return {
        "head": ["AUC", f"positive\n{pooled[-1].unit}", *names],
        "rows": report_scores.score_table(evaluations, cells),
        "fold_head": [SCORE, "series", *(each.name for each in pooled), *epochs],
        "fold_rows": rows + mean,
        "means": len(mean),
    }


def roc_picture(folder: EncoderFolder, judged: Pooled, cells: dict[str, Cell], draws: int) -> str:
    """Draw the ROC curve of each label, the presence first."""
    labels, probabilities = judged.arrays()
    grid = np.linspace(0, 1, 101)
    rocs = []
    for k in (PRESENT, *range(PRESENT)):
        truth, predicted = labels[:, k], probabilities[:, k]
        points = metrics.roc_points(truth, predicted)
        band = metrics.roc_band(truth, predicted, grid, draws)
        area = cells[LABELS[k]]
        rocs.append(report_figures.Roc(LABELS[k], int(truth.sum()), area, points, grid, band))
    return saved(folder, "roc", report_figures.draw_rocs, rocs)


def groups_section(folder: EncoderFolder, judged: Pooled, draws: int) -> dict:
    """Return the scores of each modality and each plane, as a picture and as tables."""
    columns, tables = {}, []
    for column, name in (("Modality", "Modality"), ("plane", "Plane")):
        tables_of = judged.table.groupby(column)
        groups = [report_scores.group_of(str(value), rows, draws) for value, rows in tables_of]
        head = [name, "series", "with\naneurysm", SCORE, PRESENCE, "mean of\nthe locations"]
        tables.append(([*head, "locations\nscored"], [group_row(group) for group in groups]))
        columns[name] = groups
    return {
        "picture": saved(folder, "groups", report_figures.draw_groups, columns),
        "tables": tables,
    }


def group_row(group: report_scores.Group) -> list:
    row = [group.name, group.series, group.positives]
    if not group.cells:
        return [*row, None, None, None, 0]
    known = [label for label in LOCATIONS if group.cells[label][0] is not None]
    cells = [group.cells[name] for name in (SCORE, PRESENCE, MEAN)]
    return [*row, *cells, f"{len(known)} of {len(LOCATIONS)}"]


def training_picture(folder: EncoderFolder, histories: dict) -> str | None:
    if not any(histories.values()):
        return None
    return saved(folder, "training", report_figures.draw_training, histories)


def localisation_rows(folder: EncoderFolder) -> list | None:
    if not folder.localisation.exists():
        return None
    return [(str(row["name"]), row["value"]) for row in read_json(folder.localisation)["rows"]]


if __name__ == "__main__":
    run_script(main, Config, __doc__)

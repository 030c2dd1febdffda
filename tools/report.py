"""One page that shows how good the trained networks are: scores, ROC curves, operating points,
groups of series, worst errors, calibration and training, over all evaluated folds.

Every series is judged by the network that never saw it: the page pools the predictions of all folds
that the eval scripts have scored, and names these folds. Predictions of other weights than those
that are there now are refused.

Reads
  model/{encoder}/fold-{k}/predictions_{stage1,stage2,end_to_end}.csv  (else those of fold-all/)
  model/{encoder}/fold-{k}/metrics_{stage1,stage2}.jsonl
  model/{encoder}/fold-{k}/findings.csv  if it exists (tools/measure_findings.py), or of fold-all/
  model/{encoder}/localisation.json  if it exists: {"rows": [{"name": .., "value": ..}]}
  data/train_{N}_folds.csv
  data/train_stage1_{N}_folds.csv
  data/train_localizers.csv  if it exists: sizes of aneurysms (radius_mm or volume_mm3)
  data/label_dict.pkl
  data/npy_sequence/         if it exists: pictures of the worst errors
  model/{encoder}/fold-{k}/logits/  if they exist: which slice to show

Writes
  model/{encoder}/report/report.html  needs no other file and loads nothing
  model/{encoder}/report/*.png        its pictures
  model/{encoder}/calibration.json    scale and offset of each label and of findings:
                                      calibrated logit = scale * logit + offset
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.artifacts.files import atomic, read_json
from src.artifacts.paths import DataFolder, EncoderFolder, RunFolder
from src.artifacts.tables import read_folds
from src.evaluation import score_report
from src.labels import LABELS
from src.progress import progress
from src.script import UserError, run_script, versions
from tools.pages import (
    report_calibration,
    report_errors,
    report_figures,
    report_groups,
    report_points,
    report_scores,
)
from tools.pages.render import render
from tools.pages.report_calibration import read_findings
from tools.pages.report_figures import saved
from tools.pages.report_inputs import Pooled, read_evaluations, read_histories
from tools.pages.report_weights import WeightsCheck, folds_text


@dataclass
class Config:
    data_dir: Path = Path("data")  # tables
    model_dir: Path = Path("model")  # evaluated networks
    encoder: str = "convnext_base.dinov3_lvd1689m"  # as trained

    draws: int = 1000  # of the bootstrap
    dataset: str = ""  # name of the data, for the page; else their folder
    errors: int = 6  # false alarms and misses to show, so many of each; the page holds pictures


def main(config: Config) -> Path:
    if config.errors < 0 or config.draws < 1:
        raise UserError("--errors must be at least 0, and --draws at least 1")
    folder = EncoderFolder(config.model_dir, config.encoder)
    data = DataFolder(config.data_dir)
    evaluations, found, unchecked = read_checked(config, data)
    folds = sorted({fold for pooled in evaluations.values() for fold in pooled.folds})
    histories = read_histories(config.model_dir, config.encoder, folds)
    scores = {}
    for name, pooled in progress(evaluations.items(), "scores", " tables"):
        draws = 0 if name == "stage1" else config.draws  # spots of a series are not independent
        scores[name] = report_scores.scores_of(pooled.table, draws)
    known = [name for name in ("end_to_end", "stage2") if name in evaluations]
    best_known = max(known, key=lambda name: len(evaluations[name].folds))
    judged, cells = evaluations[best_known], report_scores.cells_of(scores[best_known])

    runs = {fold: RunFolder(config.model_dir, config.encoder, fold) for fold in judged.folds}
    parts = {
        "scores": lambda: scores_section(evaluations, scores, histories, folds),
        "roc": lambda: saved(folder, "roc", report_figures.draw_rocs, judged, cells, config.draws),
        "points": lambda: report_points.section(judged),
        "groups": lambda: report_groups.section(folder, data, judged, config.draws),
        "errors": lambda: report_errors.section(data, runs, judged, found, config.errors),
        "calibration": lambda: report_calibration.section(folder, judged, found),
        "training": lambda: training_picture(folder, histories),
        "localisation": lambda: localisation_rows(folder),
    }
    sections = {name: make() for name, make in progress(parts.items(), "report", " sections")}
    page = render(
        "report.html",
        title=f"Aneurysm detection: {config.encoder}",
        dataset=config.dataset or name_of(config.data_dir),
        judged=judged,
        unchecked=unchecked,
        folds=folds_text(judged.folds),
        headline=cells,
        positives=int(judged.table[report_scores.PRESENCE].sum()),
        draws=config.draws,
        time=time.strftime("%Y-%m-%d %H:%M"),
        versions=[f"{package} {version}" for package, version in versions().items()],
        **sections,
    )
    with atomic(folder.report_page) as file:
        file.write(page)
    title = f"{judged.name}, {folds_text(judged.folds)}: {judged.series} series"
    print(score_report.score_table(scores[best_known], title))
    print(f"calibration: {folder.calibration}\nreport: {folder.report_page}")
    return folder.report_page


def read_checked(config: Config, data: DataFolder) -> tuple[dict[str, Pooled], pd.DataFrame, str]:
    """Return the evaluations, the findings, and a line if nobody knows which weights made them.

    Raise ArtifactError if other weights made them than those that are there now.
    """
    check = WeightsCheck()
    evaluations = read_evaluations(data, config.model_dir, config.encoder, check)
    found = read_findings(read_folds(data), config.model_dir, config.encoder, check)
    check.require()
    if check.line:
        print(check.line)
    return evaluations, found, check.line


def scores_section(
    evaluations: dict[str, Pooled], scores: dict[str, dict], histories: dict, folds: list[int]
) -> dict:
    """Return the table of the 14 AUCs and the weighted score, and that of each fold alone."""
    pooled = list(evaluations.values())
    columns = [report_scores.cells_of(found) for found in scores.values()]
    rows = []
    for name in (*LABELS, report_scores.MEAN, report_scores.SCORE):
        positives = int(pooled[-1].table[name].sum()) if name in LABELS else ""
        rows.append([name, positives, *(cells[name] for cells in columns)])
    return {
        "names": [each.name for each in pooled],
        "heads": [f"{each.name}\n{each.unit}\n{folds_text(each.folds)}" for each in pooled],
        "rows": rows,
        "unknown": score_report.unknown_lines(list(scores.values())[-1]),
        "folds": len(folds),
        "fold_rows": report_scores.fold_rows(evaluations, histories, folds),
    }


def name_of(data_dir: Path) -> str:
    """Return what to call the data of a folder that nobody has named."""
    drawn = (data_dir / "demo_settings.json").exists()
    below = data_dir.relative_to(data_dir.anchor).parts or (data_dir.resolve().name,)
    folder = "/".join(below[-2:])  # the rest may name a person
    return f"synthetic series of tools/make_demo_data.py ({folder})" if drawn else folder


def training_picture(folder: EncoderFolder, histories: dict) -> str | None:
    if not any(histories.values()):
        return None
    return saved(folder, "training", report_figures.draw_training, histories)


def localisation_rows(folder: EncoderFolder) -> list | None:
    if not folder.localisation.exists():
        return None
    return [(str(row["name"]), row["value"]) for row in read_json(folder.localisation)["rows"]]


if __name__ == "__main__":
    run_script(main, Config, __doc__, interrupted="run it again")

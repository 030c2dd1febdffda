"""One page that shows how good the trained networks are: scores, ROC curves, modalities and planes, calibration, training, over all evaluated folds.

Every series is judged by the network that never saw it: the predictions of all folds that the eval scripts have scored are put together. A fold
that they have not scored is left out, and the page says which folds it is of.

Reads   model/{encoder}/fold-{k}/  predictions_stage1.csv, predictions_stage2.csv, predictions_end_to_end.csv (the eval scripts; those of fold-all/ too),
        metrics_stage1.jsonl, metrics_stage2.jsonl; data/train_{N}_folds.csv, train_stage1_{N}_folds.csv, label_dict.pkl;
        model/{encoder}/localisation.json where it is there: {"rows": [{"name": .., "value": ..}]}

Writes  model/{encoder}/report/report.html      needs no other file and loads nothing
        model/{encoder}/report/*.png            its pictures, each also in a narrow shape
        model/{encoder}/temperatures.json       {"temperatures": {label: t}, "folds": [k], "n_series": n}: calibrated logit = logit / t
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.artifacts.files import atomic, read_json
from src.artifacts.paths import DataFolder, EncoderFolder
from src.evaluation import metrics
from src.evaluation.score_report import score_table
from src.labels import LABELS, LOCATIONS, PRESENT
from src.progress import progress
from src.script import run_script, versions
from tools.pages import report_calibration, report_figures, report_page
from tools.pages.report_inputs import Pooled, best_epoch, read_evaluations, read_histories

GROUPS = {"Modality": "Modality", "plane": "Plane"}  # column: its name on the page
CHOSEN = (
    "Epochs were chosen on the held-out folds. The epoch of both stages and the step of stage 2 are those that did best on the very folds that are scored "
    "here, so these scores are a little too good. Only scores that the eval scripts made with --select last are free of that choice in stage 2."
)


@dataclass
class Config:
    data_dir: Path = Path("data")  # tables
    model_dir: Path = Path("model")  # evaluated networks
    encoder: str = "convnext_base.dinov3_lvd1689m"  # as trained

    draws: int = 1000  # of the bootstrap


def main(config: Config) -> Path:
    folder = EncoderFolder(config.model_dir, config.encoder)
    evaluations = read_evaluations(DataFolder(config.data_dir), config.model_dir, config.encoder)
    histories = read_histories(config.model_dir, config.encoder, all_folds(evaluations))
    scores = {
        name: scores_of(pooled, 0 if name == "stage1" else config.draws)
        for name, pooled in progress(evaluations.items(), "scores", " tables")
    }
    best_known = max(
        ("end_to_end", "stage2"),
        key=lambda name: len(evaluations[name].folds) if name in evaluations else 0,
    )
    judged, judged_scores = evaluations[best_known], scores[best_known]

    parts = {
        "Scores": lambda: scores_section(evaluations, scores, histories, config.draws),
        "ROC curves": lambda: roc_section(folder, judged, judged_scores, config.draws),
        "Modalities and planes": lambda: groups_section(folder, judged, config.draws),
        "Calibration": lambda: report_calibration.section(folder, judged),
    }
    if any(histories.values()):
        parts["Training"] = lambda: training_section(folder, histories)
    if folder.localisation.exists():
        parts["Localisation"] = lambda: localisation_section(folder)
    sections = {heading: part() for heading, part in progress(parts.items(), "report", " sections")}

    top = report_page.figures(headline(judged, judged_scores))
    page = report_page.page(
        f"Aneurysm detection: {config.encoder}", under(judged), top, sections, foot()
    )
    with atomic(folder.report_page) as file:
        file.write(page.encode("utf-8", "xmlcharrefreplace"))
    print(
        score_table(
            judged_scores, f"{judged.name}, {folds_text(judged.folds)}: {judged.series} series"
        )
    )
    print(f"temperatures: {folder.temperatures}\nreport: {folder.report_page}")
    return folder.report_page


def all_folds(evaluations: dict[str, Pooled]) -> list[int]:
    """The folds of any evaluation."""
    return sorted({fold for pooled in evaluations.values() for fold in pooled.folds})


def foot() -> str:
    """When and with what the page was made."""
    return f"Made {time.strftime('%Y-%m-%d %H:%M')} with {', '.join(f'{package} {version}' for package, version in versions().items())}."


def scores_of(pooled: Pooled, draws: int) -> dict:
    """The weighted score with its parts, and 95 % intervals where draws is not 0."""
    labels, probabilities = pooled.arrays()
    return metrics.weighted_score(labels, probabilities) | (
        {"intervals": metrics.intervals(labels, probabilities, draws)} if draws else {}
    )


def folds_text(folds: list[int]) -> str:
    """The numbers one by one, or from the first to the last where none between them is missing."""
    if len(folds) > 2 and folds == list(range(folds[0], folds[-1] + 1)):
        return f"folds {folds[0]} to {folds[-1]}"
    return f"fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))}"


def under(judged: Pooled) -> str:
    """What the page is about, in a sentence or two."""
    left_out = (
        f" {judged.left_out} more could not be read and are left out." if judged.left_out else ""
    )
    return (
        f"{judged.series:,} series of {folds_text(judged.folds)}, {int(judged.present.sum()):,} of them with an aneurysm, each judged by the networks "
        f"that never saw it ({judged.name}).{left_out} For research; not a medical device."
    )


def headline(judged: Pooled, scores: dict) -> list[tuple[str, report_page.Cell]]:
    ends = scores["intervals"]
    return [
        ("Weighted score", (scores["score"], ends["score"])),
        (f"AUC, {LABELS[PRESENT]}", (scores["present"], ends["present"])),
        ("Mean AUC of the locations", (metrics.mean_location(scores), ends["mean_location"])),
        ("Series", judged.series),
        ("Folds", f"{len(judged.folds)} of {judged.dealt}"),
    ]


def scores_section(
    evaluations: dict[str, Pooled], scores: dict[str, dict], histories: dict, draws: int
) -> str:
    """The 14 AUCs and the weighted score of every evaluation, and each fold alone."""
    last = evaluations[list(evaluations)[-1]]
    head = [
        "AUC",
        f"positive\n{last.unit}",
        *(
            f"{pooled.name}\n{pooled.unit}\n{folds_text(pooled.folds)}"
            for pooled in evaluations.values()
        ),
    ]
    rows = [
        [label, int(last.table[label].sum()), *(_area(found, label) for found in scores.values())]
        for label in LABELS
    ]
    rows.append(
        [
            "mean of the locations",
            "",
            *(
                (metrics.mean_location(found), found.get("intervals", {}).get("mean_location"))
                for found in scores.values()
            ),
        ]
    )
    rows.append(
        [
            "weighted score",
            "",
            *(
                (found["score"], found.get("intervals", {}).get("score"))
                for found in scores.values()
            ),
        ]
    )
    note = (
        f"Behind each AUC its 95 % interval: of {draws:,} bootstrap draws of as many series. It tells what other series would change, not "
        "what another training would. The weighted score is half the AUC of the presence, half the mean of the 13 locations. Stage 1 is given the slice of "
        "each spot, which makes its task easier; its rows are not independent, so it has no intervals. Pooling ranks networks of different folds against "
        "each other; below stands each fold alone."
    )
    parts = [
        report_page.paragraph(CHOSEN, "warn"),
        report_page.table(head, rows, strong=1),
        report_page.paragraph(note, "note"),
    ]
    return "\n".join(
        [*parts, report_page.heading("Each fold alone"), fold_table(evaluations, histories)]
    )


def _area(scores: dict, label: str) -> report_page.Cell:
    """An AUC and, where there is one, its interval."""
    ends = scores.get("intervals")
    if label == LABELS[PRESENT]:
        return scores["present"], ends and ends["present"]
    return scores["locations"][label], ends and ends["locations"][label]


def fold_table(evaluations: dict[str, Pooled], histories: dict) -> str:
    """Weighted score of each fold by its own network, the epochs that were chosen, and the mean of the folds."""
    folds = all_folds(evaluations)
    columns = [[_fold_score(pooled, fold) for fold in folds] for pooled in evaluations.values()]
    epochs = [
        [
            best_epoch(rows[fold])["epoch"] if fold in rows and best_epoch(rows[fold]) else None
            for fold in folds
        ]
        for rows in histories.values()
    ]
    counts = [
        max(
            int((pooled.table.fold == fold).sum())
            for name, pooled in evaluations.items()
            if name != "stage1"
        )
        for fold in folds
    ]
    rows = [
        [f"fold {fold}", *values]
        for fold, *values in zip(folds, counts, *columns, *epochs, strict=True)
    ]
    means = [
        float(np.mean([value for value in column if value is not None]))
        for column in columns
        if any(value is not None for value in column)
    ]
    if len(means) == len(columns):
        rows.append(["mean", "", *means, "", ""])
    head = [
        "weighted score",
        "series",
        *(pooled.name for pooled in evaluations.values()),
        "epoch chosen\nstage 1",
        "epoch chosen\nstage 2",
    ]
    return report_page.table(head, rows, strong=len(rows) - len(folds))


def _fold_score(pooled: Pooled, fold: int) -> float | None:
    try:
        return metrics.weighted_score(
            *metrics.label_arrays(pooled.table[pooled.table.fold == fold])
        )["score"]
    except metrics.MetricError:
        return None


def roc_section(folder: EncoderFolder, judged: Pooled, scores: dict, draws: int) -> str:
    """The ROC curve of each label, the presence first."""
    labels, probabilities = judged.arrays()
    grid = np.linspace(0, 1, 101)
    rocs = []
    for k in (PRESENT, *range(PRESENT)):
        truth, predicted = labels[:, k], probabilities[:, k]
        area, ends = _area(scores, LABELS[k])
        points, band = (
            metrics.roc_points(truth, predicted),
            metrics.roc_band(truth, predicted, grid, draws),
        )
        rocs.append(report_figures.Roc(LABELS[k], int(truth.sum()), area, ends, points, grid, band))
    caption = f"{judged.name.capitalize()}, {folds_text(judged.folds)}. Shaded: 95 % of {draws:,} bootstrap draws of the series, at each false positive rate."
    return report_figures.saved(
        folder,
        "roc",
        report_figures.draw_rocs,
        rocs,
        f"ROC curves of {len(LABELS)} labels",
        caption,
    )


def groups_section(folder: EncoderFolder, judged: Pooled, draws: int) -> str:
    """Scores of each modality and plane, as a picture and as tables."""
    groups = {
        column: {
            str(value): group_scores(rows, draws) for value, rows in judged.table.groupby(column)
        }
        for column in GROUPS
    }
    shown = {GROUPS[column]: values for column, values in groups.items()}
    caption = f"{judged.name.capitalize()}, {folds_text(judged.folds)}, with 95 % intervals. The tables say of how many locations the mean is."
    parts = [
        report_figures.saved(
            folder,
            "groups",
            report_figures.draw_groups,
            shown,
            "Scores by modality and by plane",
            caption,
        )
    ]
    for name, values in shown.items():
        head = [
            name,
            "series",
            "with\naneurysm",
            "weighted score",
            LABELS[PRESENT],
            "mean of\nthe locations",
            "locations\nscored",
        ]
        parts.append(
            report_page.table(
                head, [[value, *_group_cells(scores)] for value, scores in values.items()]
            )
        )
    return "\n".join(parts)


def group_scores(rows, draws: int) -> dict:
    """Scores and intervals of some rows of Pooled.table; only the counts where there are too few of them."""
    labels, probabilities = metrics.label_arrays(rows)
    counts = {"n_series": len(rows), "n_present": int(labels[:, PRESENT].sum())}
    try:
        return (
            counts
            | metrics.weighted_score(labels, probabilities)
            | {"intervals": metrics.intervals(labels, probabilities, draws)}
        )
    except metrics.MetricError:
        return counts


def _group_cells(scores: dict) -> list[report_page.Cell]:
    counts = [scores["n_series"], scores["n_present"]]
    if "score" not in scores:
        return [*counts, None, None, None, 0]
    ends = scores["intervals"]
    known = sum(value is not None for value in scores["locations"].values())
    return [
        *counts,
        (scores["score"], ends["score"]),
        (scores["present"], ends["present"]),
        (metrics.mean_location(scores), ends["mean_location"]),
        f"{known} of {len(LOCATIONS)}",
    ]


def training_section(folder: EncoderFolder, histories: dict) -> str:
    caption = "Dots: the epochs whose weights were kept. The scores are of the moving average of the weights."
    return report_figures.saved(
        folder,
        "training",
        report_figures.draw_training,
        histories,
        "Loss and held-out score by epoch",
        caption,
    )


def localisation_section(folder: EncoderFolder) -> str:
    rows = read_json(folder.localisation)["rows"]
    return report_page.table(
        ["measure", "value"], [[str(row["name"]), row["value"]] for row in rows]
    )


if __name__ == "__main__":
    run_script(main, Config, __doc__)

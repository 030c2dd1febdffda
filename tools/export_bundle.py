"""Put trained networks into one file that others can run without your data: a bundle.

    python tools/export_bundle.py --folds 0 1 2 3 4 --dataset "name of the data" --out aneurysms.zip
    python tools/predict.py a/folder/of/dicom --bundle aneurysms.zip

It holds the weights as safetensors, settings, the order of the labels, calibration if
tools/report.py has fitted any, scores with their intervals, versions, checksums, and a model card.
It holds no pickle, no images, and no UID, path or other text of your tables but the modalities. The
same networks, tables and --date give the same bytes.

Reads   model/{encoder}/fold-{k}/weights_inference.pth (train_stage2.py)
        model/{encoder}/fold-{k}/scores_{stage2,end_to_end}.json, of several folds fold-all/
        model/{encoder}/calibration.json (tools/report.py), if it exists
        data/train_{N}_folds.csv, to count what the networks were trained on
        --figures: what tools/score.py --out wrote of a test set of yours, with its thresholds

Writes  --out
"""

import sys
from dataclasses import dataclass
from datetime import date
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd

from src.artifacts.bundle import require_sealed, write_bundle
from src.artifacts.calibration import Calibration, read_calibration
from src.artifacts.checkpoints import read_joined
from src.artifacts.files import read_json
from src.artifacts.paths import ALL_DATA, DataFolder, EncoderFolder, RunFolder
from src.artifacts.tables import read_fold
from src.inference.sources import day_of
from src.labels import LABELS, PRESENT
from src.script import UserError, run_script, versions
from tools.pages import model_card
from tools.pages.report_weights import WeightsCheck

EVALUATIONS = ("end_to_end", "stage2")  # of series
KEPT = ("score", "score_of", "present", "locations", "n_series", "n_known", "intervals")
LONGEST = 200  # characters of the name of the data


@dataclass
class Config:
    data_dir: Path = Path("data")  # tables of the folds
    model_dir: Path = Path("model")  # trained networks
    encoder: str = "convnext_base.dinov3_lvd1689m"  # the one that was trained
    folds: tuple[int, ...] = (0,)  # whose networks; of several, prediction takes the mean
    train_on_all: bool = False  # the networks of --train-on-all instead of those of folds
    out: Path = Path("aneurysms.zip")  # the bundle

    dataset: str = ""  # name of the data that they were trained on, for the card
    date: str = ""  # of the training, as 2026-11-26; else that of the newest weights
    figures: Path | None = None  # json of tools/score.py --out: scores on a test set, thresholds


def main(config: Config) -> Path:
    check_settings(config)
    folds = (ALL_DATA,) if config.train_on_all else tuple(sorted(set(config.folds)))
    runs = {}
    for fold in folds:
        run = RunFolder(config.model_dir, config.encoder, fold)
        runs[run.root.name] = run
    networks = {name: read_joined(run) for name, run in runs.items()}
    trained_on = {}
    for fold, (name, joined) in zip(folds, networks.items(), strict=True):
        trained_on[name] = counts(DataFolder(config.data_dir), fold, joined["stage1_settings"])
    calibration = fitted_calibration(config)
    about = {
        "dataset": config.dataset,
        "date": config.date or day_of(list(runs.values())),
        "encoder": config.encoder,
        "trained_on": trained_on,
        "scores": scores_of(config, folds),
        "test_set": read_json(config.figures) if config.figures else None,
        "versions": versions(),
        "weights_of_encoder": weights_of_encoder(next(iter(networks.values()))["stage1_settings"]),
    }
    card = model_card.text(about, networks, calibration, config.figures)
    write_bundle(config.out, networks, calibration, about, card)
    print(f"{', '.join(networks)}: {config.out}, SHA-256 at its end {require_sealed(config.out)}")
    return config.out


def check_settings(config: Config) -> None:
    """Raise UserError for the first flag that makes no sense."""
    if not config.folds:
        raise UserError("--folds is empty: name the folds whose networks to export")
    if len(config.dataset) > LONGEST:
        raise UserError(f"--dataset has more than {LONGEST} characters: give a short name")
    try:
        if config.date:
            date.fromisoformat(config.date)
    except ValueError as error:
        raise UserError("--date is no day: give it as 2026-11-26") from error


def counts(data: DataFolder, fold: int | str, trained: dict) -> dict:
    """Return how many series the networks of a fold were trained on, and how many were held out.

    Raise ArtifactError if the folds are others than those of the training.
    """
    series, held_out = read_fold(data, fold, trained)
    outside = series[series.fold != fold]
    present = outside[LABELS[PRESENT]]
    modalities = outside.get("Modality", pd.Series(dtype=str)).fillna("unknown")
    return {
        "series": len(outside),
        "with_aneurysm": int((present == 1).sum()),
        "unknown": int(present.isna().sum()),
        "held_out": len(held_out),
        "modalities": {str(name): int(n) for name, n in modalities.value_counts().items()},
        "positives": {label: int((outside[label] == 1).sum()) for label in LABELS},
    }


def fitted_calibration(config: Config) -> Calibration | None:
    folder = EncoderFolder(config.model_dir, config.encoder)
    return read_calibration(folder) if folder.calibration.exists() else None


def scores_of(config: Config, folds: tuple) -> dict[str, dict]:
    """Return {"fold-all": {evaluation: scores}} on series that the networks had not seen.

    Of one fold those of its own folder. Where nothing was held out, or of several folds, those of
    all folds pooled; if there are none, those of each.
    Raise ArtifactError if they are scores of other weights than those that are there now.
    """
    check, dealt = WeightsCheck(), DataFolder(config.data_dir).fold_count()
    alone = len(folds) == 1 and folds[0] != ALL_DATA
    for names in (folds,) if alone else (("all",), folds):
        found = {}
        for name in names:
            run = RunFolder(config.model_dir, config.encoder, name)
            found[run.root.name] = kept_scores(run)
            judges = range(dealt) if name == "all" else {name} - {ALL_DATA}
            for evaluation, fold in product(found[run.root.name], judges):
                judge = RunFolder(config.model_dir, config.encoder, fold)
                check.look(run.predictions(evaluation), judge, fold, f"eval_{evaluation}.py")
        check.require()
        if any(found.values()):
            return {name: scores for name, scores in found.items() if scores}
    return {}


def kept_scores(run: RunFolder) -> dict:
    """Return {evaluation: scores} of a folder, of the evaluations that were made."""
    kept = {}
    for evaluation in EVALUATIONS:
        path = run.scores(evaluation)
        if path.exists():
            scores = read_json(path, {"locations": dict, "n_series": int})
            kept[evaluation] = {key: scores[key] for key in KEPT if key in scores}
    return kept


def weights_of_encoder(settings: dict) -> dict:
    """Return from which weights the encoder started, and the licence of these, as timm names it."""
    import timm  # takes longer to import than all else together

    weights = timm.models.get_pretrained_cfg(settings["encoder"])
    licence = getattr(weights, "license", None) or "unknown"
    if settings.get("checkpoint"):
        return {"started_from": "weights of a file", "licence": "that of the file"}
    if "pretrained" not in settings:
        return {"started_from": "weights that were not recorded", "licence": licence}
    if settings["pretrained"]:
        return {"started_from": "pretrained weights of timm", "licence": licence}
    return {"started_from": "random weights", "licence": None}


if __name__ == "__main__":
    run_script(main, Config, __doc__, interrupted="run it again")

"""Find slices without an aneurysm on which the networks err.

Training draws half of a series' negatives from them.

The network of a series' own fold, which never saw it, judges it: train and extract all folds first:

    for k in 0 1 2 3 4; do
        python train_stage1.py --fold $k; python extract_features.py --fold $k --series held-out
    done

Reads   model/{encoder}/fold-{k}/logits/ of every fold
        data/train_{N}_folds.csv, data/f_dict_sample.pkl (create_folds.py)
        data/npy_sequence/

Writes  data/f_dict_hard.pkl     {uid: slices, int array}: no aneurysm near, high probability
        data/hard_negatives.png  the worst of them
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.artifacts.files import atomic, read_array, read_pickle, read_slices, write_pickle
from src.artifacts.paths import ArtifactError, DataFolder, RunFolder
from src.artifacts.plausible import require_finite
from src.artifacts.tables import read_folds
from src.labels import LABELS
from src.preprocess.intensity import TOP
from src.progress import progress
from src.script import UserError, run_script


@dataclass
class Config:
    data_dir: Path = Path("data")  # tables and arrays
    model_dir: Path = Path("model")  # trained networks of all folds
    encoder: str = "convnext_base.dinov3_lvd1689m"  # as trained

    threshold: float = 0.45  # of any label, mean of both steps; 6 % of the demo's reach it
    montage: int = 24  # slices in the picture, the worst one of a series each; 0: no picture


def main(config: Config) -> dict[str, np.ndarray]:
    data = DataFolder(config.data_dir)
    series, safe = read_folds(data), read_pickle(data.safe_slices)
    judged = list(series[series.SeriesInstanceUID.isin(list(safe))].itertuples())
    judged = progress(judged, "mining", " series")
    known = series.set_index("SeriesInstanceUID")[list(LABELS)].notna()
    tables = []
    for row in judged:
        uid = row.SeriesInstanceUID
        tables.append(highest(config, row, safe[uid], known.loc[uid].to_numpy()))
    found = pd.concat(tables)
    hard = found[found.probability >= config.threshold]
    if hard.empty:
        raise UserError(
            f"no slice reaches {config.threshold}, the highest is {found.probability.max():.2f}: "
            "lower --threshold"
        )
    groups = hard.groupby("SeriesInstanceUID")
    slices = {uid: rows.slice.to_numpy(np.int64) for uid, rows in groups}
    write_pickle(data.hard_slices, slices)
    print(counts(series, found, hard))
    print(f"{len(hard)} of {len(found)} negative slices are hard: {data.hard_slices}")
    if config.montage:
        draw_montage(data, hard, config.montage)
        print(f"the worst: {data.hard_picture}")
    return slices


def highest(config: Config, row, safe: np.ndarray, known: np.ndarray) -> pd.DataFrame:
    """Return the highest probability and its label for each safe slice of a series.

    known: (14,) whether the series' label is known; the others are no mistakes.
    """
    path = RunFolder(config.model_dir, config.encoder, row.fold).logit(row.SeriesInstanceUID)
    logits = require_finite(read_array(path), path).astype(np.float32)  # (2, n, 14)
    if logits.shape != (2, row.length, len(LABELS)):
        raise ArtifactError(
            f"{path} holds {logits.shape}, not 2 steps of {row.length} slices: "
            f"run extract_features.py --fold {row.fold} again"
        )
    probabilities = np.where(known, expit(logits).mean(axis=0)[safe], 0)  # (k, 14)
    table = pd.DataFrame({"SeriesInstanceUID": row.SeriesInstanceUID, "slice": safe})
    return table.assign(probability=probabilities.max(axis=1), label=probabilities.argmax(axis=1))


def counts(series: pd.DataFrame, found: pd.DataFrame, hard: pd.DataFrame) -> str:
    """Return a table of series, negative slices and hard ones by modality."""
    modality = series.set_index("SeriesInstanceUID").Modality
    with_hard = hard.drop_duplicates("SeriesInstanceUID")
    columns = {
        "series": modality.value_counts(),
        "with hard slices": with_hard.SeriesInstanceUID.map(modality).value_counts(),
        "negative slices": found.SeriesInstanceUID.map(modality).value_counts(),
        "hard": hard.SeriesInstanceUID.map(modality).value_counts(),
    }
    return pd.DataFrame(columns).fillna(0).astype(int).rename_axis("modality").to_string()


def draw_montage(data: DataFolder, hard: pd.DataFrame, count: int) -> None:
    """Draw the slice with the highest probability of each series, the worst series first."""
    from matplotlib.figure import Figure

    worst = hard.sort_values("probability", ascending=False)
    worst = worst.drop_duplicates("SeriesInstanceUID").head(count)
    columns = min(6, len(worst))
    rows = -(-len(worst) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.axis("off")
    for panel, row in zip(panels, worst.itertuples(), strict=False):
        uid = row.SeriesInstanceUID
        image = read_slices(data.sequence(uid), np.array([row.slice]))[0]
        panel.imshow(image.astype(np.float32), cmap="gray", vmin=0, vmax=TOP)
        caption = f"{row.probability:.2f}  slice {row.slice}\n{LABELS[row.label]}\n...{uid[-12:]}"
        panel.set_title(caption, fontsize=6)
    with atomic(data.hard_picture) as file:
        figure.savefig(file, format="png")


if __name__ == "__main__":
    run_script(main, Config, __doc__, interrupted="run it again")

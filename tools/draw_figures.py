"""Draw the three pictures of the README from a trained run.

    python tools/draw_figures.py --data-dir demo/data --model-dir demo/model --encoder test_resnet

Shows   one held-out series with an aneurysm, in all three: the one with the median probability
          of Aneurysm Present; in sampling.png also the median one without aneurysm, among those
          with hard slices if there are any

Reads   model/{encoder}/fold-{k}/  best_stage1.pth, best_stage2.pth, features/ and logits/
        data/                      as train_stage1.py reads it, f_dict_hard.pkl if it exists

Writes  {out}/stage1.png    what stage 1 sees and finds
        {out}/sampling.png  how its samples are drawn
        {out}/stage2.png    what stage 2 reads and finds
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import eval_stage2
from src.artifacts.paths import DataFolder, RunFolder
from src.device import choose_device
from src.labels import LABELS, PRESENT
from src.sampling.spot_dataset import SpotTables, read_spot_tables
from src.script import UserError, run_script
from tools.figures import sampling, stage1, stage2


@dataclass
class Config:
    data_dir: Path = Path("data")  # tables and arrays
    model_dir: Path = Path("model")  # features and trained networks
    fold: int = 0  # held out
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    encoder: str = "convnext_base.dinov3_lvd1689m"  # as trained

    series: str | None = None  # SeriesInstanceUID of another held-out series with an aneurysm
    out: Path = Path("content")  # for the pictures


def main(config: Config) -> list[Path]:
    device = choose_device(config.device)
    data = DataFolder(config.data_dir)
    run = RunFolder(config.model_dir, config.encoder, config.fold)
    tables = read_spot_tables(data)
    if config.series is not None:
        check_series(tables, config.series, config.fold)
    judged = eval_stage2.Config(
        config.data_dir, config.model_dir, config.fold, config.device, config.encoder
    )
    _, predictions = eval_stage2.predict_fold(judged, data, config.fold, device)
    present = predictions.set_index("SeriesInstanceUID")[LABELS[PRESENT]]

    uid = config.series or median_positive(tables, present)
    shown = [uid, *median_negative(tables, present)]
    pictures = [config.out / name for name in ("stage1.png", "sampling.png", "stage2.png")]
    spot = stage1.look(run, tables, uid, device)
    stage1.draw(spot, pictures[0])
    sampling.draw([sampling.look(tables, uid, spot.step_mm) for uid in shown], pictures[1])
    stage2.draw(stage2.look(run, tables, uid, device), pictures[2])
    print(f"series {uid}, Aneurysm Present {present[uid]:.2f}: {', '.join(map(str, pictures))}")
    return pictures


def check_series(tables: SpotTables, uid: str, fold: int) -> None:
    """Raise UserError if a series is unknown, has no aneurysm to show, or is not held out."""
    if uid not in tables.meta.index:
        raise UserError(
            f"--series {uid[:80]}: no such series among the {len(tables.meta)} in the folds; "
            "leave it out, or name one of those"
        )
    if uid not in located(tables):
        raise UserError(
            f"--series {uid}: no localizer points at an aneurysm there; "
            "leave it out, or name a series with an aneurysm"
        )
    own = tables.meta.fold[uid]
    if own != fold:
        raise UserError(
            f"--series {uid} is in fold {own}, and fold {fold} is held out; take --fold {own}"
        )


def located(tables: SpotTables) -> set[str]:
    """Return the series with an aneurysm at which a localizer points."""
    return set(tables.spots.SeriesInstanceUID[tables.spots.class_id != PRESENT])


def median_positive(tables: SpotTables, present: pd.Series) -> str:
    """Return the held-out series with a located aneurysm whose probability is the median.

    present: probabilities by SeriesInstanceUID.
    """
    positives = present[present.index.isin(list(located(tables)))]
    if positives.empty:
        raise UserError(
            "no localizer points at an aneurysm in the held-out fold: choose another --fold"
        )
    return median(positives)


def median_negative(tables: SpotTables, present: pd.Series) -> list[str]:
    """Return the median series without aneurysm, hard slices preferred; [] if there is none."""
    healthy = tables.meta[LABELS[PRESENT]][present.index] == 0
    negatives = present[healthy & present.index.isin(list(tables.safe))]
    with_hard = negatives[negatives.index.isin(list(tables.hard))]
    candidates = negatives if with_hard.empty else with_hard
    return [] if candidates.empty else [median(candidates)]


def median(values: pd.Series) -> str:
    """Return the key of the median, of an even number the upper one."""
    return values.sort_values(kind="stable").index[len(values) // 2]


if __name__ == "__main__":
    run_script(main, Config, __doc__, interrupted="run it again")

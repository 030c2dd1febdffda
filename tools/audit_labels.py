"""List the labels that the networks doubt, as proposals for data/overrides.csv: look at them.

    python eval_end_to_end.py --fold all && python tools/measure_findings.py --fold all
    python tools/audit_labels.py

Each series is judged by the network that never saw it. Proposed are, in this order: sides that seem
swapped; labels of 0 that are predicted with --above or more; labels of 1 that are predicted with
--below or less; localizers without a finding within --far mm. The first of each kind are the ones
with the largest disagreement. A network errs more often than a radiologist: copy only the lines
that you have checked.

Reads   model/{encoder}/fold-all/predictions_end_to_end.csv, else predictions_stage2.csv
        model/{encoder}/fold-all/findings.csv (tools/measure_findings.py), if it exists
        data/train_{N}_folds.csv, train_localizers.csv
        data/npy_sequence/, for the picture
        model/{encoder}/fold-{k}/logits/, if they exist: the slice to show without a finding

Writes  model/{encoder}/label_proposals.csv   columns of overrides.csv, probability, why
        model/{encoder}/label_proposals.png   contact sheet of the first: the slice with the
                                              finding (cross) and the localizers (circle)
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.artifacts.files import read_array
from src.artifacts.paths import ArtifactError, DataFolder, EncoderFolder, RunFolder
from src.artifacts.plausible import require_finite
from src.artifacts.tables import (
    read_folds,
    read_localizers,
    read_spots,
    read_table,
    write_table,
)
from src.labels import LABELS, LOCATIONS, NOTHING, PRESENT, SOMEWHERE
from src.sampling.spots import is_nowhere
from src.script import UserError, run_script
from tools.figures.contact_sheet import Panel, draw_sheet, prepared_point
from tools.pages.report_weights import WeightsCheck
from tools.scoring.proposals import KINDS, UID, Rules, propose

EVALUATIONS = ("end_to_end", "stage2")
FINDING_COLUMNS = (UID, "rank", "label", "location", "mm", "slice", "column", "row")


@dataclass
class Config:
    data_dir: Path = Path("data")  # tables and arrays
    model_dir: Path = Path("model")  # evaluated networks
    encoder: str = "convnext_base.dinov3_lvd1689m"  # as trained

    above: float = 0.5  # probability from which on a label of 0 is doubted
    below: float = 0.1  # probability up to which a label of 1 is doubted
    far: float = 20.0  # mm from a localizer to the nearest finding
    panels: int = 24  # slices in the picture; 0: no picture


def main(config: Config) -> pd.DataFrame:
    if not 0 <= config.below < config.above <= 1:
        raise UserError("--below and --above are probabilities: 0 <= below < above <= 1")
    data = DataFolder(config.data_dir)
    folder = EncoderFolder(config.model_dir, config.encoder)
    series = read_folds(data)
    predictions = read_held_out(config, series)
    findings = read_findings(config)
    distances = distances_of(data, findings)
    rules = Rules(config.above, config.below, config.far)
    table = propose(series[[UID, *LABELS]], predictions, distances, rules)
    write_table(folder.label_proposals, table)
    counts = table.reason.value_counts().reindex(KINDS, fill_value=0)
    print("  ".join(f"{kind} {count}" for kind, count in counts.items()))
    print(f"{len(table)} proposals for {data.overrides}: {folder.label_proposals}")
    if config.panels and len(table):
        panels = panels_of(config, data, series, table.head(config.panels), findings)
        draw_sheet(panels, folder.label_picture)
        print(f"the first {len(panels)}: {folder.label_picture}")
    return table


def read_held_out(config: Config, series: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions of --fold all: a row per series, by the network that never saw it.

    Raise UserError if there are none, if they are not of all folds, or if a network was trained
    again since.
    """
    run = RunFolder(config.model_dir, config.encoder, "all")
    paths = [run.predictions(evaluation) for evaluation in EVALUATIONS]
    found = [path for path in paths if path.exists()]
    if not found:
        raise ArtifactError(
            f"{paths[0]} is missing: run eval_end_to_end.py or eval_stage2.py with --fold all first"
        )
    table = read_table(found[0], (UID, *LABELS))[[UID, *LABELS]]
    strangers = set(table[UID]) - set(series[UID])
    if strangers or table[UID].duplicated().any():
        raise ArtifactError(
            f"{found[0]} holds series that are none of the folds, or one twice: "
            "the folds have changed, evaluate with --fold all again"
        )
    numbers = table[list(LABELS)].apply(pd.to_numeric, errors="coerce")
    if not ((numbers >= 0) & (numbers <= 1)).all(axis=None):
        raise ArtifactError(f"{found[0]} holds what is no probability: evaluate again")
    missing = set(series.fold) - set(series.fold[series[UID].isin(table[UID])])
    if missing:
        raise ArtifactError(
            f"{found[0]} holds no series of fold {min(missing)}: evaluate with --fold all, "
            "so that each series is judged by the network that never saw it"
        )
    check = WeightsCheck()
    for fold in sorted(set(series.fold)):
        of_fold = RunFolder(config.model_dir, config.encoder, fold)
        check.look(found[0], of_fold, fold, f"eval_{EVALUATIONS[paths.index(found[0])]}.py")
    check.require()
    return table.assign(**numbers)


def read_findings(config: Config) -> pd.DataFrame:
    """Return the findings of --fold all; none if they were not measured."""
    path = RunFolder(config.model_dir, config.encoder, "all").findings
    if path.exists():
        return read_table(path, FINDING_COLUMNS)
    print(f"{path} is missing: localizers are not judged (tools/measure_findings.py --fold all)")
    return pd.DataFrame(columns=list(FINDING_COLUMNS))


def distances_of(data: DataFolder, findings: pd.DataFrame) -> pd.DataFrame:
    """Return UID, label, mm, line of each localizer, of series with findings.

    One without a location is of presence; of several in a series there is the first.
    mm: of the finding that is nearest, among those to which this localizer is nearest (one of
    those without a location); infinite if it is nearest to none.
    """
    localizers = read_localizers(data)
    nowhere = localizers.location.map(is_nowhere)
    localizers["location"] = localizers.location.mask(nowhere, SOMEWHERE)
    localizers = localizers[localizers.location.isin([*LOCATIONS, SOMEWHERE])]
    localizers = localizers[localizers[UID].isin(findings[UID])]
    nearest = findings.groupby([UID, "location"]).mm.min().to_dict()
    pairs = zip(localizers[UID], localizers.location, strict=True)
    mm = [nearest.get(pair, np.inf) for pair in pairs]
    labels = localizers.location.replace(SOMEWHERE, LABELS[PRESENT])
    table = localizers.assign(label=labels)[[UID, "label", "line"]]
    return table.assign(mm=np.array(mm, float)).drop_duplicates([UID, "label"])


def panels_of(
    config: Config,
    data: DataFolder,
    series: pd.DataFrame,
    table: pd.DataFrame,
    findings: pd.DataFrame,
) -> list[Panel]:
    """Return what to draw of each proposal: its slice, the finding and the localizers on it."""
    spots, by_uid = read_spots(data), series.set_index(UID)
    spots = spots[spots.location != NOTHING]
    panels = []
    for row in table.itertuples():
        about = by_uid.loc[row.SeriesInstanceUID]
        here = spots[spots[UID] == row.SeriesInstanceUID]
        theirs = findings[findings[UID] == row.SeriesInstanceUID].sort_values("rank")
        named = theirs[theirs.label == row.label]
        chosen = named if len(named) else theirs
        mine = here if row.label == LABELS[PRESENT] else here[here.location == row.label]
        cross = None
        if len(chosen):
            slice_ = int(chosen.slice.iloc[0])
            cross = prepared_point(chosen.column.iloc[0], chosen.row.iloc[0], about)
        elif len(mine):
            slice_ = int(mine.f.iloc[0])
        else:
            slice_ = top_slice(config, row.SeriesInstanceUID, row.label, about)
        circles = here.loc[here.f == slice_, ["x_512", "y_512"]].to_numpy(float)
        path = data.sequence(row.SeriesInstanceUID)
        panels.append(Panel(row, path, min(max(slice_, 0), about.length - 1), cross, circles))
    return panels


def top_slice(config: Config, uid: str, label: str, about: pd.Series) -> int:
    """Return the slice on which stage 1 is surest of a label; the middle one without logits."""
    path = RunFolder(config.model_dir, config.encoder, int(about.fold)).logit(uid)
    if not path.exists():
        return int(about.length) // 2
    logits = require_finite(read_array(path), path)  # (2, n, 14)
    return int(logits[..., LABELS.index(label)].astype(np.float32).mean(axis=0).argmax())


if __name__ == "__main__":
    run_script(main, Config, __doc__, interrupted="run it again")

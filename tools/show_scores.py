"""The scores of the three evaluations side by side, as one table.

Reads   model/{encoder}/fold-{k}/scores_stage1.json, scores_stage2.json, scores_end_to_end.json (the eval scripts)
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src import artifacts
from src.artifacts import RunFolder
from src.labels import LABELS, LOCATIONS, PRESENT
from src.runtime import run_script

EVALUATIONS = ("stage1", "stage2", "end_to_end")


@dataclass
class Config:
    model_dir: Path = Path("model")  # trained networks
    fold: int = 0  # held out
    encoder: str = "convnext_base.dinov3_lvd1689m"  # as trained


def main(config: Config) -> str:
    run = RunFolder(config.model_dir, config.encoder, config.fold)
    scores = [artifacts.read_json(run.scores(evaluation)) for evaluation in EVALUATIONS]
    rows = [(label, [score["locations"][label] for score in scores]) for label in LOCATIONS]
    rows += [(LABELS[PRESENT], [score["present"] for score in scores]), ("weighted score", [score["score"] for score in scores])]
    width = max(len(name) for name, _ in rows)
    lines = [f"{f'held-out fold {config.fold}, AUC':<{width}}" + "".join(f"{name:>12}" for name in EVALUATIONS)]
    lines += [f"{name:<{width}}" + "".join("         n/a" if value is None else f"{value:12.3f}" for value in values) for name, values in rows]
    table = "\n".join(lines)
    print(table)
    return table


if __name__ == "__main__":
    run_script(main, Config, __doc__)

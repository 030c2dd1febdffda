"""Measure how fast the stages are here, against a plain loop and against what they must cost.

    python tools/benchmark.py all
    python tools/benchmark.py preprocess --matrix 512 --no-write-slices
    python tools/benchmark.py loader
    python tools/benchmark.py train --encoder convnext_base.dinov3_lvd1689m --batch-size 32
    python tools/benchmark.py extract
    python tools/benchmark.py stage2
    python tools/benchmark.py end_to_end

All data are made up, all networks have random weights. Everything is measured in several rounds,
in which the ways take turns; medians are printed, and ratios are taken within a round.
"""

import sys
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.script import run_script
from tools.benchmarks.all_stages import All, Stage, measure_all, open_case
from tools.benchmarks.case import measure, show
from tools.benchmarks.inference import EndToEnd, Extract
from tools.benchmarks.preprocess import Preprocess
from tools.benchmarks.training import Loader, Stage2, Train

COMMANDS = {
    "all": All(),
    "preprocess": Preprocess(),
    "loader": Loader(),
    "train": Train(),
    "extract": Extract(),
    "stage2": Stage2(),
    "end_to_end": EndToEnd(),
}


def main(config: All | Stage) -> None:
    if isinstance(config, All):
        measure_all(config)
        return
    with open_case(config) as case:
        show(case, measure(case.turns(), config.repeats))


if __name__ == "__main__":
    run_script(main, tyro.extras.subcommand_type_from_defaults(COMMANDS), __doc__, "run it again")

"""How fast the stages are on this machine, against what one would write in five minutes and against what they could cost.

    python tools/benchmark.py all
    python tools/benchmark.py preprocess --matrix 512 --no-write-slices
    python tools/benchmark.py loader
    python tools/benchmark.py train --encoder convnext_base.dinov3_lvd1689m --batch-size 32 --compile
    python tools/benchmark.py extract
    python tools/benchmark.py stage2
    python tools/benchmark.py end_to_end

Everything is measured several times in turn on made-up data; medians are printed, and ratios within one run.
"""

import sys
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


from src.script import run_script
from tools.benchmarks.all_stages import All, measure_all
from tools.benchmarks.case import measure, show
from tools.benchmarks.inference import EndToEnd, Extract
from tools.benchmarks.own_process import CASES
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


def main(config: All | Preprocess | Loader | Train | Extract | Stage2 | EndToEnd) -> object:
    if isinstance(config, All):
        return measure_all(config)
    with CASES[type(config)](config) as case:
        times = measure(case, config.repeats)
    show(case, times)
    return times


if __name__ == "__main__":
    run_script(main, tyro.extras.subcommand_type_from_defaults(COMMANDS), __doc__)

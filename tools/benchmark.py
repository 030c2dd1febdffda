"""How fast the stages are on this machine, against what they could cost.

    python tools/benchmark.py preprocess --matrix 512 --no-write-slices
    python tools/benchmark.py loader
    python tools/benchmark.py train --encoder convnext_base.dinov3_lvd1689m --batch-size 32 --compile
    python tools/benchmark.py extract
    python tools/benchmark.py end_to_end

Everything is measured several times in turn on made-up data; medians are printed, and ratios within one run.
"""

import sys
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.runtime import run_script
from tools import bench_inference, bench_preprocess, bench_training
from tools.bench_inference import EndToEnd, Extract
from tools.bench_preprocess import Preprocess
from tools.bench_training import Loader, Train

MEASURES = {
    Preprocess: bench_preprocess.measure,
    Loader: bench_training.measure_loader,
    Train: bench_training.measure_train,
    Extract: bench_inference.measure_extract,
    EndToEnd: bench_inference.measure_end_to_end,
}
Stage = tyro.extras.subcommand_type_from_defaults(
    {"preprocess": Preprocess(), "loader": Loader(), "train": Train(), "extract": Extract(), "end_to_end": EndToEnd()}
)


def main(config: Preprocess | Loader | Train | Extract | EndToEnd) -> dict[str, float]:
    return MEASURES[type(config)](config)


if __name__ == "__main__":
    run_script(main, Stage, __doc__)

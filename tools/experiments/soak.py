"""Can the whole chain be trusted over long runs? Many small series, broken files, kill -9.

    python tools/experiments/soak.py --out soak --series 1000

The same synthetic series are run through all eight stages twice. Disturbed: 5 % of the series are
broken, in the WAYS of tools/experiments/soak_ways.py, and each stage is killed once, with all its
processes, at a random moment (after its first finished series or epoch; if these cannot be
counted, in the second half of its time), and then run again. Undisturbed: over links to the good
series alone. At the end all arrays, tables, weights, features, scores and predictions must be
equal bit for bit, failed_series.csv must name the broken series, and the long stages must not
take more memory at their end than at their beginning (Linux only; the sum over all processes of a
stage, pages that they share count in each).

Writes  {out}/disturbed/, {out}/undisturbed/  each with data/ and model/
        {out}/soak.log                        what the stages printed
        {out}/soak.json                       times, memory, differences

Ends with 0 if all is equal, else with 1 and the first difference.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.artifacts.files import write_json
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.tables import read_table, read_train, write_table
from src.script import OK, SOME_FAILED, UserError, run_script, settings_of
from tools import make_demo_data
from tools.experiments.soak_compare import compare
from tools.experiments.soak_stages import (
    Stage,
    Watched,
    count_arrays,
    count_epochs,
    kill_and_repeat,
    kill_moment,
    quarters,
    run_to_end,
)
from tools.experiments.soak_ways import WAYS

ENCODER = "test_resnet"
BROKEN = 0.05  # of the series
GROWTH = 0.1  # of the memory at a stage's beginning, which it may take more at its end
STEADY = ("preprocess_data", "extract_features")  # they do the same work for each series


@dataclass
class Config:
    out: Path = Path("soak")  # for everything; must be empty or not exist
    series: int = 1000  # synthetic series, broken ones included
    seed: int = 0  # of the pictures, of which series are broken, and of the moments of the kills

    matrix: int = 64  # pixels, rows and columns of most series, and of the prepared images
    slices: int = 14  # slices of most series
    crop_size: int = 56  # pixels, side of what the network sees
    folds: int = 5  # fold 0 is held out
    epochs: int = 6  # of stage 1, from random weights
    sequence_epochs: int = 30  # of stage 2
    workers: int = 2  # processes of preprocessing and of drawing the series


def main(config: Config) -> dict:
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise UserError(f"{config.out} is not an empty folder: choose another --out")
    calm, wild = config.out / "undisturbed", config.out / "disturbed"
    ways = make_series(config, calm / "data", wild / "data")
    print(f"{len(ways)} of {config.series} series are broken, in {len(set(ways.values()))} ways")

    # How much of each stage is done when it is killed.
    fractions = np.random.default_rng([config.seed, 2]).uniform(0.1, 0.8, 8).tolist()
    rows = []
    with open(config.out / "soak.log", "w") as log:
        sides = zip(stages(config, calm), stages(config, wild), fractions, strict=True)
        for undisturbed, disturbed, fraction in sides:
            whole = run_to_end(undisturbed, log, OK)
            code = SOME_FAILED if ways and disturbed.script == "preprocess_data" else OK
            killed, again = kill_and_repeat(disturbed, log, code, kill_moment(whole, fraction))
            rows.append(row_of(undisturbed, whole, killed, again))
            print(line_of(rows[-1]), flush=True)

    reasons = {uid: WAYS[way][1] for uid, way in ways.items()}
    differences = compare(calm, wild, ENCODER, reasons)
    for script in STEADY:
        differences[f"memory of {script}"] = growth(rows, script, GROWTH)
    result = {"settings": settings_of(config), "broken": ways, "stages": rows}
    write_json(config.out / "soak.json", result | {"differences": differences})
    judge(config, differences)
    kills = sum(row["killed_after"] is not None for row in rows)
    print(f"{config.series - len(ways)} good series give the same numbers after {kills} kills")
    return result


def judge(config: Config, differences: dict[str, str]) -> None:
    """Print the differences. Raises UserError with the first if there are any."""
    for what, difference in differences.items():
        print(f"{what:32s} {difference or 'as it should be'}")
    wrong = [f"{what}: {difference}" for what, difference in differences.items() if difference]
    if wrong:
        raise UserError(
            f"{len(wrong)} of {len(differences)} comparisons failed, the first is {wrong[0]} "
            f"(see {config.out / 'soak.json'})"
        )


def make_series(config: Config, calm: Path, wild: Path) -> dict[str, str]:
    """Make the series, link the good ones, break the others; return {uid: way} of these."""
    size = (config.series, config.matrix, config.slices)
    make_demo_data.main(make_demo_data.Config(wild, *size, config.workers, config.seed))
    data = DataFolder(wild)
    ways = choose_broken(config, read_train(data).SeriesInstanceUID.tolist())
    link_good(wild, calm, set(ways))
    for uid, way in ways.items():
        breaks, _ = WAYS[way]
        breaks(data.series(uid))
    return ways


def choose_broken(config: Config, uids: list[str]) -> dict[str, str]:
    """Return {uid: way} of the series to break: drawn by the seed, each way in turn."""
    rng = np.random.default_rng([config.seed, 1])
    chosen = rng.choice(sorted(uids), round(BROKEN * len(uids)), replace=False)
    return dict(zip(chosen.tolist(), np.resize(list(WAYS), len(chosen)).tolist(), strict=True))


def link_good(source: Path, target: Path, broken: set[str]) -> None:
    """Make a data set of the good series: links to their folders, tables without the others."""
    whole, good = DataFolder(source), DataFolder(target)
    for old, new in ((whole.train, good.train), (whole.localizers, good.localizers)):
        table = read_table(old)
        write_table(new, table[~table.SeriesInstanceUID.isin(broken)])
    for uid in read_train(good).SeriesInstanceUID:
        good.series(uid).parent.mkdir(exist_ok=True)
        good.series(uid).symlink_to(whole.series(uid).resolve(), target_is_directory=True)


def stages(config: Config, side: Path) -> list[Stage]:
    """Return the eight stages with the demo's settings, few epochs, on the CPU."""
    data, run = DataFolder(side / "data"), RunFolder(side / "model", ENCODER, 0)
    table = ["--data-dir", side / "data"]
    network = [*table, "--model-dir", side / "model", "--encoder", ENCODER, "--device", "cpu"]
    arrays = f"--image-size {config.matrix} --no-write-slices --workers {config.workers}"
    fit = "--batch-size 16 --ema-decay 0.99"
    fit1 = f"--no-pretrained --crop-size {config.crop_size} --epochs {config.epochs} --lr 3e-3"
    fit2 = f"--width 128 --epochs {config.sequence_epochs} --lr 1e-3"
    train1 = [*network, *fit.split(), *fit1.split(), "--workers", 0]
    train2 = [*network, *fit.split(), *fit2.split()]
    resume = ("--resume",)
    prepared = partial(count_arrays, data.sequences)
    extracted = partial(count_arrays, run.features)
    epochs1 = partial(count_epochs, run.metrics("stage1"))
    epochs2 = partial(count_epochs, run.metrics("stage2"))
    return [
        Stage("preprocess_data", [*table, *arrays.split()], prepared),
        Stage("create_folds", [*table, "--folds", config.folds]),
        Stage("train_stage1", train1, epochs1, resume),
        Stage("eval_stage1", [*network, "--workers", 0]),
        Stage("extract_features", network, extracted),
        Stage("train_stage2", train2, epochs2, resume),
        Stage("eval_stage2", network),
        Stage("eval_end_to_end", network),
    ]


def row_of(stage: Stage, whole: Watched, killed: Watched, again: Watched | None) -> dict:
    """Return what soak.json says of a stage; of pairs the undisturbed side comes first."""
    disturbed = [killed, again] if again else [killed]
    return {
        "stage": stage.script,
        "killed_after": killed.seconds if again else None,
        "done_at_kill": killed.done if again else None,
        "seconds": [whole.seconds, sum(run.seconds for run in disturbed)],
        "peak_mb": [whole.peak, max(run.peak for run in disturbed)],
        "quarters_mb": quarters(whole),
    }


def line_of(row: dict) -> str:
    fate = "ended before its kill"
    if row["killed_after"] is not None:
        fate = f"killed after {row['killed_after']:.1f} s, {row['done_at_kill']} done"
    seconds = " / ".join(f"{value:6.1f}" for value in row["seconds"])
    peak = " / ".join(f"{value:6.1f}" for value in row["peak_mb"])
    return f"{row['stage']:16s}  undisturbed / disturbed {seconds} s, peak {peak} MB, {fate}"


def growth(rows: list[dict], script: str, allowed: float) -> str:
    """Say how the memory of a stage has grown; "" if it has not. allowed: fraction."""
    (row,) = [row for row in rows if row["stage"] == script]
    early, late = row["quarters_mb"]
    if late <= early * (1 + allowed):
        return ""
    return f"{early:.0f} MB in its first quarter, {late:.0f} MB in its last"


if __name__ == "__main__":
    run_script(main, Config, __doc__, interrupted="run it again")

"""Can the whole chain be trusted over long runs? All eight stages on many small series, some of them broken, each stage killed once by kill -9.

    python tools/experiments/soak.py --out soak --series 1000

The same synthetic series are run through twice: disturbed, where a share of the series is broken in one of the WAYS of
tools/experiments/soak_ways.py and each stage is killed once, with all its processes, at a random moment (after its first finished series or epoch; where
these cannot be counted, in the second half of its time), and then run again; and undisturbed, over links to the good series alone. At the end
all arrays, tables, weights, features, scores and predictions must be equal bit for bit, and the broken series must be those of
failed_series.csv. Memory is that of all processes of a stage together (Linux only; pages that they share count in each).

Writes  {out}/disturbed/ and {out}/undisturbed/, each with data/ and model/, {out}/soak.log (what the stages printed), {out}/soak.json
Ends with 0 where all is equal, with 1 and the first difference where not.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.artifacts.checkpoints import read_trained
from src.artifacts.files import read_json, read_json_lines, write_json
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.provenance import fingerprint
from src.artifacts.tables import read_table, read_train, write_table
from src.script import OK, SOME_FAILED, UserError, run_script, settings_of
from tools import make_demo_data
from tools.benchmarks.memory import resident
from tools.experiments.soak_ways import WAYS

ROOT = Path(__file__).resolve().parents[2]
ENCODER = "test_resnet"
PERIOD = 0.05  # seconds between two looks at a stage
PATIENCE = 30.0  # seconds that the processes of a stage may take to end after it
STEADY = (
    "preprocess_data",
    "extract_features",
)  # do the same work for each series: their memory must not grow
EVALUATIONS = ("stage1", "stage2", "end_to_end")


@dataclass
class Config:
    out: Path = Path("soak")  # for everything; must be empty or not exist
    series: int = 1000  # synthetic series, broken ones included
    broken: float = 0.05  # share of them that is broken
    seed: int = 0  # of the pictures, of which series are broken, and of the moments of the kills

    matrix: int = 64  # pixels, rows and columns of most series, and of the prepared images
    slices: int = 14  # slices of most series
    crop_size: int = 56  # pixels, side of what the network sees
    folds: int = 5  # into how many the series are dealt; fold 0 is held out
    epochs: int = 6  # of stage 1, from random weights
    sequence_epochs: int = 30  # of stage 2
    workers: int = 2  # processes of preprocessing and of drawing the series
    growth: float = (
        0.1  # share by which memory at the end of a long stage may lie above that at its beginning
    )


@dataclass(frozen=True)
class Stage:
    """One of the eight scripts as it is run on one side. done: how many series or epochs are finished, always 0 where all is written at its end."""

    script: str
    flags: list
    done: Callable[[], int] = lambda: 0
    again: tuple[str, ...] = ()  # further flags after a kill


@dataclass
class Watched:
    """What was seen of one run of a stage."""

    code: int  # exit code, negative after a signal
    seconds: float
    first: (
        float  # seconds until the first series or epoch was finished, 0 where they are not counted
    )
    last: float  # the same for the last one
    done: int  # series or epochs that were finished at the end
    megabytes: list[tuple[float, float]]  # (seconds, resident memory of all its processes)

    @property
    def peak(self) -> float:
        return max((megabytes for _, megabytes in self.megabytes), default=0.0)


def main(config: Config) -> dict:
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise UserError(f"{config.out} is not an empty folder: choose another --out")
    calm, wild = config.out / "undisturbed", config.out / "disturbed"
    make_demo_data.main(
        make_demo_data.Config(
            wild / "data", config.series, config.matrix, config.slices, config.workers, config.seed
        )
    )
    ways = choose_broken(config, read_train(DataFolder(wild / "data")).SeriesInstanceUID.tolist())
    link_good(wild / "data", calm / "data", set(ways))
    for uid, way in ways.items():
        WAYS[way][0](DataFolder(wild / "data").series(uid))
    print(f"{len(ways)} of {config.series} series are broken, in {len(set(ways.values()))} ways")

    shares = np.random.default_rng([config.seed, 2]).uniform(
        0.1, 0.8, 8
    )  # of a stage that are done when it is killed
    rows = []
    with open(config.out / "soak.log", "w") as log:
        for before, after, share in zip(
            stages(config, calm), stages(config, wild), shares, strict=True
        ):
            whole = run_to_end(before, log, OK)
            killed, again = kill_and_repeat(
                after,
                log,
                SOME_FAILED if ways and not rows else OK,
                *kill_moment(whole, float(share)),
            )
            rows.append(row_of(before, whole, killed, again))
            print(line_of(rows[-1]), flush=True)

    differences = compare(config, calm, wild, ways) | {
        f"memory of {script}": growth(rows, script, config.growth) for script in STEADY
    }
    result = {
        "settings": settings_of(config),
        "broken": ways,
        "stages": rows,
        "differences": differences,
    }
    write_json(config.out / "soak.json", result)
    for what, difference in differences.items():
        print(f"{what:32s} {difference or 'as it should be'}")
    wrong = [f"{what}: {difference}" for what, difference in differences.items() if difference]
    if wrong:
        raise UserError(
            f"{len(wrong)} of {len(differences)} comparisons failed, the first is {wrong[0]} (see {config.out / 'soak.json'})"
        )
    kills = sum(row["killed_after"] is not None for row in rows)
    print(
        f"{config.series - len(ways)} good series give the same numbers with {len(ways)} broken ones beside them and after {kills} kills"
    )
    return result


def choose_broken(config: Config, uids: list[str]) -> dict[str, str]:
    """{uid: way} of the series that are broken: drawn by the seed, each way in turn."""
    rng = np.random.default_rng([config.seed, 1])
    chosen = rng.choice(sorted(uids), round(config.broken * len(uids)), replace=False).tolist()
    return {uid: list(WAYS)[place % len(WAYS)] for place, uid in enumerate(chosen)}


def link_good(source: Path, target: Path, broken: set[str]) -> None:
    """A data set of the good series alone: links to their folders, and tables without the others."""
    whole, good = DataFolder(source), DataFolder(target)
    for old, new in ((whole.train, good.train), (whole.localizers, good.localizers)):
        table = read_table(old)
        write_table(new, table[~table.SeriesInstanceUID.isin(broken)])
    for uid in read_train(good).SeriesInstanceUID:
        good.series(uid).parent.mkdir(exist_ok=True)
        good.series(uid).symlink_to(whole.series(uid).resolve(), target_is_directory=True)


def stages(config: Config, side: Path) -> list[Stage]:
    """The eight stages with the demo's settings, few epochs, on the CPU."""
    data, run = DataFolder(side / "data"), RunFolder(side / "model", ENCODER, 0)
    table = ["--data-dir", side / "data"]
    network = [
        *table,
        "--model-dir",
        side / "model",
        "--encoder",
        ENCODER,
        "--fold",
        0,
        "--device",
        "cpu",
    ]
    fit = ["--batch-size", 16, "--ema-decay", 0.99]
    train1 = [
        *network,
        *fit,
        "--no-pretrained",
        "--crop-size",
        config.crop_size,
        "--epochs",
        config.epochs,
        "--lr",
        3e-3,
        "--workers",
        0,
    ]
    train2 = [*network, *fit, "--width", 128, "--epochs", config.sequence_epochs, "--lr", 1e-3]
    arrays = [
        *table,
        "--image-size",
        config.matrix,
        "--no-write-slices",
        "--workers",
        config.workers,
    ]
    return [
        Stage("preprocess_data", arrays, partial(count_arrays, data.sequences)),
        Stage("create_folds", [*table, "--folds", config.folds]),
        Stage("train_stage1", train1, partial(count_epochs, run.metrics("stage1")), ("--resume",)),
        Stage("eval_stage1", [*network, "--workers", 0]),
        Stage("extract_features", network, partial(count_arrays, run.features)),
        Stage("train_stage2", train2, partial(count_epochs, run.metrics("stage2")), ("--resume",)),
        Stage("eval_stage2", network),
        Stage("eval_end_to_end", network),
    ]


def count_arrays(folder: Path) -> int:
    return sum(1 for _ in folder.glob("*.npy"))


def count_epochs(metrics: Path) -> int:
    return metrics.read_text().count("\n") if metrics.exists() else 0


def run_to_end(stage: Stage, log: IO, code: int, again: bool = False) -> Watched:
    seen = watch(command_of(stage, again), log, stage.done)
    if seen.code != code:
        raise UserError(
            f"{stage.script}.py ended with {seen.code} instead of {code}: {log.name} says why"
        )
    return seen


def kill_moment(whole: Watched, share: float) -> tuple[int, float]:
    """(series or epochs, seconds after they are finished) until a kill: that share of the undisturbed run, in its work where that can be counted."""
    if not whole.done:
        return 0, (1 + share) / 2 * whole.seconds  # the first half goes into imports
    work = 1 + share * (whole.done - 1)
    return int(work), work % 1 * (whole.seconds - whole.first) / whole.done


def kill_and_repeat(
    stage: Stage, log: IO, code: int, least: int, delay: float
) -> tuple[Watched, Watched | None]:
    """The run that was killed, and the one after it; None where the first had ended before."""
    killed = watch(command_of(stage), log, stage.done, least, delay)
    if killed.code == -signal.SIGKILL:
        return killed, run_to_end(stage, log, code, again=True)
    if killed.code != code:
        raise UserError(
            f"{stage.script}.py ended with {killed.code} instead of {code}: {log.name} says why"
        )
    print(f"{stage.script}.py ended before its kill", file=log, flush=True)
    return killed, None


def command_of(stage: Stage, again: bool = False) -> list[str]:
    return [
        sys.executable,
        str(ROOT / f"{stage.script}.py"),
        *map(str, stage.flags),
        *(stage.again if again else ()),
    ]


def watch(
    command: list[str],
    log: IO,
    done: Callable[[], int],
    least: int = 0,
    delay: float = float("inf"),
) -> Watched:
    """Run a command in a process group of its own; kill all of it `delay` seconds after `least` series or epochs are done."""
    print("\n$", *command, file=log, flush=True)
    start, now, count, first, last, reached, megabytes = (
        time.monotonic(),
        0.0,
        0,
        0.0,
        0.0,
        None,
        [],
    )
    child = subprocess.Popen(
        command,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        while child.poll() is None and (reached is None or now < reached + delay):
            time.sleep(PERIOD)
            now, before, count = time.monotonic() - start, count, done()
            last = now if count > before else last
            first = first or last
            reached = now if reached is None and count >= least else reached
            megabytes.append((now, resident(child.pid) / 1e6))
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    seconds = time.monotonic() - start
    while resident(child.pid):
        if time.monotonic() > start + seconds + PATIENCE:
            raise UserError(f"{Path(command[1]).name} left processes behind, in group {child.pid}")
        time.sleep(PERIOD)
    return Watched(child.returncode, seconds, first, last, done(), megabytes)


def row_of(stage: Stage, whole: Watched, killed: Watched, again: Watched | None) -> dict:
    """What soak.json says of a stage."""
    was_killed = again is not None
    return {
        "stage": stage.script,
        "killed_after": killed.seconds if was_killed else None,
        "done_at_kill": killed.done if was_killed and whole.done else None,
        "seconds": {
            "undisturbed": whole.seconds,
            "disturbed": killed.seconds + (again.seconds if was_killed else 0.0),
        },
        "peak_mb": {
            "undisturbed": whole.peak,
            "disturbed": max(killed.peak, again.peak if was_killed else 0.0),
        },
        "quarters_mb": quarters(whole),
    }


def quarters(run: Watched) -> list[float]:
    """Peak memory in the first and in the last quarter of the time from the first finished series to the last."""
    quarter = (run.last - run.first) / 4
    early = [megabytes for at, megabytes in run.megabytes if run.first <= at <= run.first + quarter]
    late = [megabytes for at, megabytes in run.megabytes if run.last - quarter <= at <= run.last]
    return [max(early, default=0.0), max(late, default=0.0)]


def line_of(row: dict) -> str:
    fate = "ended before its kill"
    if row["killed_after"] is not None:
        finished = (
            "" if row["done_at_kill"] is None else f", {row['done_at_kill']} series or epochs done"
        )
        fate = f"killed after {row['killed_after']:.1f} s{finished}"
    seconds, peak = (
        f"{row[name]['undisturbed']:6.1f} / {row[name]['disturbed']:6.1f}"
        for name in ("seconds", "peak_mb")
    )
    return f"{row['stage']:16s}  undisturbed / disturbed {seconds} s, peak {peak} MB, {fate}"


def growth(rows: list[dict], script: str, allowed: float) -> str:
    """Empty where memory at the end of a stage was as at its beginning, undisturbed."""
    early, late = next(row["quarters_mb"] for row in rows if row["stage"] == script)
    return (
        f"{early:.0f} MB in its first quarter, {late:.0f} MB in its last"
        if late > early * (1 + allowed)
        else ""
    )


def compare(config: Config, calm: Path, wild: Path, ways: dict[str, str]) -> dict[str, str]:
    """{what: the first difference between both sides, empty where there is none}."""
    failed = (
        read_table(DataFolder(wild / "data").failed_series)
        .set_index("SeriesInstanceUID")
        .reason.to_dict()
    )
    differences = {
        "failed series": difference({uid: WAYS[way][1] for uid, way in ways.items()}, failed)
    }
    expected, found = facts_of(config, calm), facts_of(config, wild)
    return differences | {
        what: difference(expected[what], found[what]) or "nothing there" * (not expected[what])
        for what in expected
    }


def facts_of(config: Config, side: Path) -> dict[str, dict]:
    """{what: {name: value}} of all that must be the same on both sides."""
    data, run = DataFolder(side / "data"), RunFolder(side / "model", ENCODER, 0)
    dealt = (
        data.train_meta,
        data.slice_uids,
        data.geometry,
        data.folds(config.folds),
        data.spots(config.folds),
        data.labels,
        data.safe_slices,
    )
    facts = {
        "prepared arrays": contents(data.sequences.iterdir()),
        "tables, folds and spots": contents(dealt),
        "features": contents(run.features.glob("*.npy")),
        "logits of stage 1": contents(run.logits.iterdir()),
        "predictions": contents(run.predictions(name) for name in EVALUATIONS),
        "names of files": dict.fromkeys(
            names_of(data.root.iterdir()) + names_of(run.root.rglob("*")), "there"
        ),
    }
    for stage in ("stage1", "stage2"):
        facts[f"weights of {stage}"] = weights_of(run, stage)
        facts[f"loss and scores of {stage}"] = {
            row.pop("epoch"): {**row, "seconds": 0} for row in read_json_lines(run.metrics(stage))
        }
    return facts | {f"scores of {name}": read_json(run.scores(name)) for name in EVALUATIONS}


def names_of(paths: Iterable[Path]) -> list[str]:
    """Names of files that the stages wrote, with those that a killed one left half done."""
    return sorted(path.name for path in paths if path.name != make_demo_data.SETTINGS)


def contents(paths: Iterable[Path]) -> dict[str, str]:
    """{name: SHA-256} of files."""
    return {path.name: fingerprint(path) for path in paths}


def weights_of(run: RunFolder, stage: str) -> dict[str, bytes]:
    """The moving average of a stage's weights after its best and its last epoch, bit by bit."""
    found = {}
    for select in ("best", "last"):
        trained = read_trained(run, stage, select)
        found[f"{select} epoch"] = trained["epoch"]
        found |= {
            f"{select} {name}": weight.numpy().tobytes()
            for name, weight in trained["weights"].items()
        }
    return found


def difference(expected: dict, found: dict) -> str:
    """The first of what two dicts do not agree about; empty where they agree."""
    wrong = [key for key in expected | found if expected.get(key) != found.get(key)]
    if not wrong:
        return ""
    values = [
        str(sides[wrong[0]])[:40] if wrong[0] in sides else "missing" for sides in (expected, found)
    ]
    return f"{len(wrong)} of {len(expected | found)} differ, the first is {wrong[0]}: {values[0]} expected, {values[1]} found"


if __name__ == "__main__":
    run_script(main, Config, __doc__)

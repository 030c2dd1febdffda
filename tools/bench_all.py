"""all: every stage on one machine: this pipeline against the plain loop and the floor, its memory, and how time and memory grow with the number
of series and of slices. Each measurement has a process of its own. A table, a json, a picture."""

import multiprocessing
import os
import platform
import signal
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from src import artifacts
from src.engine import settings_of
from src.runtime import UserError, progress, versions
from tools.bench_case import FLOOR, OURS, PLAIN, measure
from tools.bench_inference import EndToEnd, Extract, end_to_end_case, extract_case
from tools.bench_preprocess import Preprocess, preprocess_case
from tools.bench_training import Loader, Stage2, Train, loader_case, stage2_case, train_case
from tools.memory import resident

CASES = {
    Preprocess: preprocess_case,
    Loader: loader_case,
    Train: train_case,
    Extract: extract_case,
    Stage2: stage2_case,
    EndToEnd: end_to_end_case,
}
Stage = Preprocess | Loader | Train | Extract | Stage2 | EndToEnd
GROWTH = (0.5, 1, 2)  # times the usual number of series, of slices
GLANCE = 0.02  # seconds between two looks at the memory


@dataclass
class All:
    """Every stage: against the plain loop and the floor, memory, growth."""

    encoder: str = "test_resnet"  # with random weights
    image_size: int = 256  # pixels, of the DICOM images and the prepared ones
    crop_size: int = 224  # pixels
    width: int = 256  # of the transformer's tokens
    workers: int = 2  # processes of preprocessing
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    repeats: int = 5  # of each measurement
    out: Path = Path("benchmark")  # for benchmark.json and benchmark.png
    folder: Path | None = None  # where to work (default: the system's temporary folder)


def stages_of(config: All) -> dict[str, Stage]:
    """Each stage at its usual size."""
    place, images = {"folder": config.folder}, {"image_size": config.image_size, "crop_size": config.crop_size}
    network = {"encoder": config.encoder, "device": config.device}
    return {
        "preprocess": Preprocess(matrix=config.image_size, series=16, slices=80, workers=config.workers, **place),
        "loader": Loader(series=16, slices=60, samples=64, **images, **place),
        "train": Train(series=8, slices=60, samples=16, batch_size=16, workers=0, **images, **network, **place),
        "extract": Extract(series=6, slices=40, **images, **network, **place),
        "stage2": Stage2(channels=162, width=config.width, series=64, slices=96, device=config.device, **place),
        "end_to_end": EndToEnd(series=4, slices=96, **images, **network, **place),
    }


def measure_all(config: All) -> pd.DataFrame:
    stages = stages_of(config)
    jobs = [(name, job) for name in stages for job in ("against", *sizes_of(stages[name]))]
    found: dict[str, dict] = {name: {} for name in stages}
    for name, job in progress(jobs, "measuring", " runs"):
        size = stages[name] if job == "against" else replace(stages[name], series=job[0], slices=job[1])
        found[name][job] = measure_alone(size, config.repeats, () if job == "against" else (OURS,))
    rows = [row_of(name, stages[name], found[name]) for name in stages]
    shown = pd.DataFrame([table_row(row) for row in rows])
    machine = {"date": str(date.today()), "cores": os.cpu_count(), "memory_gib": round(memory_of_machine() / 2**30), "processor": platform.processor()}
    artifacts.write_json(config.out / "benchmark.json", {"machine": machine, "versions": versions(), "stages": rows, "settings": settings_of(config)})
    draw(rows, config.out / "benchmark.png")
    print(shown.to_string(index=False))
    print(f"{machine}; {config.out / 'benchmark.json'}, {config.out / 'benchmark.png'}")
    return shown


def sizes_of(stage: Stage) -> list[tuple[int, int]]:
    """(series, slices) at which this pipeline alone is measured: the usual size, with fewer and more series, with fewer and more slices."""
    usual = (stage.series, stage.slices)
    more_series = [(round(usual[0] * factor), usual[1]) for factor in GROWTH]
    more_slices = [(usual[0], round(usual[1] * factor)) for factor in GROWTH]
    return list(dict.fromkeys(more_series + more_slices))


def measure_alone(stage: Stage, repeats: int, names: tuple[str, ...]) -> dict:
    """Median seconds by way, and the peak memory in MiB, of one stage in a process group of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=in_child, args=(stage, repeats, names, theirs))
    process.start()
    theirs.close()
    peak = 0
    try:
        while not ours.poll(GLANCE):
            peak = max(peak, resident(process.pid))
        found = ours.recv()
        process.join()
    except EOFError:
        raise UserError(f"{stage} could not be measured: see above") from None
    finally:
        with suppress(ProcessLookupError):  # workers that an interrupt has left
            os.killpg(process.pid, signal.SIGKILL)
    return found | {"peak_mib": round(peak / 2**20)}


def in_child(stage: Stage, repeats: int, names: tuple[str, ...], connection: Connection) -> None:
    os.setsid()
    with CASES[type(stage)](stage) as case:
        medians = measure(case, repeats, names)
        connection.send({"seconds": medians, "work": case.work, "unit": case.unit, "floor": case.floor})


def row_of(name: str, stage: Stage, found: dict) -> dict:
    """All figures of a stage."""
    growth = {}
    for place, dimension in enumerate(("series", "slices")):
        usual = (stage.series, stage.slices)
        runs = {size[place]: run for size, run in found.items() if size != "against" and size[1 - place] == usual[1 - place]}
        sizes = sorted(runs)
        seconds = [runs[size]["seconds"][OURS] for size in sizes]
        exponent, straightness = growth_of(sizes, seconds)
        growth[dimension] = {"sizes": sizes, "seconds": seconds, "peak_mib": [runs[size]["peak_mib"] for size in sizes]}
        growth[dimension] |= {"exponent": exponent, "straightness": straightness}
    usual_run = found[stage.series, stage.slices]
    return {"stage": name} | found["against"] | {"peak_mib": usual_run["peak_mib"], "growth": growth}


def growth_of(sizes: list[int], seconds: list[float]) -> tuple[float, float]:
    """(exponent, R squared) of the straight line through the logarithms: time = a * size ** exponent."""
    x, y = np.log(sizes), np.log(seconds)
    slope, offset = np.polyfit(x, y, 1)
    scatter = float(np.sum((y - y.mean()) ** 2))
    return float(slope), 1 - float(np.sum((y - slope * x - offset) ** 2)) / scatter if scatter else 1.0


def table_row(row: dict) -> dict:
    seconds = row["seconds"]
    grown = {dimension: f"{facts['exponent']:.2f} ({facts['straightness']:.3f})" for dimension, facts in row["growth"].items()}
    memory = row["growth"]["series"]["peak_mib"]
    return {
        "stage": row["stage"],
        "a second": f"{row['work'] / seconds[OURS]:,.0f} {row['unit']}",
        "x plain loop": f"{seconds[PLAIN] / seconds[OURS]:.2f}",
        "of the floor": f"{seconds[OURS] / seconds[FLOOR]:.2f}",
        "peak MiB": row["peak_mib"],
        "with series": grown["series"],
        "with slices": grown["slices"],
        "MiB with series": " ".join(map(str, memory)),
    }


def draw(rows: list[dict], path: Path) -> None:
    """Above: time a piece of work, each stage in its ways. Below: time against series and slices, both relative to the usual size."""
    figure, (bars, *lines) = plt.subplots(1, 3, figsize=(14, 4.6), width_ratios=(1.5, 1, 1), layout="constrained")
    for place, (name, colour) in enumerate(((PLAIN, "0.75"), (OURS, "#0072b2"), (FLOOR, "#d55e00"))):
        milliseconds = [1000 * row["seconds"][name] / row["work"] for row in rows]
        heights = np.arange(len(rows)) + (1 - place) * 0.26
        bars.barh(heights, milliseconds, 0.24, color=colour, label=name)
        for height, value in zip(heights, milliseconds, strict=True):
            bars.text(value * 1.08, height, f"{value:.2g}", va="center", fontsize=8)
    bars.set(xscale="log", yticks=np.arange(len(rows)), yticklabels=[f"{row['stage']}\n(per {singular(row['unit'])})" for row in rows], xlabel="milliseconds")
    bars.margins(x=0.12)
    bars.invert_yaxis()
    bars.legend(frameon=False, fontsize=8, loc="lower right")
    for axes, dimension in zip(lines, ("series", "slices"), strict=True):
        for row, marker in zip(rows, "osD^vP"[: len(rows)], strict=True):
            facts = row["growth"][dimension]
            middle = len(facts["sizes"]) // 2
            sizes, seconds = (np.array(facts[name]) / facts[name][middle] for name in ("sizes", "seconds"))
            axes.plot(sizes, seconds, marker=marker, label=f"{row['stage']} {facts['exponent']:.2f}", alpha=0.85)
        axes.plot(GROWTH, GROWTH, "--", color="0.6", zorder=0, label="in proportion 1.00")
        axes.set(xscale="log", yscale="log", xlabel=f"{dimension}, times the usual number", ylabel="time, times the usual", xticks=GROWTH, yticks=GROWTH)
        axes.set(xticklabels=GROWTH, yticklabels=GROWTH)
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=8)
    for axes in (bars, *lines):
        axes.spines[["top", "right"]].set_visible(False)
    with artifacts.atomic(path) as file:
        figure.savefig(file, dpi=130, format="png")
    plt.close(figure)


def singular(unit: str) -> str:
    return unit if unit == "series" else unit.removesuffix("s")


def memory_of_machine() -> int:
    """Bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

"""all: every stage on one machine: this pipeline against the plain loop and the floor, its memory, and how time and memory grow with the number
of series and of slices. A table, a json, a picture.

Each size of a stage lies ready in a process of its own; in each round all sizes and all ways have their turn, one after the other, so that a
machine that is slow for a while is slow for all. Ratios and slopes are taken in each round; their medians are shown.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from src.artifacts.files import atomic, write_json
from src.progress import progress
from src.script import settings_of, versions
from tools.benchmarks.case import FLOOR, OURS, PLAIN, ratio
from tools.benchmarks.inference import EndToEnd, Extract
from tools.benchmarks.own_process import Apart, Stage
from tools.benchmarks.preprocess import Preprocess
from tools.benchmarks.training import Loader, Stage2, Train

GROWTH = (0.5, 1, 2)  # times the usual number of series, of slices


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
    place, images = (
        {"folder": config.folder},
        {"image_size": config.image_size, "crop_size": config.crop_size},
    )
    network = {"encoder": config.encoder, "device": config.device}
    return {
        "preprocess": Preprocess(
            matrix=config.image_size, series=12, slices=100, workers=config.workers, **place
        ),
        "loader": Loader(series=16, slices=60, samples=64, **images, **place),
        "train": Train(
            series=8, slices=60, samples=16, batch_size=16, workers=0, **images, **network, **place
        ),
        "extract": Extract(series=6, slices=40, **images, **network, **place),
        "stage2": Stage2(
            channels=162, width=config.width, series=64, slices=96, device=config.device, **place
        ),
        "end_to_end": EndToEnd(series=4, slices=96, **images, **network, **place),
    }


def measure_all(config: All) -> pd.DataFrame:
    stages = stages_of(config)
    rows = []
    with progress(None, "measuring", " rounds", total=len(stages) * (config.repeats + 1)) as bar:
        for name, stage in stages.items():
            bar.set_postfix_str(name)
            rows.append({"stage": name} | measure_stage(stage, config.repeats, bar.update))
    shown = pd.DataFrame([table_row(row) for row in rows])
    machine = {
        "date": str(date.today()),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_of_machine() / 2**30),
    }
    write_json(
        config.out / "benchmark.json",
        {
            "machine": machine,
            "versions": versions(),
            "stages": rows,
            "settings": settings_of(config),
        },
    )
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


def measure_stage(stage: Stage, repeats: int, done: Callable[[], object]) -> dict:
    """All figures of a stage; `done()` is called after each round. Memory is looked at in the first one alone, which is not timed."""
    sizes, usual = sizes_of(stage), (stage.series, stage.slices)
    with ExitStack() as stack:
        against = stack.enter_context(Apart(stage))
        alone = {
            size: stack.enter_context(Apart(replace(stage, series=size[0], slices=size[1])))
            for size in sizes
        }
        facts, *_ = [process.ready() for process in (against, *alone.values())]
        turns = [(against, name) for name in facts["names"]] + [
            (alone[size], OURS) for size in sizes
        ]
        times: dict[tuple, list[float]] = {turn: [] for turn in turns}
        for repeat in range(-1, repeats):
            for process, name in turns:
                seconds = process.seconds(name, watch=repeat < 0)
                times[process, name] += [seconds] if repeat >= 0 else []
            done()
    growth = {}
    for place, dimension in enumerate(("series", "slices")):
        along = sorted(size for size in sizes if size[1 - place] == usual[1 - place])
        growth[dimension] = {
            "sizes": [size[place] for size in along],
            "peak_mib": [alone[size].peak_mib for size in along],
        }
        growth[dimension] |= growth_of(
            growth[dimension]["sizes"], [times[alone[size], OURS] for size in along]
        )
    ways = {name: times[against, name] for name in facts["names"]}
    seconds = {name: median(rounds) for name, rounds in ways.items()}
    return facts | {
        "rounds": ways,
        "seconds": seconds,
        "peak_mib": alone[usual].peak_mib,
        "growth": growth,
    }


def growth_of(sizes: list[int], rounds: list[list[float]]) -> dict:
    """The straight line through the logarithms, time = a * size ** exponent: median over the rounds of its exponent and its straightness (R squared).

    rounds: seconds of each size in each round.
    """
    x, lines = np.log(sizes), []
    for seconds in zip(*rounds, strict=True):
        y = np.log(seconds)
        slope, offset = np.polyfit(x, y, 1)
        scatter = float(np.sum((y - y.mean()) ** 2))
        lines.append(
            (
                float(slope),
                1 - float(np.sum((y - slope * x - offset) ** 2)) / scatter if scatter else 1.0,
            )
        )
    exponents, straight = zip(*lines, strict=True)
    return {
        "seconds": [median(times) for times in rounds],
        "exponent": median(exponents),
        "straightness": median(straight),
    }


def table_row(row: dict) -> dict:
    rounds = row["rounds"]
    grown = {
        dimension: f"{facts['exponent']:.2f} ({facts['straightness']:.3f})"
        for dimension, facts in row["growth"].items()
    }
    return {
        "stage": row["stage"],
        "a second": f"{row['work'] / row['seconds'][OURS]:,.0f} {row['unit']}",
        "x plain loop": f"{ratio(rounds[PLAIN], rounds[OURS]):.2f}",
        "of the floor": f"{ratio(rounds[OURS], rounds[FLOOR]):.2f}",
        "peak MiB": row["peak_mib"],
        "with series": grown["series"],
        "with slices": grown["slices"],
        "MiB with series": " ".join(map(str, row["growth"]["series"]["peak_mib"])),
    }


def draw(rows: list[dict], path: Path) -> None:
    """Left: time a piece of work, each stage in its ways. Right: time against series and slices, both relative to the usual size."""
    figure, (bars, *lines) = plt.subplots(
        1, 3, figsize=(14, 4.6), width_ratios=(1.5, 1, 1), layout="constrained"
    )
    for place, (name, colour) in enumerate(
        ((PLAIN, "0.75"), (OURS, "#0072b2"), (FLOOR, "#d55e00"))
    ):
        milliseconds = [1000 * row["seconds"][name] / row["work"] for row in rows]
        heights = np.arange(len(rows)) + (1 - place) * 0.26
        bars.barh(heights, milliseconds, 0.24, color=colour, label=name)
        for height, value in zip(heights, milliseconds, strict=True):
            bars.text(value * 1.08, height, f"{value:.2g}", va="center", fontsize=8)
    bars.set(
        xscale="log",
        yticks=np.arange(len(rows)),
        yticklabels=[f"{row['stage']}\n(per {singular(row['unit'])})" for row in rows],
        xlabel="milliseconds",
    )
    bars.margins(x=0.12)
    bars.invert_yaxis()
    bars.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    for axes, dimension in zip(lines, ("series", "slices"), strict=True):
        for row, marker in zip(rows, "osD^vP"[: len(rows)], strict=True):
            facts = row["growth"][dimension]
            middle = len(facts["sizes"]) // 2
            sizes, seconds = (
                np.array(facts[name]) / facts[name][middle] for name in ("sizes", "seconds")
            )
            axes.plot(
                sizes,
                seconds,
                marker=marker,
                label=f"{row['stage']} {facts['exponent']:.2f}",
                alpha=0.85,
            )
        axes.plot(GROWTH, GROWTH, "--", color="0.6", zorder=0, label="in proportion 1.00")
        axes.set(
            xscale="log",
            yscale="log",
            xlabel=f"{dimension}, times the usual number",
            ylabel="time, times the usual",
            xticks=GROWTH,
            yticks=GROWTH,
        )
        axes.set(xticklabels=GROWTH, yticklabels=GROWTH)
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=8)
    for axes in (bars, *lines):
        axes.spines[["top", "right"]].set_visible(False)
    with atomic(path) as file:
        figure.savefig(file, dpi=130, format="png")
    plt.close(figure)


def singular(unit: str) -> str:
    return unit if unit == "series" else unit.removesuffix("s")


def memory_of_machine() -> int:
    """Bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

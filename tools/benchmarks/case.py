"""What all benchmarks share: a stage on made-up data, whose ways are timed in turn."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from src.device import precision

OURS, PLAIN, FLOOR = "this pipeline", "plain loop", "floor"
CPU = torch.device("cpu")
PEAK_SIDE = {"cpu": 2048, "cuda": 8192}  # rows of the matrices whose product shows the peak
PEAK_PRODUCTS = {"cpu": 2, "cuda": 20}  # timed together


@dataclass(kw_only=True)
class Options:
    """What can be set in every benchmark."""

    repeats: int = 5  # rounds
    folder: Path | None = None  # where to work (default: the system's temporary folder)


@dataclass(kw_only=True)
class NetworkOptions(Options):
    """What can be set in every benchmark of stage 1's network."""

    encoder: str = "convnext_base.dinov3_lvd1689m"  # with random weights
    image_size: int = 512  # pixels, of the prepared images
    crop_size: int = 448  # pixels
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...


@dataclass
class Case:
    """A stage whose data are ready. Each of its ways does all the work once."""

    title: str  # what is measured, with its sizes
    ways: dict[str, Callable[[], object]]  # by name, OURS and PLAIN among them
    work: int  # how much it is
    unit: str  # of the work
    floor: str  # what FLOOR stands for, in words
    flops: float = 0.0  # of all the work; if given, FLOOR is their time at the measured peak
    device: torch.device = CPU
    clear: Callable[[], object] = lambda: None  # delete what a way wrote; not timed
    close: Callable[[], object] = lambda: None  # end what the case has started

    def turns(self) -> dict[str, Callable[[], float]]:
        """Return what times each way once, FLOOR included."""
        return {name: partial(self.seconds, name) for name in [*self.ways, FLOOR]}

    def seconds(self, name: str) -> float:
        """Return how long one way takes."""
        if name not in self.ways:
            return self.flops / measured_peak(self.device)
        self.clear()
        start = time.perf_counter()
        self.ways[name]()
        seconds = time.perf_counter() - start
        self.clear()  # before the system writes it to the disk, beside the next way
        return seconds


def measure(turns: dict[Any, Callable[[], float]], repeats: int) -> dict[Any, list[float]]:
    """Return what each turn takes in each round, in seconds, after one round to warm up."""
    times = {name: [] for name in turns}
    for _ in range(repeats + 1):
        for name, seconds_of in turns.items():
            times[name].append(seconds_of())
    return {name: rounds[1:] for name, rounds in times.items()}


def ratio(above: list[float], below: list[float]) -> float:
    """Return the median of the rounds' ratios: a slow phase of the machine slows both ways."""
    return median(a / b for a, b in zip(above, below, strict=True))


def show(case: Case, times: dict[str, list[float]]) -> None:
    """Print a line for each way, and the ratios to the plain loop and to the floor."""
    print(case.title)
    for name, rounds in times.items():
        seconds = median(rounds)
        rate = f" {case.flops / seconds / 1e12:8.2f} TFLOP/s" if case.flops else ""
        print(f"{name:20s} {seconds:8.3f} s {case.work / seconds:10.1f} {case.unit}/s{rate}")
    print(f"{ratio(times[PLAIN], times[OURS]):.2f} times the speed of the plain loop")
    print(f"{ratio(times[OURS], times[FLOOR]):.2f} times the floor: {case.floor}")
    if case.device.type == "cuda":
        print(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of GPU memory")


def measured_peak(device: torch.device) -> float:
    """Return the FLOP/s of a large matrix product in the precision of the pipeline."""
    side, products = PEAK_SIDE[device.type], PEAK_PRODUCTS[device.type]
    matrix = torch.randn(side, side, device=device, dtype=precision(device))
    times = []
    for _ in range(6):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(products):
            matrix @ matrix
        synchronize(device)
        times.append(time.perf_counter() - start)
    return products * 2.0 * side**3 / median(times[1:])


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

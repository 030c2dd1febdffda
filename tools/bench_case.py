"""What all benchmarks share: a stage on made-up data, done in several ways that are timed in turn."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from src import engine

OURS, PLAIN, FLOOR = "this pipeline", "plain loop", "floor"
PEAK_SIDE = {"cpu": 2048, "cuda": 8192}  # rows and columns of the matrices whose product shows what the device can do


@dataclass
class Case:
    """One stage on data that lie ready; every way does all the work once."""

    title: str  # what is measured, with its sizes
    ways: dict[str, Callable[[], object]]  # by name, OURS among them
    work: int  # pieces of it, whichever way
    unit: str  # of the work
    floor: str  # in words, what FLOOR is
    flops: float = 0.0  # of all the work; where given, FLOOR is what they take at the device's measured peak
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    before: Callable[[], object] = lambda: None  # untimed, before each way


def measure(case: Case, repeats: int, names: tuple[str, ...] = ()) -> dict[str, float]:
    """Median seconds of each way (or of those named), all in turn, after one round that warms up; with FLOOR where all are measured."""
    ways = {name: way for name, way in case.ways.items() if not names or name in names}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(-1, repeats):
        for name, way in ways.items():
            case.before()
            start = time.perf_counter()
            way()
            times[name] += [time.perf_counter() - start] if repeat >= 0 else []
    medians = {name: statistics.median(values) for name, values in times.items()}
    if case.flops and not names:
        medians[FLOOR] = case.flops / measured_peak(case.device)
    return medians


def show(case: Case, medians: dict[str, float]) -> None:
    """A line for each way, and the ratios to the plain loop and to the floor."""
    print(case.title)
    for name, seconds in medians.items():
        rate = f" {case.flops / seconds / 1e12:8.2f} TFLOP/s" if case.flops else ""
        print(f"{name:20s} {seconds:8.3f} s {case.work / seconds:10.1f} {case.unit}/s{rate}")
    if PLAIN in medians:
        print(f"{medians[PLAIN] / medians[OURS]:.2f} times the speed of the plain loop")
    if FLOOR in medians:
        print(f"{medians[OURS] / medians[FLOOR]:.2f} times the floor: {case.floor}")
    if case.device.type == "cuda":
        print(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of GPU memory")


def measured_peak(device: torch.device) -> float:
    """FLOP/s of a large matrix product in the precision of this pipeline on the device."""
    side, products = PEAK_SIDE[device.type], 20 if device.type == "cuda" else 2
    matrix = torch.randn(side, side, device=device, dtype=engine.precision(device))
    times = []
    for _ in range(6):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(products):
            matrix @ matrix
        synchronize(device)
        times.append(time.perf_counter() - start)
    return products * 2.0 * side**3 / statistics.median(times[1:])


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

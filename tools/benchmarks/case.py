"""What all benchmarks share: a stage on made-up data, done in several ways that are timed in turn."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from src.device import precision

OURS, PLAIN, FLOOR = "this pipeline", "plain loop", "floor"
PEAK_SIDE = {
    "cpu": 2048,
    "cuda": 8192,
}  # rows and columns of the matrices whose product shows what the device can do


@dataclass
class Case:
    """One stage on data that lie ready; every way does all the work once."""

    title: str  # what is measured, with its sizes
    ways: dict[str, Callable[[], object]]  # by name, OURS among them
    work: int  # pieces of it, whichever way
    unit: str  # of the work
    floor: str  # in words, what FLOOR is
    flops: float = (
        0.0  # of all the work; where given, FLOOR is what they take at the device's measured peak
    )
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    clear: Callable[[], object] = (
        lambda: None
    )  # untimed, before and after each way: away with what it wrote, before the system writes it to the disk
    note: Callable[[], str] = lambda: ""  # what else there is to say, afterwards

    def names(self) -> list[str]:
        """Of all ways, FLOOR among them."""
        return list(dict.fromkeys([*self.ways, FLOOR]))

    def seconds(self, name: str) -> float:
        """One way, timed once."""
        if name not in self.ways:
            return self.flops / measured_peak(self.device)
        self.clear()
        start = time.perf_counter()
        self.ways[name]()
        seconds = time.perf_counter() - start
        self.clear()
        return seconds


def measure(case: Case, repeats: int) -> dict[str, list[float]]:
    """Seconds of each way in each round, all in turn, after one round that warms up."""
    rounds = [{name: case.seconds(name) for name in case.names()} for _ in range(repeats + 1)]
    return {name: [times[name] for times in rounds[1:]] for name in case.names()}


def ratio(above: list[float], below: list[float]) -> float:
    """Median of the ratios of each round: a machine that is slow for a while is slow for both."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def show(case: Case, times: dict[str, list[float]]) -> None:
    """A line for each way, and the ratios to the plain loop and to the floor."""
    print(case.title)
    for name, rounds in times.items():
        seconds = statistics.median(rounds)
        rate = f" {case.flops / seconds / 1e12:8.2f} TFLOP/s" if case.flops else ""
        print(f"{name:20s} {seconds:8.3f} s {case.work / seconds:10.1f} {case.unit}/s{rate}")
    print(f"{ratio(times[PLAIN], times[OURS]):.2f} times the speed of the plain loop")
    print(f"{ratio(times[OURS], times[FLOOR]):.2f} times the floor: {case.floor}")
    if note := case.note():
        print(note)
    if case.device.type == "cuda":
        print(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of GPU memory")


def measured_peak(device: torch.device) -> float:
    """FLOP/s of a large matrix product in the precision of this pipeline on the device."""
    side, products = PEAK_SIDE[device.type], 20 if device.type == "cuda" else 2
    matrix = torch.randn(side, side, device=device, dtype=precision(device))
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

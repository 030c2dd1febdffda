"""Check and measure this code on a GPU, in less than 8 minutes (make gpu-check).

Without a GPU it says so and ends. What it does:

  tests        those marked cuda, and those of the ONNX files
  precision    stage 1 on synthetic series, in bfloat16 and float16 against float32: the losses
  speed        convnext_base at 448 pixels with random weights: images a second, the fraction of
               the measured peak and the memory, of training and of extraction
  ranks        training over all GPUs, if there are several

Writes gpu_check.json after each row, so that an interrupt keeps what is done. What runs out of
memory is a row that says so. No figure fails the check, a failed test or a wrong loss does.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import src.device
import src.training.learner
import train_stage1
from src.artifacts.files import read_json_lines, write_json
from src.artifacts.paths import RunFolder
from src.device import choose_device, precision
from src.script import FAILED, OK, UserError, run_script, versions
from tools.benchmarks.case import measured_peak
from tools.benchmarks.gpu import extraction_rows, training_rows
from tools.benchmarks.inference import Extract
from tools.benchmarks.training import Train

ROOT = Path(__file__).resolve().parents[1]
NO_GPU = "torch sees no GPU here: nothing was checked"
ENOUGH = 0.01  # largest difference of an epoch's loss from that in float32, relative
PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}
PHANTOM = "--series 60 --matrix 64 --slices 20 --workers 4"
TRAINING = "--encoder test_resnet --no-pretrained --crop-size 56 --epochs 3 --batch-size 16"


@dataclass
class Config:
    out: Path = Path("gpu_check.json")  # figures
    seconds: float = 360.0  # no new row begins later; compiling may take 2 minutes
    encoder: str = "convnext_base.dinov3_lvd1689m"  # with random weights
    image_size: int = 512  # pixels, of the prepared images
    crop_size: int = 448  # pixels


@dataclass
class Report:
    """What was found so far; on disk after each row."""

    config: Config
    start: float = field(default_factory=time.monotonic)
    rows: list[dict] = field(default_factory=list)

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.config.seconds - (time.monotonic() - self.start)

    def add(self, part: str, row: dict) -> None:
        row = {"part": part} | row
        self.rows.append(row)
        print("  ".join(f"{value}" for value in row.values()), flush=True)
        device = torch.cuda.get_device_name()
        found = {"device": device, "versions": versions(), "rows": self.rows}
        write_json(self.config.out, found)

    def measure(self, part: str, jobs: Iterable[Callable[[], dict]]) -> None:
        """Add a row for each job while there is time; one that cannot be measured says why."""
        for job in jobs:
            if self.left() <= 0:
                self.add(part, {"skipped": "no time is left"})
                return
            way = job.args[2] if getattr(job, "args", None) else None
            named = {"way": way.name, "batch": way.batch} if way else {}
            try:
                row = job()
            except torch.OutOfMemoryError:
                row = named | {"failed": "out of memory"}
            except (RuntimeError, OSError, UserError, subprocess.SubprocessError) as error:
                row = named | {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
            torch.cuda.empty_cache()
            self.add(part, row)


def main(config: Config) -> int:
    if not torch.cuda.is_available():
        print(NO_GPU)
        return OK
    device = choose_device("cuda")
    report = Report(config)
    report.measure("tests", [lambda: run_tests("-m", "cuda", "tests/test_cuda.py")])
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        phantom = Path(folder) / "data"
        report.measure("precision", [lambda: compare_precisions(phantom, device)])
        if torch.cuda.device_count() > 1:
            report.measure("ranks", [lambda: train_over_ranks(phantom)])
        measure_speed(config, report, Path(folder), device)
    report.measure("tests", [lambda: run_tests("tests/test_export_onnx.py")])
    seconds = time.monotonic() - report.start
    print(f"{seconds:.0f} s; the figures are in {config.out}")
    return FAILED if any(is_wrong(row) for row in report.rows) else OK


def measure_speed(config: Config, report: Report, folder: Path, device: torch.device) -> None:
    """Add the rows of training and extraction, on arrays of noise."""
    peak = measured_peak(device)
    report.add("peak", {"TFLOP/s": round(peak / 1e12, 1), "in": str(precision(device))})
    images = {"encoder": config.encoder, "image_size": config.image_size}
    images |= {"crop_size": config.crop_size, "device": "cuda"}
    train, extract = folder / "train", folder / "extract"
    few = {"series": 8, "slices": 40}
    report.measure("speed", extraction_rows(Extract(**few, **images), extract, peak))
    report.measure("speed", training_rows(Train(samples=48, **few, **images), train, peak))


def run(*command: str, seconds: float = 150.0) -> subprocess.CompletedProcess:
    """Run Python with these arguments in the repository's folder."""
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=seconds
    )


def run_tests(*which: str) -> dict:
    try:
        done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=0", *which)
    except subprocess.TimeoutExpired:
        return {"tests": " ".join(which), "failed": "too slow"}
    lines = done.stdout.strip().splitlines() or [done.stderr[-200:]]
    row = {"tests": " ".join(which), "result": lines[-1]}
    return row if done.returncode == 0 else row | {"wrong": lines[-30:]}


def compare_precisions(data: Path, device: torch.device) -> dict:
    """Return the losses of short trainings on synthetic series in each precision."""
    make_phantom(data)
    losses = {"float32": train_in(torch.float32, data, device)}
    for name, dtype in PRECISIONS.items():
        if dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported():
            continue
        losses[name] = train_in(dtype, data, device)
    row = {"losses": losses}
    for name, found in losses.items():
        pairs = zip(found, losses["float32"], strict=True)
        difference = max(abs(one - other) / other for one, other in pairs)
        row[f"{name} differs by"] = round(difference, 5)
        if not difference <= ENOUGH:
            row["wrong"] = f"{name} differs by more than {ENOUGH:.0%}"
    return row


def make_phantom(data: Path) -> None:
    """Draw, prepare and deal synthetic series."""
    at = ["--data-dir", str(data)]
    for command in (
        ["tools/make_demo_data.py", "--out", str(data), *PHANTOM.split()],
        ["preprocess_data.py", *at, "--image-size", "64", "--no-write-slices"],
        ["create_folds.py", *at, "--folds", "3"],
    ):
        done = run(*command)
        if done.returncode:
            raise RuntimeError(done.stderr[-200:])


def train_in(dtype: torch.dtype, data: Path, device: torch.device) -> list[float]:
    """Return the loss of each epoch of a training in that precision, without dropout."""
    config = train_stage1.Config(
        data_dir=data,
        model_dir=data.parent / str(dtype),
        encoder="test_resnet",
        pretrained=False,
        crop_size=56,
        dropout=0.0,
        epochs=3,
        batch_size=16,
        lr=1e-4,
        workers=2,
        device=str(device),
    )

    def chosen(_device: torch.device) -> torch.dtype:
        return dtype

    with (
        patch.object(src.device, "precision", chosen),
        patch.object(src.training.learner, "precision", chosen),
    ):
        train_stage1.main(config)
    run_folder = RunFolder(config.model_dir, config.encoder, 0)
    return [row["loss"] for row in read_json_lines(run_folder.metrics("stage1"))]


def train_over_ranks(data: Path) -> dict:
    """Train on two GPUs by torchrun."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    folders = ["--data-dir", str(data), "--model-dir", str(data.parent / "ranks")]
    done = run(*start, "train_stage1.py", *TRAINING.split(), *folders)
    row = {"ranks": 2, "result": (done.stdout.strip().splitlines() or [""])[-1]}
    return row if done.returncode == 0 else row | {"wrong": done.stderr[-1000:]}


def is_wrong(row: dict) -> bool:
    return "wrong" in row


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__, "gpu_check.json holds what is done"))

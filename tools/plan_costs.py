"""What the real data set costs on paper: its counts, what each stage reads, writes and computes, and how long four machines take for that."""

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch

import create_folds
import extract_features
import preprocess_data
import train_stage1
import train_stage2
from src.datasets import STEPS, thin
from src.labels import LABELS
from tools.count_flops import Network, count_slice_cnn, count_transformer

PREPROCESS, FOLDS, STAGE1, EXTRACT, STAGE2 = (script.Config() for script in (preprocess_data, create_folds, train_stage1, extract_features, train_stage2))
MODALITIES = {"CTA": (1808, 400), "MRA": (1252, 175), "T2": (983, 150), "T1post": (305, 35)}  # series, slices a series: the challenge's, about
HALF, SINGLE = 2, 4  # bytes of a float16 and a float32 number
NPY_HEAD = 128  # bytes, of an npy file
COPIES = 6  # of the weights, float32, in training: themselves, gradients, three moments of Mars, moving average
COMPILED = 1.3  # times as fast by torch.compile; assumed: timm's tables give 1.28 (RTX 4090) to 1.43 (RTX 5090) for inference
BESIDES = 1.5  # of the memory that is counted; assumed: float32 norms, temporaries, the allocator's gaps
FOLDS_SECONDS = 0.005  # of a core a series, create_folds.py; assumed


@dataclass(frozen=True)
class DataSet:
    """Counts of the challenge's data set, as its organisers and participants gave them."""

    series: int = 4348  # series
    slices: int = 1_050_000  # slices: 1.0 M files, of which 322 hold a whole series
    dicom_gb: float = 311.0  # GB, of all files
    compressed: float = 0.3  # share of the slices; assumed: plain, CT of 512 and MR of 256 pixels would be 410 GB; preprocess_data.py --check tells it
    positive: float = 0.429  # share of the series with an aneurysm
    aneurysms: int = 2251  # rows of train_localizers.csv


@dataclass
class Plan:
    """Hours and GB of the real data set, stage by stage, on four machines: estimates."""

    data: DataSet = field(default_factory=DataSet)
    folds: int = FOLDS.folds  # networks that are trained
    image_size: int = PREPROCESS.image_size  # pixels, of the prepared arrays
    write_slices: bool = PREPROCESS.write_slices  # also one file a slice
    workers: int = PREPROCESS.workers  # processes of preprocess_data.py
    encoder: str = STAGE1.encoder  # of stage 1
    crop_size: int = STAGE1.crop_size  # pixels
    heatmap_weight: float = STAGE1.heatmap_weight  # 0: the published network
    epochs: int = STAGE1.epochs  # of stage 1
    batch_size: int = STAGE1.batch_size  # samples of stage 1 a step, over all GPUs
    loaders: int = STAGE1.workers  # loader processes of train_stage1.py, a GPU
    compile: bool = STAGE1.compile  # training of stage 1 by torch.compile
    series: Literal["all", "held-out"] = EXTRACT.series  # whose features are extracted

    prepare_rate: float = 512.0  # slices/s a core, plain DICOM, sequence and slices written; measured: benchmark.py preprocess
    sequence_rate: float = 910.0  # slices/s a core, sequence alone written; measured: benchmark.py preprocess --no-write-slices
    loader_rate: float = 435.0  # samples/s a loader process; measured: benchmark.py loader, two processes
    decode_ms: float = 10.0  # ms a compressed slice more; measured: JPEG lossless 7 to 12, JPEG 2000 18 to 55
    laptop_tflops: float | None = None  # TFLOP/s of the laptop's processor, float32 (default: measured here)


@dataclass(frozen=True)
class Device:
    """A machine. Peaks are its vendor's for dense products in the precision of training; shares of it, disks and cores are assumed."""

    name: str
    gpus: int  # 0: the processor computes
    cores: int
    peak: float  # FLOP/s a GPU
    training: float  # share of the peak that training reaches
    inference: float  # share of the peak that inference reaches
    read: float  # bytes/s of the disk
    write: float  # bytes/s of the disk
    memory: float  # bytes a GPU; of a laptop its main memory
    launch: float  # seconds the host needs at least to start the kernels of one training step; assumed


def devices(laptop_peak: float) -> list[Device]:
    """The four machines. laptop_peak: FLOP/s in float32."""
    return [
        # shares: test_resnet trains at 255 samples/s (crop 88) and extracts 31 slices/s (crop 448) on two cores (README)
        Device("laptop, no GPU", 0, os.cpu_count() or 1, laptop_peak, 0.35, 0.75, 2e9, 1e9, 16e9, 0.0),
        # RTX 4090: timm's tables, 716 images/s of convnext_base at 384 pixels; training 137 to 175 at 448, scaled from an RTX 3090
        Device("24 GB GPU", 1, 16, 165e12, 0.31, 0.39, 3e9, 2e9, 24e9, 0.02),
        # no published figures of this network: 1,300 to 2,200 images/s compiled are expected of an H100, a quarter less without
        Device("H100", 1, 16, 989e12, 0.14, 0.18, 5e9, 3e9, 80e9, 0.02),
        Device("8 x H100", 8, 128, 989e12, 0.14, 0.18, 20e9, 10e9, 80e9, 0.02),
    ]


@dataclass(frozen=True)
class Work:
    """What is done at the same time, whatever the machine."""

    read: float = 0.0  # bytes
    written: float = 0.0  # bytes
    core_seconds: float = 0.0
    processes: int = 1  # that share them, a GPU
    forward: float = 0.0  # FLOP
    training: float = 0.0  # FLOP, backward included
    steps: float = 0.0  # of the optimizer
    speed: float = 1.0  # of training, 1: not compiled
    shared: bool = False  # by all GPUs of the machine


@dataclass(frozen=True)
class Stage:
    """A stage as pieces of work that follow one another."""

    name: str
    works: tuple[Work, ...]
    each_fold: bool = True  # else once

    @property
    def read(self) -> float:
        return sum(work.read for work in self.works)  # bytes

    @property
    def written(self) -> float:
        return sum(work.written for work in self.works)  # bytes


class Cost(NamedTuple):
    seconds: float
    binding: str  # the resource that takes most of them


class Row(NamedTuple):
    """A stage on all machines."""

    stage: Stage
    costs: dict[str, Cost]  # by the machine's name


ONCE, A_FOLD, ALL = "once", "a fold", "all folds"


def networks_of(config: Plan) -> tuple[Network, Network]:
    """Stage 1's and stage 2's."""
    slice_cnn = count_slice_cnn(config.encoder, config.crop_size, config.heatmap_weight, config.batch_size)
    longest = max(slices for _, slices in MODALITIES.values())  # all are padded to it, of which a batch has some
    return slice_cnn, count_transformer(slice_cnn.channels, longest)


def rows_of(config: Plan, networks: tuple[Network, Network], machines: list[Device]) -> list[Row]:
    return [Row(stage, {device.name: cost(stage, device) for device in machines}) for stage in all_stages(config, *networks)]


def processor_peak(side: int = 1024) -> float:
    """FLOP/s in float32 of this machine's processor: of a matrix product on one core, by the time that it computes, times the cores."""
    threads, matrix, seconds = torch.get_num_threads(), torch.randn(side, side), []
    torch.set_num_threads(1)
    for _ in range(8):
        start = time.process_time()  # others on the machine do not count
        matrix @ matrix
        seconds.append(time.process_time() - start)
    torch.set_num_threads(threads)
    return (os.cpu_count() or 1) * 2 * side**3 / min(seconds)


def all_stages(config: Plan, slice_cnn: Network, transformer: Network) -> list[Stage]:
    """What the eight stages do."""
    data, outside, inside = config.data, 1 - 1 / config.folds, 1 / config.folds  # shares of the data that a fold trains on and holds out
    train1, eval1 = stage1_works(config, slice_cnn, outside, inside)
    train2, eval2 = stage2_works(config, transformer, outside, inside)
    return [
        Stage("preprocess", (preprocess_work(config),), each_fold=False),
        Stage("folds", (Work(core_seconds=FOLDS_SECONDS * data.series, written=data.slices * len(LABELS)),), each_fold=False),
        Stage("train stage 1", train1),
        Stage("eval 1", (eval1,)),
        Stage("extract", (extract_work(config, slice_cnn),)),
        Stage("train stage 2", train2),
        Stage("eval 2", eval2),
        Stage("end to end", (end_to_end_work(config, slice_cnn, transformer, inside),)),
    ]


def image_bytes(config: Plan) -> int:
    return HALF * config.image_size**2


def array_bytes(config: Plan) -> tuple[int, int]:
    """Bytes of npy_sequence/ and of npy_slice/, which is empty where it is not written."""
    pixels = config.data.slices * image_bytes(config)
    return pixels + NPY_HEAD * config.data.series, (pixels + NPY_HEAD * config.data.slices) * config.write_slices


def feature_bytes(config: Plan, channels: int) -> int:
    """Bytes of the features and logits that are extracted in a fold."""
    share = 1 if config.series == "all" else 1 / config.folds
    return int(share * (config.data.slices * len(STEPS) * HALF * (channels + len(LABELS)) + 2 * NPY_HEAD * config.data.series))


def best_and_last_bytes(network: Network) -> tuple[int, int]:
    """Bytes of the best weights, and of what a resume needs: weights, moving average, three moments."""
    return SINGLE * network.parameters, SINGLE * (COPIES - 1) * network.parameters


def preprocess_work(config: Plan) -> Work:
    data = config.data
    rate = config.prepare_rate if config.write_slices else config.sequence_rate
    seconds = data.slices * (1 / rate + data.compressed * config.decode_ms / 1000)
    return Work(read=1e9 * data.dicom_gb, written=sum(array_bytes(config)), core_seconds=seconds, processes=config.workers)


def stage1_works(config: Plan, network: Network, outside: float, inside: float) -> tuple[tuple[Work, ...], Work]:
    """Training with the held-out spots after each epoch, and these alone. Rows: each aneurysm twice, as many negatives beside them, one for each
    series without (datasets.training_rows); the held-out ones each once, without the negatives beside."""
    data = config.data
    healthy = data.series * (1 - data.positive)
    trained = config.epochs * outside * (3 * data.aneurysms + healthy)
    held_out = inside * (data.aneurysms + healthy)

    def reads(samples: float) -> dict[str, float]:
        return {"read": samples * 3 * image_bytes(config), "core_seconds": samples / config.loader_rate, "processes": config.loaders}

    speed = COMPILED if config.compile else 1.0
    training = Work(**reads(trained), training=trained * network.training, steps=trained / config.batch_size, speed=speed, shared=True)
    after = Work(**reads(config.epochs * held_out), forward=config.epochs * held_out * network.forward, shared=True)
    saving = Work(written=config.epochs * sum(best_and_last_bytes(network)))
    return (training, after, saving), Work(**reads(held_out), forward=held_out * network.forward)


def extract_work(config: Plan, network: Network) -> Work:
    share = 1 if config.series == "all" else 1 / config.folds
    flops = share * config.data.slices * len(STEPS) * network.forward
    return Work(read=share * array_bytes(config)[0], written=feature_bytes(config, network.channels), forward=flops, shared=True)


def stage2_works(config: Plan, network: Network, outside: float, inside: float) -> tuple[tuple[Work, ...], tuple[Work, ...]]:
    """Training with the held-out series at both steps after each epoch, and these at one. No loader processes: reading and computing take turns."""
    trained, held_out = config.data.series * outside * STAGE2.epochs, config.data.series * inside
    series_bytes = config.data.slices / config.data.series * HALF * (network.channels + len(LABELS))  # one step of the features
    evaluated = held_out * len(STEPS) * STAGE2.epochs
    training = (
        Work(read=(trained + evaluated) * series_bytes, shared=True),
        Work(training=trained * network.training, steps=trained / STAGE2.batch_size, shared=True),
        Work(forward=evaluated * network.forward, shared=True),
        Work(written=STAGE2.epochs * sum(best_and_last_bytes(network))),
    )
    return training, (Work(read=held_out * series_bytes), Work(forward=held_out * network.forward))


def end_to_end_work(config: Plan, slice_cnn: Network, transformer: Network, inside: float) -> Work:
    """One thread reads all slices (an upper bound: of long CT series only those that are used) beside the networks, which see the thinned series."""
    data = config.data
    seconds = data.slices * (1 / config.sequence_rate + data.compressed * config.decode_ms / 1000)
    flops = data.series * (tokens_a_series() * slice_cnn.forward + transformer.forward)
    return Work(read=inside * 1e9 * data.dicom_gb, core_seconds=inside * seconds, forward=inside * flops)


def tokens_a_series() -> float:
    """Slices of a series that the transformer reads, on average over the modalities."""
    counts = [(series, len(thin(slices, STAGE2.cut))) for series, slices in MODALITIES.values()]
    return sum(series * tokens for series, tokens in counts) / sum(series for series, _ in counts)


def times(work: Work, device: Device) -> dict[str, float]:
    """Seconds that each resource is busy."""
    gpus = max(1, device.gpus) if work.shared else 1
    found = {
        "cores": work.core_seconds / min(work.processes * gpus, device.cores),
        "disk": work.read / device.read + work.written / device.write,
        "FLOPs": (work.forward / device.inference + work.training / device.training / work.speed) / (device.peak * gpus),
        "launches": work.steps * device.launch / work.speed,
    }
    if device.gpus == 0 and found["FLOPs"]:
        found["FLOPs"] += found.pop("cores")  # the same cores
    return found


def cost(stage: Stage, device: Device) -> Cost:
    """The longest of each piece of work, summed; the resource that has most of this sum."""
    seconds: Counter[str] = Counter()
    for work in stage.works:
        name, longest = max(times(work, device).items(), key=lambda item: item[1])
        seconds[name] += longest
    return Cost(seconds.total(), seconds.most_common(1)[0][0])


class Total(NamedTuple):
    read: float  # bytes
    written: float  # bytes
    seconds: dict[str, float]  # by the machine's name


def totals(rows: list[Row], folds: int) -> dict[str, Total]:
    """Of what is done once, of one fold, and of all."""
    found = {}
    for what, once, each in ((ONCE, 1, 0), (A_FOLD, 0, 1), (ALL, 1, folds)):
        counted = [(each if row.stage.each_fold else once, row) for row in rows]
        seconds = {name: sum(n * row.costs[name].seconds for n, row in counted) for name in rows[0].costs}
        found[what] = Total(sum(n * row.stage.read for n, row in counted), sum(n * row.stage.written for n, row in counted), seconds)
    return found

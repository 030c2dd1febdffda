"""preprocess: uncompressed DICOM series to arrays.

Three ways with the same number of processes: the workers of preprocess_data.py; a plain loop
(pydicom, float32, cv2.resize, numpy.save); the bytes alone (read the input, write the output).
"""

import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pydicom

from src.artifacts.paths import DataFolder
from src.preprocess.series_job import Job, prepare_series
from src.worker_pool import Limits, clean_context, run_in_workers
from tools.benchmarks.case import FLOOR, OURS, PLAIN, Case, Options
from tools.benchmarks.made_up import write_dicom

SIZE = 512  # pixels, sides of the prepared images
LIMITS = Limits(seconds=600, gigabytes=8)


@dataclass
class Preprocess(Options):
    """DICOM to arrays, against a plain loop and against the bytes alone."""

    matrix: int = 512  # pixels, rows and columns of the DICOM images
    series: int = 8  # series, CT and MR in turn
    slices: int = 100  # slices a series
    write_slices: bool = True  # also one file a slice
    workers: int = 2  # processes


def preprocess_case(config: Preprocess, folder: Path) -> Case:
    """Write DICOM series into the folder."""
    data = DataFolder(folder)
    numbers = range(config.series)
    uids = [write_dicom(data, config.matrix, config.slices, number) for number in numbers]
    pool = ProcessPoolExecutor(config.workers, clean_context(__name__))

    def ours() -> None:
        jobs = [Job(data.root, uid, SIZE, "percentile", config.write_slices) for uid in uids]
        for _, metadata in run_in_workers(prepare_series, jobs, config.workers, LIMITS):
            assert metadata["length"] == config.slices, metadata

    def in_pool(function) -> None:
        list(pool.map(partial(function, data, config.write_slices), uids))

    def clear() -> None:
        for written in (data.sequences, data.slices):
            shutil.rmtree(written, ignore_errors=True)

    also = "also" if config.write_slices else "not"
    return Case(
        title=f"{config.series} series of {config.slices} slices of "
        f"{config.matrix} x {config.matrix}, {config.workers} processes, "
        f"slices {also} written one by one",
        ways={
            OURS: ours,
            PLAIN: partial(in_pool, plain_series),
            FLOOR: partial(in_pool, copy_bytes),
        },
        work=config.series * config.slices,
        unit="slices",
        floor="the bytes alone, read and written",
        clear=clear,
        close=pool.shutdown,
    )


def plain_series(data: DataFolder, write_slices: bool, uid: str) -> None:
    """Prepare a series as one would write it in five minutes."""
    slices = [pydicom.dcmread(path) for path in data.series(uid).iterdir()]
    slices.sort(key=lambda slice_: slice_.ImagePositionPatient[2])
    volume = np.stack([slice_.pixel_array.astype(np.float32) for slice_ in slices])
    volume = volume * float(slices[0].RescaleSlope) + float(slices[0].RescaleIntercept)
    low, high = (0, 600) if slices[0].Modality == "CT" else np.percentile(volume, (1, 99.8))
    volume = np.clip((volume - np.float32(low)) * np.float32(5 / (high - low)), 0, 5)
    images = np.stack([cv2.resize(image, (SIZE, SIZE)) for image in volume]).astype(np.float16)
    data.sequences.mkdir(exist_ok=True)
    np.save(data.sequence(uid), images)
    if write_slices:
        data.slice_folder(uid).mkdir(parents=True)
        for index, image in enumerate(images):
            np.save(data.slice(uid, index), image)


def copy_bytes(data: DataFolder, write_slices: bool, uid: str) -> None:
    """Read what must be read, and write as much as must be written."""
    image = np.zeros((SIZE, SIZE), np.float16).data
    data.sequences.mkdir(exist_ok=True)
    if write_slices:
        data.slice_folder(uid).mkdir(parents=True)
    with open(data.sequence(uid), "wb") as sequence:
        for index, path in enumerate(data.series(uid).iterdir()):
            path.read_bytes()
            sequence.write(image)
            if write_slices:
                data.slice(uid, index).write_bytes(image)

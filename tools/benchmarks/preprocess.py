"""preprocess: uncompressed DICOM series to arrays, by preprocess_data.py's workers, by a plain loop (pydicom, float32, cv2.resize, numpy.save)
and by copying bytes alone (read the input files, write files of the output's sizes), each with the same number of processes, in turn."""

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from src.artifacts.paths import DataFolder
from src.preprocess.series_job import Job, prepare_series
from src.worker_pool import Limits, clean_context, run_in_workers
from tools.benchmarks.case import FLOOR, OURS, PLAIN, Case

SIZE = 512  # pixels, sides of the prepared images


@dataclass
class Preprocess:
    """DICOM to arrays, against a plain loop and against the bytes alone."""

    matrix: int = 512  # pixels, rows and columns of the DICOM images
    series: int = 8  # series, CT and MR in turn
    slices: int = 100  # slices a series
    write_slices: bool = True  # also one file a slice
    workers: int = 2  # processes
    repeats: int = 5  # of each measurement
    folder: Path | None = None  # where to work (default: the system's temporary folder)


@contextmanager
def preprocess_case(config: Preprocess) -> Iterator[Case]:
    with tempfile.TemporaryDirectory(dir=config.folder, prefix="benchmark-") as temporary:
        data = DataFolder(temporary)
        uids = [write_series(data, config, number) for number in range(config.series)]
        with ProcessPoolExecutor(config.workers, clean_context(__name__)) as pool:
            yield Case(
                title=f"{config.series} series of {config.slices} slices of {config.matrix} x {config.matrix}, {config.workers} processes, "
                f"slices {'also' if config.write_slices else 'not'} written one by one",
                ways={
                    name: partial(way, data, uids, config, pool)
                    for name, way in {OURS: ours, PLAIN: plain, FLOOR: bytes_only}.items()
                },
                work=config.series * config.slices,
                unit="slices",
                floor="the bytes alone, read and written",
                clear=partial(clear, data),
            )


def clear(data: DataFolder) -> None:
    """Away with the arrays of the last way."""
    for folder in (data.sequences, data.slices):
        shutil.rmtree(folder, ignore_errors=True)


def ours(data: DataFolder, uids: list[str], config: Preprocess, _: ProcessPoolExecutor) -> None:
    jobs = [Job(data.root, uid, SIZE, "percentile", config.write_slices) for uid in uids]
    for _, facts in run_in_workers(prepare_series, jobs, config.workers, Limits(600, 8)):
        assert facts["length"] == config.slices, facts


def plain(data: DataFolder, uids: list[str], config: Preprocess, pool: ProcessPoolExecutor) -> None:
    list(pool.map(partial(plain_series, data, config.write_slices), uids))


def plain_series(data: DataFolder, write_slices: bool, uid: str) -> None:
    """What one would write in five minutes."""
    slices = sorted(
        (pydicom.dcmread(path) for path in data.series(uid).iterdir()),
        key=lambda ds: ds.ImagePositionPatient[2],
    )
    volume = np.stack(
        [
            ds.pixel_array.astype(np.float32) * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
            for ds in slices
        ]
    )
    low, high = (0, 600) if slices[0].Modality == "CT" else np.percentile(volume, (1, 99.8))
    volume = np.clip((volume - np.float32(low)) * np.float32(5 / (high - low)), 0, 5)
    images = np.stack([cv2.resize(image, (SIZE, SIZE)) for image in volume]).astype(np.float16)
    data.sequences.mkdir(exist_ok=True)
    np.save(data.sequence(uid), images)
    if write_slices:
        data.slice_folder(uid).mkdir(parents=True)
        for index, image in enumerate(images):
            np.save(data.slice(uid, index), image)


def bytes_only(
    data: DataFolder, uids: list[str], config: Preprocess, pool: ProcessPoolExecutor
) -> None:
    list(pool.map(partial(copy_bytes, data, config.write_slices), uids))


def copy_bytes(data: DataFolder, write_slices: bool, uid: str) -> None:
    """Read what must be read, write as much as must be written."""
    image = np.zeros((SIZE, SIZE), np.float16)
    data.sequences.mkdir(exist_ok=True)
    if write_slices:
        data.slice_folder(uid).mkdir(parents=True)
    with open(data.sequence(uid), "wb") as sequence:
        for index, path in enumerate(data.series(uid).iterdir()):
            path.read_bytes()
            sequence.write(image.data)
            if write_slices:
                data.slice(uid, index).write_bytes(image.data)


def write_series(data: DataFolder, config: Preprocess, number: int) -> str:
    """A series of noise in ellipses; its UID."""
    generator = np.random.default_rng(number)
    y, x = np.mgrid[-1 : 1 : config.matrix * 1j, -1 : 1 : config.matrix * 1j]
    head = 900 * (x**2 + 1.3 * y**2 < 0.8)
    uid = generate_uid()
    folder = data.series(uid)
    folder.mkdir(parents=True)
    for index in range(config.slices):
        pixels = np.clip(head + generator.normal(100, 30, head.shape), 0, 4095).astype(np.uint16)
        dicom_slice(uid, index, pixels, ct=number % 2 == 0).save_as(
            folder / f"{index:04d}.dcm", enforce_file_format=True
        )
    return uid


def dicom_slice(uid: str, index: int, pixels: np.ndarray, ct: bool) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = (
        CTImageStorage if ct else MRImageStorage
    )
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Modality, dataset.PatientID, dataset.SeriesInstanceUID, dataset.InstanceNumber = (
        "CT" if ct else "MR",
        "benchmark",
        uid,
        index + 1,
    )
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = (
        [-120.0, -120.0, float(index)],
        [1, 0, 0, 0, 1, 0],
    )
    dataset.PixelSpacing, dataset.SliceThickness = [0.47, 0.47], 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = (
        16,
        12,
        11,
        0,
    )
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024 if ct else 0
    dataset.PixelData = pixels.tobytes()
    return dataset

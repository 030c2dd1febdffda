"""Made-up data that benchmarks run on: DICOM series, prepared arrays, spots, features."""

import numpy as np
import pandas as pd
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from src.artifacts.files import write_array
from src.artifacts.paths import DataFolder, RunFolder
from src.labels import LABELS, PRESENT
from src.preprocess.intensity import TOP
from src.sampling.slices import STEPS
from src.sampling.spot_dataset import SpotTables


def write_dicom(data: DataFolder, matrix: int, slices: int, number: int) -> str:
    """Write a series of noise in an ellipse, CT and MR in turn; return its UID."""
    generator = np.random.default_rng(number)
    y, x = np.mgrid[-1 : 1 : matrix * 1j, -1 : 1 : matrix * 1j]
    head = 900 * (x**2 + 1.3 * y**2 < 0.8)
    uid = generate_uid()
    folder = data.series(uid)
    folder.mkdir(parents=True)
    slice_ = dicom_header(uid, matrix, "CT" if number % 2 == 0 else "MR")
    for index in range(slices):
        pixels = np.clip(head + generator.normal(100, 30, head.shape), 0, 4095)
        slice_.SOPInstanceUID = generate_uid()
        slice_.InstanceNumber = index + 1
        slice_.ImagePositionPatient = [-120.0, -120.0, float(index)]
        slice_.PixelData = pixels.astype(np.uint16).tobytes()
        slice_.save_as(folder / f"{index:04d}.dcm", enforce_file_format=True)
    return uid


def dicom_header(uid: str, matrix: int, modality: str) -> Dataset:
    """Return what all slices of a series share."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    header.SeriesInstanceUID = uid
    header.PatientID = "benchmark"
    header.Modality = modality
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.PixelSpacing = [0.47, 0.47]
    header.SliceThickness = 1
    header.RescaleSlope, header.RescaleIntercept = 1, -1024 if modality == "CT" else 0
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.Rows, header.Columns = matrix, matrix
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 12, 11
    header.PixelRepresentation = 0
    return header


def rows_of(uids: list[str], size: int) -> pd.DataFrame:
    """Return what train_{N}_folds.csv says of the geometry of series of 1 mm a pixel."""
    table = pd.DataFrame({"SeriesInstanceUID": uids, "h": size, "w": size, "orientation": ""})
    table = table.assign(slice_spacing=1.0, row_spacing=1.0, column_spacing=1.0)
    return table.assign(head_x=0.5, head_y=0.5)


def write_arrays(data: DataFolder, series: int, slices: int, size: int) -> list[str]:
    """Write prepared arrays of noise, size x size pixels; return their UIDs."""
    generator = np.random.default_rng(0)
    uids = [f"1.2.{number}" for number in range(series)]
    for uid in uids:
        noise = generator.random((slices, size, size), np.float32) * TOP
        write_array(data.sequence(uid), noise.astype(np.float16))
    return uids


def write_features(run: RunFolder, series: int, slices: int, channels: int) -> pd.DataFrame:
    """Write random features and logits; return the series, which have no aneurysm."""
    generator = np.random.default_rng(0)
    table = pd.DataFrame({"SeriesInstanceUID": [f"1.2.{number}" for number in range(series)]})
    table[list(LABELS)] = 0
    for uid in table.SeriesInstanceUID:
        for path, width in ((run.feature(uid), channels), (run.logit(uid), len(LABELS))):
            values = generator.standard_normal((len(STEPS), slices, width), np.float32)
            write_array(path, values.astype(np.float16))
    return table


def spot_tables(
    data: DataFolder, uids: list[str], slices: int, size: int, samples: int
) -> SpotTables:
    """Return tables of stage 1 with so many training samples outside fold 0."""
    # Positive spots give two samples each, the others one; the last spot is held out.
    positive = samples // 3
    spots = pd.DataFrame({"f": 10 + np.arange(samples - positive + 1) % (slices - 20)})
    spots = spots.assign(length=slices, fold=1, x_512=200.0, y_512=300.0)
    spots["SeriesInstanceUID"] = np.resize(uids, len(spots))
    spots["class_id"] = np.where(spots.index < positive, 0, PRESENT)  # PRESENT: no location
    spots.loc[len(spots) - 1, "fold"] = 0
    meta = rows_of(uids, size).assign(plane="axial").set_index("SeriesInstanceUID", drop=False)
    labels = dict.fromkeys(uids, np.zeros((slices, len(LABELS)), np.uint8))
    safe = dict.fromkeys(uids, np.arange(slices))
    return SpotTables(data, spots, labels, safe, {}, meta)

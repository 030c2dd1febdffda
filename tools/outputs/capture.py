"""{name}.capture-{k}.dcm: the slices with findings as DICOM secondary captures.

Each says where its pixels are in the patient, as the slice that it shows.
"""

from copy import deepcopy
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from src.artifacts.files import atomic
from src.inference.ensemble import Prediction
from src.labels import PRESENT
from src.preprocess.images import PreparedSeries
from tools.outputs.canvas import SHOWN, Canvas, canvas_of, draw
from tools.outputs.source import MAKER, NOTICE, frame_number, identity_of

SERIES_NUMBER = 9002
SOURCE_IMAGE = ("121322", "DCM", "Source image for image processing operation")
DIRECTIONS = {"axial": ["L", "P"], "coronal": ["L", "F"], "sagittal": ["P", "F"]}  # across, down


def write(out: Path, name: str, prepared: PreparedSeries, prediction: Prediction) -> None:
    """Write the slices of the first findings, or the most probable slice if there are none."""
    identity, canvas = identity_of(prepared.series), canvas_of(prepared.series)
    common = common_of(identity, canvas)
    for old in out.glob(f"{name}.capture-*.dcm"):  # an earlier run may have had more
        old.unlink()
    for instance, number in enumerate(shown_slices(prediction), 1):
        data = deepcopy(common)
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPInstanceUID, data.InstanceNumber = generate_uid(), instance
        data.SourceImageSequence = [source_image(identity, canvas, number)]
        set_place(data, canvas, number)
        pixels = draw(canvas, prepared, prediction, number).tobytes()
        data.PixelData = pixels + b"\0" * (len(pixels) % 2)
        with atomic(out / f"{name}.capture-{instance}.dcm", sync=False) as file:
            data.save_as(file, enforce_file_format=True)


def shown_slices(prediction: Prediction) -> list[int]:
    """Return the numbers of the slices that are shown, that of the first finding first."""
    numbers = [finding.slice for finding in prediction.findings[:SHOWN]]
    if not numbers:
        numbers = [int(prediction.tokens[prediction.slices[:, PRESENT].argmax()])]
    return list(dict.fromkeys(numbers))


def common_of(identity: Dataset, canvas: Canvas) -> Dataset:
    """Return what all captures of a series share."""
    data, now = deepcopy(identity), datetime.now()
    data.SOPClassUID, data.SeriesInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    data.Modality, data.ConversionType, data.SeriesNumber = "OT", "WSD", SERIES_NUMBER
    data.ImageType, data.BurnedInAnnotation = ["DERIVED", "SECONDARY"], "NO"  # none of a patient
    data.Manufacturer, data.SeriesDescription = MAKER, f"Aneurysm findings: {NOTICE}"
    data.DerivationDescription = f"Findings of networks drawn on the slice; {NOTICE}"
    data.ContentDate = data.InstanceCreationDate = now.strftime("%Y%m%d")
    data.ContentTime = data.InstanceCreationTime = now.strftime("%H%M%S")
    data.BodyPartExamined = "HEAD"
    if "FrameOfReferenceUID" in data:
        data.PositionReferenceIndicator = None
    data.PatientOrientation = DIRECTIONS.get(canvas.series.plane, "")
    data.Rows, data.Columns = canvas.height, canvas.width
    data.SamplesPerPixel, data.PhotometricInterpretation = 3, "RGB"
    data.PlanarConfiguration, data.PixelRepresentation = 0, 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    return data


def source_image(identity: Dataset, canvas: Canvas, number: int) -> Dataset:
    """Return the reference to the image that a capture shows."""
    item, purpose = Dataset(), Dataset()
    item.ReferencedSOPClassUID = identity.SOPClassUID
    item.ReferencedSOPInstanceUID = canvas.series.sop_uids[number]
    frame = frame_number(canvas.series.slices[number].frame)
    if frame is not None:
        item.ReferencedFrameNumber = frame
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = SOURCE_IMAGE
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item


def set_place(data: Dataset, canvas: Canvas, number: int) -> None:
    """Say where the pixels of slice `number` are in the patient, if that is known."""
    corners = [canvas.place(number, *pixel) for pixel in ((0, 0), (1, 0), (0, 1))]
    if None in corners:
        return
    first, right, below = np.array(corners)
    across, down = np.linalg.norm(right - first), np.linalg.norm(below - first)
    directions = [*(right - first) / across, *(below - first) / down]
    data.SliceThickness = None  # it has none of its own
    data.PixelSpacing = _decimals([down, across])
    data.ImagePositionPatient = _decimals(first)
    data.ImageOrientationPatient = _decimals(directions)


def _decimals(numbers: list[float] | np.ndarray) -> list[str]:
    return [format_number_as_ds(float(number)) for number in numbers]

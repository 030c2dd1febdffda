"""What the outputs take from the series that was predicted: its places and its identity."""

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

from src.dicom import Series
from src.dicom.fields import DEFLATED
from src.dicom.header import Slice
from src.inference.ensemble import Prediction

NOTICE = "research, not for diagnosis"
MAKER = "Aneurysm networks"  # of the files, as a manufacturer
# What makes an object part of the same study. Type 2: may be empty, but must be there.
PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate",
    "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
OTHERS = ("SOPClassUID", "FrameOfReferenceUID", "IssuerOfPatientID", "SpecificCharacterSet")


class OutputError(Exception):
    """An output that this series cannot have. The text is one sentence, without any value."""


def require_places(series: Series) -> None:
    """Raise OutputError unless the series says where its pixels are in the patient."""
    if series.patient_point(0, 0.0, 0.0) is None:
        raise OutputError("the series does not say where its slices are in the patient")


def require_localised(prediction: Prediction) -> None:
    """Raise OutputError unless the networks say where they look."""
    if prediction.heat is None:
        raise OutputError("these networks cannot tell where they look: they have no heatmap")


def identity_of(series: Series) -> Dataset:
    """Return patient, study and frame of reference of a series, in UTF-8, and its SOP class.

    Nothing else of the source is read. Raise OutputError if it names no study or no images.
    """
    file = series.slices[0].file
    if file.syntax == DEFLATED:  # pydicom would inflate all of it, however large
        raise OutputError("its files are deflated: write them uncompressed first")
    wanted = [*PATIENT_AND_STUDY, *OTHERS]
    found = dcmread(file.path, stop_before_pixels=True, force=True, specific_tags=wanted)
    identity = Dataset()
    for name in wanted:
        value = found.get(name)
        if value is not None or name in PATIENT_AND_STUDY:
            setattr(identity, name, "" if value is None else str(value))
    identity.SpecificCharacterSet = "ISO_IR 192"
    identity.SeriesInstanceUID = file.series_uid
    uids = [identity.get("SOPClassUID", ""), identity.StudyInstanceUID, file.series_uid]
    if not all(UID(uid).is_valid for uid in (*uids, *series.sop_uids)):
        raise OutputError("its files lack the UIDs by which a DICOM file refers to another one")
    return identity


def image_name(slice_: Slice) -> str:
    """Return what a viewer calls a slice: the number of its frame or its Instance Number."""
    if slice_.frame >= 0:
        return f"frame {slice_.frame + 1}"
    return "image ?" if slice_.instance is None else f"image {slice_.instance}"


def frame_number(frame: int) -> int | None:
    """Return a 0-based frame as DICOM counts; None for -1, a file of one image."""
    return None if frame < 0 else frame + 1

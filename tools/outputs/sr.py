"""{name}.sr.dcm: findings as a DICOM structured report, TID 1500, which refers to the images."""

from copy import deepcopy
from pathlib import Path

import highdicom as hd
import numpy as np
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from src.artifacts.files import atomic
from src.inference.ensemble import Prediction
from src.inference.findings import Finding
from src.labels import LABELS, PRESENT
from src.preprocess.images import PreparedSeries
from tools.outputs.source import MAKER, NOTICE, frame_number, identity_of

SERIES_NUMBER = 9001
ANEURYSM = Code("54002007", "SCT", "Saccular aneurysm")
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
PERCENT = Code("%", "UCUM", "Percent")
SIDES = {"Left": Code("7771000", "SCT", "Left"), "Right": Code("24028007", "SCT", "Right")}
ARTERIES = {  # part of a label -> its artery; the tracking identifier holds the label itself
    "Internal Carotid Artery": Code("86117002", "SCT", "Internal carotid artery"),
    "Middle Cerebral Artery": Code("17232002", "SCT", "Middle cerebral artery"),
    "Anterior Communicating Artery": Code("8012006", "SCT", "Anterior communicating artery"),
    "Anterior Cerebral Artery": Code("60176003", "SCT", "Anterior cerebral artery"),
    "Posterior Communicating Artery": Code("43119007", "SCT", "Posterior communicating artery"),
    "Basilar": Code("59011009", "SCT", "Basilar artery"),
    "Other Posterior Circulation": Code("51114001", "SCT", "Artery"),
}
EXAMINATIONS = {
    "CT": Code("25045-6", "LN", "CT unspecified body region"),
    "MR": Code("25056-3", "LN", "MR unspecified body region"),
}


def write(out: Path, name: str, prepared: PreparedSeries, prediction: Prediction) -> None:
    """Write the probability of the series, and a group a finding: artery, place, certainty."""
    series = prepared.series
    identity = identity_of(series)
    present = float(prediction.probabilities[PRESENT])
    groups = [
        sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(hd.UID(), f"Series: {LABELS[PRESENT]}"),
            finding_type=ANEURYSM,
            measurements=[certainty(present)],
        )
    ]
    for number, finding in enumerate(prediction.findings, 1):
        groups.append(group_of(number, finding, identity.SOPClassUID, series.shape[:0:-1]))
    maker = sr.DeviceObserverIdentifyingAttributes(hd.UID(), name=f"{MAKER}: {NOTICE}")
    observer = sr.ObserverContext(Code("121007", "DCM", "Device"), maker)
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=EXAMINATIONS[series.modality],
        imaging_measurements=groups,
    )
    document = sr.Comprehensive3DSR(
        evidence=evidence_of(identity, series.sop_uids),
        content=report[0],
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MAKER,
        series_description=f"Aneurysm findings: {NOTICE}",
    )
    with atomic(out / f"{name}.sr.dcm", sync=False) as file:
        document.save_as(file, enforce_file_format=True)


def group_of(
    number: int, finding: Finding, sop_class: str, size: tuple[int, int]
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """Return a finding as TID 1410: a point on its image, in pixels of the stored image.

    size: its columns and rows.
    """
    frame = frame_number(finding.frame)
    image = sr.SourceImageForRegion(sop_class, finding.sop_uid, frame and [frame])
    # DICOM counts from the corner of the first pixel, this project from its centre. A view in mm
    # may reach beyond the image, where DICOM has no points.
    point = np.array([[finding.x + 0.5, finding.y + 0.5]]).clip(0, size)
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(hd.UID(), f"{number}: {finding.label}"),
        referenced_region=sr.ImageRegion(sr.GraphicTypeValues.POINT, point, image),
        finding_type=ANEURYSM,
        finding_sites=[site_of(finding.label)],
        measurements=[certainty(finding.probability)],
    )


def site_of(label: str) -> sr.FindingSite:
    """Return artery and side of a location."""
    artery = next(code for part, code in ARTERIES.items() if part in label)
    return sr.FindingSite(artery, laterality=SIDES.get(label.split()[0]))


def certainty(probability: float) -> sr.Measurement:
    return sr.Measurement(CERTAINTY, round(100 * probability, 1), PERCENT)


def evidence_of(identity: Dataset, sop_uids: list[str]) -> list[Dataset]:
    """Return identity and UID of each image."""
    evidence = []
    for uid in dict.fromkeys(sop_uids):
        image = deepcopy(identity)
        image.SOPInstanceUID = uid
        evidence.append(image)
    return evidence

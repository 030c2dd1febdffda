"""Sentences to a radiologist where a series is not what the networks were made for.

They come from what the files say and from the prepared images. Texts of a file are compared with
known words, and only these are quoted.
"""

import re

import numpy as np

from src.dicom import Series
from src.preprocess.head import sample_slices, shows_head
from src.preprocess.images import PreparedSeries
from src.preprocess.metadata import metadata_of
from src.sampling.view import extent_mm

# Body Part Examined, as DICOM PS3.16, Annex L spells it, of what shows no brain.
ELSEWHERE = frozenset(
    "ABDOMEN ABDOMENPELVIS ANKLE AORTA ARM AXILLA BACK BILEDUCT BLADDER BREAST BRONCHUS BUTTOCK "
    "CALCANEUS CALF CHEST CHESTABDOMEN CHESTABDPELVIS CLAVICLE COCCYX COLON CSPINE CTSPINE ELBOW "
    "EXTREMITY FEMUR FIBULA FINGER FOOT FOREARM HAND HEART HIP HUMERUS ILIUM KIDNEY KNEE LEG LIVER "
    "LOWEREXTREMITY LOWERLEG LOWERLIMB LSPINE LSSPINE LUNG MEDIASTINUM PANCREAS PELVIS PROSTATE "
    "RADIUS RIB SACRUM SCAPULA SHOULDER SPINE SPLEEN SSPINE STERNUM STOMACH TESTIS THIGH THORAX "
    "THUMB TIBIA TLSPINE TOE TSPINE ULNA UPPERARM UPPEREXTREMITY UPPERLIMB UTERUS WRIST".split()
)
NO_AGENT = ("", "NO", "NONE", "NOCONTRAST", "WITHOUT", "WITHOUTCONTRAST", "PLAIN", "NATIVE")
THICK = 5.0  # mm
FEWEST = 16  # slices
SHORTEST = 40.0  # mm that the slices cover
NARROWEST = 80.0  # mm of an image's side


def cautions_of(prepared: PreparedSeries) -> list[str]:
    """Return all cautions of a series whose images are in memory; none for a usual head."""
    series = prepared.series
    found = [
        body_part(series),
        contrast(series),
        thick_slices(series),
        few_slices(series),
        narrow_field(series),
        no_head(prepared),
    ]
    return [sentence for sentence in found if sentence]


def body_part(series: Series) -> str | None:
    part = _letters(series, "BodyPartExamined")
    if part not in ELSEWHERE:
        return None
    return f"The files name the body part {part}: the networks know heads only."


def contrast(series: Series) -> str | None:
    """Miss a contrast agent where the files of a CT describe the examination without one.

    Files that were stripped of all descriptions prove nothing; enhanced ones hold it elsewhere.
    """
    first = series.slices[0]
    described = first.tags.get("BodyPartExamined") or first.file.description
    agent = _letters(series, "ContrastBolusAgent")
    if series.modality != "CT" or first.frame >= 0 or not described or agent not in NO_AGENT:
        return None
    return (
        "The files of this CT name no contrast agent: without one, arteries and aneurysms can "
        "hardly be told from the brain."
    )


def thick_slices(series: Series) -> str | None:
    thickest = max(series.spacing[0] or 0, series.slices[0].thickness or 0)
    if thickest < THICK:
        return None
    return (
        f"The slices are thick or far apart ({thickest:.1f} mm): smaller aneurysms may be blurred "
        "or missed."
    )


def few_slices(series: Series) -> str | None:
    count, between = len(series.slices), series.spacing[0]
    covered = (count - 1) * between if between else None
    if count >= FEWEST and (covered is None or covered >= SHORTEST):
        return None
    length = "" if covered is None else f", which cover {covered:.0f} mm"
    return (
        f"The series has {count} slices{length}: arteries may be outside, and the networks "
        "compare the slices of a whole head."
    )


def narrow_field(series: Series) -> str | None:
    across, down = extent_mm(series.shape[1:], series.spacing[1:], series.orientation)
    if None in series.spacing[1:] or min(across, down) >= NARROWEST:
        return None
    return f"The field is {across:.0f} x {down:.0f} mm: it cannot show a whole head."


def no_head(prepared: PreparedSeries) -> str | None:
    at = sample_slices(len(prepared.numbers))
    images, numbers = np.asarray(prepared.images)[at], prepared.numbers[at]
    if shows_head(images, numbers, metadata_of(prepared.series)):
        return None
    return "No head was found in the images: the field may miss it."


def _letters(series: Series, tag: str) -> str:
    """Return the letters of a text in capitals; "" where the files do not have it."""
    return re.sub(r"[^A-Z]", "", str(series.slices[0].tags.get(tag, "")).upper())

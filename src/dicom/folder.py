"""Find the DICOM files of a folder by content, not by name, and read their headers."""

import os
from collections import Counter
from pathlib import Path

from src.dicom.decoders import check_decoder
from src.dicom.errors import DicomError, require
from src.dicom.foreign import HINT
from src.dicom.header import Slice, read_header
from src.text import printable

# These reasons name the failure of a folder only if there is no other.
MINOR = ("not_dicom", "no_pixels", "empty", "other_modality")


def read_headers(folder: Path, below: bool = True) -> tuple[list[Slice], list[tuple[str, str]]]:
    """Return the slices of all files, and (file name, reason) of files that cannot be read.

    below: also those of the folders in it.
    """
    try:
        require(folder.exists(), "missing", f"{folder} does not exist")
        paths, locked = _visible_files(folder, below)
    except OSError as error:
        raise DicomError("unreadable", f"{folder}: {error.strerror}") from None
    require(len(paths) + len(locked) > 0, "no_dicom", f"{folder} holds no files")
    slices = []
    failed = [(name, DicomError("unreadable", "a folder may not be entered")) for name in locked]
    for path in paths:
        try:
            of_file = read_header(path)
            check_decoder(of_file[0].file)
            slices += of_file
        except DicomError as error:
            failed.append((printable(path.name), error))
    dropped = [(name, error.reason) for name, error in failed]
    if not slices:
        errors = [error for _, error in failed]
        example = max(errors, key=lambda error: (error.reason not in MINOR, HINT in str(error)))
        raise no_volume(folder, dropped, example)
    return slices, dropped


def _visible_files(folder: Path, below: bool) -> tuple[list[Path], list[str]]:
    """Return all files in a folder, or also below it, and the folders that may not be entered.

    Links to files are followed; links to folders are not, because they may lead in circles.
    """
    if folder.is_file():
        return [folder], []
    found, locked = [], []
    for parent, folders, names in os.walk(folder, onerror=locked.append):
        visible = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        folders[:] = visible if below else []
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found), [printable(Path(error.filename).name) for error in locked]


def no_volume(folder: Path, dropped: list[tuple[str, str]], example: DicomError) -> DicomError:
    """Return the error of a folder without readable slices, with its most frequent reason."""
    counts = Counter(reason for _, reason in dropped)
    reason = max(counts, key=lambda reason: (reason not in MINOR, counts[reason]))
    listed = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    return DicomError(reason, f"{folder}: no slice can be read ({listed}); {example}")


def by_series(slices: list[Slice]) -> dict[tuple[str, str, str], list[Slice]]:
    """Return {(UID, patient, folder if there is no UID): slices}.

    Slices without a patient belong to the patient of the others, if that is one.
    """
    by_uid: dict[tuple[str, str], dict[str, list[Slice]]] = {}
    for slice_ in slices:
        file = slice_.file
        place = "" if file.series_uid else str(file.path.parent)
        patients = by_uid.setdefault((file.series_uid, place), {})
        patients.setdefault(file.patient_id, []).append(slice_)
    groups = {}
    for uid, patients in by_uid.items():
        if len(patients) == 2 and "" in patients:
            patients = {max(patients): patients[""] + patients[max(patients)]}
        for patient, of_patient in patients.items():
            groups[uid[0], patient, uid[1]] = of_patient
    return groups

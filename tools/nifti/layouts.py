"""Which scans a downloaded data set holds, and what is known of each: by names and tables alone."""

import re
from collections import Counter
from pathlib import Path

from src.artifacts.files import reading
from src.artifacts.paths import ArtifactError
from src.script import UserError
from tools.nifti.pairs import pairs
from tools.nifti.scans import Found, LeftOut, Point, Scan, stem, stem_below, volumes

LESION_FOLDER = "Nifti Aneurysm Only"  # of ds005096; blanks and all
SESSION = re.compile(r"(sub-[0-9A-Za-z]+)_(ses-[0-9A-Za-z]+)_")
ACQUISITION = re.compile(r"_acq-([0-9A-Za-z]+)_")
WITH_ARTERY = re.compile(r"with[-_ ]parent", re.IGNORECASE)
FOLLOW_UP = re.compile(r"(\d+)[A-Za-z]")  # of ADAM: 10074B and 10074F are one patient


def layout_of(root: Path) -> str:
    """Return the layout of a folder. Raise UserError if it has none that is known."""
    if not root.is_dir():
        raise UserError(f"{root} is no folder: give the one that holds the data set")
    if (root / "derivatives" / "manual_masks").is_dir():
        return "ds003949"
    if any(root.glob("derivatives/sub-*/ses-*")):
        return "ds005096"
    if any(root.glob("*/orig/TOF.nii*")):
        return "adam"
    if (root / "images").is_dir():
        return "pairs"
    raise UserError(
        f"{root} has none of the known layouts: put images/ and masks/ there, or give "
        "--layout images to predict without annotations, see docs/open_data.md"
    )


def lausanne(root: Path) -> Found:
    """Yield the scans of OpenNeuro ds003949: controls are negative, patients have masks."""
    groups = _groups(root / "participants.tsv")
    for image in volumes(root, "sub-*/ses-*/anat/*_angio"):
        session, subject = image.parent.parent, image.parent.parent.parent.name
        folder = root / "derivatives" / "manual_masks" / subject / session.name / "anat"
        masks = tuple(volumes(folder, "*_desc-Lesion_*_mask"))
        group = groups.get((subject, session.name.removeprefix("ses-")), "")
        name = stem(image).removesuffix("_angio")
        if group == "control" and not masks:
            yield Scan(name, subject, image, False)
        elif group == "patient" and masks:
            yield Scan(name, subject, image, True, masks)
        elif group == "control":
            yield LeftOut(name, "contradiction: a control with a mask of a lesion")
        elif group == "patient":
            yield LeftOut(name, "not annotated: a patient without a mask of a lesion")
        else:
            yield LeftOut(name, "unknown group: participants.tsv calls it no control, no patient")


def _groups(table: Path) -> dict[tuple[str, str], str]:
    """Return {(participant, date): group} of a participants.tsv."""
    with reading(table, "a table of participants", "fetch it again"):
        lines = [line.split("\t") for line in table.read_text("utf-8-sig").splitlines()]
        names = [name.strip() for name in lines[0]]
        columns = [names.index(name) for name in ("participant_id", "exam_date", "group")]
        rows = [
            [line[k].strip() for k in columns] for line in lines[1:] if len(line) > max(columns)
        ]
    return {(participant, date): group for participant, date, group in rows}


def brisbane(root: Path) -> Found:
    """Yield the scans of OpenNeuro ds005096: of each patient, one session or two have masks.

    The other sessions show the aneurysm, too, but nobody marked it.
    """
    images = list(volumes(root, "sub-*/ses-*/*/*_angio"))
    scans_of = Counter(image.parents[1] for image in images)
    for image in images:
        session = image.parents[1]
        subject, name = session.parent.name, stem(image).removesuffix("_angio")
        derived = root / "derivatives" / subject / session.name
        masks = list(volumes(derived, f"*/{LESION_FOLDER}/*"))
        problem = _doubt(masks, subject, session.name)
        if not masks:
            yield LeftOut(name, "not annotated: its session has no mask of an aneurysm")
        elif problem:
            yield LeftOut(name, problem)
        elif scans_of[session] > 1 and not _is_annotated(image, derived):
            yield LeftOut(name, "not annotated: the masks are of another scan of the session")
        else:
            yield Scan(name, subject, image, True, tuple(masks), may_be_part=True)


def _doubt(masks: list[Path], subject: str, session: str) -> str:
    """Return why masks may be of something else, or ""."""
    for mask in masks:
        named = SESSION.match(mask.name)
        if named and named.groups() != (subject, session):
            return f"doubtful mask: in the folder of {subject}, but named as of {named[1]}"
        if WITH_ARTERY.search(mask.name):
            return "doubtful mask: among those of aneurysms only, but named as with the artery"
    return ""


def _is_annotated(image: Path, derived: Path) -> bool:
    """Return whether the folder Mask of a session names this scan's acquisition."""
    named = ACQUISITION.search(image.name)
    marked = [ACQUISITION.search(path.name) for path in derived.glob("*/Mask/*")]
    return (named and named[1]) in {match[1] if match else None for match in marked}


def adam(root: Path) -> Found:
    """Yield the scans of the ADAM challenge: value 1 of a mask is untreated, 2 is treated."""
    for image in volumes(root, "*/orig/TOF"):
        folder = image.parents[1]
        follow_up = FOLLOW_UP.fullmatch(folder.name)
        patient = follow_up[1] if follow_up else folder.name
        masks = tuple(volumes(folder, "aneurysms"))
        points, problem = ((), "") if masks else _locations(folder / "location.txt")
        if masks or points or problem:
            yield Scan(folder.name, patient, image, None, masks, points, treated=2, problem=problem)
        else:
            yield LeftOut(folder.name, "not annotated: neither aneurysms.nii.gz nor location.txt")


def images(root: Path) -> Found:
    """Yield every NIfTI file below a folder, or the file itself, as a scan without annotation."""
    single = root.is_file()
    for path in [root] if single else volumes(root, "**/*"):
        name = stem(path) if single else stem_below(path, root)
        yield Scan(name, name, path, None, annotated=False, is_pseudonym=False)


def _locations(path: Path) -> tuple[tuple[Point, ...], str]:
    """Return the points of a location.txt, a line "i, j, k, radius" each, and what is wrong."""
    if not path.exists():
        return (), ""
    try:
        with reading(path, "lines of three voxel indices and a radius", "fetch it again"):
            rows = [line.replace(",", " ").split() for line in path.read_text().splitlines()]
            numbers = [tuple(map(float, row)) for row in rows if row]
            return tuple((i, j, k, radius) for i, j, k, radius in numbers), ""
    except ArtifactError as error:
        return (), str(error)


READERS = {
    "ds003949": lausanne,
    "ds005096": brisbane,
    "adam": adam,
    "pairs": pairs,
    "images": images,
}

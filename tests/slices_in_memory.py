"""Slices without files, for tests of what is decided by headers alone."""

from dataclasses import fields, replace
from pathlib import Path

from src.dicom.groups import Group, Placed
from src.dicom.header import FileHeader, Slice

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
FILE = FileHeader(
    path=Path("folder/file"), study_uid="1.1", series_uid="1.2", sop_uid="1.2.1", patient_id="p",
    modality="MR", description="", syntax="1.2.840.10008.1.2.1", offset=0, length=32,
    in_words=True, rows=4, columns=4, frames=1, allocated=16, stored=16, high_bit=15,
    signed=False, is_float=False, monochrome1=False, padding=None, modality_lut=None,
    offset_table=None,
)  # fmt: skip
SLICE = Slice(
    file=FILE, frame=-1, tags={}, number=(0, (), 0), instance=None, position=None,
    orientation=AXIAL, pixel_spacing=(1.0, 1.0), slice_spacing=None, slope=1.0, intercept=0.0,
    rescaled=False,
)  # fmt: skip
OF_FILE = {field.name for field in fields(FileHeader)}


def a_slice(
    place: float | None = None, uid: str = "", tags: dict | None = None, **changes
) -> Slice:
    """Return an axial slice at `place` mm along z. changes: of Slice or of its FileHeader."""
    if place is not None:
        changes.setdefault("position", (0.0, 0.0, float(place)))
    of_file = {name: value for name, value in changes.items() if name in OF_FILE}
    of_slice = {name: value for name, value in changes.items() if name not in OF_FILE}
    file = replace(FILE, sop_uid=uid, **of_file)
    if not uid:
        file = replace(file, path=Path(f"folder/{place}-{changes.get('instance')}"))
        file = replace(file, **of_file)
    if "instance" in of_slice:
        of_slice.setdefault("number", (of_slice["instance"] or 0, (), 0))
    return replace(SLICE, file=file, tags=tags or {}, **of_slice)


def group(places: list[float], tags: dict | None = None, index=None, **changes) -> Group:
    """Return slices at places in mm, whose positions are numbered by `index` or in order."""
    numbers = range(len(places)) if index is None else index
    placed = []
    for number, place in zip(numbers, places, strict=True):
        placed.append(Placed(a_slice(place, tags=tags, **changes), number, float(place)))
    return placed

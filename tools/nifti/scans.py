"""What is known of a scan before its files are opened."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.nifti.grid import SUFFIXES

Point = tuple[float, float, float, float | None]  # voxel i, j, k of the file; radius in mm


@dataclass(frozen=True)
class Scan:
    """An image and what is known of it."""

    name: str  # its UIDs are made of it
    patient: str
    image: Path
    present: bool | None  # None: the mask decides
    masks: tuple[Path, ...] = ()
    points: tuple[Point, ...] = ()
    annotated: bool = True  # False: nobody says anything, it is for prediction alone
    treated: int = 0  # value of a mask for treated aneurysms; 0: there is none
    may_be_part: bool = False  # masks may cover a part of the image's grid
    age: str = ""  # years
    sex: str = ""  # Male or Female
    is_pseudonym: bool = True  # `patient` may be written into files
    problem: str = ""  # why it cannot be imported


@dataclass(frozen=True)
class LeftOut:
    """A scan that is neither positive nor negative, and why."""

    name: str
    reason: str


Found = Iterator[Scan | LeftOut]


def volumes(root: Path, pattern: str) -> list[Path]:
    """Return the NIfTI files below a folder by name, links to nothing among them.

    pattern: without the suffix
    """
    found = []
    for suffix in SUFFIXES:
        found += root.glob(pattern + suffix)
    return sorted(path for path in found if not path.name.startswith("."))


def stem_below(path: Path, root: Path) -> str:
    """Return the path of a file below a folder without .nii or .nii.gz: unlike all others there."""
    return (path.relative_to(root).parent / stem(path)).as_posix()


def stem(path: Path | str) -> str:
    """Return the name of a file without .nii or .nii.gz."""
    return Path(path).name.removesuffix(".gz").removesuffix(".nii")

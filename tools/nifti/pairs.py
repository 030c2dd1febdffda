"""Images and masks of one's own: images/, masks/, scans.csv, points.csv.

A mask has the name of its image. Both tables can be left out.
"""

import math
from pathlib import Path

import pandas as pd

from src.artifacts.csv_cells import read_cells
from src.artifacts.paths import ArtifactError
from src.text import printable
from tools.nifti.scans import Found, LeftOut, Point, Scan, stem, volumes

PRESENT = {"": None, "0": False, "1": True}
SEXES = {"m": "Male", "male": "Male", "f": "Female", "female": "Female"}
OLDEST = 150  # years


def pairs(root: Path) -> Found:
    """Yield the scans of a folder; those of which nobody says anything are left out."""
    images = {}
    for path in volumes(root / "images", "*"):
        images.setdefault(stem(path), path)
    known, points = _known(root / "scans.csv"), _points(root / "points.csv")
    for name in sorted(images.keys() | known.keys() | points.keys()):
        said = known.get(name, {})
        masks = tuple(volumes(root / "masks", _literal(name)))
        present = said.get("present")
        scan = Scan(
            name=name,
            patient=said.get("patient") or name,
            is_pseudonym=False,
            image=images.get(name, root / "images" / f"{name}.nii.gz"),
            present=True if points.get(name) and present is None else present,
            masks=masks[:1],
            points=tuple(points.get(name, ())),
            age=said.get("age", ""),
            sex=said.get("sex", ""),
            problem=f"masks/ has two masks of {name}: delete one" if len(masks) > 1 else "",
        )
        if scan.present is None and not masks:
            yield LeftOut(name, "not annotated: no mask, no point, and `present` is empty")
        else:
            yield scan


def _literal(name: str) -> str:
    """Return a name as a pattern that matches only itself."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _known(path: Path) -> dict[str, dict]:
    """Return {name of an image: what its row of scans.csv says}."""
    if not path.exists():
        return {}
    table = read_cells(path, ("image",))
    known = {}
    for line, row in table.iterrows():
        name = stem(row["image"])
        if name in known:
            raise ArtifactError(f"{path}, line {line} names an image again: delete one line")
        known[name] = {
            "patient": row.get("patient", ""),
            "present": _present(path, line, row),
            "age": _age(path, line, row),
            "sex": SEXES.get(row.get("sex", "").lower(), ""),
        }
    return known


def _present(path: Path, line: int, row: pd.Series) -> bool | None:
    cell = row.get("present", "").removesuffix(".0")
    if cell not in PRESENT:
        shown = printable(cell, 40)
        raise ArtifactError(f"{path}, line {line}: present is '{shown}', not 0, 1 or empty")
    return PRESENT[cell]


def _age(path: Path, line: int, row: pd.Series) -> str:
    cell = row.get("age", "").removesuffix(".0")
    if cell and not (cell.isascii() and cell.isdigit() and int(cell) <= OLDEST):
        raise ArtifactError(f"{path}, line {line}: age is no whole number of years, correct it")
    return cell


def _points(path: Path) -> dict[str, list[Point]]:
    """Return {name of an image: its points} of points.csv."""
    if not path.exists():
        return {}
    points: dict[str, list[Point]] = {}
    for line, row in read_cells(path, ("image", "i", "j", "k")).iterrows():
        i, j, k = (_number(path, line, row[name]) for name in "ijk")
        radius = row.get("radius_mm", "")
        point = (i, j, k, _number(path, line, radius) if radius else None)
        points.setdefault(stem(row["image"]), []).append(point)
    return points


def _number(path: Path, line: int, cell: str) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ArtifactError(
            f"{path}, line {line}: '{printable(cell, 40)}' is no number, correct it"
        )
    return number

"""The grid of a NIfTI volume: which voxel is where in the patient. Reads headers only.

Arrays are turned, without resampling, so that their axes run nearest to the patient's left, back
and head, as DICOM's columns, rows and axial slices do.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.dicom.header import MAX_PIXELS, MAX_SIDE
from tools.nifti.errors import damaged, nibabel, require

SUFFIXES = (".nii", ".nii.gz")
AXES = "LPS"  # of DICOM's patient coordinates
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
VOXELS = (0.05, 20)  # mm, the sides of a voxel; others are mistakes, or no mm
FARTHEST = 1e4  # mm from the scanner's centre
SAME_GRID = 0.1  # voxels, that a corner of one grid may be away from the other's
SHEAR = 0.02  # voxels, that a corner may move when the axes are made perpendicular
DISAGREE = 0.5  # voxels, that a corner may be away by qform and by sform


@dataclass(frozen=True)
class Grid:
    """A volume of shape (columns, rows, slices) after turning."""

    shape: tuple[int, int, int]
    affine: np.ndarray  # (4, 4) turned voxel -> mm to the patient's left, back and head
    turn: np.ndarray  # (3, 2) how nibabel turns the stored array
    stored_shape: tuple[int, int, int]

    @property
    def spacing(self) -> np.ndarray:
        """(3,) mm between columns, rows, slices."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def directions(self) -> np.ndarray:
        """(3, 3) the perpendicular unit vectors nearest to the axes, one a column."""
        left, _, right = np.linalg.svd(self.affine[:3, :3] / self.spacing)
        return left @ right

    def turned(self, stored: np.ndarray) -> np.ndarray:
        """Return a stored array as columns, rows, slices."""
        return nibabel().orientations.apply_orientation(stored, self.turn)

    def turned_point(self, stored: tuple[float, float, float]) -> np.ndarray:
        """Return column, row, slice (3,) of a voxel i, j, k of the file."""
        back = nibabel().orientations.inv_ornt_aff(self.turn, self.stored_shape)
        return (np.linalg.inv(back) @ [*stored, 1])[:3]


def open_volume(path: Path) -> tuple[Any, Grid]:
    """Return a nibabel image whose voxels are not read yet, and its grid.

    Raise NiftiError for what is not one volume in mm with perpendicular axes.
    """
    nib = nibabel()
    here = path.exists() or not path.is_symlink()
    advice = "fetch its content, with datalad get for example"
    require(here, "not_downloaded", f"{path.name} is a link to nothing: {advice}")
    require(path.is_file(), "missing", f"{path.name} is missing")
    require(path.stat().st_size > 0, "damaged", f"{path.name} is empty: fetch the file again")
    with damaged(path, "header"), nib.imageglobals.LoggingOutputSuppressor():
        image = nib.load(path, mmap=False)  # a map of a file that shrinks ends the process
        shape = tuple(int(side) for side in image.shape)
    _check_array(path, shape, image.get_data_dtype())
    voxels = image.dataobj
    size = voxels.offset + math.prod(shape) * voxels.dtype.itemsize
    whole = path.suffix == ".gz" or path.stat().st_size >= size
    advice = "fetch the file again"
    require(whole, "damaged", f"{path.name} ends before its last voxel: {advice}")
    return image, _grid(path, image, shape[:3])


def _check_array(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    sizes = " x ".join(map(str, shape))
    is_one = len(shape) >= 3 and all(side == 1 for side in shape[3:])
    advice = "save one volume of it in a file of its own"
    require(is_one, "not_3d", f"{path.name} has {sizes} voxels, which is not one volume: {advice}")
    small, large = min(shape[:3]), max(shape[:3])
    require(small > 1, "not_3d", f"{path.name} has {sizes} voxels, which is no volume")
    fits = large <= MAX_SIDE and math.prod(shape) <= MAX_PIXELS
    require(fits, "too_large", f"{path.name} has {sizes} voxels, more than a head needs")
    is_number = dtype.kind in "iuf" and dtype.itemsize <= 8
    advice = "save it in shades of grey"
    require(is_number, "not_grey", f"{path.name} holds colours or complex numbers: {advice}")


def _grid(path: Path, image: Any, shape: tuple[int, int, int]) -> Grid:
    nib = nibabel()
    affine = _affine(path, image.header, shape)
    target = nib.orientations.axcodes2ornt(AXES)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), target)
    turned = RAS_TO_LPS @ affine @ nib.orientations.inv_ornt_aff(turn, shape)
    lengths = tuple(shape[int(axis)] for axis in np.argsort(turn[:, 0]))
    grid = Grid(lengths, turned, turn, shape)
    moved = _corners_apart(turned, dicom_affine(grid), grid.shape)
    advice = "resample it onto a grid with perpendicular axes"
    require(moved <= SHEAR, "sheared", f"{path.name}: its axes are not perpendicular: {advice}")
    return grid


def _affine(path: Path, header: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the affine (4, 4) of the sform, else of the qform: voxel -> mm right, front, head."""
    with damaged(path, "orientation"):
        sform, sform_code = header.get_sform(coded=True)
        qform, qform_code = header.get_qform(coded=True)
        unit = header.get_xyzt_units()[0]
    known = bool(sform_code or qform_code)
    advice = "its qform_code and sform_code are 0, so set one of them"
    require(known, "no_orientation", f"{path.name} does not say where left is: {advice}")
    in_mm = unit in ("mm", "unknown")
    require(in_mm, "not_mm", f"{path.name} is measured in {unit}, not in mm: convert its header")
    forms = [form for form, code in ((sform, sform_code), (qform, qform_code)) if code]
    for form in forms:
        _check_form(path, form)
    if len(forms) == 2:
        apart = _corners_apart(forms[1], forms[0], shape)
        differ = f"its qform and sform differ by {apart:.1f} voxels"
        advice = "set the code of the wrong one to 0"
        require(apart <= DISAGREE, "disagree", f"{path.name}: {differ}, {advice}")
    return forms[0]


def _check_form(path: Path, form: np.ndarray) -> None:
    finite = bool(np.isfinite(form).all())
    require(finite, "bad_affine", f"{path.name}: its affine holds numbers that are not finite")
    sides = np.linalg.norm(form[:3, :3], axis=0)
    flat = bool((sides == 0).any()) or abs(np.linalg.det(form[:3, :3] / sides)) < 1e-3
    require(not flat, "bad_affine", f"{path.name}: its affine leaves no room for a volume")
    listed = " x ".join(f"{side:.4g}" for side in sides)
    near = bool(np.abs(form[:3, 3]).max() < FARTHEST)
    require(near, "bad_affine", f"{path.name}: its affine puts it over {FARTHEST:g} mm away")
    fits = bool((sides >= VOXELS[0]).all() and (sides <= VOXELS[1]).all())
    advice = "correct its affine"
    require(fits, "bad_spacing", f"{path.name}: voxels of {listed} mm are none of a head, {advice}")


def dicom_affine(grid: Grid) -> np.ndarray:
    """Return the affine (4, 4) with exactly perpendicular axes, as DICOM needs them.

    The middle of the volume stays in place.
    """
    affine = np.eye(4)
    affine[:3, :3] = grid.directions * grid.spacing
    middle = (np.array(grid.shape) - 1) / 2
    affine[:3, 3] = grid.affine[:3, 3] + (grid.affine[:3, :3] - affine[:3, :3]) @ middle
    return affine


def offset_in(image: Grid, mask: Grid) -> tuple[int, int, int] | None:
    """Return the voxel of `image` where `mask` begins, or None if it is no part of that grid."""
    begin = np.linalg.inv(image.affine) @ mask.affine[:, 3]
    if not np.isfinite(begin).all() or np.abs(begin).max() > MAX_SIDE:
        return None
    first = np.rint(begin[:3]).astype(int)
    shifted = image.affine.copy()
    shifted[:3, 3] += image.affine[:3, :3] @ first
    inside = (first >= 0).all() and (first + mask.shape <= image.shape).all()
    if not inside or _corners_apart(mask.affine, shifted, mask.shape) > SAME_GRID:
        return None
    return tuple(first.tolist())


def _corners_apart(one: np.ndarray, other: np.ndarray, shape: tuple[int, int, int]) -> float:
    """Return how many voxels of `other` the corners of a volume are apart by two affines."""
    last = np.array(shape) - 1
    corners = np.stack(np.meshgrid(*([0, end] for end in last), indexing="ij"), -1).reshape(-1, 3)
    corners = np.column_stack([corners, np.ones(len(corners))])  # (8, 4)
    there = corners @ (np.linalg.inv(other) @ one).T
    return float(np.abs(there - corners).max())

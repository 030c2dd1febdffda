"""Files that are no angiography or no mask of it: refused by name, in one sentence."""

import gzip
import os
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.nifti_files import SHAPE, affine, ball, imported, job, picture, refused, save
from tools.nifti.job import check_scan

RAS = affine()
PIXDIM, SFORM, QFORM_CODE, SCALE, UNITS = 76, 280, 252, 112, 123  # bytes of a NIfTI-1 header


def patch(path: Path, offset: int, layout: str, *values) -> Path:
    content = bytearray(path.read_bytes())
    struct.pack_into(layout, content, offset, *values)
    path.write_bytes(content)
    return path


def sheared(by: float) -> np.ndarray:
    to_ras = RAS.copy()
    to_ras[0, 1] += by
    return to_ras


def image_4d(path):
    return save(path, picture((*SHAPE[:2], 4, 3)), RAS)


def image_2d(path):
    return save(path, picture(SHAPE[:2]), RAS)


def one_slice(path):
    return save(path, picture((*SHAPE[:2], 1)), RAS)


def with_nan(path):
    array = picture().astype(np.float32)
    array[3, 4, 5] = np.nan
    return save(path, array, RAS)


def with_infinity(path):
    array = picture().astype(np.float64)
    array[0, 0, 0] = np.inf
    return save(path, array, RAS)


def complex_numbers(path):
    return save(path, picture().astype(np.complex64), RAS)


def colours(path):
    rgb = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    return save(path, rgb, RAS)


def sheared_axes(path):
    return save(path, picture(), sheared(0.05), codes=(1, 0))


def gantry_tilt(path):
    to_ras = RAS.copy()
    to_ras[1, 2] = 0.2
    return save(path, picture(), to_ras, codes=(1, 0))


def forms_disagree(path):
    image = nib.Nifti1Image(picture(), RAS)
    image.set_sform(RAS, 1)
    image.set_qform(affine("LAS"), 1)
    nib.save(image, path)
    return path


def no_codes(path):
    return save(path, picture(), RAS, codes=(0, 0))


def affine_not_finite(path):
    return patch(save(path, picture(), RAS), SFORM, "<f", np.nan)


def affine_of_rank_two(path):
    flat = RAS.copy()
    flat[:3, 2] = flat[:3, 1]
    return save(path, picture(), flat, codes=(1, 0))


def affine_of_zeros(path):
    return patch(save(path, picture(), RAS, codes=(1, 0)), SFORM, "<12f", *[0.0] * 12)


def spacing_in_metres(path):
    return save(path, picture(), affine(spacing=(5e-4, 6e-4, 8e-4)))


def unit_is_micron(path):
    return patch(save(path, picture(), RAS), UNITS, "B", 3)


def slope_not_finite(path):
    return patch(save(path, picture(), RAS), SCALE, "<2f", 2.0, np.inf)


def cut_short(path):
    save(path, picture(), RAS)
    path.write_bytes(path.read_bytes()[:-10])
    return path


def only_a_header(path):
    save(path, picture(), RAS)
    path.write_bytes(path.read_bytes()[:200])
    return path


def not_nifti(path):
    path.write_text("<html>" * 1000)
    return path


def empty(path):
    path.touch()
    return path


def folder(path):
    path.mkdir()
    return path


def link_to_nothing(path):
    path.symlink_to("../.git/annex/objects/x.nii")
    return path


def too_large(path):
    return patch(save(path, picture(), RAS), 40, "<8h", 3, 30000, 30000, 30000, 1, 1, 1, 1)


IMAGES = {
    "not_3d": [image_4d, image_2d, one_slice],
    "not_finite": [with_nan, with_infinity],
    "not_grey": [complex_numbers, colours],
    "sheared": [sheared_axes, gantry_tilt],
    "disagree": [forms_disagree],
    "no_orientation": [no_codes],
    "bad_affine": [affine_not_finite, affine_of_rank_two, affine_of_zeros],
    "bad_spacing": [spacing_in_metres],
    "not_mm": [unit_is_micron],
    "damaged": [slope_not_finite, cut_short, only_a_header, not_nifti, empty],
    "missing": [folder],
    "not_downloaded": [link_to_nothing],
    "too_large": [too_large],
}
CASES = [(reason, make) for reason, makers in IMAGES.items() for make in makers]


@pytest.mark.parametrize("reason, make", CASES)
def test_irregular_images(reason, make, tmp_path):
    task = job(tmp_path / "out", make(tmp_path / "patient.nii"), present=False)
    failure = refused(task)
    assert failure.reason == reason and "patient.nii" in failure.detail
    checked = check_scan(task)
    assert checked == failure if reason != "not_finite" else isinstance(checked, dict)


@pytest.mark.parametrize("reason, make", CASES)
def test_irregular_masks(reason, make, tmp_path):
    image = save(tmp_path / "a.nii", picture(), RAS)
    failure = refused(job(tmp_path / "out", image, make(tmp_path / "mask.nii")))
    assert failure.reason == reason and "mask.nii" in failure.detail


@pytest.mark.parametrize("place", [0.02, 0.3, 0.6, 0.97, "end", "sum"])
def test_a_damaged_gz(place, tmp_path):
    """Cut off, or with one byte changed: Python's gzip finds some of it only at the end."""
    path = save(tmp_path / "a.nii.gz", picture(), RAS)
    content = bytearray(path.read_bytes())
    if place == "end":
        del content[-500:]
    elif place == "sum":
        content[-6] ^= 1
    else:
        content[int(place * len(content))] ^= 0x55
    path.write_bytes(content)
    failure = refused(job(tmp_path / "out", path, present=False))
    assert failure.reason in ("damaged", "not_3d", "too_large")


def test_a_gz_that_is_none_and_a_nii_that_is_one(tmp_path):
    plain = save(tmp_path / "a.nii", picture(), RAS)
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(plain.read_bytes())
    assert refused(job(tmp_path / "out", packed, present=False)).reason == "damaged"
    plain.write_bytes(gzip.compress(plain.read_bytes()))
    assert refused(job(tmp_path / "out", plain, present=False)).reason == "damaged"


def shifted(by: float) -> np.ndarray:
    return RAS @ np.array([[1, 0, 0, by], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


@pytest.mark.parametrize(
    "shape, to_ras",
    [
        (SHAPE, affine(spacing=(0.5, 0.6, 0.9))),
        (SHAPE, affine("LAS")),
        (SHAPE, shifted(0.5)),
        (SHAPE, shifted(3)),
        (SHAPE, affine(turn=(0.1, 0, 0))),
        ((24, 20, 11), RAS),
        ((24, 20, 13), RAS),
        ((20, 24, 12), RAS),
    ],
)
def test_a_mask_on_another_grid(shape, to_ras, tmp_path):
    image = save(tmp_path / "a.nii", picture(), RAS)
    mask = save(tmp_path / "mask.nii", ball(shape), to_ras)
    task = job(tmp_path / "out", image, mask)
    failure = refused(task)
    assert failure.reason == "other_grid" and "mask.nii" in failure.detail
    assert check_scan(task) == failure


@pytest.mark.parametrize(
    "array, reason",
    [
        (ball() * 0.5, "not_a_mask"),
        (ball().astype(np.int16) * -1, "not_a_mask"),
        (picture(), "not_a_mask"),
        (ball() * 0, "empty_mask"),
    ],
)
def test_no_mask_of_lesions(array, reason, tmp_path):
    image = save(tmp_path / "a.nii", picture(), RAS)
    mask = save(tmp_path / "mask.nii", array, RAS)
    failure = refused(job(tmp_path / "out", image, mask, present=True))
    assert failure.reason == reason and "mask.nii" in failure.detail


def test_what_rounding_does_is_no_irregularity(tmp_path):
    """A long axis of length 1 at the end, a little shear, forms that differ in the last digits."""
    to_ras = affine("LAS", turn=(0.2, 0.1, 0))
    to_ras[:3] += np.random.default_rng(0).normal(0, 1e-5, (3, 4))
    image = save(tmp_path / "a.nii", picture()[..., None], to_ras, codes=(1, 0))
    other = to_ras.copy()
    other[:3, 3] += 0.01
    mask = save(tmp_path / "mask.nii", ball()[..., None, None], other)
    assert len(imported(job(tmp_path / "out", image, mask))["localizers"]) == 1


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "a.nii")
    assert refused(job(tmp_path / "out", tmp_path / "a.nii", present=False)).reason == "missing"

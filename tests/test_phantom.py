"""Anatomy and rendering of the synthetic heads (tools/phantom/)."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from src.labels import MIRROR, MODALITIES, PRESENT
from tools.phantom.anatomy import Tube, sample_anatomy, sample_aneurysm
from tools.phantom.render import CTA, MRA, T1POST, T2, Grid, Pose, draw_tubes, render_head

STILL = Pose(np.eye(3), np.zeros(3))
AXIAL = np.array([[0, 0, 1.0], [0, 1, 0], [1, 0, 0]])


def centred_grid(shape=(24, 80, 96), spacing=(3.0, 1.2, 1.2), centre=(0, -2, -2)):
    origin = np.array(centre) - (np.array(shape) - 1) * spacing / 2 @ AXIAL
    return Grid(shape, spacing, origin, AXIAL)


def mirrored(tube):
    return replace(tube, points=tube.points * (-1, 1, 1))


@cache
def head(seed):
    return sample_anatomy(np.random.default_rng(seed))


def aneurysm_of(label, seed=0, anatomy_seed=0):
    return head(anatomy_seed), sample_aneurysm(
        np.random.default_rng(seed), head(anatomy_seed), label
    )


def test_the_mean_head_is_its_own_mirror_image_with_labels_swapped():
    anatomy, grid = sample_anatomy(np.random.default_rng(0), variability=0), centred_grid()
    vessels = draw_tubes(anatomy.arteries, grid, STILL)
    assert vessels.max() == 1
    np.testing.assert_allclose(vessels[:, :, ::-1], vessels, atol=1e-4)
    for site in anatomy.sites:
        twins = [
            s
            for s in anatomy.sites
            if s.label == MIRROR[site.label]
            and np.allclose(s.point * (-1, 1, 1), site.point, atol=1e-6)
        ]
        assert (
            any(np.allclose(s.direction * (-1, 1, 1), site.direction) for s in twins)
            or abs(site.point[0]) < 1e-6
        )


@pytest.mark.parametrize("label", range(PRESENT))
def test_a_mirrored_aneurysm_is_drawn_on_the_other_side(label):
    grid = centred_grid()
    _, aneurysm = aneurysm_of(label)
    here = draw_tubes(aneurysm.tubes, grid, STILL)
    there = draw_tubes(tuple(mirrored(tube) for tube in aneurysm.tubes), grid, STILL)
    assert here.sum() > 10
    np.testing.assert_allclose(there, here[:, :, ::-1], atol=1e-4)
    if MIRROR[label] != label:
        assert (aneurysm.centre[0] > 0) == (label in (0, 2, 4, 7, 9))


@pytest.mark.parametrize("label", range(PRESENT))
def test_the_dome_stands_on_an_artery_and_bulges_out_of_it(label):
    for seed in range(20):
        anatomy, aneurysm = aneurysm_of(label, seed, seed % 5)
        courses = np.concatenate([tube.points for tube in anatomy.arteries])
        nearest = np.linalg.norm(courses - aneurysm.centre, axis=1).min()
        assert nearest < aneurysm.radius + 2.5
        host = min(
            (s for s in anatomy.sites if s.label == label),
            key=lambda s: np.linalg.norm(s.point - aneurysm.centre),
        )
        assert np.linalg.norm(host.point - aneurysm.centre) + aneurysm.radius > host.radius + 1
        assert aneurysm.radius >= host.radius * 1.3


def test_sizes_are_those_of_unruptured_aneurysms():
    anatomy = head(0)
    diameters = [
        2 * sample_aneurysm(np.random.default_rng([k, 7]), anatomy, k % PRESENT).radius
        for k in range(600)
    ]
    assert 5.5 < np.median(diameters) < 7
    assert min(diameters) >= 3
    assert max(diameters) <= 15
    assert np.mean(np.array(diameters) > 10) < 0.15


def test_heads_differ_and_depend_on_the_generator_alone():
    first, again, other = (sample_anatomy(np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.arteries[0].points, again.arteries[0].points)
    assert np.abs(first.arteries[0].points[:5] - other.arteries[0].points[:5]).max() > 0.5
    missing = [
        8 - sum(tube.name.endswith(("PCom", "A1", "VA", "M1")) for tube in head(k).arteries)
        for k in range(40)
    ]
    assert (
        0.3 < np.mean(missing) < 0.8
    )  # of 8; a posterior communicating artery is absent on a quarter of the sides


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.8, 0.8), (0.7, 1.3, 1.3)])
def test_a_drawn_sphere_has_its_volume_whatever_the_voxels(spacing):
    shape = tuple(round(30 / s) for s in spacing)
    grid = centred_grid(shape, spacing, (0, 0, 0))
    ball = Tube("ball", np.array([[0.3, -0.4, 0.2]] * 2), np.full(2, 5.0))
    volume = draw_tubes((ball,), grid, STILL).sum() * np.prod(spacing)
    assert volume == pytest.approx(4 / 3 * np.pi * 5**3, rel=0.06)


def test_a_vessel_thinner_than_a_voxel_fills_a_part_of_it():
    line = Tube("line", np.array([[-20.0, 0, 0], [20, 0, 0]]), np.full(2, 0.3))
    assert 0 < draw_tubes((line,), centred_grid(), STILL).max() < 0.6


def test_what_lies_outside_the_picture_is_not_drawn():
    far = Tube("far", np.array([[500.0, 0, 0], [520, 0, 0]]), np.full(2, 3.0))
    assert not draw_tubes((far,), centred_grid(), STILL).any()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-180, 180), min_size=3, max_size=3),
    st.lists(st.floats(-300, 300), min_size=3, max_size=3),
)
def test_grid_and_pose_go_there_and_back(angles, shift):
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    points = np.random.default_rng(0).normal(0, 40, (5, 3))
    pose = Pose(rotation, np.array(shift))
    np.testing.assert_allclose(pose.to_head(pose.to_patient(points)), points, atol=1e-8)
    grid = Grid((5, 6, 7), (3.0, 1.0, 2.0), np.array(shift), rotation)
    np.testing.assert_allclose(grid.to_patient(grid.to_index(points)), points, atol=1e-8)


@pytest.mark.parametrize("modality", MODALITIES)
def test_an_aneurysm_changes_the_picture_near_it_alone_and_has_the_lumen_s_contrast(modality):
    grid = centred_grid()
    anatomy, aneurysm = aneurysm_of(6)
    pictures = [
        render_head(np.random.default_rng(3), anatomy, found, grid, STILL, modality)
        for found in ([aneurysm], [])
    ]
    changed = np.argwhere(pictures[0] != pictures[1])
    away = np.linalg.norm((changed - grid.to_index(aneurysm.centre[None])) * grid.spacing, axis=1)
    assert 20 < len(changed) < 3000
    assert away.max() < 2 * aneurysm.radius + 8
    at = tuple(np.rint(grid.to_index(aneurysm.centre[None])[0]).astype(int))
    assert pictures[0][at] > 200 if modality != T2 else pictures[0][at] < 100
    background = np.median(pictures[1][at[0]])
    assert (
        pictures[0][at] > background + 100
        if modality in (CTA, MRA, T1POST)
        else pictures[0][at] < background - 60
    )


def test_ct_holds_air_bone_and_brain_in_hu():
    picture = render_head(np.random.default_rng(3), head(0), [], centred_grid(), STILL, CTA)
    assert picture.min() < -950
    assert 900 < picture.max() < 1600
    assert 10 < np.median(picture[-4:]) < 60


def test_mr_is_never_negative():
    picture = render_head(np.random.default_rng(3), head(0), [], centred_grid(), STILL, MRA)
    assert picture.min() >= 0

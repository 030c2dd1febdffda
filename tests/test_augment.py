from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import default_collate

import train_stage1
from src.sampling.augment import crops, draw, warp

SIZE, CROP = 64, 56
PUBLISHED = train_stage1.augmentation_of(train_stage1.Config())
STILL = replace(PUBLISHED, mirror=0, affine=0, occlude=0, brightness=0)


def images(count=4, seed=0):
    smooth = np.random.default_rng(seed).random((count, 3, SIZE, SIZE), np.float32)
    return torch.from_numpy(
        np.stack(
            [[cv2.GaussianBlur(channel, (0, 0), 3) * 5 for channel in sample] for sample in smooth]
        )
    )


def collate(draws):
    return default_collate([vars(drawn) for drawn in draws])


def draws_of(augmentation, count=4, seed=0, mirrorable=True):
    return [
        draw(augmentation, np.random.default_rng([seed, k]), SIZE, CROP, mirrorable)
        for k in range(count)
    ]


def test_batched_affine_equals_cv2_sample_by_sample():
    batch, draws = images(), draws_of(replace(STILL, mirror=0.5, affine=1))
    warped = warp(batch, collate(draws)).numpy()
    for sample, out, drawn in zip(batch.numpy(), warped, draws, strict=True):
        for channel, result in zip(sample, out, strict=True):
            least = channel.min()
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            expected = (
                cv2.warpAffine(
                    channel - least,
                    drawn.matrix.astype(np.float64),
                    (CROP, CROP),
                    flags=flags,
                    borderValue=0,
                )
                + least
            )
            np.testing.assert_allclose(result, expected, atol=0.02)


def test_distortion_equals_cv2_remap():
    batch, draws = images(30), draws_of(replace(STILL, occlude=1), 30)
    distorted = [
        k for k, drawn in enumerate(draws) if not np.array_equal(drawn.columns, np.arange(CROP))
    ]
    assert distorted
    warped = warp(batch, collate(draws)).numpy()
    for k in distorted:
        x, y = np.meshgrid(draws[k].columns, draws[k].rows)
        corner = draws[k].matrix[:, 2]
        expected = cv2.remap(batch[k, 1].numpy(), x + corner[0], y + corner[1], cv2.INTER_LINEAR)
        np.testing.assert_allclose(warped[k, 1], expected, atol=0.02)


def test_holes_hide_a_share_of_the_picture_and_show_background():
    batch = images(200) + 1
    batch[:, :, 0, 0] = 0.25  # the background of each sample
    draws = draws_of(replace(STILL, occlude=1), 200)
    warped = warp(batch, collate(draws)).numpy()
    shares = np.array([(sample == 0.25).all(axis=0).mean() for sample in warped])
    holes = np.array([drawn.hole_rows.any() for drawn in draws])
    assert (shares[~holes] < 0.01).all()
    grids = np.array(
        [drawn.hole_rows[0].any() and not drawn.hole_rows[1:].any() for drawn in draws]
    )
    assert grids.sum() > 30
    assert shares[grids].mean() == pytest.approx(0.4**2, abs=0.03)
    boxes = holes & ~grids
    assert boxes.sum() > 30
    assert 0.1 < shares[boxes].mean() < 0.6


def test_no_draw_is_a_plain_crop():
    batch = images()
    drawn = draws_of(STILL)
    corners = [np.rint(d.matrix[:, 2]).astype(int) for d in drawn]
    warped = warp(batch, collate(drawn))
    for sample, out, (x, y) in zip(batch, warped, corners, strict=True):
        torch.testing.assert_close(out, sample[:, y : y + CROP, x : x + CROP], atol=1e-4, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_points_go_where_the_picture_goes(seed):
    drawn = draw(
        replace(PUBLISHED, affine=1, occlude=1, quarter_turns=True, brightness=0),
        np.random.default_rng(seed),
        SIZE,
        CROP,
        True,
    )
    point = np.random.default_rng(seed).uniform(22, 42, (1, 2))
    y, x = np.mgrid[:SIZE, :SIZE]
    blob = np.exp(-((x - point[0, 0]) ** 2 + (y - point[0, 1]) ** 2) / 1.5).astype(np.float32)
    draws = collate([drawn])
    draws["hole_rows"] = torch.zeros_like(draws["hole_rows"])
    out = warp(torch.from_numpy(blob).expand(1, 3, -1, -1), draws)[0, 0].numpy()
    y, x = np.mgrid[:CROP, :CROP]
    centre = [(out * x).sum() / out.sum(), (out * y).sum() / out.sum()]
    np.testing.assert_allclose(drawn.move(point)[0], centre, atol=0.5)


def test_mirror_twice_is_identity_and_only_where_left_and_right_lie_along_x():
    certain = replace(STILL, mirror=1)
    drawn = draw(certain, np.random.default_rng(0), SIZE, SIZE, True)
    assert drawn.mirrored
    batch = images(1)
    once = warp(batch, collate([drawn]))
    torch.testing.assert_close(once, batch.flip(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(warp(once, collate([drawn])), batch, atol=1e-4, rtol=0)
    assert not draw(certain, np.random.default_rng(0), SIZE, SIZE, False).mirrored


def test_quarter_turns_are_exact():
    turning = replace(STILL, quarter_turns=True)
    batch, seen = images(1), set()
    for seed in range(40):
        drawn = draw(turning, np.random.default_rng(seed), SIZE, SIZE, True)
        out = warp(batch, collate([drawn]))
        seen |= {k for k in range(4) if torch.allclose(out, batch.rot90(k, (-2, -1)), atol=1e-3)}
    assert seen == {0, 1, 2, 3}


def test_without_draws_the_batch_is_cropped_at_its_centre():
    batch = images()
    torch.testing.assert_close(
        crops({"images": batch.half()}, CROP), batch.half().float()[..., 4:60, 4:60]
    )


def test_each_piece_happens_as_often_as_it_should():
    settings, generator = PUBLISHED, np.random.default_rng(0)
    drawn = [draw(settings, generator, SIZE, CROP, mirrorable=True) for _ in range(400)]
    assert np.mean([sample_draw.mirrored for sample_draw in drawn]) == pytest.approx(
        settings.mirror, abs=0.08
    )
    changes = np.array([sample_draw.brightness for sample_draw in drawn])
    assert changes.min() == pytest.approx(
        -settings.brightness, abs=1e-3
    ) and changes.max() == pytest.approx(settings.brightness, abs=1e-3)
    turned = [sample_draw.matrix[0, 1] != 0 for sample_draw in drawn]
    assert np.mean(turned) == pytest.approx(settings.affine, abs=0.08)
    occluded = [
        sample_draw.hole_columns.any() or not np.array_equal(sample_draw.columns, np.arange(CROP))
        for sample_draw in drawn
    ]
    assert np.mean(occluded) == pytest.approx(settings.occlude, abs=0.08)


def test_brightness_is_added_to_the_whole_sample():
    batch, drawn = images(), draws_of(replace(STILL, brightness=0.5))
    still = [replace(sample_draw, brightness=np.float32(0)) for sample_draw in drawn]
    difference = warp(batch, collate(drawn)) - warp(batch, collate(still))
    for k, sample_draw in enumerate(drawn):
        torch.testing.assert_close(
            difference[k],
            torch.full_like(difference[k], float(sample_draw.brightness)),
            atol=1e-5,
            rtol=0,
        )

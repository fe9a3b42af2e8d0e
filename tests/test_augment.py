"""Augmentation: geometry as one homography for each frame, colours as one matrix for each clip."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hodor.data.augment import (
    OUTSIDE,
    PLAIN,
    Augment,
    Colour,
    Matrix,
    Move,
    affine,
    coloured,
    homography,
    mirror,
    perspective,
    place,
    points_of,
    show,
    shown,
    tint,
    together,
    vary,
    warped,
    window,
)
from hodor.data.sampling import generator

SIZE = (48, 64)


def noise(seed: int = 0, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.randint(0, 256, (3, *size), generator=generator(seed), dtype=torch.uint8)


def blob(top: int, left: int, height: int, width: int, size: tuple[int, int] = SIZE) -> torch.Tensor:
    plane = torch.zeros(1, *size, dtype=torch.bool)
    plane[0, top : top + height, left : left + width] = True
    return plane


def led(matrix: Matrix, x: float, y: float) -> tuple[float, float]:
    u, v, w = matrix @ (x, y, 1.0)
    return u / w, v / w


@pytest.mark.parametrize(("rows", "columns"), [(3, -5), (-7, 0), (0, 9), (20, 20), (-47, 3), (0, 0)])
def test_a_translation_moves_image_mask_void_and_validity_pixel_by_pixel(rows: int, columns: int) -> None:
    image, plane, void = noise(), blob(10, 20, 15, 9), blob(30, 30, 6, 30)[0]
    matrix = np.array([[1.0, 0, columns], [0, 1, rows], [0, 0, 1]])
    seen = show(image, plane, void, matrix, SIZE)
    images, inside = torch.zeros(3, *SIZE), torch.zeros(SIZE, dtype=torch.bool)
    planes, valid = torch.zeros(1, *SIZE), torch.zeros(SIZE, dtype=torch.bool)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            if 0 <= y + rows < SIZE[0] and 0 <= x + columns < SIZE[1]:
                images[:, y, x] = image[:, y + rows, x + columns] / 255
                planes[0, y, x] = plane[0, y + rows, x + columns]
                inside[y, x], valid[y, x] = True, not void[y + rows, x + columns]
    assert torch.equal(seen.inside, inside)
    assert torch.equal(seen.valid, valid)
    assert torch.equal(seen.planes, planes)
    torch.testing.assert_close(seen.image * inside, images, atol=1e-3, rtol=0)


def test_a_mirror_is_exact_and_undoes_itself() -> None:
    image, plane = noise(), blob(3, 5, 20, 11)
    seen = show(image, plane, None, mirror(SIZE[1]), SIZE)
    torch.testing.assert_close(seen.image, image.flip(-1) / 255, atol=1e-3, rtol=0)
    assert torch.equal(seen.planes, plane.flip(-1).float())
    assert seen.valid.all()
    assert np.array_equal(mirror(64) @ mirror(64), np.eye(3))


@given(st.lists(st.floats(-15, 15), min_size=8, max_size=8))
def test_a_homography_maps_four_corners_to_their_targets(shifts: list[float]) -> None:
    source = np.array([[0, 0], [100, 0], [100, 80], [0, 80]], np.float64)
    target = source + np.array(shifts).reshape(4, 2)
    matrix = homography(source, target)
    for (x, y), wanted in zip(source, target, strict=True):
        assert led(matrix, x, y) == pytest.approx(tuple(wanted), abs=1e-6)


@settings(max_examples=50)
@given(st.integers(0, 10**6))
def test_a_perspective_shows_a_quadrangle_inside_the_canvas(seed: int) -> None:
    matrix = perspective((0.10, 0.12), SIZE, generator(seed))
    for x, y in ((0, 0), (64, 0), (64, 48), (0, 48)):
        u, v = led(matrix, x, y)
        assert -1e-6 <= abs(u - x) <= 0.4 * 64 + 1e-6
        assert -1e-6 <= abs(v - y) <= 0.4 * 48 + 1e-6
        assert -1e-6 <= u <= 64 + 1e-6
        assert -1e-6 <= v <= 48 + 1e-6
    assert matrix[2, :2].any()
    assert np.allclose(perspective((0.0, 0.0), SIZE, generator(seed)), np.eye(3))


def test_ranges_bound_the_move_in_true_degrees_and_shares() -> None:
    """About the middle of a canvas that is not square: angles of the pixel grid, not of the unit square."""
    turns, zooms, tilts, steps = [], [], [], []
    for seed in range(60):
        back = np.linalg.inv(affine(Move(rotate=30), SIZE, generator(seed)))
        (x, y), (u, v) = (32, 24), led(back, 42, 24)
        assert led(back, x, y) == pytest.approx((x, y))
        assert math.hypot(u - x, v - y) == pytest.approx(10)
        turns.append(math.degrees(math.atan2(v - y, u - x)))
        zooms.append((led(np.linalg.inv(affine(Move(scale=(0.5, 2.0)), SIZE, generator(seed))), 42, 24)[0] - 32) / 10)
        u, v = led(np.linalg.inv(affine(Move(shear=20), SIZE, generator(seed))), 32, 34)
        assert v == pytest.approx(34)
        tilts.append(math.degrees(math.atan2(u - 32, 10)))
        u, v = led(np.linalg.inv(affine(Move(translate=0.25), SIZE, generator(seed))), 0, 0)
        steps.append((u / 64, v / 48))
    assert 25 < max(turns) <= 30
    assert -30 <= min(turns) < -25
    assert 1.7 < max(zooms) <= 2
    assert 0.5 <= min(zooms) < 0.6
    assert 17 < max(tilts) <= 20
    assert -20 <= min(tilts) < -17
    for axis in zip(*steps, strict=True):
        assert 0.2 < max(axis) <= 0.25
        assert -0.25 <= min(axis) < -0.2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_image_and_mask_move_together_in_every_frame(seed: int) -> None:
    plane = blob(16, 20, 14, 18)
    image = (plane * 255).to(torch.uint8).expand(3, -1, -1)
    rng = generator(seed)
    base = place(SIZE, SIZE, points_of(plane), 0.5, rng)
    for matrix in warped(3, base, SIZE, points_of(plane), Augment(), rng):
        seen = show(image, plane, None, matrix, SIZE)
        assert torch.equal((seen.image[0] > 0.5) & seen.inside, seen.planes[0] > 0)


def test_an_enlarged_corner_of_an_object_does_not_count_as_more_than_it_is() -> None:
    """A window that shows a quarter of the object at twice its size covers as many pixels as the whole did."""
    plane = blob(0, 0, 24, 32)
    matrix = window(16, 12, 0.5)
    seen = show(noise(), plane, None, matrix, SIZE)
    assert float(seen.planes.sum()) == plane.sum()
    assert shown(matrix, points_of(plane)[0], SIZE) == pytest.approx(0.25, abs=0.02)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(0, 56), st.sampled_from(["warp", "video", "shake"]))
def test_frame_0_keeps_half_of_every_object_whatever_is_drawn(seed: int, top: int, left: int, how: str) -> None:
    planes = torch.cat([blob(top, left, 8, 8), blob(20, 30, 9, 5)])
    rng, ranges = generator(seed), Augment(basic=0.0, shake=1.0 if how == "shake" else 0.0)
    base = place(SIZE, SIZE, points_of(planes), ranges.keep, rng)
    move = warped if how == "warp" else together
    first = move(3, base, SIZE, points_of(planes), ranges, rng)[0]
    assert all(shown(first, points, SIZE) >= 0.5 for points in points_of(planes, max_points=10**6))


def test_fancy_frame_0_is_a_window_around_objects_that_reach_far_apart() -> None:
    planes = torch.cat([blob(4, 4, 6, 6), blob(36, 50, 6, 6)])
    cut = 0
    for seed in range(40):
        matrix = warped(2, np.eye(3), SIZE, points_of(planes), Augment(basic=0.0), generator(seed))[0]
        cut += not np.array_equal(matrix, np.eye(3))
        assert matrix[0, 0] == matrix[1, 1] <= 1
        assert all(shown(matrix, p, SIZE) >= 0.5 for p in points_of(planes))
    assert cut == 40


def test_basic_clips_leave_frame_0_and_move_every_other_frame_on_its_own() -> None:
    sorts = set()
    base = window(3, 2, 1.1)
    for seed in range(40):
        first, *others = warped(3, base, SIZE, [], Augment(basic=1.0), generator(seed))
        assert first is base
        assert not np.allclose(*others)
        for other in others:
            moved = np.linalg.inv(base) @ other
            moved /= moved[2, 2]
            if abs(moved[2, 0]) + abs(moved[2, 1]) > 1e-9:
                sorts.add("perspective")
            elif abs(moved[0, 1]) < 1e-12:
                sorts.add("inset")
                assert 0.5 <= moved[0, 0] <= 0.8  # 10 to 25 % off each side
                assert led(moved, 32, 24) == pytest.approx((32, 24))
            else:
                sorts.add("affine")
    assert sorts == {"perspective", "inset", "affine"}
    only = warped(9, base, SIZE, [], Augment(basic=1.0, kinds=(0, 0, 1)), generator(0))[1:]
    assert all((np.linalg.inv(base) @ m)[0, 1] == pytest.approx(0, abs=1e-12) for m in only)


def test_video_frames_move_alike_unless_shaken() -> None:
    for seed in range(20):
        matrices = together(3, np.eye(3), SIZE, [], Augment(), generator(seed))
        assert all(np.array_equal(m, matrices[0]) for m in matrices)
        assert not np.array_equal(matrices[0], np.eye(3))
        shaken = together(3, np.eye(3), SIZE, [], Augment(shake=1.0), generator(seed))
        assert not np.allclose(shaken[1], shaken[2])


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(20, 90), st.integers(20, 90))
def test_a_placed_picture_keeps_its_aspect_and_alike_shapes_fill_the_canvas(seed: int, height: int, width: int) -> None:
    matrix = place((height, width), SIZE, [], 0.5, generator(seed))
    assert matrix[0, 0] == matrix[1, 1]
    assert matrix[0, 1] == matrix[1, 0] == 0
    inside = show(noise(0, (height, width)), None, None, matrix, SIZE).inside
    ratio = (width / height) / (SIZE[1] / SIZE[0])
    if 1 / 1.2 < ratio < 1.2:
        assert inside.all()
    assert inside.any(0).all() or inside.any(1).all()  # it spans the canvas one way at least


def test_a_portrait_is_not_cut_through_its_object() -> None:
    """640 x 200 on 256 x 448, with an object along its whole height."""
    plane = blob(10, 60, 620, 80, (640, 200))
    for seed in range(20):
        matrix = place((640, 200), (256, 448), points_of(plane), 0.9, generator(seed))
        assert shown(matrix, points_of(plane)[0], (256, 448)) >= 0.9


def test_a_picture_made_much_smaller_is_averaged() -> None:
    stripes = torch.zeros(3, 480, 640, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    image = show(stripes, None, None, window(0, 0, 10.0), SIZE).image
    assert float((image - 0.5).abs().max()) < 0.02, "not every tenth column"


@given(st.integers(0, 10**6))
def test_colours_change_by_no_more_than_the_ranges(seed: int) -> None:
    grey = torch.full((3, 1, 1), 0.5)
    bright = coloured(grey, *tint(Colour(0.1, 0, 0, 0), generator(seed))) - grey
    assert float(bright.abs().max()) <= 0.1 + 1e-6
    assert float(bright.std()) < 1e-6
    assert torch.allclose(coloured(grey, *tint(Colour(0, 0.3, 0.3, 0.5), generator(seed))), grey, atol=1e-6)
    ramp = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    spread = coloured(torch.stack([ramp[0]] * 3), *tint(Colour(0, 0.05, 0, 0), generator(seed)))
    assert 0.395 - 1e-6 <= float(spread[0]) <= 0.405 + 1e-6


def test_no_range_changes_no_colour_and_hue_turns_about_grey() -> None:
    image = 0.4 + 0.2 * noise() / 255
    torch.testing.assert_close(coloured(image, *tint(Colour(0, 0, 0, 0), generator(1))), image)
    turned = coloured(image, *tint(Colour(0, 0, 0, 0.5), generator(3)))
    assert not torch.allclose(turned, image, atol=0.02)
    torch.testing.assert_close(turned.mean(0), image.mean(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(turned.std(0), image.std(0), atol=1e-4, rtol=0)
    faded = coloured(image, *tint(Colour(0, 0, 0.9, 0), generator(4)))
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    torch.testing.assert_close((faded * luma).sum(0), (image * luma).sum(0), atol=1e-4, rtol=0)
    assert not torch.allclose(faded, image, atol=0.01)


def test_plain_varies_nothing() -> None:
    clip = tiny.clip(2, 3, SIZE)
    out = vary(clip, PLAIN, generator(0))
    torch.testing.assert_close(out.frames_BTCHW, clip.frames_BTCHW, atol=1e-4, rtol=0)
    assert torch.equal(out.masks_BTNHW, clip.masks_BTNHW)
    assert out.valid_BTHW.all()
    video = vary(clip, PLAIN, generator(0), "video")
    torch.testing.assert_close(video.frames_BTCHW, clip.frames_BTCHW, atol=1e-4, rtol=0)


def test_a_clip_in_hand_is_varied_by_one_colour_and_one_mirror_each_and_the_same_seed_varies_the_same() -> None:
    clip = tiny.clip(2, 3, SIZE)
    clip = replace(
        clip, frames_BTCHW=torch.rand(clip.frames_BTCHW[:, :1].shape, generator=generator(9)).expand(-1, 3, -1, -1, -1)
    )
    strong = replace(PLAIN, colour=Colour(0.1, 0.1, 0.3, 0.2), flip=0.5)
    mirrored = set()
    for seed in range(8):
        one, two = (vary(clip, strong, generator(seed)) for _ in range(2))
        assert all(torch.equal(getattr(two, k), v) for k, v in vars(one).items())
        torch.testing.assert_close(one.frames_BTCHW[:, 0], one.frames_BTCHW[:, 2])
        mirrored |= {bool(torch.equal(m, c.flip(-1))) for m, c in zip(one.masks_BTNHW, clip.masks_BTNHW, strict=True)}
    assert mirrored == {True, False}
    moved = vary(clip, replace(Augment(), basic=1.0), generator(1))
    assert not torch.allclose(moved.frames_BTCHW[:, 1], moved.frames_BTCHW[:, 2], atol=0.1)
    outside = ~moved.valid_BTHW
    assert outside.any()
    assert not (moved.masks_BTNHW.amax(2) * outside).any()
    ground = torch.tensor(OUTSIDE).view(3, 1, 1)
    assert torch.allclose(moved.frames_BTCHW.permute(0, 1, 3, 4, 2)[outside], ground.flatten(), atol=1e-6)


def test_invalid_pixels_stay_invalid_and_move_with_the_image() -> None:
    clip = tiny.clip(1, 2, SIZE)
    clip.valid_BTHW[:, :, :10] = False
    out = vary(clip, replace(PLAIN, flip=1.0), generator(0))
    assert torch.equal(out.valid_BTHW, clip.valid_BTHW)
    moved = vary(clip, replace(PLAIN, affine=Move(translate=0.2)), generator(4))
    assert not torch.equal(moved.valid_BTHW[0, 1], clip.valid_BTHW[0, 1])

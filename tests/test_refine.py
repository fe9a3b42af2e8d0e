"""Refined masks and mattes: exact values of every step, against scipy where it has the same operation."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from job import mask, network, picture, video

from hodor.frames import open_source
from hodor.masks import read_labels
from hodor.outputs.in_time import SmoothedInTime
from hodor.outputs.parts import components, dilate, erode, fill_holes, remove_specks
from hodor.outputs.refine import Refinement, blur, flicker
from hodor.outputs.writers import Result, Writer, read_soft
from hodor.segment import Outputs, Summary, segment

ndimage = pytest.importorskip("scipy.ndimage")


def result(labels: np.ndarray, soft: np.ndarray | None = None, index: int = 0, image: np.ndarray | None = None) -> Result:
    objects = (1, 2)
    planes = np.stack([labels == i for i in objects]).astype(np.float32) if soft is None else soft
    shown = np.zeros((*labels.shape, 3), np.uint8) if image is None else image
    return Result(index, f"{index:05d}", index / 25, shown, labels, objects, planes)


class Kept(Writer):
    def __init__(self) -> None:
        self.results: list[Result] = []

    def write(self, result: Result) -> None:
        self.results.append(result)


@settings(max_examples=150, deadline=None)
@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=24)), st.booleans())
def test_components_are_those_of_scipy(found: np.ndarray, diagonal: bool) -> None:
    wanted, count = ndimage.label(found, np.ones((3, 3)) if diagonal else None)
    parts = components(found, diagonal)
    assert parts.max(initial=0) == count
    pairs = {(int(a), int(b)) for a, b in zip(parts.ravel(), wanted.ravel(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert all((a == 0) == (b == 0) for a, b in pairs)


@settings(max_examples=100, deadline=None)
@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=20)), st.integers(0, 7))
def test_growth_by_a_disc_is_that_of_scipy(plane: np.ndarray, radius: int) -> None:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = x * x + y * y <= radius * radius
    np.testing.assert_array_equal(dilate(plane, radius), ndimage.grey_dilation(plane, footprint=disc, mode="constant"))
    padded = np.pad(plane, radius, mode="edge")
    inner = tuple(slice(radius, radius + n) for n in plane.shape)
    wanted = ndimage.grey_erosion(padded, footprint=disc, mode="constant", cval=255)[inner]
    np.testing.assert_array_equal(erode(plane, radius), wanted)


def test_a_blur_is_a_gaussian_of_half_the_radius() -> None:
    plane = np.random.default_rng(0).integers(0, 256, (30, 40), np.uint8)
    wanted = ndimage.gaussian_filter(plane.astype(np.float64), 3.0, radius=6, mode="nearest")
    np.testing.assert_allclose(blur(plane, 6), wanted, atol=1e-3)


def test_holes_up_to_the_area_are_filled_if_one_object_is_around_them() -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[2:12, 2:28] = 1
    labels[2:12, 15:28] = 2
    labels[5:7, 5:7] = 0  # 4 pixels in object 1
    labels[5:8, 20:23] = 0  # 9 pixels in object 2
    labels[9, 14:16] = 0  # between both
    labels[2:4, 2:4] = 0  # open to the outside
    filled = fill_holes(labels, 4)
    wanted = labels.copy()
    wanted[5:7, 5:7] = 1
    np.testing.assert_array_equal(filled, wanted)
    wanted[5:8, 20:23] = 2
    np.testing.assert_array_equal(fill_holes(labels, 9), wanted)
    np.testing.assert_array_equal(fill_holes(labels, 3), labels)


def test_a_hole_at_the_border_of_the_frame_is_none() -> None:
    labels = np.ones((8, 8), np.uint8)
    labels[0, 3] = labels[4, 4] = 0
    wanted = np.ones((8, 8), np.uint8)
    wanted[0, 3] = 0
    np.testing.assert_array_equal(fill_holes(labels, 5), wanted)


def test_specks_up_to_the_area_take_the_label_around_them_and_the_largest_part_stays() -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[2:12, 2:12] = 1
    labels[5:7, 5:7] = 2  # in object 1
    labels[15:18, 20:23] = 2  # 9 pixels: the largest part of object 2
    labels[15, 2:5] = 1  # in the background
    labels[2, 12] = 2  # between object 1 and the background
    wanted = labels.copy()
    wanted[5:7, 5:7] = 1
    wanted[15, 2:5] = 0
    wanted[2, 12] = 0
    np.testing.assert_array_equal(remove_specks(labels, 9), wanted)
    np.testing.assert_array_equal(remove_specks(labels, 2)[5:7, 5:7], 2)


def test_a_removed_speck_and_a_filled_hole_take_their_soft_values_with_them() -> None:
    labels = np.zeros((40, 60), np.uint8)
    labels[5:35, 5:30] = 1
    labels[15:18, 15:18] = 0
    labels[20:22, 50:52] = 1
    soft = np.stack([blur((labels == i).astype(np.uint8) * np.uint8(255), 2) / 255 for i in (1, 2)])
    assert soft[0, 19, 50] > 0
    assert soft[0, 14, 16] < 0.9
    done = Refinement(fill_holes=9, remove_specks=4).refined(result(labels, soft))
    assert done.soft is not None
    assert not done.soft[0, :, 40:].any()
    assert (done.soft[0, 9:31, 9:26] == 1).all()
    edge = (slice(None), slice(0, 9))
    np.testing.assert_allclose(done.soft[0][edge], soft[0][edge], atol=1 / 500)


@pytest.mark.parametrize("grow", [3, -3])
def test_growth_moves_a_straight_edge_by_that_many_pixels_and_objects_do_not_grow_into_each_other(grow: int) -> None:
    labels = np.zeros((40, 60), np.uint8)
    labels[10:30, 10:30] = 1
    labels[10:30, 30:50] = 2
    done = Refinement(grow=grow).refined(result(labels))
    row = done.labels[20]
    if grow > 0:
        assert row.tolist() == [0] * 7 + [1] * 23 + [2] * 23 + [0] * 7
    else:
        assert row.tolist() == [0] * 13 + [1] * 14 + [0] * 6 + [2] * 14 + [0] * 13
    assert done.soft is not None
    assert done.soft[0, 20].tolist() == [0.0] * (10 - grow) + [1.0] * (20 + 2 * grow) + [0.0] * (30 - grow)


def test_the_pixels_between_two_growing_objects_are_of_the_nearer_one() -> None:
    labels = np.zeros((9, 20), np.uint8)
    labels[:, 4], labels[:, 13] = 2, 1
    assert Refinement(grow=6).refined(result(labels)).labels[4].tolist() == [2] * 9 + [1] * 11


def test_an_object_at_the_border_of_the_frame_does_not_shrink_there() -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[:, 10:] = 1
    assert Refinement(grow=-2).refined(result(labels)).labels[5].tolist() == [0] * 12 + [1] * 8


def test_feathering_makes_a_ramp_of_that_many_pixels_to_either_side_and_leaves_labels() -> None:
    labels = np.zeros((40, 60), np.uint8)
    labels[:, 30:] = 1
    done = Refinement(feather=8).refined(result(labels))
    assert done.soft is not None
    row = done.soft[0, 20]
    np.testing.assert_array_equal(done.labels, labels)
    assert not row[:22].any()
    assert (row[38:] == 1).all()
    assert (np.diff(row[22:38]) > 0).all()
    assert row[29] + row[30] == pytest.approx(1, abs=1 / 200)


def test_smoothing_removes_small_details_and_keeps_straight_edges_and_the_border_between_objects() -> None:
    labels = np.zeros((60, 80), np.uint8)
    labels[10:50, 10:40] = 1
    labels[10:50, 40:70] = 2
    clean = labels.copy()
    labels[30:32, 8:10] = 1  # a bump
    labels[30:32, 38:40] = 2  # a bump of object 2 into object 1
    done = Refinement(smooth=8).refined(result(labels))
    inner = (slice(18, 42), slice(None))
    np.testing.assert_array_equal(done.labels[inner], clean[inner])
    assert done.soft is not None
    steep = done.soft[0, 20, 5:15]
    assert ((steep > 0.02) & (steep < 0.98)).sum() <= 2, "a straight edge stays about one pixel wide"
    y, x = np.mgrid[:60, :80]
    disc = ((x - 40) ** 2 + (y - 30) ** 2 < 20**2).astype(np.uint8)
    area = np.count_nonzero(Refinement(smooth=6).refined(result(disc)).labels)
    assert area == pytest.approx(disc.sum(), rel=0.02)


def test_an_object_that_is_refined_away_is_lost() -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[5:9, 5:9] = 1
    labels[10:20, 0:20] = 2
    assert Refinement(grow=-3).refined(result(labels)).lost == {1}


def test_flicker_is_the_share_that_appears_or_disappears_for_one_frame() -> None:
    still = np.full((10, 10), 255, np.uint8)
    dip = still.copy()
    dip[:2] = 0  # 20 of 100 pixels
    assert flicker([still] * 4) == 0
    assert flicker([still, dip, still]) == pytest.approx(100 * 20 / 80)
    assert flicker([np.roll(np.pad(still, 20), k, 1) for k in range(4)]) == 0, "steady motion is no flicker"


@pytest.mark.parametrize("reach", [1, 2])
def test_flicker_in_a_still_picture_disappears_and_a_moving_object_stays_as_it_is(reach: int) -> None:
    kept, rng = Kept(), np.random.default_rng(0)
    backdrop = rng.integers(0, 256, (40, 80, 3), np.uint8)
    smoother = SmoothedInTime([kept], Refinement(smooth_time=reach))
    true = []
    for i in range(9):
        labels = np.zeros((40, 80), np.uint8)
        labels[5:15, 5:15] = 1
        labels[20:30, 6 * i : 6 * i + 6] = 2  # covers each pixel on one frame only
        image = backdrop.copy()
        image[labels == 2] = (200, 10, 10)
        soft = np.stack([labels == 1, labels == 2]).astype(np.float32)
        true.append(soft.copy())
        if i == 4:
            soft[0, 5:8] = 0
        smoother.write(result(labels, soft, i, image))
    smoother.close()
    assert [r.index for r in kept.results] == list(range(9))
    for r, soft in zip(kept.results, true, strict=True):
        assert r.soft is not None
        np.testing.assert_array_equal(r.soft, soft)
    before, after = smoother.flicker[1]
    assert before == pytest.approx(100 * 30 / (6 * 100 + 70), abs=0.01)
    assert after == 0
    assert smoother.flicker[2][0] == smoother.flicker[2][1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grow": 300}, "expected grow of -200 to 200 pixels, got 300"),
        ({"feather": -1}, "expected feather of 0 to 200 pixels, got -1"),
        ({"fill_holes": -5}, "expected fill_holes of at least 0 pixels, got -5"),
        ({"smooth_time": 50}, "expected smooth_time of 0 to 12 frames, got 50"),
    ],
)
def test_values_out_of_range_are_refused_before_a_run(values: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        Outputs(tmp_path, **values)


OPTIONS: dict[str, Any] = {"grow": 2, "feather": 3, "fill_holes": 30, "remove_specks": 30}


def run(folder: Path, clip: Path, **outputs: Any) -> Summary:
    with open_source(clip) as source:
        return segment(source, {6: mask(6)}, copy.copy(network()), Outputs(folder, **outputs))


def test_a_run_refines_what_it_writes_and_nothing_that_the_tracker_remembers(tmp_path: Path) -> None:
    clip = video(tmp_path / "clip.mp4", 14)
    run(tmp_path / "plain", clip, soft=True, matte=(1,))
    run(tmp_path / "fine", clip, soft=True, matte=(1,), **OPTIONS)
    summary = run(tmp_path / "time", clip, soft=True, matte=(1,), **OPTIONS, smooth_time=2)
    for i in range(14):
        name = f"{i:05d}"
        labels = read_labels(tmp_path / "plain" / "masks" / f"{name}.png")
        soft, objects = read_soft(tmp_path / "plain" / "soft" / f"{name}.npz")
        wanted = Refinement(**OPTIONS).refined(Result(i, name, None, picture(i), labels, objects, soft))
        for folder in ("fine", "time"):
            np.testing.assert_array_equal(read_labels(tmp_path / folder / "masks" / f"{name}.png"), wanted.labels)
            made, _ = read_soft(tmp_path / folder / "soft" / f"{name}.npz")
            np.testing.assert_array_equal(made, wanted.soft)
    assert set(summary.flicker) == {1, 2}
    assert summary.to_json()["flicker"]["1"] == list(summary.flicker[1])
    assert not list((tmp_path / "time").glob(".hodor*"))

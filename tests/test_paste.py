"""Cut-and-paste clips: the masks are exact, because image and masks are made from the same layers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_stream import write_pairs

from hodor.data.augment import PLAIN
from hodor.data.paste import SMALLEST, Composed, Trajectory, compose
from hodor.data.sampling import generator
from hodor.data.settings import Data, Scene
from hodor.data.stream import Stream

SIZE = (64, 96)


def cutout(seed: int, size: tuple[int, int] = (40, 30)) -> torch.Tensor:
    """A disc with soft edges, premultiplied; its colour depends on the seed."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size[0]), torch.linspace(-1, 1, size[1]), indexing="ij")
    alpha = ((1 - (x**2 + y**2).sqrt()) * 6).clamp(0, 1)
    colour = torch.rand(3, 1, 1, generator=generator(seed)).expand(3, *size)
    return torch.cat([colour * alpha, alpha[None]])


def composed(seed: int, count: int = 4, frames: int = 3, **ranges: Any) -> Composed:
    ground = torch.randint(0, 256, (3, 80, 100), generator=generator(seed), dtype=torch.uint8)
    return compose(ground, [cutout(seed + i) for i in range(count)], SIZE, frames, Scene(**ranges), generator(seed))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_the_layers_over_the_ground_are_the_picture_and_the_topmost_owns_the_pixel(seed: int, count: int) -> None:
    made = composed(seed, count)
    for t in range(3):
        picture, owner = made.ground[t].clone(), np.zeros(SIZE, int)
        for number, layer in enumerate(made.layers[t], 1):
            for y in range(layer.alpha.shape[0]):
                row = slice(layer.left, layer.left + layer.alpha.shape[1])
                alpha = layer.alpha[y]
                picture[:, layer.top + y, row] = picture[:, layer.top + y, row] * (1 - alpha) + layer.colours[:, y]
                owner[layer.top + y, row] = np.where(alpha > 0.5, number, owner[layer.top + y, row])
        torch.testing.assert_close(picture, made.frames[t])
        assert np.array_equal(made.owner[t].numpy(), owner)
    assert 0 <= float(made.frames.min()) <= float(made.frames.max()) <= 1 + 1e-5


def test_soft_edges_are_blended_without_a_dark_rim() -> None:
    """A white object on white stays white, its edge too: colours are premultiplied before they are resampled."""
    white = torch.cat([cutout(0)[3:].expand(3, -1, -1), cutout(0)[3:]])
    ground = torch.full((3, 80, 100), 255, dtype=torch.uint8)
    made = compose(ground, [white] * 3, SIZE, 3, Scene(), generator(0))
    assert made.owner.any()
    assert float(made.frames.min()) > 0.999
    alpha = torch.cat([layer.alpha.flatten() for layer in made.layers[0]])
    assert ((alpha > 0.05) & (alpha < 0.95)).any()


def test_objects_hide_each_other_and_all_of_frame_0_are_seen() -> None:
    hidden = 0
    for seed in range(30):
        made = composed(seed, 6)
        counts = torch.bincount(made.owner[0].flatten())
        assert len(counts) == len(made.layers[0]) + 1
        assert int(counts[1:].min()) >= SMALLEST * SIZE[0] * SIZE[1]
        hidden += any(int((layer.alpha > 0.5).sum()) > counts[n] for n, layer in enumerate(made.layers[0], 1))
    assert hidden > 15


def test_every_object_and_the_camera_move_on_smooth_paths_of_their_own() -> None:
    path = Trajectory((10.0, 20.0, 0.0, 0.0), (8.0, -4.0, 0.5, 0.2), (2.0, 0.0, 0.0, 0.0))
    assert path.at(0.0) == path.start
    assert path.at(1.0) == pytest.approx((18, 16, 0.5, 0.2))
    assert path.at(0.5) == pytest.approx((16, 18, 0.25, 0.1))
    apart = 0
    for seed in range(20):
        made = composed(seed, 4, frames=9, camera_drift=0.0, camera_turn=0.0, camera_zoom=0.0)
        torch.testing.assert_close(made.ground[0], made.ground[8])
        shifts = []
        for layers in zip(*made.layers, strict=True):  # of one object: where it is, hidden or not
            at = [
                (layer.alpha > 0.5).nonzero().float().mean(0) + torch.tensor([layer.top, layer.left])
                for layer in layers
                if (layer.alpha > 0.5).any()
            ]
            assert all(float((b - a).norm()) < 0.2 * SIZE[0] for a, b in pairwise(at)), "no jumps"
            shifts.append(at[-1] - at[0] if len(at) == 9 else torch.zeros(2))
        apart += len(shifts) > 1 and float((shifts[0] - shifts[1]).norm()) > 3
    assert apart > 5
    moving = composed(0, 2, objects=(0.2, 0.2), drift=0.0, bend=0.0, turn=0.0, zoom=0.0)
    assert not torch.allclose(moving.ground[0], moving.ground[2], atol=0.02), "the camera moves"


def test_one_object_is_always_there() -> None:
    """Even one so small, or so far out, that no draw shows it well."""
    for seed in range(10):
        made = composed(seed, 1, objects=(0.01, 0.01))
        assert len(made.layers[0]) == 1
        assert (made.owner[0] == 1).sum() > 100


def write_cutouts(root: Path, count: int = 3) -> None:
    root.mkdir()
    for n in range(count):
        pixels = np.zeros((50, 60, 4), np.uint8)
        pixels[..., 1] = 255  # green where it is transparent: must never be visible
        pixels[10:40, 15:40] = (250 - 60 * n, 30, 60 * n, 255)
        Image.fromarray(pixels).save(root / f"{n}.webp", lossless=True, exact=True)


def stream(tmp_path: Path, **given: Any) -> Stream:
    if not (tmp_path / "s").exists():
        write_pairs(tmp_path / "s", [1, 2, 5], SIZE)
        write_cutouts(tmp_path / "rgba")
    free: dict[str, Any] = {"size": SIZE, "min_area": 1, "min_side": 1, "paste": 1.0, "cutouts": (tmp_path / "rgba",)}
    return Stream(Data(root=(tmp_path / "s",), **{**free, **given}), 3, 2, 0)


def test_clips_of_cut_outs_have_one_to_eight_objects_and_no_overlap(tmp_path: Path) -> None:
    drawn = stream(tmp_path, cutouts=(tmp_path / "rgba", tmp_path / "s"))
    numbers = set()
    for step in range(60):
        clip = drawn.clip(step, 0)
        assert clip.frames_BTCHW.shape == (1, 3, 3, *SIZE)
        assert clip.masks_BTNHW[0, 0].flatten(1).any(1).all()
        assert float(clip.masks_BTNHW.sum(2).max()) == 1
        assert clip.valid_BTHW.all()
        assert clip.labelled_BT.all()
        numbers.add(clip.masks_BTNHW.shape[2])
    assert {1, 2, 3, 4, 5} <= numbers <= set(range(1, 9))
    assert stream(tmp_path, labels="first").clip(0, 0).labelled_BT.all()  # no file of labels is behind them


def test_a_cut_out_is_where_its_mask_says(tmp_path: Path) -> None:
    """The ground is grey and the cut-outs are coloured: colour and mask agree but for their rims."""
    drawn = stream(tmp_path, augment=PLAIN)
    for step in range(10):
        clip = drawn.clip(step, 0)
        frames, mask = clip.frames_BTCHW[0], clip.masks_BTNHW[0].amax(1) > 0
        vivid = frames.amax(1) - frames.amin(1) > 0.3
        assert (vivid != mask).float().mean() < 0.02
        assert mask.float().mean() > 0.01


def test_pasted_clips_come_in_their_share_and_again_the_same(tmp_path: Path) -> None:
    drawn = stream(tmp_path, paste=0.3, augment=PLAIN)
    colourful = [bool((c.amax(2) - c.amin(2) > 0.3).any()) for c in (drawn.clip(s, 0).frames_BTCHW for s in range(120))]
    assert 20 < sum(colourful) < 54
    for step in range(6):
        one, two = drawn.clip(step, 1), stream(tmp_path, paste=0.3, augment=PLAIN).clip(step, 1)
        assert all(torch.equal(value, getattr(two, name)) for name, value in vars(one).items())


def test_cut_outs_without_alpha_are_damaged_and_missing_folders_named(tmp_path: Path) -> None:
    drawn = stream(tmp_path)
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "rgba" / "flat.png")
    Image.fromarray(np.zeros((20, 20, 4), np.uint8)).save(tmp_path / "rgba" / "clear.png")
    drawn = stream(tmp_path, damaged=0.5)
    for step in range(20):
        drawn.clip(step, 0)
    assert {path.name: why.split(":")[0] for path, why in drawn.damaged.items()} == {
        "flat.png": "has no alpha channel",
        "clear.png": "is all transparent",
    }
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist: give a folder of images with alpha, or of"):
        stream(tmp_path, cutouts=(tmp_path / "nowhere",))

"""Training clips: drawn from real files, warped, coloured, cropped and put together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hodor.data import augment, davis, stills
from hodor.data.augment import Colour, Warp
from hodor.data.clip import Clip, collate
from hodor.masks import write_labels

SIZE = (48, 64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def write_sequence(
    root: Path, name: str, count: int, size: tuple[int, int] = SIZE
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """-> frames and labels, as a DAVIS folder holds them. Object 5 is only there in the second half."""
    frames = (tiny.pictures(count, size) * 255).byte().permute(0, 2, 3, 1).numpy()
    labels = np.zeros((count, *size), np.uint8)
    (root / "JPEGImages" / name).mkdir(parents=True)
    for t in range(count):
        labels[t, 8:24, 4 + t : 20 + t] = 2
        if t >= count // 2:
            labels[t, 30:44, 40:60] = 5
        Image.fromarray(frames[t]).save(root / "JPEGImages" / name / f"{t:05d}.jpg", quality=95)
        write_labels(root / "Annotations" / name / f"{t:05d}.png", labels[t])
    return frames, labels


def memory_video(count: int = 12, size: tuple[int, int] = SIZE, name: str = "v") -> davis.Video:
    """Frame t is of colour t, and says so in its labels' place; object 2 always, object 5 from frame 6."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, *size).clone()
    images[:, 0, :, : size[1] // 2] += 100  # the left half is red
    labels = torch.zeros(count, *size, dtype=torch.uint8)
    labels[:, 4:20, 2:22] = 2
    labels[6:, 24:40, 40:60] = 5
    return davis.Video(name, images, labels)


def indices(clip: Clip) -> list[int]:
    """Which frames of `memory_video` a clip is made of."""
    return [int(v) for v in (clip.frames_BTCHW[0, :, 2, 0, 0] * 255).round()]


def test_a_folder_becomes_a_video_in_memory(tmp_path: Path) -> None:
    frames, labels = write_sequence(tmp_path, "goat", 6)
    write_sequence(tmp_path, "bmx-bumps", 2)
    assert davis.names(tmp_path) == ["bmx-bumps", "goat"]
    assert davis.names(tmp_path, without=davis.HELD_OUT) == ["goat"]
    video = davis.load(tmp_path, "goat", SIZE[0])
    assert video.images_TCHW.shape == (6, 3, *SIZE)
    assert np.array_equal(video.labels_THW.numpy(), labels)
    mean = np.abs(video.images_TCHW.permute(0, 2, 3, 1).numpy().astype(int) - frames).mean()
    assert mean < 4  # JPEG
    small = davis.load(tmp_path, "goat", 24)
    assert small.images_TCHW.shape == (6, 3, 24, 32)
    assert set(small.labels_THW.unique().tolist()) == {0, 2, 5}


def test_davis_2016_masks_of_255_are_object_one_and_void_is_background(tmp_path: Path) -> None:
    write_sequence(tmp_path, "goat", 2)
    two = np.zeros(SIZE, np.uint8)
    two[5:9, 5:9], two[20:30, 20:30] = 255, 3
    one = np.where(two == 3, 255, 0).astype(np.uint8)
    for second, expected in ((one, ({0, 1}, {0, 1})), (two, ({0}, {0, 3}))):
        Image.fromarray(one).save(tmp_path / "Annotations" / "goat" / "00000.png")
        Image.fromarray(second).save(tmp_path / "Annotations" / "goat" / "00001.png")
        labels = davis.load(tmp_path, "goat", SIZE[0]).labels_THW.numpy()
        assert (set(np.unique(labels[0])), set(np.unique(labels[1]))) == expected


def test_missing_frames_and_masks_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Annotations is not a folder: want Annotations/<sequence>/\*\.png$"):
        davis.names(tmp_path)
    write_sequence(tmp_path, "goat", 3)
    with pytest.raises(FileNotFoundError, match=r"has no frames of cow: want JPEGImages/cow/\*\.jpg or videos/cow\.mp4$"):
        davis.images(tmp_path, "cow")
    (tmp_path / "Annotations" / "goat" / "00001.png").unlink()
    with pytest.raises(ValueError, match=r"goat has 3 frames, .*goat 2 masks: want one each$"):
        davis.load(tmp_path, "goat", 48)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 3), st.sampled_from(["all", "first"]))
def test_clips_hold_frames_near_each_other_and_objects_of_frame_0(seed: int, frames: int, gap: int, labelled: str) -> None:
    video = memory_video()
    clip = davis.VideoClips([video], frames, gap, 4, labelled).sample(seeded(seed))
    at = indices(clip)
    steps = np.diff(at)
    assert ((np.abs(steps) >= 1) & (np.abs(steps) <= gap)).all()
    assert (steps > 0).all() or (steps < 0).all()
    assert clip.masks_BTNHW.shape == (1, frames, 2 if at[0] >= 6 else 1, *SIZE)
    assert clip.masks_BTNHW[0, 0].flatten(1).any(1).all(), "every object is visible in frame 0"
    assert clip.objects_BN.all()
    assert clip.valid_BTHW.all()
    assert clip.labelled_BT.tolist() == [[labelled == "all" or t == 0 for t in range(frames)]]
    red_left = clip.frames_BTCHW[0, 0, 0, 0, 0] > 0.3  # not mirrored
    for t, index in enumerate(at):
        labels = video.labels_THW[index] if red_left else video.labels_THW[index].flip(-1)
        planes = {tuple(p.flatten().tolist()) for p in clip.masks_BTNHW[0, t]}
        objects = {tuple((labels == i).float().flatten().tolist()) for i in (2, 5) if at[0] >= 6 or i == 2}
        assert planes == (objects if t == 0 or labelled == "all" else {(0.0,) * labels.numel()})


def test_both_directions_both_mirrors_and_both_orders_occur() -> None:
    clips = davis.VideoClips([memory_video()], 2, 3)
    drawn = [clips.sample(seeded(s)) for s in range(40)]
    assert {bool(np.diff(indices(c))[0] > 0) for c in drawn} == {True, False}
    assert {bool(c.frames_BTCHW[0, 0, 0, 0, 0] > 0.3) for c in drawn} == {True, False}
    assert {bool(c.masks_BTNHW[0, 0, 0, 10].any()) for c in drawn if c.objects_BN.shape[1] == 2} == {True, False}
    one = davis.VideoClips([memory_video()], 2, 3, most=1)
    assert all(one.sample(seeded(s)).objects_BN.shape == (1, 1) for s in range(10))


def test_masks_of_the_other_frames_are_never_read_for_cycles() -> None:
    video = memory_video()
    for seed in range(20):
        clip = davis.VideoClips([video], 3, 2, labelled="first").sample(seeded(seed))
        labels = torch.full_like(video.labels_THW, 77)
        labels[indices(clip)[0]] = video.labels_THW[indices(clip)[0]]
        same = davis.VideoClips([replace(video, labels_THW=labels)], 3, 2, labelled="first").sample(seeded(seed))
        for name, value in vars(clip).items():
            assert torch.equal(getattr(same, name), value), name
        assert not clip.masks_BTNHW[:, 1:].any()


def test_videos_of_different_sizes_are_cropped_to_the_smallest() -> None:
    videos = [memory_video(size=(48, 64)), memory_video(size=(50, 60)), memory_video(size=(48, 70))]
    clips = davis.VideoClips(videos, 2, 3)
    drawn = [clips.sample(seeded(s)) for s in range(20)]
    assert {tuple(c.frames_BTCHW.shape[-2:]) for c in drawn} == {(48, 60)}
    assert collate(drawn).frames_BTCHW.shape == (20, 2, 3, 48, 60)
    assert all(c.masks_BTNHW[0, 0].flatten(1).any(1).all() for c in drawn)


def test_videos_without_a_clip_are_refused_and_not_searched_forever() -> None:
    empty = replace(memory_video(), labels_THW=torch.zeros(12, *SIZE, dtype=torch.uint8))
    for videos, frames in (([memory_video(2)], 3), ([empty], 2)):
        with pytest.raises(ValueError, match=rf"^no clip of {frames} frames with an object in the first: want longer videos"):
            davis.VideoClips(videos, frames, 3).sample(seeded())


def write_pairs(root: Path) -> None:
    """Two images with a mask, one without; ids 1 and 9, void, and an object too small to count."""
    (root / "images").mkdir(parents=True)
    for number, size in enumerate([(40, 60), (60, 40), (30, 30)]):
        pixels = np.full((*size, 3), 50 * (number + 1), np.uint8)
        pixels[:, : size[1] // 2, 0] = 250
        Image.fromarray(pixels).save(root / "images" / f"p{number}.{'jpg' if number else 'png'}", quality=95)
        labels = np.zeros(size, np.uint8)
        labels[4:20, 4:14], labels[22:32, 20:38], labels[0, 0], labels[36:, :3] = 1, 9, 4, 255
        if number < 2:
            (root / "masks").mkdir(exist_ok=True)
            Image.fromarray(labels).save(root / "masks" / f"p{number}.png")


def test_pairs_are_images_with_a_mask_of_the_same_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no pairs: want images/<name>\.jpg\|png\|webp and masks/<name>\.png$"):
        stills.pairs(tmp_path)
    write_pairs(tmp_path)
    assert [(p.image.name, p.mask.name) for p in stills.pairs(tmp_path)] == [("p0.png", "p0.png"), ("p1.jpg", "p1.png")]


def test_a_still_becomes_a_clip_of_equal_frames_on_a_canvas(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    clips = stills.StillClips(stills.pairs(tmp_path), SIZE, frames=3)
    partly = 0
    for seed in range(30):
        clip = clips.sample(seeded(seed))
        assert clip.frames_BTCHW.shape == (1, 3, 3, *SIZE)
        assert clip.masks_BTNHW.shape[2] <= 2, "neither void nor the tiny object is an object"
        assert clip.objects_BN.all()
        assert clip.labelled_BT.all()
        for name in ("frames_BTCHW", "masks_BTNHW", "valid_BTHW"):
            value = getattr(clip, name)
            assert torch.equal(value[:, 0], value[:, 2])
        outside = ~clip.valid_BTHW[0, 0]
        assert not clip.masks_BTNHW[0, 0][:, outside].any()
        assert (clip.masks_BTNHW[0, 0].sum((-1, -2)) >= 0.004 * 48 * 64).all()
        dark = clip.frames_BTCHW[0, 0].amax(0) == 0  # canvas without image
        assert not clip.valid_BTHW[0, 0][dark].any()
        partly += int(dark.any())
    assert partly > 5


def test_stills_without_an_object_are_refused_and_not_searched_forever(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    words = r"^no image of 2 shows an object on 90\.0% of a canvas of 48x64: want larger objects$"
    with pytest.raises(ValueError, match=words):
        stills.StillClips(stills.pairs(tmp_path), SIZE, area=0.9).sample(seeded())


def patterned(frames: int = 2, batch: int = 1) -> Clip:
    clip = tiny.clip(batch, frames, SIZE)
    noise = torch.rand(clip.frames_BTCHW.shape, generator=seeded(5))
    return replace(clip, frames_BTCHW=noise)


@pytest.mark.parametrize("seed", range(6))
def test_a_translation_moves_image_mask_and_validity_pixel_by_pixel(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, columns = [(3, -5), (-7, 0), (0, 9), (20, 20), (-47, 3), (1, 1)][seed]  # where a pixel looks for its value
    matrix = torch.tensor([[1.0, 0, 2 * columns / SIZE[1]], [0, 1, 2 * rows / SIZE[0]]])
    monkeypatch.setattr(augment, "_matrix", lambda *_: matrix.clone())
    clip = patterned()
    clip.valid_BTHW[:, :, :2] = False
    warped = augment.warp(clip, Warp(), seeded())
    images, masks = torch.zeros(3, *SIZE), torch.zeros(2, *SIZE)
    valid = torch.zeros(SIZE, dtype=torch.bool)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            if 0 <= y + rows < SIZE[0] and 0 <= x + columns < SIZE[1]:
                images[:, y, x] = clip.frames_BTCHW[0, 1, :, y + rows, x + columns]
                masks[:, y, x] = clip.masks_BTNHW[0, 1, :, y + rows, x + columns]
                valid[y, x] = clip.valid_BTHW[0, 1, y + rows, x + columns]
    torch.testing.assert_close(warped.frames_BTCHW[0, 1], images, atol=1e-3, rtol=0)
    assert torch.equal(warped.masks_BTNHW[0, 1], masks)
    assert torch.equal(warped.valid_BTHW[0, 1], valid)
    # frame 0 stays
    torch.testing.assert_close(warped.frames_BTCHW[0, 0], clip.frames_BTCHW[0, 0], atol=1e-4, rtol=0)
    assert torch.equal(warped.masks_BTNHW[0, 0], clip.masks_BTNHW[0, 0])
    assert torch.equal(warped.valid_BTHW[0, 0], clip.valid_BTHW[0, 0])


def marked(y: int, x: int) -> Clip:
    """A clip whose one object is a square of 5 pixels around (y, x) in 96 x 128."""
    masks = torch.zeros(1, 2, 1, 96, 128)
    masks[..., y - 2 : y + 3, x - 2 : x + 3] = 1
    yes = torch.ones(1, 2, dtype=torch.bool)
    return Clip(masks.expand(-1, -1, 3, -1, -1), masks, yes, yes[:, :1], torch.ones(1, 2, 96, 128, dtype=torch.bool))


def centre(masks: Tensor) -> tuple[float, float]:
    y, x = masks.nonzero(as_tuple=True)
    return float(y.float().mean()), float(x.float().mean())


@pytest.mark.parametrize("what", ["rotate", "shear", "scale", "translate"])
def test_ranges_bound_the_warp_in_true_degrees_and_shares(what: str) -> None:
    still = {"translate": 0.0, "rotate": 0.0, "shear": 0.0, "scale": (1.0, 1.0)}
    ranges = Warp(**{**still, what: {"rotate": 30.0, "shear": 20.0, "scale": (0.5, 2.0), "translate": 0.2}[what]})  # type: ignore[arg-type]
    middle, seen = (47.5, 63.5), []
    for seed in range(40):
        warped = augment.warp(marked(48, 92), ranges, seeded(seed))  # 0.5 below, 28.5 right of the middle
        y, x = centre(warped.masks_BTNHW[0, 1, 0])
        dy, dx = y - middle[0], x - middle[1]
        if what == "rotate":
            assert np.hypot(dy, dx) == pytest.approx(28.5, abs=0.7)
            seen.append(abs(np.degrees(np.arctan2(dy, dx))))
            assert seen[-1] <= 31.5
        elif what == "scale":
            seen.append(dx / 28.5)
            assert 0.47 <= seen[-1] <= 2.05
            assert dy / 0.5 == pytest.approx(1, abs=2)
        elif what == "translate":
            seen.append(abs(dx - 28.5) / 128)
            assert seen[-1] <= 0.205
            assert abs(dy - 0.5) / 96 <= 0.205
        else:  # along rows: a point on the middle row stays there
            assert dy == pytest.approx(0.5, abs=0.6)
            seen.append(abs(dx - 28.5))
            assert seen[-1] <= 1
    if what != "shear":
        assert max(seen) > {"rotate": 24, "scale": 1.5, "translate": 0.15}[what]
    if what == "scale":
        assert min(seen) < 0.65


def test_shear_moves_rows_by_their_distance_from_the_middle() -> None:
    tilts = []
    for seed in range(30):
        warped = augment.warp(marked(80, 64), Warp(0, 0, 20, (1, 1)), seeded(seed))
        y, x = centre(warped.masks_BTNHW[0, 1, 0])
        assert y == pytest.approx(80, abs=0.6)
        tilts.append(abs(np.degrees(np.arctan2(x - 64, 32.5))))
    assert 14 < max(tilts) < 21.5


def test_every_frame_is_warped_on_its_own_and_the_same_seed_warps_the_same() -> None:
    clip = patterned(frames=3, batch=2)
    one, two = (augment.warp(clip, Warp(), seeded(1)) for _ in range(2))
    assert all(torch.equal(getattr(two, k), v) for k, v in vars(one).items())
    assert not torch.allclose(one.frames_BTCHW[0, 1], one.frames_BTCHW[0, 2], atol=0.1)
    moved = augment.warp(clip, Warp(), seeded(1), first=True)
    assert not torch.allclose(moved.frames_BTCHW[:, 0], clip.frames_BTCHW[:, 0], atol=0.1)
    # what is outside is neither valid nor an object
    assert not one.valid_BTHW.all()
    assert not (one.masks_BTNHW.amax(2) * ~one.valid_BTHW).flatten(2).sum(-1).gt(60).any()
    assert set(one.masks_BTNHW.unique().tolist()) == {0, 1}


@pytest.mark.parametrize("seed", range(5))
def test_colours_stay_in_range_and_change_all_frames_alike(seed: int) -> None:
    clip = patterned(frames=3, batch=2)
    # a patch of the same colours in all frames, whatever else the frames show
    clip.frames_BTCHW[:, :, :, 10:20, 10:30] = clip.frames_BTCHW[:, :1, :, 10:20, 10:30]
    clip.frames_BTCHW[:, 2, :, 30:] *= 0.3
    strong = Colour(0.3, 0.4, 0.5, 0.2)
    out = augment.colour(clip, strong, seeded(seed)).frames_BTCHW
    assert out.min() >= 0
    assert out.max() <= 1
    patch = out[:, :, :, 10:20, 10:30]
    torch.testing.assert_close(patch, patch[:, :1].expand_as(patch), atol=1e-5, rtol=0)
    assert not torch.allclose(patch[0], patch[1], atol=0.02), "each clip has its own draw"
    assert not torch.allclose(out, clip.frames_BTCHW, atol=0.02)


def test_no_range_changes_no_colour_and_hue_turns_about_grey() -> None:
    clip = patterned()
    torch.testing.assert_close(augment.colour(clip, Colour(0, 0, 0, 0), seeded()).frames_BTCHW, clip.frames_BTCHW)
    soft = replace(clip, frames_BTCHW=0.4 + 0.2 * clip.frames_BTCHW)
    turned = augment.colour(soft, Colour(0, 0, 0, 0.5), seeded(3)).frames_BTCHW
    assert not torch.allclose(turned, soft.frames_BTCHW, atol=0.02)
    torch.testing.assert_close(turned.mean(2), soft.frames_BTCHW.mean(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(turned.std(2), soft.frames_BTCHW.std(2), atol=1e-4, rtol=0)


def test_a_crop_is_one_window_of_all_frames_and_keeps_each_object() -> None:
    cropped = 0
    for seed in range(40):
        clip = patterned(frames=3, batch=2)
        out = augment.crop(clip, (0.5, 0.9), seeded(seed))
        assert out.frames_BTCHW.shape == clip.frames_BTCHW.shape
        assert set(out.masks_BTNHW.unique().tolist()) <= {0, 1}
        assert out.masks_BTNHW[:, 0].flatten(2).any(-1).all()
        assert out.valid_BTHW.all()
        cropped += int(out is not clip)
    assert 5 < cropped < 40


def test_a_crop_that_would_show_an_object_at_less_than_half_its_area_is_not_made() -> None:
    clip = tiny.clip(1, 2, (96, 128))
    clip.masks_BTNHW[:] = 0
    clip.masks_BTNHW[:, :, 0, 20:60, 30:80] = 1
    clip.masks_BTNHW[:, :, 1, 0:20, 0:20] = 1  # in a corner: most windows miss it
    made = refused = 0
    for seed in range(60):
        out = augment.crop(clip, (0.6, 0.9), seeded(seed))
        if out is clip:
            refused += 1
            continue
        made += 1
        assert float(out.masks_BTNHW[0, 0, 1].sum()) >= 0.5 * 400
    assert made > 0
    assert refused > made


def test_a_crop_of_the_whole_is_the_whole() -> None:
    clip = patterned()
    out = augment.crop(clip, (1.0, 1.0), seeded())
    torch.testing.assert_close(out.frames_BTCHW, clip.frames_BTCHW)
    assert torch.equal(out.masks_BTNHW, clip.masks_BTNHW)


def test_collating_pads_the_planes_and_says_which_are_objects() -> None:
    two = patterned(frames=2)
    one = replace(two, masks_BTNHW=two.masks_BTNHW[:, :, 1:], objects_BN=two.objects_BN[:, 1:])
    none = replace(two, masks_BTNHW=two.masks_BTNHW[:, :, :0], objects_BN=two.objects_BN[:, :0])
    both = collate([one, two, none])
    assert both.objects_BN.tolist() == [[True, False], [True, True], [False, False]]
    assert torch.equal(both.masks_BTNHW[0, :, 0], two.masks_BTNHW[0, :, 1])
    assert not both.masks_BTNHW[0, :, 1].any()
    assert torch.equal(both.masks_BTNHW[1], two.masks_BTNHW[0])
    assert both.frames_BTCHW.shape == (3, 2, 3, *SIZE)
    assert both.labelled_BT.shape == (3, 2)
    assert both.valid_BTHW.dtype == both.objects_BN.dtype == torch.bool


def test_objects_count_as_visible_where_nobody_looked() -> None:
    clip = patterned(frames=2)
    clip.masks_BTNHW[0, :, 0] = 0
    clip.labelled_BT[0, 1] = False
    assert clip.visible_BTN.tolist() == [[[False, True], [True, True]]]

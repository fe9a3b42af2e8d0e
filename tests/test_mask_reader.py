"""Masks of data sets: lossy files, smoothed edges among hard ones, and what 255 means in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

import benchmarks
from benchmarks import SIZE, labels, numbered
from hodor.data.augment import PLAIN
from hodor.data.check import examine, report_lines
from hodor.data.layouts import open_layout
from hodor.data.mask_reader import is_smooth, lossy, masks_in, read_labels, read_plane
from hodor.data.settings import Data
from hodor.data.stream import Stream
from hodor.mask_files import doctor

SOLE = Data(min_area=100, min_side=5)


def hard(t: int) -> np.ndarray:
    return labels(t, (255,))


def smooth(t: int) -> Image.Image:
    return Image.fromarray(hard(t)).filter(ImageFilter.GaussianBlur(1))


def write(path: Path, mask: np.ndarray | Image.Image, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(mask) if isinstance(mask, np.ndarray) else mask).save(path, **options)


def video(root: Path, count: int, suffix: str = ".png", **options: Any) -> Path:
    benchmarks.frames(root / "JPEGImages" / "v", numbered(count))
    for t, name in enumerate(numbered(count)):
        write(root / "Annotations" / "v" / f"{name}{suffix}", hard(t), **options)
    return root


def pairs(root: Path, count: int, suffix: str = ".png", **options: Any) -> Path:
    benchmarks.frames(root / "images", [f"p{t}" for t in range(count)])
    for t in range(count):
        write(root / "masks" / f"p{t}{suffix}", hard(t), **options)
    return root


def clips(root: Path, frames: int = 1) -> Stream:
    return Stream(Data(root=(root,), size=SIZE, min_area=100, min_side=5, augment=PLAIN), frames, 1, 0)


@pytest.mark.parametrize("name", ["m.jpg", "m.png"])
def test_a_jpeg_mask_is_read_as_segment_mask_reads_it_whatever_its_name(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, hard(0), format="JPEG", quality=60)
    assert len(np.unique(np.asarray(Image.open(tmp_path / name)))) > 2
    assert (read_labels(tmp_path / name) == doctor.read(tmp_path / name).labels).all()
    assert (read_labels(tmp_path / name) == (hard(0) > 0)).mean() > 0.99
    write(tmp_path / name, np.zeros(SIZE, np.uint8), format="JPEG")
    assert not read_labels(tmp_path / name).any(), "a frame without the object"


def test_a_jpeg_of_several_objects_and_a_coloured_webp_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "m.jpg", labels(0, (80, 160)), quality=90)
    with pytest.raises(ValueError, match=r"m\.jpg is a JPEG that is not black and white .*: save the mask as PNG$"):
        read_labels(tmp_path / "m.jpg")
    coloured = np.zeros((*SIZE, 3), np.uint8)
    coloured[4:20, 4:20], coloured[24:40, 30:50] = (255, 0, 0), (0, 255, 0)
    write(tmp_path / "m.webp", coloured, lossless=True)
    with pytest.raises(ValueError, match=r"m\.webp: expected ids in a palette or grey picture, got colours: save the mask as"):
        read_labels(tmp_path / "m.webp")


@pytest.mark.parametrize("build", [video, pairs])
def test_a_data_set_of_jpeg_masks_is_counted_and_drawn_as_one_object(build: Any, tmp_path: Path) -> None:
    root = build(tmp_path, 6, ".jpg", quality=90)
    found = examine(root, SOLE)
    assert (found.objects, found.fitting, found.damaged, found.labelled) == (6, 6, {}, 6)
    assert any("masks of a lossy format" in note for note in found.notes)
    clip = clips(root).clip(0, 0)
    assert clip.masks_BTNHW.shape[2] == 1
    assert abs(int(clip.masks_BTNHW.sum()) - 16 * 12) <= 8
    assert bool(clip.valid_BTHW.all()), "no void"


def test_jpeg_masks_of_a_folder_an_object_are_found(tmp_path: Path) -> None:
    benchmarks.frames(tmp_path / "JPEGImages" / "v", numbered(3), (1, 2))
    for t, name in enumerate(numbered(3)):
        for i in (1, 2):
            write(tmp_path / "Annotations" / "v" / str(i) / f"{name}.jpg", (labels(t, (1, 2)) == i).astype(np.uint8) * 255)
    one = open_layout(tmp_path).videos[0]
    assert np.unique(one.labels("00001")).tolist() == [0, 1, 2]
    assert examine(tmp_path, SOLE).objects == 6


@pytest.mark.parametrize("place", [0, 3, 5])
@pytest.mark.parametrize("build", [video, pairs])
def test_one_smooth_mask_among_hard_ones_is_named_and_the_others_stay_objects(build: Any, place: int, tmp_path: Path) -> None:
    root = build(tmp_path, 6)
    path = sorted(tmp_path.rglob("*.png"))[place]
    smooth(place).save(path)
    assert is_smooth(read_labels(path))
    found = examine(root, SOLE)
    assert (found.objects, found.fitting, found.damaged, found.by_number) == (6, 6, {}, {1: 6})
    (note,) = [note for note in found.notes if note.startswith("masks with smoothed edges")]
    assert note == f"masks with smoothed edges, pixels above 127 are object 1: {path}"
    assert f"  note     {note}" in report_lines(found)
    areas = {int(clips(root).clip(step, 0).masks_BTNHW.sum()) for step in range(12)}
    assert areas <= set(range(180, 197)), "192 pixels, at the smoothed corners some less; not the whole blur"
    assert bool(clips(root).clip(0, 0).valid_BTHW.all())


def test_a_smooth_mask_is_read_as_segment_mask_reads_it(tmp_path: Path) -> None:
    y, x = np.mgrid[:160, :200]
    disc = Image.fromarray((((y - 80) ** 2 + (x - 90) ** 2 < 50**2) * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2))
    disc.save(tmp_path / "m.png")
    assert (read_plane(tmp_path / "m.png") == (doctor.read(tmp_path / "m.png").labels == 1)).all()


def test_ids_with_void_stay_ids_with_void(tmp_path: Path) -> None:
    benchmarks.frames(tmp_path / "images", ["a", "b", "c"])
    for name in "abc":
        mask = labels(0, (1, 2))
        mask[7:25, 3] = 255
        write(tmp_path / "masks" / f"{name}.png", mask)
    found = examine(tmp_path, SOLE)
    assert (found.objects, found.notes) == (6, ())
    assert int((~clips(tmp_path).clip(0, 0).valid_BTHW).sum()) == 18


def test_masks_of_0_and_255_beside_masks_with_ids_are_named(tmp_path: Path) -> None:
    root = pairs(tmp_path, 3)
    write(root / "masks" / "p1.png", labels(1, (1, 2)))
    (note,) = examine(root, SOLE).notes
    assert note.endswith(
        "p0.png and 1 more: only 0 and 255, but " + f"{root / 'masks' / 'p1.png'} has ids: 255 is void in all masks"
    )


def test_a_late_object_of_255_is_an_object(tmp_path: Path) -> None:
    """The first mask of the only video is empty."""
    root = video(tmp_path, 5)
    write(root / "Annotations" / "v" / "00000.png", np.zeros(SIZE, np.uint8))
    assert open_layout(root).videos[0].single
    assert examine(root, SOLE).objects == 4


def test_a_png_is_preferred_to_a_preview_of_the_same_name(tmp_path: Path) -> None:
    for name in ("2.png", "2.jpg", "10.png", "1.jpg", ".1.png"):
        write(tmp_path / name, hard(0))
    assert [path.name for path in masks_in(tmp_path).values()] == ["1.jpg", "2.png", "10.png"]


def test_images_without_a_mask_are_noted(tmp_path: Path) -> None:
    root = pairs(tmp_path, 4)
    (root / "masks" / "p2.png").unlink()
    assert examine(root, SOLE).notes[0] == "1 images without a mask are left out"
    assert torch.equal(clips(root).clip(0, 0).objects_BN, torch.ones(1, 1, dtype=torch.bool))


def test_a_tiff_with_jpeg_inside_is_read_as_a_jpeg_is(tmp_path: Path) -> None:
    disc = np.hypot(*(np.mgrid[:64, :64] - 31.5)) < 20
    Image.fromarray(np.repeat(disc[..., None] * np.uint8(255), 3, 2)).save(tmp_path / "m.tif", compression="jpeg", quality=60)
    assert lossy(tmp_path / "m.tif") == "TIFF"
    labels = read_labels(tmp_path / "m.tif")
    assert set(np.unique(labels)) == {0, 1}
    assert np.mean((labels > 0) != disc) < 0.01
    Image.fromarray(disc * np.uint8(1)).save(tmp_path / "n.tif")
    assert lossy(tmp_path / "n.tif") is None

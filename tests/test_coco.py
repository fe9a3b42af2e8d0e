"""COCO files as images with masks: run lengths and polygons, crowds as void, missing images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hodor.data.augment import PLAIN
from hodor.data.coco import find_json, open_coco
from hodor.data.settings import Data
from hodor.data.stream import Stream

masks = pytest.importorskip("pycocotools.mask")
HEIGHT, WIDTH = 48, 64


def runs(plane: np.ndarray[Any, Any], compressed: bool = True) -> dict[str, Any]:
    """COCO's run lengths, made by COCO's own tool."""
    encoded = masks.encode(np.asfortranarray(plane.astype(np.uint8)))
    if compressed:
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}
    flat = plane.flatten("F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    return {"size": [HEIGHT, WIDTH], "counts": np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()}


def box(top: int, left: int, height: int, width: int) -> np.ndarray[Any, Any]:
    plane = np.zeros((HEIGHT, WIDTH), bool)
    plane[top : top + height, left : left + width] = True
    return plane


def annotation(image: int, segmentation: Any, plane: np.ndarray[Any, Any], **more: Any) -> dict[str, Any]:
    rows, columns = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
    bounds = [float(columns[0]), float(rows[0]), float(np.ptp(columns) + 1), float(np.ptp(rows) + 1)]
    return {"image_id": image, "segmentation": segmentation, "area": float(plane.sum()), "bbox": bounds, "iscrowd": 0, **more}


def write(root: Path, annotations: list[dict[str, Any]], images: int = 1, there: int | None = None) -> Path:
    (root / "images").mkdir(parents=True)
    listed = []
    for n in range(images):
        listed.append({"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH})
        if n < (images if there is None else there):
            Image.fromarray(np.full((HEIGHT, WIDTH, 3), 50 + n, np.uint8)).save(root / "images" / f"{n}.png")
    file = root / "instances.json"
    file.write_text(json.dumps({"images": listed, "annotations": annotations, "categories": []}))
    return file


def stream(root: Path, **given: Any) -> Stream:
    free: dict[str, Any] = {"size": (HEIGHT, WIDTH), "min_area": 1, "min_side": 1, "augment": PLAIN, "count": "any"}
    free["max_objects"] = 9
    return Stream(Data(root=(root,), **{**free, **given}), 1, 1, 0)


def test_runs_and_polygons_draw_the_same_objects_and_a_crowd_is_void(tmp_path: Path) -> None:
    one, two, three, crowd = box(2, 2, 10, 12), box(20, 30, 8, 9), box(2, 40, 10, 20), box(30, 2, 15, 30)
    outline = [[40, 2, 60, 2, 60, 12, 40, 12]]
    write(
        tmp_path,
        [
            annotation(0, runs(one), one),
            annotation(0, runs(crowd, compressed=False), crowd, iscrowd=1),
            annotation(0, runs(two, compressed=False), two),
            annotation(0, outline, three),
        ],
    )
    labels = open_coco(tmp_path / "instances.json")[0].draw()
    assert np.array_equal(labels, one * 1 + two * 2 + three * 3 + crowd * 255)
    clip = stream(tmp_path).clip(0, 0)
    assert sorted(clip.masks_BTNHW[0, 0].sum((-1, -2)).tolist()) == [72, 120, 200]
    assert torch.equal(~clip.valid_BTHW[0, 0], torch.from_numpy(crowd))


def test_polygons_agree_with_pycocotools() -> None:
    """Where they differ, along edges: the centre of a pixel decides here."""
    from hodor.data.coco import Drawing

    rng = np.random.default_rng(0)
    for _ in range(20):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
        radius = rng.uniform(8, 22, 12)
        points = np.stack([32 + radius * np.cos(angles), 24 + radius * np.sin(angles)], 1).ravel().tolist()
        drawn = Drawing([[points]], [], (HEIGHT, WIDTH))() > 0
        wanted = masks.decode(masks.frPyObjects([points], HEIGHT, WIDTH))[..., 0] > 0
        assert (drawn & wanted).sum() / (drawn | wanted).sum() > 0.93


def test_an_outline_that_leaves_the_picture_is_cut_at_its_border() -> None:
    from hodor.data.coco import Drawing
    from hodor.mask_files.annotations import polygon

    for outline in ([-20, -5, 30, 10, 90, 70, 10, 90], [70, 10, 90, 10, 80, 30], [10.3, 5.2, 20.7, 9.4, 12.1, 30.9]):
        assert np.array_equal(Drawing([[outline]], [], (HEIGHT, WIDTH))() > 0, polygon(outline, (HEIGHT, WIDTH)))


def test_where_objects_overlap_the_pixel_belongs_to_the_smaller_one_and_a_crowd_never_covers_one(tmp_path: Path) -> None:
    small, large, crowd = box(10, 10, 5, 5), box(5, 5, 30, 30), box(0, 0, 48, 20)
    write(
        tmp_path,
        [annotation(0, runs(small), small), annotation(0, runs(large), large), annotation(0, runs(crowd), crowd, iscrowd=1)],
    )
    labels = open_coco(tmp_path / "instances.json")[0].draw()
    assert (labels == 1).sum() == 25
    assert (labels == 2).sum() == 900 - 25
    assert (labels == 255).sum() == 48 * 20 - 30 * 15


def test_more_than_254_objects_fit(tmp_path: Path) -> None:
    planes = [box(i // 32 * 4, i % 32 * 2, 2, 1) for i in range(300)]
    write(tmp_path, [annotation(0, runs(p), p) for p in planes])
    labels = open_coco(tmp_path / "instances.json")[0].draw()
    assert set(np.unique(labels)) == set(range(301))


def test_the_number_of_objects_is_known_without_drawing(tmp_path: Path) -> None:
    one, two = box(2, 2, 10, 12), box(20, 30, 2, 2)
    write(tmp_path, [annotation(0, runs(one), one), annotation(0, runs(two), two)])
    (still,) = open_coco(tmp_path / "instances.json")
    assert still.objects == {1: (120, 10), 2: (4, 2)}
    drawn = stream(tmp_path, min_area=5)
    assert drawn.clip(0, 0).masks_BTNHW.shape[2] == 1


def test_a_missing_image_is_named_and_skipped(tmp_path: Path) -> None:
    one = box(2, 2, 10, 12)
    write(tmp_path, [annotation(n, runs(one), one) for n in range(4)], images=4, there=3)
    drawn = stream(tmp_path, damaged=0.2)
    for step in range(20):
        drawn.clip(step, 0)
    assert {path.name: why for path, why in drawn.damaged.items()}.keys() == {"3.png"}
    assert "No such file" in next(iter(drawn.damaged.values()))


def test_a_broken_segmentation_is_a_damaged_file(tmp_path: Path) -> None:
    one = box(2, 2, 10, 12)
    wrong = {"size": [HEIGHT, WIDTH], "counts": [5, 6]}
    write(tmp_path, [annotation(0, runs(one), one), annotation(1, wrong, one)], images=2)
    drawn = stream(tmp_path, damaged=0.5)
    for step in range(10):
        drawn.clip(step, 0)
    (why,) = drawn.damaged.values()
    assert "holds runs of 11 pixels for a picture of 64x48" in why


def test_images_are_found_where_coco_keeps_them(tmp_path: Path) -> None:
    one = box(2, 2, 10, 12)
    file = write(tmp_path / "x", [annotation(0, runs(one), one)])
    (tmp_path / "annotations").mkdir()
    moved = file.rename(tmp_path / "annotations" / "instances_train2017.json")
    (tmp_path / "x" / "images").rename(tmp_path / "train2017")
    assert find_json(tmp_path) == find_json(moved) == moved
    assert open_coco(moved)[0].image == tmp_path / "train2017" / "0.png"
    moved.with_name("instances_val2017.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"^expected one annotation file in .*, got 2: give one of .*train2017.json, .*val2017.json$"
    ):
        find_json(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", r"is not JSON: "),
        ("[]", r"is not a COCO file: give a JSON file with lists of images and annotations$"),
        ('{"images": [{"id": 1}], "annotations": []}', r"has no annotation with a segmentation: give a file with polygons"),
        (
            '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "segmentation": [[1]]}]}',
            r"names images that are in none of .*: move them there, or the file beside them$",
        ),
    ],
)
def test_files_that_are_not_coco_are_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "instances.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=words):
        open_coco(file)


@pytest.mark.parametrize("change", [{"area": [1]}, {"bbox": [1, 2, [3], 4]}, {"bbox": 7}, {"area": 1e999}])
def test_areas_and_boxes_of_another_type_do_not_matter(change: dict[str, Any], tmp_path: Path) -> None:
    plane = box(4, 4, 20, 20)
    file = write(tmp_path, [annotation(0, runs(plane), plane, **change)])
    (still,) = open_coco(find_json(file) or file)
    assert np.array_equal(still.draw() == 1, plane)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"image_id": []}, "got image_id"), ({"segmentation": 5}, "is damaged"), ({"segmentation": "abc"}, "")],
)
def test_values_of_another_type_are_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    plane = box(4, 4, 20, 20)
    file = write(tmp_path, [annotation(0, runs(plane), plane) | change])
    with pytest.raises(ValueError, match=words):
        open_coco(find_json(file) or file)[0].draw()

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
from hodor.data.check import examine
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


def summary(root: Path, change: dict[str, Any], count: int = 6) -> None:
    """Images of two objects of 400 and 144 pixels, the first with changed summary fields: a polygon on even images, run
    lengths on odd ones."""
    large, small = box(4, 4, 20, 20), box(30, 40, 12, 12)
    annotations = []
    for n in range(count):
        outline: Any = [[4, 4, 24, 4, 24, 24, 4, 24]] if n % 2 == 0 else runs(large)
        annotations += [annotation(n, outline, large, **change), annotation(n, runs(small), small)]
    write(root, annotations, images=count)


@pytest.mark.parametrize(
    "change",
    [
        {"area": 0},
        {"area": float("nan")},
        {"area": None},
        {"area": "large"},
        {"area": -400},
        {"area": 40000},
        {"bbox": [0.06, 0.08, 0.31, 0.41]},
        {"bbox": []},
        {"bbox": None},
        {"bbox": [4, 4, 24, 44]},
        {"bbox": [float("nan")] * 4},
        {"area": 0, "bbox": [0, 0, 0, 0]},
    ],
)
def test_outlines_decide_where_area_or_box_are_wrong(tmp_path: Path, change: dict[str, Any]) -> None:
    summary(tmp_path, change)
    for still in open_coco(tmp_path / "instances.json"):
        assert still.objects == {1: (400, 20), 2: (144, 12)}
    drawn = stream(tmp_path, min_area=100, min_side=10)
    assert [int(drawn.clip(step, 0).objects_BN.sum()) for step in range(8)] == [2] * 8
    found = examine(tmp_path, Data(min_area=100, min_side=10))
    assert (found.objects, found.fitting, found.by_number) == (12, 12, {2: 6})


def test_stated_areas_and_boxes_that_agree_with_the_outline_are_used(tmp_path: Path) -> None:
    summary(tmp_path, {"area": 407.6, "bbox": [4, 4, 19.5, 20]})  # another tool counts pixels of the edge
    assert [still.objects for still in open_coco(tmp_path / "instances.json")] == [{1: (407, 19), 2: (144, 12)}] * 6


def test_an_outline_that_crosses_itself_is_measured_by_its_pixels(tmp_path: Path) -> None:
    """Of a bow tie the area by its corners is 0."""
    plane = box(10, 10, 20, 20)
    write(tmp_path, [annotation(0, [[10, 10, 30, 30, 30, 10, 10, 30]], plane, area=0)])
    (still,) = open_coco(tmp_path / "instances.json")
    drawn = int((still.draw() == 1).sum())
    assert still.objects == {1: (drawn, 20)}
    assert 150 < drawn < 250


def test_empty_parts_are_skipped_and_annotations_without_an_outline_are_left_out_with_a_note(tmp_path: Path) -> None:
    one = box(4, 4, 20, 20)
    polygon = [4, 4, 24, 4, 24, 24, 4, 24]
    nothing = [[], [[]], [[], []], None, {"size": [HEIGHT, WIDTH], "counts": []}, {"size": [HEIGHT, WIDTH], "counts": ""}]
    write(
        tmp_path,
        [
            annotation(0, [[], polygon, []], one),
            *(annotation(0, each, one) for each in nothing),
            annotation(0, [polygon, [50, 40], [1, 2, 3, 4]], one),
        ],
    )
    notes: list[str] = []
    (still,) = open_coco(tmp_path / "instances.json", notes)
    assert notes == ["6 annotations without an outline are left out"]
    assert set(np.unique(still.draw())) == {0, 2}, "the same outline twice: the later one hides the first"
    drawn = stream(tmp_path)
    assert {int(drawn.clip(step, 0).objects_BN.sum()) for step in range(6)} == {1}
    found = examine(tmp_path, Data(min_area=1, min_side=1))
    assert (found.objects, found.damaged, found.notes) == (1, {}, tuple(notes))


@pytest.mark.parametrize("write_id", [str, float, lambda n: n], ids=["text", "float", "number"])
@pytest.mark.parametrize("image_id", [str, int], ids=["text", "number"])
def test_an_image_id_is_the_same_as_text_and_as_a_number(tmp_path: Path, write_id: Any, image_id: Any) -> None:
    one, two = box(4, 4, 20, 20), box(10, 10, 8, 8)
    file = write(tmp_path, [annotation(0, runs(one), one), annotation(1, runs(two), two)], images=2)
    data = json.loads(file.read_text())
    for each in data["annotations"]:
        each["image_id"] = write_id(each["image_id"])
    for each in data["images"]:
        each["id"] = image_id(each["id"])
    file.write_text(json.dumps(data), encoding="utf-8-sig")
    assert [(still.name, still.objects) for still in open_coco(file)] == [("0.png", {1: (400, 20)}), ("1.png", {1: (64, 8)})]


def test_annotations_of_images_that_the_file_lacks_are_named(tmp_path: Path) -> None:
    one = box(4, 4, 20, 20)
    file = write(tmp_path / "some", [annotation(0, runs(one), one), annotation(7, runs(one), one)])
    notes: list[str] = []
    assert len(open_coco(file, notes)) == 1
    assert notes == ["1 annotations name no image of the file (image_id 7) and are left out"]
    file = write(tmp_path / "none", [annotation(0, runs(one), one, image_id="a.png")])
    words = r"^expected annotations of the images of .*instances\.json \(0\), got image_id 'a\.png': the image_id of"
    with pytest.raises(ValueError, match=words):
        open_coco(file)


@pytest.mark.parametrize("second", [0, "0", 0.0])
def test_joined_files_with_one_id_twice_are_refused(tmp_path: Path, second: Any) -> None:
    one = box(4, 4, 20, 20)
    file = write(tmp_path, [annotation(0, runs(one), one), annotation(1, runs(one), one)], images=2)
    data = json.loads(file.read_text())
    data["images"][1]["id"] = second
    file.write_text(json.dumps(data))
    words = rf"^expected one image for each id in .*instances\.json, got id {second} for 0\.png and 1\.png: give each image"
    with pytest.raises(ValueError, match=words):
        stream(tmp_path)
    with pytest.raises(ValueError, match=words):
        examine(tmp_path, Data())


def test_a_crowd_may_be_marked_by_text(tmp_path: Path) -> None:
    one = box(4, 4, 20, 20)
    write(tmp_path, [annotation(0, runs(one), one, iscrowd="0"), annotation(0, runs(box(30, 30, 9, 9)), one, iscrowd="1")])
    assert set(np.unique(open_coco(tmp_path / "instances.json")[0].draw())) == {0, 1, 255}


def test_roboflow_exports_are_found_by_their_split(tmp_path: Path) -> None:
    one, two = box(4, 4, 20, 20), box(10, 10, 8, 8)
    for split, plane in (("train", one), ("valid", two)):
        file = write(tmp_path / split, [annotation(0, runs(plane), plane)])
        file.rename(file.with_name("_annotations.coco.json"))
        (tmp_path / split / "images" / "0.png").rename(tmp_path / split / "0.png")
        (tmp_path / split / "images").rmdir()
    for split, area in (("train", 400), ("val", 64)):
        assert int(stream(tmp_path, split=split).clip(0, 0).masks_BTNHW.sum()) == area
        found = examine(tmp_path, Data(min_area=1, min_side=1, split=split))
        assert (found.kind, found.objects, found.fitting) == ("coco", 1, 1)
    assert find_json(tmp_path / "valid") == tmp_path / "valid" / "_annotations.coco.json"
    with pytest.raises(ValueError, match=r"^expected a split of .* \(train, valid\), got 'test'$"):
        stream(tmp_path, split="test")


def test_images_of_a_coco_file_can_be_chosen_by_name_with_and_without_suffix(tmp_path: Path) -> None:
    one, two = box(4, 4, 20, 20), box(10, 10, 8, 8)
    write(tmp_path, [annotation(0, runs(one), one), annotation(1, runs(two), two)], images=2)
    for name in ("1", "1.png"):
        assert int(stream(tmp_path, only=(name,)).clip(0, 0).masks_BTNHW.sum()) == 64
        assert int(stream(tmp_path, without=(name,)).clip(0, 0).masks_BTNHW.sum()) == 400


def test_the_check_compares_the_limits_with_the_same_areas_as_training(tmp_path: Path) -> None:
    """Of the larger object, 400 pixels, a smaller one covers 100."""
    large, small = box(4, 4, 20, 20), box(14, 14, 10, 10)
    write(tmp_path, [annotation(0, runs(large), large), annotation(0, runs(small), small)])
    assert int(stream(tmp_path, min_area=350).clip(0, 0).masks_BTNHW.sum()) == 300
    found = examine(tmp_path, Data(min_area=350, min_side=1))
    assert (found.objects, found.fitting) == (2, 1)

"""Results in the formats of other tools, read back by those tools or by strict readers of their documented formats."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from job import mask, network, picture, video
from PIL import Image, ImageDraw

from hodor.data.layouts import open_layout
from hodor.frames import open_source
from hodor.mask_files import doctor
from hodor.mask_files.annotations import polygon
from hodor.masks import read_labels
from hodor.outputs.layouts import DavisWriter, LabelmeWriter, MotsWriter, YoloWriter, to_supervision
from hodor.outputs.polygons import polygons
from hodor.outputs.writers import Result, Writer
from hodor.segment import Outputs, segment

SIZE = (64, 80)


def labels_of(i: int) -> np.ndarray:
    """Object 1 has a hole and two parts, one of which touches the border; object 3 is in the hole on odd frames."""
    labels = np.zeros(SIZE, np.uint8)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    labels[(x - 30 - i) ** 2 + (y - 30) ** 2 < 20**2] = 1
    labels[(x - 30 - i) ** 2 + (y - 30) ** 2 < 9**2] = 0
    labels[50:, 60:] = 1
    if i % 2:
        labels[27:33, 27:33] = 3
    return labels


def write(writer: Writer, *indices: int) -> None:
    with writer:
        for i in indices:
            labels = labels_of(i)
            writer.write(Result(i, f"{i:05d}", i / 25, picture(i, SIZE), labels, (1, 3), confidence={1: 0.9}))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / max(1, np.count_nonzero(a | b))


@settings(max_examples=150, deadline=None)
@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=14)))
def test_polygons_hold_exactly_the_pixels_of_a_mask(found: np.ndarray) -> None:
    planes = [polygon(ring, found.shape) for ring in polygons(found)]  # type: ignore[arg-type]
    assert np.array_equal(sum((p.astype(int) for p in planes), np.zeros(found.shape, int)), found)


def test_a_polygon_has_the_corners_of_its_pixels() -> None:
    found = np.zeros((6, 8), bool)
    found[1:3, 2:5] = True
    assert polygons(found) == [[(2, 1), (5, 1), (5, 3), (2, 3)]]


@pytest.mark.parametrize(("number", "corners", "simple", "overlap"), [(1, 290, 54, 0.992), (2, 296, 79, 0.995)])
def test_the_example_has_the_corners_that_the_page_for_annotators_states(
    number: int, corners: int, simple: int, overlap: float
) -> None:
    found = read_labels(Path(__file__).parents[1] / "examples" / "cup.png") == number
    (exact,), (fewer,) = polygons(found), polygons(found, 1)
    assert (len(exact), len(fewer)) == (corners, simple)
    assert round(iou(polygon(fewer, (found.shape[0], found.shape[1])), found), 3) == overlap


@settings(max_examples=50, deadline=None)
@given(st.integers(4, 25), st.integers(4, 25), st.floats(0.5, 1.5))
def test_simplified_polygons_stay_near_the_mask(a: int, b: int, tolerance: float) -> None:
    y, x = np.mgrid[:60, :60]
    found = ((x - 30) / a) ** 2 + ((y - 30) / b) ** 2 < 1
    (exact,), (simple,) = polygons(found), polygons(found, tolerance)
    assert 4 <= len(simple) <= len(exact)
    outline = 2 * np.pi * max(a, b)
    assert np.count_nonzero(polygon(simple, (60, 60)) ^ found) <= outline * tolerance


def checked_labelme(path: Path) -> dict[str, Any]:
    """The checks of labelme 6.3.1 (labelme/_label_file.py), which cannot be imported without Qt."""
    data = json.loads(path.read_text())
    assert {"version", "imageData", "imagePath", "shapes", "flags", "imageHeight", "imageWidth"} == set(data)
    assert data["flags"] == {}
    assert data["imageData"] is None
    with Image.open(path.parent / data["imagePath"]) as shown:
        assert shown.size == (data["imageWidth"], data["imageHeight"])
    for shape in data["shapes"]:
        assert {"label", "points", "group_id", "shape_type", "flags", "description", "mask"} == set(shape)
        assert isinstance(shape["label"], str)
        assert isinstance(shape["group_id"], int)
        assert (shape["shape_type"], shape["flags"], shape["mask"]) == ("polygon", {}, None)
        assert len(shape["points"]) >= 3, "labelme's shape_to_mask: polygon must have points more than 2"
        assert all(len(p) == 2 and all(isinstance(v, float) for v in p) for p in shape["points"])
    return data  # type: ignore[no-any-return]


def test_labelme_files_have_one_polygon_a_part_and_give_the_masks_back(tmp_path: Path) -> None:
    write(LabelmeWriter(tmp_path / "labelme"), 0, 1)
    for i in (0, 1):
        labels = labels_of(i)
        data = checked_labelme(tmp_path / "labelme" / f"{i:05d}.json")
        assert [(s["label"], s["group_id"]) for s in data["shapes"]] == [("object_1", 1)] * 2 + [("object_3", 3)] * (i % 2)
        read = doctor.read(tmp_path / "labelme" / f"{i:05d}.json")
        assert np.array_equal(read.labels == 1, labels == 1)
        assert np.array_equal(read.labels == 2, labels == 3), "the reader numbers the objects in the order of the file"
        drawn = np.zeros(SIZE, bool)
        for shape in data["shapes"]:
            if shape["group_id"] == 1:  # as labelme.utils.shape_to_mask; Pillow also fills the pixels on the outline
                canvas = Image.new("L", SIZE[::-1])
                ImageDraw.Draw(canvas).polygon([tuple(p) for p in shape["points"]], outline=1, fill=1)
                drawn |= np.asarray(canvas) > 0
        assert iou(drawn, labels == 1) > 0.9


def read_yolo(path: Path, size: tuple[int, int], classes: int) -> dict[int, np.ndarray]:
    """Strictly: "class x1 y1 x2 y2 ...", at least three corners, coordinates in [0, 1], one object a line."""
    found = {}
    for line in path.read_text().splitlines():
        words = line.split(" ")
        assert words[0].isdecimal()
        assert int(words[0]) < classes
        values = np.array([float(word) for word in words[1:]])
        assert len(values) >= 6
        assert len(values) % 2 == 0
        assert ((values >= 0) & (values <= 1)).all()
        found[int(words[0])] = values.reshape(-1, 2) * size[::-1]
    return found


def test_yolo_labels_give_the_masks_back_and_the_names_of_all_classes(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    write(YoloWriter(tmp_path), 0, 1)
    assert (tmp_path / "data.yaml").read_text() == (
        "path: .\ntrain: images\nval: images\nnames:\n  0: object_1\n  1: object_2\n  2: object_3\n"
    )
    for i in (0, 1):
        with Image.open(tmp_path / "images" / f"{i:05d}.jpg") as shown:
            assert shown.size == SIZE[::-1]
        found = read_yolo(tmp_path / "labels" / f"{i:05d}.txt", SIZE, 3)
        assert set(found) == {0, 2} if i else {0}
        for k, points in found.items():
            wanted = labels_of(i) == k + 1
            assert np.array_equal(polygon(np.round(points, 4), SIZE), wanted)
            drawn = cv2.fillPoly(np.zeros(SIZE, np.uint8), [points.round().astype(np.int32)], 1) > 0  # as ultralytics does
            assert iou(drawn, wanted) > 0.6


def test_a_frame_without_an_object_has_an_empty_yolo_file(tmp_path: Path) -> None:
    with YoloWriter(tmp_path) as writer:
        writer.write(Result(0, "a", None, picture(0, SIZE), np.zeros(SIZE, np.uint8), (1,)))
    assert (tmp_path / "labels" / "a.txt").read_text() == ""


def test_mots_lines_are_those_of_the_format_and_decode_to_the_masks(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    write(MotsWriter(tmp_path / "mots.txt"), 1, 0)
    lines = [line.split(" ") for line in (tmp_path / "mots.txt").read_text().splitlines()]
    assert [line[:5] for line in lines] == [[*w.split(), "1", "64", "80"] for w in ("0 1001", "1 1001", "1 1003")]
    for frame, number, _, height, width, counts in lines:
        decoded = coco.decode({"size": [int(height), int(width)], "counts": counts.encode()})
        assert np.array_equal(decoded, labels_of(int(frame)) == int(number) - 1000)


def test_the_davis_folders_are_read_as_davis_2017(tmp_path: Path) -> None:
    write(DavisWriter(tmp_path / "DAVIS", "my clip.v2"), 0, 1, 2)
    assert (tmp_path / "DAVIS" / "ImageSets" / "2017" / "val.txt").read_text() == "my_clip.v2\n"
    layout = open_layout(tmp_path / "DAVIS", "davis2017", split="val")
    (name,) = layout.videos
    assert name.name == "my_clip.v2"
    for i in range(3):
        base = tmp_path / "DAVIS"
        assert np.array_equal(read_labels(base / "Annotations" / "480p" / "my_clip.v2" / f"{i:05d}.png"), labels_of(i))
        shown = np.asarray(Image.open(base / "JPEGImages" / "480p" / "my_clip.v2" / f"{i:05d}.jpg"))
        assert np.abs(shown.astype(int) - picture(i, SIZE)).mean() < 8


def test_supervision_gets_masks_boxes_ids_and_confidence() -> None:
    supervision = pytest.importorskip("supervision")
    labels = labels_of(1)
    detections = to_supervision(labels, {1: 0.9, 3: 0.5})
    assert isinstance(detections, supervision.Detections)
    assert detections.tracker_id.tolist() == [1, 3]
    assert np.allclose(detections.confidence, [0.9, 0.5])
    assert np.array_equal(detections.mask, np.stack([labels == 1, labels == 3]))
    assert detections.xyxy[1].tolist() == [27, 27, 32, 32]
    drawn = supervision.MaskAnnotator(color_lookup=supervision.ColorLookup.TRACK).annotate(picture(0, SIZE).copy(), detections)
    assert (drawn[labels > 0] != picture(0, SIZE)[labels > 0]).any()
    assert len(to_supervision(np.zeros(SIZE, np.uint8))) == 0
    assert to_supervision(labels, {1: 0.9}).confidence is None


def test_supervision_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(ValueError, match="expected the package supervision, got none: pip install supervision"):
        to_supervision(labels_of(1))


def test_a_resumed_run_has_the_files_of_an_unbroken_one_and_overwrite_removes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hodor.segment.SAVE_EVERY", 2)
    clip = video(tmp_path / "clip.mp4", 14)
    options: dict[str, Any] = {"mots": True, "labelme": True, "yolo": True, "davis": True, "simplify": 1.0}

    def run(folder: Path, until: int | None = None, outputs: dict[str, Any] = options, **more: Any) -> None:
        def progress(count: int, total: int | None) -> None:
            if count == until:
                raise KeyboardInterrupt

        with open_source(clip) as source:
            segment(source, {6: mask(6)}, copy.copy(network()), Outputs(folder, **outputs), progress=progress, **more)

    run(tmp_path / "whole")
    run(tmp_path / "parts", 9)
    run(tmp_path / "parts", resume=True)
    files = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*") if p.is_file())
    assert len(files) == 14 * 7 + 4
    assert sorted(p.relative_to(tmp_path / "parts") for p in (tmp_path / "parts").rglob("*") if p.is_file()) == files
    for file in files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes(), file
    own = tmp_path / "parts" / "yolo" / "notes.doc"
    own.write_text("mine")
    run(tmp_path / "parts", outputs={}, overwrite=True)
    left = sorted(str(p.relative_to(tmp_path / "parts")) for p in (tmp_path / "parts").iterdir())
    assert left == ["masks", "run.json", "yolo"]
    assert [p.name for p in (tmp_path / "parts" / "yolo").iterdir()] == ["notes.doc"]


def test_simplify_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected simplify of 0 to 100 pixels, got -1"):
        Outputs(tmp_path, simplify=-1)

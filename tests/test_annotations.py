"""COCO and labelme JSON, read through the doctor. Run lengths are compared with pycocotools where it is installed."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from test_masks import DATA, one_line

from hodor.mask_files import annotations, doctor

SQUARE = [2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]  # x 2..5, y 1..3
PLANES = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))


def square(i: int = 1, shape: tuple[int, int] = (8, 10)) -> np.ndarray:
    labels = np.zeros(shape, int)
    labels[1:4, 2:6] = i
    return labels


def save(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data))
    return path


def coco(*segmentations: Any, **more: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a/frame.jpg", "height": 8, "width": 10}],
        "annotations": [
            {"id": 900 + k, "image_id": 7, "category_id": 3, "segmentation": s} for k, s in enumerate(segmentations)
        ],
        "categories": [{"id": 3, "name": "cat"}],
        **more,
    }


def runs(plane: np.ndarray) -> list[int]:
    """Run lengths by counting, down the columns, zeros first."""
    counts, value = [0], False
    for pixel in plane.T.ravel():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def test_a_polygon_covers_the_pixels_whose_centres_are_inside() -> None:
    np.testing.assert_array_equal(annotations.polygon(SQUARE, (8, 10)), square() == 1)
    y, x = np.mgrid[:60, :80] + 0.5
    triangle = annotations.polygon([(10, 5), (70, 20), (30, 55)], (60, 80))
    inside = ((x - 10) * 15 < (y - 5) * 60) & ((x - 70) * 35 < (y - 20) * -40) & ((x - 30) * -50 < (y - 55) * -20)
    np.testing.assert_array_equal(triangle, inside)
    assert abs(triangle.sum() - 1350) < 40  # its area


def test_a_polygon_is_even_odd_and_cut_at_the_borders() -> None:
    star = annotations.polygon(
        [(-5, -5), (15, -5), (15, 15), (-5, 15), (-5, -5), (2, 2), (2, 6), (6, 6), (6, 2), (2, 2)], (8, 10)
    )
    assert star.sum() == 80 - 16
    assert not star[2:6, 2:6].any()
    assert not annotations.polygon([3.1, 3.1, 3.2, 3.1, 3.2, 3.2], (8, 10)).any()


@given(PLANES)
def test_runs_decode_to_the_plane_they_count(plane: np.ndarray) -> None:
    np.testing.assert_array_equal(annotations.decode_runs(runs(plane), plane.shape), plane)


@given(PLANES)
def test_compressed_runs_decode_as_pycocotools_writes_them(plane: np.ndarray) -> None:
    coding = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    packed = coding.encode(np.asfortranarray(plane.astype(np.uint8)))["counts"]
    for counts in (packed, packed.decode()):
        np.testing.assert_array_equal(annotations.decode_runs(counts, plane.shape), plane)


def test_a_long_compressed_run_with_negative_differences_decodes() -> None:
    # 3, 5000, 2, then 4000 as 4000 - 5000, by the definition: 5 bits a character, low first, 32 for more, from '0'
    assert annotations.decode_runs("3Xl42hPO", (1, 9005))[0, [2, 3, 5002, 5003, 5004, 5005, 9004]].tolist() == [
        False, True, True, False, False, True, True,
    ]  # fmt: skip


def test_coco_polygons_plain_and_compressed_runs_give_the_same_object(tmp_path: Path) -> None:
    plane = square() == 1
    forms = [[SQUARE], {"size": [8, 10], "counts": runs(plane)}, {"size": [8, 10], "counts": "a0350000000k0"}]
    coding = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    forms[2]["counts"] = coding.encode(np.asfortranarray(plane.astype(np.uint8)))["counts"].decode()
    for form in forms:
        reading = doctor.read(save(tmp_path / "c.json", coco(form)))
        np.testing.assert_array_equal(reading.labels, square())
        assert (reading.kind, reading.names) == ("COCO JSON", {1: "cat"})


def test_coco_ids_follow_the_order_and_the_later_object_is_used(tmp_path: Path) -> None:
    reading = doctor.read(save(tmp_path / "c.json", coco([[0, 0, 4, 0, 4, 8, 0, 8]], [SQUARE])))
    assert np.count_nonzero(reading.labels == 1) == 32 - 6
    np.testing.assert_array_equal(reading.labels == 2, square() == 1)
    assert "ids follow the order of the annotations" in reading.notes
    assert "6 px are in several objects: the later object is used" in reading.notes


@pytest.mark.parametrize(
    ("attributes", "kind"), [({"rotation": 30.0}, "rotated boxes"), ({"rotation": 0.0}, "boxes"), (None, "boxes")]
)
def test_boxes_alone_are_named(tmp_path: Path, attributes: dict[str, float] | None, kind: str) -> None:
    data = coco([])
    data["annotations"][0] |= {"bbox": [1, 1, 4, 4], "attributes": attributes}
    words = (
        rf"c\.json holds {kind} alone, expected outlines or masks: draw polygons or masks, or convert the boxes to polygons$"
    )
    with pytest.raises(ValueError, match=words):
        doctor.read(save(tmp_path / "c.json", data))


@pytest.mark.parametrize("inside", [True, False])
def test_coco_track_ids_are_the_ids_and_equal_ones_one_object(tmp_path: Path, inside: bool) -> None:
    data = coco([SQUARE], [[8, 0, 10, 0, 10, 8, 8, 8]], [[0, 6, 2, 6, 2, 8, 0, 8]], [[0, 1, 6, 1, 6, 3, 0, 3]])
    for annotation, track in zip(data["annotations"], (300, 4, 300, 300), strict=True):
        annotation.update({"attributes": {"track_id": track}} if inside else {"track_id": track})
    reading = doctor.read(save(tmp_path / "c.json", data))
    assert reading.objects == (4, 300)
    assert [np.count_nonzero(reading.labels == i) for i in (4, 300)] == [16, 12 + 4 + 4]
    assert not any("several objects" in note for note in reading.notes)  # an object may overlap itself
    assert reading.labels.dtype == np.uint16


def test_of_several_pictures_one_is_chosen_by_name_or_id(tmp_path: Path) -> None:
    data = coco([SQUARE], [[0, 0, 1, 0, 1, 1, 0, 1]])
    data["images"].append({"id": 8, "file_name": "b.jpg", "height": 8, "width": 10})
    data["annotations"][1]["image_id"] = 8
    path = save(tmp_path / "c.json", data)
    for image in ("a/frame.jpg", "frame.jpg", "frame", 7, "7"):
        np.testing.assert_array_equal(doctor.read(path, image=image).labels, square())
    assert np.count_nonzero(doctor.read(path, image="b").labels) == 1
    with pytest.raises(ValueError, match=r"holds 2 pictures \(a/frame.jpg, b.jpg\): name one of them as image") as error:
        doctor.read(path)
    one_line(error)
    with pytest.raises(ValueError, match=r"holds no picture 'c': it has a/frame.jpg, b.jpg") as error:
        doctor.read(path, image="c")
    one_line(error)
    data["annotations"] = data["annotations"][:1]
    np.testing.assert_array_equal(doctor.read(save(path, data)).labels, square())  # only one has annotations


def test_many_pictures_are_listed_short(tmp_path: Path) -> None:
    data = coco(*[[SQUARE]] * 9)
    data["images"] = [{"id": k, "file_name": f"{k}.jpg", "height": 8, "width": 10} for k in range(9)]
    for k, annotation in enumerate(data["annotations"]):
        annotation["image_id"] = k
    with pytest.raises(ValueError, match=r"holds 9 pictures \(0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg and 4 more\)"):
        doctor.read(save(tmp_path / "c.json", data))


def test_a_bare_list_and_a_single_run_length_are_read(tmp_path: Path) -> None:
    segmentation = {"size": [8, 10], "counts": runs(square() == 1)}
    for data in ([{"segmentation": segmentation, "area": 12}], segmentation):
        np.testing.assert_array_equal(doctor.read(save(tmp_path / "c.json", data)).labels, square())


def test_the_size_comes_from_the_file_else_from_the_video(tmp_path: Path) -> None:
    data = coco([SQUARE])
    reading = doctor.read(save(tmp_path / "c.json", data), size=(16, 20))
    np.testing.assert_array_equal(reading.labels, square().repeat(2, 0).repeat(2, 1))
    del data["images"][0]["height"]
    path = save(tmp_path / "c.json", data)
    np.testing.assert_array_equal(doctor.read(path, size=(8, 10)).labels, square())
    with pytest.raises(ValueError, match="does not state the height and width of the picture, and no size was given"):
        doctor.read(path)


def labelme(*shapes: dict[str, Any]) -> dict[str, Any]:
    return {"version": "5.4", "imageHeight": 8, "imageWidth": 10, "shapes": list(shapes)}


def shape(label: str, points: list[list[float]], kind: str = "polygon", group: int | None = None) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": group}


CORNERS = [[2.0, 1.0], [6.0, 1.0], [6.0, 4.0], [2.0, 4.0]]


def test_labelme_polygon_and_rectangle_agree_and_a_circle_is_round(tmp_path: Path) -> None:
    for drawn in (shape("cat", CORNERS), shape("cat", [[6, 4], [2, 1]], "rectangle")):
        reading = doctor.read(save(tmp_path / "l.json", labelme(drawn)))
        np.testing.assert_array_equal(reading.labels, square())
        assert (reading.kind, reading.names) == ("labelme JSON", {1: "cat"})
    disc = doctor.read(save(tmp_path / "l.json", labelme(shape("ball", [[5, 4], [5, 6.2]], "circle")))).labels
    assert disc[4].tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0, 0]
    assert (disc == disc[::-1]).all()
    assert disc.sum() == 16  # centres within 2.2 of the corner (5, 4): a 4x4 square, its corners 2.12 away


def test_labelme_shapes_of_one_label_and_group_are_one_object(tmp_path: Path) -> None:
    left, right = [[0, 0], [1, 0], [1, 2], [0, 2]], [[8, 6], [9, 6], [9, 8], [8, 8]]
    apart = labelme(shape("cat", CORNERS), shape("cat", left), shape("cat", right))
    assert doctor.read(save(tmp_path / "l.json", apart)).objects == (1, 2, 3)
    grouped = labelme(shape("cat", CORNERS, group=1), shape("dog", left, group=1), shape("cat", right, group=1))
    reading = doctor.read(save(tmp_path / "l.json", grouped))
    assert [np.count_nonzero(reading.labels == i) for i in (1, 2)] == [14, 2]
    assert reading.names == {1: "cat", 2: "dog"}


def test_a_labelme_mask_shape_is_placed_at_its_corner(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((3, 4), 255, np.uint8)).save(file, "PNG")
    drawn = shape("cat", [[2, 1], [5, 3]], "mask") | {"mask": base64.b64encode(file.getvalue()).decode()}
    np.testing.assert_array_equal(doctor.read(save(tmp_path / "l.json", labelme(drawn))).labels, square())
    drawn["points"] = [[8, 6], [11, 8]]
    assert np.argwhere(doctor.read(save(tmp_path / "l.json", labelme(drawn))).labels).tolist() == [
        [6, 8], [6, 9], [7, 8], [7, 9],
    ]  # fmt: skip


def test_what_is_left_out_has_a_note(tmp_path: Path) -> None:
    drawn = labelme(shape("cat", CORNERS), shape("eye", [[1, 1]], "point"), shape("dot", [[1.1, 1.1]] * 3))
    reading = doctor.read(save(tmp_path / "l.json", drawn))
    assert reading.notes == ("shapes of kind point left out: 1", "object 2 dot covers no pixel")
    reading = doctor.read(save(tmp_path / "c.json", coco([SQUARE], [])))
    assert "1 annotations without a segmentation left out" in reading.notes


@pytest.mark.parametrize("label", ["__ignore__", "_background_"])
def test_labelme_regions_that_are_no_object_are_left_out(tmp_path: Path, label: str) -> None:
    drawn = labelme(shape(label, [[0, 0], [10, 0], [10, 8], [0, 8]]), shape("cat", CORNERS), shape(label, CORNERS))
    reading = doctor.read(save(tmp_path / "l.json", drawn))
    np.testing.assert_array_equal(reading.labels, square())
    assert reading.names == {1: "cat"}
    assert reading.notes == ("shapes labelled __ignore__ or _background_ are no objects and left out: 2",)


@pytest.mark.parametrize("tracks", [(0, 3), ("0", "3"), (0.0, 3.0)])
def test_tracks_from_0_are_ids_from_1(tmp_path: Path, tracks: tuple[Any, ...]) -> None:
    data = coco([SQUARE], [[8, 0, 10, 0, 10, 8, 8, 8]])
    for annotation, track in zip(data["annotations"], tracks, strict=True):
        annotation["attributes"] = {"track_id": track}
    reading = doctor.read(save(tmp_path / "c.json", data))
    assert reading.objects == (1, 4)
    assert reading.notes == ("ids are the track_id of the annotations, plus 1 since they count from 0",)


@pytest.mark.parametrize("track", [None, -1, 70000, True, "a", 1.5, float("nan")])
def test_a_track_id_that_is_no_number_leaves_the_order(tmp_path: Path, track: Any) -> None:
    data = coco([SQUARE], [[8, 0, 10, 0, 10, 8, 8, 8]])
    data["annotations"][0]["track_id"], data["annotations"][1]["track_id"] = 5, track
    reading = doctor.read(save(tmp_path / "c.json", data))
    assert reading.objects == (1, 2)
    assert reading.notes == ("ids follow the order of the annotations: only 1 of 2 have a track_id",)


def test_a_picture_of_a_youtube_vis_file_has_the_ids_of_its_annotations(tmp_path: Path) -> None:
    plane = square() == 1
    other = np.roll(plane, 4, 0)
    data = {
        "videos": [{"id": 1, "height": 8, "width": 10, "file_names": ["clip/00000.jpg", "clip/00001.jpg"]}],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [
            {"id": i, "video_id": 1, "category_id": 1, "segmentations": [p and {"size": [8, 10], "counts": p} for p in planes]}
            for i, planes in ((3, (runs(plane), None)), (7, (runs(other), runs(plane))))
        ],
    }
    path = save(tmp_path / "v.json", data)
    for image in ("00001", "clip/00001.jpg", 1, "1"):
        reading = doctor.read(path, image=image)
        np.testing.assert_array_equal(reading.labels, square(7))
    assert reading.kind == "YouTube-VIS JSON"
    assert doctor.read(path, image=0).objects == (3, 7)
    with pytest.raises(ValueError, match="holds no picture '2'"):
        doctor.read(path, image="2")
    data["videos"].append({"id": 2, "height": 8, "width": 10, "file_names": ["other/00000.jpg"]})
    data["annotations"].append(
        {**data["annotations"][1], "id": 9, "video_id": 2, "segmentations": [data["annotations"][1]["segmentations"][0]]}
    )
    path = save(tmp_path / "v.json", data)
    assert doctor.read(path, image="other/00000.jpg").objects == (9,)
    with pytest.raises(ValueError, match=r"holds 2 pictures \(clip/00000.jpg, other/00000.jpg\)"):
        doctor.read(path, image="00000")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"a": 1}, "is JSON, but neither COCO"),
        ([1, 2], "is JSON, but neither COCO"),
        ({"videos": [], "annotations": []}, "holds whole videos"),
        (coco(), "holds no outline or run length to draw"),
        (labelme(shape("x", [[1, 1]], "point")), "holds no outline or run length to draw"),
        (labelme(shape("x", [])), "is empty: no object in 10x8 pixels"),
        (labelme({"points": 3, "label": "x"}), "is damaged|not pairs of numbers"),
        (coco([[1, 2, 3]]), "holds an outline that is not pairs of numbers"),
        (coco({"size": [8, 10], "counts": [3, 4]}), "holds runs of 7 pixels for a picture of 10x8"),
        (coco({"size": [8, 10], "counts": [90, -10]}), "holds runs of 80 pixels for a picture of 10x8"),
        (coco({"size": [8, 10], "counts": "~~~"}), "holds runs of"),
        (coco({"size": [4, 5], "counts": [20]}), "holds runs for 5x4 in a picture of 10x8"),
        (coco({"size": [8, 10]}), "is damaged: KeyError 'counts'"),
        (labelme(shape("x", [[1, 1], [2, 2]], "mask") | {"mask": "no picture"}), "whose picture cannot be read"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        doctor.read(save(tmp_path / "x.json", data))
    assert one_line(error).startswith(f"mask {tmp_path / 'x.json'}")


@settings(max_examples=50)
@given(st.text(max_size=30), PLANES)
def test_any_string_of_runs_decodes_or_is_refused(text: str, plane: np.ndarray) -> None:
    try:
        assert annotations.decode_runs(text, plane.shape).shape == plane.shape
    except ValueError as error:
        assert "holds runs" in str(error)  # noqa: PT017


def test_examine_names_the_objects_of_a_json(tmp_path: Path) -> None:
    lines = doctor.examine(save(tmp_path / "c.json", coco([SQUARE])))
    assert lines[0].startswith(f"file    {tmp_path / 'c.json'}: JSON")
    assert "object  1 cat: 12 px (15.0%), x 2..5, y 1..3" in lines


def test_real_coco_outlines_agree_with_pycocotools(tmp_path: Path) -> None:
    source = DATA / "images/coco_full/instances.json"
    if not source.exists():
        pytest.skip(f"no {source} (set HODOR_DATA to the folder that holds it)")
    coding = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    data = json.loads(source.read_text())
    inside = outside = 0
    for annotation in data["annotations"][:300:3]:
        image = next(i for i in data["images"] if i["id"] == annotation["image_id"])
        if not isinstance(annotation["segmentation"], list):
            continue
        size = image["height"], image["width"]
        theirs = coding.decode(coding.merge(coding.frPyObjects(annotation["segmentation"], *size))).astype(bool)
        one = {"images": [image], "annotations": [annotation]}
        ours = doctor.read(save(tmp_path / "c.json", one)).labels > 0
        if theirs.sum() > 2000:
            assert np.sum(ours & theirs) > 0.97 * np.sum(ours | theirs)
        inside, outside = inside + int(np.sum(ours & theirs)), outside + int(np.sum(ours ^ theirs))
    assert outside < 0.02 * inside


def test_corners_far_outside_are_clipped_to_the_picture(tmp_path: Path) -> None:
    outline = [-1e300, -1e300, 1e300, -1e300, 1e300, 1e300, -1e300, 1e300]
    reading = doctor.read(save(tmp_path / "a.json", coco([outline])))
    assert reading.labels.all()


@pytest.mark.parametrize(
    ("kind", "points"),
    [("circle", [[0, 0]]), ("circle", [[0, 0], [1e999, 2]]), ("rectangle", [1, 2, 3]), ("mask", [[None, 1], [2, 3]])],
)
def test_shapes_without_two_points_are_refused(kind: str, points: Any, tmp_path: Path) -> None:
    shape = {"label": "cup", "points": points, "shape_type": kind, "mask": ""}
    content = {"shapes": [shape], "imageHeight": 8, "imageWidth": 10}
    with pytest.raises(ValueError, match=f"a.json holds a {kind} whose points are not two pairs of numbers"):
        doctor.read(save(tmp_path / "a.json", content))


@pytest.mark.parametrize("size", [(float("inf"), 10), ([8], 10), ({"a": 1}, 10)])
def test_a_size_that_is_no_number_is_refused(size: Any, tmp_path: Path) -> None:
    content = {"shapes": [{"label": "a", "points": [[0, 0], [4, 4], [0, 4]]}], "imageHeight": size[0], "imageWidth": size[1]}
    with pytest.raises(ValueError, match=r"a\.json is damaged"):
        doctor.read(save(tmp_path / "a.json", content))


@pytest.mark.parametrize(("left", "top"), [(-3, -2), (7, 6), (100, 0), (0, -100), (2, 3)])
def test_a_mask_shape_is_cropped_at_the_borders(left: int, top: int, tmp_path: Path) -> None:
    small = np.arange(20).reshape(4, 5) % 3 > 0
    expected = np.zeros((8, 10), bool)
    for y, x in zip(*np.nonzero(small), strict=True):
        if 0 <= y + top < 8 and 0 <= x + left < 10:
            expected[y + top, x + left] = True
    out = io.BytesIO()
    Image.fromarray(small).save(out, "PNG")
    stamped = annotations._stamp(base64.b64encode(out.getvalue()).decode(), left, top, (8, 10))
    assert (stamped == expected).all()

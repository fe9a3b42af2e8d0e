"""One object keeps one id in several mask files, in every form and every pair of forms; files that contradict are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job import SIZE, checkpoint, masks_in, stills
from PIL import Image

from hodor import cli
from hodor.mask_files import doctor, identity
from hodor.mask_files.identity import Given, join
from hodor.masks import palette

H, W = 64, 96
Y, X = np.mgrid[:H, :W]
CAT, DOG = (Y - 24) ** 2 + (X - 24) ** 2 < 300, (abs(Y - 44) < 12) & (abs(X - 70) < 14)
PLANES = {1: CAT, 2: DOG}
NAMES = {1: "cat", 2: "dog", 3: "eel"}
COLOURS = np.array([(0, 0, 0), (250, 50, 83), (51, 221, 255), (250, 250, 55)], np.uint8)


def labels_of(ids: Sequence[int]) -> np.ndarray:
    labels = np.zeros((H, W), np.uint8)
    for i in ids:
        labels[PLANES[i]] = i
    return labels


def indexed(labels: np.ndarray, colours: np.ndarray) -> Image.Image:
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(colours.astype(np.uint8).tobytes())
    return picture


def runs(plane: np.ndarray) -> dict[str, Any]:
    flat = np.concatenate([[0], plane.T.ravel().astype(int)])
    starts = [0, *np.flatnonzero(np.diff(flat)).tolist(), plane.size]
    return {"counts": np.diff(starts).tolist(), "size": list(plane.shape)}


def coco(ids: Sequence[int], category: Callable[[int], int], **more: Callable[[int], Any]) -> dict[str, Any]:
    annotations = [
        {
            "id": n,
            "image_id": 1,
            "category_id": category(i),
            "segmentation": runs(PLANES[i]),
            **{k: make(i) for k, make in more.items()},
        }
        for n, i in enumerate(ids, 1)
    ]
    return {
        "categories": [{"id": i, "name": name} for i, name in NAMES.items()],
        "images": [{"id": 1, "height": H, "width": W, "file_name": "frame.png"}],
        "annotations": annotations,
    }


def polygon(i: int, label: str, group: int | None = None) -> dict[str, Any]:
    y, x = np.nonzero(PLANES[i])
    x0, y0, x1, y1 = int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1
    return {"label": label, "group_id": group, "shape_type": "rectangle", "points": [[x0, y0], [x1, y1]]}


def save_json(path: Path, data: Any) -> Path:
    path = path.with_suffix(".json")
    path.write_text(json.dumps(data))
    return path


def labelme(path: Path, *shapes: dict[str, Any]) -> Path:
    return save_json(path, {"imageHeight": H, "imageWidth": W, "shapes": list(shapes)})


def picture(path: Path, image: Image.Image, ending: str = ".png", **options: Any) -> Path:
    path = path.with_name(path.name + ending)
    image.save(path, **options)
    return path


def folder(path: Path, ids: Sequence[int], name: Callable[[int], str]) -> Path:
    path.mkdir()
    for i in ids:
        picture(path / name(i), Image.fromarray((PLANES[i] * 255).astype(np.uint8)))
    return path


def white(ids: Sequence[int]) -> Image.Image:
    return Image.fromarray((labels_of(ids) > 0).astype(np.uint8) * 255)


FORMS: dict[str, Callable[[Path, Sequence[int]], Path]] = {
    "palette": lambda p, ids: picture(p, indexed(labels_of(ids), palette())),
    "palette of other colours": lambda p, ids: picture(p, indexed(labels_of(ids), COLOURS)),
    "grey": lambda p, ids: picture(p, Image.fromarray(labels_of(ids))),
    "16-bit grey": lambda p, ids: picture(p, Image.fromarray(labels_of(ids).astype(np.uint16))),
    "davis colours": lambda p, ids: picture(p, Image.fromarray(palette()[labels_of(ids)])),
    "colours": lambda p, ids: picture(p, Image.fromarray(COLOURS[labels_of(ids)])),
    "colours, lossless webp": lambda p, ids: picture(p, Image.fromarray(COLOURS[labels_of(ids)]), ".webp", lossless=True),
    "numbered folder": lambda p, ids: folder(p, ids, lambda i: f"obj_{i}"),
    "folder numbered from 0": lambda p, ids: folder(p, ids, lambda i: f"obj_{i - 1}"),
    "named folder": lambda p, ids: folder(p, ids, NAMES.__getitem__),
    "coco tracks": lambda p, ids: save_json(p, coco(ids, lambda i: 3, track_id=lambda i: i)),
    "cvat tracks": lambda p, ids: save_json(
        p, coco(ids, lambda i: 3, attributes=lambda i: {"track_id": i - 1, "keyframe": True})
    ),
    "tracks from 0": lambda p, ids: save_json(p, coco(ids, lambda i: 3, track_id=lambda i: i - 1)),
    "coco categories": lambda p, ids: save_json(p, coco(ids[::-1], lambda i: i)),
    "labelme": lambda p, ids: labelme(p, *[polygon(i, NAMES[i]) for i in ids[::-1]]),
    "labelme groups": lambda p, ids: labelme(p, *[polygon(i, "pet", i) for i in ids[::-1]]),
}
"""Forms that state which object is which: name -> function that writes objects into a file beside a path."""
SILENT: dict[str, Callable[[Path, Sequence[int]], Path]] = {
    "0 and 255": lambda p, ids: picture(p, white(ids)),
    "1 bit": lambda p, ids: picture(p, white(ids).convert("1")),
    "0 and 65535": lambda p, ids: picture(p, Image.fromarray((labels_of(ids) > 0).astype(np.uint16) * 65535)),
    "jpeg": lambda p, ids: picture(p, white(ids), ".jpg", quality=90),
    "lossy webp": lambda p, ids: picture(p, white(ids), ".webp", quality=80),
    "alpha": lambda p, ids: picture(p, Image.merge("LA", [white(()), white(ids)])),
    "coco without names": lambda p, ids: save_json(p, coco(ids, lambda i: 9)),
}
"""Forms that do not."""
PAIRS = [
    {"palette", "grey", "16-bit grey", "davis colours", "numbered folder", "coco tracks"},
    {"palette of other colours", "grey", "16-bit grey", "numbered folder", "coco tracks", "palette", "davis colours"},
    {"colours", "colours, lossless webp", "palette of other colours"},
    {"named folder", "coco categories", "labelme"},
]
"""Forms that can be combined."""
FROM_0 = {"folder numbered from 0", "tracks from 0"}
NUMBERS = {*PAIRS[0], *PAIRS[1], *FROM_0} - {"colours"}
"""Forms with ids. That a file counts from 0 is not visible in it where its object 0 is missing."""


def given(path: Path, frame: int) -> Given:
    return Given(path.name, frame, doctor.read(path))


def ids_at(joined: identity.Joined, frame: int) -> dict[int, set[int]]:
    """Object of the scene -> ids on its pixels, labelled or not."""
    return {i: set(joined.labels[frame][plane].tolist()) - {0} for i, plane in PLANES.items()}


def refusal(*masks: Given) -> str:
    with pytest.raises(ValueError, match=r"contradict each other|expected") as error:
        join(masks)
    message = str(error.value)
    assert "\n" not in message
    assert ": " in message
    assert len(message) < 400
    return message


@pytest.mark.parametrize("late", FORMS)
@pytest.mark.parametrize("first", FORMS)
def test_an_object_keeps_its_id_in_every_pair_of_forms_or_the_pair_is_refused(tmp_path: Path, first: str, late: str) -> None:
    both, dog = FORMS[first](tmp_path / "both", (1, 2)), FORMS[late](tmp_path / "dog", (2,))
    cat, all_late = FORMS[first](tmp_path / "cat", (1,)), FORMS[late](tmp_path / "all", (1, 2))
    combined = first == late or any({first, late} <= pair for pair in PAIRS)
    if first != late and "labelme groups" in (first, late) and {first, late} & {"labelme", "coco categories"}:
        return  # these state names of other objects
    if {first, late} in ({"numbered folder", "folder numbered from 0"}, {"coco tracks", "tracks from 0"}):
        return  # numbers of one kind are one numbering
    for masks in ([given(both, 0), given(dog, 6)], [given(dog, 0), given(both, 6)], [given(cat, 0), given(all_late, 6)]):
        if not combined:
            if {first, late} <= NUMBERS and not any(
                m.kind.endswith("0") for g in masks for ms in g.reading.marks.values() for m in ms
            ):
                continue
            refusal(*masks)
            continue
        joined = join(masks)
        at = [ids_at(joined, 0), ids_at(joined, 6)]
        for i in PLANES:
            assert len(at[0][i] | at[1][i]) == 1, (masks, at)
        assert at[0][1] | at[1][1] != at[0][2] | at[1][2]
    if first == late:
        joined = join([given(cat, 0), given(dog, 6)])
        assert ids_at(joined, 0)[1] != ids_at(joined, 6)[2]


@pytest.mark.parametrize("silent", SILENT)
@pytest.mark.parametrize("first", [*FORMS, *SILENT])
def test_a_mask_without_identity_is_used_for_one_object_and_refused_for_two(tmp_path: Path, first: str, silent: str) -> None:
    write = (FORMS | SILENT)[first]
    cat = FORMS["numbered folder"](tmp_path / "one", (1,)) if first == "numbered folder" else write(tmp_path / "one", (1,))
    shown = SILENT[silent](tmp_path / "white", (1,))
    joined = join([given(cat, 0), given(shown, 3)])
    assert ids_at(joined, 0)[1] == ids_at(joined, 3)[1]
    if first in SILENT and first != "coco without names":
        return  # they can hold one object only
    other = SILENT[silent](tmp_path / "other", (2,))
    both = write(tmp_path / "both", (1, 2))
    for masks in ([given(both, 0), given(other, 3)], [given(other, 0), given(both, 3)]):
        assert "does not state" in refusal(*masks)


def test_one_mask_has_the_ids_of_the_doctor(tmp_path: Path) -> None:
    for name, write in (FORMS | SILENT).items():
        path = write(tmp_path / name, (1, 2) if name in FORMS or "coco" in name else (1,))
        reading = doctor.read(path)
        np.testing.assert_array_equal(join([Given("m", 4, reading)]).labels[4], reading.labels)


def test_the_table_states_what_in_which_file_became_which_id(tmp_path: Path) -> None:
    first = FORMS["cvat tracks"](tmp_path / "f0", (1, 2))
    late = FORMS["cvat tracks"](tmp_path / "f6", (2,))
    joined = join([given(late, 6), given(first, 0)])
    assert joined.rows == (
        (1, 0, "f0.json", "track 0, name eel"),
        (2, 0, "f0.json", "track 1, name eel"),
        (2, 6, "f6.json", "track 1, name eel"),
    )
    assert identity.lines_of(joined.rows) == [
        "id  frame  mask     object in the mask",
        "1   0      f0.json  track 0, name eel",
        "2   0      f0.json  track 1, name eel",
        "2   6      f6.json  track 1, name eel",
    ]


def test_a_new_colour_and_a_new_name_get_the_next_free_id(tmp_path: Path) -> None:
    first = picture(tmp_path / "a", Image.fromarray(COLOURS[labels_of((1, 2))]))
    late = picture(tmp_path / "b", Image.fromarray(COLOURS[np.where(DOG, 3, 0)]))
    joined = join([given(first, 0), given(late, 6)])
    assert [(row.id, row.stated) for row in joined.rows] == [
        (1, "colour (51, 221, 255)"),
        (2, "colour (250, 50, 83)"),
        (3, "colour (250, 250, 55)"),
    ]
    masks = [labelme(tmp_path / "c", polygon(1, "cat")), labelme(tmp_path / "d", polygon(2, "eel"), polygon(1, "cat"))]
    joined = join([given(path, frame) for frame, path in enumerate(masks)])
    assert [(row.id, row.stated) for row in joined.rows] == [(1, "name cat"), (1, "name cat"), (2, "name eel")]


def test_an_id_that_a_later_file_states_is_kept(tmp_path: Path) -> None:
    """The colour has no number of its own; the palette of the later file has the same colours with ids."""
    colours = np.zeros((41, 3), np.uint8)
    colours[[20, 40]] = COLOURS[[1, 2]]
    first = picture(tmp_path / "a", Image.fromarray(COLOURS[labels_of((1, 2))]))
    late = picture(tmp_path / "b", indexed(np.where(DOG, 40, 0), colours))
    joined = join([given(first, 0), given(late, 6)])
    assert ids_at(joined, 0) == {1: {2}, 2: {40}}
    assert ids_at(joined, 6)[2] == {40}


@pytest.mark.parametrize("name", ["obj_2", "shot3 object 002", "id2", "clip_instance-2"])
@pytest.mark.parametrize("value", [255, 1])
def test_the_id_of_a_single_file_is_in_its_name(tmp_path: Path, name: str, value: int) -> None:
    path = picture(tmp_path / name, Image.fromarray((DOG * value).astype(np.uint8)))
    both = FORMS["palette"](tmp_path / "both", (1, 2))
    assert doctor.read(path).objects == (2,)
    joined = join([given(both, 0), given(path, 6)])
    assert ids_at(joined, 6)[2] == {2}


@pytest.mark.parametrize("name", ["00007", "late_7", "frame7", "solid2", "video12"])
def test_the_number_of_a_frame_is_no_id(tmp_path: Path, name: str) -> None:
    assert doctor.read(picture(tmp_path / name, Image.fromarray((DOG * 255).astype(np.uint8)))).objects == (1,)


def test_a_stored_id_counts_more_than_the_name(tmp_path: Path) -> None:
    path = picture(tmp_path / "obj_2", Image.fromarray((DOG * 5).astype(np.uint8)))
    assert doctor.read(path).objects == (5,)
    (tmp_path / "clip").mkdir()
    picture(tmp_path / "clip" / "00005", indexed(labels_of((1, 2)), palette()))
    assert doctor.read(tmp_path / "clip").objects == (1, 2)
    (tmp_path / "clip" / "00005.png").unlink()
    picture(tmp_path / "clip" / "00005", indexed(labels_of((1,)), palette()))
    assert doctor.read(tmp_path / "clip").objects == (1,)


def test_tracks_from_0_count_from_0_in_every_file_of_the_run(tmp_path: Path) -> None:
    """The later file has no track 0; the other pictures of a file count, too."""
    data = coco((1, 2), lambda i: i, track_id=lambda i: i - 1)
    data["images"].append({"id": 2, "height": H, "width": W, "file_name": "later.png"})
    data["annotations"].append({**data["annotations"][1], "id": 9, "image_id": 2})
    reading = doctor.read(save_json(tmp_path / "task", data), image="later.png")
    assert (reading.objects, reading.names) == ((2,), {2: "dog"})
    assert any("plus 1 since they count from 0" in note for note in reading.notes)


def contradictions(folder_: Path) -> dict[str, tuple[Path, Path]]:
    swapped = COLOURS[[0, 2, 1, 3]]
    return {
        r"id 1 is colour \(250, 50, 83\) in the first and colour \(51, 221, 255\)": (
            picture(folder_ / "p0", indexed(labels_of((1, 2)), COLOURS)),
            picture(folder_ / "p6", indexed(labels_of((1, 2)), swapped)),
        ),
        r"id 1 is colour \(250, 50, 83\) in the first and colour \(250, 250, 55\)": (
            picture(folder_ / "q0", indexed(labels_of((1,)), COLOURS)),
            picture(folder_ / "q6", indexed(labels_of((1,)), COLOURS[[0, 3, 2, 1]])),
        ),
        r"colour \(0, 128, 0\) is id 2 in the first and id 1 in the second": (
            picture(folder_ / "r0", indexed(labels_of((1, 2)), palette())),
            picture(folder_ / "r6", indexed(labels_of((1,)), palette()[[0, 2, 1]])),
        ),
        "id 1 is name cat in the first and name dog in the second": (
            save_json(folder_ / "t0", coco((1,), lambda i: 1, track_id=lambda i: 1)),
            save_json(folder_ / "t6", coco((1,), lambda i: 2, track_id=lambda i: 1)),
        ),
        r"colour \(51, 221, 255\) is background in the first and an object in the second": (
            picture(folder_ / "g0", Image.fromarray(np.where(CAT[..., None], COLOURS[1], COLOURS[2]).astype(np.uint8))),
            picture(folder_ / "g6", Image.fromarray(COLOURS[labels_of((1, 2))])),
        ),
        r"equal or clearly different colours, got \(250, 50, 83\) in h0.png and \(250, 52, 80\) in h6.png": (
            picture(folder_ / "h0", Image.fromarray(COLOURS[labels_of((1,))])),
            picture(folder_ / "h6", Image.fromarray(np.where(CAT[..., None], (250, 52, 80), 0).astype(np.uint8))),
        ),
        "equal or clearly different names, got name cat in n0.json and name Cat in n6.json": (
            labelme(folder_ / "n0", polygon(1, "cat")),
            labelme(folder_ / "n6", polygon(1, "Cat")),
        ),
        r"equal or clearly different names, got name cat in m0.json and name cat \(group 1\) in m6.json": (
            labelme(folder_ / "m0", polygon(1, "cat")),
            labelme(folder_ / "m6", polygon(1, "cat", 1)),
        ),
        "one object for each name, got name pet for several objects in s0.json and also in s6.json": (
            labelme(folder_ / "s0", polygon(1, "pet"), polygon(2, "pet")),
            labelme(folder_ / "s6", polygon(2, "pet")),
        ),
        "one object for each name, got name pet for several objects in u6.json and also in u0.json": (
            labelme(folder_ / "u0", polygon(1, "pet")),
            labelme(folder_ / "u6", polygon(1, "pet"), polygon(2, "pet")),
        ),
        "tracks of CVAT, from 0 in w6.json, but not in w0.png": (
            picture(folder_ / "w0", indexed(labels_of((1, 2)), palette())),
            FORMS["cvat tracks"](folder_ / "w6", (2,)),
        ),
        "can be compared, got id 1, id 2 in x0.png and name cat in x6.json: give both in one form": (
            picture(folder_ / "x0", indexed(labels_of((1, 2)), palette())),
            labelme(folder_ / "x6", polygon(1, "cat")),
        ),
    }


@pytest.mark.parametrize("number", range(12))
def test_files_that_contradict_each_other_are_refused(tmp_path: Path, number: int) -> None:
    message, (first, late) = list(contradictions(tmp_path).items())[number]
    shown = refusal(given(first, 0), given(late, 6))
    assert re.search(message, shown), shown
    assert first.name in shown
    assert late.name in shown


def test_a_name_of_two_objects_is_no_obstacle_for_the_others(tmp_path: Path) -> None:
    first = labelme(tmp_path / "a", polygon(1, "cat"), polygon(1, "cat"), polygon(2, "dog"))
    late = labelme(tmp_path / "b", polygon(2, "dog"))
    joined = join([given(first, 0), given(late, 6)])
    assert ids_at(joined, 6)[2] == ids_at(joined, 0)[2] == {3}


def test_a_track_with_two_categories_in_one_file_is_refused(tmp_path: Path) -> None:
    path = save_json(tmp_path / "t", coco((1, 2), lambda i: i, track_id=lambda i: 4))
    with pytest.raises(ValueError, match="holds track 4 with the categories 'cat' and 'dog': correct one of them"):
        doctor.read(path)


def test_other_names_for_one_number_are_no_obstacle_but_a_name_with_two_numbers_is_a_row_of_the_table(tmp_path: Path) -> None:
    first, late = tmp_path / "a", tmp_path / "b"
    folder(first, (1, 2), lambda i: f"first_{i}")
    folder(late, (2,), lambda i: f"late_{i}")
    joined = join([given(first, 0), given(late, 6)])
    assert [(row.id, row.stated) for row in joined.rows] == [(1, "file first_1"), (2, "file first_2"), (2, "file late_2")]


def test_greys_of_a_palette_have_the_same_ids_in_every_file(tmp_path: Path) -> None:
    """75 alone could be an id, beside 38 it is the grey of id 2; and 38 alone is the grey of id 1, beside 40 it is an id."""
    greys = np.array([0, 38, 75], np.uint8)
    first = picture(tmp_path / "a", Image.fromarray(greys[labels_of((1, 2))]))
    late = picture(tmp_path / "b", Image.fromarray(greys[labels_of((2,))]))
    assert doctor.read(late).objects == (75,)
    joined = join([given(first, 0), given(late, 6)])
    assert [(row.id, row.stated) for row in joined.rows] == [(1, "grey 38"), (2, "grey 75"), (2, "value 75")]
    ids = np.array([0, 38, 40], np.uint8)
    first = picture(tmp_path / "c", Image.fromarray(ids[labels_of((1, 2))]))
    late = picture(tmp_path / "d", Image.fromarray(ids[labels_of((1,))]))
    assert doctor.read(late).objects == (1,)
    joined = join([given(first, 0), given(late, 6)])
    assert [(row.id, row.stated) for row in joined.rows] == [(38, "value 38"), (40, "value 40"), (38, "grey 38")]


# the command


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    path = checkpoint(tmp_path_factory.mktemp("network"))
    return ["--checkpoint", path, "--device", "cpu", "--dtype", "float32"]


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str]]:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    return int(stop.value.code or 0), capfd.readouterr().err.splitlines()


def task(path: Path) -> Path:
    """A COCO file of two pictures: cat and dog on the first, the dog on the second, where it is annotated first."""
    data = coco((1, 2), lambda i: i)
    data["images"].append({"id": 2, "height": H, "width": W, "file_name": "shots/frame@6:b.png"})
    data["annotations"].append({**data["annotations"][1], "id": 3, "image_id": 2})
    return save_json(path, data)


def test_each_mask_names_its_picture_of_a_json(
    tmp_path: Path, tiny: list[object], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (H, W) == SIZE
    monkeypatch.chdir(tmp_path)
    source, file = stills(tmp_path / "in", [f"{i}.png" for i in range(3)]), task(tmp_path / "task").name
    masks = ["--mask", f"{file}:frame.png", "--mask", f"{file}:frame@6:b@2"]
    code, errors = run(capfd, "segment", source, *masks, "-o", "out", "--json", "s.json", *tiny)
    assert code == 0, errors
    found = masks_in(tmp_path / "out" / "masks")
    assert (found["0.png"][DOG] == 2).all()
    assert (found["2.png"][DOG] == 2).all()
    assert "2   2      task.json:frame@6:b  name dog" in errors
    assert json.loads((tmp_path / "s.json").read_text())["masks"][2] == {
        "id": 2, "frame": 2, "file": "task.json:frame@6:b", "stated": "name dog",
    }  # fmt: skip
    code, errors = run(capfd, "segment", source, "--mask", f"{file}:gone@1", "-o", "o", *tiny)
    assert (code, errors) == (2, ["hodor: mask task.json holds no picture 'gone': it has frame.png, shots/frame@6:b.png"])
    code, errors = run(capfd, "doctor", f"{file}:2")
    assert code == 0


def test_one_image_option_is_refused_for_two_json_masks(
    tmp_path: Path, tiny: list[object], capfd: pytest.CaptureFixture[str]
) -> None:
    source, file = stills(tmp_path / "in", ["0.png", "1.png"]), task(tmp_path / "task")
    masks = ["--mask", file, "--mask", f"{file}@1"]
    code, errors = run(capfd, "segment", source, *masks, "--image", "frame.png", "-o", tmp_path / "o", *tiny)
    assert (code, len(errors)) == (2, 1)
    assert "expected one JSON mask for --image frame.png, got 2" in errors[0]
    assert "write --mask FILE:IMAGE@FRAME for each" in errors[0]
    masks = ["--mask", file, "--mask", f"{file}:2@1"]
    assert run(capfd, "segment", source, *masks, "--image", "frame.png", "-o", tmp_path / "o", *tiny)[0] == 0


def test_the_picture_of_a_labelme_file_is_compared(tmp_path: Path) -> None:
    data = {"imageHeight": H, "imageWidth": W, "imagePath": "..\\shots\\a.jpg", "shapes": [polygon(1, "cat")]}
    path = save_json(tmp_path / "l", data)
    assert doctor.read(path, image="a.jpg").objects == doctor.read(path, image="a").objects == (1,)
    with pytest.raises(ValueError, match=r"holds no picture 'b.jpg': it has ../shots/a.jpg"):
        doctor.read(path, image="b.jpg")


def test_the_command_refuses_a_contradiction_and_prints_changed_ids(
    tmp_path: Path, tiny: list[object], capfd: pytest.CaptureFixture[str]
) -> None:
    source = stills(tmp_path / "in", ["0.png", "1.png"])
    first = picture(tmp_path / "c0", Image.fromarray(COLOURS[labels_of((1, 2))]))
    late = picture(tmp_path / "c1", Image.fromarray(COLOURS[labels_of((1,))]))
    code, errors = run(capfd, "segment", source, "--mask", first, "--mask", f"{late}@1", "-o", tmp_path / "o", *tiny)
    assert code == 0
    assert (masks_in(tmp_path / "o" / "masks")["1.png"][CAT] == 2).all()
    assert sum("(with its ids when read alone)" in line for line in errors) == 1
    assert any(line.startswith(f"mask {late} (with its ids when read alone): colours numbered") for line in errors)
    other = picture(tmp_path / "other", indexed(labels_of((1,)), palette()))
    code, errors = run(capfd, "segment", source, "--mask", other, "--mask", f"{late}@1", "-o", tmp_path / "p", *tiny)
    assert (code, len(errors)) == (2, 1)
    assert errors[0].endswith("c1.png: give both in one form, such as palette PNG")
    assert not (tmp_path / "p").exists()


def test_the_doctor_shows_the_ids_of_several_masks_or_why_they_cannot_be_used_together(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = picture(tmp_path / "c0", Image.fromarray(COLOURS[labels_of((1, 2))]))
    late = picture(tmp_path / "c1", Image.fromarray(COLOURS[labels_of((1,))]))
    other = picture(tmp_path / "other", indexed(labels_of((1,)), palette()))
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", str(first), str(late)])
    lines = capfd.readouterr().out.splitlines()
    table = [line.split(maxsplit=2) for line in lines[lines.index("as masks of one run:") + 1 :]]
    assert stop.value.code in (None, 0)
    assert table[0] == ["id", "mask", "object in the mask"]
    cat = next(stated for i, file, stated in table[1:] if file == str(late))
    assert [(i, file) for i, file, stated in table[1:] if stated == cat] == [("2", str(first)), ("2", str(late))]
    assert len(table) == 4
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", str(first), str(other)])
    assert stop.value.code == 2
    assert (
        capfd.readouterr().out.splitlines()[-1].startswith("as masks of one run: refused: expected masks that can be compared")
    )

"""Prompts in `hodor mask` and `hodor segment`. In place of the network a stand-in finds areas of one colour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job import SIZE, checkpoint, mask, mask_file, masks_in, picture, stills, video
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from hodor import cli, frames, prompts
from hodor.frames import open_source, overlay
from hodor.masks import read_labels, write_labels
from hodor.prompts import ObjectPrompts, read_prompts, segment_prompts, split_frame
from hodor.video.images import Stream

RED, BLUE = "20,20", "70,50"
"""Points on the two blocks of picture 0: red x 10..33, y 10..29; blue x 60..83, y 36..59."""


class FlatColours:
    """Finds the pixels with the colour of a click, or of the box's centre inside the box; background clicks remove colours."""

    def __init__(self, frame: NDArray[np.uint8]) -> None:
        assert frame.dtype == np.uint8
        self.frame = frame.astype(int)

    def predict(
        self,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.bool_], float]:
        found = np.zeros(self.frame.shape[:2], bool) if mask is None else mask.copy()
        if box is not None:
            x0, y0, x1, y1 = (int(number) for number in np.asarray(box))
            found[y0:y1, x0:x1] |= self.like((x0 + x1) // 2, (y0 + y1) // 2)[y0:y1, x0:x1]
        for (x, y), label in zip(np.asarray(points or []).reshape(-1, 2), labels or [], strict=True):  # type: ignore[arg-type]
            same = self.like(int(x), int(y))
            found = found | same if label else found & ~same
        return found, 0.876

    def like(self, x: int, y: int) -> NDArray[np.bool_]:
        return np.asarray(np.abs(self.frame - self.frame[y, x]).max(-1) == 0)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "make_prompter", FlatColours)


def command(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, list[str]]:
    """Run the command in this process; -> exit code, stdout, lines of stderr."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    out, err = capfd.readouterr()
    return int(stop.value.code or 0), out, err.splitlines()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(picture(0)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


# The values


def test_prompts_are_read_by_frame_and_object() -> None:
    found = read_prompts(["1,2,30,40", "7:5,6,7.5,8@12"], ["1:3,4", "9,9@12", "1:5,6"], ["2.5,0"])
    assert found == {
        0: {1: ObjectPrompts([(3, 4), (5, 6), (2.5, 0)], [1, 1, 0], (1, 2, 30, 40))},
        12: {1: ObjectPrompts([(9, 9)], [1]), 7: ObjectPrompts(box=(5, 6, 7.5, 8))},
    }
    assert list(found) == [0, 12]
    assert read_prompts(points=["3:1,2"], frame=40) == {40: {3: ObjectPrompts([(1, 2)], [1])}}
    assert read_prompts() == {}


@pytest.mark.parametrize(
    ("values", "frame", "line"),
    [
        (
            {"points": ["3;4"]},
            None,
            "expected --point [ID:]X,Y[@FRAME], got 3;4: give pixels of the frame, such as 2:310,190@40",
        ),
        ({"points": ["3"]}, None, "expected --point [ID:]X,Y[@FRAME], got 3: give"),
        ({"points": ["1,2,3"]}, None, "expected --point [ID:]X,Y[@FRAME], got 1,2,3: give"),
        ({"points": ["x,2"]}, None, "expected --point [ID:]X,Y[@FRAME], got x,2: give"),
        ({"points": ["nan,2"]}, None, "expected --point [ID:]X,Y[@FRAME], got nan,2: give"),
        ({"points": ["1,inf"]}, None, "expected --point [ID:]X,Y[@FRAME], got 1,inf: give"),
        ({"points": ["1,2@-3"]}, None, "expected --point [ID:]X,Y[@FRAME], got 1,2@-3: give"),
        ({"points": ["clip.mp4"]}, None, "expected --point [ID:]X,Y[@FRAME], got clip.mp4: give"),
        ({"backgrounds": [""]}, None, "expected --background [ID:]X,Y[@FRAME], got : give"),
        (
            {"boxes": ["1,2,3"]},
            0,
            "expected --box [ID:]X0,Y0,X1,Y1, got 1,2,3: give pixels of the frame, such as 2:80,40,420,300",
        ),
        ({"points": ["1,2@3"]}, 0, "expected --point [ID:]X,Y, got 1,2@3: name the frame behind the source, SOURCE@FRAME"),
        ({"points": ["0:1,2"]}, None, "expected ids from 1 to 65535, got 0 in --point 0:1,2: give another ID"),
        ({"boxes": ["65536:1,2,3,4"]}, None, "expected ids from 1 to 65535, got 65536 in --box 65536:1,2,3,4: give another ID"),
        ({"boxes": ["1,2,3,4", "1:5,6,7,8"]}, None, "two boxes for object 1 on frame 0: give one, or another ID"),
    ],
)
def test_values_that_are_no_prompts_are_refused(values: dict[str, list[str]], frame: int | None, line: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 the whole beginning is compared below
        read_prompts(**values, frame=frame)
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("clip.mp4", ("clip.mp4", 0)),
        ("clip.mp4@40", ("clip.mp4", 40)),
        ("0@3", ("0", 3)),
        ("rtsp://me:word@host/live", ("rtsp://me:word@host/live", 0)),
        ("rtsp://me:word@host/live@2", ("rtsp://me:word@host/live", 2)),
    ],
)
def test_a_frame_stands_behind_the_source(given: str, expected: tuple[str, int]) -> None:
    assert split_frame(given) == expected


# Labels from prompts


def test_overlapping_objects_give_the_pixels_to_the_smaller_with_a_note() -> None:
    whole, part = ObjectPrompts(box=(0, 0, 96, 64)), ObjectPrompts(box=(0, 0, 20, 10))
    grey = np.full((*SIZE, 3), 90, np.uint8)
    for ids in ((1, 2), (2, 1)):
        found = segment_prompts(grey, dict(zip(ids, (part, whole), strict=True)))
        assert found.notes == ("200 px are in several objects with prompts: the smaller object is used",)
        assert {answer.object: answer.area for answer in found.answers} == {ids[0]: 200, ids[1]: 64 * 96 - 200}
        assert (found.labels[:10, :20] == ids[0]).all()


def test_objects_of_the_start_lose_the_pixels_of_prompts_with_a_note() -> None:
    start = mask(0)
    start[10:30, 10:34] = 2  # both blocks
    found = segment_prompts(picture(0), {1: ObjectPrompts([(20, 20)], [1])}, start)
    np.testing.assert_array_equal(found.labels, mask(0))
    assert found.notes == (f"{20 * 24} px of object 2 now belong to objects with prompts",)


def test_an_object_that_is_covered_entirely_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^no pixel of object 2 is left on frame 4, other objects cover it: give other prompts$"
    ):
        segment_prompts(picture(0), {1: ObjectPrompts([(70, 50)], [1])}, mask(0), frame=4)


def test_high_ids_are_kept() -> None:
    found = segment_prompts(picture(0), {300: ObjectPrompts([(20, 20)], [1])}, mask(0, red=0))
    assert (found.labels.dtype, sorted(set(found.labels.ravel().tolist()))) == (np.uint16, [0, 2, 300])


# hodor mask


def test_a_click_makes_a_palette_png_and_one_line(photo: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m" / "first.png"
    code, printed, errors = command(capfd, "mask", photo, "--point", RED, "-o", out)
    assert (code, errors) == (0, [])
    assert printed == f"object 1: score 0.88, 480 px (7.8%) -> {out}\n"
    with Image.open(out) as made:
        assert (made.mode, made.size) == ("P", SIZE[::-1])
    np.testing.assert_array_equal(read_labels(out), mask(0, blue=0))


def test_several_objects_boxes_background_points_and_an_overlay(
    photo: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, shown = tmp_path / "first.png", tmp_path / "overlay.png"
    values = ["--point", RED, f"2:{RED}", "--box", "2:60,36,84,60", "--background", f"2:{RED}", "--point", "5:0,0"]
    values += ["--background", f"5:{RED}", f"5:{BLUE}"]
    code, printed, _ = command(capfd, "mask", f"{photo}@0", *values, "-o", out, "--overlay", shown)
    labels = read_labels(out)
    assert code == 0
    assert [line.split(":")[0] for line in printed.splitlines()] == ["object 1", "object 2", "object 5"]
    np.testing.assert_array_equal(np.where(labels == 5, 0, labels), mask(0))
    assert (labels == 5).any()
    with Image.open(shown) as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), overlay(picture(0), labels))


def test_a_start_mask_is_corrected_and_its_other_objects_stay(
    photo: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = mask(0, red=3)
    before[36:60, 60:70] = 0  # object 2 lacks a part
    write_labels(tmp_path / "start.png", before)
    out = tmp_path / "start.png"  # in place
    code, printed, _ = command(capfd, "mask", photo, "--start", out, "--point", f"2:{BLUE}", "-o", out)
    assert (code, printed) == (0, f"object 2: score 0.88, 576 px (9.4%) -> {out}\n")
    np.testing.assert_array_equal(read_labels(out), mask(0, red=3))
    code, _, errors = command(capfd, "mask", photo, "--start", out, "--background", "3:12,12", "-o", out)
    assert (code, errors) == (2, ["hodor: no pixel of object 3 was found on frame 0: give another point or a box"])
    np.testing.assert_array_equal(read_labels(out), mask(0, red=3))


def test_a_background_point_alone_corrects_a_start_mask(photo: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = np.where(mask(0, blue=0) > 0, 2, mask(0, red=0))  # object 2 covers both blocks
    write_labels(tmp_path / "start.png", before)
    out = tmp_path / "m.png"
    assert command(capfd, "mask", photo, "--start", tmp_path / "start.png", "--background", f"2:{RED}", "-o", out)[0] == 0
    np.testing.assert_array_equal(read_labels(out), mask(0, red=0))


def test_the_frame_stands_behind_the_source_and_a_later_frame_is_used(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = stills(tmp_path / "in", [f"{i}.png" for i in range(9)])
    assert command(capfd, "mask", f"{folder}@8", "--point", "40,20", "-o", tmp_path / "m.png")[0] == 0
    np.testing.assert_array_equal(read_labels(tmp_path / "m.png"), mask(8, blue=0))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "expected at least one prompt, got none: give --box X0,Y0,X1,Y1 or --point X,Y"),
        (["--point", "3"], "expected --point [ID:]X,Y, got 3: give pixels of the frame, such as 2:310,190"),
        (["--point", "96,5"], "inside frame 0 of 96x64 pixels, got 96,5 for object 1: give X from 0 to 95 and Y from 0 to 63"),
        (["--background", "-1,5"], "expected points inside frame 0 of 96x64 pixels, got -1,5 for object 1"),
        (["--box", "9:10,10,97,20"], "expected a box inside frame 0 of 96x64 pixels, got 10,10,97,20 for object 9"),
        (["--box", "20,10,10,20"], "got 20,10,10,20 for object 1: give the upper left corner, then the lower right one"),
        (
            ["--background", "2:1,1"],
            "expected a point on object 2 on frame 0, got only background points: give --point or --box",
        ),
        (["--point", RED, "--overlay", "o.jpg"], "expected a name that ends in .png, got o.jpg"),
        (["--point", RED, "--start", "gone.png"], "mask gone.png does not exist"),
        (["--point", RED, "--start", "turned.png"], "got 64x96, which is rotated by 90 degrees: draw on the picture that"),
    ],
)
def test_what_is_wrong_is_one_line_and_writes_nothing(
    options: list[str], line: str, photo: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write_labels("turned.png", np.ascontiguousarray(np.rot90(mask())))
    code, printed, errors = command(capfd, "mask", photo, *options, "-o", "m.png")
    assert (code, printed, len(errors)) == (2, "", 1), errors
    assert errors[0].startswith("hodor: ")
    assert line in errors[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photo.png", "turned.png"]


def test_a_frame_beyond_the_end_is_one_line(photo: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, _, errors = command(capfd, "mask", f"{photo}@1", "--point", RED, "-o", tmp_path / "m.png")
    assert (code, errors) == (2, ["hodor: frame 1, but photo has frames 0 to 0: give one of them"])


# Prompts in hodor segment


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    path = checkpoint(tmp_path_factory.mktemp("network"))
    return ["--checkpoint", path, "--device", "cpu", "--dtype", "float32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stills(tmp_path_factory.mktemp("source") / "in", [f"{i}.png" for i in range(8)])


def test_a_box_is_enough_to_segment(
    folder: Path, tmp_path: Path, tiny: list[object], capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, printed, errors = command(capfd, "segment", folder, "--box", "10,10,34,30", "-o", out, "--json", "-", *tiny)
    assert code == 0, errors
    assert errors[0] == "prompts on frame 0: object 1: score 0.88, 480 px (7.8%)"
    summary = json.loads(printed)
    assert (summary["objects"], summary["masks"]) == ([1], [])
    assert summary["prompts"] == [{"frame": 0, "object": 1, "score": 0.876, "area": 480}]
    np.testing.assert_array_equal(masks_in(out / "masks")["0.png"], mask(0, blue=0))
    assert command(capfd, "segment", folder, "--mask", out / "masks" / "0.png", "-o", tmp_path / "again", *tiny)[0] == 0
    for name, labels in masks_in(out / "masks").items():
        np.testing.assert_array_equal(labels, read_labels(tmp_path / "again" / "masks" / name))


def test_masks_and_prompts_mix_on_one_frame_and_on_several(
    folder: Path, tmp_path: Path, tiny: list[object], capfd: pytest.CaptureFixture[str]
) -> None:
    given, out = mask_file(tmp_path / "m.png", 2, red=4, blue=0), tmp_path / "out"
    values = ["--point", "7:65,50@2", "4:30,20@5", "--background", "4:70,50@5"]
    code, _, errors = command(capfd, "segment", folder, "--mask", f"{given}@2", *values, "-o", out, *tiny)
    assert code == 0, errors
    found = masks_in(out / "masks")
    np.testing.assert_array_equal(found["2.png"], mask(2, red=4, blue=7))
    np.testing.assert_array_equal(found["5.png"] == 4, mask(5) == 1)
    assert [line for line in errors if line.startswith("prompts")] == [
        "prompts on frame 2: object 7: score 0.88, 576 px (9.4%)",
        "prompts on frame 5: object 4: score 0.88, 480 px (7.8%)",
    ]


def test_a_run_from_prompts_can_be_resumed_and_other_prompts_are_refused(
    tmp_path: Path, tiny: list[object], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hodor.tracking import Tracker

    clip, out, step = video(tmp_path / "clip.mp4", 6), tmp_path / "out", Tracker.step

    def stopping(self: Tracker, *arguments: Any) -> Any:
        if self.index == 3:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "step", stopping)
        assert command(capfd, "segment", clip, "--point", RED, "-o", out, *tiny)[0] == 130
    code, _, errors = command(capfd, "segment", clip, "--point", BLUE, "-o", out, "--resume", *tiny)
    assert (code, "holds another run (its mask was frame 0" in errors[-1]) == (2, True), errors
    assert command(capfd, "segment", clip, "--point", RED, "-o", out, "--resume", *tiny)[0] == 0
    assert len(masks_in(out / "masks")) == 6


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (["--box", "10,10,34,30@8"], "frame 8, but in has frames 0 to 7: give one of them"),
        (["--point", "100,10@1"], "expected points inside frame 1 of 96x64 pixels, got 100,10 for object 1"),
        (["--background", "1,1"], "expected a point on object 1 on frame 0, got only background points"),
        (["--point", "1"], "expected --point [ID:]X,Y[@FRAME], got 1: give pixels of the frame, such as 2:310,190@40"),
        (
            ["--point", "20,20", "--start-frame", "2"],
            "expected masks of frames 2 to the end, the frames that are used, got one",
        ),
        ([], "expected at least one mask, got none: give --mask FILE, --box X0,Y0,X1,Y1 or --point X,Y"),
    ],
)
def test_wrong_prompts_of_segment_are_one_line_and_leave_nothing(
    values: list[str], line: str, folder: Path, tmp_path: Path, tiny: list[object], capfd: pytest.CaptureFixture[str]
) -> None:
    code, printed, errors = command(capfd, "segment", folder, *values, "-o", tmp_path / "out", *tiny)
    errors = [each for each in errors if not each.startswith("prompts on frame")]
    assert (code, printed, len(errors)) == (2, "", 1), errors
    assert line in errors[0]
    assert not (tmp_path / "out").exists()


def test_prompts_on_the_first_frame_of_a_camera_and_on_no_other(
    tmp_path: Path, tiny: list[object], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "open_source", lambda *_: Stream(((picture(i), None) for i in range(4)), "camera 0", None))
    assert command(capfd, "segment", "0", "--point", RED, "-o", tmp_path / "out", *tiny)[0] == 0
    assert len(masks_in(tmp_path / "out" / "masks")) == 4
    code, _, errors = command(capfd, "segment", "0", "--point", f"{RED}@2", "-o", tmp_path / "late", *tiny)
    assert (code, errors) == (
        2,
        ["hodor: camera 0 is read once, so that prompts on frame 2 cannot be used: give prompts on frame 0"],
    )


def test_one_frame_of_a_source_and_its_errors(folder: Path) -> None:
    with open_source(folder) as source:
        assert (source.frame(3).index, source.frame(3).name) == (3, "3")
        with pytest.raises(ValueError, match=r"^frame 8, but in has frames 0 to 7: give one of them$"):
            source.frame(8)
    live = Stream(((picture(i), i / 10) for i in range(3)), "live", None)
    assert [live.frame(0).time for _ in range(2)] == [0, 0]
    assert len(list(live)) == 3

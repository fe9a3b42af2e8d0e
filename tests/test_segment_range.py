"""In and out points, names that begin with a number, and runs that are stopped by a signal and repeat no frame."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import damage
from job import SIZE, checkpoint, mask, mask_file, masks_in, network, picture, stills, stopped, video
from PIL import Image

from hodor import cli
from hodor.frames import open_source
from hodor.masks import read_labels, write_labels
from hodor.outputs import writers
from hodor.outputs.background import BackgroundWriter
from hodor.outputs.writers import read_soft
from hodor.segment import Outputs, Summary, segment
from hodor.tracking import Tracker
from hodor.video.extent import Extent
from hodor.video.images import Stream


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return video(tmp_path_factory.mktemp("clip") / "clip.mp4", 30)


def run(
    source: Any, masks: dict[int, np.ndarray], folder: Path, outputs: dict[str, Any] | None = None, **options: Any
) -> Summary:
    with open_source(source) as opened:
        return segment(opened, masks, network(), Outputs(folder, **(outputs or {})), **options)


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.iterdir())


# In and out points


def test_frames_outside_the_points_are_neither_tracked_nor_written(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = run(clip, {12: mask(12)}, out, {"overlay": True, "table": True}, start_frame=8, stop_frame=15)
    assert names(out / "masks") == [f"{i:05d}" for i in range(8, 16)], "both points are included"
    assert (summary.frames, summary.tracked, summary.notes) == (8, 8, [])
    with open(out / "objects.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["frame"] for row in rows if row["object"] == "1"] == [str(i) for i in range(8, 16)]
    with open_source(out / "overlay.mp4") as source:
        shown = list(source)
    assert [round(frame.time or 0, 3) for frame in shown] == [round(i / 25, 3) for i in range(8)], "the film begins at 0"


def test_the_masks_are_those_of_a_video_that_was_cut_before(tmp_path: Path) -> None:
    whole = stills(tmp_path / "whole", [f"{i:02d}.png" for i in range(12)])
    part = tmp_path / "part"
    part.mkdir()
    for i in range(3, 10):
        shutil.copy(whole / f"{i:02d}.png", part)
    run(whole, {6: mask(6)}, tmp_path / "a", start_frame=3, stop_frame=9)
    run(part, {3: mask(6)}, tmp_path / "b")
    found, expected = masks_in(tmp_path / "a" / "masks"), masks_in(tmp_path / "b" / "masks")
    assert list(found) == list(expected) == [f"{i:02d}.png" for i in range(3, 10)]
    for name, labels in expected.items():
        np.testing.assert_array_equal(found[name], labels)


def test_a_single_frame_and_a_forward_run_with_empty_frames_before_the_mask(clip: Path, tmp_path: Path) -> None:
    assert run(clip, {5: mask(5)}, tmp_path / "one", start_frame=5, stop_frame=5).frames == 1
    np.testing.assert_array_equal(masks_in(tmp_path / "one" / "masks")["00005.png"], mask(5))
    run(clip, {6: mask(6)}, tmp_path / "on", start_frame=4, stop_frame=7, backward=False)
    assert [labels.any() for labels in masks_in(tmp_path / "on" / "masks").values()] == [False, False, True, True]


def test_frames_that_are_read_once_are_skipped_before_the_in_point_and_not_read_after_the_out_point(tmp_path: Path) -> None:
    read = []

    def live() -> Any:
        for i in range(100):
            read.append(i)
            yield picture(i)

    summary = run(live(), {3: mask(3)}, tmp_path / "out", start_frame=3, stop_frame=6)
    assert (names(tmp_path / "out" / "masks"), summary.notes) == ([f"{i:05d}" for i in range(3, 7)], [])
    assert max(read) <= 6


def test_the_progress_counts_the_frames_that_are_used(clip: Path, tmp_path: Path) -> None:
    counts = []
    run(clip, {8: mask(8)}, tmp_path / "out", start_frame=8, stop_frame=10, progress=lambda *count: counts.append(count))
    assert counts == [(1, 3), (2, 3), (3, 3)]


def test_a_source_that_ends_before_the_out_point_has_a_note(tmp_path: Path) -> None:
    summary = run(iter([picture(i) for i in range(5)]), {0: mask()}, tmp_path / "out", stop_frame=9)
    assert (summary.frames, summary.notes) == (5, ["the stop frame 9 was not reached: the last frame is 4"])


def test_a_source_that_ends_before_the_in_point_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^mask for frame 9, but frames ended before frame 9: give a mask of an earlier frame$"
    ):
        run(iter([picture(i) for i in range(5)]), {9: mask()}, tmp_path / "out", start_frame=9)


def test_damage_outside_the_points_is_not_reported(tmp_path: Path) -> None:
    broken = damage(video(tmp_path / "clip.mp4", 30), 20)
    summary = run(broken, {3: mask(3)}, tmp_path / "a", start_frame=2, stop_frame=9, strict=True)
    assert (summary.damaged, summary.stopped, summary.frames) == ({}, None, 8)
    assert list(run(broken, {12: mask(12)}, tmp_path / "b", start_frame=12, stop_frame=22).damaged) == [20]
    whole = video(tmp_path / "whole.mp4", 30, noise=True)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
    assert run(cut, {3: mask(3)}, tmp_path / "c", start_frame=2, stop_frame=9).stopped is None
    assert str(run(cut, {3: mask(3)}, tmp_path / "d", start_frame=2, stop_frame=28).stopped).startswith("frame ")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"start_frame": -1}, "expected a start frame of at least 0, got -1"),
        ({"start_frame": 9, "stop_frame": 8}, "expected a stop frame of at least 9, the start frame, got 8"),
        ({"start_frame": 30}, "start frame 30, but clip has frames 0 to 29: give one of them"),
        ({"stop_frame": 30}, "stop frame 30, but clip has frames 0 to 29: give one of them"),
        ({"start_number": -1}, "expected a start number of at least 0, got -1"),
        (
            {"start_frame": 13},
            "expected masks of frames 13 to the end, the frames that are used, got one of frame 12: "
            "give the mask of one of them, as FILE@FRAME, or other start and stop frames",
        ),
        (
            {"stop_frame": 11},
            "expected masks of frames 0 to 11, the frames that are used, got one of frame 12: "
            "give the mask of one of them, as FILE@FRAME, or other start and stop frames",
        ),
    ],
)
def test_points_that_do_not_fit_are_refused_before_anything_is_written(
    options: dict[str, int], line: str, clip: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        run(clip, {12: mask(12)}, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_extent_of_a_source_of_estimated_length_is_not_refused() -> None:
    source = Stream(iter([(picture(0), None)]), "live", None)
    source.count, source.estimated = 5, True
    assert Extent(source, 2, 9).count == 3
    assert Extent(source, 9).count == 0


# Names that begin with a number


def test_every_file_has_the_names_that_begin_with_the_start_number(clip: Path, tmp_path: Path) -> None:
    outputs = {"coco": True, "ytvis": True, "table": True, "soft": True, "cutout": (1,)}
    run(clip, {6: mask(6)}, tmp_path, outputs, start_frame=4, stop_frame=8, start_number=1001)
    expected = [str(number) for number in range(1001, 1006)]
    assert names(tmp_path / "masks") == names(tmp_path / "soft") == names(tmp_path / "cutout_1") == expected
    np.testing.assert_array_equal(masks_in(tmp_path / "masks")["1003.png"], mask(6))
    images = json.loads((tmp_path / "coco.json").read_text())["images"]
    assert [(image["id"], image["file_name"]) for image in images] == [(i, f"{i + 997}.jpg") for i in range(4, 9)]
    (film,) = json.loads((tmp_path / "ytvis.json").read_text())["videos"]
    assert film["file_names"] == [f"clip/{name}.jpg" for name in expected]
    with open(tmp_path / "objects.csv", newline="") as file:
        rows = {(row["frame"], row["name"]) for row in csv.DictReader(file)}
    assert rows == {(str(i), str(i + 997)) for i in range(4, 9)}, "frames keep the numbers of the source"


def test_the_start_number_replaces_the_names_of_images_and_has_four_digits(tmp_path: Path) -> None:
    source = stills(tmp_path / "in", ["a1.png", "a2.png", "a3.png"])
    run(source, {0: mask()}, tmp_path / "out", start_number=0)
    assert names(tmp_path / "out" / "masks") == ["0000", "0001", "0002"]
    run(source, {0: mask()}, tmp_path / "many", start_number=9999)
    assert names(tmp_path / "many" / "masks") == ["10000", "10001", "9999"]


def test_the_command_counts_masks_in_the_source(clip: Path, tmp_path: Path) -> None:
    given = f"{mask_file(tmp_path / 'm.png', 6)}@6"
    options = ["--start-frame", 5, "--stop-frame", 8, "--start-number", 1001, "-o", tmp_path / "out", "--json", tmp_path / "j"]
    quietly(["segment", clip, "--mask", given, "--checkpoint", checkpoint(tmp_path), "--device", "cpu", *options])
    assert names(tmp_path / "out" / "masks") == ["1001", "1002", "1003", "1004"]
    np.testing.assert_array_equal(read_labels(tmp_path / "out" / "masks" / "1002.png"), mask(6))
    assert json.loads((tmp_path / "j").read_text())["frames"] == 4


# Stopped runs


def stop_after(count: int, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
    """Let the tracker raise in the step after so many."""
    step, done = Tracker.step, [0]

    def stopping(self: Tracker, *arguments: Any) -> Any:
        done[0] += 1
        if done[0] > count:
            raise error
        return step(self, *arguments)

    monkeypatch.setattr(Tracker, "step", stopping)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"start_frame": 3}, "its start frame was 2, now 3"),
        ({"start_frame": 0}, "its start frame was 2, now None"),
        ({"stop_frame": 21}, "its stop frame was 20, now 21"),
        ({"start_number": None}, "its start number was 1001, now None"),
        ({}, ""),
    ],
)
def test_resume_compares_the_points_and_the_start_number(
    changed: dict[str, Any], line: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"start_frame": 2, "stop_frame": 20, "start_number": 1001}
    with monkeypatch.context() as patch:
        stop_after(7, patch, KeyboardInterrupt)
        assert run(clip, {12: mask(12)}, tmp_path, {"table": True}, **options).interrupted
    if line:
        with pytest.raises(ValueError, match=line):
            run(clip, {12: mask(12)}, tmp_path, {"table": True}, resume=True, **(options | changed))
        return
    summary = run(clip, {12: mask(12)}, tmp_path, {"table": True}, resume=True, **options)
    assert (summary.frames, summary.tracked, summary.notes) == (19, 19 - 6, [])
    assert names(tmp_path / "masks") == [str(number) for number in range(1001, 1020)]


GIVEN: Any = {"coco": True, "table": True, "soft": True}, {10: mask(10), 20: mask(20, blue=0, red=5)}


@pytest.fixture(scope="module")
def whole(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "out"
    run(clip, GIVEN[1], folder, GIVEN[0])
    return folder


@pytest.mark.parametrize("count", [1, 2, 5, 11, 12, 13, 24], ids=lambda count: f"after-{count}-steps")
def test_ctrl_c_in_any_phase_repeats_no_frame(
    count: int, clip: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mask is on frame 10: steps 1 to 11 are the backward pass, 12 to 31 the forward pass. Step 1 gives no result."""
    outputs, masks = GIVEN
    with monkeypatch.context() as patch:
        stop_after(count, patch, KeyboardInterrupt)
        assert run(clip, masks, tmp_path / "out", outputs).interrupted
    assert len(masks_in(tmp_path / "out" / "masks")) == count - 1
    assert run(clip, masks, tmp_path / "out", outputs, resume=True).tracked == 30 - (count - 1)
    assert_same(tmp_path / "out", whole)


@pytest.mark.parametrize(("call", "written"), [(5, 2), (6, 3)], ids=["records", "films"])
def test_ctrl_c_between_a_result_and_its_files_saves_no_state_ahead_of_the_files(
    call: int, written: int, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each frame the records are written first, then the films."""
    submit, done = BackgroundWriter.write, [0]

    def interrupted(self: Any, *arguments: Any) -> None:
        done[0] += 1
        if done[0] == call:
            raise KeyboardInterrupt
        submit(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(BackgroundWriter, "write", interrupted)
        assert run(clip, {0: mask()}, tmp_path / "out").interrupted
    assert len(masks_in(tmp_path / "out" / "masks")) == written
    assert run(clip, {0: mask()}, tmp_path / "out", resume=True).tracked == 30 - written


def test_a_full_disk_at_ctrl_c_saves_no_state_ahead_of_the_files(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = writers.MaskWriter.write

    def full(self: writers.MaskWriter, result: writers.Result) -> None:
        if result.index == 6:
            raise OSError(28, "No space left on device")
        write(self, result)

    with monkeypatch.context() as patch:
        patch.setattr(writers.MaskWriter, "write", full)
        stop_after(8, patch, KeyboardInterrupt)
        with pytest.raises(OSError, match="No space left"):
            run(clip, {0: mask()}, tmp_path / "out")
    assert names(tmp_path / "out" / "masks") == [f"{i:05d}" for i in range(6)]
    assert not (tmp_path / "out" / ".hodor-state.safetensors").exists()


def test_a_run_that_is_complete_leaves_no_state_at_a_late_ctrl_c(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", late)
        summary = run(clip, {0: mask()}, tmp_path / "out", {"prores": (1,)}, stop_frame=3)
    assert summary.interrupted
    assert not (tmp_path / "out" / ".hodor-state.safetensors").exists()


def quietly(arguments: list[object]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    assert not stop.value.code


def assert_same(folder: Path, whole: Path) -> None:
    """Every file but the films has the same bytes; of npz files the content, since they hold the time of writing."""
    files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
    assert sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file()) == files
    for file in files:
        if file.suffix == ".npz":
            (planes, ids), (expected, expected_ids) = read_soft(folder / file), read_soft(whole / file)
            assert ids == expected_ids
            np.testing.assert_array_equal(planes, expected)
        elif file.suffix != ".mp4":
            assert (folder / file).read_bytes() == (whole / file).read_bytes(), file


@pytest.mark.parametrize(
    ("counts", "signals"),
    [
        ([7], [signal.SIGINT]),
        ([33], [signal.SIGINT]),
        pytest.param([33], [signal.SIGHUP], marks=pytest.mark.slow),
        pytest.param([3, 17, 27, 44], [signal.SIGTERM, *[signal.SIGINT] * 3], marks=pytest.mark.slow),
    ],
    ids=["backward", "forward", "hangup", "four-times"],
)
def test_a_process_that_a_signal_stops_and_that_is_resumed_repeats_no_frame(
    counts: list[int], signals: list[signal.Signals], tmp_path: Path
) -> None:
    clip, given = video(tmp_path / "clip.mp4", 52), f"{mask_file(tmp_path / 'm.png', 24)}@24"
    tiny = ["--checkpoint", checkpoint(tmp_path), "--device", "cpu", "--dtype", "float32"]
    job: list[object] = ["segment", clip, "--mask", given, *tiny, "--coco", "--table", "--soft", "--start-frame", "1"]
    quietly([*job, "-o", tmp_path / "whole"])
    out, before = tmp_path / "out", 0
    for turn, (count, how) in enumerate(zip(counts, signals, strict=True)):
        code, errors = stopped([*job, "-o", out, *(["--resume"] if turn else [])], out / "masks", count, how)
        assert (code, errors.splitlines()[-1].startswith("hodor: stopped, ")) == (128 + how, True), errors
        assert before < (before := len(names(out / "masks"))) < 51
    quietly([*job, "-o", out, "--resume", "--json", tmp_path / "summary.json"])
    assert json.loads((tmp_path / "summary.json").read_text())["tracked"] == 51 - before
    assert_same(out, tmp_path / "whole")


# Masks of the sideways picture


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_mask_of_the_sideways_picture_is_refused_with_the_remedy(
    as_folder: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = stills(tmp_path / "in", ["0.png", "1.png"])
    given = tmp_path / "m.png"
    sideways = np.ascontiguousarray(np.rot90(mask()))
    if as_folder:
        given = tmp_path / "parts"
        given.mkdir()
        for i in (1, 2):
            Image.fromarray((sideways == i).astype(np.uint8) * 255).save(given / f"obj_{i}.png")
    else:
        write_labels(given, sideways)
    with pytest.raises(SystemExit) as stop:
        cli.main(["segment", str(source), "--mask", str(given), "-o", str(tmp_path / "out")])
    assert stop.value.code == 2
    file = given / "obj_1.png" if as_folder else given
    height, width = SIZE
    assert capfd.readouterr().err == (
        f"hodor: expected mask {file} in the aspect ratio of the upright frames, {width}x{height}, got {height}x{width}, "
        "which is rotated by 90 degrees: draw on the picture that `hodor frame SOURCE -o frame.png` writes\n"
    )
    assert not (tmp_path / "out").exists()


def test_labels_of_the_sideways_picture_are_refused_in_python(clip: Path, tmp_path: Path) -> None:
    line = "expected a mask of 64x96 pixels for frame 0, the size of the frames, got 96x64: give the mask of the upright frame"
    with pytest.raises(ValueError, match=f"^{line}$"):
        run(clip, {0: np.ascontiguousarray(np.rot90(mask()))}, tmp_path / "out")

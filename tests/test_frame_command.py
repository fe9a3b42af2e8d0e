"""`hodor frame`: the picture that the tracker sees, from every kind of source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import damage
from job import SIZE, picture, stills, video
from PIL import Image

from hodor import cli, frames
from hodor.frames import open_source
from hodor.video.images import Stream


def command(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, list[str]]:
    """Run the command in this process; -> exit code, stdout, lines of stderr."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    out, err = capfd.readouterr()
    return int(stop.value.code or 0), out, err.splitlines()


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return video(tmp_path_factory.mktemp("clip") / "clip.mp4", 20)


@pytest.mark.parametrize("index", [0, 1, 7, 19])
def test_a_frame_of_a_video_is_the_one_that_segment_reads(
    index: int, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "frame.png"
    code, printed, errors = command(capfd, "frame", f"{clip}@{index}" if index else clip, "-o", out)
    assert (code, printed) == (0, "")
    assert errors == [f"frame {index} ({index:05d}), {SIZE[1]}x{SIZE[0]} -> {out}"]
    with open_source(clip) as source:
        expected = list(source)[index].image
    np.testing.assert_array_equal(read(out), expected)
    assert np.abs(expected.astype(int) - picture(index)).mean() < 12, "the frame of another number"


def test_the_frame_of_a_rotated_video_is_upright(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plain, turned = video(tmp_path / "plain.mp4", 3), tmp_path / "turned.mp4"
    with av.open(str(plain)) as source, av.open(str(turned), "w") as container:
        stream: Any = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    data, track = bytearray(turned.read_bytes()), b"tkhd"
    place = data.index(track) + 4 + 40  # version and flags, times, id, duration, ..., then the display matrix
    matrix = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    data[place : place + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in matrix)
    turned.write_bytes(data)
    assert command(capfd, "frame", f"{turned}@1", "-o", tmp_path / "t.png")[0] == 0
    assert command(capfd, "frame", f"{plain}@1", "-o", tmp_path / "p.png")[0] == 0
    np.testing.assert_array_equal(read(tmp_path / "t.png"), np.rot90(read(tmp_path / "p.png"), -1))


def test_frames_of_folders_patterns_and_cameras(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stills(tmp_path / "in", ["2.png", "10.png", "33.png"])  # natural order; pictures 0, 1, 2
    out = tmp_path / "frame.png"
    for spec in (folder, f"{folder}/*.png"):
        code, _, errors = command(capfd, "frame", f"{spec}@1", "-o", out)
        assert (code, errors) == (0, [f"frame 1 (10), {SIZE[1]}x{SIZE[0]} -> {out}"])
        np.testing.assert_array_equal(read(out), picture(1))

    def camera(number: str, _: object) -> Stream:
        assert number == "0"
        return Stream(((picture(i), i / 30) for i in range(9)), "camera 0", None)

    monkeypatch.setattr(frames, "open_source", camera)
    for given, index in (("0", 0), ("0@5", 5)):
        assert command(capfd, "frame", given, "-o", out)[0] == 0
        np.testing.assert_array_equal(read(out), picture(index))
    code, _, errors = command(capfd, "frame", "0@9", "-o", out)
    assert (code, errors) == (2, ["hodor: frame 9, but camera 0 ended before it: give an earlier one"])


def test_without_o_it_is_frame_png(clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(capfd, "frame", clip)[0] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["frame.png"]


def test_a_file_whose_name_has_an_at_is_not_split(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = stills(tmp_path / "take@1", ["0.png", "1.png"])
    assert command(capfd, "frame", folder, "-o", tmp_path / "a.png")[0] == 0
    np.testing.assert_array_equal(read(tmp_path / "a.png"), picture(0))
    assert command(capfd, "frame", f"{folder}@1", "-o", tmp_path / "b.png")[0] == 0
    np.testing.assert_array_equal(read(tmp_path / "b.png"), picture(1))


def test_a_damaged_frame_is_named_and_the_code_is_3(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken = damage(video(tmp_path / "clip.mp4", 12), 5)
    code, _, errors = command(capfd, "frame", f"{broken}@5", "-o", tmp_path / "f.png")
    assert code == 3
    message = "Invalid data found when processing input"
    assert f"the source is damaged: frame 5: {message}; its picture is that of a frame beside it" in errors
    assert command(capfd, "frame", f"{broken}@4", "-o", tmp_path / "f.png")[0] == 0


@pytest.mark.parametrize(
    ("given", "out", "line"),
    [
        ("clip.mp4@20", "f.png", "frame 20, but clip has frames 0 to 19: give one of them"),
        ("clip.mp4@-1", "f.png", "clip.mp4@-1 does not exist"),
        ("gone.mp4@3", "f.png", "gone.mp4 does not exist"),
        ("in@3", "f.png", "frame 3, but in has frames 0 to 1: give one of them"),
        ("clip.mp4", "f.jpg", "expected a name that ends in .png, got f.jpg: a PNG keeps every pixel"),
        ("in", "in/f.png", "expected a file outside in, got in/f.png: it would become a frame, give another folder"),
        ("in/0.png", "in/0.png", "expected another file than the frames of in/0.png, got in/0.png: give a new name"),
    ],
)
def test_what_is_wrong_is_one_line_and_writes_nothing(
    given: str, out: str, line: str, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").symlink_to(clip)
    before = read(stills(tmp_path / "in", ["0.png", "1.png"]) / "0.png")
    code, _, errors = command(capfd, "frame", given, "-o", out)
    assert (code, errors) == (2, [f"hodor: {line}"])
    assert not list(tmp_path.rglob("f.*"))
    np.testing.assert_array_equal(read(tmp_path / "in" / "0.png"), before)

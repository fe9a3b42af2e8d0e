"""Overlays, contact sheets, and videos that are written, read back, killed, and written to a full disk."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import number, picture

from hodor.frames import Frame, Sheet, VideoWriter, contact_sheet, open_source, overlay
from hodor.masks import palette


def test_a_written_video_has_its_frames_rate_and_colours(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.mp4"
    with VideoWriter(path, Fraction(30000, 1001), crf=1) as writer:
        for i in range(12):
            writer.write(picture(i, (47, 63)))
        assert not path.exists()
    source = open_source(path)
    assert (source.size, source.count, source.rate) == ((48, 64), 12, Fraction(30000, 1001))
    for i, frame in enumerate(source):
        assert frame.time == pytest.approx(i * 1001 / 30000, abs=1e-3)
        assert np.abs(frame.image[:47, :63].astype(int)[16:, 20:] - picture(i, (47, 63))[16:, 20:]).max() <= 3
        assert np.abs(frame.image[4, 4].astype(int) - (255, 0, 0)).max() <= 8
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # can start before it is all there
    assert os.listdir(path.parent) == ["out.mp4"]


def test_a_written_video_keeps_variable_timestamps(tmp_path: Path) -> None:
    times = [10.0, 10.5, 10.51, 12.0, 12.04]
    with VideoWriter(tmp_path / "vfr.mp4", 25) as writer:
        for i, t in enumerate(times):
            writer.write(picture(i), t)
        with pytest.raises(ValueError, match=r"expected frames in order of time, got 11 s after 12\.04 s"):
            writer.write(picture(0), 11.0)
    assert [f.time for f in open_source(tmp_path / "vfr.mp4")] == pytest.approx([t - 10 for t in times], abs=1e-4)


def test_prores_keeps_alpha(tmp_path: Path) -> None:
    ramp = np.dstack([picture(7), np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8), (48, 64))])
    with VideoWriter(tmp_path / "cut.mov", 25, codec="prores4444") as writer:
        for _ in range(3):
            writer.write(ramp)
    with av.open(str(tmp_path / "cut.mov")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.codec_tag == "ap4h"
        back = [f.to_ndarray(format="rgba").astype(int) for f in container.decode(stream)]
    assert len(back) == 3
    assert np.abs(back[0][..., 3] - ramp[..., 3]).max() <= 1
    assert np.abs(back[0][20:, 20:, :3] - ramp[20:, 20:, :3]).max() <= 4


def test_ctrl_c_leaves_the_frames_so_far_and_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"

    def write(count: int, error: BaseException) -> None:
        with VideoWriter(path, 25) as writer:
            for i in range(count):
                writer.write(picture(i))
            raise error

    for count, error in ((7, KeyboardInterrupt()), (3, RuntimeError())):
        with pytest.raises(type(error)):
            write(count, error)
        assert len(list(open_source(path))) == 7
        assert os.listdir(tmp_path) == ["out.mp4"]
    writer = VideoWriter(path, 25)
    writer.abort()
    with pytest.raises(ValueError, match=r"out\.mp4 is closed: open another writer"):
        writer.write(picture(0))


def test_a_killed_writer_leaves_nothing_under_the_real_name(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from hodor.frames import VideoWriter\n"
        "writer = VideoWriter(sys.argv[1], 25)\n"
        "while True:\n    writer.write(np.zeros((48, 64, 3), np.uint8)); print('frame', flush=True)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out.mp4")], stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(5):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not (tmp_path / "out.mp4").exists()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_an_oserror_and_leaves_no_half_video(tiny_disk: Path) -> None:
    random = np.random.default_rng(0)
    writer = VideoWriter(tiny_disk / "out.mp4", 25)
    with pytest.raises(OSError, match="No space left") as caught:  # noqa: PT012
        for _ in range(100):
            writer.write(random.integers(0, 255, (96, 128, 3), np.uint8))
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tiny_disk) == []


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("a.avi", {}, r"expected a name that ends in \.mp4 .*, got a\.avi"),
        ("a.mp4", {"codec": "prores4444"}, r"expected a name that ends in \.mov or \.mkv for prores4444, got a\.mp4"),
        ("a.mp4", {"codec": "av1"}, r"expected a codec \(h264, prores4444, vp9, ffv1\), got 'av1'"),
        ("a.mp4", {"rate": 0}, "expected a rate above 0 frames a second, got 0"),
    ],
)
def test_a_video_that_cannot_be_written_is_refused_at_once(path: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoWriter(path, **{"rate": 25, **options})


def test_a_writer_refuses_another_size_and_leaves_no_file_without_frames(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", 25)
    writer.close()
    assert os.listdir(tmp_path) == []
    with VideoWriter(tmp_path / "a.mp4", 25) as writer:
        writer.write(picture(0))
        with pytest.raises(ValueError, match=r"expected pictures of one size, \(48, 64\) \(H, W\), got \(50, 64\)"):
            writer.write(picture(0, (50, 64)))


def test_overlay_tints_and_outlines_objects_and_nothing_else() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    before = image.copy()
    labels = np.zeros((40, 60), np.uint8)
    labels[5:15, 10:30], labels[15:25, 10:30], labels[30:, 50:] = 1, 200, 3
    out = overlay(image, labels, 0.5)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(out[labels == 0], image[labels == 0])
    for edge in ((5, 20), (14, 20), (15, 20), (10, 10), (10, 29), (30, 55), (35, 50)):
        np.testing.assert_array_equal(out[edge], palette()[labels[edge]])
    for inner in ((10, 20), (20, 20), (39, 59), (39, 55)):  # the frame's own border is no edge
        mean = (image[inner].astype(int) + palette()[labels[inner]]) / 2
        assert np.abs(out[inner] - mean).max() <= 1
    none, full = overlay(image, labels, 0.0), overlay(image, labels, 1.0)
    np.testing.assert_array_equal(none[7:13, 12:28], image[7:13, 12:28])
    np.testing.assert_array_equal(full[labels > 0], palette()[labels[labels > 0]])


def test_overlay_accepts_any_integer_labels_and_ids_beyond_the_palette() -> None:
    image = np.full((9, 9, 3), 100, np.uint8)
    labels = np.zeros((9, 9), np.int64)
    np.testing.assert_array_equal(overlay(image, labels), image)
    labels[2:7, 2:7] = 256
    np.testing.assert_array_equal(overlay(image, labels), overlay(image, (labels > 0).astype(np.uint8)))
    with pytest.raises(ValueError, match="expected labels of 8x9 pixels, the size of the image, got 9x9"):
        overlay(image[:8], labels)
    with pytest.raises(ValueError, match=r"expected opacity in \[0, 1\], got 2"):
        overlay(image, labels, 2)


def test_a_sheet_holds_few_evenly_spaced_frames_of_any_length() -> None:
    for length in (1, 7, 8, 9, 1000):
        sheet = Sheet(cells=8, columns=4, width=160)
        for i in range(length):
            sheet.add(i, picture(i), np.zeros((48, 64), np.uint8))
            assert len(sheet._kept) <= 8
        kept = len(sheet._kept)
        assert min(length, 5) <= kept
        assert sheet.image().shape == (30 * -(-kept // 4), 160, 3)
    with pytest.raises(ValueError, match="no frame to show"):
        Sheet().image()


def test_the_frames_of_a_sheet_are_evenly_spaced() -> None:
    sheet = Sheet(cells=4, columns=4, width=256)
    for i in range(47):
        sheet.add(i, picture(i), np.zeros((48, 64), np.uint8))
    assert [number(sheet.image()[:, x : x + 64]) for x in (0, 64, 128)] == [0, 16, 32]


def test_a_contact_sheet_shows_the_frames_with_their_objects() -> None:
    labels = np.zeros((48, 64), np.uint8)
    labels[20:, 30:] = 2
    pairs = [(Frame(i, str(i), picture(10), None), labels) for i in range(3)]
    sheet = contact_sheet(pairs, columns=2, width=128)
    assert sheet.shape == (96, 128, 3)
    np.testing.assert_array_equal(sheet[20:48, 64:], overlay(picture(10), labels)[20:])
    assert (sheet[:15, :15] > 220).all(axis=2).any()  # the number
    assert not (sheet[:15, :15] == sheet[:15, 64:79]).all()  # another number
    assert not sheet[48:, 64:].any()

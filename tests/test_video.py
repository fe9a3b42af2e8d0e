"""Video files as sources: written here with FFmpeg, cut and rotated, and the demo clips if present."""

import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import make, number, stamp

from hodor.frames import open_source, prefetch
from hodor.video import ffmpeg

DEMO = Path(__file__).parents[2] / "shared" / "data" / "demo"


FILES: dict[str, Callable[[Path], Path]] = {
    "one GOP, B-frames": lambda d: make(d / "long.mp4", 70, g=250, bf=2),
    "short GOPs": lambda d: make(d / "short.mp4", 50, g=7, bf=2),
    "open GOPs": lambda d: make(d / "open.mkv", 50, **{"x264-params": "open-gop=1:keyint=8:bframes=3"}),
    "mpeg-ts": lambda d: make(d / "a.ts", 50, g=12),
    "hevc 10 bit": lambda d: make(
        d / "a.mov", 40, "libx265", "yuv420p10le", **{"x265-params": "log-level=none:keyint=12:lossless=1"}
    ),
    "vp9 webm": lambda d: make(d / "a.webm", 40, "libvpx-vp9", g=15, deadline="realtime", **{"cpu-used": 8}),
    "gif": lambda d: make(d / "a.gif", 40, "gif", "gray"),
    "avi": lambda d: make(d / "a.avi", 40, "mpeg4", qmin=1, qmax=1),
    "prores with alpha": lambda d: make(d / "a.mov", 40, "prores_ks", "yuva444p10le"),
    "raw stream without times": lambda d: make(d / "a.h264", 40, g=10, bf=2),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_range_and_direction_is_a_slice_of_all_frames(kind: str, tmp_path: Path) -> None:
    source = open_source(FILES[kind](tmp_path))
    whole = stamp(source.frames())
    assert [w[0] for w in whole] == list(range(len(whole)))
    assert [number(np.frombuffer(w[3], np.uint8).reshape(48, 64, 3)) for w in whole] == [i % 50 for i in range(len(whole))]
    assert len(whole) in (40, 50, 70)
    assert whole[0][2] == 0
    assert stamp(source.frames(reverse=True)) == whole[::-1]
    for start, stop in ((0, 3), (9, 9), (13, 14), (13, 38), (36, None), (999, None)):
        assert stamp(source.frames(start, stop)) == whole[start:stop]
        assert stamp(source.frames(start, stop, reverse=True)) == whole[start:stop][::-1]
    assert source.stopped is None


def test_a_source_has_size_count_and_rate(tmp_path: Path) -> None:
    with open_source(make(tmp_path / "clip.mp4", 20)) as source:
        assert (source.name, source.size, source.count, source.estimated) == ("clip", (48, 64), 20, False)
        assert (source.rate, source.notes) == (25, [])
        assert [f.time for f in source][:3] == pytest.approx([0, 0.04, 0.08])
        assert next(iter(source)).name == "00000"
    assert open_source(make(tmp_path / "clip.mkv", 20)).count == 20  # from its duration
    assert open_source(tmp_path / "clip.mkv").estimated


def test_variable_timestamps_are_kept(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.15, 0.9, 1.0, 3.25]
    source = open_source(make(tmp_path / "vfr.mp4", 6, times=times))
    assert [f.time for f in source] == pytest.approx(times, abs=2e-3)
    assert [f.time for f in source.frames(reverse=True)] == pytest.approx(times[::-1], abs=2e-3)


# a, b, c, d of the track header: x' = a x + c y, y' = b x + d y; and how numpy says the same.
TURNS = {
    "quarter clockwise": ((0, 1, -1, 0), lambda a: np.rot90(a, -1)),
    "quarter back": ((0, -1, 1, 0), lambda a: np.rot90(a)),
    "half": ((-1, 0, 0, -1), lambda a: np.rot90(a, 2)),
    "mirrored": ((-1, 0, 0, 1), lambda a: a[:, ::-1]),
    "transposed": ((0, 1, 1, 0), lambda a: a.transpose(1, 0, 2)),
}


@pytest.mark.parametrize("turn", TURNS)
def test_rotation_of_the_track_is_applied(turn: str, tmp_path: Path) -> None:
    path = make(tmp_path / "phone.mp4", 5)
    plain = [f.image for f in open_source(path)]
    data = bytearray(path.read_bytes())
    (a, b, c, d), turned = TURNS[turn]
    matrix = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes of times, ids and volume before the matrix
    values = np.array([a, b, 0, c, d, 0, 0, 0, 16384]) * 65536
    data[matrix : matrix + 36] = values.astype(">i4").tobytes()
    path.write_bytes(data)
    source = open_source(path)
    assert source.size == turned(plain[0]).shape[:2]
    for upright, frame in zip(plain, source, strict=True):
        np.testing.assert_array_equal(frame.image, turned(upright))


@pytest.mark.parametrize(
    ("codec", "pixels"),
    [
        ("ffv1", "gray"),
        ("ffv1", "gray10le"),
        ("ffv1", "yuv444p10le"),
        ("ffv1", "yuva420p"),
        ("ffv1", "bgra"),
        ("ffv1", "gbrp12le"),
    ],
)
def test_odd_sizes_and_other_pixel_formats_are_read_as_8_bit_rgb(codec: str, pixels: str, tmp_path: Path) -> None:
    source = open_source(make(tmp_path / "a.mkv", 3, codec, pixels, size=(33, 47)))
    frames = list(source)
    assert [f.image.shape for f in frames] == [(33, 47, 3)] * 3
    assert [number(f.image) for f in frames] == [0, 1, 2]
    assert ("its alpha is ignored" in source.notes) == ("a" in pixels.removeprefix("gray"))
    red = frames[0].image[2, 2].astype(int)
    assert (red[0] == red[1]) if pixels.startswith("gray") else (red[0] > 240 and red[1] < 12)


def test_hdr_and_pixels_that_are_not_square_are_noted(tmp_path: Path) -> None:
    hdr = "log-level=none:transfer=smpte2084:colorprim=bt2020:colormatrix=bt2020nc:sar=2"
    notes = open_source(make(tmp_path / "hdr.mp4", 3, "libx265", "yuv420p10le", **{"x265-params": hdr})).notes
    assert notes == ["pixels are not square (12/11): frames are used as stored", "HDR is read without tone mapping"]


@pytest.mark.parametrize("between", [0, 3])
def test_frames_outside_an_edit_list_do_not_count(between: int, tmp_path: Path) -> None:
    path = make(tmp_path / "trimmed.mp4", 40, g=10, bf=between)
    whole = [f.image.tobytes() for f in open_source(path)]
    data = bytearray(path.read_bytes())
    edit = data.index(b"elst") + 12  # name, version, count; then the duration in 1/1000 s and the start, 512 a frame
    start = int.from_bytes(data[edit + 4 : edit + 8], "big") + 512 * 13
    data[edit : edit + 8] = (400).to_bytes(4, "big") + start.to_bytes(4, "big")
    path.write_bytes(data)
    source = open_source(path)
    forward = stamp(source.frames())
    assert [f[3] for f in forward] == whole[13:23]
    assert source.stopped is None
    assert stamp(source.frames(reverse=True)) == forward[::-1]
    assert stamp(source.frames(4)) == forward[4:]
    assert (source.count, source.estimated) == (10, False)


def test_backwards_nothing_is_decoded_twice_where_keyframes_are_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(make(tmp_path / "a.mp4", 100, g=10, bf=0))
    assert next(source.frames(reverse=True)).index == 99  # the whole video is decoded once to number its frames
    runs, decoded = ffmpeg.Video._run, []

    def counted(self: ffmpeg.Video, key: int) -> Iterator[Any]:
        for index, frame in runs(self, key):
            decoded.append(index)
            yield index, frame

    monkeypatch.setattr(ffmpeg.Video, "_run", counted)
    assert len(list(source.frames(reverse=True))) == 100
    assert sorted(decoded) == list(range(100))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_cut_file_gives_what_decodes_and_reports_where_it_stopped(suffix: str, tmp_path: Path) -> None:
    flags = {"movflags": "+faststart"} if suffix == "mp4" else {}
    whole = make(tmp_path / f"whole.{suffix}", 50, flags=flags, g=10, noise=True)
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    source = open_source(cut)
    frames = stamp(source.frames())
    assert 20 < len(frames) < 40
    assert frames == stamp(open_source(whole).frames())[: len(frames)]
    assert source.stopped is not None
    assert source.stopped.startswith(f"frame {len(frames)}: the file ends ")
    assert "\n" not in source.stopped
    again = open_source(cut)
    assert stamp(again.frames(reverse=True)) == frames[::-1]
    assert again.stopped == source.stopped


@pytest.mark.parametrize("cut", [False, True])
def test_empty_packets_of_dropped_frames_are_no_damage_but_a_cut_is(cut: bool, tmp_path: Path) -> None:
    times = [(i + i // 10 * 5) / 25 for i in range(48)]
    path = make(tmp_path / "capture.avi", 48, "mjpeg", "yuvj420p", times=times, tick=Fraction(1, 25))
    if cut:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = open_source(path)
    frames = list(source)
    assert [number(f.image) for f in frames] == list(range(len(frames)))
    assert (len(frames) < 40) if cut else (len(frames) == 48)
    assert (source.stopped is not None) == cut


@pytest.mark.parametrize("reverse", [False, True])
def test_600_frames_are_streamed_with_few_alive(reverse: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(make(tmp_path / "a.mp4", 600, g=600, size=(16, 16)))
    alive, most, plain = [0], [0], ffmpeg._rgb

    def counted(frame: av.VideoFrame) -> np.ndarray:
        image = plain(frame)
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        weakref.finalize(image, lambda: alive.__setitem__(0, alive[0] - 1))
        return image

    monkeypatch.setattr(ffmpeg, "_rgb", counted)
    indices = [frame.index for frame in source.frames(reverse=reverse)]
    assert indices == list(range(600))[:: -1 if reverse else 1]
    assert most[0] <= (ffmpeg.BLOCK + 2 if reverse else 3)


@pytest.mark.parametrize("name", ["cup", "box", "bedroom"])
def test_real_clips_read_the_same_in_both_directions(name: str) -> None:
    path = DEMO / f"{name}.mp4"
    if not path.exists():
        pytest.skip("demo clips are not here")
    source = open_source(path)
    assert source.count is not None
    assert source.rate is not None
    stop = min(60, source.count)
    forward = {f.index: hash(f.image.tobytes()) for f in source.frames(stop=stop)}
    backward = {f.index: hash(f.image.tobytes()) for f in prefetch(source.frames(stop=stop, reverse=True))}
    assert list(backward) == list(range(stop))[::-1]
    assert forward == backward
    assert source.stopped is None

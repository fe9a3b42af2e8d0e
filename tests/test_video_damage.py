"""Videos with damaged frames in the middle: the numbers of the other frames stay, and the damaged ones are named."""

import itertools
from pathlib import Path

import av
import pytest
from clips import damage, make, stamp

from hodor.frames import open_source
from hodor.video.decoding import skipped_frames

FILES = {
    "h264 in MP4": ("mp4", "libx264", "yuv420p", {"g": 10, "bf": 0}),
    "h264 in MP4 with B-frames": ("mp4", "libx264", "yuv420p", {"g": 10, "bf": 2, "x264-params": "b-adapt=0"}),
    "h264 in MOV": ("mov", "libx264", "yuv420p", {"g": 10, "bf": 2}),
    "mpeg4 in MP4": ("mp4", "mpeg4", "yuv420p", {"g": 10, "bf": 0}),
    "mpeg4 in AVI": ("avi", "mpeg4", "yuv420p", {"g": 10, "bf": 0}),
    "mjpeg in AVI": ("avi", "mjpeg", "yuvj420p", {}),
    "prores in MOV": ("mov", "prores_ks", "yuv422p10le", {}),
    "vp9 in MP4": ("mp4", "libvpx-vp9", "yuv420p", {"g": 10, "deadline": "realtime", "cpu-used": 8}),
    "hevc in MP4": ("mp4", "libx265", "yuv420p", {"x265-params": "log-level=none:keyint=10:bframes=2"}),
    "ffv1 in MKV": ("mkv", "ffv1", "yuv444p", {}),
}


INTRA = {"mjpeg", "prores_ks"}


@pytest.mark.parametrize("frames", [(17,), (20,), (13, 14, 31), (0,), (39,)])
@pytest.mark.parametrize("kind", FILES)
def test_numbers_stay_and_damaged_frames_repeat_the_picture_before(kind: str, frames: tuple[int, ...], tmp_path: Path) -> None:
    suffix, codec, pixels, options = FILES[kind]
    path = make(tmp_path / f"a.{suffix}", 40, codec, pixels, noise=True, **options)
    whole = stamp(open_source(path).frames())
    damage(path, *frames)
    source = open_source(path)
    forward = stamp(source.frames())
    assert [f[:3] for f in forward] == [f[:3] for f in whole]
    assert source.damaged.keys() >= set(frames)
    intact = [n for n in range(40) if n not in source.damaged]
    for n, message in source.damaged.items():
        assert message
        assert forward[n][3] == forward[max((i for i in intact if i < n), default=intact[0])][3]
    groups = {n // 10 for n in source.damaged}  # the frames of a group refer to each other
    for n in intact:
        if codec in INTRA or n // 10 not in groups:
            assert forward[n][3] == whole[n][3], n
    if codec in INTRA:
        assert source.damaged.keys() == set(frames)
    again = open_source(path)
    assert stamp(again.frames(reverse=True)) == forward[::-1]
    assert again.damaged == source.damaged
    assert stamp(again.frames(15)) == forward[15:]
    assert source.stopped is None


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video", "libx265"])
def test_a_recording_that_begins_between_keyframes_begins_with_its_first_frame(codec: str, tmp_path: Path) -> None:
    options = {"x265-params": "log-level=none:keyint=10:bframes=0"} if codec == "libx265" else {"bf": 0, "g": 10}
    path = make(tmp_path / "a.ts", 40, codec, **options)
    whole = [f.image.tobytes() for f in open_source(path)]
    data = path.read_bytes()
    with av.open(str(path)) as container:
        position = sorted((p.pts, p.pos) for p in container.demux(video=0) if p.size)[6][1]
    path.write_bytes(data[: 188 * 3] + data[position:])
    source = open_source(path)
    forward = list(source)
    assert [f.index for f in forward] == list(range(len(forward)))
    assert [f.image.tobytes() for f in forward[-28:]] == whole[-28:]
    assert stamp(source.frames(reverse=True)) == stamp(iter(forward))[::-1]
    assert source.damaged == {}


def test_packets_before_the_first_frame_of_a_stream_are_noted_but_not_counted(tmp_path: Path) -> None:
    path = make(tmp_path / "a.h264", 30, size=(256, 384), noise=True, g=27, bf=0, qp=1, preset="ultrafast")
    whole = [f.image.tobytes() for f in open_source(path)]
    with av.open(str(path)) as container:
        packets = [bytes(p) for p in container.demux(video=0)]
    path.write_bytes(b"".join(packets[1:]))  # FFmpeg looks at the first 5 MB for the parameters of the decoder
    assert sum(map(len, packets[1:27])) > 5_000_000
    source = open_source(path)
    assert [f.image.tobytes() for f in source] == whole[27:]
    assert source.damaged == {}
    assert source.notes == ["26 packets before its first frame do not decode: they are not counted"]
    assert [f.index for f in source.frames(reverse=True)] == [2, 1, 0]


def test_a_frame_whose_damage_the_decoder_conceals_is_named(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", 30, size=(192, 256), noise=True, g=30, bf=0, threads=1)
    whole = stamp(open_source(path).frames())
    with av.open(str(path)) as container:
        place, size = sorted((p.pts, p.pos, p.size) for p in container.demux(video=0) if p.size)[12][1:]
    data = bytearray(path.read_bytes())
    data[place + size // 2 : place + size // 2 + 40] = bytes(range(40))
    path.write_bytes(data)
    source = open_source(path)
    forward = stamp(source.frames())
    assert [f[:3] for f in forward] == [f[:3] for f in whole]
    assert source.damaged == {12: "a part of its data is damaged"}
    assert [f[3] for f in forward[:12]] == [f[3] for f in whole[:12]]
    assert forward[12][3] == whole[11][3]
    assert stamp(open_source(path).frames(reverse=True)) == forward[::-1]


@pytest.mark.parametrize("codec", ["mjpeg", "libx264"])
def test_frames_that_a_damaged_container_loses_are_noted(codec: str, tmp_path: Path) -> None:
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    options = {} if codec == "mjpeg" else {"g": 1, "bf": 0}
    path = make(tmp_path / "a.mkv", 60, codec, pixels, noise=True, **options)
    whole = [f.image.tobytes() for f in open_source(path)]
    source = open_source(path)
    assert len(list(source.frames())) == 60
    assert source.notes == []
    with av.open(str(path)) as container:
        packets = sorted((p.pts, bytes(p)) for p in container.demux(video=0) if p.size)
    data = bytearray(path.read_bytes())
    for n in (20, 41):
        place = data.index(packets[n][1])
        data[place - 4 : place] = b"\x8f\x00\x00\x00"  # number of the track, time and flags of the block
    path.write_bytes(data)
    source = open_source(path)
    found = [whole.index(f.image.tobytes()) for f in source.frames()]
    skipped = {k: b - a - 1 for k, (a, b) in enumerate(itertools.pairwise(found)) if b - a > 1}
    assert {found[k] for k in skipped} == {19, 40}
    where = ", ".join(f"{count} after frame {k}" for k, count in skipped.items())
    assert source.notes == [
        f"its time stamps skip frames ({where}): frames that are missing are not counted, "
        "so that later frames have lower numbers than in a complete file"
    ]


def test_a_variable_rate_has_no_skipped_frames() -> None:
    assert skipped_frames([0, 10, 30, 40, 80, 90, 130, 170, 180, 210, 260]) == {}
    assert skipped_frames([*range(0, 100, 10), *range(120, 200, 10)]) == {9: 2}
    assert skipped_frames([None] * 20) == {}
    assert skipped_frames([round(i * 1000 / 30) for i in range(40)]) == {}
    assert skipped_frames([0, 33, 67, 100, 400]) == {}  # too few steps

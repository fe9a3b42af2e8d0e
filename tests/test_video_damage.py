"""Videos with damaged frames in the middle: the numbers of the other frames stay, and the damaged ones are named."""

from pathlib import Path

import av
import numpy as np
import pytest
from clips import make, number, stamp

from hodor.frames import open_source


def places(path: Path) -> list[tuple[int, int, bool]]:
    """Return position, size and whether it is a keyframe of each packet, in the order of presentation."""
    with av.open(str(path)) as container:
        found = [(p.pts, p.pos, p.size, p.is_keyframe) for p in container.demux(video=0) if p.size]
    return [(position, size, key) for _, position, size, key in sorted(found)]


def damage(path: Path, *frames: int) -> Path:
    data, found = bytearray(path.read_bytes()), places(path)
    for n in frames:
        position, size, _ = found[n]
        data[position : position + size] = b"\xff" * size
    path.write_bytes(data)
    return path


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


@pytest.mark.parametrize("frames", [(17,), (20,), (13, 14, 31), (0,), (39,)])
@pytest.mark.parametrize("kind", FILES)
def test_numbers_stay_and_damaged_frames_repeat_the_picture_before(kind: str, frames: tuple[int, ...], tmp_path: Path) -> None:
    suffix, codec, pixels, options = FILES[kind]
    path = make(tmp_path / f"a.{suffix}", 40, codec, pixels, **options)
    whole = stamp(open_source(path).frames())
    damage(path, *frames)
    source = open_source(path)
    forward = stamp(source.frames())
    shown = [number(np.frombuffer(f[3], np.uint8).reshape(48, 64, 3)) for f in forward]
    print(kind, frames, source.damaged, source.stopped, shown)
    assert [f[:3] for f in forward] == [f[:3] for f in whole]
    assert source.damaged.keys() >= set(frames)
    for n, message in source.damaged.items():
        assert message
        assert forward[n][3] == forward[n - 1 if n else min(set(range(40)) - source.damaged.keys())][3]
    assert [f[3] for f in forward[: min(frames)]] == [f[3] for f in whole[: min(frames)]]
    for n in {*range(40)} - source.damaged.keys():
        assert shown[n] == n or codec in ("libx264",)
    again = open_source(path)
    assert stamp(again.frames(reverse=True)) == forward[::-1]
    assert again.damaged == source.damaged
    assert stamp(again.frames(15)) == forward[15:]

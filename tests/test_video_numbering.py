"""One numbering of a video's frames in both directions, whatever its time stamps: files of every container and codec."""

import contextlib
import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import make, number, picture, stamp

from hodor.frames import VideoWriter, open_source
from hodor.video import ffmpeg

COUNT = 12
TICK = Fraction(1, 1000)
SUFFIXES = ("mp4", "mov", "mkv", "avi", "ts", "mpg", "webm")
CODECS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "h264": ("libx264", "yuv420p", {"g": 5, "preset": "ultrafast", "x264-params": "b-adapt=0:scenecut=0"}),
    "mpeg4": ("mpeg4", "yuv420p", {"g": 5, "b_strategy": 0, "qmin": 1, "qmax": 2}),
    "mpeg1": ("mpeg1video", "yuv420p", {"g": 5, "b_strategy": 0, "qmin": 1, "qmax": 2}),
    "mpeg2": ("mpeg2video", "yuv420p", {"g": 5, "b_strategy": 0, "qmin": 1, "qmax": 2}),
    "vp9": ("libvpx-vp9", "yuv420p", {"g": 5, "deadline": "realtime", "cpu-used": 8}),
    "mjpeg": ("mjpeg", "yuvj420p", {}),
}
STAMPS = {
    "regular": [40 * i for i in range(COUNT)],
    "duplicate": [40 * (i - (i in (4, 9))) for i in range(COUNT)],
    "variable": [40 * i + (i % 3) * 11 + (i > 6) * 200 for i in range(COUNT)],
}


def packets_of(codec: str, between: int, stamps: Sequence[int]) -> list[av.Packet]:
    """Encode the numbered pictures at a regular rate, then give the packets the time stamps of their pictures."""
    encoder, pixels, options = CODECS[codec]
    coder: Any = av.CodecContext.create(encoder, "w")
    coder.width, coder.height, coder.pix_fmt, coder.time_base, coder.framerate = 64, 48, pixels, Fraction(1, 25), 25
    coder.options = {k: str(v) for k, v in (options | ({"bf": between} if between else {})).items()}
    packets = []
    for i in [*range(COUNT), None]:
        frame = None
        if i is not None:
            frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = i, Fraction(1, 25)
        packets += coder.encode(frame)
    last = -1000
    for n, packet in enumerate(packets):
        shown = stamps[packet.pts]
        packet.dts = last = max(last + 1, stamps[n] - (120 if between else 3))
        packet.pts, packet.time_base = shown, TICK
    return packets


def write(path: Path, codec: str, between: int, stamps: Sequence[int]) -> Path:
    encoder, pixels, _ = CODECS[codec]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(encoder, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        container.start_encoding()
        for packet in packets_of(codec, between, stamps):
            packet.stream = stream
            with contextlib.suppress(av.error.FFmpegError):  # a stamp that the container refuses: that frame is left out
                container.mux(packet)
    return path


def check(path: Path) -> list[int]:
    """Compare both directions and every start; return the numbers in the pictures, in the order of the decoder."""
    with av.open(str(path)) as container:
        shown = [number(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    source = open_source(path)
    forward = stamp(source.frames())
    assert [f[0] for f in forward] == list(range(len(shown)))
    assert [number(np.frombuffer(f[3], np.uint8).reshape(48, 64, 3)) for f in forward] == shown
    source = open_source(path)
    assert stamp(source.frames(reverse=True)) == forward[::-1]
    assert (source.count, source.estimated) == (len(forward), False)
    for start in (1, 4, 7, 11):
        assert stamp(source.frames(start)) == forward[start:]
        assert stamp(source.frames(start, start + 2, reverse=True)) == forward[start : start + 2][::-1]
    times = [f[2] for f in forward]
    assert all(t is None for t in times) or all(a < b for a, b in itertools.pairwise(times))
    assert source.stopped is None
    return shown


UNREADABLE = {("ts", "vp9"), ("ts", "mjpeg"), ("mpg", "vp9"), ("mpg", "mjpeg"), ("mov", "vp9")}
"""Pairs of container and codec that FFmpeg does not write, or does not recognise when it reads them back."""
WITHOUT = ("vp9", "mjpeg")  # no B-frames
PAIRS = [(s, c) for s in SUFFIXES for c in CODECS if (s, c) not in UNREADABLE and (s != "webm" or c == "vp9")]


@pytest.mark.parametrize(
    ("suffix", "codec", "between"), [(*p, b) for p in PAIRS for b in (0, 2) if not (b and p[1] in WITHOUT)]
)
def test_backwards_is_forwards_reversed(suffix: str, codec: str, between: int, tmp_path: Path) -> None:
    for kind, stamps in STAMPS.items():
        path = tmp_path / f"{kind}.{suffix}"
        write(path, codec, between, stamps)
        shown = check(path)
        assert len(shown) >= 8  # the others have a time stamp that the container refuses
        if kind == "regular":
            assert sorted(shown) == list(range(COUNT))


def test_the_encoder_of_pyav_with_more_than_1000_frames_a_second(tmp_path: Path) -> None:
    times = [i / 2000 for i in range(COUNT)]
    path = make(tmp_path / "fast.mkv", COUNT, "mjpeg", "yuvj420p", times=times, tick=Fraction(1, 2000))
    assert check(path) == list(range(COUNT))


def test_joined_transport_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffmpeg, "PROBE", 4)  # the stamps of the first frames increase: those of the packets do not
    data = write(tmp_path / "a.ts", "h264", 2, STAMPS["regular"]).read_bytes()
    (tmp_path / "joined.ts").write_bytes(data + data)
    assert check(tmp_path / "joined.ts") == [*range(COUNT), *range(COUNT)]
    source = open_source(tmp_path / "joined.ts")
    assert {f.time for f in source} == {None}
    assert source.notes == [
        f"time stamps of {tmp_path / 'joined.ts'} are not increasing: films take its frame rate, 25 frames/s"
    ]


def test_several_frames_in_a_pack_of_mpeg_1(tmp_path: Path) -> None:
    packets = [bytes(p) for p in packets_of("mpeg1", 0, STAMPS["regular"])]
    data = b""
    for first in range(0, COUNT, 4):
        body, tick = b"".join(packets[first : first + 4]), 90 * 40 * first + 9000
        mark = bytes([0x21 | tick >> 29 & 14, tick >> 22 & 255, tick >> 14 & 254 | 1, tick >> 7 & 255, tick << 1 & 254 | 1])
        data += b"\0\0\1\xba" + mark + b"\x80\1\1" + b"\0\0\1\xe0" + (len(body) + 5).to_bytes(2, "big") + mark + body
    (tmp_path / "several.mpg").write_bytes(data + b"\0\0\1\xb9")
    assert check(tmp_path / "several.mpg") == list(range(COUNT))


def packed(path: Path) -> Path:
    """Write an AVI of old encoders: a P and a B picture share a packet, and an empty picture follows."""
    packets = [bytes(p) for p in packets_of("mpeg4", 1, STAMPS["regular"])]
    kinds = ["IPB"[p[p.find(b"\0\0\1\xb6") + 4] >> 6] for p in packets]
    start = packets[0].find(b"\0\0\1\xb6")
    packets[0] = packets[0][:start] + b"\0\0\1\xb2DivX503b1393p\0" + packets[0][start:]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.codec_tag = 64, 48, "yuv420p", "XVID"
        container.start_encoding()
        place = 0
        while place < COUNT:
            two = kinds[place + 1 : place + 2] == ["B"]
            for data in [b"".join(packets[place : place + 2]), b"\0\0\1\xb6\x51\x00\x3f\xff"] if two else [packets[place]]:
                packet = av.Packet(data)
                packet.stream, packet.pts, packet.dts, packet.time_base = stream, place, place, Fraction(1, 25)
                packet.is_keyframe = kinds[place] == "I"
                container.mux(packet)
                place += 1
    return path


def test_packed_b_frames_in_avi(tmp_path: Path) -> None:
    assert check(packed(tmp_path / "old.avi")) == list(range(COUNT))


def test_films_of_frames_whose_stamps_step_back_take_the_frame_rate(tmp_path: Path) -> None:
    source = open_source(packed(tmp_path / "old.avi"))
    assert source.rate is not None
    with VideoWriter(tmp_path / "film.mp4", source.rate, crf=1) as writer:
        for frame in source:
            writer.write(frame.image, frame.time)
    film = list(open_source(tmp_path / "film.mp4"))
    for written, frame in zip(film, source, strict=True):
        assert abs(written.image.mean() - frame.image.mean()) < 2
    assert [f.time for f in film] == pytest.approx([i / 25 for i in range(COUNT)])


def test_stamps_that_step_back_after_the_first_frames_change_to_the_frame_rate_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ffmpeg, "PROBE", 2)  # the packets of this file are in order: only its frames are not
    source = open_source(packed(tmp_path / "old.avi"))
    times = [f.time for f in source]
    first = times.index(None)
    assert 0 < first < COUNT
    assert set(times[first:]) == {None}
    assert len(source.notes) == 1

"""Read a video file, an address or a camera with FFmpeg (PyAV). See hodor.frames.

From the start, frames are counted while they are decoded. To start at a later frame or to read backwards, the packets are
first read without decoding: their sorted time stamps give the numbers of the frames and the keyframes from which to
decode.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import av
import numpy as np

from hodor.files import MAX_PIXELS
from hodor.video.source import Frame, Picture, Source, size_of

if TYPE_CHECKING:
    from fractions import Fraction

    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

BLOCK = 32  # frames held at once when a video is read backwards
ACCURATE = 0x2 | 0x2000 | 0x40000  # swscale: bilinear, full chroma interpolation, accurate rounding


class _Index(NamedTuple):
    """What packets contain without decoding.

    Attributes:
        pts: time stamps of the frames, sorted.
        keys: indices of the keyframes.
        packets: number of packets.
        end: end of the last packet, in seconds.
    """

    pts: array[int]
    keys: list[int]
    packets: int
    end: float


class Video(Source):
    """A video file or an address.

    Args:
        url: address for FFmpeg.
        name: name of the source in outputs.
        shown: name of the source in messages.

    Raises:
        ValueError: "clip.mp4 is not a video FFmpeg can read: ...", "clip.mp4 has no video stream: ...", "no frame of
            clip.mp4 decodes (...): check whether the file is complete".
    """

    def __init__(self, url: str, name: str, shown: str) -> None:
        super().__init__(name)
        self._url, self._shown = url, shown
        self._first: int | None = None
        container, stream = self._open()
        with container:
            self.rate = stream.average_rate or stream.guessed_rate
            self.count = _announced(container, stream) or None
            self.estimated = self.count is not None and self.count < stream.frames
            seconds = container.duration / 1e6 if container.duration else None
            if self.count is None and seconds and self.rate:
                self.count, self.estimated = max(1, round(seconds * self.rate)), True
            aspect, self._tick = stream.sample_aspect_ratio, stream.time_base
        _, frame = next(self._run(0), (0, None))
        if frame is None:
            raise ValueError(
                f"no frame of {shown} decodes ({self.stopped or 'it is empty'}): check whether the file is complete"
            )
        self.stopped = None
        self._first = frame.pts
        self._matrix = _display_matrix(frame)
        self.size = size_of(self._picture(frame))
        if aspect not in (None, 0, 1):
            self.notes.append(f"pixels are not square ({aspect}): frames are used as stored")
        if any(component.is_alpha for component in frame.format.components):
            self.notes.append("its alpha is ignored")
        if getattr(frame, "color_trc", 0) in (16, 18):  # SMPTE 2084 (PQ), ARIB STD-B67 (HLG)
            self.notes.append("HDR is read without tone mapping")

    def _open(self) -> tuple[InputContainer, VideoStream]:
        try:
            # a file cannot make FFmpeg open addresses, nor allocate frames of any size
            limits = {"max_pixels": str(MAX_PIXELS)}
            if self._url.startswith("file:"):
                limits["protocol_whitelist"] = "file"
            container = av.open(self._url, options=limits, metadata_errors="replace")  # tags can be in any encoding
        except (av.error.FFmpegError, OSError) as e:
            raise ValueError(f"{self._shown} is not a video FFmpeg can read: {e.strerror or e}") from None
        # the cover picture of an audio file is a video stream of one picture
        cover = av.stream.Disposition.attached_pic if hasattr(av.stream, "Disposition") else 0
        streams = [s for s in container.streams.video if not (cover and s.disposition & cover)]
        if not streams:
            container.close()
            raise ValueError(f"{self._shown} has no video stream: give a file with a video stream")
        if streams[0].codec_context is None:
            container.close()
            raise ValueError(f"{self._shown} is not a video FFmpeg can read: its codec is unknown")
        streams[0].thread_type = "AUTO"
        streams[0].codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        return container, streams[0]

    def _run(self, key: int) -> Iterator[tuple[int, VideoFrame]]:
        """Yield index and decoded frame, from keyframe `key` to the end of what decodes.

        From keyframe 0 the frames are counted. From a later keyframe their index is looked up by pts; a first frame
        without a pts has no valid index.
        """
        container, stream = self._open()
        packets, end, problem, number = 0, 0.0, None, -1 if key == 0 else sys.maxsize
        with container:
            if key and self._index:
                container.seek(self._index.pts[key], stream=stream)

            def decoded() -> Iterator[VideoFrame]:
                nonlocal packets, end, problem
                try:
                    for packet in _complete(container.demux(stream)):
                        packets, end = packets + 1, max(end, _end(packet))
                        yield from stream.decode(packet)
                except av.error.FFmpegError as e:
                    problem = e.strerror
                with contextlib.suppress(av.error.FFmpegError):  # frames that the decoder's threads still hold
                    yield from stream.codec_context.decode(None)

            for frame in decoded():
                number = number + 1 if key == 0 else self._rank(frame.pts, number + 1)
                yield number, frame
            if key and self._index:
                packets, end = self._index.packets, self._index.end
            problem = problem or self._shortfall(container, stream, packets, end)
            if problem:
                self.stopped = f"frame {number + 1}: {problem}"

    def _shortfall(self, container: InputContainer, stream: VideoStream, packets: int, end: float) -> str | None:
        """Describe how much of a cut file is missing: FFmpeg reports no error, but the header announces more."""
        if container.format.name == "avi" and stream.average_rate:
            # AVI counts the empty packets of dropped frames, which FFmpeg does not return: the next time stamp includes them
            packets = max(packets, round(end * stream.average_rate))
        if packets < _announced(container, stream):
            return f"the file ends here, its header announces {stream.frames} frames"
        announced = 0.0
        if match := re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", "").strip("\0 ")):
            announced = int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
        elif container.format.name in ("matroska,webm", "flv") and len(container.streams) == 1:
            announced = ((container.start_time or 0) + (container.duration or 0)) / 1e6
        if announced > end + max(0.25, 3 / float(self.rate or 25)):
            return f"the file ends at {end:.2f} s, its header announces {announced:.2f} s"
        return None

    @cached_property
    def _index(self) -> _Index | None:
        """The index, read once; None if packets have no time stamps (a raw stream): then every read starts at frame 0."""
        pts, keys, packets, end = set(), set(), 0, 0.0
        container, stream = self._open()
        with container:
            for packet in _complete(container.demux(stream)):
                packets, end = packets + 1, max(end, _end(packet))
                if packet.pts is None or self._first is None:
                    return None
                # an edit list marks packets that are decoded but not shown; others before the first frame never decode
                if packet.pts >= self._first and not packet.is_discard:
                    pts.add(packet.pts)
                    if packet.is_keyframe:
                        keys.add(packet.pts)
            problem = self._shortfall(container, stream, packets, end)
            self.stopped = self.stopped or (f"frame {len(pts)}: {problem}" if problem else None)
        table = array("q", sorted(pts))
        self.count, self.estimated = len(table), False
        return _Index(table, sorted({0, *(bisect_left(table, p) for p in keys)}), packets, end)

    def _rank(self, pts: int | None, otherwise: int) -> int:
        """Return the index of the frame with this pts, `otherwise` if there is none."""
        table = self._index.pts if self._index else array("q")
        place = bisect_left(table, pts) if pts is not None else len(table)
        return place if place < len(table) and table[place] == pts else otherwise

    def _decode(self, start: int, stop: int | None) -> Iterator[Frame]:
        index = self._index if start else None
        before = index.keys[: bisect_right(index.keys, start)] if index else [0]
        # a container that seeks by dts can start after the requested keyframe: then try two earlier keyframes, at last 0
        for key in [*before[:0:-1][:2], 0]:
            run = self._run(key)
            first = next(run, None)
            if key == 0 or (first is not None and first[0] <= start):
                break
        for number, frame in itertools.chain([first] if first else [], run):
            if number >= start and (stop is None or number < stop):
                yield Frame(number, f"{number:05d}", self._picture(frame), self._time(frame, number))
            if stop is not None and number >= stop - 1:
                break
        run.close()  # type: ignore[attr-defined]

    def _forward(self, start: int, stop: int | None) -> Iterator[Frame]:
        return self._decode(start, stop) if stop is None or stop > start else iter(())

    def _backward(self, start: int, stop: int | None) -> Iterator[Frame]:
        index = self._index
        total = len(index.pts) if index else sum(1 for _ in self._run(0))
        keys = index.keys if index else [0]
        high = end = total if stop is None else min(stop, total)
        while high > start:
            low = max(start, high - BLOCK)
            place = bisect_left(keys, low)  # a block that starts on a keyframe decodes nothing twice
            low = keys[place] if place < len(keys) and keys[place] < high else low
            block = list(self._decode(low, high))
            if high < end and (not block or block[-1].index != high - 1):
                return  # damaged here: the frames before would not be adjacent to those already returned
            while block:
                yield block.pop()
            high = low

    def _time(self, frame: VideoFrame, number: int) -> float | None:
        if frame.pts is not None and self._tick is not None and self._first is not None:
            return float((frame.pts - self._first) * self._tick)
        return float(number / self.rate) if self.rate else None

    def _picture(self, frame: VideoFrame) -> Picture:
        return _turn(_rgb(frame), self._matrix)


def _complete(packets: Iterable[Packet[Any]]) -> Iterator[Packet[Any]]:
    """Yield the packets with data, without a last one in which the file was cut: it would decode to grey blocks."""
    held = None
    for packet in packets:
        if packet.size:
            if held is not None:
                yield held
            held = packet if packet.is_corrupt else None
            if held is None:
                yield packet


def _announced(container: InputContainer, stream: VideoStream) -> int:
    """Return the number of packets that the header announces, 0 if none; of MP4 without those an edit list omits."""
    indexed = len(getattr(stream, "index_entries", ())) if "mp4" in container.format.name else 0
    return min(stream.frames, indexed or stream.frames)


def _end(packet: Packet[Any]) -> float:
    start = packet.dts if packet.pts is None else packet.pts
    return float(((start or 0) + (packet.duration or 0)) * packet.time_base)


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Return (a, b, c, d) of the display transform x' = a x + c y, y' = b x + d y, x to the right and y down."""
    side_data: Any = frame.side_data
    for data in side_data:
        if data.type.name == "DISPLAYMATRIX":
            matrix = np.frombuffer(bytes(data), np.int32)
            return int(matrix[0]), int(matrix[1]), int(matrix[3]), int(matrix[4])
    return 1, 0, 0, 1


def _turn(image: Picture, matrix: tuple[int, int, int, int]) -> Picture:
    """Apply quarter turns and mirroring; any other angle is replaced by the nearest of them."""
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, right, down = image.transpose(1, 0, 2), c, b
    else:
        right, down = a, d
    return np.ascontiguousarray(image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])


def camera(number: int) -> tuple[Generator[tuple[Picture, float | None]], Fraction | None]:
    """Open a camera.

    Args:
        number: number of the camera, from 0.

    Returns:
        A generator of (picture, seconds since the first one), which closes the camera when it is closed, and the rate in
        frames a second, None if unknown.

    Raises:
        ValueError: "camera 0 cannot be opened: No such file or directory".
    """
    devices = {
        "linux": ("v4l2", f"/dev/video{number}"),
        "darwin": ("avfoundation", f"{number}:none"),
        "win32": ("vfwcap", f"{number}"),  # dshow needs a name, vfwcap accepts a number
    }
    if sys.platform not in devices:
        raise ValueError(f"camera {number} cannot be opened: no camera support on {sys.platform}")
    kind, url = devices[sys.platform]
    try:
        container = av.open(url, format=kind, options={"framerate": "30"} if kind == "avfoundation" else {})
    except (av.error.FFmpegError, OSError, ValueError) as e:
        raise ValueError(f"camera {number} cannot be opened: {getattr(e, 'strerror', None) or e}") from None

    def pictures() -> Generator[tuple[Picture, float | None]]:
        with container:
            first = None
            for frame in container.decode(video=0):
                first = frame.time if first is None else first
                yield _rgb(frame), frame.time - first if first is not None else None

    return pictures(), container.streams.video[0].average_rate


def _rgb(frame: VideoFrame) -> Picture:
    # The fast conversion of more than 8 bits is 1 or 2 levels too dark; of 8 bits it is exact, at a tenth of the time.
    deep = any(component.bits > 8 for component in frame.format.components)
    image: Picture = frame.to_ndarray(format="rgb24", interpolation=ACCURATE if deep else None)  # type: ignore[assignment]
    return image

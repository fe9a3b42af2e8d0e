"""Read a video file, an address or a camera with FFmpeg (PyAV). See hodor.frames.

A frame's number is its place in the order in which the decoder returns the frames from the start of the file. To start at
a later frame or to read backwards, the file is first decoded once without converting its pictures. If the time stamps of
the frames are unique and increasing, they then give the number of each frame after a jump to a keyframe; otherwise every
read decodes from the start.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import av
import numpy as np
import numpy.typing as npt

from hodor.files import MAX_PIXELS
from hodor.video.decoding import Decoded, Pass, skipped_frames
from hodor.video.films import ACCURATE, Colour
from hodor.video.sound import Sound
from hodor.video.source import Frame, Picture, Source, size_of

if TYPE_CHECKING:
    from fractions import Fraction

    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

P = TypeVar("P", bound=np.generic)
BLOCK = 32  # frames held at once when a video is read backwards
BLOCK_BYTES = 256 << 20  # pictures held at once when every block must be decoded from the start
PROBE = 64  # frames that are decoded to see whether their time stamps increase


class _Index(NamedTuple):
    """What one pass over the whole video has found.

    Attributes:
        total: number of frames.
        pts: time stamps of the frames, strictly increasing; None if they do not identify the frames.
        keys: numbers of the frames at which decoding can begin, sorted; [0] if `pts` is None.
    """

    total: int
    pts: array[int] | None
    keys: list[int]


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
        self._local = url.startswith("file:")
        self._threads = True
        self._timed: bool | None = None
        self._skipped = 0
        self._packets: tuple[list[int | None], list[int]] = [], []  # of the last whole pass: all time stamps, of keyframes
        container, stream = self._open()
        with container:
            self.rate = stream.average_rate or stream.guessed_rate
            self.count = _announced(container, stream) or None
            self.estimated = self.count is not None and self.count < stream.frames
            seconds = container.duration / 1e6 if container.duration else None
            if self.count is None and seconds and self.rate:
                self.count, self.estimated = max(1, round(seconds * self.rate)), True
            aspect, self._tick = stream.sample_aspect_ratio, stream.time_base
            sounds = len(container.streams.audio)
        with contextlib.closing(self._run(0)) as run:
            _, first = next(run, (0, None))
        if first is None:
            raise ValueError(
                f"no frame of {shown} decodes ({self.stopped or 'it is empty'}): check whether the file is complete"
            )
        self.stopped = None
        frame, self._first, _ = first
        self._matrix = _display_matrix(frame)
        if sounds and self._local:
            self.sound = Sound(url, float(self._first * self._tick) if self._first is not None and self._tick else 0.0)
        elif sounds:
            self.notes.append("its sound is not copied: only that of a file is")
        self.colour = _colour(frame)
        self.has_deep = any(component.bits > 8 for component in frame.format.components)
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
            if self._local:
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
        if not self._threads:
            streams[0].codec_context.thread_count = 1
        streams[0].codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        return container, streams[0]

    def _run(self, key: int) -> Generator[tuple[int, Decoded]]:
        """Yield number and decoded frame, from keyframe `key` to the end of what decodes."""
        if key:
            yield from self._run_from(key)
            return
        number = 0
        while True:
            container, stream = self._open()
            with container:
                whole = Pass(container, stream)
                for place, decoded in enumerate(whole.frames()):
                    if whole.damaged and self._threads and self._local:
                        break
                    if place == 0 and whole.skipped and not self._skipped:
                        self._skipped = whole.skipped
                        self.notes.append(f"{whole.skipped} packets before its first frame do not decode: they are not counted")
                    if place < number:
                        continue
                    if decoded.message is not None:
                        self.damaged[place] = decoded.message
                    yield place, decoded
                    number = place + 1
                if not (whole.damaged and self._threads and self._local):
                    problem = whole.problem or self._shortfall(container, stream, whole.packets, whole.end)
                    if problem:
                        self.stopped = f"frame {number}: {problem}"
                    self._packets = whole.stamps, whole.keys
                    return
            # FFmpeg's threads report an error after later packets, or not at all: decode again in one thread, so that the
            # result does not depend on the number of cores
            self._threads = False

    def _run_from(self, key: int) -> Generator[tuple[int, Decoded]]:
        index, last, before = self._index, -1, None
        assert index.pts is not None
        container, stream = self._open()
        with container:
            container.seek(index.pts[key], stream=stream)
            for decoded in Pass(container, stream).frames():
                number = bisect_left(index.pts, decoded.pts) if decoded.pts is not None else index.total
                if decoded.message is not None or number == index.total or index.pts[number] != decoded.pts:
                    continue
                if before is not None:
                    yield from self._repeated(before, last, number)
                yield number, decoded
                last, before = number, decoded
            if before is not None:
                yield from self._repeated(before, last, index.total)

    def _repeated(self, before: Decoded, last: int, stop: int) -> Iterator[tuple[int, Decoded]]:
        """Yield the damaged frames directly after frame `last`, each with its picture."""
        assert self._index.pts is not None
        for number in itertools.takewhile(self.damaged.__contains__, range(last + 1, stop)):
            yield number, Decoded(before.frame, self._index.pts[number], self.damaged[number])

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
    def _index(self) -> _Index:
        """The numbers of the frames, from one pass over the whole file."""
        frames = [(decoded.pts, decoded.message) for _, decoded in self._run(0)]
        stamps = [pts for pts, _ in frames]
        self.count, self.estimated = len(stamps), False
        self._increasing = _increase([pts for pts, message in frames if message is None])
        packets, keyframes = self._packets
        unique = {pts for pts in packets if pts is not None}
        if not self._increasing or len(unique) < len(packets) or not unique.issuperset(stamps):
            self.notes.append("its time stamps do not identify its frames: it is decoded from the start again, which is slower")
            return _Index(len(stamps), None, [0])
        table = array("q", (pts for pts in stamps if pts is not None))
        places = {pts: number for number, pts in enumerate(table)}
        keys = {places[pts] for pts in keyframes if pts in places} - self.damaged.keys()
        return _Index(len(table), table, sorted({0, *keys}))

    def _check_times(self) -> None:
        """Decide once whether time stamps are used."""
        if self._timed is not None:
            return
        self._timed = True
        if "_index" in vars(self):
            usable = self._increasing
        elif self._local:
            with contextlib.closing(self._run(0)) as run:
                usable = _increase([d.pts for _, d in itertools.islice(run, PROBE) if d.message is None])
            container, stream = self._open()
            with container:
                scan = Pass(container, stream)
                scan.scan()
            usable = usable and scan.ordered
            if usable and (missing := skipped_frames(scan.stamps)):
                where = ", ".join(f"{count} after frame {i}" for i, count in itertools.islice(missing.items(), 5))
                self.notes.append(
                    f"its time stamps skip frames ({where}{', ...' * (len(missing) > 5)}): frames that are missing are not "
                    "counted, so that later frames have lower numbers than in a complete file"
                )
        else:
            return
        if not usable:
            self._ignore_times()

    def _ignore_times(self) -> None:
        self._timed = False
        rate = f"{float(self.rate):g} frames/s" if self.rate else "25 frames/s"
        self.notes.append(f"time stamps of {self._shown} are not increasing: films take its frame rate, {rate}")

    def _decode(self, start: int, stop: int | None, keys: Sequence[int] | None = None) -> Iterator[Frame]:
        if start:
            begin = next((n for n in range(start, 0, -1) if n not in self.damaged), 0) if self._index else 0
            keys = self._index.keys if keys is None else keys
            before = keys[: bisect_right(keys, begin)]
        else:
            before = [0]
        expected = start
        # a container that seeks by dts can start after the requested keyframe: then try two earlier keyframes, at last 0
        for key in [*before[:0:-1][:3], 0]:
            with contextlib.closing(self._run(key)) as run:
                for number, decoded in run:
                    if number < expected:
                        continue
                    if number > expected or (stop is not None and number >= stop):
                        break
                    picture, deep = self._picture(decoded.frame), self._deep_picture(decoded.frame)
                    yield Frame(number, f"{number:05d}", picture, self._time(decoded.pts, number), deep)
                    expected += 1
                    if expected == stop:
                        return
            if start and expected >= self._index.total:
                return

    def _forward(self, start: int, stop: int | None) -> Iterator[Frame]:
        if stop is not None and stop <= start:
            return
        self._check_times()
        last = -1.0
        for frame in self._decode(start, stop):
            if frame.time is not None and frame.time <= last and self._timed:
                self._ignore_times()
            last = last if frame.time is None else frame.time
            yield frame if self._timed else frame._replace(time=None)

    def _backward(self, start: int, stop: int | None) -> Iterator[Frame]:
        index = self._index
        self._check_times()
        most = BLOCK if index.pts else max(BLOCK, BLOCK_BYTES // (3 * self.size[0] * self.size[1]))
        high = index.total if stop is None else min(stop, index.total)
        while high > start:
            low = max(start, high - most)
            place = bisect_left(index.keys, low)  # a block that starts on a keyframe decodes nothing twice
            low = index.keys[place] if place < len(index.keys) and index.keys[place] < high else low
            block = list(self._decode(low, high))
            while block:
                yield block.pop()
            high = low

    def _time(self, pts: int | None, number: int) -> float | None:
        if not self._timed:
            return None
        if pts is not None and self._tick is not None and self._first is not None:
            return float((pts - self._first) * self._tick)
        return float(number / self.rate) if self.rate else None

    def _picture(self, frame: VideoFrame) -> Picture:
        return _turn(_rgb(frame), self._matrix)

    def _deep_picture(self, frame: VideoFrame) -> npt.NDArray[np.uint16] | None:
        if not (self.deep and self.has_deep):
            return None
        deep: Any = frame.to_ndarray(format="gbrp16le", interpolation=ACCURATE)
        return _turn(deep, self._matrix)


def _colour(frame: VideoFrame) -> Colour:
    """Return what the values of a frame mean; 2 is unknown."""
    primaries, transfer, matrix = (int(getattr(frame, name, 2)) for name in ("color_primaries", "color_trc", "colorspace"))
    return Colour(primaries, transfer, matrix, int(frame.color_range) == 2)


def _announced(container: InputContainer, stream: VideoStream) -> int:
    """Return the number of packets that the header announces, 0 if none; of MP4 without those an edit list omits."""
    indexed = len(getattr(stream, "index_entries", ())) if "mp4" in container.format.name else 0
    return min(stream.frames, indexed or stream.frames)


def _increase(stamps: Sequence[int | None]) -> bool:
    """Whether all time stamps are present and strictly increasing, or all are absent."""
    present = [pts for pts in stamps if pts is not None]
    return len(present) in (0, len(stamps)) and all(a < b for a, b in itertools.pairwise(present))


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Return (a, b, c, d) of the display transform x' = a x + c y, y' = b x + d y, x to the right and y down."""
    side_data: Any = frame.side_data
    for data in side_data:
        if data.type.name == "DISPLAYMATRIX":
            matrix = np.frombuffer(bytes(data), np.int32)
            return int(matrix[0]), int(matrix[1]), int(matrix[3]), int(matrix[4])
    return 1, 0, 0, 1


def _turn(image: npt.NDArray[P], matrix: tuple[int, int, int, int]) -> npt.NDArray[P]:
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

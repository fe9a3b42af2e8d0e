"""Decode the packets of an open video in order, past damaged ones. See hodor.video.ffmpeg."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import av
import numpy as np

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


WITH_BEGINNING = ("mov", "matroska", "avi", "flv", "asf", "mxf", "ogg", "nut", "gif")
"""Formats whose files begin with a keyframe."""


CONCEALED = "a part of its data is damaged"
"""Message of a frame of which the decoder has filled damaged parts without an error."""


class Decoded(NamedTuple):
    """One frame in the order of the decoder.

    Attributes:
        frame: the frame; of a damaged one the frame before it, at the start the frame after it.
        pts: time stamp of the frame, in ticks of the stream; None if it has none.
        message: FFmpeg's message if the frame is damaged, else None.
    """

    frame: VideoFrame
    pts: int | None
    message: str | None = None


class Pass:
    """One pass over the packets of a video. A packet that does not decode takes the place that its time stamp gives it.

    A packet without a time stamp takes the place at which its error appears. In a transport or raw stream, packets
    before the first frame have no place: a recording that begins between two keyframes begins with packets that do not
    decode.

    Args:
        container: the open file.
        stream: its video stream.

    Attributes:
        packets: number of packets so far.
        end: end of the last packet, in seconds.
        stamps: time stamps of the packets that are shown, in the order of the file, None where one has none.
        keys: those of the keyframes among them.
        errors: number of errors so far.
        skipped: number of packets before the first frame that do not decode and have no place.
        damaged: whether a packet did not decode, a frame has concealed damage, or packets at the end gave no frame.
        problem: FFmpeg's message, if an error in the file itself ended the pass.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        self.packets, self.end = 0, 0.0
        self.stamps: list[int | None] = []
        self.keys: list[int] = []
        self._decodes: list[int] = []
        self.errors = self.skipped = 0
        self.damaged = False
        self.problem: str | None = None
        self._message = ""  # of the last error
        self._failed: dict[int, str] = {}
        self._waiting: list[int] = []  # heap: time stamps of packets whose frame has not appeared
        self._exact = True  # until the first error, each packet has given a frame
        self._begins = container.format.name.startswith(WITH_BEGINNING)
        self._delay = 0  # largest difference of a packet's two time stamps
        self._unplaced = 0  # damaged frames without a time stamp that have not been returned

    def frames(self) -> Iterator[Decoded]:
        """Yield the frames in the order of the decoder, with the damaged ones at their places."""
        last: VideoFrame | None = None
        for frame in self._decoded():
            for pts, message in self._missing(frame.pts, last is None):
                yield Decoded(last or frame, pts, message)
            if frame.is_corrupt:
                self.damaged = True
                yield Decoded(last or frame, frame.pts, CONCEALED)
                continue
            last = frame
            yield Decoded(frame, frame.pts)
        self.damaged = self.damaged or bool(self._waiting)  # decoding in threads, FFmpeg drops errors of the last packets
        if last is not None:
            for pts, message in self._missing(None, False, ended=True):
                yield Decoded(last, pts, message)

    def scan(self) -> None:
        """Read all packets without decoding them."""
        for packet in self._read():
            self._add(packet)

    @property
    def ordered(self) -> bool:
        """Whether the packets have unique time stamps in an order that the decoder can return, or none has one."""
        present = [pts for pts in self.stamps if pts is not None]
        return len(set(present)) in (0, len(self.stamps)) and self._decodes == sorted(self._decodes)

    def _read(self) -> Iterator[Packet[Any]]:
        try:
            yield from complete(self._container.demux(self._stream))
        except av.error.FFmpegError as e:
            self.problem = e.strerror

    def _add(self, packet: Packet[Any]) -> None:
        self.packets, self.end = self.packets + 1, max(self.end, end_of(packet))
        if packet.is_discard:  # an edit list marks packets that are decoded but not shown
            return
        self.stamps.append(packet.pts)
        if packet.dts is not None:
            self._decodes.append(packet.dts)
        if packet.pts is not None and packet.is_keyframe:
            self.keys.append(packet.pts)

    def _decoded(self) -> Iterator[VideoFrame]:
        for packet in self._read():
            self._add(packet)
            delay = (packet.pts or 0) - (packet.dts or 0)
            try:
                frames = self._stream.decode(packet)
            except av.error.FFmpegError as e:
                self._fail(e)
                # AVI has no time stamps of presentation: FFmpeg derives them from the data, here damaged
                if packet.pts is None or (self._container.format.name == "avi" and delay > self._delay):
                    self._unplaced += 1
                else:
                    self._failed[packet.pts] = self._message
                    heapq.heappush(self._waiting, packet.pts)
                continue
            self._delay = max(self._delay, delay)
            if packet.pts is not None and not packet.is_discard:
                heapq.heappush(self._waiting, packet.pts)
            yield from frames
        try:  # frames that the decoder's threads still hold
            frames = self._stream.codec_context.decode(None)
        except av.error.FFmpegError as e:
            self._fail(e)
        else:
            yield from frames

    def _fail(self, error: av.error.FFmpegError) -> None:
        self.damaged = True
        self.errors, self._message = self.errors + 1, error.strerror or str(error)

    def _missing(self, pts: int | None, first: bool, ended: bool = False) -> list[tuple[int | None, str]]:
        """Return time stamps and messages of the damaged frames before a frame, or before the end."""
        if first and not self._begins:
            self.skipped, self.errors, self._unplaced = self.errors, 0, 0
            self._failed.clear()
        found: list[tuple[int | None, str]] = [(None, self._message)] * self._unplaced
        self._unplaced = 0
        while self._waiting and (ended or (pts is not None and self._waiting[0] < pts)):
            stamp = heapq.heappop(self._waiting)
            if stamp in self._failed:
                found.append((stamp, self._failed.pop(stamp)))
            elif self.errors and self._exact:
                found.append((stamp, self._message))
            elif not first:
                self._exact = False
        if self._waiting and self._waiting[0] == pts:
            heapq.heappop(self._waiting)
        return found


def complete(packets: Iterable[Packet[Any]]) -> Iterator[Packet[Any]]:
    """Yield the packets with data, without a last one in which the file was cut: it would decode to grey blocks."""
    held = None
    for packet in packets:
        if packet.size:
            if held is not None:
                yield held
            held = packet if packet.is_corrupt else None
            if held is None:
                yield packet


def skipped_frames(stamps: Iterable[int | None]) -> dict[int, int]:
    """Find frames that are missing in a video of constant frame rate, such as those whose blocks are damaged in Matroska.

    Args:
        stamps: time stamps of the packets, in any order.

    Returns:
        Number of a frame -> how many frames are missing after it. Empty if the rate is not constant: where less than nine of
        ten steps are equal up to a quarter.
    """
    times = np.unique([pts for pts in stamps if pts is not None])
    steps = np.diff(times)
    if len(steps) < 8:
        return {}
    step = float(np.median(steps))
    if np.mean(np.abs(steps - step) <= max(1, step / 4)) < 0.9:
        return {}
    return {int(i): round(float(steps[i] / step)) - 1 for i in np.flatnonzero(steps > 1.6 * step)}


def end_of(packet: Packet[Any]) -> float:
    """Return the end of a packet, in seconds."""
    start = packet.dts if packet.pts is None else packet.pts
    return float(((start or 0) + (packet.duration or 0)) * packet.time_base)

"""Copy the sound of a video file into the films that are made from it, without encoding it again."""

from __future__ import annotations

import contextlib
import io
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av.container import OutputContainer

PREROLL = 2
"""Packets before the start of a film that are kept in MP4 and MOV: a decoder needs them for the first sample that is played."""

MAX_GAP = 0.1
"""Seconds without a packet of sound from which on a note states it."""


@dataclass(frozen=True)
class Sound:
    """The sound of a video file.

    Attributes:
        url: the file, as FFmpeg opens it.
        origin: time of the first frame of the video, in seconds on the clock of the file.
        start: time at which a film begins, in seconds from the first frame of the video, for films of frames without a time.
            Frames with a time state it themselves.
        stop: time at which the sound ends, in seconds from the first frame of the video. Default: with the film.
    """

    url: str
    origin: float = 0.0
    start: float = 0.0
    stop: float | None = None


class SoundCopy:
    """Copy packets of sound into a film while its frames are written.

    Nothing here stops a film: what cannot be copied is left out, and `notes` states it.

    Args:
        sound: the sound.
        film: the film. Its header must not have been written yet.
        start: time of the film's first frame, in seconds from the first frame of the video.
        name: name of the film in notes.
    """

    def __init__(self, sound: Sound, film: OutputContainer, start: float, name: str) -> None:
        import av

        self.notes: list[str] = []
        self._film, self._name = film, name
        self._zero = sound.origin + start
        self._stop = math.inf if sound.stop is None else sound.stop - start
        self._streams: dict[int, Any] = {}
        self._last: dict[int, int] = {}
        self._ends: dict[int, float] = {}
        self._next: Any = None
        self._early: dict[int, deque[Any]] = {}
        self._packets: Iterator[Any] = iter(())
        self._trims = film.format.name in ("mp4", "mov")
        try:
            self._input = av.open(sound.url, options={"protocol_whitelist": "file"}, metadata_errors="replace")
        except (av.error.FFmpegError, OSError) as error:
            self._note(f"it cannot be read ({error.strerror or error})")
            return
        chosen = [stream for stream in self._input.streams.audio if self._add(stream)]
        if chosen:
            self._packets = self._read(chosen)

    def _add(self, stream: Any) -> bool:
        codec = stream.codec_context.name if stream.codec_context is not None else "unknown"
        if codec == "unknown" or not _holds(self._film.format.name, stream):
            self._note(f"{self._film.format.name.upper()} does not hold its sound ({codec})")
            return False
        copy = self._film.add_stream_from_template(stream)
        copy.metadata.update({key: value for key, value in stream.metadata.items() if key in ("language", "title")})
        self._streams[stream.index] = copy
        return True

    def _read(self, streams: list[Any]) -> Iterator[Any]:
        import av

        try:
            if self._zero > 10:  # otherwise everything before the film would be read
                self._input.seek(int((self._zero - 5) * 1e6))
            for packet in self._input.demux(streams):
                if packet.size and packet.pts is not None and packet.time_base is not None:
                    yield packet
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._note(f"its sound is damaged ({getattr(error, 'strerror', None) or error}): it ends there")

    def copy_until(self, time: float) -> None:
        """Copy the packets that begin before a time.

        Args:
            time: seconds from the first frame of the film.
        """
        time = min(time, self._stop)
        while True:
            packet, self._next = self._next or next(self._packets, None), None
            if packet is None:
                return
            begin = float(packet.pts * packet.time_base) - self._zero
            if begin >= time:
                self._next = packet
                return
            index = packet.stream.index
            if begin < -1e-6:
                self._early.setdefault(index, deque(maxlen=PREROLL if self._trims else 0)).append(packet)
                continue
            for before in self._early.pop(index, ()):
                self._copy(before, index)
            self._copy(packet, index)

    def _copy(self, packet: Any, index: int) -> None:
        import av

        stamp = packet.pts - round(self._zero / packet.time_base)
        if stamp <= self._last.get(index, stamp - 1):
            self._note("time stamps of its sound go back: packets are left out")
            return
        begin, length = float(stamp * packet.time_base), float((packet.duration or 0) * packet.time_base)
        gap = begin - self._ends.get(index, begin)
        if gap > MAX_GAP:
            self._note(f"it has a gap of {gap:.2f} s at {begin - gap:.2f} s of the film")
        self._ends[index] = begin + length
        self._last[index] = packet.pts = packet.dts = stamp
        packet.stream = self._streams[index]
        try:
            self._film.mux(packet)
        except (av.error.InvalidDataError, av.error.ArgumentError) as error:
            self._note(f"a packet of its sound is damaged ({error.strerror}): it is left out")

    def _note(self, problem: str) -> None:
        note = f"{self._name} lacks sound of the source: {problem}"
        if note not in self.notes:
            self.notes.append(note)

    def close(self) -> None:
        """Close the file of the sound."""
        with contextlib.suppress(Exception):
            self._input.close()


def _holds(form: str, stream: Any) -> bool:
    """Whether a container can hold a copy of a stream."""
    import av

    try:
        with av.open(io.BytesIO(), "w", format=form) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError, OSError):
        return False
    return True

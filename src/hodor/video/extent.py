"""The part of a source between an in point and an out point, and the names of its frames in outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hodor.video.source import Frame, Source


@dataclass(frozen=True)
class Extent:
    """The frames of a source from a first to a last one. Their indices are those of the source.

    Args:
        source: the source.
        start: index of the first frame, from 0.
        last: index of the last frame, which is included. Default: the last frame of the source.
        start_number: number of the first frame's name; the names are then numbers of at least four digits. Default: the names
            of the source.

    Raises:
        ValueError: "expected a start frame of at least 0, got -1", "expected a stop frame of at least 30, the start frame, got
            20", "expected a start number of at least 0, got -1", "stop frame 90, but clip has frames 0 to 79: give one of
            them".
    """

    source: Source
    start: int = 0
    last: int | None = None
    start_number: int | None = None

    def __post_init__(self) -> None:
        if self.start < 0:
            raise ValueError(f"expected a start frame of at least 0, got {self.start}")
        if self.last is not None and self.last < self.start:
            raise ValueError(f"expected a stop frame of at least {self.start}, the start frame, got {self.last}")
        if self.start_number is not None and self.start_number < 0:
            raise ValueError(f"expected a start number of at least 0, got {self.start_number}")
        count = None if self.source.estimated else self.source.count
        for what, index in (("start", self.start), ("stop", self.last)):
            if count is not None and index is not None and index >= count:
                frames = f"frames 0 to {count - 1}"
                raise ValueError(f"{what} frame {index}, but {self.source.name} has {frames}: give one of them")

    @property
    def stop(self) -> int | None:
        """Index after the last frame, None for the end of the source."""
        return None if self.last is None else self.last + 1

    @property
    def count(self) -> int | None:
        """Number of frames, None if unknown; it is an estimate while `source.estimated` is true."""
        if self.source.count is None:
            return None
        return max(0, min(self.source.count, self.stop or self.source.count) - self.start)

    def __contains__(self, index: int) -> bool:
        return index >= self.start and (self.last is None or index <= self.last)

    def frames(self, stop: int | None = None, reverse: bool = False) -> Iterator[Frame]:
        """Read the frames, with their names in outputs; see `Source.frames`.

        Args:
            stop: index after the last frame to read, at least `start`. Default: all frames.
            reverse: begin with the last frame.

        Returns:
            An iterator of frames.
        """
        frames = self.source.frames(self.start, self.stop if stop is None else stop, reverse)
        return frames if self.start_number is None else (f._replace(name=self.name_of(f.index)) for f in frames)

    def name_of(self, index: int) -> str:
        """Return the name of the frame with this index of the source, without reading the frame."""
        return self.source.name_of(index) if self.start_number is None else f"{self.start_number + index - self.start:04d}"

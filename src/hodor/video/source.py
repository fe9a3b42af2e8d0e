"""The base class of all sources of frames, and reading ahead in a background thread."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from hodor.video.films import Colour
    from hodor.video.sound import Sound

Picture = npt.NDArray[np.uint8]
T = TypeVar("T")


class Frame(NamedTuple):
    """One picture of a source.

    Attributes:
        index: number of the frame, from 0.
        name: name of the frame in outputs: the stem of an image file, else the index as "00042".
        image: upright RGB picture, uint8 [H, W, 3].
        time: seconds from the first frame, None for images.
        deep: the picture with 16 bits, uint16 [H, W, 3], where `Source.deep` asks for it and the source has more than 8 bits.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which is not used
    name: str
    image: Picture
    time: float | None
    deep: npt.NDArray[np.uint16] | None = None


class Source:
    """A stream of frames of one size, made by `hodor.frames.open_source`.

    Attributes:
        name: name of the source, in messages and outputs.
        files: the files that it is read from, if there are any.
        size: (H, W) of the upright frames, in pixels.
        count: number of frames, None if unknown.
        estimated: True while `count` is an estimate from the duration.
        rate: average rate in frames a second, None if unknown.
        colour: what the RGB values mean, None if the source does not say.
        sound: its sound, None if it has none that can be copied.
        has_deep: whether its pictures have more than 8 bits.
        deep: set it to True to get `Frame.deep`, too. Default: False.
        notes: what was skipped or ignored, one line each.
        damaged: number of each frame read so far that does not decode -> FFmpeg's message. Its picture is that of the
            frame before it; at the start of a video, of the frame after it.
        stopped: "frame 37: ..." with FFmpeg's message, after a damaged video has been read as far as it decodes; else
            None.
    """

    files: tuple[Path, ...] = ()

    def __init__(self, name: str) -> None:
        self.name = name
        self.size: tuple[int, int] = (0, 0)
        self.count: int | None = None
        self.estimated = False
        self.rate: Fraction | None = None
        self.colour: Colour | None = None
        self.sound: Sound | None = None
        self.has_deep = False
        self.deep = False
        self.notes: list[str] = []
        self.damaged: dict[int, str] = {}
        self.stopped: str | None = None

    def frames(self, start: int = 0, stop: int | None = None, reverse: bool = False) -> Iterator[Frame]:
        """Read a range of frames, one at a time.

        Args:
            start: index of the first frame, at least 0.
            stop: index after the last frame. Default: to the end.
            reverse: begin with the last frame; the indices of the frames stay the same.

        Returns:
            An iterator of frames.

        Raises:
            ValueError: "expected 0 <= start <= stop, got start -1, stop None"; a frame of another size ("expected frames
                of 240x427 pixels (height x width), the size of the first, got 480x854 for frame 7 (00007) of clip:
                ..."); a damaged picture in a folder; `reverse` for a camera or an iterator.
        """
        if start < 0 or (stop is not None and stop < start):
            raise ValueError(f"expected 0 <= start <= stop, got start {start}, stop {stop}")
        return self._checked(self._backward(start, stop) if reverse else self._forward(start, stop))

    def frame(self, index: int) -> Frame:
        """Read one frame.

        Args:
            index: index of the frame, from 0.

        Raises:
            ValueError: "frame 90, but clip has frames 0 to 89: give one of them", "frame 90, but camera 0 ended before it: give
                an earlier one", and as `frames`.
        """
        for frame in list(self.frames(index, index + 1)):
            return frame
        if self.count is None or self.estimated:
            raise ValueError(f"frame {index}, but {self.name} ended before it: give an earlier one")
        raise ValueError(f"frame {index}, but {self.name} has frames 0 to {self.count - 1}: give one of them")

    def name_of(self, index: int) -> str:
        """Return the name of frame `index`, without reading the frame."""
        return f"{index:05d}"

    def _checked(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        for frame in frames:
            size = frame.image.shape[:2]
            if size != self.size:
                raise ValueError(
                    f"expected frames of {self.size[0]}x{self.size[1]} pixels (height x width), the size of the first, "
                    f"got {size[0]}x{size[1]} for frame {frame.index} ({frame.name}) of {self.name}: resize them to one size"
                )
            yield frame

    def _forward(self, start: int, stop: int | None) -> Iterator[Frame]:
        raise NotImplementedError

    def _backward(self, start: int, stop: int | None) -> Iterator[Frame]:
        raise ValueError(f"{self.name} cannot be read backwards: save it to a video file or a folder first")

    def close(self) -> None:
        """Close a camera or an iterator. Files are open only while they are read."""

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prefetch(items: Iterable[T], depth: int = 4) -> Generator[T]:
    """Compute items ahead of their use in one background thread.

    The thread starts when the first item is requested. It ends with the last item, or, after the item in progress, when
    the caller closes the generator. Errors of `items` are raised here.

    Args:
        items: the items.
        depth: maximum number of items that are computed ahead, at least 1.

    Returns:
        A generator of the same items.

    Raises:
        ValueError: "expected depth of at least 1, got 0".
    """
    if depth < 1:
        raise ValueError(f"expected depth of at least 1, got {depth}")
    return _prefetched(items, depth)


def _prefetched(items: Iterable[T], depth: int) -> Generator[T]:
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    closed = threading.Event()

    def work() -> None:
        source = iter(items)
        try:
            for item in source:
                ready.put(("item", item))
                if closed.is_set():
                    break
            else:
                ready.put(("end", None))
        except BaseException as error:
            ready.put(("error", error))
        finally:
            if isinstance(source, Generator):
                source.close()  # here, in the thread that ran it

    worker = threading.Thread(target=work, name="hodor-prefetch", daemon=True)
    worker.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "item":
                yield value
            elif kind == "error":
                raise value
            else:
                return
    finally:
        closed.set()
        while worker.is_alive():
            with contextlib.suppress(queue.Empty):
                ready.get(timeout=0.02)
        worker.join()


def size_of(image: Picture) -> tuple[int, int]:
    """Return (H, W) of a picture [H, W, ...]."""
    return image.shape[0], image.shape[1]

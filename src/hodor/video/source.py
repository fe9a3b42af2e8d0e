"""A source of frames: what every kind of source has in common, and reading ahead in a background thread."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
T = TypeVar("T")


class Frame(NamedTuple):
    """One picture of a source: uint8 RGB [H, W, 3], upright; `time` in seconds from the first frame, None for stills.

    `index` counts from 0; `name` names outputs: the stem of an image file, else the index as "00042".
    """

    index: int  # type: ignore[assignment]  # a tuple's own method; the plain word serves readers better
    name: str
    image: Picture
    time: float | None


class Source:
    """A stream of frames of one size. Made by open_source.

    `name` is for people and output names; `size` is (H, W) of the upright frames; `count` is the number of frames or
    None, a guess from the duration while `estimated` is true; `rate` is the average rate in frames a second or None.
    `notes` says in plain lines what was skipped or ignored. `stopped` is None, or, once a damaged video has been read
    as far as it decodes, "frame 37: ..." with what FFmpeg said.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.size: tuple[int, int] = (0, 0)
        self.count: int | None = None
        self.estimated = False
        self.rate: Fraction | None = None
        self.notes: list[str] = []
        self.stopped: str | None = None

    def frames(self, start: int = 0, stop: int | None = None, reverse: bool = False) -> Iterator[Frame]:
        """-> frames start .. stop - 1 (or to the end), one at a time; last first if `reverse`. Indices stay the same.

        Raises ValueError for "start -1, stop None: wanted 0 <= start <= stop", for a frame of another size ("frame 7 of
        clip.mp4 is 480x854, the first one 240x427 (height x width): ..."), for a broken picture in a folder, and for
        reverse on a camera or an iterator.
        """
        if start < 0 or (stop is not None and stop < start):
            raise ValueError(f"start {start}, stop {stop}: wanted 0 <= start <= stop")
        return self._checked(self._backward(start, stop) if reverse else self._forward(start, stop))

    def name_of(self, index: int) -> str:
        """The name that frame `index` has, without reading it."""
        return f"{index:05d}"

    def _checked(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        for frame in frames:
            size = frame.image.shape[:2]
            if size != self.size:
                raise ValueError(
                    f"frame {frame.index} ({frame.name}) of {self.name} is {size[0]}x{size[1]}, the first one "
                    f"{self.size[0]}x{self.size[1]} (height x width): bring them to one size"
                )
            yield frame

    def _forward(self, start: int, stop: int | None) -> Iterator[Frame]:
        raise NotImplementedError

    def _backward(self, start: int, stop: int | None) -> Iterator[Frame]:
        raise ValueError(f"{self.name} cannot be read backwards: save it to a video file or a folder first")

    def close(self) -> None:
        """Let go of a camera or an iterator. Files are open only while they are read."""

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prefetch(items: Iterable[T], depth: int = 4) -> Generator[T]:
    """-> the same items, made up to `depth` ahead in one background thread. What `items` raises is raised here.

    The thread starts with the first item and ends when the items do, or when the caller closes or leaves the loop;
    it may have to finish the item it is making. `depth` >= 1.
    """
    if depth < 1:
        raise ValueError(f"depth {depth}: wanted 1 or more")
    return _prefetched(items, depth)


def _prefetched(items: Iterable[T], depth: int) -> Generator[T]:
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    left = threading.Event()

    def work() -> None:
        made = iter(items)
        try:
            for item in made:
                ready.put(("item", item))
                if left.is_set():
                    break
            else:
                ready.put(("end", None))
        except BaseException as error:
            ready.put(("error", error))
        finally:
            if isinstance(made, Generator):
                made.close()  # here, in the thread that ran it

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
        left.set()
        while worker.is_alive():
            with contextlib.suppress(queue.Empty):
                ready.get(timeout=0.02)
        worker.join()


def size_of(image: Picture) -> tuple[int, int]:
    """(H, W) of a picture [H, W, ...]."""
    return image.shape[0], image.shape[1]

"""Frames in, pictures out: any source of images as a lazy stream of upright RGB; videos, overlays and sheets to files.

    with open_source("clip.mp4") as source:              # or a folder, "shots/*.jpg", camera 0, an iterator
        for frame in prefetch(source.frames(start=10)):  # frames(reverse=True) comes back from the end
            writer.write(overlay(frame.image, labels), frame.time)
    if source.stopped:                                   # None, or "frame 37: ..." where a broken video ended
        ...

Nothing here holds a whole video. A file is decoded as it is asked for; backwards it is decoded block by block, each
from the keyframe before it, so at most 32 pictures are held at once however far apart the keyframes are.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import queue
import re
import threading
from collections.abc import Generator, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt

from hodor.render import Sheet as Sheet
from hodor.render import VideoWriter as VideoWriter
from hodor.render import contact_sheet as contact_sheet
from hodor.render import overlay as overlay

Picture = npt.NDArray[np.uint8]
T = TypeVar("T")

STILLS = frozenset(
    ".avif .bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()  # noqa: SIM905
)


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


def open_source(spec: str | os.PathLike[str] | int | Iterable[Any]) -> Source:
    """-> the source that `spec` names.

    A video file or address, whatever FFmpeg reads; one image; a folder of images or a glob pattern, in natural order
    (2.png before 10.png), other and hidden files skipped and noted; a camera number (0 or "0"); an iterable of
    pictures, uint8 [H, W, 3] or float [3, H, W] in [0, 1], grey or with alpha if need be.

    Rotation (display matrix, EXIF) is applied, alpha is dropped, more than 8 bits are cut to 8 without tone mapping,
    and non-square pixels stay as stored. A damaged video sets `stopped`; a damaged image in a folder is a ValueError
    when its turn comes, since leaving it out would shift every later frame.
    Raises FileNotFoundError "clip.mp4 does not exist", and ValueError, one line, for what holds no picture: "clip.mp4
    is not a video FFmpeg can read: ...", "clip.mp4 has no video stream: ...", "shots holds no image: ...", "a.jpg and
    a.png share the name a: ...", "camera 0 cannot be opened: ...".
    """
    if isinstance(spec, int) or (isinstance(spec, str) and spec.isdecimal() and not os.path.exists(spec)):
        from hodor.video import camera

        pictures, rate = camera(int(spec))
        return _Stream(pictures, f"camera {spec}", rate)
    if not isinstance(spec, str | os.PathLike):
        return _Stream(((item, None) for item in spec), "frames", None)
    text = os.fspath(spec)
    path = Path(text)
    if "://" in text:
        return _video(text, text, text)
    if path.is_dir():
        return _Stills(list(path.iterdir()), path.resolve().name, f"{text} holds no image")
    if not path.exists() and glob.has_magic(text):
        found = [Path(p) for p in glob.glob(text, recursive=True)]
        if len(found) == 1 and found[0].suffix.lower() not in STILLS - {".gif"}:
            return open_source(found[0])
        return _Stills(found, path.parent.name or "frames", f"no image matches {text}")
    if not path.exists():
        raise FileNotFoundError(f"{text} does not exist")
    if path.suffix.lower() in STILLS - {".gif"}:
        return _Stills([path], path.stem, f"{text} is not an image")
    return _video(f"file:{text}", path.stem, text)  # "file:" keeps FFmpeg from reading a colon in a name as a protocol


class _Stills(Source):
    def __init__(self, paths: list[Path], name: str, empty: str) -> None:
        super().__init__(name)
        images = [p for p in paths if p.suffix.lower() in STILLS and not p.name.startswith(".") and p.is_file()]
        if not images:
            raise ValueError(f"{empty}: wanted files such as 00000.jpg or 00000.png")
        self._paths = sorted(images, key=lambda p: (_natural(p.name), str(p)))
        if other := sorted(p.name for p in set(paths) - set(images)):
            shown = ", ".join(other[:3]) + (", ..." if len(other) > 3 else "")
            self.notes.append(f"skipped {len(other)} that are not images: {shown}")
        stems: dict[str, Path] = {}
        for p in self._paths:
            if (twin := stems.setdefault(p.stem, p)) is not p:
                both = f"{twin.name} and {p.name} share the name {p.stem}"
                raise ValueError(f"{both}: give a pattern such as '*{p.suffix}'")
        self.count = len(self._paths)
        self.size = size_of(_read_still(self._paths[0]))

    def name_of(self, index: int) -> str:
        return self._paths[index].stem

    def _forward(self, start: int, stop: int | None) -> Iterator[Frame]:
        return (self._frame(i) for i in range(len(self._paths))[start:stop])

    def _backward(self, start: int, stop: int | None) -> Iterator[Frame]:
        return (self._frame(i) for i in reversed(range(len(self._paths))[start:stop]))

    def _frame(self, index: int) -> Frame:
        path = self._paths[index]
        return Frame(index, path.stem, _read_still(path), None)


class _Stream(Source):
    """Pictures that come once, in their own order: an iterator or a camera."""

    def __init__(self, items: Iterator[tuple[Any, float | None]], name: str, rate: Fraction | None) -> None:
        super().__init__(name)
        first = next(items, None)
        if first is None:
            raise ValueError(f"{name}: no frame came, wanted at least one")
        self.rate, self._source = rate, items
        self._items: Iterator[tuple[Any, float | None]] | None = itertools.chain([first], items)
        self.size = size_of(_picture(first[0], 0))

    def _forward(self, start: int, stop: int | None) -> Iterator[Frame]:
        if self._items is None:
            raise ValueError(f"{self.name} has been read already: such a source can be read once")
        items, self._items = self._items, None
        for index, (item, time) in enumerate(itertools.islice(items, stop)):
            if index >= start:
                yield Frame(index, f"{index:05d}", _picture(item, index), time)

    def close(self) -> None:
        if hasattr(self._source, "close"):
            self._source.close()


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


def _video(url: str, name: str, text: str) -> Source:
    from hodor.video import Video

    return Video(url, name, text)


def _natural(name: str) -> list[str | int]:
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(re.split(r"(\d+)", name))]


def _read_still(path: Path) -> Picture:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file)
            if upright.mode.startswith("I"):  # 16-bit grey: keep the high byte
                grey = (np.asarray(upright).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                return np.ascontiguousarray(np.broadcast_to(grey[..., None], (*grey.shape, 3)))
            return np.array(upright.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise ValueError(f"{path} cannot be read as an image ({e}): replace it or take it out") from None


def _picture(item: Any, index: int) -> Picture:
    """A picture handed over as an array or a tensor -> uint8 [H, W, 3]. Raises ValueError naming what came."""
    array = np.asarray(item.detach().cpu() if hasattr(item, "detach") else item)
    wanted = "wanted uint8 [H, W, 3] or float [3, H, W] in [0, 1]"
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"frame {index} has shape {array.shape}: {wanted}")
    floats = np.issubdtype(array.dtype, np.floating)
    first, last = array.shape[0] in (1, 3, 4), array.shape[2] in (1, 3, 4)
    if first and (floats or not last) and array.shape[2] != 1:
        array = array.transpose(1, 2, 0)
    elif not last:
        raise ValueError(f"frame {index} has shape {array.shape}: {wanted}")
    if floats:
        if not (array.min() >= -1e-3 and array.max() <= 1 + 1e-3):  # also refuses NaN
            raise ValueError(f"frame {index} holds values {array.min():g} to {array.max():g}: {wanted}")
        array = (array.astype(np.float32) * 255 + 0.5).clip(0, 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(f"frame {index} is {array.dtype}: {wanted}")
    colours = array.shape[2] if array.shape[2] < 4 else 3
    return np.ascontiguousarray(np.broadcast_to(array[..., :colours], (*array.shape[:2], 3)))

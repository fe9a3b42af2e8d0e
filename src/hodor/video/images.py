"""Sources that are not video files: image files, and pictures from a program or a camera."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from hodor.names import natural_key
from hodor.video.pictures import Levels, named_errors, opened, pages_of, read_picture, seek, to_rgb
from hodor.video.source import Frame, Picture, Source, size_of

STILLS = frozenset(
    ".avif .bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()  # noqa: SIM905
)
"""Suffixes of image files."""
VIDEOS = frozenset(".avi .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ts .webm .wmv".split())  # noqa: SIM905
"""Suffixes that only name videos in messages: a video file is recognised by its content."""
BLOCK = 32
"""Number of pictures that are held at once while a `Stack` is read backwards."""


class Stills(Source):
    """Image files as frames, in natural order of their names.

    Args:
        paths: files; those that are no images, and hidden files, are skipped with a note.
        name: name of the source.
        empty: beginning of the message if there is no image: "shots holds no image".

    Raises:
        ValueError: "shots holds no image: give files such as ...", "expected one video or images, got 2 videos (a.mp4, b.mp4):
            give one of them", "a.jpg and a.png share the name a: give a pattern such
            as '*.png'".
    """

    def __init__(self, paths: list[Path], name: str, empty: str) -> None:
        super().__init__(name)
        images = [p for p in paths if is_image(p)]
        if not images:
            videos = sorted(p.name for p in paths if p.suffix.lower() in VIDEOS)
            if videos:
                several = ", ".join(videos[:3]) + (", ..." if len(videos) > 3 else "")
                raise ValueError(f"expected one video or images, got {len(videos)} videos ({several}): give one of them")
            raise ValueError(f"{empty}: give files such as 00000.jpg or 00000.png")
        self.files = tuple(sorted(images, key=lambda p: (natural_key(p.name), str(p))))
        if other := sorted(p.name for p in set(paths) - set(images)):
            shown = ", ".join(other[:3]) + (", ..." if len(other) > 3 else "")
            self.notes.append(f"skipped {len(other)} that are not images: {shown}")
        stems: dict[str, Path] = {}
        for path in self.files:
            if (earlier := stems.setdefault(path.stem, path)) is not path:
                both = f"{earlier.name} and {path.name} share the name {path.stem}"
                raise ValueError(f"{both}: give a pattern such as '*{path.suffix}'")
        self.count = len(self.files)
        self._levels = Levels([(path, None) for path in self.files])
        self.size = size_of(self._frame(0).image)
        self.notes += _odd_names([path.stem for path in self.files])

    def name_of(self, index: int) -> str:
        """Return the stem of image `index`."""
        return self.files[index].stem

    def _forward(self, start: int, stop: int | None) -> Iterator[Frame]:
        return (self._frame(i) for i in range(len(self.files))[start:stop])

    def _backward(self, start: int, stop: int | None) -> Iterator[Frame]:
        return (self._frame(i) for i in reversed(range(len(self.files))[start:stop]))

    def _frame(self, index: int) -> Frame:
        path = self.files[index]
        image = read_picture(path, self._levels)
        self.notes += [note for note in self._levels.notes if note not in self.notes]
        return Frame(index, path.stem, image, None)


def open_images(paths: list[Path], name: str, empty: str, left_out: Sequence[Path] = ()) -> Source:
    """Open image files as a source: `Stills`, or a `Stack` if there is one file and it holds several pictures.

    Args:
        paths: files.
        name: name of the source.
        empty: beginning of the message if there is no image.
        left_out: files that are no frames, such as masks, or folders of such files. A note names those among `paths`.
    """
    given = {_identity(p) for path in left_out for p in (path.iterdir() if path.is_dir() else [path])} - {None}
    kept = [p for p in paths if not given or _identity(p) not in given]
    masks = sorted(p.name for p in set(paths) - set(kept))
    images = [p for p in kept if is_image(p)]
    numbers = pages_of(images[0]) if len(images) == 1 else ()
    source = Stack(images[0], numbers) if len(numbers) > 1 else Stills(kept, name, empty)
    if masks:
        shown = ", ".join(masks[:3]) + (", ..." if len(masks) > 3 else "")
        source.notes.append(f"left out of the frames, because given as a mask: {shown}")
    return source


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what is equal for all names of a file, None if there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def is_image(path: Path) -> bool:
    """Whether a path is an image file by its suffix, and not hidden."""
    return path.suffix.lower() in STILLS and not path.name.startswith(".") and path.is_file()


class Stack(Source):
    """The pictures of one file as frames: a TIFF with several pages, an animated WebP, PNG, GIF or AVIF.

    Args:
        path: the file.
        numbers: numbers of its pictures, from `hodor.video.pictures.pages_of`.
    """

    def __init__(self, path: Path, numbers: Sequence[int]) -> None:
        super().__init__(path.stem)
        self.files, self._numbers, self.count = (path,), numbers, len(numbers)
        self._levels = Levels([(path, number) for number in numbers])
        with opened(path, numbers[0]) as file:
            self.notes += _axes(file)
        first = next(self._forward(0, 1))
        self.size = size_of(first.image)
        if first.time is not None:
            with opened(path, numbers[0]) as file:
                file.load()
                self.rate = (1 / _duration(file)).limit_denominator(1001)

    def _forward(self, start: int, stop: int | None) -> Iterator[Frame]:
        path, time = self.files[0], Fraction(0)
        with named_errors(path), opened(path, self._numbers[0]) as file:
            moving = file.format != "TIFF"
            for index, number in enumerate(self._numbers[:stop]):
                if index < start and not moving:
                    continue
                seek(file, number)
                if moving:
                    file.load()  # a picture can be drawn over the one before it; its duration is known after that
                if index >= start:
                    image = np.array(to_rgb(file, self._levels))
                    self.notes += [note for note in self._levels.notes if note not in self.notes]
                    yield Frame(index, f"{index:05d}", image, float(time) if moving else None)
                time += _duration(file)

    def _backward(self, start: int, stop: int | None) -> Iterator[Frame]:
        count = len(self._numbers)
        high = count if stop is None else min(stop, count)
        while high > start:
            low = max(start, high - BLOCK)
            yield from reversed(list(self._forward(low, high)))
            high = low


class Stream(Source):
    """Pictures that can be read once, in their own order: an iterator or a camera.

    Args:
        items: (picture, time in seconds or None) of each frame.
        name: name of the source.
        rate: frames a second, None if unknown.

    Attributes:
        first: the first picture.

    Raises:
        ValueError: "expected at least one frame from camera 0, got none".
    """

    def __init__(self, items: Iterator[tuple[Any, float | None]], name: str, rate: Fraction | None) -> None:
        super().__init__(name)
        first = next(items, None)
        if first is None:
            raise ValueError(f"expected at least one frame from {name}, got none")
        self.rate, self._source = rate, items
        self._items: Iterator[tuple[Any, float | None]] | None = itertools.chain([first], items)
        self.first, self._time = _picture(first[0], 0), first[1]
        self.size = size_of(self.first)

    def _forward(self, start: int, stop: int | None) -> Iterator[Frame]:
        if self._items is None:
            raise ValueError(f"{self.name} has been read already: open such a source again to read it again")
        items, self._items = self._items, None
        for index, (item, time) in enumerate(itertools.islice(items, stop)):
            if index >= start:
                yield Frame(index, f"{index:05d}", _picture(item, index), time)

    def frame(self, index: int) -> Frame:
        """Read one frame. Frame 0 can be read again; any other is the last that is read."""
        return super().frame(index) if index else Frame(0, self.name_of(0), self.first, self._time)

    def close(self) -> None:
        """Close the camera or the iterator."""
        if hasattr(self._source, "close"):
            self._source.close()


def _duration(file: Any) -> Fraction:
    """Return the duration of an animated picture in seconds; one without a duration is shown for 0.1 s, as in browsers."""
    return Fraction(file.info.get("duration") or 100) / 1000


def _axes(file: Any) -> list[str]:
    """Return a note on a TIFF whose header (ImageJ) lists channels or slices beside the times."""
    header = str(file.tag_v2.get(270, "")) if file.format == "TIFF" else ""
    found = re.findall(r"^(channels|slices)=(\d+)", header, re.M) if header.startswith("ImageJ=") else []
    sizes = [f"{count} {axis}" for axis, count in found if int(count) > 1]
    if not sizes:
        return []
    return [f"its header lists {' and '.join(sizes)}: all its pictures are frames, in the order of the file"]


def _odd_names(stems: Sequence[str]) -> list[str]:
    """Return a note on images whose names differ from most others in more than their numbers, such as a mask or a cover."""
    kinds = [re.sub(r"\d+", "#", stem) for stem in stems]
    usual, count = Counter(kinds).most_common(1)[0]
    odd = [f"{stem} (frame {i})" for i, (stem, kind) in enumerate(zip(stems, kinds, strict=True)) if kind != usual]
    if not odd or count < max(2, len(odd)):
        return []
    shown = ", ".join(odd[:3]) + (", ..." if len(odd) > 3 else "")
    return [f"{len(odd)} of {len(stems)} frames have names unlike the others: {shown}"]


def _picture(item: Any, index: int) -> Picture:
    """Convert an array or a tensor to uint8 [H, W, 3]. Raises ValueError for what is no picture."""
    array = np.asarray(item.detach().cpu() if hasattr(item, "detach") else item)
    expected = f"expected uint8 [H, W, 3] or float [3, H, W] in [0, 1] for frame {index}"
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"{expected}, got shape {array.shape}")
    floats = np.issubdtype(array.dtype, np.floating)
    first, last = array.shape[0] in (1, 3, 4), array.shape[2] in (1, 3, 4)
    if first and (floats or not last) and array.shape[2] != 1:
        array = array.transpose(1, 2, 0)
    elif not last:
        raise ValueError(f"{expected}, got shape {array.shape}")
    if floats:
        if not (array.min() >= -1e-3 and array.max() <= 1 + 1e-3):  # also rejects NaN
            raise ValueError(f"{expected}, got values from {array.min():g} to {array.max():g}")
        array = (array.astype(np.float32) * 255 + 0.5).clip(0, 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(f"{expected}, got {array.dtype}")
    colours = array.shape[2] if array.shape[2] < 4 else 3
    return np.ascontiguousarray(np.broadcast_to(array[..., :colours], (*array.shape[:2], 3)))

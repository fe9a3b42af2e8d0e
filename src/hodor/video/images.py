"""Sources that are not video files: image files, and pictures from a program or a camera."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from hodor.names import natural_key
from hodor.video.source import Frame, Picture, Source, size_of

STILLS = frozenset(
    ".avif .bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()  # noqa: SIM905
)
"""Suffixes of image files."""


class Stills(Source):
    """Image files as frames, in natural order of their names.

    Args:
        paths: files; those that are no images, and hidden files, are skipped with a note.
        name: name of the source.
        empty: beginning of the message if there is no image: "shots holds no image".

    Raises:
        ValueError: "shots holds no image: give files such as ...", "a.jpg and a.png share the name a: give a pattern such
            as '*.png'".
    """

    def __init__(self, paths: list[Path], name: str, empty: str) -> None:
        super().__init__(name)
        images = [p for p in paths if p.suffix.lower() in STILLS and not p.name.startswith(".") and p.is_file()]
        if not images:
            raise ValueError(f"{empty}: give files such as 00000.jpg or 00000.png")
        self._paths = sorted(images, key=lambda p: (natural_key(p.name), str(p)))
        if other := sorted(p.name for p in set(paths) - set(images)):
            shown = ", ".join(other[:3]) + (", ..." if len(other) > 3 else "")
            self.notes.append(f"skipped {len(other)} that are not images: {shown}")
        stems: dict[str, Path] = {}
        for path in self._paths:
            if (earlier := stems.setdefault(path.stem, path)) is not path:
                both = f"{earlier.name} and {path.name} share the name {path.stem}"
                raise ValueError(f"{both}: give a pattern such as '*{path.suffix}'")
        self.count = len(self._paths)
        self.size = size_of(_read_still(self._paths[0]))

    def name_of(self, index: int) -> str:
        """Return the stem of image `index`."""
        return self._paths[index].stem

    def _forward(self, start: int, stop: int | None) -> Iterator[Frame]:
        return (self._frame(i) for i in range(len(self._paths))[start:stop])

    def _backward(self, start: int, stop: int | None) -> Iterator[Frame]:
        return (self._frame(i) for i in reversed(range(len(self._paths))[start:stop]))

    def _frame(self, index: int) -> Frame:
        path = self._paths[index]
        return Frame(index, path.stem, _read_still(path), None)


class Stream(Source):
    """Pictures that can be read once, in their own order: an iterator or a camera.

    Args:
        items: (picture, time in seconds or None) of each frame.
        name: name of the source.
        rate: frames a second, None if unknown.

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
        self.size = size_of(_picture(first[0], 0))

    def _forward(self, start: int, stop: int | None) -> Iterator[Frame]:
        if self._items is None:
            raise ValueError(f"{self.name} has been read already: open such a source again to read it again")
        items, self._items = self._items, None
        for index, (item, time) in enumerate(itertools.islice(items, stop)):
            if index >= start:
                yield Frame(index, f"{index:05d}", _picture(item, index), time)

    def close(self) -> None:
        """Close the camera or the iterator."""
        if hasattr(self._source, "close"):
            self._source.close()


def _read_still(path: Path) -> Picture:
    """Read an image file, upright, as uint8 [H, W, 3]."""
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

"""A cache of the files that training reads. Damaged files are logged, counted and skipped."""

from __future__ import annotations

import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from hodor.masks import VOID, fit_labels
from hodor.video.pictures import DECODE_ERRORS, Levels, opened, to_rgb, upright_size

log = logging.getLogger(__name__)

T = TypeVar("T")
Size = tuple[int, int]
Picture = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.integer[Any]]
WIDE_VOID = -1
"""Value of void in labels of more than 8 bits, in which 255 is an object."""


_warned: set[tuple[Path, str]] = set()


class DamagedFileError(ValueError):
    """A damaged file, which training skips. The message names the file."""


class FileCache:
    """Least-recently-used cache of decoded files, and a list of the damaged ones. Several threads can share it.

    The values do not depend on what was read before: a value that was discarded is read again, and a file that was found
    damaged stays damaged.

    Args:
        limit: largest total size of the cached values, in bytes.
        tolerated: share of the files that may be damaged, in [0, 1].
        quiet: do not log damaged files.

    Attributes:
        files: number of files that can be read through the cache; each user of the cache adds its own.
        damaged: damaged files and their errors.
    """

    def __init__(self, limit: int, tolerated: float = 0.0, quiet: bool = False) -> None:
        self.limit, self.tolerated, self.quiet = limit, tolerated, quiet
        self.files = 0
        self.damaged: dict[Path, str] = {}
        self._values: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self._errors: dict[Any, str] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Any, path: Path, read: Callable[[], tuple[T, int]]) -> T:
        """Return the cached value of a key, or read it.

        Args:
            key: key of the value.
            path: file that is recorded as damaged if reading fails.
            read: function that returns the value and its size in bytes.

        Raises:
            DamagedFileError: the file is damaged.
            ValueError: too many files are damaged; see `mark_damaged`.
        """
        with self._lock:
            if key in self._errors:
                raise DamagedFileError(self._errors[key])
            if key in self._values:
                self._values.move_to_end(key)
                value: T = self._values[key][0]
                return value
        try:
            value, size = read()
        except DECODE_ERRORS as error:
            damaged = self.mark_damaged(path, str(error)[:1000] or type(error).__name__)
            with self._lock:
                self._errors[key] = str(damaged)
            raise damaged from None
        with self._lock:
            if key not in self._values and size <= self.limit:
                self._values[key] = value, size
                self._bytes += size
                while self._bytes > self.limit:
                    self._bytes -= self._values.popitem(last=False)[1][1]
        return value

    def mark_damaged(self, path: Path, reason: str) -> DamagedFileError:
        """Record a file as damaged and return the error for the caller to raise.

        Raises:
            ValueError: "expected at most 1.0% of 20 files to be damaged, got 3: a.jpg (truncated); ...: repair them, remove
                them, or raise --data.damaged".
        """
        reason = " ".join(reason.split()).removeprefix(f"{path}: ")
        with self._lock:
            new = self.damaged.setdefault(path, reason) is reason
            count, first = len(self.damaged), sorted(self.damaged.items())[:5]
        if new and not self.quiet:
            log.warning("skipping %s: %s (damaged file %d of %d)", path, reason, count, self.files)
        if count > self.tolerated * self.files:
            named = "; ".join(f"{p} ({why})" for p, why in first)
            more = f"; and {count - len(first)} more" if count > len(first) else ""
            limit = f"expected at most {self.tolerated:.1%} of {self.files} files to be damaged, got {count}"
            raise ValueError(f"{limit}: {named}{more}: repair them, remove them, or raise --data.damaged")
        return DamagedFileError(f"{path}: {reason}")


def cover_size(image_size: Size, clip_size: Size) -> Size:
    """Return the size (h, w) at which an image just covers the clip. It is never larger than the image."""
    scale = min(1.0, max(clip_size[0] / image_size[0], clip_size[1] / image_size[1]))
    return max(1, round(image_size[0] * scale)), max(1, round(image_size[1] * scale))


def read_picture(path: Path, mask_size: Size | None, clip_size: Size, levels: Levels | None = None) -> Picture:
    """Read an image as RGB uint8 [h, w, 3], reduced so that it just covers the clip.

    A JPEG is decoded at an eighth, a quarter or a half of its size if that is enough. A rotation stored in the file (EXIF) is
    applied, unless only the image as stored has the size of its masks.

    Args:
        path: image file.
        mask_size: height and width of its masks; None for no check.
        clip_size: height and width of the clip.
        levels: the range of the values of its video. Default: that of the image.

    Raises:
        ValueError: "expected an image of 120x80 (height x width), the size of its masks, got 240x160".
    """
    with opened(path) as file:
        used, rotate = upright_size(file, mask_size)
        if mask_size not in (None, used):
            expected = f"expected an image of {mask_size[0]}x{mask_size[1]} (height x width), the size of its masks"
            raise ValueError(f"{expected}, got {file.height}x{file.width}")
        size = cover_size(used, clip_size)
        turned = used != (file.height, file.width)
        file.draft("RGB", size if turned else size[::-1])
        levels = Levels() if levels is None else levels
        picture = shrink(to_rgb(file, levels, rotate), size)
    warn_of(path, levels)
    return picture


def warn_of(path: Path, levels: Levels) -> None:
    """Log the notes on the range of a picture. A data set is the folder above that of the picture: it has each note once."""
    for note in levels.notes:
        key = path.parent.parent, re.sub(r"[\d.]+", "", note)
        if key not in _warned:
            _warned.add(key)
            log.warning("%s: %s (further pictures of this kind in %s are not named)", path, note, key[0])


def shrink(picture: Image.Image, size: Size) -> Picture:
    """Reduce an image to this size (h, w). Each pixel of the result, uint8 [h, w, 3], is the mean of the area it covers."""
    if (picture.height, picture.width) != size:
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.array(picture)


class Objects(dict[int, tuple[int, int]]):
    """The area and the shorter side of the box of each object, {id: (area, side)}, in pixels of the file."""


def void_of(labels: Labels) -> int:
    """Return the value of void pixels in labels: 255 in uint8 labels, -1 in wider ones."""
    return VOID if labels.dtype == np.uint8 else WIDE_VOID


def measure(labels: Labels) -> Objects:
    """Measure the objects of labels [H, W]."""
    objects = Objects()
    void = void_of(labels)
    areas = np.bincount(labels.ravel(), minlength=1) if labels.dtype == np.uint8 else None
    ids = np.flatnonzero(areas) if areas is not None else np.unique(labels)
    for i in (int(i) for i in ids if i not in (0, void)):
        plane = labels == i
        rows, columns = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
        side = min(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
        area = areas[i] if areas is not None else np.count_nonzero(plane)
        objects[i] = int(area), int(side)
    return objects


def shrink_labels(labels: Labels, size: Size) -> Labels:
    """Resize labels to this size (h, w) with nearest neighbour."""
    return labels if labels.shape == size else fit_labels(labels, size)

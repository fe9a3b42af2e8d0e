"""Files read for training: decoded once, kept within a bound, and what is damaged named, counted and passed over."""

from __future__ import annotations

import logging
import struct
import threading
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from hodor.masks import VOID, fit_labels

log = logging.getLogger(__name__)

T = TypeVar("T")
Size = tuple[int, int]
Picture = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.integer[Any]]
WIDE_VOID = -1
"""Void in labels of more than 8 bits, which need 255 for an object."""


BROKEN = (
    OSError, ValueError, SyntaxError, LookupError, TypeError, EOFError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What decoders raise for damaged files."""


class DamagedFileError(ValueError):
    """A file that training passes over; the message names it."""


class Shelf:
    """What was read lately, up to `limit` bytes, and what cannot be read. Threads may share it.

    Nothing that is read depends on what was read before: a thing that had to go is read again, and a damaged file is found
    damaged every time it is asked for.
    """

    def __init__(self, limit: int, tolerated: float = 0.0, quiet: bool = False) -> None:
        """`tolerated`: the share of `files` that may be damaged. quiet: leave them out of the log."""
        self.limit, self.tolerated, self.quiet = limit, tolerated, quiet
        self.files = 0
        self.damaged: dict[Path, str] = {}
        self._kept: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self._broken: dict[Any, str] = {}
        self._held = 0
        self._lock = threading.Lock()

    def get(self, key: Any, path: Path, make: Callable[[], tuple[T, int]]) -> T:
        """What `make` gives with its bytes, made once while it is remembered under `key`. `path` is blamed for what fails.

        Raises DamagedFileError; ValueError as `blame`.
        """
        with self._lock:
            if key in self._broken:
                raise DamagedFileError(self._broken[key])
            if key in self._kept:
                self._kept.move_to_end(key)
                value: T = self._kept[key][0]
                return value
        try:
            value, size = make()
        except BROKEN as error:
            blamed = self.blame(path, str(error) or type(error).__name__)
            with self._lock:
                self._broken[key] = str(blamed)
            raise blamed from None
        with self._lock:
            if key not in self._kept and size <= self.limit:
                self._kept[key] = value, size
                self._held += size
                while self._held > self.limit:
                    self._held -= self._kept.popitem(last=False)[1][1]
        return value

    def blame(self, path: Path, reason: str) -> DamagedFileError:
        """Count a file as damaged; -> the error to raise.

        Raises ValueError, if they are too many: "3 of 20 files are damaged, more than 1.0%: a.jpg (truncated), ...: mend them,
        take them out, or raise --data.damaged".
        """
        reason = " ".join(reason.split()).removeprefix(f"{path}: ")
        with self._lock:
            new = self.damaged.setdefault(path, reason) is reason
            count, first = len(self.damaged), sorted(self.damaged.items())[:5]
        if new and not self.quiet:
            log.warning("passing over %s: %s (damaged file %d of %d)", path, reason, count, self.files)
        if count > self.tolerated * self.files:
            named = "; ".join(f"{p} ({why})" for p, why in first)
            more = f"; and {count - len(first)} more" if count > len(first) else ""
            told = f"{count} of {self.files} files are damaged, more than {self.tolerated:.1%}: {named}{more}"
            raise ValueError(f"{told}: mend them, take them out, or raise --data.damaged")
        return DamagedFileError(f"{path}: {reason}")


def cover_size(have: Size, want: Size) -> Size:
    """The size at which a picture of `have` (h, w) just covers `want`; never larger than the picture itself."""
    scale = min(1.0, max(want[0] / have[0], want[1] / have[1]))
    return max(1, round(have[0] * scale)), max(1, round(have[1] * scale))


def read_picture(path: Path, stored: Size | None, want: Size) -> Picture:
    """RGB uint8 [h, w, 3], just covering `want`. `stored` is the size its masks have, None for any.

    A JPEG is decoded at an eighth, a quarter or a half where that is enough. A turn noted in the file (EXIF) is made unless
    only the picture as stored fits its masks. Raises ValueError: "the picture is 240x160 (height x width), its masks 120x80".
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as file:
            as_stored = file.height, file.width
            turned = file.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            upright = as_stored[::-1] if turned else as_stored
            if stored is not None and stored not in (upright, as_stored):
                held = f"{as_stored[0]}x{as_stored[1]}"
                raise ValueError(f"the picture is {held} (height x width), its masks {stored[0]}x{stored[1]}")
            turn = stored is None or stored == upright
            height, width = cover_size(upright if turn else as_stored, want)
            file.draft("RGB", (height, width) if turn and turned else (width, height))
            file.load()
            picture = ImageOps.exif_transpose(file) if turn else file
            return shrink(picture.convert("RGB"), (height, width))


def shrink(picture: Image.Image, size: Size) -> Picture:
    """uint8 [h, w, 3] of this size, each pixel the mean of what it covers."""
    if (picture.height, picture.width) != size:
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.array(picture)


class Objects(dict[int, tuple[int, int]]):
    """id -> (area, shorter side of its box) at the file's own resolution."""


def measure(labels: Labels) -> Objects:
    """The objects of labels [H, W] in which void is 255 (uint8) or -1."""
    found = Objects()
    void = VOID if labels.dtype == np.uint8 else WIDE_VOID
    areas = np.bincount(labels.ravel(), minlength=1) if labels.dtype == np.uint8 else None
    ids = np.flatnonzero(areas) if areas is not None else np.unique(labels)
    for i in (int(i) for i in ids if i not in (0, void)):
        plane = labels == i
        rows, columns = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
        side = min(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
        area = areas[i] if areas is not None else np.count_nonzero(plane)
        found[i] = int(area), int(side)
    return found


def shrink_labels(labels: Labels, size: Size) -> Labels:
    return labels if labels.shape == size else fit_labels(labels, size)

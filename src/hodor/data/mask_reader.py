"""The masks of data sets: one file as labels, whatever its format, and what the values of a folder's masks mean."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hodor.mask_files import images, png
from hodor.mask_files.lossy import is_lossy
from hodor.masks import VOID, open_picture
from hodor.names import natural_key
from hodor.video.pictures import open_file

Labels = npt.NDArray[np.integer[Any]]
MASKS = (".png", ".bmp", ".tif", ".tiff", ".webp", ".jpg", ".jpeg")
"""Suffixes of mask files. Of files that differ only in the suffix, the first in this order is used."""
DARK = 64
"""A lossy mask without a brighter value has no object."""
MIDDLE = 127
"""Greys of smoothed edges above this belong to the object, as for `hodor segment --mask`."""
REACH = 16
"""Largest width of a smoothed edge, in pixels to either side."""


def masks_in(folder: Path) -> dict[str, Path]:
    """Return {name: file} of the masks in a folder, in time order. Hidden files are skipped."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in MASKS and not p.name.startswith(".")]
    ordered: dict[str, Path] = {}
    for path in sorted(found, key=lambda p: (natural_key(p.stem), MASKS.index(p.suffix.lower()))):
        ordered.setdefault(path.stem, path)
    return ordered


def lossy(path: str | os.PathLike[str]) -> str | None:
    """Return the format of a file that is compressed with loss, or of WebP, which has no ids; by its content. Else None."""
    with contextlib.suppress(OSError, ValueError):
        with open(path, "rb") as file:
            if file.read(8) == b"\x89PNG\r\n\x1a\n":
                return None
        with open_file(path) as picture:
            return picture.format if picture.format == "WEBP" or is_lossy(picture, Path(path)) else None
    return None


def read_labels(path: Path) -> Labels:
    """Read a mask as labels. Values are not changed, except in lossy formats, which are read as `hodor segment --mask` does.

    Args:
        path: mask file.

    Returns:
        Labels [H, W], uint8, or uint16 from a 16-bit file.

    Raises:
        FileNotFoundError, ValueError: as `hodor.masks.read_labels`; "mask x.jpg is a JPEG that is not black and white (...):
            save the mask as PNG".
    """
    if not lossy(path):
        return png.read_labels(path)
    picture, _ = open_picture(path)
    pixels = np.asarray(picture.convert("RGB"))
    if pixels.max(initial=0) < DARK:
        return np.zeros(pixels.shape[:2], np.uint8)
    found = images.read_picture(path)
    if found.kind.startswith("colours"):  # colours are numbered file by file, so an object would change its id
        raise ValueError(f"mask {path}: expected ids in a palette or grey picture, got colours: save the mask as a palette PNG")
    return found.labels


def read_plane(path: Path) -> npt.NDArray[np.bool_]:
    """Read the mask of one object, bool [H, W]: every non-zero pixel, or, of a mask with smoothed edges, those above 127."""
    labels = read_labels(path)
    return np.asarray(labels > (MIDDLE if is_smooth(labels) else 0))


def is_smooth(labels: Labels) -> bool:
    """Whether labels are a mask of 0 and 255 with smoothed edges: all shades are between black and white, on a narrow band."""
    if labels.dtype != np.uint8 or labels.max(initial=0) < VOID - DARK:
        return False
    shade = (labels > 0) & (labels < VOID)
    if not shade.any() or labels[shade].max() < DARK:  # small numbers are ids
        return False
    band = _near(labels == 0) & _near(labels >= VOID - DARK)
    return bool(np.count_nonzero(shade & band) >= 0.98 * np.count_nonzero(shade))


def _near(plane: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the pixels within `REACH` rows and columns of a plane [H, W]."""
    for axis in (0, 1):
        padding = [(REACH, REACH) if axis == a else (0, 0) for a in (0, 1)]
        sums = np.cumsum(np.pad(plane, padding), axis, dtype=np.int32)
        sums = np.concatenate([np.zeros_like(np.take(sums, [0], axis)), sums], axis)
        ends = [np.take(sums, range(at, at + plane.shape[axis]), axis) for at in (2 * REACH + 1, 0)]
        plane = ends[0] > ends[1]
    return plane


@dataclass(frozen=True)
class Meaning:
    """What the values of a folder's masks mean.

    Attributes:
        single: whether the masks contain only 0 and 255, apart from smoothed edges: every object pixel is object 1.
        notes: what was found, one sentence each.
    """

    single: bool
    notes: tuple[str, ...] = ()


def meaning_of(paths: Iterable[Path], on_error: Callable[[str], None] = lambda message: None) -> Meaning:
    """Find out what the values of a folder's masks mean, from some of its masks.

    Args:
        paths: the masks to read.
        on_error: called with the message of a mask that cannot be read; it is left out.
    """
    kinds: dict[Literal["empty", "hard", "smooth", "ids", "lossy"], list[Path]] = {}
    for path in paths:
        try:
            labels = read_labels(path)
        except (ValueError, OSError) as error:
            on_error(str(error))
            continue
        values = set(np.unique(labels).tolist())
        if lossy(path):
            kinds.setdefault("lossy", []).append(path)
        elif values <= {0, VOID}:
            kinds.setdefault("hard" if VOID in values else "empty", []).append(path)
        else:
            kinds.setdefault("smooth" if is_smooth(labels) else "ids", []).append(path)
    notes = []
    if files := kinds.get("lossy"):
        notes.append(f"{_named(files)}: masks of a lossy format, their values are rounded as for --mask")
    single = not kinds.get("ids") and bool(kinds.get("hard") or kinds.get("smooth"))
    if single:
        notes.append("masks contain 0 and 255: every non-zero pixel is object 1")
        if files := kinds.get("smooth"):
            notes.append(f"{_named(files)}: smoothed edges, pixels above {MIDDLE} are object 1")
    elif kinds.get("ids") and (files := kinds.get("hard", []) + kinds.get("smooth", [])):
        ids = _named(kinds["ids"])
        notes.append(f"{_named(files)}: only 0 and 255, but {ids} has ids: 255 is void in all masks")
    return Meaning(single, tuple(notes))


def _named(files: Sequence[Path]) -> str:
    return str(files[0]) + (f" and {len(files) - 1} more" if files[1:] else "")

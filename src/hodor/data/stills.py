"""Images with masks as a source of clips. Folders of images and masks are opened here, COCO files in `hodor.data.coco`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from hodor.data.file_cache import WIDE_VOID, FileCache, Labels, Objects, Size, cover_size, measure, read_picture, shrink_labels
from hodor.data.sampling import below
from hodor.masks import VOID, read_labels

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))
SAMPLED = 32
"""Masks that are read to find out whether the masks of a folder contain only 0 and 255."""


class RawClip(NamedTuple):
    """The images and masks of a clip before augmentation: one entry for each frame, or one entry for all frames.

    Attributes:
        images: uint8 [3, h, w].
        planes: masks, bool [N, h, w]; None for a frame without labels.
        void: void pixels, bool [h, w]; None if there are none.
    """

    images: list[Tensor]
    planes: list[Tensor | None]
    void: list[Tensor | None]


class StoredMask(NamedTuple):
    """A mask as the cache keeps it, and measurements of the file.

    Attributes:
        labels: labels [h, w], reduced so that they just cover the clip.
        objects: areas and sides of the objects, in pixels of the file.
        size: height and width of the file.
    """

    labels: Labels
    objects: Objects
    size: Size


class Source(Protocol):
    """An opened root that clips come from.

    An item is an image, or a frame that a clip can begin with; items are numbered from 0. The objects of an item are those of
    the first frame of its clip.

    Attributes:
        root: path of the root.
        kind: format of the root.
        moving: whether the frames of a clip can differ.
    """

    root: Path
    kind: str
    moving: bool

    def pick(self, rng: torch.Generator) -> int:
        """Return a random item."""

    def objects(self, item: int) -> Objects:
        """Return the objects of an item."""

    def read(self, item: int, ids: Sequence[int], rng: torch.Generator, jump: int | None = None) -> RawClip:
        """Read the images of a clip and the masks of these objects. jump: see `Videos.read`."""

    def background(self, item: int) -> Tensor:
        """Read the image alone, uint8 [3, h, w]."""

    def mask(self, item: int) -> StoredMask:
        """Read the mask of an item."""

    def name(self, item: int) -> str:
        """Return the name of the image or video of an item."""

    def names(self) -> list[str]:
        """Return the names of all images or videos."""

    def __len__(self) -> int: ...


def store_mask(labels: Labels, clip_size: Size) -> tuple[StoredMask, int]:
    """Reduce a mask for the cache; return it with its size in bytes."""
    size = labels.shape[0], labels.shape[1]
    small = np.ascontiguousarray(shrink_labels(labels, cover_size(size, clip_size)))
    return StoredMask(small, measure(labels), size), small.nbytes


def planes_of(mask: StoredMask, ids: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """Return the masks of these objects, bool [N, h, w], and the void pixels, bool [h, w] or None."""
    labels = torch.from_numpy(mask.labels)
    void = labels == (VOID if mask.labels.dtype == np.uint8 else WIDE_VOID)
    planes = torch.stack([labels == i for i in ids]) if ids else torch.zeros(0, *labels.shape, dtype=torch.bool)
    return planes, void if bool(void.any()) else None


def read_mask(path: Path, single: bool = False) -> Labels:
    """Read a label file: uint8 labels of an 8-bit file, int32 labels of a wider one.

    Args:
        path: label file.
        single: every non-zero pixel is object 1. Otherwise 255 is void in 8-bit files.
    """
    labels = read_labels(path)
    if single:
        return (labels > 0).astype(np.uint8)
    return labels if labels.dtype == np.uint8 else labels.astype(np.int32)


def join_masks(parts: Mapping[int, Path]) -> Labels:
    """Join one mask file for each object into labels. Missing files are skipped, but one must exist.

    Every non-zero pixel belongs to the object. Where two objects overlap, the pixel belongs to the one with the higher id.

    Args:
        parts: {id: mask file}.

    Raises:
        FileNotFoundError: no mask file exists.
        ValueError: "expected one size for the masks of all objects, got 4x5 in b.png and 8x9 in another".
    """
    joined: Labels | None = None
    for i, path in sorted(parts.items()):
        if not path.exists():
            continue
        part = read_labels(path) > 0
        if joined is None:
            joined = np.zeros(part.shape, np.uint8 if max(parts) < VOID else np.int32)
        if part.shape != joined.shape:
            sizes = f"{part.shape[0]}x{part.shape[1]} in {path} and {joined.shape[0]}x{joined.shape[1]} in another"
            raise ValueError(f"expected one size for the masks of all objects, got {sizes}")
        joined[part] = i
    if joined is None:
        raise FileNotFoundError("no mask file of any object exists")
    return joined


@dataclass(frozen=True)
class Still:
    """An image and its labels.

    Attributes:
        name: name of the image.
        image: image file.
        mask: file that is recorded as damaged if the labels cannot be read.
        draw: function that returns the labels; void is 255 in uint8 labels and -1 in int32 labels.
        objects: areas and sides of the objects, if they are available without reading the labels.
    """

    name: str
    image: Path
    mask: Path
    draw: Callable[[], Labels]
    objects: Objects | None = None


class Stills:
    """Images with masks. All frames of a clip show one image.

    Args:
        root: path of the root.
        kind: format of the root.
        stills: the images.
        cache: file cache that reads images and masks.
        clip_size: height and width of the clips.
    """

    moving = False

    def __init__(self, root: Path, kind: str, stills: Sequence[Still], cache: FileCache, clip_size: Size) -> None:
        self.root, self.kind, self.stills = root, kind, stills
        self._cache, self._clip_size = cache, clip_size
        self._objects: dict[int, Objects] = {}
        cache.files += len(stills) + len({still.mask for still in stills})

    def pick(self, rng: torch.Generator) -> int:
        """Return a random item; all are equally likely."""
        return below(len(self.stills), rng)

    def objects(self, item: int) -> Objects:
        """Return the objects of an item. Raises DamagedFileError."""
        still = self.stills[item]
        if still.objects is not None:
            return still.objects
        if item not in self._objects:
            self._objects[item] = self.mask(item).objects
        return self._objects[item]

    def read(self, item: int, ids: Sequence[int], rng: torch.Generator, jump: int | None = None) -> RawClip:
        """Read an image and the masks of these objects. `rng` and `jump` are not used. Raises DamagedFileError."""
        mask = self.mask(item)
        planes, void = planes_of(mask, ids)
        return RawClip([self.picture(item, mask.size)], [planes], [void])

    def background(self, item: int) -> Tensor:
        """Read the image alone, uint8 [3, h, w]. Raises DamagedFileError."""
        return self.picture(item)

    def picture(self, item: int, mask_size: Size | None = None) -> Tensor:
        """Read an image as uint8 [3, h, w], reduced so that it just covers the clip. mask_size: see `read_picture`."""
        path = self.stills[item].image

        def read() -> tuple[Tensor, int]:
            image = torch.from_numpy(read_picture(path, mask_size, self._clip_size)).permute(2, 0, 1).contiguous()
            return image, image.numel()

        return self._cache.get(("image", path, mask_size), path, read)

    def mask(self, item: int) -> StoredMask:
        """Read the mask of an item. Raises DamagedFileError."""
        still = self.stills[item]
        return self._cache.get(
            ("mask", still.mask, still.name), still.mask, lambda: store_mask(still.draw(), self._clip_size)
        )  # fmt: skip

    def name(self, item: int) -> str:
        """Return the name of an image."""
        return self.stills[item].name

    def names(self) -> list[str]:
        """Return the names of all images."""
        return [still.name for still in self.stills]

    def __len__(self) -> int:
        return len(self.stills)


def open_stills(root: Path) -> tuple[str, list[Still]]:
    """Open a folder of images and masks.

    An image without a mask is left out. Some masks, evenly spaced, are checked: if they contain only 0 and 255, 255 is object
    1; otherwise 255 is void.

    Returns:
        The format, "pairs" (images/ and masks/<name>.png) or "parts" (masks/<name>/<object>.png, objects numbered in the order
        of the file names), and the images.

    Raises:
        FileNotFoundError: "ROOT contains no images with masks: put them into images/<name>.jpg and masks/<name>.png or
            masks/<name>/*.png".
    """
    masks = {p.stem: p for p in sorted((root / "masks").glob("*.png"))}
    parts = {p.name: p for p in sorted((root / "masks").glob("*")) if p.is_dir()}
    images = [p for p in sorted((root / "images").glob("*")) if p.suffix.lower() in SUFFIXES and p.name[0] != "."]
    found = []
    if masks:
        single = _single([masks[p.stem] for p in images if p.stem in masks])
        for p in images:
            if (mask := masks.get(p.stem)) is not None:
                found.append(Still(p.stem, p, mask, lambda mask=mask: read_mask(mask, single)))  # type: ignore[misc]
    for p in images if not masks else ():
        files = sorted(parts[p.stem].glob("*.png")) if p.stem in parts else []
        if files:
            numbered = dict(enumerate(files, 1))
            found.append(Still(p.stem, p, files[0], lambda numbered=numbered: join_masks(numbered)))  # type: ignore[misc]
    if not found:
        places = "images/<name>.jpg and masks/<name>.png or masks/<name>/*.png"
        raise FileNotFoundError(f"{root} contains no images with masks: put them into {places}")
    return ("pairs" if masks else "parts"), found


def _single(masks: Sequence[Path]) -> bool:
    """Return whether the masks contain only 0 and 255. Some masks, evenly spaced, are read; damaged ones are ignored."""
    values: set[int] = set()
    for path in masks[:: max(1, len(masks) // SAMPLED)]:
        try:
            values.update(np.unique(read_labels(path)).tolist())
        except (ValueError, OSError):
            continue
        if not values <= {0, VOID}:
            return False
    return VOID in values

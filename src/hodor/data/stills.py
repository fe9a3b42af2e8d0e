"""Images with masks as a source of clips. Folders of images and masks are opened here, COCO files in `hodor.data.coco`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from hodor.data.file_cache import FileCache, Labels, Objects, Size, cover_size, measure, read_picture, shrink_labels, void_of
from hodor.data.mask_reader import masks_in, meaning_of, read_labels, read_plane
from hodor.data.sampling import below
from hodor.data.search import obeyed, split_lists
from hodor.data.videofiles import shown
from hodor.masks import VOID

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
        notes: remarks about what was used or left out.
    """

    root: Path
    kind: str
    moving: bool

    @property
    def notes(self) -> tuple[str, ...]: ...

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
    void = labels == void_of(mask.labels)
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


def read_one(path: Path) -> Labels:
    """Read the mask of one object as labels of 0 and 1; see `hodor.data.mask_reader.read_plane`."""
    return read_plane(path).astype(np.uint8)


def join_masks(parts: Mapping[int, Path], highest: int | None = None) -> Labels:
    """Join one mask file for each object into labels. Missing files are skipped, but one must exist.

    Every non-zero pixel belongs to the object. Where two objects overlap, the pixel belongs to the one with the higher id.

    Args:
        parts: {id: mask file}.
        highest: highest id of all frames. Default: that of `parts`.

    Raises:
        FileNotFoundError: no mask file exists.
        ValueError: "expected one size for the masks of all objects, got 4x5 in b.png and 8x9 in another".
    """
    joined: Labels | None = None
    for i, path in sorted(parts.items()):
        if not path.exists():
            continue
        part = read_plane(path)
        if joined is None:
            joined = np.zeros(part.shape, np.uint8 if (highest or max(parts)) < VOID else np.int32)
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
        measure: function that returns areas and sides of the objects, if they are available without drawing the labels.
        shades: see `VideoFiles.shades`.
    """

    name: str
    image: Path
    mask: Path
    draw: Callable[[], Labels]
    measure: Callable[[], Objects] | None = None
    shades: bool = False

    @property
    def objects(self) -> Objects | None:
        """Areas and sides of the objects, if they are available without drawing the labels."""
        return None if self.measure is None else self.measure()


class Stills:
    """Images with masks. All frames of a clip show one image.

    Args:
        root: path of the root.
        kind: format of the root.
        stills: the images.
        cache: file cache that reads images and masks.
        clip_size: height and width of the clips.
        notes: remarks about what was used or left out.
    """

    moving = False

    def __init__(
        self, root: Path, kind: str, stills: Sequence[Still], cache: FileCache, clip_size: Size, notes: Sequence[str] = ()
    ) -> None:
        self.root, self.kind, self.stills, self.notes = root, kind, stills, tuple(notes)
        self._cache, self._clip_size = cache, clip_size
        self._objects: dict[int, Objects] = {}
        cache.files += len(stills) + len({still.mask for still in stills})

    def pick(self, rng: torch.Generator) -> int:
        """Return a random item; all are equally likely."""
        return below(len(self.stills), rng)

    def objects(self, item: int) -> Objects:
        """Return the objects of an item. Raises DamagedFileError."""
        if item not in self._objects:
            still = self.stills[item]
            if still.measure is None:
                self._objects[item] = self.mask(item).objects
            else:
                measured = self._cache.get(("objects", still.mask), still.mask, lambda: (still.objects, 0))
                self._objects[item] = measured or Objects()
        return self._objects[item]

    def read(self, item: int, ids: Sequence[int], rng: torch.Generator, jump: int | None = None) -> RawClip:
        """Read an image and the masks of these objects, without objects that others hide completely.

        `rng` and `jump` are not used. Raises DamagedFileError.
        """
        mask = self.mask(item)
        planes, void = planes_of(mask, [i for i in ids if i in mask.objects])
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


def open_stills(root: Path, split: str | None = None, notes: list[str] | None = None) -> tuple[str, list[Still]]:
    """Open a folder of images and masks.

    An image without a mask is left out. Some masks, evenly spaced, are checked: if they contain only 0 and 255, 255 is object
    1; otherwise 255 is void. If the folder has lists of splits (see `hodor.data.search.split_lists`), the list of the split is
    used.

    Args:
        root: the folder.
        split: the split to use. Default: as for `hodor.data.search.pick_split`.
        notes: list to which remarks are added.

    Returns:
        The format, "pairs" (images/ and masks/<name>.png) or "parts" (masks/<name>/<object>.png, objects numbered in the order
        of the file names), and the images.

    Raises:
        FileNotFoundError: "ROOT contains no images with masks: put them into images/<name>.jpg and masks/<name>.png or
            masks/<name>/*.png".
        ValueError: the list names an image that does not exist, or there is no list of the split.
    """
    notes = [] if notes is None else notes
    masks = masks_in(root / "masks")
    parts = {p.name: sorted(masks_in(p).values()) for p in sorted((root / "masks").glob("*")) if p.is_dir()}
    images = [p for p in sorted((root / "images").glob("*")) if p.suffix.lower() in SUFFIXES and p.name[0] != "."]
    usable = [p for p in images if (p.stem in masks if masks else parts.get(p.stem))]
    if not usable:
        places = "images/<name>.jpg and masks/<name>.png or masks/<name>/*.png"
        raise FileNotFoundError(f"{root} contains no images with masks: put them into {places}")
    if len(usable) < len(images):
        notes.append(f"{len(images) - len(usable)} images without a mask are left out")
    if lists := split_lists(root):
        names = frozenset(obeyed(lists, root, split, [p.stem for p in usable], notes))
        usable = [p for p in usable if p.stem in names]
    if not masks:
        found = []
        for p in usable:
            numbered = dict(enumerate(parts[p.stem], 1))
            found.append(Still(p.stem, p, numbered[1], partial(join_masks, numbered)))
        return "parts", found
    chosen = [masks[p.stem] for p in usable]
    meaning = meaning_of(chosen[:: max(1, len(chosen) // SAMPLED)])
    notes += meaning.notes
    single = meaning.single
    if both := masks.keys() & parts.keys():
        notes.append(f"folders of masks beside mask files are not used: {shown(sorted(both))}")
    found = []
    for p, mask in zip(usable, chosen, strict=True):
        found.append(Still(p.stem, p, mask, partial(read_one if single else read_mask, mask), shades=single))
    return "pairs", found

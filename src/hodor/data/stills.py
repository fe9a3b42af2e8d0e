"""Images with masks as a source of clips: folders of pairs, or of images with one mask an object; coco.py makes them too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from hodor.data.file_cache import WIDE_VOID, Labels, Objects, Shelf, Size, cover_size, measure, read_picture, shrink_labels
from hodor.data.sampling import below
from hodor.masks import VOID, read_labels

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))
SAMPLED = 32
"""Masks looked into to tell whether a folder's are 0 and 255."""


class Taken(NamedTuple):
    """What a clip is made of, before any geometry: one image, or one a frame.

    images: uint8 [3, h, w]. planes: bool [N, h, w], None where the frame is not labelled. void: bool [h, w] or None.
    """

    images: list[Tensor]
    planes: list[Tensor | None]
    void: list[Tensor | None]


class Seen(NamedTuple):
    """Labels as kept, at about the size of clips, and what they were at their own size."""

    labels: Labels
    objects: Objects
    size: Size


class Source(Protocol):
    """A root, opened. An item is whatever `pick` gives; its objects are those of the clip's first frame."""

    root: Path
    kind: str
    moving: bool
    """Whether a clip of it can have several different frames."""

    def pick(self, rng: torch.Generator) -> int: ...
    def objects(self, item: int) -> Objects: ...
    def take(self, item: int, ids: Sequence[int], rng: torch.Generator, jump: int | None = None) -> Taken: ...
    def background(self, item: int) -> Tensor: ...
    def seen(self, item: int) -> Seen: ...
    def name(self, item: int) -> str: ...
    def names(self) -> list[str]: ...
    def __len__(self) -> int: ...


def see(labels: Labels, want: Size) -> tuple[Seen, int]:
    """-> what is kept of a mask, and its bytes."""
    size = labels.shape[0], labels.shape[1]
    small = np.ascontiguousarray(shrink_labels(labels, cover_size(size, want)))
    return Seen(small, measure(labels), size), small.nbytes


def planes_of(seen: Seen, ids: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """-> bool [N, h, w], and the void pixels if there are any."""
    labels = torch.from_numpy(seen.labels)
    void = labels == (VOID if seen.labels.dtype == np.uint8 else WIDE_VOID)
    planes = torch.stack([labels == i for i in ids]) if ids else torch.zeros(0, *labels.shape, dtype=torch.bool)
    return planes, void if bool(void.any()) else None


def read_mask(path: Path, single: bool = False) -> Labels:
    """One label file. single: any non-zero pixel is object 1; else an 8-bit 255 is void. More than 8 bits come as int32."""
    labels = read_labels(path)
    if single:
        return (labels > 0).astype(np.uint8)
    return labels if labels.dtype == np.uint8 else labels.astype(np.int32)


def join_masks(parts: Mapping[int, Path]) -> Labels:
    """One file an object, any non-zero pixel its own; where two overlap the higher id stands. Files that are not there say
    nothing, one must be. Raises ValueError: "mask b.png is 4x5, another object's 8x9: want one size"."""
    joined: Labels | None = None
    for i, path in sorted(parts.items()):
        if not path.exists():
            continue
        part = read_labels(path) > 0
        if joined is None:
            joined = np.zeros(part.shape, np.uint8 if max(parts) < VOID else np.int32)
        if part.shape != joined.shape:
            there = f"{joined.shape[0]}x{joined.shape[1]}"
            raise ValueError(f"mask {path} is {part.shape[0]}x{part.shape[1]}, another object's {there}: want one size")
        joined[part] = i
    if joined is None:
        raise FileNotFoundError("no mask file of any object is there")
    return joined


@dataclass(frozen=True)
class Still:
    """An image and how to draw its labels (void as 255 in uint8, -1 in int32). mask: the file to blame if that fails.
    objects: where they are known without drawing."""

    name: str
    image: Path
    mask: Path
    draw: Callable[[], Labels]
    objects: Objects | None = None


class Stills:
    """Images with masks, each a clip of one picture."""

    moving = False

    def __init__(self, root: Path, kind: str, stills: Sequence[Still], shelf: Shelf, want: Size) -> None:
        self.root, self.kind, self.stills = root, kind, stills
        self._shelf, self._want = shelf, want
        self._objects: dict[int, Objects] = {}
        shelf.files += len(stills) + len({still.mask for still in stills})

    def pick(self, rng: torch.Generator) -> int:
        return below(len(self.stills), rng)

    def objects(self, item: int) -> Objects:
        """Raises DamagedFileError."""
        still = self.stills[item]
        if still.objects is not None:
            return still.objects
        if item not in self._objects:
            self._objects[item] = self.seen(item).objects
        return self._objects[item]

    def take(self, item: int, ids: Sequence[int], rng: torch.Generator, jump: int | None = None) -> Taken:
        """Raises DamagedFileError."""
        seen = self.seen(item)
        planes, void = planes_of(seen, ids)
        return Taken([self.picture(item, seen.size)], [planes], [void])

    def background(self, item: int) -> Tensor:
        """The image alone, uint8 [3, h, w]. Raises DamagedFileError."""
        return self.picture(item)

    def picture(self, item: int, stored: Size | None = None) -> Tensor:
        """uint8 [3, h, w], just covering the clips' size."""
        path = self.stills[item].image

        def make() -> tuple[Tensor, int]:
            image = torch.from_numpy(read_picture(path, stored, self._want)).permute(2, 0, 1).contiguous()
            return image, image.numel()

        return self._shelf.get(("image", path, stored), path, make)

    def seen(self, item: int) -> Seen:
        """Raises DamagedFileError."""
        still = self.stills[item]
        return self._shelf.get(("mask", still.mask, still.name), still.mask, lambda: see(still.draw(), self._want))

    def name(self, item: int) -> str:
        return self.stills[item].name

    def names(self) -> list[str]:
        return [still.name for still in self.stills]

    def __len__(self) -> int:
        return len(self.stills)


def open_stills(root: Path) -> tuple[str, list[Still]]:
    """-> kind "pairs" (images/ and masks/<name>.png) or "parts" (masks/<name>/<object>.png, objects numbered by name).

    An image without a mask is left out. If every mask looked into holds 0 and 255 only, 255 is object 1; else it is void.
    Raises FileNotFoundError: "ROOT holds no pairs: want images/<name>.jpg and masks/<name>.png or masks/<name>/*.png".
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
        wanted = "want images/<name>.jpg and masks/<name>.png or masks/<name>/*.png"
        raise FileNotFoundError(f"{root} holds no pairs: {wanted}")
    return ("pairs" if masks else "parts"), found


def _single(masks: Sequence[Path]) -> bool:
    """Whether masks are 0 and 255 only: a few of them, spread over the folder, tell. Broken ones say nothing."""
    values: set[int] = set()
    for path in masks[:: max(1, len(masks) // SAMPLED)]:
        try:
            values.update(np.unique(read_labels(path)).tolist())
        except (ValueError, OSError):
            continue
        if not values <= {0, VOID}:
            return False
    return VOID in values

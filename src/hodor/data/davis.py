"""DAVIS folders, and any others of their shape, as training clips and as sequences to score on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hodor.data.clip import Clip
from hodor.masks import fit_size, read_labels

HELD_OUT = ("bmx-bumps", "dance-jump", "drift-turn", "horsejump-low", "scooter-gray")
"""The five DAVIS 2016 train sequences kept out of every run whose score is reported."""

VOID = 255
TRIES = 1000
"""Draws of a clip before the videos are said to have none."""


@dataclass(frozen=True)
class Video:
    """A video in memory: images_TCHW uint8 and labels_THW uint8, both at the training size; 0 is background."""

    name: str
    images_TCHW: Tensor
    labels_THW: Tensor


def names(root: Path, *, without: Iterable[str] = ()) -> list[str]:
    """The sequences under `root`/Annotations (or Annotations/480p), sorted, less those in `without`.

    Raises FileNotFoundError: "ROOT/Annotations is not a folder: want Annotations/<sequence>/*.png".
    """
    folder = masks_of(root)
    return [p.name for p in sorted(folder.iterdir()) if p.is_dir() and p.name not in set(without)]


def masks_of(root: Path) -> Path:
    for folder in (root / "Annotations" / "480p", root / "Annotations"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"{root / 'Annotations'} is not a folder: want Annotations/<sequence>/*.png")


def images(root: Path, name: str) -> Path:
    """Where a sequence's frames are: a folder of images, or a video.

    Raises FileNotFoundError: "ROOT has no frames of NAME: want JPEGImages/NAME/*.jpg or videos/NAME.mp4".
    """
    for place in (root / "JPEGImages" / "480p" / name, root / "JPEGImages" / name, root / "videos" / f"{name}.mp4"):
        if place.exists():
            return place
    raise FileNotFoundError(f"{root} has no frames of {name}: want JPEGImages/{name}/*.jpg or videos/{name}.mp4")


def load(root: Path, name: str, short_side: int) -> Video:
    """A whole sequence in memory, resized to this short side (bilinear images, nearest labels)."""
    place = images(root, name)
    label_files = sorted((masks_of(root) / name).glob("*.png"))
    frames = [_shrink(image, short_side) for image in _frames(place)]
    if len(frames) != len(label_files):
        raise ValueError(f"{place} has {len(frames)} frames, {masks_of(root) / name} {len(label_files)} masks: want one each")
    size = frames[0].shape[:2]
    labels = _fitted([read_labels(path) for path in label_files], (size[0], size[1]))
    return Video(
        name,
        torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(np.stack(labels)),
    )


def _frames(place: Path) -> Iterable[Image.Image]:
    if place.is_dir():
        for path in sorted(p for p in place.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")):
            with Image.open(path) as image:
                yield image.convert("RGB")
    else:
        from hodor.frames import open_source

        with open_source(place) as source:
            for frame in source.frames():
                yield Image.fromarray(frame.image)


def _shrink(image: Image.Image, short_side: int) -> np.ndarray:
    height, width = fit_size((image.height, image.width), short_side)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _fitted(labels: Sequence[np.ndarray], size: tuple[int, int]) -> list[np.ndarray]:
    """The masks of a video at `size`. Where no frame holds another id, 255 is the one object of DAVIS 2016, else void."""
    single = all(set(np.unique(each)) <= {0, VOID} for each in labels)
    clean = [(each > 0 if single else np.where(each == VOID, 0, each)).astype(np.uint8) for each in labels]
    height, width = size
    return [np.asarray(Image.fromarray(each).resize((width, height), Image.Resampling.NEAREST)) for each in clean]


@dataclass(frozen=True)
class VideoClips:
    """Clips of `frames` frames from sequences in memory, all of one size (cropped to the smallest).

    Frame 0 is drawn anywhere, the others follow in time or run backwards, each up to `gap` frames from the last. Objects:
    up to `most` of those visible in frame 0. `labelled` "all" (dense video) or "first" (cycles: the masks of the other
    frames are never read).
    """

    sequences: Sequence[Video]
    frames: int = 3
    gap: int = 5
    most: int = 4
    labelled: str = "all"

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of every clip."""
        heights, widths = zip(*(v.images_TCHW.shape[-2:] for v in self.sequences), strict=True)
        return min(heights), min(widths)

    def sample(self, generator: torch.Generator) -> Clip:
        """Raises ValueError: "no clip of 3 frames with an object in the first: want longer videos, or a smaller gap"."""
        for _ in range(TRIES):
            sequence = self.sequences[_below(len(self.sequences), generator)]
            length = len(sequence.images_TCHW)
            steps = [1 + _below(self.gap, generator) for _ in range(self.frames - 1)]
            span = sum(steps)
            if span >= length:
                continue
            start = _below(length - span, generator)
            indices = [start + sum(steps[:i]) for i in range(self.frames)]
            if _below(2, generator):
                indices.reverse()
            (height, width), whole = self.size, sequence.images_TCHW.shape
            top, left = (_below(n + 1, generator) if n else 0 for n in (whole[-2] - height, whole[-1] - width))
            count = self.frames if self.labelled == "all" else 1
            labels_THW = sequence.labels_THW[indices[:count], top : top + height, left : left + width]
            first = labels_THW[0]
            ids = [int(i) for i in first.unique() if i]
            if not ids:
                continue
            order = torch.randperm(len(ids), generator=generator)[: self.most].tolist()
            ids = [ids[i] for i in order]
            images = sequence.images_TCHW[indices, :, top : top + height, left : left + width].float() / 255
            planes = torch.zeros(self.frames, len(ids), *first.shape)
            for plane, i in enumerate(ids):
                planes[:count, plane] = (labels_THW == i).float()
            if _below(2, generator):
                images, planes = images.flip(-1), planes.flip(-1)
            return Clip(
                images[None],
                planes[None],
                (torch.arange(self.frames) < count)[None],
                torch.ones(1, len(ids), dtype=torch.bool),
                torch.ones(1, self.frames, *first.shape, dtype=torch.bool),
            )
        wanted = "want longer videos, or a smaller gap"
        raise ValueError(f"no clip of {self.frames} frames with an object in the first: {wanted}")


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))

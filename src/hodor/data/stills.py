"""Folders of images with masks, as one-image clips that `augment.warp` turns into moving ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hodor.data.clip import Clip
from hodor.masks import read_labels

TRIES = 1000
"""Draws of an image before the pairs are said to show no object."""

VOID = 255
"""Pixels of masks that are left out of the loss: crowds, unsure edges."""


@dataclass(frozen=True)
class Pair:
    image: Path
    mask: Path


def pairs(root: Path) -> list[Pair]:
    """The images of `root`/images that have a mask of the same stem in `root`/masks, sorted.

    Raises FileNotFoundError: "ROOT holds no pairs: want images/<name>.jpg|png|webp and masks/<name>.png".
    """
    masks = {p.stem: p for p in (root / "masks").glob("*.png")}
    found = [Pair(p, masks[p.stem]) for p in sorted((root / "images").glob("*")) if p.stem in masks]
    if not found:
        raise FileNotFoundError(f"{root} holds no pairs: want images/<name>.jpg|png|webp and masks/<name>.png")
    return found


@dataclass(frozen=True)
class StillClips:
    """Clips of one image repeated `frames` times, on a canvas of `size` (H, W).

    The image is scaled at random between fitting inside the canvas and covering it; what is left of the canvas is invalid.
    Objects: up to `most`, of at least `area` of the canvas' pixels each; an image without any is passed over.
    """

    pairs: Sequence[Pair]
    size: tuple[int, int]
    frames: int = 3
    most: int = 4
    area: float = 0.004

    def sample(self, generator: torch.Generator) -> Clip:
        """Raises ValueError: "no image of 12 shows an object on 0.4% of a canvas of 252x448: want larger objects"."""
        for _ in range(TRIES):
            pair = self.pairs[int(torch.randint(len(self.pairs), (), generator=generator))]
            canvas, labels = self._place(pair, generator)
            ids, counts = labels[(labels > 0) & (labels < VOID)].unique(return_counts=True)
            ids = ids[counts >= self.area * labels.numel()]
            if not len(ids):
                continue
            ids = ids[torch.randperm(len(ids), generator=generator)[: self.most]]
            planes = (labels == ids.view(-1, 1, 1)).float()
            valid = labels != VOID
            if torch.rand((), generator=generator) < 0.5:
                canvas, planes, valid = canvas.flip(-1), planes.flip(-1), valid.flip(-1)
            return Clip(
                canvas.expand(self.frames, -1, -1, -1)[None],
                planes.expand(self.frames, -1, -1, -1)[None],
                torch.ones(1, self.frames, dtype=torch.bool),
                torch.ones(1, len(ids), dtype=torch.bool),
                valid.expand(self.frames, -1, -1)[None],
            )
        where = f"an object on {self.area:.1%} of a canvas of {self.size[0]}x{self.size[1]}"
        raise ValueError(f"no image of {len(self.pairs)} shows {where}: want larger objects")

    def _place(self, pair: Pair, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """-> image CHW in [0, 1] and labels HW on the canvas; VOID where the image is not."""
        height, width = self.size
        with Image.open(pair.image) as opened:
            image = opened.convert("RGB")
        labels = Image.fromarray(read_labels(pair.mask).astype(np.uint8))
        ratios = height / image.height, width / image.width
        share = float(torch.rand((), generator=generator))
        scale = min(ratios) * (max(ratios) / min(ratios)) ** share
        size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
        pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        ids = np.asarray(labels.resize(size, Image.Resampling.NEAREST))
        canvas = np.zeros((height, width, 3), np.uint8)
        placed = np.full((height, width), VOID, np.uint8)
        (y, top, rows), (x, left, columns) = (
            _window(have, want, generator) for have, want in zip(pixels.shape[:2], self.size, strict=True)
        )
        canvas[top : top + rows, left : left + columns] = pixels[y : y + rows, x : x + columns]
        placed[top : top + rows, left : left + columns] = ids[y : y + rows, x : x + columns]
        return torch.from_numpy(canvas).permute(2, 0, 1).float() / 255, torch.from_numpy(placed)


def _window(have: int, want: int, generator: torch.Generator) -> tuple[int, int, int]:
    """-> first pixel taken, first pixel filled, how many: a random cut if the image is longer, a random place if shorter."""
    slack = int(torch.randint(abs(have - want) + 1, (), generator=generator))
    return (slack, 0, want) if have > want else (0, slack, have)

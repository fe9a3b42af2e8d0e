"""What a network computes for a frame: its features, and the prediction with its labels. Shapes as in `base`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.tensors import describe, is_traced, shape_text

UNKNOWN = -1e4
"""Logit of an object for which no remembered frame is valid. It is 0 after a softmax and, unlike -inf, can be interpolated."""


@dataclass(frozen=True, repr=False)
class Features:
    """What a network computes from a frame alone, whatever the objects.

    Args:
        maps: the network's own feature maps by name, each with the frames along its first axis.
        size: (H, W) of the frame, in pixels.
        padded: (H, W) of the padded frame, in pixels.
        offset: rows above and columns left of the frame in the padded frame. Default: (0, 0).

    Raises:
        ValueError: "expected maps of the same number of frames, got key 2, fine 1".
        ValueError: "expected a frame inside the padded one, got 480x854 at (0, 0) in 480x848".
    """

    maps: Mapping[str, Tensor]
    size: tuple[int, int]
    padded: tuple[int, int]
    offset: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if is_traced():
            return
        if len({len(each) for each in self.maps.values()}) > 1:
            found = ", ".join(f"{name} {len(each)}" for name, each in self.maps.items())
            raise ValueError(f"expected maps of the same number of frames, got {found}")
        if any(o < 0 or o + s > p for s, p, o in zip(self.size, self.padded, self.offset, strict=True)):
            place = f"{_pixels(self.size)} at {tuple(self.offset)} in {_pixels(self.padded)}"
            raise ValueError(f"expected a frame inside the padded one, got {place}")

    def __repr__(self) -> str:
        return describe(self)

    @property
    def device(self) -> torch.device:
        """The device of the maps."""
        return next(iter(self.maps.values())).device

    def split(self, parts: int) -> list[Features]:
        """Split features of T*B frames that were encoded at once into the features of T times B frames.

        Args:
            parts: number of equal runs along the first axis (T).

        Returns:
            List of T features, views of this one.
        """
        chunks = {name: each.chunk(parts) for name, each in self.maps.items()}
        return [replace(self, maps={name: each[t] for name, each in chunks.items()}) for t in range(parts)]

    def fit(self, masks_BNHW: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize masks of the frame's own size or of the network's to a division of the padded frame.

        Bilinear without antialiasing: from full resolution to stride 8 that is the mean of the four central pixels of each
        8 x 8 block, from stride 4 the mean of 2 x 2, as in the released HODOR.

        Args:
            masks_BNHW: masks, float [B, N, H, W].
            size: (H, W) of the result, an even division of `padded`.

        Returns:
            Tensor [B, N, *size]; the argument itself if it has this size.

        Raises:
            ValueError: "expected masks of 480x854 pixels, the size of the frame, got 60x80".
        """
        height, width = masks_BNHW.shape[-2:]
        if (height, width) == self.size != self.padded:
            top, left = self.offset
            masks_BNHW = F.pad(masks_BNHW, (left, self.padded[1] - width - left, top, self.padded[0] - height - top))
        elif height * self.padded[1] != width * self.padded[0]:
            raise ValueError(f"expected masks of {_pixels(self.size)} pixels, the size of the frame, got {height}x{width}")
        if masks_BNHW.shape[-2:] == size:
            return masks_BNHW
        return F.interpolate(masks_BNHW, size=size, mode="bilinear", align_corners=False)

    def full(self, masks_BNHW: Tensor) -> Tensor:
        """Resize masks of either resolution to the frame's own size."""
        if masks_BNHW.shape[-2:] == self.size != self.padded:
            return masks_BNHW
        return cut(self.fit(masks_BNHW, self.padded), self.size, self.offset)


@dataclass(frozen=True, repr=False)
class Prediction:
    """Logits of a frame at the network's resolution.

    Args:
        logits_BKHW: float32 [B, K, H, W], first the background channels, then the objects in plane order. H x W is an even
            division of `padded`.
        backgrounds: number of background channels, at least 1.
        size: (H, W) of the frame, in pixels.
        padded: (H, W) of the padded frame, in pixels.
        offset: rows above and columns left of the frame in the padded frame. Default: (0, 0).
        aux: further logits by name, for the network's own loss. Default: none.

    Raises:
        ValueError: "expected logits [B, K, H, W] of a division of 64x96 pixels, got [1, 3, 16, 20]".
        ValueError: "expected 1 to 3 background channels, got 4".
    """

    logits_BKHW: Tensor
    backgrounds: int
    size: tuple[int, int]
    padded: tuple[int, int]
    offset: tuple[int, int] = (0, 0)
    aux: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if is_traced():
            return
        shape = self.logits_BKHW.shape
        if len(shape) != 4 or shape[2] * self.padded[1] != shape[3] * self.padded[0]:
            expected = f"expected logits [B, K, H, W] of a division of {_pixels(self.padded)} pixels"
            raise ValueError(f"{expected}, got {shape_text(self.logits_BKHW)}")
        if not 1 <= self.backgrounds <= shape[1]:
            raise ValueError(f"expected 1 to {shape[1]} background channels, got {self.backgrounds}")

    def __repr__(self) -> str:
        return describe(self)

    def soft(self) -> Tensor:
        """Compute the objects' soft masks, which are what is remembered and what confidence is computed from.

        Returns:
            Tensor [B, N, H, W] in [0, 1] at the network's resolution.
        """
        return self.logits_BKHW.softmax(1)[:, self.backgrounds :]

    def logits(self) -> Tensor:
        """Compute the logits that losses read: backgrounds merged by their maximum, enlarged to the frame's size.

        Returns:
            Tensor [B, 1+N, H, W], the background first.
        """
        merged = torch.cat([self.logits_BKHW[:, : self.backgrounds].amax(1, keepdim=True), self._objects()], 1)
        return cut(F.interpolate(merged, size=self.padded, mode="bilinear", align_corners=False), self.size, self.offset)

    def without(self, planes_BN: Tensor) -> Prediction:
        """Return the prediction in which these objects win no pixel.

        Args:
            planes_BN: bool [B, N], true for the objects to leave out.
        """
        left_out = self._objects().masked_fill(planes_BN[..., None, None], UNKNOWN)
        return replace(self, logits_BKHW=torch.cat([self.logits_BKHW[:, : self.backgrounds], left_out], 1))

    def _objects(self) -> Tensor:
        return self.logits_BKHW[:, self.backgrounds :]

    def labels(self, size: tuple[int, int]) -> Tensor:
        """Compute label maps: the plane number (from 1) of the object with the largest logit, 0 for background.

        Args:
            size: (H, W) of the label maps, in pixels; they cover the frame without its padding.

        Returns:
            Tensor [B, *size], int32.
        """
        return sparse_labels(self, size)

    def probabilities(self, size: tuple[int, int] | None = None) -> Tensor:
        """Compute the softmax over every channel at the frame's size, then resize it: the output of the released code.

        Args:
            size: (H, W) of the result, in pixels. Default: the frame's own.

        Returns:
            Tensor [B, K, *size] in [0, 1].
        """
        full = F.interpolate(self.logits_BKHW, size=self.padded, mode="bilinear", align_corners=False).softmax(1)
        full = cut(full, self.size, self.offset)
        if size is None or size == self.size:
            return full
        return F.interpolate(full, size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def dense_labels(prediction: Prediction, size: tuple[int, int]) -> Tensor:
    """Compute label maps by enlarging every channel everywhere: the reference for `sparse_labels`.

    Args:
        prediction: logits of a frame.
        size: (H, W) of the label maps, in pixels.

    Returns:
        Tensor [B, *size], int32.
    """
    rows_YH, columns_XW = (_enlargement(*axis, prediction.logits_BKHW.device) for axis in _axes(prediction, size))
    full_BKYX = torch.einsum("yh,bkhw,xw->bkyx", rows_YH, prediction.logits_BKHW.float(), columns_XW)
    return (full_BKYX.argmax(1) - (prediction.backgrounds - 1)).clamp(min=0).int()


@torch.no_grad()
def sparse_labels(prediction: Prediction, size: tuple[int, int]) -> Tensor:
    """Compute the label maps of `dense_labels` by enlarging the logits along outlines only.

    Between four neighbouring cells in which the same channel has the largest logit, this channel has it everywhere. Where
    the smallest logit of some background among the four exceeds the largest logit of every object, no object wins. Only the
    pixels between the other cells, along outlines, are interpolated one by one.

    Args:
        prediction: logits of a frame.
        size: (H, W) of the label maps, in pixels.

    Returns:
        Tensor [B, *size], int32.
    """
    logits_BKHW, backgrounds = prediction.logits_BKHW.detach(), prediction.backgrounds
    height, width = int(logits_BKHW.shape[2]), int(logits_BKHW.shape[3])
    device = logits_BKHW.device
    (y0_H, square_H, down_H), (x0_W, square_W, right_W) = (_between(*axis, device) for axis in _axes(prediction, size))
    out_BHW = torch.zeros(len(logits_BKHW), *size, dtype=torch.int32, device=device)
    for out_HW, logits_KHW in zip(out_BHW, logits_BKHW, strict=True):
        grounds, objects = logits_KHW[:backgrounds], logits_KHW[backgrounds:]
        if not len(objects):
            continue
        leader = leader_of(logits_KHW)[None].float()
        highest, lowest = _largest_of_four(leader), -_largest_of_four(-leader)
        quiet = _largest_of_four(objects.amax(0, keepdim=True)) <= (-_largest_of_four(-grounds)).amax(0, keepdim=True)
        label = (highest - (backgrounds - 1)).clamp(min=0).int().masked_fill(quiet, 0)[0]
        out_HW.copy_(label[square_H][:, square_W])
        outline = ~((highest == lowest) | quiet)[0]
        y, x = outline[square_H][:, square_W].nonzero(as_tuple=True)
        if not len(y):
            continue
        rows_P2 = torch.stack([y0_H, y0_H + 1], 1).clamp(0, height - 1).mul(width).index_select(0, y)
        columns_P2 = torch.stack([x0_W, x0_W + 1], 1).clamp(0, width - 1).index_select(0, x)
        down_P2 = torch.stack([1 - down_H, down_H], 1).index_select(0, y)
        right_P2 = torch.stack([1 - right_W, right_W], 1).index_select(0, x)
        mixed_PK = F.embedding_bag(
            (rows_P2[:, :, None] + columns_P2[:, None]).flatten(1),
            logits_KHW.flatten(1).t().contiguous(),
            per_sample_weights=(down_P2[:, :, None] * right_P2[:, None]).flatten(1),
            mode="sum",
        )
        out_HW[y, x] = (leader_of(mixed_PK.t().contiguous()) - (backgrounds - 1)).clamp(min=0)
    return out_BHW


def cut(maps_BKHW: Tensor, size: tuple[int, int], offset: tuple[int, int]) -> Tensor:
    """Return the frame's part of maps of the padded frame, a view.

    Args:
        maps_BKHW: maps of the padded frame, one cell a pixel.
        size: (H, W) of the frame.
        offset: rows above and columns left of the frame.
    """
    return maps_BKHW[..., offset[0] : offset[0] + size[0], offset[1] : offset[1] + size[1]]


def _axes(prediction: Prediction, size: tuple[int, int]) -> list[tuple[int, int, int, int, int]]:
    """For rows and columns: cells, pixels, and size, padded size and offset of the frame."""
    cells = int(prediction.logits_BKHW.shape[2]), int(prediction.logits_BKHW.shape[3])
    return list(zip(cells, size, prediction.size, prediction.padded, prediction.offset, strict=True))


def _between(
    cells: int, pixels: int, size: int, padded: int, offset: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The positions of the pixels of an axis among its cells, corners not aligned.

    The pixels cover `size` of the `padded` units that the cells cover, from `offset` on. Returns, for each pixel, the cell
    before it (-1 before the first), the square of neighbours that contains it, and its position between the two in [0, 1).
    """
    place = ((torch.arange(pixels, dtype=torch.float64) + 0.5) * (size / pixels) + offset) * cells / padded - 0.5
    before = place.floor()
    return before.long().to(device), before.long().to(device) + 1, (place - before).float().to(device)


def _enlargement(cells: int, pixels: int, size: int, padded: int, offset: int, device: torch.device) -> Tensor:
    """The bilinear interpolation along an axis as a matrix, float32 [pixels, cells]."""
    before, _, weight = _between(cells, pixels, size, padded, offset, device)
    matrix, row = torch.zeros(pixels, cells, device=device), torch.arange(pixels, device=device)
    for cell, share in ((before, 1 - weight), (before + 1, weight)):
        matrix.index_put_((row, cell.clamp(0, cells - 1)), share, accumulate=True)
    return matrix


def leader_of(maps_KX: Tensor) -> Tensor:
    """Compute the argmax over the first axis, the first of equals; for a few channels quicker than `torch.argmax`.

    Args:
        maps_KX: tensor [K, ...].

    Returns:
        Tensor [...], int32.
    """
    best, leader = maps_KX[0].clone(), torch.zeros(maps_KX.shape[1:], dtype=torch.int32, device=maps_KX.device)
    for channel in range(1, len(maps_KX)):
        leader.masked_fill_(maps_KX[channel] > best, channel)
        torch.maximum(best, maps_KX[channel], out=best)
    return leader


def _largest_of_four(maps_KHW: Tensor) -> Tensor:
    """The largest of the four cells around each corner, [K, H+1, W+1]; at the border, of those that exist."""
    return F.max_pool2d(maps_KHW[None], 2, stride=1, padding=1)[0]


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"

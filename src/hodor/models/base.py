"""The one interface of every network here: encode, remember, segment, keep; and the memory they pass around.

Legend of shapes, for this folder and `losses.py`: a tensor's name ends in its axes.

    B  clips          T  frames         N  objects        K  background channels
    C  colours (RGB)  D  channels       H, W  rows, columns of pixels      P  pixels, H*W      h  attention heads

Masks are soft, in [0, 1], one plane an object. They come at the frame's own size, or at the network's (a quarter of the
padded frame, as `Prediction.soft` returns them); `Features.fit` tells the two apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hodor.models.layers import Backbone

UNKNOWN = -1e4
"""Logit of an object that no remembered frame knows: nothing after a softmax, and, unlike -inf, safe to interpolate."""


@dataclass(frozen=True)
class Features:
    """What a network sees in a frame, whatever the objects: maps of its own making, and the frame's sizes in pixels."""

    maps: tuple[Tensor, ...]
    size: tuple[int, int]
    padded: tuple[int, int]

    def split(self, parts: int) -> list[Features]:
        """Features of `parts` equal runs along the first axis: T*B frames encoded at once -> T features of B frames."""
        chunks = zip(*(m.chunk(parts) for m in self.maps), strict=True)
        return [replace(self, maps=tuple(c)) for c in chunks]

    def fit(self, masks_BNHW: Tensor, size: tuple[int, int]) -> Tensor:
        """Masks at the frame's or at the network's resolution -> at `size`, an even division of the padded frame.

        Bilinear without antialiasing: from full resolution to stride 8 that is the mean of the four central pixels of each
        8 x 8 block, from stride 4 the mean of 2 x 2, as in the released HODOR.

        Raises ValueError: "masks are 60x80 pixels, the frame 480x854".
        """
        height, width = masks_BNHW.shape[-2:]
        if (height, width) == self.size != self.padded:
            masks_BNHW = F.pad(masks_BNHW, (0, self.padded[1] - width, 0, self.padded[0] - height))
        elif height * self.padded[1] != width * self.padded[0]:
            raise ValueError(f"masks are {height}x{width} pixels, the frame {self.size[0]}x{self.size[1]}")
        if masks_BNHW.shape[-2:] == size:
            return masks_BNHW
        return F.interpolate(masks_BNHW, size=size, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Prediction:
    """Logits of a frame at the network's resolution: the first `backgrounds` channels are background, then the objects."""

    logits_BKHW: Tensor
    backgrounds: int
    size: tuple[int, int]
    padded: tuple[int, int]

    def soft(self) -> Tensor:
        """-> BNHW, the objects' soft masks at the network's resolution: what is remembered, and what confidence reads."""
        return self.logits_BKHW.softmax(1)[:, self.backgrounds :]

    def logits(self) -> Tensor:
        """-> B(1+N)HW logits of background and objects, backgrounds merged by max, at the frame's size: what a loss reads."""
        merged = torch.cat([self.logits_BKHW[:, : self.backgrounds].amax(1, keepdim=True), self._objects()], 1)
        full = F.interpolate(merged, size=self.padded, mode="bilinear", align_corners=False)
        return full[..., : self.size[0], : self.size[1]]

    def without(self, planes_BN: Tensor) -> Prediction:
        """The prediction in which these objects win nowhere."""
        silent = self._objects().masked_fill(planes_BN[..., None, None], UNKNOWN)
        return replace(self, logits_BKHW=torch.cat([self.logits_BKHW[:, : self.backgrounds], silent], 1))

    def _objects(self) -> Tensor:
        return self.logits_BKHW[:, self.backgrounds :]

    @torch.no_grad()
    def labels(self, size: tuple[int, int]) -> Tensor:
        """-> BHW at `size`, the plane number (from 1) of the object with the largest logit, 0 where a background wins.

        Every channel is enlarged straight to `size`, but only around the cells where the object can win: between four cells a
        blend of logits exceeds a background's only if it does so at one of them. The rest of the frame is background, and
        the cost follows the objects' extent, not their number.
        """
        grounds_BKHW, objects_BNHW = self.logits_BKHW[:, : self.backgrounds], self._objects()
        rows, columns = (
            resize_matrix(self.logits_BKHW.shape[2 + axis], size[axis], self.padded[axis] / self.size[axis])
            .to(self.logits_BKHW.device)
            for axis in (0, 1)
        )  # fmt: skip
        out_BHW = torch.zeros(len(self.logits_BKHW), *size, dtype=torch.int32, device=self.logits_BKHW.device)
        for clip, (grounds_KHW, objects_NHW) in enumerate(zip(grounds_BKHW, objects_BNHW, strict=True)):
            reaches = [_reach(object_HW, grounds_KHW, rows, columns) for object_HW in objects_NHW]
            seen = [r for r in reaches if r is not None]
            if not seen:
                continue
            top, left = min(r.start for r, _ in seen), min(c.start for _, c in seen)
            all_rows = slice(top, max(r.stop for r, _ in seen))
            all_columns = slice(left, max(c.stop for _, c in seen))
            best_HW = (rows[all_rows] @ (grounds_KHW @ columns[all_columns].t())).amax(0)
            for plane, (object_HW, reach) in enumerate(zip(objects_NHW, reaches, strict=True), 1):
                if reach is None:
                    continue
                r, c = reach
                here = rows[r] @ (object_HW @ columns[c].t())
                best = best_HW[r.start - top : r.stop - top, c.start - left : c.stop - left]
                out_BHW[clip, r, c].masked_fill_(here > best, plane)
                torch.maximum(best, here, out=best)
        return out_BHW

    def probabilities(self, size: tuple[int, int] | None = None) -> Tensor:
        """-> BKHW, softmax over every channel at the frame's size, then resized to `size`: the released code's output."""
        full = F.interpolate(self.logits_BKHW, size=self.padded, mode="bilinear", align_corners=False).softmax(1)
        full = full[..., : self.size[0], : self.size[1]]
        if size is None or size == self.size:
            return full
        return F.interpolate(full, size=size, mode="bilinear", align_corners=False)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a cached tensor also serves training steps
def resize_matrix(cells: int, pixels: int, cover: float) -> Tensor:
    """-> [pixels, cells], bilinear enlargement of an axis as a matrix; the cells cover `cover` times the pixels' extent (the
    padding beyond is never read but for the half cell next to it), corners not aligned."""
    place = (torch.arange(pixels, dtype=torch.float64) + 0.5) * cells / (pixels * cover) - 0.5
    place = place.clamp(0, cells - 1)
    low = place.floor().long().clamp(max=max(cells - 2, 0))
    matrix = torch.zeros(pixels, cells, dtype=torch.float64)
    matrix.scatter_add_(1, low[:, None], (1 - (place - low))[:, None])
    matrix.scatter_add_(1, (low + 1).clamp(max=cells - 1)[:, None], (place - low)[:, None])
    return matrix.float()


def _reach(object_HW: Tensor, grounds_KHW: Tensor, rows: Tensor, columns: Tensor) -> tuple[slice, slice] | None:
    """The rows and columns of pixels around every square of four cells in which the object can beat all backgrounds."""
    leads = (object_HW - grounds_KHW)[None]
    squares = F.max_pool2d(leads, 2, stride=1, padding=1)[0].amin(0) > 0
    if not bool(squares.any()):
        return None
    out = []
    for axis, matrix in ((1, rows), (0, columns)):
        marked = squares.any(axis).nonzero()
        cells = slice(max(int(marked[0]) - 1, 0), int(marked[-1]) + 1)
        touched = matrix[:, cells].any(1).nonzero()
        if not len(touched):
            return None
        out.append(slice(int(touched[0]), int(touched[-1]) + 1))
    return out[0], out[1]


@dataclass(frozen=True)
class Entry:
    """What one frame leaves in the memory.

    per_object: B N ..., one row an object (HODOR: descriptors). shared: B ..., what belongs to the frame (HODOR: the
    background's descriptors). known_BN: the objects this frame speaks for. given_BN: of those, the ones whose mask came from
    the caller and not from the network. complete_B: whether `shared` speaks too; it does not for a frame on which only some
    of the objects are known yet.
    """

    per_object: Tensor
    shared: Tensor
    known_BN: Tensor
    given_BN: Tensor
    complete_B: Tensor

    def select(self, planes: Sequence[int | None]) -> Entry:
        """The entry for another list of objects: plane i is today's plane planes[i], or an unknown object where None."""
        index = torch.tensor([0 if p is None else p for p in planes], device=self.known_BN.device, dtype=torch.long)
        known = torch.tensor([p is not None for p in planes], device=self.known_BN.device, dtype=torch.bool)
        if self.known_BN.shape[1] == 0:
            batch = self.known_BN.shape[0]
            empty = self.known_BN.new_zeros(batch, len(planes))
            rows = self.per_object.new_zeros(batch, len(planes), *self.per_object.shape[2:])
            return replace(self, per_object=rows, known_BN=empty, given_BN=empty)
        return replace(
            self,
            per_object=self.per_object[:, index],
            known_BN=self.known_BN[:, index] & known,
            given_BN=self.given_BN[:, index] & known,
        )

    def detach(self) -> Entry:
        return replace(self, per_object=self.per_object.detach(), shared=self.shared.detach())


@dataclass(frozen=True)
class Memory:
    """Everything a network knows of the objects: a value, never changed in place, so that keeping an old one is free.

    objects: the caller's ids in plane order, never renumbered. frames: what each remembered frame left, by its index.
    state: the recurrent state of a network that has one, else None.
    """

    objects: tuple[int, ...] = ()
    frames: Mapping[int, Entry] = field(default_factory=dict)
    state: Tensor | None = None

    def only(self, indices: Sequence[int]) -> Memory:
        """The memory of these frames alone: how a training step names the frames that speak."""
        return replace(self, frames={i: self.frames[i] for i in indices})

    def add(self, index: int, entry: Entry) -> Memory:
        return replace(self, frames={**self.frames, index: entry})

    def with_objects(self, objects: Sequence[int]) -> Memory:
        """The same memory for these ids in this order: new ones are unknown to the frames so far, missing ones forgotten."""
        planes = [self.objects.index(o) if o in self.objects else None for o in objects]
        return replace(self, objects=tuple(objects), frames={i: e.select(planes) for i, e in self.frames.items()})


class Network(nn.Module):
    """The four questions; HODOR, STCN, XMem and Cutie answer them, and `rollout` and `Tracker` ask nothing else.

    name and size (short side inside, in pixels) come from the preset or the file; settings rebuild the network.
    """

    name: str = ""
    size: int = 480
    settings: Mapping[str, Any] = {}
    backbone: Backbone

    def encode(self, frames_BCHW: Tensor) -> Features:
        """RGB in [0, 1], any size -> what is in these pictures."""
        raise NotImplementedError

    def remember(
        self, memory: Memory, index: int, features: Features, masks_BNHW: Tensor, known_BN: Tensor, given_BN: Tensor
    ) -> Memory:
        """The memory with frame `index` in it, its objects where the soft masks say."""
        raise NotImplementedError

    def segment(self, memory: Memory, features: Features) -> tuple[Prediction, Memory]:
        """Where the memory's objects are in another frame; the memory comes back with any recurrent state moved on."""
        raise NotImplementedError

    def keep(self, memory: Memory, history: int, pin_first: bool) -> Memory:
        """The last `history` remembered frames; with pin_first also, for each object, the first and the latest given one."""
        indices = list(memory.frames)
        kept = set(indices[-history:])
        if pin_first:
            for plane in range(len(memory.objects)):
                given = [i for i in indices if bool(memory.frames[i].given_BN[:, plane].any())]
                kept.update(given[:1] + given[-1:])
        return memory.only([i for i in indices if i in kept])


def pad_to_multiple(frames_BCHW: Tensor, multiple: int) -> Tensor:
    """Zeros at the right and the bottom, so that both sides divide by `multiple`; undone by cropping to the old size."""
    height, width = frames_BCHW.shape[-2:]
    return F.pad(frames_BCHW, (0, -width % multiple, 0, -height % multiple))

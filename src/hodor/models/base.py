"""The one interface of every network here: encode, remember, segment, keep; and the memory they pass around.

Legend of shapes, for this folder and `losses.py`: a tensor's name ends in its axes.

    B  clips          T  frames         N  objects        K  background channels
    C  colours (RGB)  D  channels       H, W  rows, columns of pixels      P  pixels, H*W      h  attention heads

Masks are soft, in [0, 1], one plane an object. They come at the frame's own size, or at the network's (a quarter of the
padded frame, as `Prediction.soft` returns them); `Features.fit` tells the two apart.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hodor.models.layers import Backbone, fold, recompute

UNKNOWN = -1e4
"""Logit of an object that no remembered frame knows: nothing after a softmax, and, unlike -inf, safe to interpolate."""


@dataclass(frozen=True)
class Features:
    """What a network sees in a frame, whatever the objects: maps of its own making, and the frame's sizes in pixels.

    offset: rows above and columns left of the frame in the padded one.
    """

    maps: tuple[Tensor, ...]
    size: tuple[int, int]
    padded: tuple[int, int]
    offset: tuple[int, int] = (0, 0)

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
            top, left = self.offset
            masks_BNHW = F.pad(masks_BNHW, (left, self.padded[1] - width - left, top, self.padded[0] - height - top))
        elif height * self.padded[1] != width * self.padded[0]:
            raise ValueError(f"masks are {height}x{width} pixels, the frame {self.size[0]}x{self.size[1]}")
        if masks_BNHW.shape[-2:] == size:
            return masks_BNHW
        return F.interpolate(masks_BNHW, size=size, mode="bilinear", align_corners=False)

    def full(self, masks_BNHW: Tensor) -> Tensor:
        """Masks at either resolution -> at the frame's own size."""
        if masks_BNHW.shape[-2:] == self.size != self.padded:
            return masks_BNHW
        return cut(self.fit(masks_BNHW, self.padded), self.size, self.offset)


@dataclass(frozen=True)
class Prediction:
    """Logits of a frame at the network's resolution: the first `backgrounds` channels are background, then the objects.

    size, padded, offset: as in `Features`. aux: more logits that a network's own loss reads, by name.
    """

    logits_BKHW: Tensor
    backgrounds: int
    size: tuple[int, int]
    padded: tuple[int, int]
    offset: tuple[int, int] = (0, 0)
    aux: Mapping[str, Tensor] = field(default_factory=dict)

    def soft(self) -> Tensor:
        """-> BNHW, the objects' soft masks at the network's resolution: what is remembered, and what confidence reads."""
        return self.logits_BKHW.softmax(1)[:, self.backgrounds :]

    def logits(self) -> Tensor:
        """-> B(1+N)HW logits of background and objects, backgrounds merged by max, at the frame's size: what a loss reads."""
        merged = torch.cat([self.logits_BKHW[:, : self.backgrounds].amax(1, keepdim=True), self._objects()], 1)
        return cut(F.interpolate(merged, size=self.padded, mode="bilinear", align_corners=False), self.size, self.offset)

    def without(self, planes_BN: Tensor) -> Prediction:
        """The prediction in which these objects win nowhere."""
        silent = self._objects().masked_fill(planes_BN[..., None, None], UNKNOWN)
        return replace(self, logits_BKHW=torch.cat([self.logits_BKHW[:, : self.backgrounds], silent], 1))

    def _objects(self) -> Tensor:
        return self.logits_BKHW[:, self.backgrounds :]

    @torch.no_grad()
    def labels(self, size: tuple[int, int]) -> Tensor:
        """-> BHW at `size`, the plane number (from 1) of the object with the largest logit, 0 where a background wins.

        Every channel is enlarged straight to `size`, bilinear, but only where it matters. Between four neighbouring cells of
        which one channel leads all, it leads everywhere; and where some background's least logit exceeds every object's
        greatest, no object leads. Pixels between the other cells, those along outlines, are worked out one by one.
        """
        height, width = int(self.logits_BKHW.shape[2]), int(self.logits_BKHW.shape[3])
        device = self.logits_BKHW.device
        axes = zip((height, width), size, self.size, self.padded, self.offset, strict=True)
        (y0_H, square_H, down_H), (x0_W, square_W, right_W) = (_between(*axis, device) for axis in axes)
        out_BHW = torch.zeros(len(self.logits_BKHW), *size, dtype=torch.int32, device=device)
        for out_HW, logits_KHW in zip(out_BHW, self.logits_BKHW.detach(), strict=True):
            grounds, objects = logits_KHW[: self.backgrounds], logits_KHW[self.backgrounds :]
            if not len(objects):
                continue
            leader = leader_of(logits_KHW)[None].float()
            highest, lowest = _largest_of_four(leader), -_largest_of_four(-leader)
            quiet = _largest_of_four(objects.amax(0, keepdim=True)) <= (-_largest_of_four(-grounds)).amax(0, keepdim=True)
            label = (highest - (self.backgrounds - 1)).clamp(min=0).int().masked_fill(quiet, 0)[0]
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
            out_HW[y, x] = (leader_of(mixed_PK.t().contiguous()) - (self.backgrounds - 1)).clamp(min=0)
        return out_BHW

    def probabilities(self, size: tuple[int, int] | None = None) -> Tensor:
        """-> BKHW, softmax over every channel at the frame's size, then resized to `size`: the released code's output."""
        full = F.interpolate(self.logits_BKHW, size=self.padded, mode="bilinear", align_corners=False).softmax(1)
        full = cut(full, self.size, self.offset)
        if size is None or size == self.size:
            return full
        return F.interpolate(full, size=size, mode="bilinear", align_corners=False)


def cut(maps_BKHW: Tensor, size: tuple[int, int], offset: tuple[int, int]) -> Tensor:
    """The frame's part of maps of the padded frame, a view."""
    return maps_BKHW[..., offset[0] : offset[0] + size[0], offset[1] : offset[1] + size[1]]


def _between(
    cells: int, pixels: int, size: int, padded: int, offset: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the pixels of an axis lie among its cells; corners not aligned.

    The pixels cover `size` of the `padded` units that the cells cover, from `offset` on. -> the cell before each pixel (-1
    before the first), the square of neighbours it lies in, its place between the two.
    """
    place = ((torch.arange(pixels, dtype=torch.float64) + 0.5) * (size / pixels) + offset) * cells / padded - 0.5
    before = place.floor()
    return before.long().to(device), before.long().to(device) + 1, (place - before).float().to(device)


def leader_of(maps_KX: Tensor) -> Tensor:
    """-> X, int32: argmax over the first axis, the first of equals; for a few channels quicker than torch's."""
    best, leader = maps_KX[0].clone(), torch.zeros(maps_KX.shape[1:], dtype=torch.int32, device=maps_KX.device)
    for channel in range(1, len(maps_KX)):
        leader.masked_fill_(maps_KX[channel] > best, channel)
        torch.maximum(best, maps_KX[channel], out=best)
    return leader


def _largest_of_four(maps_KHW: Tensor) -> Tensor:
    """-> K H+1 W+1, the largest of the four cells around each corner; beyond the border there is none."""
    return F.max_pool2d(maps_KHW[None], 2, stride=1, padding=1)[0]


@dataclass(frozen=True)
class Entry:
    """What one frame leaves in the memory.

    per_object: B N ..., one row an object (HODOR: descriptors). shared: B ..., what belongs to the frame (HODOR: the
    background's descriptors). valid_BN: the objects this frame speaks for. given_BN: of those, the ones whose mask came from
    the caller and not from the network. complete_B: whether `shared` speaks too; it does not for a frame on which only some
    of the objects are known yet.
    """

    per_object: Tensor
    shared: Tensor
    valid_BN: Tensor
    given_BN: Tensor
    complete_B: Tensor

    def select(self, planes: Sequence[int | None]) -> Entry:
        """The entry for another list of objects: plane i is today's plane planes[i], or an unknown object where None."""
        index = torch.tensor([0 if p is None else p for p in planes], device=self.valid_BN.device, dtype=torch.long)
        known = torch.tensor([p is not None for p in planes], device=self.valid_BN.device, dtype=torch.bool)
        if self.valid_BN.shape[1] == 0:
            batch = self.valid_BN.shape[0]
            empty = self.valid_BN.new_zeros(batch, len(planes))
            rows = self.per_object.new_zeros(batch, len(planes), *self.per_object.shape[2:])
            return replace(self, per_object=rows, valid_BN=empty, given_BN=empty)
        return replace(
            self,
            per_object=self.per_object[:, index],
            valid_BN=self.valid_BN[:, index] & known,
            given_BN=self.given_BN[:, index] & known,
        )

    def detach(self) -> Entry:
        return replace(self, per_object=self.per_object.detach(), shared=self.shared.detach())


@dataclass(frozen=True)
class Memory:
    """Everything a network knows of the objects: a value, never changed in place, so that keeping an old one is free.

    objects: the caller's ids in plane order, never renumbered. frames: what each remembered frame left, by its index, in the
    order of time; an index below 0 holds what was drawn from many frames. state: by name, B N ..., what a recurrent network
    carries from frame to frame, zeros for a new object. tally: by name, B ..., what belongs to no object, such as how often a
    token was used.
    """

    objects: tuple[int, ...] = ()
    frames: Mapping[int, Entry] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    tally: Mapping[str, Tensor] = field(default_factory=dict)

    def only(self, indices: Sequence[int]) -> Memory:
        """The memory of these frames alone: how a training step names the frames that speak."""
        return replace(self, frames={i: self.frames[i] for i in indices})

    def add(self, index: int, entry: Entry) -> Memory:
        return replace(self, frames={**self.frames, index: entry})

    def with_objects(self, objects: Sequence[int]) -> Memory:
        """The same memory for these ids in this order: new ones are unknown to the frames so far, missing ones forgotten."""
        planes = [self.objects.index(o) if o in self.objects else None for o in objects]
        frames = {i: e.select(planes) for i, e in self.frames.items()}
        state = {name: _rows(each, planes) for name, each in self.state.items()}
        return replace(self, objects=tuple(objects), frames=frames, state=state)


def _rows(each_BNX: Tensor, planes: Sequence[int | None]) -> Tensor:
    """Row i is today's row planes[i], or zeros where None."""
    out = each_BNX.new_zeros(each_BNX.shape[0], len(planes), *each_BNX.shape[2:])
    kept = [(new, old) for new, old in enumerate(planes) if old is not None]
    if kept:
        out[:, [new for new, _ in kept]] = each_BNX[:, [old for _, old in kept]]
    return out


class Network(nn.Module):
    """The four questions; HODOR, STCN, XMem and Cutie answer them, and `rollout` and `Tracker` ask nothing else.

    name and size (short side inside, in pixels) come from the preset or the file; settings rebuild the network; folded: its
    batch norms are merged into their convolutions, see `weights.load`. calibration: slope and offset of confidence, see
    `expected`; they come from the file.

    How it is best followed through a video: history, frames remembered; hold_lost, an object that is nowhere is not
    remembered from that frame; sees_given, objects given on a frame are remembered before the others are sought in it.
    recurrent: `segment` moves a state on, so that a single step back in time trains only a part of it.
    """

    name: str = ""
    size: int = 480
    settings: Mapping[str, Any] = {}
    renamed_settings: ClassVar[Mapping[str, str]] = {}
    """Settings that files written earlier know by another name: old -> new."""
    calibration: tuple[float, float] = (1.0, 0.0)
    backbone: Backbone
    folded: bool = False
    history: int = 7
    hold_lost: bool = True
    sees_given: bool = True
    recurrent: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let `settings` hold the arguments that the network is made with, defaults included, from its first line on."""
        super().__init_subclass__(**kwargs)
        if "__init__" not in cls.__dict__:
            return
        make, signature = cls.__init__, inspect.signature(cls.__init__)

        @functools.wraps(make)
        def recorded(self: Network, *args: Any, **arguments: Any) -> None:
            if type(self) is cls:
                bound = signature.bind(self, *args, **arguments)
                bound.apply_defaults()
                self.settings = dict(list(bound.arguments.items())[1:])
            make(self, *args, **arguments)

        cls.__init__ = recorded  # type: ignore[assignment]

    @classmethod
    def current_settings(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings as a file has them -> by the names of today."""
        return {cls.renamed_settings.get(name, name): value for name, value in settings.items()}

    def encode(self, frames_BCHW: Tensor) -> Features:
        """RGB in [0, 1], any size -> what is in these pictures."""
        raise NotImplementedError

    def remember(
        self, memory: Memory, index: int, features: Features, masks_BNHW: Tensor, valid_BN: Tensor, given_BN: Tensor
    ) -> Memory:
        """The memory with frame `index` in it, its objects where the soft masks say."""
        raise NotImplementedError

    def segment(self, memory: Memory, features: Features, *, remembered: bool = False) -> tuple[Prediction, Memory]:
        """Where the memory's objects are in another frame; the memory comes back with any recurrent state moved on.

        remembered: `remember` follows for this very frame, as `due` said, and a network whose `remember` moves the state on
        by itself leaves it as it is.
        """
        raise NotImplementedError

    def due(self, memory: Memory, index: int) -> bool:
        """Whether frame `index`, with predicted masks, is to be remembered while a video is followed."""
        return True

    def settle(self, masks_BNHW: Tensor) -> Tensor:
        """Masks put together from the caller's and the network's own -> as the network takes them."""
        return masks_BNHW

    def expected(self, sure: Tensor) -> Tensor:
        """Means of soft masks over what they won -> the J to expect there, as far as these weights were calibrated.

        sigmoid(slope * logit(sure) + offset), Platt scaling (1999); `analyse failures` measures the two.
        """
        slope, offset = self.calibration
        return sure if self.calibration == (1.0, 0.0) else (slope * sure.logit(1e-4) + offset).sigmoid()

    def fold(self) -> None:
        """Merge batch norms into the convolutions before them: the same function, quicker, and no longer to be trained."""
        for name, child in list(self.named_children()):
            setattr(self, name, fold(child))
        self.folded = True

    def checkpoint_activations(self) -> None:
        """From now on keep only what goes into each block, and work out the rest again on the way back: the same gradients
        for less memory and about a third more time."""
        for block in self.backbone.heavy():
            recompute(block)

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

"""The interface of every network (encode, remember, segment, keep) and the values that it passes on.

Shapes in this package and in `hodor.training.losses`: the name of a tensor ends in its axes.

    B  clips          T  frames         N  objects        K  background channels (in logits: and objects)
    C  colours (RGB)  D  channels       H, W  rows, columns of pixels      P  pixels, H*W      h  attention heads

Masks are soft, in [0, 1], with one plane an object. They have the frame's own size, or the network's (a quarter of the
padded frame, as `Prediction.soft` returns them); `Features.fit` accepts both.
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
from hodor.tensors import describe, is_traced, shape_text

UNKNOWN = -1e4
"""Logit of an object for which no remembered frame is valid. It is 0 after a softmax and, unlike -inf, can be interpolated."""

TRACKING = ("history", "pin_first", "hold_lost")
"""Attributes of a network that a file of weights can set: how a `Tracker` follows a video with it."""


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


@dataclass(frozen=True, repr=False)
class Entry:
    """What the memory keeps of one frame.

    Args:
        per_object: [B, N, ...], one row an object (HODOR: descriptors; the others: values).
        shared: tensors [B, ...] of the whole frame, by name (HODOR: "background", the descriptors of the background cells;
            STCN: "key"; XMem and Cutie: "key", "shrinkage" and "selection"). Can be empty.
        valid_BN: bool, the objects for which this frame is valid.
        given_BN: bool, those of them whose mask came from the caller and not from the network.
        complete_B: bool, whether `shared` is valid as a description of the background: not on a frame on which only some
            of the objects are known.

    Raises:
        ValueError: "expected per_object [1, 2, ...], got [1, 3, 128]", the same for each of the other fields.
    """

    per_object: Tensor
    shared: Mapping[str, Tensor]
    valid_BN: Tensor
    given_BN: Tensor
    complete_B: Tensor

    def __post_init__(self) -> None:
        if is_traced():
            return
        shape = self.valid_BN.shape
        if len(shape) != 2:
            raise ValueError(f"expected valid_BN [B, N], got {shape_text(self.valid_BN)}")
        if self.given_BN.shape != shape:
            raise ValueError(f"expected given_BN {list(shape)}, got {shape_text(self.given_BN)}")
        if self.complete_B.shape != shape[:1]:
            raise ValueError(f"expected complete_B {list(shape[:1])}, got {shape_text(self.complete_B)}")
        if self.per_object.shape[:2] != shape:
            raise ValueError(f"expected per_object [{shape[0]}, {shape[1]}, ...], got {shape_text(self.per_object)}")
        for name, each in self.shared.items():
            if each.shape[:1] != shape[:1]:
                raise ValueError(f"expected shared {name} [{shape[0]}, ...], got {shape_text(each)}")

    def __repr__(self) -> str:
        return describe(self)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name; those of `shared` are named "shared.NAME"."""
        own = {name: each for name, each in vars(self).items() if name != "shared"}
        return own | {f"shared.{name}": each for name, each in self.shared.items()}

    def select(self, planes: Sequence[int | None]) -> Entry:
        """Return the entry for another list of objects.

        Args:
            planes: for each new plane the present plane, or None for an object for which the frame is not valid.
        """
        index = torch.tensor([0 if p is None else p for p in planes], device=self.valid_BN.device, dtype=torch.long)
        kept = torch.tensor([p is not None for p in planes], device=self.valid_BN.device, dtype=torch.bool)
        if self.valid_BN.shape[1] == 0:
            batch = self.valid_BN.shape[0]
            empty = self.valid_BN.new_zeros(batch, len(planes))
            rows = self.per_object.new_zeros(batch, len(planes), *self.per_object.shape[2:])
            return replace(self, per_object=rows, valid_BN=empty, given_BN=empty)
        return replace(
            self,
            per_object=self.per_object[:, index],
            valid_BN=self.valid_BN[:, index] & kept,
            given_BN=self.given_BN[:, index] & kept,
        )

    def detach(self) -> Entry:
        """Return the entry without its graph."""
        shared = {name: each.detach() for name, each in self.shared.items()}
        return replace(self, per_object=self.per_object.detach(), shared=shared)


@dataclass(frozen=True, repr=False)
class Memory:
    """All that is remembered of the objects. It never changes in place, so an old memory can be kept at no cost.

    Args:
        objects: the caller's ids in plane order; they are never renumbered.
        frames: the entry of each remembered frame by its index, in the order of time. An index below 0 is an entry made of
            many frames (prototypes).
        state: by name, [B, N, ...], what a recurrent network carries from frame to frame; zeros for a new object.
        tally: by name, [B, ...], what belongs to no object, such as how often a token was used.
    """

    objects: tuple[int, ...] = ()
    frames: Mapping[int, Entry] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    tally: Mapping[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        return describe(self)

    def only(self, indices: Sequence[int]) -> Memory:
        """Return the memory of these frames alone, in this order: the sources of a training step."""
        return replace(self, frames={i: self.frames[i] for i in indices})

    def add(self, index: int, entry: Entry) -> Memory:
        """Return the memory with the entry of one more frame, or with another entry of the same frame."""
        return replace(self, frames={**self.frames, index: entry})

    def with_objects(self, objects: Sequence[int]) -> Memory:
        """Return the same memory for other objects.

        Args:
            objects: ids in plane order. No frame so far is valid for a new one; those that are missing are forgotten.
        """
        planes = [self.objects.index(o) if o in self.objects else None for o in objects]
        frames = {i: e.select(planes) for i, e in self.frames.items()}
        state = {name: _rows(each, planes) for name, each in self.state.items()}
        return replace(self, objects=tuple(objects), frames=frames, state=state)


def _rows(each_BNX: Tensor, planes: Sequence[int | None]) -> Tensor:
    """Row i of the result is row planes[i], or zeros for None."""
    out = each_BNX.new_zeros(each_BNX.shape[0], len(planes), *each_BNX.shape[2:])
    kept = [(new, old) for new, old in enumerate(planes) if old is not None]
    if kept:
        out[:, [new for new, _ in kept]] = each_BNX[:, [old for _, old in kept]]
    return out


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


class Network(nn.Module):
    """Base class of HODOR, STCN, XMem, Cutie and your own networks: all that `rollout` and `Tracker` call.

    A subclass implements `encode`, `remember` and `segment`; the other methods have defaults.

    Attributes:
        name: name of the preset; set by `weights.build` and `weights.load`.
        size: short side of the frame inside the network, in pixels; from the preset or the file.
        settings: the arguments that the network was made with; a file rebuilds the network from them.
        renamed_settings: old name -> new name, for settings that were renamed since a file was written.
        backbone: the image encoder.
        folded: whether batch norms are merged into their convolutions; see `weights.load`.
        calibration: slope and offset of the confidence, see `expected`; from the file. Default: (1, 0), none.
        history: number of frames that a `Tracker` remembers, at least 1. Default: 7.
        pin_first: whether a `Tracker` also keeps, for each object, the first and the latest mask that was given. Default: True.
        hold_lost: whether an object that wins no pixel of a frame is not remembered from that frame. Default: True.
        tracking: those of the last three that were set by `set_tracking`; they are saved with the weights. Default: none.
        sees_given: whether objects given on a frame are remembered before the others are segmented in it. Default: True.
        recurrent: whether `segment` updates a state, so that a single step back in time trains only a part of the network.
            Default: False.
    """

    name: str = ""
    size: int = 480
    settings: Mapping[str, Any] = {}
    renamed_settings: ClassVar[Mapping[str, str]] = {}
    calibration: tuple[float, float] = (1.0, 0.0)
    backbone: Backbone
    folded: bool = False
    history: int = 7
    pin_first: bool = True
    hold_lost: bool = True
    tracking: Mapping[str, Any] = {}
    sees_given: bool = True
    recurrent: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Set `settings` to the arguments of the constructor, defaults included, before its first line runs."""
        super().__init_subclass__(**kwargs)
        if "__init__" not in cls.__dict__:
            return
        make, signature = cls.__init__, inspect.signature(cls.__init__)

        @functools.wraps(make)
        def recorded(self: Network, *args: Any, **arguments: Any) -> None:
            if type(self).__init__ is recorded:
                bound = signature.bind(self, *args, **arguments)
                bound.apply_defaults()
                self.settings = dict(list(bound.arguments.items())[1:])
            make(self, *args, **arguments)

        cls.__init__ = recorded  # type: ignore[assignment]

    @classmethod
    def current_settings(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings read from a file under their present names."""
        return {cls.renamed_settings.get(name, name): value for name, value in settings.items()}

    def set_tracking(self, **values: Any) -> None:
        """Set how a `Tracker` follows a video with these weights; the values are saved with them.

        Args:
            **values: any of `history` (int, at least 1), `pin_first` (bool) and `hold_lost` (bool).

        Raises:
            ValueError: "expected tracking of history, pin_first, hold_lost, got fps".
            ValueError: "expected history of at least 1 frame, got 0"; "expected pin_first of true or false, got 7".
        """
        for name, value in values.items():
            if name not in TRACKING:
                raise ValueError(f"expected tracking of {', '.join(TRACKING)}, got {name}")
            if name == "history" and (type(value) is not int or value < 1):
                raise ValueError(f"expected history of at least 1 frame, got {value!r}")
            if name != "history" and not isinstance(value, bool):
                raise ValueError(f"expected {name} of true or false, got {value!r}")
        self.tracking = {**self.tracking, **values}
        for name, value in values.items():
            setattr(self, name, value)

    def encode(self, frames_BCHW: Tensor) -> Features:
        """Compute the features of frames.

        Args:
            frames_BCHW: RGB in [0, 1], float32 [B, 3, H, W] of any size.
        """
        raise NotImplementedError

    def remember(
        self,
        memory: Memory,
        index: int,
        features: Features,
        masks_BNHW: Tensor,
        valid_BN: Tensor,
        given_BN: Tensor,
        *,
        complete: bool = False,
    ) -> Memory:
        """Return the memory with an entry of frame `index`.

        Args:
            memory: what is remembered so far.
            index: index of the frame.
            features: features of the frame.
            masks_BNHW: soft masks in [0, 1] of the memory's objects, of the frame's own size or of the network's.
            valid_BN: bool, the objects for which the entry is valid.
            given_BN: bool, the objects whose mask came from the caller.
            complete: whether the masks show every object, so that an object without a pixel is known to be outside the
                frame; the background is then valid even if `valid_BN` is false for an object. Default: False.
        """
        raise NotImplementedError

    def segment(self, memory: Memory, features: Features, *, remembered: bool = False) -> tuple[Prediction, Memory]:
        """Segment the memory's objects in another frame.

        Args:
            memory: at least one remembered frame.
            features: features of the frame.
            remembered: whether `remember` follows for this frame, see `due`. A network whose `remember` updates the state
                then leaves the state as it is. Default: False.

        Returns:
            The prediction, and the memory with its recurrent state updated, if there is one.
        """
        raise NotImplementedError

    def due(self, memory: Memory, index: int) -> bool:
        """Return whether frame `index`, with predicted masks, is remembered while a video is followed."""
        return True

    def settle(self, masks_BNHW: Tensor) -> Tensor:
        """Return masks of which some are given and some are predicted in the form that the network expects."""
        return masks_BNHW

    def expected(self, confidence_N: Tensor) -> Tensor:
        """Return the J to expect for means of soft masks over the pixels won, as calibrated for these weights.

        sigmoid(slope * logit(confidence) + offset), Platt scaling (1999); `hodor analyse failures` measures the two.

        Args:
            confidence_N: means in [0, 1].
        """
        slope, offset = self.calibration
        return confidence_N if self.calibration == (1.0, 0.0) else (slope * confidence_N.logit(1e-4) + offset).sigmoid()

    def fold(self) -> None:
        """Merge batch norms into the convolutions before them: the same function, faster, no longer trainable."""
        for name, child in list(self.named_children()):
            setattr(self, name, fold(child))
        self.folded = True

    def checkpoint_activations(self) -> None:
        """Keep only the input of each block from now on, and recompute the rest in the backward pass.

        The gradients are the same, for less memory and about a third more time.
        """
        for block in self.backbone.heavy():
            recompute(block)

    def keep(self, memory: Memory, history: int, pin_first: bool) -> Memory:
        """Return the memory with the frames that are still used.

        Args:
            memory: the memory after a frame.
            history: number of frames to keep, the latest.
            pin_first: whether to keep, for each object, also the first and the latest frame with a given mask.
        """
        indices = list(memory.frames)
        kept = set(indices[-history:])
        if pin_first:
            for plane in range(len(memory.objects)):
                given = [i for i in indices if bool(memory.frames[i].given_BN[:, plane].any())]
                kept.update(given[:1] + given[-1:])
        return memory.only([i for i in indices if i in kept])


def pad_to_multiple(frames_BCHW: Tensor, multiple: int) -> Tensor:
    """Pad frames with zeros at the right and the bottom.

    Args:
        frames_BCHW: tensor [B, C, H, W].
        multiple: number of pixels by which both sides of the result divide.
    """
    height, width = frames_BCHW.shape[-2:]
    return F.pad(frames_BCHW, (0, -width % multiple, 0, -height % multiple))

"""The interface of every network (encode, remember, segment, keep) and the values that it passes on.

Shapes in this package and in `hodor.training.losses`: the name of a tensor ends in its axes.

    B  clips          T  frames         N  objects        K  background channels (in logits: and objects)
    C  colours (RGB)  D  channels       H, W  rows, columns of pixels      P  pixels, H*W      h  attention heads

Masks are soft, in [0, 1], with one plane an object. They have the frame's own size, or the network's (a quarter of the
padded frame, as `Prediction.soft` returns them); `Features.fit` accepts both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.models.model import Model
from hodor.models.prediction import Features, Prediction
from hodor.tensors import describe, is_traced, shape_text

TRACKING = ("history", "pin_first", "hold_lost")
"""Attributes of a network that a file of weights can set: how a `Tracker` follows a video with it."""


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


class Network(Model):
    """Base class of HODOR, STCN, XMem, Cutie and your own networks: all that `rollout` and `Tracker` call.

    A subclass implements `encode`, `remember` and `segment`; the other methods have defaults.

    Attributes:
        history: number of frames that a `Tracker` remembers, at least 1. Default: 7.
        pin_first: whether a `Tracker` also keeps, for each object, the first and the latest mask that was given. Default: True.
        hold_lost: whether an object that wins no pixel of a frame is not remembered from that frame. Default: True.
        tracking: those of the last three that were set by `set_tracking`; they are saved with the weights. Default: none.
        sees_given: whether objects given on a frame are remembered before the others are segmented in it. Default: True.
        recurrent: whether `segment` updates a state, so that a single step back in time trains only a part of the network.
            Default: False.
    """

    history: int = 7
    pin_first: bool = True
    hold_lost: bool = True
    tracking: Mapping[str, Any] = {}
    sees_given: bool = True
    recurrent: bool = False

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

    def about(self) -> dict[str, Any]:
        return super().about() | ({"tracking": dict(self.tracking)} if self.tracking else {})

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

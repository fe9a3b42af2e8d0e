"""A tiny network with a recurrent state, which the tests of training schemes use in place of XMem and Cutie."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hodor.models.backbones import EfficientNetLite
from hodor.models.base import Entry, Memory, Network, pad_to_multiple
from hodor.models.prediction import UNKNOWN, Features, Prediction

WIDTH = 8


class Recurrent(Network):
    """Values of remembered frames, averaged, and a state for each object.

    Every `segment` updates the state, and so does every `remember` of a given mask, like XMem's deep update. Of 60,000 weights,
    those of `move` are used from the second step on.
    """

    recurrent = True
    hold_lost = False
    sees_given = False
    history = 5

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings
        self.backbone = EfficientNetLite(width=0.25, depth=0.3)
        self.look = nn.ModuleList([nn.Conv2d(channels, WIDTH, 1) for channels in self.backbone.channels])
        self.value = nn.Conv2d(WIDTH + 1, WIDTH, 1)
        self.read = nn.Conv2d(3 * WIDTH, WIDTH, 3, padding=1)
        self.move = nn.Conv2d(2 * WIDTH, WIDTH, 1)
        self.deep = nn.Conv2d(2 * WIDTH, WIDTH, 1)
        self.head = nn.Conv2d(WIDTH, 1, 1)
        self.side = nn.Conv2d(WIDTH, 1, 1)
        self.nothing = nn.Parameter(torch.zeros(1))

    def encode(self, frames_BCHW: Tensor) -> Features:
        padded = pad_to_multiple(frames_BCHW, 32)
        size: Any = tuple(frames_BCHW.shape[-2:])
        whole: Any = tuple(padded.shape[-2:])
        levels = [look(level) for look, level in zip(self.look, self.backbone(padded), strict=True)]
        seen = torch.stack([F.interpolate(level, levels[0].shape[-2:]) for level in levels]).sum(0)
        return Features({"seen": seen}, size, whole)

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
        seen = features.maps["seen"]
        masks = features.fit(masks_BNHW, seen.shape[-2:])[:, :, None].to(seen.dtype)
        value = _each(self.value, torch.cat([_wide(seen, masks), masks], 2))
        state = self._state(memory, value)
        if bool(given_BN.any()):
            state = state + _each(self.deep, torch.cat([value, state], 2)).tanh()
        entry = Entry(value, {"seen": seen}, valid_BN, given_BN, valid_BN.new_ones(len(valid_BN)))
        return replace(memory.add(index, entry), state={"state": state})

    def segment(self, memory: Memory, features: Features, *, remembered: bool = False) -> tuple[Prediction, Memory]:
        seen = features.maps["seen"]
        value = torch.stack([e.per_object * e.valid_BN[..., None, None, None] for e in memory.frames.values()]).mean(0)
        state = self._state(memory, value)
        out = _each(self.read, torch.cat([_wide(seen, value), value, state], 2)).relu()
        state = (state + _each(self.move, torch.cat([out, state], 2))).tanh()
        valid = torch.stack([e.valid_BN for e in memory.frames.values()]).any(0)[..., None, None]
        logits, aux = (self._logits(_each(head, x)[:, :, 0], valid) for head, x in ((self.head, out), (self.side, state)))
        small = F.avg_pool2d(aux, 2)
        made = Prediction(
            logits, 1, features.size, features.padded, aux={"sensory": small, "queries": torch.stack([small] * 2, 1)}
        )
        return made, replace(memory, state={"state": state})

    def _logits(self, objects_BNHW: Tensor, valid: Tensor) -> Tensor:
        ground = self.nothing.expand(len(objects_BNHW), 1, *objects_BNHW.shape[2:])
        return torch.cat([ground, objects_BNHW.masked_fill(~valid, UNKNOWN)], 1)

    def _state(self, memory: Memory, value: Tensor) -> Tensor:
        return memory.state.get("state", torch.zeros_like(value))


def _wide(seen: Tensor, like: Tensor) -> Tensor:
    return seen[:, None].expand(-1, like.shape[1], -1, -1, -1)


def _each(layer: nn.Module, x_BNCHW: Tensor) -> Tensor:
    out: Tensor = layer(x_BNCHW.flatten(0, 1))
    return out.unflatten(0, x_BNCHW.shape[:2])

"""A small HODOR and small moving pictures, so that the tests of the network side take seconds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_rules import frames
from torch import Tensor

from hodor.data.clip import Clip
from hodor.models.backbones import BACKBONES, EfficientNetLite
from hodor.models.hodor import HODOR

SETTINGS: dict[str, Any] = {
    "backbone": "tiny",
    "width": 32,
    "heads": 4,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "dropout": 0.0,
}


def add_backbone(patch: pytest.MonkeyPatch) -> None:
    """Let "tiny" name an EfficientNet-Lite of a quarter of the width, while the patch holds."""
    patch.setitem(BACKBONES, "tiny", lambda: EfficientNetLite(width=0.25, depth=0.3))


def network(seed: int = 0, **changes: Any) -> HODOR:
    """An untrained HODOR of 0.2 M weights, without dropout by default. Descriptors have larger weights than at the start of
    training, so that every object wins some pixels."""
    torch.manual_seed(seed)
    with pytest.MonkeyPatch.context() as patch:
        add_backbone(patch)
        made = HODOR(**{**SETTINGS, **changes})
    if not made.barebones and not made.settings["start_pooled"]:
        torch.nn.init.normal_(made.decoder.object_proj.weight, std=0.5)
        torch.nn.init.normal_(made.decoder.cell_proj.weight, std=0.3)
    made.size = 64
    return made


def pictures(count: int, size: tuple[int, int] = (64, 96), phase: float = 0.0) -> Tensor:
    """Moving waves, float [count, 3, H, W] in [0, 1]."""
    return frames(phase, T=count, H=size[0], W=size[1])


def planes(size: tuple[int, int] = (64, 96), shift: int = 0) -> Tensor:
    """Two rectangles, float [2, H, W]."""
    height, width = size
    out = torch.zeros(2, height, width)
    out[0, height // 8 : height // 2, width // 8 + shift : width // 2 - 4 + shift] = 1
    out[1, height // 3 : height - 6, width // 2 + shift : width - 12 + shift] = 1
    return out


def clip(batch: int = 2, length: int = 3, size: tuple[int, int] = (64, 96)) -> Clip:
    """`batch` clips of `length` frames with two objects each that move to the right."""
    images = torch.stack([pictures(length, size, phase=float(b)) for b in range(batch)])
    masks = torch.stack([planes(size, shift=2 * t) for t in range(length)]).expand(batch, -1, -1, -1, -1)
    return Clip(
        images,
        masks.clone(),
        torch.ones(batch, length, dtype=torch.bool),
        torch.ones(batch, 2, dtype=torch.bool),
        torch.ones(batch, length, *size, dtype=torch.bool),
    )

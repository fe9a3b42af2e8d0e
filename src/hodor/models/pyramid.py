"""Feature pyramid network: adds coarse maps to finer ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class FPN(nn.Module):
    """Computes maps of equal width at the finest strides (4 and 8 by default) from maps at strides 4, 8, 16 and 32.

    1 x 1 laterals, upsampling and addition from coarse to fine, then a 3 x 3 convolution; all with bias, none with norm or
    activation (as in mmdetection).

    Args:
        channels: of the input maps.
        width: channels of the outputs.
        smooth: for each output, whether it has its 3 x 3 convolution. Default: two outputs, both with it.
        upsampling: "nearest", or "bilinear" (corners not aligned). Default: "nearest".
    """

    def __init__(
        self, channels: Sequence[int], width: int, smooth: Sequence[bool] = (True, True), upsampling: str = "nearest"
    ) -> None:
        super().__init__()
        self.upsampling = upsampling
        self.lateral_convs = nn.ModuleList(Named(nn.Conv2d(c, width, 1)) for c in channels)
        self.fpn_convs = nn.ModuleList(Named(nn.Conv2d(width, width, 3, padding=1)) if s else nn.Identity() for s in smooth)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        levels = [lateral(m) for lateral, m in zip(self.lateral_convs, maps, strict=True)]
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + F.interpolate(levels[i], size=levels[i - 1].shape[-2:], mode=self.upsampling)
        return [conv(level) for conv, level in zip(self.fpn_convs, levels, strict=False)]


class Named(nn.Module):
    """A convolution under the name `conv`, as in mmdetection's checkpoints."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out

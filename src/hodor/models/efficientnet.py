"""EfficientNet-Lite 0, 1 and 2 without their heads: small backbones for the CPU.

The Lite family is EfficientNet (Tan and Le, 2019) without squeeze-and-excitation and with ReLU6 in place of swish. The public
weights were trained in TensorFlow, so convolutions pad by its SAME rule, computed from the size of the input.
"""

import math
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from hodor.models.layers import Backbone, Depthwise, StoredNorm


class Stage(NamedTuple):
    """A run of inverted residual blocks; the first one has the stride.

    Attributes:
        kernel: size of the depthwise kernel.
        stride: stride of the first block.
        expand: factor of the expansion.
        channels: output channels.
        repeats: number of blocks.
    """

    kernel: int
    stride: int
    expand: int
    channels: int
    repeats: int


STEM = 32
STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)
TAPS = (1, 2, 4, 6)  # the last stage at each of the strides 4, 8, 16, 32


def scale_stages(width: float, depth: float) -> tuple[Stage, ...]:
    """Scale `STAGES`; the Lite family keeps the repeats of the first and the last stage.

    Args:
        width: factor of the channels, which are rounded to a multiple of 8, at most 10 % down.
        depth: factor of the repeats, which are rounded up.
    """
    scaled = []
    for i, stage in enumerate(STAGES):
        channels = max(8, int(stage.channels * width + 4) // 8 * 8)
        if channels < 0.9 * stage.channels * width:
            channels += 8
        repeats = stage.repeats if i in (0, len(STAGES) - 1) else math.ceil(stage.repeats * depth)
        scaled.append(stage._replace(channels=channels, repeats=repeats))
    return tuple(scaled)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Compute the padding (before, after) of an axis by TensorFlow's SAME rule: ceil(size / stride) outputs, odd cell after."""
    total = max(kernel - stride + -size % stride, 0)
    return total // 2, total - total // 2


class ConvNorm(nn.Module):
    """Convolution with SAME padding, batch norm, and ReLU6 unless `linear`."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, linear: bool = False):
        super().__init__()
        # at stride 1 an odd kernel pads both sides equally; at stride 2 the padding depends on the size
        padding = kernel // 2 if stride == 1 else 0
        kind = Depthwise if groups > 1 else nn.Conv2d
        self.conv = kind(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="linear" if linear else "relu")
        self.norm = StoredNorm(outputs, eps=1e-3)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        if self.conv.stride[0] > 1:
            kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
            x = F.pad(x, same_padding(x.shape[-1], kernel, stride) + same_padding(x.shape[-2], kernel, stride))
        x = self.norm(self.conv(x))
        return x if self.linear else F.relu6(x, inplace=True)


class InvertedResidual(nn.Module):
    """1x1 expansion, k x k depthwise convolution, linear 1x1 projection; added to its input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int):
        super().__init__()
        inner = inputs * expand
        self.expand = ConvNorm(inputs, inner) if expand > 1 else nn.Identity()
        self.depthwise = ConvNorm(inner, inner, kernel, stride, groups=inner)
        self.project = ConvNorm(inner, outputs, linear=True)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return y + x if self.residual else y


class EfficientNetLite(Backbone):
    """EfficientNet-Lite: Lite0 has factors 1.0, 1.0; Lite1 1.0, 1.1; Lite2 1.1, 1.2.

    Args:
        width: factor of the channels. Default: 1.0.
        depth: factor of the repeats. Default: 1.0.
    """

    strides: tuple[int, ...] = (4, 8, 16, 32)
    mean = (127 / 255,) * 3
    std = (128 / 255,) * 3

    def __init__(self, width: float = 1.0, depth: float = 1.0):
        super().__init__()
        stages = scale_stages(width, depth)
        self.repeats = tuple(stage.repeats for stage in stages)
        self.taps = tuple(sum(self.repeats[: stage + 1]) - 1 for stage in TAPS)
        self.channels = tuple(stages[stage].channels for stage in TAPS)
        self.stem = ConvNorm(3, STEM, kernel=3, stride=2)
        blocks, inputs = [], STEM
        for stage in stages:
            for i in range(stage.repeats):
                stride = stage.stride if i == 0 else 1
                blocks.append(InvertedResidual(inputs, stage.channels, stage.kernel, stride, stage.expand))
                inputs = stage.channels
        self.blocks = nn.ModuleList(blocks)

    def _end(self, outputs: int) -> None:
        self.strides, self.channels, self.taps = (each[:outputs] for each in (self.strides, self.channels, self.taps))
        self.blocks = self.blocks[: self.taps[-1] + 1]

    def parts(self) -> list[list[nn.Module]]:
        ends = [0, *(tap + 1 for tap in self.taps)]
        groups: list[list[nn.Module]] = [list(self.blocks[a:b]) for a, b in pairwise(ends)]
        return [[self.stem, *groups[0]], *groups[1:]]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs = []
        x = self.stem(x)
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.taps:
                outputs.append(x)
        return tuple(outputs)

"""ResNets (He et al., 2016) without their classifier, with the parameter names of torchvision: 18, 50, and Detectron's."""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from hodor.models.layers import Backbone, FrozenNorm, StoredNorm


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1
    norm: type[nn.BatchNorm2d] = StoredNorm

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = self.norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = self.norm(width)
        self.downsample = shortcut(inputs, width, stride, self.norm)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.downsample(x), inplace=True)


class Bottleneck(nn.Module):
    """1x1 down, 3x3 (which has the stride), 1x1 up to four times the width, and a shortcut."""

    expansion = 4
    norm: type[nn.BatchNorm2d] = StoredNorm
    strides_first = False

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        first, second = (stride, 1) if self.strides_first else (1, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, first, bias=False)
        self.bn1 = self.norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, 1, bias=False)
        self.bn2 = self.norm(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = self.norm(4 * width)
        self.downsample = shortcut(inputs, 4 * width, stride, self.norm)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.downsample(x), inplace=True)


class DetectronBottleneck(Bottleneck):
    """The bottleneck of Detectron: the first 1x1 has the stride, and the batch norms are constants."""

    norm = FrozenNorm
    strides_first = True


def shortcut(inputs: int, outputs: int, stride: int, norm: type[nn.BatchNorm2d]) -> nn.Module:
    """Return the identity if the shapes agree, else a 1x1 convolution with batch norm."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))


class ResNet(Backbone):
    """ResNet with outputs at strides 4, 8, 16 and 32.

    Args:
        depth: 18 or 50.
        in_channels: channels of the input; above 3 for mask planes beside the image, as in value encoders. Default: 3.
        last_stage: whether there is the stage at stride 32. Default: True.
        conv_bias: whether every convolution has a bias, as in STCN's value encoder. Default: False.

    Raises:
        ValueError: "expected a depth of 18 or 50, got 34".
    """

    depths: ClassVar[dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]]] = {
        18: (BasicBlock, (2, 2, 2, 2)),
        50: (Bottleneck, (3, 4, 6, 3)),
    }

    def __init__(self, depth: int, in_channels: int = 3, last_stage: bool = True, conv_bias: bool = False):
        super().__init__()
        if depth not in self.depths:
            raise ValueError(f"expected a depth of {' or '.join(map(str, self.depths))}, got {depth}")
        block, repeats = self.depths[depth]
        stages = 4 if last_stage else 3
        self.strides = (4, 8, 16, 32)[:stages]
        self.channels = tuple(block.expansion * 64 * 2**i for i in range(stages))
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = block.norm(64)
        inputs = 64
        for i in range(stages):
            blocks: list[nn.Module] = []
            for j in range(repeats[i]):
                blocks.append(block(inputs, 64 * 2**i, 2 if i > 0 and j == 0 else 1))
                inputs = self.channels[i]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        for conv in [module for module in self.modules() if isinstance(module, nn.Conv2d)]:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            if conv_bias:
                conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels))

    def _end(self, outputs: int) -> None:
        for i in range(outputs, len(self.strides)):
            delattr(self, f"layer{i + 1}")
        self.strides, self.channels = self.strides[:outputs], self.channels[:outputs]

    def parts(self) -> list[list[nn.Module]]:
        layers = [self.get_submodule(f"layer{i + 1}") for i in range(len(self.strides))]
        return [[self.conv1, self.bn1, layers[0]], *([layer] for layer in layers[1:])]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 3, 2, 1)
        outputs = []
        for i in range(len(self.strides)):
            x = self.get_submodule(f"layer{i + 1}")(x)
            outputs.append(x)
        return tuple(outputs)


class DetectronResNet(ResNet):
    """The ResNet of Detectron and maskrcnn-benchmark, which Mask R-CNN's published weights are of.

    Other than `ResNet`: the stride of a stage is in its first 1x1 convolution, the batch norms are constants with an epsilon
    of 0, and the pixels are BGR in 0..255 minus their mean. The caller normalises RGB by `mean` and `std` as for any backbone.

    Args:
        depth: 50 or 101.

    Raises:
        ValueError: "expected a depth of 50 or 101, got 18".
    """

    mean = (122.7717 / 255, 115.9465 / 255, 102.9801 / 255)
    std = (1 / 255, 1 / 255, 1 / 255)
    depths: ClassVar[dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]]] = {
        50: (DetectronBottleneck, (3, 4, 6, 3)),
        101: (DetectronBottleneck, (3, 4, 23, 3)),
    }

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return super().forward(x.flip(1))

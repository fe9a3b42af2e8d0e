"""What STCN, XMem and Cutie are built from. B N C H W maps are one row an object; B C H W maps belong to the frame.

What depends on the frame only is worked out once for all objects: a convolution of the two kinds of maps side by side is
the sum of a convolution of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hodor.models.backbones import BACKBONES
from hodor.models.base import Memory, Network
from hodor.models.layers import Backbone, double, exactly
from hodor.models.matching import others, settle
from hodor.models.resnet import ResNet


def pad_around(frames_BCHW: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """Zeros on all sides, so that both lengths divide by `multiple`; an odd row or column goes to the bottom or the right.
    -> padded frames, rows above and columns left of the frame (`Features.offset`)."""
    down, right = -frames_BCHW.shape[-2] % multiple, -frames_BCHW.shape[-1] % multiple
    padded = F.pad(frames_BCHW, (right // 2, right - right // 2, down // 2, down - down // 2))
    return padded, (down // 2, right // 2)


class PixelMemory(Network):
    """What STCN, XMem and Cutie have in common: a backbone that ends at stride 16 (`last`), a predicted frame remembered every
    `mem_every`, masks that compete where they are put together.

    Raises ValueError: "no backbone 'x': want swin-t, ...".
    """

    hold_lost = False
    sees_given = False

    def __init__(self, backbone: str, mem_every: int, last: int = 16) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"no backbone {backbone!r}: want {', '.join(BACKBONES)}")
        self.mem_every = mem_every
        self.backbone = BACKBONES[backbone]()
        if last != self.backbone.strides[-1]:
            self.backbone.until(last)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(self.backbone, name)).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def normalised(self, frames_BCHW: Tensor) -> Tensor:
        """RGB in [0, 1] -> as the backbone takes it."""
        return (frames_BCHW - self.get_buffer("mean")) / self.get_buffer("std")

    def due(self, memory: Memory, index: int) -> bool:
        return index - max(memory.frames, default=-self.mem_every) >= self.mem_every

    def settle(self, masks_BNHW: Tensor) -> Tensor:
        """Masks compete: softmax of their aggregated logits, as the released engines take given masks in."""
        return settle(masks_BNHW)


class Levels(nn.ModuleList):
    """The maps of a backbone at strides 4, 8 and 16, each normalised by a GroupNorm of one group, or, not normed, as they are.
    A fourth map, of stride 32, is normalised likewise, brought to the third one's width by a 1x1 convolution that begins at
    zero, and added to it (as in a feature pyramid; Lin et al., 2017): cells then know more of what surrounds them.

    ResNets end their stages with a ReLU behind a norm; the linear bottlenecks of EfficientNet-Lite leave maps ten times as
    large, on which blocks that begin at random send gradients hundreds of times as long.
    """

    def __init__(self, channels: Sequence[int], normed: bool) -> None:
        norms: list[nn.Module] = [nn.GroupNorm(1, c) if normed else nn.Identity() for c in channels]
        if len(channels) > 3:
            context = nn.Conv2d(channels[3], channels[2], 1)
            nn.init.zeros_(context.weight)
            nn.init.zeros_(context.bias)  # type: ignore[arg-type]
            norms[3] = nn.Sequential(norms[3], context)
        super().__init__(norms)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        fine, middle, coarse, *deepest = (norm(x) for norm, x in zip(self, maps, strict=True))
        for x in deepest:
            coarse = coarse + F.interpolate(x, size=coarse.shape[-2:], mode="bilinear", align_corners=False)
        return fine, middle, coarse


def joined(conv: nn.Conv2d, own_BNCHW: Tensor, frame_BCHW: Tensor, frame_first: bool = False) -> Tensor:
    """conv(cat[own, frame]) (cat[frame, own] with frame_first) -> B N C H W, the frame's part worked out once."""
    width = own_BNCHW.shape[2]
    if frame_first:
        of_frame, of_own = conv.weight[:, :-width], conv.weight[:, -width:]
    else:
        of_frame, of_own = conv.weight[:, width:], conv.weight[:, :width]
    common_BCHW = F.conv2d(frame_BCHW, of_frame, conv.bias, conv.stride, conv.padding)
    own = F.conv2d(own_BNCHW.flatten(0, 1), of_own, None, conv.stride, conv.padding)
    return rows(own, own_BNCHW) + common_BCHW[:, None]


def rows(maps: Tensor, like_BNCHW: Tensor) -> Tensor:
    """Maps B*N C H W -> B N C H W."""
    return maps.view(*like_BNCHW.shape[:2], *maps.shape[1:])


class ResBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3x3; where the width changes a 3x3 convolution takes x there."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.skip(x) + self.conv2(F.relu(self.conv1(F.relu(x))))
        return out

    def joined(self, own_BNCHW: Tensor, frame_BCHW: Tensor, frame_first: bool = False) -> Tensor:
        """The block of cat[own, frame] (cat[frame, own] with frame_first) -> B N C H W."""
        assert isinstance(self.skip, nn.Conv2d)
        y = joined(self.conv1, F.relu(own_BNCHW), F.relu(frame_BCHW), frame_first)
        y = rows(self.conv2(F.relu(y.flatten(0, 1))), own_BNCHW)
        return y + joined(self.skip, own_BNCHW, frame_BCHW, frame_first)


class Gates(nn.Module):
    """CBAM (Woo et al., 2018): x times a gate for each channel, then times a gate for each cell; both from mean and max."""

    def __init__(self, width: int, ratio: int = 16):
        super().__init__()
        self.channel = nn.Sequential(nn.Linear(width, width // ratio), nn.ReLU(), nn.Linear(width // ratio, width))
        self.cell = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        gate_BC = self.channel(x.mean((2, 3))) + self.channel(x.amax((2, 3)))
        x = x * gate_BC.sigmoid()[..., None, None]
        gate_B1HW = self.cell(torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1))
        out: Tensor = x * gate_B1HW.sigmoid()
        return out


class Fuser(nn.Module):
    """An object's map and the frame's -> one of `width`: a block, gates added to their own input, a block.

    The first block reads cat[own, frame], or cat[frame, own] with frame_first.
    """

    def __init__(self, own: int, frame: int, width: int, frame_first: bool = False):
        super().__init__()
        self.block1 = ResBlock(own + frame, width)
        self.gates = Gates(width)
        self.block2 = ResBlock(width, width)
        self.frame_first = frame_first

    def forward(self, own_BNCHW: Tensor, frame_BCHW: Tensor) -> Tensor:
        """-> B N C H W."""
        x = self.block1.joined(own_BNCHW, frame_BCHW, self.frame_first).flatten(0, 1)
        return rows(self.block2(x + self.gates(x)), own_BNCHW)


class Up(nn.Module):
    """A coarse map doubled, plus a 3x3 convolution of the frame's finer map (`side`, once a frame), through a block."""

    def __init__(self, fine: int, inputs: int, outputs: int):
        super().__init__()
        self.side = nn.Conv2d(fine, inputs, 3, padding=1)
        self.block = ResBlock(inputs, outputs)

    def forward(self, coarse_BNCHW: Tensor, side_BCHW: Tensor) -> Tensor:
        """side_BCHW: what `self.side` gave for the frame's map -> B N C 2H 2W."""
        x = rows(double(coarse_BNCHW.flatten(0, 1)), coarse_BNCHW) + side_BCHW[:, None]
        return rows(self.block(x.flatten(0, 1)), coarse_BNCHW)


class Keys(NamedTuple):
    """key: what a cell is matched by. shrinkage >= 1, one channel: how sharply it speaks. selection in [0, 1]: which channels
    count when it asks. The last two are None where a network has none."""

    key: Tensor
    shrinkage: Tensor | None = None
    selection: Tensor | None = None


class KeyProjection(nn.Module):
    """3x3 convolutions from a frame's map to `Keys`; shrinkage is x^2 + 1, selection a sigmoid (XMem). Never by autocast."""

    def __init__(self, inputs: int, width: int, shrinkage: bool = False, selection: bool = False):
        super().__init__()
        self.key = nn.Conv2d(inputs, width, 3, padding=1)
        self.shrinkage = nn.Conv2d(inputs, 1, 3, padding=1) if shrinkage else None
        self.selection = nn.Conv2d(inputs, width, 3, padding=1) if selection else None
        nn.init.orthogonal_(self.key.weight)
        assert self.key.bias is not None
        nn.init.zeros_(self.key.bias)

    def forward(self, x: Tensor) -> Keys:
        with exactly(x):
            x = x.to(self.key.weight.dtype)
            shrinkage = None if self.shrinkage is None else self.shrinkage(x).square() + 1
            return Keys(self.key(x), shrinkage, None if self.selection is None else self.selection(x).sigmoid())


class GatedState(nn.Module):
    """A convolutional GRU, XMem's and Cutie's: h' = f h (1 - u) + u n, the candidate n made from h before it is gated.

    Never by autocast: what it forgets would be rounded anew in every frame.
    """

    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.transform = nn.Conv2d(inputs + hidden, 3 * hidden, 3, padding=1)
        nn.init.xavier_normal_(self.transform.weight)

    def forward(self, seen_BNCHW: Tensor, state_BNCHW: Tensor) -> Tensor:
        """-> the next state, B N C H W."""
        with exactly(state_BNCHW):
            both = torch.cat([seen_BNCHW, state_BNCHW], 2).to(self.transform.weight.dtype)
            three = rows(self.transform(both.flatten(0, 1)), state_BNCHW)
            forget, update, new = three.chunk(3, 2)
            update = update.sigmoid()
            out: Tensor = forget.sigmoid() * state_BNCHW * (1 - update) + update * new.tanh()
            return out


class DecoderState(nn.Module):
    """The state moved on by what a decoder found at strides 16, 8 and 4: each to `middle` channels by 1x1 convolutions, the
    finer ones shrunk to stride 16 by area, their sum through a `GatedState`."""

    def __init__(self, channels: tuple[int, int, int], middle: int, hidden: int):
        super().__init__()
        self.from16, self.from8, self.from4 = (nn.Conv2d(c, middle, 1) for c in channels)
        self.gated = GatedState(middle, hidden)

    def forward(self, at16_BNCHW: Tensor, at8_BNCHW: Tensor, at4_BNCHW: Tensor, state_BNCHW: Tensor) -> Tensor:
        """-> the next state, B N C H W."""
        seen = self.from16(at16_BNCHW.flatten(0, 1))
        # a mean over whole blocks of cells: the map of stride 8 is exactly twice, of stride 4 four times as long
        seen = seen + self.from8(F.avg_pool2d(at8_BNCHW.flatten(0, 1), 2))
        seen = seen + self.from4(F.avg_pool2d(at4_BNCHW.flatten(0, 1), 4))
        out: Tensor = self.gated(rows(seen, at16_BNCHW), state_BNCHW)
        return out


class LightMaskEncoder(Backbone):
    """Four strided convolutions: a mask encoder for small networks, one output at stride 16 of `width` channels."""

    strides = (16,)

    def __init__(self, in_channels: int = 5, width: int = 128):
        super().__init__()
        layers: list[nn.Module] = []
        for outputs in (width // 8, width // 4, width // 2, width):
            layers += [nn.Conv2d(in_channels, outputs, 3, 2, 1), nn.GroupNorm(1, outputs), nn.ReLU()]
            in_channels = outputs
        self.layers = nn.Sequential(*layers)
        self.channels = (width,)

    def parts(self) -> list[list[nn.Module]]:
        return [[self.layers]]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.layers(x),)


def mask_encoder(kind: Literal["resnet18", "light"] | str, *, width: int = 128, conv_bias: bool = False) -> Backbone:
    """A picture, a mask and the other objects' masks (5 channels) -> maps; the last one, `channels[-1]` wide, has stride 16.

    "resnet18": 256 channels; conv_bias as STCN has it. "light": `width` channels.
    Raises ValueError: "mask encoder 'x' is not one of resnet18, light".
    """
    if kind == "resnet18":
        return ResNet(18, in_channels=5, last_stage=False, conv_bias=conv_bias)
    if kind == "light":
        return LightMaskEncoder(5, width)
    raise ValueError(f"mask encoder {kind!r} is not one of resnet18, light")


class ValueEncoder(nn.Module):
    """A frame and its objects' masks -> a value for each object and cell; STCN's and XMem's.

    masks: see `mask_encoder`; bias: of its convolutions. frame_first: see `Fuser`.
    """

    def __init__(self, masks: str, coarse: int, width: int, *, bias: bool = False, frame_first: bool = False) -> None:
        super().__init__()
        self.trunk = mask_encoder(masks, width=width, conv_bias=bias)
        self.fuser = Fuser(self.trunk.channels[-1], coarse, width, frame_first)

    def forward(self, picture_B3HW: Tensor, masks_BNHW: Tensor, coarse_BCHW: Tensor) -> Tensor:
        """-> B N C h w. An object sees its own mask and the sum of the others'."""
        both_BN2HW = torch.stack([masks_BNHW, others(masks_BNHW)], 2)
        seen = []
        for part in some(both_BN2HW):
            frame = picture_B3HW[:, None].expand(-1, part.shape[1], -1, -1, -1)
            seen.append(rows(self.trunk(torch.cat([frame, part], 2).flatten(0, 1))[-1], part))
        fused: Tensor = self.fuser(torch.cat(seen, 1), coarse_BCHW)
        return fused


def some(maps_BNCHW: Tensor) -> Iterator[Tensor]:
    """Where no gradients are wanted a few objects at a time: many need no more memory than few, and on a CPU one at a time is
    quicker, since its maps stay in the cache."""
    if torch.is_grad_enabled():
        return iter((maps_BNCHW,))
    return iter(maps_BNCHW.split(1 if maps_BNCHW.device.type == "cpu" else 8, 1))

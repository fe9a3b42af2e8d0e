"""Modules of STCN, XMem and Cutie. Maps B N C H W have one row an object; maps B C H W are of the frame.

What depends on the frame only is computed once for all objects: a convolution of the concatenation of both is the sum of a
convolution of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hodor.models.backbones import BACKBONES
from hodor.models.base import Memory, Network
from hodor.models.layers import Backbone, GroupNorm, double, exactly
from hodor.models.matching import others, settle
from hodor.models.resnet import ResNet


def pad_around(frames_BCHW: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """Pad frames with zeros on all sides; an odd row or column is added at the bottom or the right.

    Args:
        frames_BCHW: tensor [B, C, H, W].
        multiple: number of pixels by which both sides of the result divide.

    Returns:
        The padded frames, and the rows above and the columns left of the frame (`Features.offset`).
    """
    down, right = -frames_BCHW.shape[-2] % multiple, -frames_BCHW.shape[-1] % multiple
    padded = F.pad(frames_BCHW, (right // 2, right - right // 2, down // 2, down - down // 2))
    return padded, (down // 2, right // 2)


class PixelMemory(Network):
    """Base class of STCN, XMem and Cutie.

    Args:
        backbone: name in `BACKBONES`.
        mem_every: number of frames from one remembered prediction to the next.
        last: stride at which the backbone ends. Default: 16.

    Raises:
        ValueError: "expected a backbone (swin-t, ...), got 'x'".
    """

    hold_lost = False
    sees_given = False

    def __init__(self, backbone: str, mem_every: int, last: int = 16) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"expected a backbone ({', '.join(BACKBONES)}), got {backbone!r}")
        self.mem_every = mem_every
        self.backbone = BACKBONES[backbone]()
        if last != self.backbone.strides[-1]:
            self.backbone.until(last)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(self.backbone, name)).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def normalised(self, frames_BCHW: Tensor) -> Tensor:
        """Normalise RGB in [0, 1] for the backbone."""
        return (frames_BCHW - self.get_buffer("mean")) / self.get_buffer("std")

    def due(self, memory: Memory, index: int) -> bool:
        return index - max(memory.frames, default=-self.mem_every) >= self.mem_every

    def settle(self, masks_BNHW: Tensor) -> Tensor:
        """Return the softmax of the masks' aggregated logits, as the released engines do with given masks."""
        return settle(masks_BNHW)


class Levels(nn.ModuleList):
    """The maps of a backbone at strides 4, 8 and 16, normalised by a GroupNorm of one group or as they are.

    A fourth map, of stride 32, is normalised in the same way, projected to the width of the third by a 1x1 convolution that
    begins at zero, and added to it (as in a feature pyramid; Lin et al., 2017). Cells then have a larger receptive field.

    ResNets end their stages with a norm and a ReLU. The linear bottlenecks of EfficientNet-Lite give values ten times as large,
    from which randomly initialised blocks get gradients hundreds of times as large.

    Args:
        channels: of the backbone's maps, three or four.
        normed: whether to normalise them.
    """

    def __init__(self, channels: Sequence[int], normed: bool) -> None:
        norms: list[nn.Module] = [GroupNorm(1, c) if normed else nn.Identity() for c in channels]
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
    """Compute conv(cat[own, frame]), [B, N, C, H, W], with the frame's part computed once.

    Args:
        conv: the convolution of all channels.
        own_BNCHW: maps of the objects.
        frame_BCHW: map of the frame.
        frame_first: whether to compute conv(cat[frame, own]) instead. Default: False.
    """
    width = own_BNCHW.shape[2]
    if frame_first:
        of_frame, of_own = conv.weight[:, :-width], conv.weight[:, -width:]
    else:
        of_frame, of_own = conv.weight[:, width:], conv.weight[:, :width]
    common_BCHW = F.conv2d(frame_BCHW, of_frame, conv.bias, conv.stride, conv.padding)
    own = F.conv2d(own_BNCHW.flatten(0, 1), of_own, None, conv.stride, conv.padding)
    return rows(own, own_BNCHW) + common_BCHW[:, None]


def rows(maps: Tensor, like_BNCHW: Tensor) -> Tensor:
    """Reshape maps [B*N, C, H, W] to [B, N, C, H, W]."""
    return maps.view(*like_BNCHW.shape[:2], *maps.shape[1:])


class ResBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3x3; if the width changes, x is projected by a 3x3 convolution."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.skip(x) + self.conv2(F.relu(self.conv1(F.relu(x))))
        return out

    def joined(self, own_BNCHW: Tensor, frame_BCHW: Tensor, frame_first: bool = False) -> Tensor:
        """The block of cat[own, frame], or of cat[frame, own] with frame_first: [B, N, C, H, W]."""
        assert isinstance(self.skip, nn.Conv2d)
        y = joined(self.conv1, F.relu(own_BNCHW), F.relu(frame_BCHW), frame_first)
        y = rows(self.conv2(F.relu(y.flatten(0, 1))), own_BNCHW)
        return y + joined(self.skip, own_BNCHW, frame_BCHW, frame_first)


class Gates(nn.Module):
    """CBAM (Woo et al., 2018): multiplies x by a gate for each channel, then for each cell, both from mean and maximum."""

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
    """Fuses an object's map with the frame's: a block, gates added to their own input, a block.

    Args:
        own: channels of the object's map.
        frame: channels of the frame's map.
        width: channels of the result.
        frame_first: whether the first block reads cat[frame, own] instead of cat[own, frame]. Default: False.
    """

    def __init__(self, own: int, frame: int, width: int, frame_first: bool = False):
        super().__init__()
        self.block1 = ResBlock(own + frame, width)
        self.gates = Gates(width)
        self.block2 = ResBlock(width, width)
        self.frame_first = frame_first

    def forward(self, own_BNCHW: Tensor, frame_BCHW: Tensor) -> Tensor:
        """The fused maps, [B, N, C, H, W]."""
        x = self.block1.joined(own_BNCHW, frame_BCHW, self.frame_first).flatten(0, 1)
        return rows(self.block2(x + self.gates(x)), own_BNCHW)


class Up(nn.Module):
    """Doubles a coarse map, adds a 3x3 convolution of the frame's finer map (`side`, once a frame), and applies a block."""

    def __init__(self, fine: int, inputs: int, outputs: int):
        super().__init__()
        self.side = nn.Conv2d(fine, inputs, 3, padding=1)
        self.block = ResBlock(inputs, outputs)

    def forward(self, coarse_BNCHW: Tensor, side_BCHW: Tensor) -> Tensor:
        """The finer maps, [B, N, C, 2H, 2W]; `side_BCHW` is the output of `self.side` for the frame's map."""
        x = rows(double(coarse_BNCHW.flatten(0, 1)), coarse_BNCHW) + side_BCHW[:, None]
        return rows(self.block(x.flatten(0, 1)), coarse_BNCHW)


class Keys(NamedTuple):
    """The maps by which cells are matched; see `matching.similarity`.

    Attributes:
        key: B D H W, what is compared.
        shrinkage: B 1 H W, at least 1: how sharply a token of the memory is compared. None if the network has none.
        selection: B D H W in [0, 1]: the weights of the channels for a query cell. None if the network has none.
    """

    key: Tensor
    shrinkage: Tensor | None = None
    selection: Tensor | None = None

    def by_name(self) -> dict[str, Tensor]:
        """Return the maps that the network has, by name, contiguous, so that their cells can be flattened without a copy."""
        return {name: each.contiguous() for name, each in self._asdict().items() if each is not None}


class KeyProjection(nn.Module):
    """3x3 convolutions from a frame's map to `Keys`; shrinkage is x^2 + 1, selection a sigmoid (XMem). Not autocast.

    Args:
        inputs: channels of the frame's map.
        width: channels of key and selection.
        shrinkage: whether to compute shrinkage. Default: False.
        selection: whether to compute selection. Default: False.
    """

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
    """The convolutional GRU of XMem and Cutie: h' = f h (1 - u) + u n, with the candidate n computed from the ungated h.

    Not autocast, since the state would be rounded again on every frame.

    Args:
        inputs: channels of the input.
        hidden: channels of the state.
    """

    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.transform = nn.Conv2d(inputs + hidden, 3 * hidden, 3, padding=1)
        nn.init.xavier_normal_(self.transform.weight)

    def forward(self, seen_BNCHW: Tensor, state_BNCHW: Tensor) -> Tensor:
        """The next state, [B, N, C, H, W]."""
        with exactly(state_BNCHW):
            both = torch.cat([seen_BNCHW, state_BNCHW], 2).to(self.transform.weight.dtype)
            three = rows(self.transform(both.flatten(0, 1)), state_BNCHW)
            forget, update, new = three.chunk(3, 2)
            update = update.sigmoid()
            out: Tensor = forget.sigmoid() * state_BNCHW * (1 - update) + update * new.tanh()
            return out


class DecoderState(nn.Module):
    """Updates the state from a decoder's maps at strides 16, 8 and 4.

    1x1 convolutions project each map to `middle` channels, the finer ones are averaged to stride 16, and their sum is the input
    of a `GatedState`.

    Args:
        channels: of the maps at strides 16, 8 and 4.
        middle: channels of the sum.
        hidden: channels of the state.
    """

    def __init__(self, channels: tuple[int, int, int], middle: int, hidden: int):
        super().__init__()
        self.from16, self.from8, self.from4 = (nn.Conv2d(c, middle, 1) for c in channels)
        self.gated = GatedState(middle, hidden)

    def forward(self, at16_BNCHW: Tensor, at8_BNCHW: Tensor, at4_BNCHW: Tensor, state_BNCHW: Tensor) -> Tensor:
        """The next state, [B, N, C, H, W]."""
        seen = self.from16(at16_BNCHW.flatten(0, 1))
        # a mean over whole blocks of cells: the map of stride 8 is exactly twice, that of stride 4 four times as large
        seen = seen + self.from8(F.avg_pool2d(at8_BNCHW.flatten(0, 1), 2))
        seen = seen + self.from4(F.avg_pool2d(at4_BNCHW.flatten(0, 1), 4))
        out: Tensor = self.gated(rows(seen, at16_BNCHW), state_BNCHW)
        return out


class LightMaskEncoder(Backbone):
    """Four strided convolutions: a mask encoder for small networks, with one output at stride 16.

    Args:
        in_channels: channels of the input. Default: 5.
        width: channels of the output. Default: 128.
    """

    strides = (16,)

    def __init__(self, in_channels: int = 5, width: int = 128):
        super().__init__()
        layers: list[nn.Module] = []
        for outputs in (width // 8, width // 4, width // 2, width):
            layers += [nn.Conv2d(in_channels, outputs, 3, 2, 1), GroupNorm(1, outputs), nn.ReLU()]
            in_channels = outputs
        self.layers = nn.Sequential(*layers)
        self.channels = (width,)

    def parts(self) -> list[list[nn.Module]]:
        return [[self.layers]]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.layers(x),)


def mask_encoder(kind: Literal["resnet18", "light"] | str, *, width: int = 128, conv_bias: bool = False) -> Backbone:
    """Build a mask encoder: a frame, a mask and the other objects' masks (5 channels) in, the last output at stride 16.

    Args:
        kind: "resnet18" (256 channels) or "light" (`width` channels).
        width: channels of "light". Default: 128.
        conv_bias: whether the convolutions of "resnet18" have biases, as in STCN. Default: False.

    Raises:
        ValueError: "expected a mask encoder (resnet18, light), got 'x'".
    """
    if kind == "resnet18":
        return ResNet(18, in_channels=5, last_stage=False, conv_bias=conv_bias)
    if kind == "light":
        return LightMaskEncoder(5, width)
    raise ValueError(f"expected a mask encoder (resnet18, light), got {kind!r}")


class ValueEncoder(nn.Module):
    """The value encoder of STCN and XMem: computes a value for each object and cell from a frame and its objects' masks.

    Args:
        masks: name of the mask encoder, see `mask_encoder`.
        coarse: channels of the backbone's map at stride 16.
        width: channels of values.
        bias: whether the mask encoder's convolutions have biases. Default: False.
        frame_first: see `Fuser`. Default: False.
    """

    def __init__(self, masks: str, coarse: int, width: int, *, bias: bool = False, frame_first: bool = False) -> None:
        super().__init__()
        self.trunk = mask_encoder(masks, width=width, conv_bias=bias)
        self.fuser = Fuser(self.trunk.channels[-1], coarse, width, frame_first)

    def forward(self, frame_B3HW: Tensor, masks_BNHW: Tensor, coarse_BCHW: Tensor) -> Tensor:
        """Values [B, N, C, h, w]. The input of an object is its own mask and the sum of the others'."""
        both_BN2HW = torch.stack([masks_BNHW, others(masks_BNHW)], 2)
        seen = []
        for part in some(both_BN2HW):
            frame = frame_B3HW[:, None].expand(-1, part.shape[1], -1, -1, -1)
            seen.append(rows(self.trunk(torch.cat([frame, part], 2).flatten(0, 1))[-1], part))
        fused: Tensor = self.fuser(torch.cat(seen, 1), coarse_BCHW)
        return fused


def some(maps_BNCHW: Tensor) -> Iterator[Tensor]:
    """Split maps into a few objects at a time if no gradients are recorded, so that memory does not grow with their number.

    On a CPU one object at a time is faster, since its maps stay in the cache.
    """
    if torch.is_grad_enabled():
        return iter((maps_BNCHW,))
    return iter(maps_BNCHW.split(1 if maps_BNCHW.device.type == "cpu" else 8, 1))

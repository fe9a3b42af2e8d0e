"""The ONNX graphs of XMem and STCN; `hodor.models.onnx_graphs` describes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hodor.models.layers import double
from hodor.models.matching import aggregate
from hodor.models.memory_blocks import ResBlock
from hodor.models.onnx_parts import FRAME, Graph, Shape, after, as_map, cells, pair
from hodor.models.stcn import STCN
from hodor.models.xmem import XMem


class Split(nn.Module):
    """A convolution of own and frame's channels as two: `of_frame` once a frame, `of_own` for each object."""

    def __init__(self, conv: nn.Conv2d, own: int, frame_first: bool) -> None:
        super().__init__()
        weight = conv.weight.detach()
        frame_weight, own_weight = (weight[:, :-own], weight[:, -own:]) if frame_first else (weight[:, own:], weight[:, :own])
        self.frame_weight, self.own_weight = nn.Buffer(frame_weight.clone()), nn.Buffer(own_weight.clone())
        self.bias, self.padding = nn.Buffer(conv.bias.detach().clone()), conv.padding  # type: ignore[union-attr]

    def of_frame(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.frame_weight, self.bias, padding=self.padding)

    def of_own(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.own_weight, padding=self.padding)


class SplitBlock(nn.Module):
    """`ResBlock.joined`, its part of the frame computed before."""

    def __init__(self, block: ResBlock, own: int, frame_first: bool) -> None:
        super().__init__()
        assert isinstance(block.skip, nn.Conv2d)
        self.conv1, self.skip = Split(block.conv1, own, frame_first), Split(block.skip, own, frame_first)
        self.conv2 = block.conv2

    def of_frame(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv1.of_frame(F.relu(x)), self.skip.of_frame(x)

    def of_own(self, x: Tensor, inner: Tensor, skipped: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1.of_own(F.relu(x)) + inner))
        out: Tensor = y + (self.skip.of_own(x) + skipped)
        return out


class PixelEncode(nn.Module):
    """`encode` of XMem and STCN: also the decoder's convolutions of the frame, and those of its first block."""

    def __init__(self, network: XMem | STCN, first: SplitBlock) -> None:
        super().__init__()
        self.network, self.first = network, first

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        network = self.network
        image = network.normalised(frame)
        maps = network.backbone(image)
        fine, middle, coarse = network.levels(maps) if isinstance(network, XMem) else maps
        inner, skipped = self.first.of_frame(network.thin(coarse) if isinstance(network, STCN) else coarse)
        side8, side4 = network.decoder.up8.side(middle), network.decoder.up4.side(fine)
        return *pair(network.keys(coarse)), side8, side4, inner, skipped, coarse


class PixelSegment(nn.Module):
    """`segment` of XMem and STCN."""

    def __init__(self, network: XMem | STCN, first: SplitBlock) -> None:
        super().__init__()
        self.decoder, self.first = network.decoder, first
        self.fuser = network.decoder.fuser if isinstance(network, XMem) else None

    def forward(
        self, readout: Tensor, side8: Tensor, side4: Tensor, inner: Tensor, skipped: Tensor, hidden: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        decoder, own = self.decoder, as_map(readout, inner)
        x = self.first.of_own(own if hidden is None else torch.cat([own, hidden], 1), inner, skipped)
        if self.fuser is not None:
            x = self.fuser.block2(x + self.fuser.gates(x))
        at8 = decoder.up8.block(double(x) + side8)
        at4 = decoder.up4.block(double(at8) + side4)
        raw = decoder.head(F.relu(at4))
        soft = F.interpolate(raw, scale_factor=4.0, mode="bilinear", align_corners=False).sigmoid()
        logits = aggregate(soft[None, :, 0])[0]
        out = logits, logits.softmax(0)[1:]
        if hidden is None:
            return out
        maps = (x, at8, torch.cat([at4, raw], 1), hidden)
        return *out, decoder.state(*(each[None] for each in maps))[0]  # type: ignore[operator]


class PixelRemember(nn.Module):
    """`remember` of XMem and STCN. The frame's channels are repeated for each object: a sum of a convolution of the frame and
    one of the objects is merged wrongly by some engines."""

    def __init__(self, network: XMem | STCN) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, frame: Tensor, masks: Tensor, coarse: Tensor, is_valid: Tensor | None = None, hidden: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        network = self.network
        if is_valid is not None:
            masks = masks * is_valid[:, None, None]
        image = network.normalised(frame).expand(masks.shape[0], -1, -1, -1)
        others = masks.sum(0, keepdim=True) - masks
        seen = network.values.trunk(torch.cat([image, masks[:, None], others[:, None]], 1))[-1]
        fuser, common = network.values.fuser, coarse.expand(masks.shape[0], -1, -1, -1)
        x = fuser.block1(torch.cat([common, seen] if fuser.frame_first else [seen, common], 1))
        value = fuser.block2(x + fuser.gates(x))
        if hidden is None or is_valid is None or not isinstance(network, XMem):
            return (cells(value),)
        moved = network.deep(value[None], hidden[None])[0]
        return cells(value), torch.where(is_valid[:, None, None, None] > 0.5, moved, hidden)


def pixel_graphs(network: XMem | STCN) -> dict[str, Graph]:
    """Return the graphs of an XMem or an STCN by name."""
    decoder, half = network.decoder, network.decoder.head.in_channels
    width = network.values.fuser.block2.conv2.out_channels
    key = network.keys.key.out_channels
    state: dict[str, Shape] = {}
    valid: dict[str, Shape] = {}
    if isinstance(network, XMem):
        state, valid = {"hidden": ("N", network.sensory_width, "h", "w")}, {"is_valid": ("N",)}
        first = SplitBlock(network.decoder.fuser.block1, width + network.sensory_width, frame_first=True)
        cell: Shape = ("P", 2 * key + 1)
    else:
        first, cell = SplitBlock(network.decoder.compress, width, frame_first=False), ("P", key + 1)
    inner = first.conv2.out_channels
    maps: dict[str, Shape] = {
        "side8": (1, decoder.up8.side.out_channels, "2*h", "2*w"),
        "side4": (1, half, "4*h", "4*w"),
        "inner": (1, inner, "h", "w"),
        "skipped": (1, inner, "h", "w"),
    }
    frame_map: dict[str, Shape] = {"coarse": (1, network.backbone.channels[2], "h", "w")}
    masks: dict[str, Shape] = {"masks": ("N", "16*h", "16*w")}
    found: dict[str, Shape] = {"logits": ("N+1", "16*h", "16*w"), **masks}
    return {
        "encode": Graph(PixelEncode(network, first), FRAME, {"token": cell, "query": cell, **maps, **frame_map}),
        "segment": Graph(
            PixelSegment(network, first), {"readout": ("P", "N", width), **maps, **state}, {**found, **after(state)}
        ),
        "remember": Graph(
            PixelRemember(network),
            {**FRAME, **masks, **frame_map, **valid, **state},
            {"values": ("P", "N", width), **after(state)},
        ),
    }

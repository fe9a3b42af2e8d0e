"""The parts of a network as modules with plain tensors in and out, which `hodor.onnx_export` writes as ONNX graphs.

    encode      frame --> what depends on the frame alone: maps, and the tokens and queries of its cells
    read        queries, tokens, values --> readout (`READ`, the same for all networks that have tokens)
    segment     readout or descriptors, state, maps --> logits, soft masks, next state
    remember    frame, maps, masks, state --> values or descriptors, next state

There is no batch axis: the first axis of a map is 1, N counts objects, P cells at stride 16, M tokens of the memory, and T
remembered frames. A token and a query are the two factors of `matching.similarity`, so that their product is the similarity.
Everything that takes decisions (what is remembered, kept and forgotten) is left to the caller; see `hodor.onnx_runtime`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hodor.models.attention import sine_positions
from hodor.models.base import Network
from hodor.models.cutie import Cutie
from hodor.models.cutie_transformer import others
from hodor.models.efficientnet import ConvNorm, EfficientNetLite, same_padding
from hodor.models.hodor import HODOR
from hodor.models.layers import double
from hodor.models.matching import aggregate
from hodor.models.memory_blocks import Keys, ResBlock
from hodor.models.prediction import Features
from hodor.models.readout import pool_hard, pool_soft
from hodor.models.resnet import ResNet
from hodor.models.stcn import STCN
from hodor.models.xmem import XMem

READ = """
<ir_version: 8, opset_import: ["" : 18]>
read (float[P, X] query, float[M, X] token, float[M, N, C] values) => (float[P, N, C] readout, float[M] use) {
  tokens = Transpose <perm = [1, 0]> (token)
  similarity = MatMul (query, tokens)
  count = Shape <start = 0, end = 1> (token)
  limit = Constant <value_ints = [TOP_K]> ()
  k = Min (count, limit)
  best, index = TopK <axis = -1, sorted = 0> (similarity, k)
  weight = Softmax <axis = -1> (best)
  flat = Constant <value_ints = [0, -1]> ()
  rows = Reshape (values, flat)
  picked = Gather <axis = 0> (rows, index)
  one = Constant <value_ints = [1]> ()
  weights = Unsqueeze (weight, one)
  mixed = MatMul (weights, picked)
  rest = Constant <value_ints = [-1]> ()
  width = Shape <start = 1> (values)
  shape = Concat <axis = 0> (rest, width)
  readout = Reshape (mixed, shape)
  none = ConstantOfShape (count)
  places = Reshape (index, rest)
  shares = Reshape (weight, rest)
  use = ScatterElements <axis = 0, reduction = "add"> (none, places, shares)
}
"""
"""The graph `read` in ONNX's text form: the mean of the values of the TOP_K most similar tokens, weighted by a softmax; and the
weight that each token had, summed over the queries."""


Shape = tuple[int | str, ...]
"""Sides of a tensor: a number, or a free size such as "N" or "4*h"."""


@dataclass(frozen=True)
class Graph:
    """A module and how its tensors are named.

    Args:
        module: the module; its forward takes and returns tensors in this order.
        inputs: name -> shape.
        outputs: the same of the outputs.
    """

    module: nn.Module
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]


def pair(keys: Keys) -> tuple[Tensor, Tensor]:
    """Return token and query of each cell, [P, X], whose products are `matching.similarity`."""
    key_PD = keys.key[0].flatten(1).t()
    scale = 1 / math.sqrt(int(keys.key.shape[1]))
    query_PD = key_PD * scale
    if keys.selection is None or keys.shrinkage is None:
        square_P1 = key_PD.square().sum(1, keepdim=True) * scale
        return torch.cat([2 * key_PD, -square_P1], 1), torch.cat([query_PD, torch.ones_like(square_P1)], 1)
    selection_PD = keys.selection[0].flatten(1).t()
    shrinkage_P1 = keys.shrinkage[0].flatten(1).t()
    token = torch.cat([2 * key_PD, -key_PD.square(), -torch.ones_like(shrinkage_P1)], 1) * shrinkage_P1
    weighted_PD = query_PD * selection_PD
    common_P1 = (weighted_PD * key_PD).sum(1, keepdim=True)
    return token, torch.cat([weighted_PD, selection_PD * scale, common_P1], 1)


def cells(map_NCHW: Tensor) -> Tensor:
    """Reshape maps of objects to cells, [P, N, C]."""
    return map_NCHW.flatten(2).permute(2, 0, 1)


def as_map(cells_PNC: Tensor, like: Tensor) -> Tensor:
    """Reshape cells to maps of objects, [N, C, H, W], with the size of another map."""
    return cells_PNC.permute(1, 2, 0).reshape(*cells_PNC.shape[1:], *like.shape[-2:])


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

    def forward(
        self, readout: Tensor, side8: Tensor, side4: Tensor, inner: Tensor, skipped: Tensor, hidden: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        decoder, own = self.decoder, as_map(readout, inner)
        x = self.first.of_own(own if hidden is None else torch.cat([own, hidden], 1), inner, skipped)
        if not isinstance(decoder.fuser if hidden is not None else None, type(None)):
            x = decoder.fuser.block2(x + decoder.fuser.gates(x))  # type: ignore[union-attr, operator]
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
        if hidden is None or is_valid is None:
            return (cells(value),)
        moved = network.deep(value[None], hidden[None])[0]  # type: ignore[union-attr, operator]
        return cells(value), torch.where(is_valid[:, None, None, None] > 0.5, moved, hidden)


class CutieEncode(nn.Module):
    """`encode` of Cutie; "common" is what the pixel fuser adds to each object's map."""

    def __init__(self, network: Cutie) -> None:
        super().__init__()
        self.network = network

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        network = self.network
        fine, middle, coarse = network.levels(network.backbone(network.normalised(frame)))
        token, query = pair(network.keys(network.key_reduce(coarse)))
        pixel = network.pixel(coarse)
        decoder = network.decoder
        return token, query, decoder.middle(middle), decoder.fine(fine), network.pixel_fuser.fuser.frame(pixel), pixel


class CutieSegment(nn.Module):
    """`segment` of Cutie."""

    def __init__(self, network: Cutie) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        readout: Tensor,
        same: Tensor,
        middle: Tensor,
        fine: Tensor,
        common: Tensor,
        sensory: Tensor,
        last_mask: Tensor,
        summaries: Tensor,
    ) -> tuple[Tensor, ...]:
        network, same_BNN = self.network, same[None] > 0.5
        own = torch.cat([sensory, last_mask[:, None], others(last_mask[None], same_BNN)[0][:, None]], 1)
        fuser = network.pixel_fuser.fuser
        x = fuser.object(network.pixel_fuser.state(own) + as_map(readout, common)) + common
        fused = fuser.block2(fuser.block1(x))
        valid_BN = last_mask[None].flatten(2).amax(2) > -1
        objects, _ = network.transformer(fused[None], summaries[None], same_BNN, valid_BN, False)
        objects = objects.reshape(1, *fused.shape)  # after `unflatten` the tracer takes the sizes for fixed
        raw, moved = network.decoder(objects, middle, fine, sensory[None])
        logits = aggregate(raw.sigmoid())
        masks = F.interpolate(logits, scale_factor=4.0, mode="bilinear", align_corners=False).softmax(1)[0, 1:]
        return logits[0], masks, moved[0], F.avg_pool2d(masks[:, None], 16)[:, 0]


class CutieRemember(nn.Module):
    """`remember` of Cutie."""

    def __init__(self, network: Cutie) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        frame: Tensor,
        masks: Tensor,
        pixel: Tensor,
        is_valid: Tensor,
        is_given: Tensor,
        sensory: Tensor,
        summaries: Tensor,
        given: Tensor,
    ) -> tuple[Tensor, ...]:
        network = self.network
        image = network.normalised(frame)
        value, moved = network.mask_encoder(image, pixel, masks[None], sensory[None], True)
        last = F.avg_pool2d(masks[:, None], 16)[:, 0]
        summary = network.summarizer(last[None], value)[0] * is_valid[:, None, None]
        given = given + summary * is_given[:, None, None]
        summaries = torch.where(is_given[:, None, None] > 0.5, given, summaries + summary)
        sensory = torch.where(is_valid[:, None, None, None] > 0.5, moved[0], sensory)
        return cells(value[0]), sensory, last, summaries, given


class HodorEncode(nn.Module):
    """`encode` of HODOR."""

    def __init__(self, network: HODOR) -> None:
        super().__init__()
        self.network = network

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        network = self.network
        image = (frame - network.get_buffer("mean")) / network.get_buffer("std")
        fine, coarse = (norm(level) for norm, level in zip(network.norms, network.pyramid(network.backbone(image)), strict=True))
        if network.positions is not None:
            coarse = coarse + sine_positions(*coarse.shape[-2:], network.width, coarse.device) * network.positions.view(-1, 1, 1)
        return fine, coarse


class HodorSegment(nn.Module):
    """`segment` of HODOR."""

    def __init__(self, network: HODOR) -> None:
        super().__init__()
        self.network, self.backgrounds = network, int(network.catch_all) + network.grid**2

    def forward(
        self, fine: Tensor, coarse: Tensor, objects: Tensor, background: Tensor, is_valid: Tensor, is_complete: Tensor
    ) -> tuple[Tensor, ...]:
        features = Features({"fine": fine, "coarse": coarse}, (1, 1), (1, 1))
        logits = self.network._find(features, objects[None], background[None], is_valid[None] > 0.5, is_complete[None] > 0.5)
        return logits[0], logits[0].softmax(0)[self.backgrounds :]


class HodorRemember(nn.Module):
    """`remember` of HODOR, from masks of objects and of background cells at stride 8."""

    def __init__(self, network: HODOR) -> None:
        super().__init__()
        self.network = network

    def forward(self, coarse: Tensor, masks: Tensor, cells: Tensor, is_valid: Tensor) -> tuple[Tensor, ...]:
        network, count = self.network, self.network.grid**2
        masks_BMP = torch.cat([cells, masks])[None].flatten(2)
        pixels_BPD = coarse.flatten(2).transpose(1, 2)
        pool = pool_hard if network.pooling == "hard" else pool_soft
        valid_BM = torch.cat([torch.ones_like(is_valid[:1]).expand(count), is_valid])[None] > 0.5
        tokens = network.encoder(pool(pixels_BPD, masks_BMP, count), coarse, masks_BMP, valid_BM)
        return tokens[0, count:], tokens[0, :count]


class Even(nn.Module):
    """A strided `ConvNorm` of EfficientNet on maps with even sides: its padding does not depend on the size."""

    def __init__(self, layer: ConvNorm) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        conv = self.layer.conv
        x = self.layer.norm(conv(F.pad(x, same_padding(2, conv.kernel_size[0], conv.stride[0]) * 2)))
        return x if self.layer.linear else F.relu6(x)


def with_even_sides(backbone: nn.Module) -> None:
    """Replace the strided convolutions up to stride 16 of an EfficientNet by `Even`; frames have sides that 16 divides."""
    strided = [m for m in backbone.modules() if isinstance(m, ConvNorm) and m.conv.stride[0] > 1]
    for parent in list(backbone.modules()):
        for name, child in list(parent.named_children()):
            if any(child is each for each in strided[:4]):
                setattr(parent, name, Even(child))  # type: ignore[arg-type]


def graphs_of(network: Network) -> dict[str, Graph]:
    """Return the graphs of a network by name, without `read`. They share its weights.

    Args:
        network: a network in evaluation mode.

    Raises:
        ValueError: "expected a network of the kinds XMem, STCN, Cutie, HODOR, got Other: ...".
    """
    network = copy.deepcopy(network)
    with_even_sides(network.backbone)
    if isinstance(network, XMem | STCN):
        return _pixel_graphs(network)
    if isinstance(network, Cutie):
        return _cutie_graphs(network)
    if isinstance(network, HODOR):
        return _hodor_graphs(network)
    raise ValueError(
        f"expected a network of the kinds XMem, STCN, Cutie, HODOR, got {type(network).__name__}: "
        "write its graphs with torch.onnx.export"
    )


def about(network: Network) -> dict[str, Any]:
    """Return what a program must know of the network beside its graphs, as plain values; docs/onnx.md describes each."""
    facts: dict[str, Any] = {
        "model": network.name or type(network).__name__,
        "size": network.size,
        "history": network.history,
        "pin_first": network.pin_first,
        "hold_lost": network.hold_lost,
        "sees_given": network.sees_given,
    }
    if isinstance(network, XMem | STCN | Cutie):
        colour = [0.0, 0.0, 0.0] if isinstance(network, Cutie) else network.get_buffer("mean").flatten().tolist()
        facts |= {"multiple": 16, "pad": "around", "pad_colour": colour, "backgrounds": 1, "settles": True}
        facts |= {"mem_every": network.mem_every, "top_k": network.top_k, "keep": "latest", "state": []}
        facts["remember_moves_state"] = isinstance(network, XMem)
    if isinstance(network, XMem | Cutie):
        facts |= {"prototypes": network.prototypes, "max_prototypes": network.max_prototypes}
        facts["keep"] = "long_term" if isinstance(network, XMem) or network.max_prototypes else "fifo"
    if isinstance(network, XMem):
        facts["state"] = [{"name": "hidden", "shape": ["N", network.sensory_width, "h", "w"]}]
    if isinstance(network, Cutie):
        facts["state"] = [{"name": name, "shape": list(shape)} for name, shape in _cutie_state(network).items()]
    if isinstance(network, HODOR):
        backgrounds = int(network.catch_all) + network.grid**2
        facts |= {"multiple": 32, "pad": "end", "pad_colour": network.get_buffer("mean").flatten().tolist()}
        facts |= {"backgrounds": backgrounds, "settles": False, "mem_every": 1, "keep": "latest", "state": []}
        facts |= {"remember_moves_state": False, "grid": network.grid}
    return facts


def after(state: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return the outputs for a state: an output must not have the name of an input."""
    return {f"next_{name}": shape for name, shape in state.items()}


FRAME: dict[str, Shape] = {"frame": (1, 3, "16*h", "16*w")}


def _pixel_graphs(network: XMem | STCN) -> dict[str, Graph]:
    xmem = isinstance(network, XMem)
    decoder, half = network.decoder, network.decoder.head.in_channels
    block = decoder.fuser.block1 if xmem else decoder.compress  # type: ignore[union-attr]
    width = network.values.fuser.block2.conv2.out_channels
    own = width + (network.sensory_width if xmem else 0)  # type: ignore[operator]
    first = SplitBlock(block, own, xmem)  # type: ignore[arg-type]
    inner, coarse = block.conv2.out_channels, network.backbone.channels[2]  # type: ignore[union-attr]
    key = network.keys.key.out_channels
    cell, maps = ("P", 2 * key + 1 if xmem else key + 1), {
        "side8": (1, decoder.up8.side.out_channels, "2*h", "2*w"),
        "side4": (1, half, "4*h", "4*w"),
        "inner": (1, inner, "h", "w"),
        "skipped": (1, inner, "h", "w"),
    }  # fmt: skip
    state = {"hidden": ("N", network.sensory_width, "h", "w")} if xmem else {}  # type: ignore[dict-item]
    valid: dict[str, Shape] = {"is_valid": ("N",)} if xmem else {}
    frame_map = {"coarse": (1, coarse, "h", "w")}
    found = {"logits": ("N+1", "16*h", "16*w"), "masks": ("N", "16*h", "16*w")}
    masks = {"masks": ("N", "16*h", "16*w")}
    return {
        "encode": Graph(PixelEncode(network, first), FRAME, {"token": cell, "query": cell, **maps, **frame_map}),
        "segment": Graph(PixelSegment(network, first), {"readout": ("P", "N", width), **maps, **state}, {**found, **after(state)}),
        "remember": Graph(
            PixelRemember(network),
            {**FRAME, **masks, **frame_map, **valid, **state},
            {"values": ("P", "N", width), **after(state)},
        ),
    }


def _cutie_state(network: Cutie) -> dict[str, Shape]:
    width, summary = network.width, ("N", network.queries, network.width + 1)
    return {"sensory": ("N", width, "h", "w"), "last_mask": ("N", "h", "w"), "summaries": summary, "given": summary}


def _cutie_graphs(network: Cutie) -> dict[str, Graph]:
    width, state = network.width, _cutie_state(network)
    read: dict[str, Shape] = {"readout": ("P", "N", width)}
    cell: Shape = ("P", 2 * network.keys.key.out_channels + 1)
    maps: dict[str, Shape] = {
        "middle": (1, width, "2*h", "2*w"),
        "fine": (1, width // 2, "4*h", "4*w"),
        "common": (1, width, "h", "w"),
    }
    pixel: dict[str, Shape] = {"pixel": (1, width, "h", "w")}
    masks: dict[str, Shape] = {"masks": ("N", "16*h", "16*w")}
    flags: dict[str, Shape] = {"is_valid": ("N",), "is_given": ("N",)}
    moved = {name: state[name] for name in ("sensory", "last_mask")}
    of_segment = {name: state[name] for name in ("sensory", "last_mask", "summaries")}
    of_remember = {name: state[name] for name in ("sensory", "summaries", "given")}
    segment = Graph(
        CutieSegment(network),
        {**read, "same": ("N", "N"), **maps, **of_segment},
        {"logits": ("N+1", "4*h", "4*w"), **masks, **after(moved)},
    )
    remember = Graph(
        CutieRemember(network), {**FRAME, **masks, **pixel, **flags, **of_remember}, {"values": read["readout"], **after(state)}
    )
    encode = Graph(CutieEncode(network), FRAME, {"token": cell, "query": cell, **maps, **pixel})
    return {"encode": encode, "segment": segment, "remember": remember}


def _hodor_graphs(network: HODOR) -> dict[str, Graph]:
    for name, value, wanted in (("barebones", network.barebones, False), ("joint", network.joint, True)):
        if value is not wanted:
            raise ValueError(f"expected a HODOR with {name} {wanted}, got {value}: such ablations have no graphs")
    if not isinstance(network.backbone, ResNet | EfficientNetLite):
        kind = type(network.backbone).__name__
        raise ValueError(f"expected a backbone ResNet or EfficientNetLite, got {kind}: its windows need frames of one size")
    width, count = network.width, network.grid**2
    # a frame has sides that 32 divides
    frame: dict[str, Shape] = {"frame": (1, 3, "32*h", "32*w")}
    maps: dict[str, Shape] = {"fine": (1, width, "8*h", "8*w"), "coarse": (1, width, "4*h", "4*w")}
    memory: dict[str, Shape] = {
        "objects": ("T", "N", width),
        "background": ("T", count, width),
        "is_valid": ("T", "N"),
        "is_complete": ("T",),
    }
    channels = int(network.catch_all) + count
    masks: dict[str, Shape] = {"masks": ("N", "4*h", "4*w"), "cells": (count, "4*h", "4*w")}
    segment = Graph(
        HodorSegment(network),
        {**maps, **memory},
        {"logits": (f"N+{channels}", "8*h", "8*w"), "masks": ("N", "8*h", "8*w")},
    )
    remember = Graph(
        HodorRemember(network),
        {"coarse": maps["coarse"], **masks, "is_valid": ("N",)},
        {"objects": ("N", width), "background": (count, width)},
    )
    return {"encode": Graph(HodorEncode(network), frame, maps), "segment": segment, "remember": remember}

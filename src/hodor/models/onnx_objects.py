"""The ONNX graphs of Cutie and HODOR; `hodor.models.onnx_graphs` describes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hodor.models.cutie import Cutie
from hodor.models.cutie_transformer import others
from hodor.models.efficientnet import EfficientNetLite
from hodor.models.hodor import HODOR
from hodor.models.matching import aggregate
from hodor.models.onnx_parts import FRAME, Graph, Shape, after, as_map, cells, pair
from hodor.models.prediction import Features
from hodor.models.readout import pool_hard, pool_soft
from hodor.models.resnet import ResNet


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
        return network.levels((frame - network.get_buffer("mean")) / network.get_buffer("std"))


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


def cutie_state(network: Cutie) -> dict[str, Shape]:
    """Return the state of a Cutie: name -> shape."""
    width, summary = network.width, ("N", network.queries, network.width + 1)
    return {"sensory": ("N", width, "h", "w"), "last_mask": ("N", "h", "w"), "summaries": summary, "given": summary}


def cutie_graphs(network: Cutie) -> dict[str, Graph]:
    """Return the graphs of a Cutie by name."""
    width, state = network.width, cutie_state(network)
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


def hodor_graphs(network: HODOR) -> dict[str, Graph]:
    """Return the graphs of a HODOR by name.

    Args:
        network: a network of a ResNet or an EfficientNet-Lite.

    Raises:
        ValueError: "expected a HODOR with joint True, got False: ...", the same for `barebones`; "expected a backbone ResNet or
            EfficientNetLite, got SwinTiny: ...".
    """
    for name, value, expected in (("barebones", network.barebones, False), ("joint", network.joint, True)):
        if value is not expected:
            raise ValueError(f"expected a HODOR with {name} {expected}, got {value}: such ablations have no graphs")
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

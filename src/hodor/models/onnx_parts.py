"""What the ONNX graphs of all networks share; `hodor.models.onnx_graphs` describes the graphs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hodor.models.efficientnet import ConvNorm, same_padding
from hodor.models.memory_blocks import Keys

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


def after(state: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return the outputs for a state: an output must not have the name of an input."""
    return {f"next_{name}": shape for name, shape in state.items()}


FRAME: dict[str, Shape] = {"frame": (1, 3, "16*h", "16*w")}

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
from typing import Any

from hodor.models.base import Network
from hodor.models.cutie import Cutie
from hodor.models.hodor import HODOR
from hodor.models.onnx_objects import cutie_graphs, cutie_state, hodor_graphs
from hodor.models.onnx_parts import Graph, with_even_sides
from hodor.models.onnx_pixel import pixel_graphs
from hodor.models.stcn import STCN
from hodor.models.xmem import XMem


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
        return pixel_graphs(network)
    if isinstance(network, Cutie):
        return cutie_graphs(network)
    if isinstance(network, HODOR):
        return hodor_graphs(network)
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
        facts["state"] = [{"name": name, "shape": list(shape)} for name, shape in cutie_state(network).items()]
    if isinstance(network, HODOR):
        backgrounds = int(network.catch_all) + network.grid**2
        facts |= {"multiple": 32, "pad": "end", "pad_colour": network.get_buffer("mean").flatten().tolist()}
        facts |= {"backgrounds": backgrounds, "settles": False, "mem_every": 1, "keep": "latest", "state": []}
        facts |= {"remember_moves_state": False, "grid": network.grid}
    return facts

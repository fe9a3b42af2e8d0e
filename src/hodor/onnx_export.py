"""Write a network as ONNX graphs, for programs that run it without torch (see `hodor.onnx_runtime` and docs/onnx.md)."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hodor.masks import Labels
from hodor.models.base import Network
from hodor.models.onnx_graphs import about, graphs_of
from hodor.models.onnx_parts import READ, Graph, Shape
from hodor.models.weights import write_atomically
from hodor.tracking import Tracker
from hodor.video.source import Source

OPSET = 18
SIZES = {"h": 6, "w": 10, "N": 2, "T": 3}, {"h": 5, "w": 3, "N": 3, "T": 2}
"""Sizes with which the graphs are traced, and with which they are compared with torch."""
TOLERANCE = 1e-3
"""Largest difference between graph and torch, as a share of the largest value."""


def export(network: Network, folder: str | Path, *, check: bool = True) -> dict[str, Any]:
    """Write the graphs of a network and `network.json`, which describes them, their inputs, outputs and state.

    Args:
        network: a network from `hodor.load`, in float32 on the CPU.
        folder: folder to write; its files are replaced.
        check: whether each graph is compared with torch, at another size and number of objects than it was traced with.
            Default: True.

    Returns:
        The contents of `network.json`.

    Raises:
        ValueError: "expected the packages onnx and onnxruntime, got no onnx: ..."; "expected a network of the kinds XMem, STCN,
            Cutie, HODOR, got Other: ..."; "expected a network in float32 on the CPU, got bfloat16 on cpu: ...".
        ArithmeticError: "expected encode.onnx to compute what torch computes at the size 80x48, got ...".
    """
    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise ValueError(f"expected the packages onnx and onnxruntime, got no {package}: pip install 'hodor-vos[onnx]'")
    import onnx

    weight = next(network.parameters())
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        kind = str(weight.dtype).removeprefix("torch.")
        raise ValueError(f"expected a network in float32 on the CPU, got {kind} on {weight.device.type}: load it so")
    folder = Path(folder)
    graphs = graphs_of(network.eval())
    described: dict[str, Any] = {}
    for name, graph in graphs.items():
        model = onnx.load_from_string(_traced(graph))
        for value in model.graph.output:  # the tracer does not know all sides
            for side, length in zip(value.type.tensor_type.shape.dim, graph.outputs[value.name], strict=True):
                side.Clear()
                setattr(side, "dim_param" if isinstance(length, str) else "dim_value", length)
        onnx.checker.check_model(model)
        data = model.SerializeToString()
        if check:
            _compare(name, graph, data)
        described[name] = _described(f"{name}.onnx", graph.inputs, graph.outputs)
        write_atomically(folder / f"{name}.onnx", data)
    facts = about(network)
    if "top_k" in facts:
        read = onnx.parser.parse_model(READ.replace("TOP_K", str(facts["top_k"])))
        onnx.checker.check_model(read)
        write_atomically(folder / "read.onnx", read.SerializeToString())
        shapes = [{each.name: _shape(each) for each in side} for side in (read.graph.input, read.graph.output)]
        described["read"] = _described("read.onnx", *shapes)
    facts = {"format": 1, **facts, "graphs": described}
    write_atomically(folder / "network.json", (json.dumps(facts, indent=1) + "\n").encode())
    return facts


@dataclass(frozen=True)
class Agreement:
    """How a video is segmented by torch and by the graphs, each with one thread.

    Attributes:
        agreement: share of the pixels with the same label, for each frame after the given one.
        torch_seconds: CPU seconds of the process in `Tracker.track`, all frames together.
        onnx_seconds: the same in `OnnxTracker.track`.
    """

    agreement: tuple[float, ...]
    torch_seconds: float
    onnx_seconds: float


def agreement(
    network: Network,
    folder: str | Path,
    source: Source,
    labels: Labels,
    *,
    frames: int = 20,
    size: int | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Agreement:
    """Follow the objects of a video with torch and with the graphs, and compare the labels.

    Args:
        network: the network that was exported.
        folder: the folder of its graphs.
        source: the video.
        labels: ids given on its first frame, [H, W].
        frames: number of frames, the first included. Default: 20.
        size: short side of the frame inside the network, in pixels. Default: the network's own.
        progress: called with the number of frames so far. Default: nothing.

    Raises:
        ValueError: "expected a video of at least 2 frames, got 1".
    """
    from hodor.onnx_runtime import OnnxTracker

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    trackers: tuple[Any, ...] = Tracker(network, size=size), OnnxTracker(folder, size=size)
    seconds, shares = [0.0, 0.0], []
    try:
        for frame in source.frames(0, frames):
            found = []
            for which, tracker in enumerate(trackers):
                began = time.process_time()
                found.append(tracker.track(frame.image, labels if frame.index == 0 else None))
                seconds[which] += time.process_time() - began
            shares.append(float((found[0] == found[1]).mean()))
            progress(len(shares), frames)
    finally:
        torch.set_num_threads(threads)
    if len(shares) < 2:
        raise ValueError(f"expected a video of at least 2 frames, got {len(shares)}: give a longer one")
    return Agreement(tuple(shares[1:]), *seconds)


def _described(file: str, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]) -> dict[str, Any]:
    sides = {"inputs": inputs, "outputs": outputs}
    tensors = {s: [{"name": n, "type": "float32", "shape": list(x)} for n, x in side.items()] for s, side in sides.items()}
    return {"file": file, **tensors}


def _shape(value: Any) -> Shape:
    return tuple(side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim)


def _example(graph: Graph, sizes: Mapping[str, int], seed: int) -> dict[str, torch.Tensor]:
    """Random inputs of a graph in [0, 1], of these sizes."""
    random = torch.Generator().manual_seed(seed)
    known = {**sizes, "P": sizes["h"] * sizes["w"]}
    shapes = {name: [_side(side, known) for side in shape] for name, shape in graph.inputs.items()}
    return {
        name: torch.ones(shape) if name.startswith("is_") or name == "same" else torch.rand(shape, generator=random)
        for name, shape in shapes.items()
    }


def _side(side: int | str, sizes: Mapping[str, int]) -> int:
    if isinstance(side, int):
        return side
    factor, _, name = side.rpartition("*")
    return int(factor or 1) * sizes[name]


def _traced(graph: Graph) -> bytes:
    """The graph as ONNX.

    It is traced by the exporter that is built on TorchScript, which needs under half a second a graph and no further package.
    The one built on torch.export needs 2 to 11 s a graph. Torch warns that the former is not the default any more.
    """
    import tempfile

    free = {
        name: {axis: side for axis, side in enumerate(shape) if isinstance(side, str)}
        for name, shape in {**graph.inputs, **graph.outputs}.items()
    }
    example = _example(graph, SIZES[0], 0)
    # gradients are recorded, since the networks then process all objects at once; the weights themselves need none
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        path = os.path.join(place, "graph.onnx")
        torch.onnx.export(
            graph.module.eval(),
            tuple(example.values()),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes=free,
        )
        return Path(path).read_bytes()


def _compare(name: str, graph: Graph, data: bytes) -> None:
    """Raise ArithmeticError if a graph does not compute what torch does at sizes other than those of the trace."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for seed, sizes in enumerate(SIZES[::-1]):
        example = _example(graph, sizes, seed + 1)
        used = {each.name for each in session.get_inputs()}
        found = session.run(None, {key: value.numpy() for key, value in example.items() if key in used})
        with torch.no_grad():
            wanted = graph.module(*example.values())
        for output, mine, theirs in zip(graph.outputs, found, wanted, strict=True):
            expected = theirs.numpy()
            same = mine.shape == expected.shape
            error = np.abs(mine - expected).max() / max(np.abs(expected).max(), 1e-6) if same else np.inf
            if not error <= TOLERANCE:
                pixels = "x".join(str(_side(side, sizes)) for side in graph.inputs.get("frame", ("h", "w"))[-2:])
                got = f"a difference of {error:.1e}" if same else f"{list(mine.shape)} instead of {list(expected.shape)}"
                raise ArithmeticError(
                    f"expected {name}.onnx to compute what torch computes at the size {pixels}, got {got} in {output}: "
                    "report it with the versions of torch, onnx and onnxruntime"
                )

"""Compare every network on a GPU with the CPU, and measure its speed and memory there.

    python benchmarks/gpu.py --json gpu.json            # all networks, on examples/cup.mp4

For each network: largest difference of the soft masks from those of the CPU in float32 (of float32 without TF32, and of
bfloat16), share of pixels with the same label, frames a second with 1 and 5 objects (pictures in memory), peak memory of the
GPU, and the speed with torch.compile. Networks without bundled weights have random weights: their masks mean nothing, but
their numbers must agree too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hodor
from hodor.frames import open_source
from hodor.masks import read_labels
from hodor.models import weights

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = ("xmem-lite", "hodor-lite", "hodor-t", "stcn", "xmem", "cutie", "stcn-lite", "cutie-lite")
COMPARED = 12
"""Frames that are compared with the CPU."""


def file_of(name: str, folder: Path, checkpoint: Path | None) -> Path | str:
    """The bundled weights of a network, or a file of random ones."""
    if checkpoint and name == "xmem-lite":
        return checkpoint
    if name in weights.names():
        return name
    torch.manual_seed(0)
    weights.save(weights.build(name), folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


def follow(network: Any, frames: list[np.ndarray], labels: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Labels [H, W] and soft masks [N, H, W] of each frame."""
    tracker = hodor.Tracker(network)
    results = [tracker.step(frame, labels if i == 0 else None) for i, frame in enumerate(frames)]
    return [r.labels for r in results], [np.asarray(r.soft()) for r in results[1:]]


def speed(network: Any, frames: list[np.ndarray], labels: np.ndarray, rounds: int) -> float:
    """Median frames a second over the frames after the first ten."""
    tracker, times = hodor.Tracker(network), []
    for i in range(rounds):
        torch.cuda.synchronize()
        began = time.perf_counter()
        _ = tracker.step(frames[i % len(frames)], labels if i == 0 else None).labels
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 1 / float(np.median(times[10:]))


def many(labels: np.ndarray, count: int) -> np.ndarray:
    """Vertical stripes of the picture as `count` objects."""
    height, width = labels.shape
    stripes = np.zeros_like(labels)
    for i in range(count):
        stripes[height // 4 : height * 3 // 4, width * i // count + 4 : width * (i + 1) // count - 4] = i + 1
    return stripes


def measure(name: str, folder: Path, frames: list[np.ndarray], labels: np.ndarray, options: Any) -> dict[str, Any]:
    """All figures of one network."""
    file = file_of(name, folder, options.checkpoint)
    row: dict[str, Any] = {"network": name}
    expected, expected_soft = follow(weights.ready(file, device="cpu", dtype="float32"), frames[:COMPARED], labels)
    for dtype in ("float32", "bfloat16"):
        network = weights.ready(file, device="cuda", dtype=dtype)
        found, soft = follow(network, frames[:COMPARED], labels)
        row[f"{dtype}_difference"] = max(float(np.abs(a - b).max()) for a, b in zip(soft, expected_soft, strict=True))
        row[f"{dtype}_same_labels"] = float(np.mean([np.mean(a == b) for a, b in zip(found, expected, strict=True)]))
        for count in (1, 5):
            torch.cuda.reset_peak_memory_stats()
            row[f"{dtype}_fps_{count}"] = speed(network, frames, many(labels, count), options.rounds)
            row[f"{dtype}_mb_{count}"] = torch.cuda.max_memory_allocated() / 2**20
    if options.compile:
        network = weights.ready(file, device="cuda", dtype="bfloat16")
        for part in ("backbone", "pyramid", "encoder", "decoder"):
            if isinstance(module := getattr(network, part, None), torch.nn.Module):
                module.compile()
        try:
            row["compiled_fps_1"] = speed(network, frames, many(labels, 1), options.rounds)
        except Exception as error:  # a compiler that is missing is a result too
            row["compiled_fps_1"] = str(error).splitlines()[0][:80]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--checkpoint", type=Path, help="a file to use instead of the bundled xmem-lite")
    parser.add_argument("--rounds", type=int, default=60, help="frames that are timed, with those of the warm-up")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with open_source(ROOT / "examples" / "cup.mp4") as source:
        frames = [frame.image for frame in source.frames(0, 40)]
    labels = read_labels(ROOT / "examples" / "cup.png")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            try:
                rows.append(measure(name, Path(folder), frames, labels, options))
            except Exception as error:
                rows.append({"network": name, "error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"})
            print(json.dumps(rows[-1]), flush=True)
    about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rounds": options.rounds}
    if options.json:
        options.json.write_text(json.dumps({**about, "networks": rows}, indent=1))


if __name__ == "__main__":
    main()

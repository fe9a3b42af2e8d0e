"""Measure training: clips a second, share of the machine's peak, share of time spent waiting for data, and peak memory.

    python benchmarks/training.py --models hodor-lite --size 256 448            # one case
    python benchmarks/training.py --memory --device cuda                        # both HODOR models at 300,000 pixels, T = 3

Each case is a run of `train.run` on generated pictures, in its own process, so that peaks of memory do not add up. Steps are
timed one by one after two warm-up steps; the best and the median speed are reported. FLOPs are PyTorch's count for one clip,
forward and backward. A multiply-add counts as two; recomputed activations and the deformable sampling do not count. The peak
is the one that `hodor benchmark` measures.

Prints a JSON line for each case. Needs PyTorch, accelerate, Pillow and safetensors, but neither PyAV nor tyro.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from hodor import benchmark, train
from hodor.data.settings import Data
from hodor.masks import write_labels
from hodor.models import weights
from hodor.training import budget

WARM = 2


def main() -> None:
    options = parsed()
    if options.case:
        print(json.dumps(measure(**json.loads(options.case))))
        return
    if options.memory:
        options.size = [480, 640]
        modes = [(m, p, c) for m in ("hodor-lite", "hodor-t") for p in options.precision for c in (False, True)]
    else:
        modes = [(m, p, options.checkpoint) for m in options.models for p in options.precision]
    rows = []
    for model, precision, checkpoint in modes:
        case = {"model": model, "precision": precision, "checkpoint": checkpoint}
        shared = {k: getattr(options, k) for k in ("size", "frames", "batch", "steps", "workers", "objects", "device")}
        rows.append(run_in_process({**case, **shared}))
        print(json.dumps(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": benchmark.machine(), "rows": rows}, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["hodor-lite"], help="presets (default: hodor-lite)")
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--size", nargs=2, type=int, default=[256, 448], help="height and width of clips (default: 256 448)")
    parser.add_argument("--frames", type=int, default=3, help="frames of a clip (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="clips a step (default: %(default)s)")
    parser.add_argument("--objects", type=int, default=4, help="objects a clip (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=6, help="timed steps (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="threads that prepare clips (default: %(default)s)")
    parser.add_argument("--checkpoint", action="store_true", help="with activation checkpointing")
    parser.add_argument(
        "--memory", action="store_true", help="hodor-lite and hodor-t, with and without checkpointing, at 480x640"
    )
    parser.add_argument("--device", default="cpu", help="device of PyTorch (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures and the machine to this file")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser.parse_args()


def run_in_process(case: dict[str, Any]) -> dict[str, Any]:
    """Run one case in its own process; if it fails, for example out of memory, return the last line of its error output."""
    done = subprocess.run([sys.executable, __file__, "--case", json.dumps(case)], capture_output=True, text=True)
    if done.returncode:
        return {**case, "failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(
    model: str,
    precision: Any,
    checkpoint: bool,
    size: Sequence[int],
    frames: int,
    batch: int,
    steps: int,
    workers: int,
    objects: int,
    device: str,
) -> dict[str, Any]:
    """Train and return the figures of one case."""
    place = torch.device(device)
    with tempfile.TemporaryDirectory() as folder:
        root = write_pictures(Path(folder) / "pictures", (size[0], size[1]), objects)
        recipe = train.Recipe(
            model=model,
            data=data_of(root, (size[0], size[1]), objects),
            frames=frames,
            batch=batch,
            steps=steps + WARM,
            precision=precision,
            checkpoint=checkpoint,
            workers=workers,
            frozen=0 if model == "hodor-t" else 4,
            pictures_every=0,
            save_every=10**9,
        )
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        if place.type == "cuda":
            top = benchmark.peak_gflops(dtype, place)["mean"]
            torch.cuda.reset_peak_memory_stats(place)
        train.run(recipe, Path(folder) / "run", device=place)
        peak = torch.cuda.max_memory_allocated(place) if place.type == "cuda" else benchmark._peak_mb() * 2**20
        log = [json.loads(line) for line in (Path(folder) / "run" / "log.jsonl").read_text().splitlines()]
    seconds = step_seconds(log)
    flop = flop_of(replace(recipe, checkpoint=False), place)
    if place.type != "cuda":  # after the peak memory was read, which this would raise
        top = max(benchmark.peak_gflops(dtype, place)["mean"] for _ in range(3))
    best, middle = batch / min(seconds), batch / median(seconds)
    return {
        "model": model,
        "precision": precision,
        "checkpoint": checkpoint,
        "size": list(size),
        "frames": frames,
        "batch": batch,
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "clips_per_second": {"best": round(best, 4), "median": round(middle, 4)},
        "waiting": log[-1]["waiting"],
        "peak_memory_gib": round(peak / budget.GIB, 2),
        "gflop_per_clip": round(flop, 1),
        "peak_gflops": top,
        "share_of_peak": round(flop * best / top, 3),
    }


def step_seconds(log: Sequence[dict[str, Any]]) -> list[float]:
    """Return the time of each step after the warm-up, from the running means of the first `journal.WINDOW` steps."""
    ends = [line["seconds"] * (i + 1) for i, line in enumerate(log[:20])]
    return [after - before for before, after in pairwise(ends)][WARM - 1 :]


def flop_of(recipe: train.Recipe, device: torch.device) -> float:
    """Return the GFLOP of one clip, forward and backward."""
    network = weights.build(recipe.model)
    network.backbone.freeze(recipe.frozen)
    play = train.Play(network, replace(recipe, precision="float32")).to(device)
    size = recipe.data.size
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _conv_backward}) as counter:
        play(budget._waves(recipe.frames, recipe.data.max_objects, size).to(device), 0)[0].total.backward()
    return float(counter.get_total_flops()) / 1e9


def _conv_backward(grad: Sequence[int], x: Sequence[int], weight: Sequence[int], *rest: Any, **_: Any) -> int:
    """Count a convolution's backward pass: PyTorch's own count treats a depthwise convolution as a dense one."""
    needed = next(r for r in rest if isinstance(r, (list, tuple)) and len(r) == 3 and all(isinstance(v, bool) for v in r))
    return 2 * grad[0] * math.prod(grad[2:]) * math.prod(weight) * (needed[0] + needed[1])


def data_of(root: Path, size: tuple[int, int], objects: int) -> Data:
    """Return the settings of the training data: warped copies of the generated pictures."""
    return Data(root=(root,), motion="warp", size=size, max_objects=objects, count="any", min_area=100, min_side=8)


def write_pictures(root: Path, size: tuple[int, int], objects: int, count: int = 8) -> Path:
    """Write `count` pictures of plain discs on a texture, images/*.jpg and masks/*.png; return the folder."""
    (root / "images").mkdir(parents=True)
    height, width = size
    y, x = np.mgrid[:height, :width]
    for number in range(count):
        random = np.random.default_rng(number)
        coarse = random.integers(0, 255, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
        image = coarse.repeat(16, 0).repeat(16, 1)[:height, :width].copy()
        labels = np.zeros(size, np.uint8)
        for i in range(objects):
            radius = min(size) / 6
            centre = random.uniform(radius, height - radius), width * (i + 0.5) / objects
            inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
            labels[inside] = i + 1
            image[inside] = random.integers(0, 255, 3)
        Image.fromarray(image).save(root / "images" / f"{number}.jpg")
        write_labels(root / "masks" / f"{number}.png", labels)
    return root


if __name__ == "__main__":
    main()

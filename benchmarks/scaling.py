"""Samples a second against the number of processes: measured here, and worked out for other machines (docs/scale.md).

    python benchmarks/scaling.py --processes 1 2                       # this machine, one thread a process, gloo
    python benchmarks/scaling.py --model-only --step 0.4 --bandwidth 20e9 --processes 1 8 64

Measured: the same clips a process with 1, 2, ... processes by torchrun (weak scaling), and the all-reduce of the gradients by
itself. Worked out: clips/s = n b / (t + a(n)), with t the time of a step of b clips in one process and
a(n) = 2 (n - 1) / n * G / W, a ring's all-reduce of G gradient bytes at W bytes/s; no overlap with the backward pass, so
a lower bound.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import training

from hodor import train
from hodor.models import weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hodor-lite")
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--size", nargs=2, type=int, default=[128, 224])
    parser.add_argument("--batch", type=int, default=1, help="clips a process")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--step", type=float, help="seconds of a step in one process, for --model-only")
    parser.add_argument("--bandwidth", type=float, default=20e9, help="bytes a second, for --model-only")
    parser.add_argument("--model-only", action="store_true")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return
    size = gradient_bytes(options.model)
    print(json.dumps({"model": options.model, "gradient_bytes": size}))
    one: dict[str, Any] = {}
    for count in options.processes:
        if options.model_only:
            print(json.dumps(predicted(count, options.batch, options.step or 1.0, size, options.bandwidth)))
            continue
        found = measured(count, options)
        one = one or found
        # what one process needs, and the all-reduce as it was timed by itself
        told = options.batch * count / (one["seconds"] + found["all_reduce"])
        efficiency = found["clips_per_second"] / (count / one["processes"] * one["clips_per_second"])
        print(json.dumps({**found, "predicted": round(told, 3), "efficiency": round(efficiency, 3)}), flush=True)


def gradient_bytes(model: str) -> int:
    """What travels in a step: four bytes for every trained weight, with the preset's usual frozen part."""
    network = weights.build(model)
    network.backbone.freeze(0 if model == "hodor-t" else 4)
    return sum(p.nbytes for p in network.parameters() if p.requires_grad)


def predicted(count: int, batch: int, step: float, size: int, bandwidth: float) -> dict[str, float]:
    reduce = 2 * (count - 1) / count * size / bandwidth
    speed = batch * count / (step + reduce)
    return {"processes": count, "clips_per_second": round(speed, 2), "efficiency": round(step / (step + reduce), 4)}


def measured(count: int, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        training.write_pictures(Path(folder) / "pictures", (options.size[0], options.size[1]), 2)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", __file__]
        words = ["--worker", folder, "--model", options.model, "--batch", str(options.batch * count)]
        words += ["--steps", str(options.steps), "--device", options.device, "--size", *map(str, options.size)]
        environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        subprocess.run([*torchrun, *words], env=environment, check=True, stdout=sys.stderr)
        log = [json.loads(line) for line in (Path(folder) / "run" / "log.jsonl").read_text().splitlines()]
        reduce = float((Path(folder) / "reduce").read_text())
    seconds = min(training.step_seconds(log))
    return {
        "processes": count,
        "clips_per_second": round(options.batch * count / seconds, 3),
        "seconds": round(seconds, 4),
        "all_reduce": round(reduce, 4),
        "waiting": log[-1]["waiting"],
    }


def work(options: argparse.Namespace) -> None:
    """One process of torchrun's: a run, then the all-reduce by itself."""
    data = training.data_of(options.worker / "pictures", (options.size[0], options.size[1]), 2)
    steps = options.steps + training.WARM
    recipe = train.Recipe(
        model=options.model, data=data, steps=steps, batch=options.batch, workers=1, pictures_every=0, save_every=10**9
    )
    train.run(recipe, options.worker / "run", device=options.device)
    seconds = 0.0
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        gradients = torch.zeros(gradient_bytes(options.model) // 4, device=device)
        times = []
        for _ in range(5):
            began = time.perf_counter()
            torch.distributed.all_reduce(gradients)
            gradients[0].item()
            times.append(time.perf_counter() - began)
        seconds = median(times)
    if int(os.environ.get("RANK", "0")) == 0:
        (options.worker / "reduce").write_text(str(seconds))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

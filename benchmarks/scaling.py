"""Report clips a second against the number of processes: measured here, and computed for other machines (docs/scale.md).

    python benchmarks/scaling.py --processes 1 2                       # this machine, one thread a process, gloo
    python benchmarks/scaling.py --model-only --step 0.4 --bandwidth 20e9 --processes 1 8 64

The measurement trains with 1, 2, ... processes of torchrun and the same number of clips a process (weak scaling). It then
times the all-reduce of the gradients by itself.

The computed speed is clips/s = n b / (t + a(n)). Here n is the number of processes, t the time of a step of b clips in one
process, and a(n) = 2 (n - 1) / n * G / W the time of a ring all-reduce of G gradient bytes at W bytes/s. The all-reduce does
not overlap with the backward pass in this formula, so the result is a lower bound.

Prints JSON lines: the model and its gradient bytes, then a line for each number of processes. `efficiency` is the speed as a
share of linear scaling, for measured lines from the first one. A measured line also has `predicted`, the result of the
formula with the measured times.
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
    parser.add_argument("--model", default="hodor-lite", help="preset (default: %(default)s)")
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2], help="numbers of processes (default: 1 2)")
    parser.add_argument("--size", nargs=2, type=int, default=[128, 224], help="height and width of clips (default: 128 224)")
    parser.add_argument("--batch", type=int, default=1, help="clips a process (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="timed steps (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="device of PyTorch (default: %(default)s)")
    parser.add_argument("--step", type=float, help="seconds of a step in one process, for --model-only")
    bandwidth = "bytes a second of the all-reduce, for --model-only (default: %(default)s)"
    parser.add_argument("--bandwidth", type=float, default=20e9, help=bandwidth)
    parser.add_argument("--model-only", action="store_true", help="compute from --step and --bandwidth, measure nothing")
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
        # the step time of one process plus the all-reduce timed by itself
        expected = options.batch * count / (one["seconds"] + found["all_reduce"])
        efficiency = found["clips_per_second"] / (count / one["processes"] * one["clips_per_second"])
        print(json.dumps({**found, "predicted": round(expected, 3), "efficiency": round(efficiency, 3)}), flush=True)


def gradient_bytes(model: str) -> int:
    """Return the bytes of an all-reduce: four for every trained weight, with the preset's usual frozen part of the backbone."""
    network = weights.build(model)
    network.backbone.freeze(0 if model == "hodor-t" else 4)
    return sum(p.nbytes for p in network.parameters() if p.requires_grad)


def predicted(count: int, batch: int, step: float, size: int, bandwidth: float) -> dict[str, float]:
    """Compute the speed of `count` processes by the formula above."""
    reduce = 2 * (count - 1) / count * size / bandwidth
    speed = batch * count / (step + reduce)
    return {"processes": count, "clips_per_second": round(speed, 2), "efficiency": round(step / (step + reduce), 4)}


def measured(count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train with `count` processes of torchrun; return clips a second, times in seconds, and the share of waiting time."""
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
    """Run as one process of torchrun: a training, then the all-reduce by itself."""
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

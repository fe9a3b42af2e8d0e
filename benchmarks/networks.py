"""Measure processor time and memory of one frame, for the networks of the presets with random weights: no file is needed.

    python benchmarks/networks.py                                        # STCN, XMem, Cutie: 480 x 854, 1, 3 and 5 objects
    python benchmarks/networks.py --models xmem --objects 1 --dtype bfloat16 --json figures.json

Time is processor time (`time.process_time`) on one thread, so other load on the machine hardly matters. It is the mean of
five successive frames, after five warm-up frames. Of these five frames a network remembers as many as in a long video: STCN,
XMem and Cutie one, HODOR all. The exception is xmem-lite, which remembers every third frame: it remembers two of the five, a
fifth more than in a long video.

The memory is full before the measurement: twice `history` frames have been remembered, and discarded as the network does.
Batch norms are folded, as in `hodor.load`. Each case runs in its own process, so that peaks of memory do not add up.

Prints a Markdown table, a row a case: milliseconds a frame in the network (the sum of `encode`, `segment` and `remember`),
in each of the three, and in the whole tracker (`whole`); MB and frames in the memory of the tracker; peak MB of the process.
Besides the network, the tracker resizes the frame and makes labels. Labels take longer where outlines are long, as in the
masks that random weights predict.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hodor import benchmark
from hodor.models import weights
from hodor.models.base import Memory, Network
from hodor.tracking import Tracker

MODELS = ("stcn", "stcn-lite", "xmem", "xmem-lite", "cutie", "cutie-small", "cutie-lite")
FRAMES = 5
METHODS = ("encode", "segment", "remember")


def main() -> None:
    options = parsed()
    if options.case:
        print(json.dumps(measure(**json.loads(options.case))))
        return
    rows = []
    print("| model | objects | network | encode | segment | remember | whole | memory of the tracker | peak of the process |")
    print("|---|---|---|---|---|---|---|---|---|")
    for model in options.models:
        for objects in options.objects:
            shared = {k: getattr(options, k) for k in ("height", "width", "size", "threads", "dtype")}
            rows.append(run_in_process({"model": model, "objects": objects, **shared}))
            row = rows[-1]
            times = " | ".join(f"{row[k]:.0f}" for k in ("network", *METHODS, "whole"))
            memory = f"{row['memory_mb']:.1f} MB, {row['frames']} frames"
            print(f"| {model} | {objects} | {times} | {memory} | {row['peak_mb']:.0f} MB |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": benchmark.machine(), "rows": rows}, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = f"presets, default: {' '.join(MODELS)}"
    parser.add_argument("--models", nargs="+", default=MODELS, choices=list(weights.MODELS), metavar="MODEL", help=models)
    parser.add_argument("--objects", nargs="+", type=int, default=(1, 3, 5), help="numbers of objects (default: 1 3 5)")
    parser.add_argument("--height", type=int, default=480, help="height of the video in pixels (default: %(default)s)")
    parser.add_argument("--width", type=int, default=854, help="width of the video in pixels (default: %(default)s)")
    parser.add_argument("--size", type=int, help="short side inside the network, in pixels (default: the preset's)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (default: %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--json", type=Path, help="also write the figures and the machine to this file")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser.parse_args()


def run_in_process(case: dict[str, Any]) -> dict[str, Any]:
    """Run `measure` in its own process."""
    done = subprocess.run([sys.executable, __file__, "--case", json.dumps(case)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{case} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(model: str, objects: int, height: int, width: int, size: int | None, threads: int, dtype: str) -> dict[str, Any]:
    """Return a row of the table: milliseconds of processor time a frame, MB in the tracker's memory, peak MB of the process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = weights.build(model)
    network.fold()
    network.to(memory_format=torch.channels_last, dtype=getattr(torch, dtype))  # type: ignore[call-overload]
    network.eval().requires_grad_(False)
    seconds = dict.fromkeys(METHODS, 0.0)
    timed: Any = Timed(network, seconds)
    tracker = Tracker(timed, size=size, hold_lost=False)
    pictures = moving(2 + 3 * FRAMES, height, width)
    stripes = (np.arange(width) * (objects + 1) // width).astype(np.uint8)
    tracker.track(next(pictures), np.broadcast_to(stripes, (height, width)))
    while not tracker.network.due(tracker.memory, tracker.index):
        tracker.track(next(pictures))
    tracker.track(next(pictures))
    tracker.memory, tracker.index = filled(network, tracker)
    for _ in range(FRAMES):
        tracker.track(next(pictures))
    seconds.update(dict.fromkeys(METHODS, 0.0))
    began = time.process_time()
    for _ in range(FRAMES):
        tracker.track(next(pictures))
    whole = time.process_time() - began
    row = {method: round(total / FRAMES * 1000, 1) for method, total in seconds.items()}
    return {
        **{"model": model, "objects": objects, "size": size or network.size, "dtype": dtype, "threads": threads},
        **{"network": round(sum(row.values()), 1), **row, "whole": round(whole / FRAMES * 1000, 1)},
        "memory_mb": round(memory_bytes(tracker.memory) / 2**20, 2),
        "frames": sum(i >= 0 for i in tracker.memory.frames),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


class Timed:  # has the interface of a Network
    """A network that adds the processor time of `encode`, `segment` and `remember` to `seconds`, by method."""

    def __init__(self, network: Network, seconds: dict[str, float]) -> None:
        self._network, self._seconds = network, seconds

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._network, name)
        if name not in METHODS:
            return method

        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            out = method(*arguments, **named)
            self._seconds[name] += time.process_time() - began
            return out

        return timed


def moving(count: int, height: int, width: int) -> Any:
    """Return an iterator over `count` uint8 [H, W, 3] pictures of a moving texture."""
    random = np.random.default_rng(0)
    texture = random.integers(0, 255, (height // 16 + 1, width // 16 + 1 + count, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    return (np.ascontiguousarray(texture[:height, 4 * t : 4 * t + width]) for t in range(count))


def filled(network: Network, tracker: Tracker) -> tuple[Memory, int]:
    """Return the memory after `2 * history` more remembered frames, and the index of the next frame.

    The entries are copies of the latest one: reading a copy costs as much as reading another entry.
    """
    memory, latest = tracker.memory, max(tracker.memory.frames)
    entry = memory.frames[latest]
    step = latest - max((i for i in memory.frames if i < latest), default=latest - 1)
    with torch.inference_mode():
        for _ in range(2 * network.history):
            latest += step
            memory = network.keep(memory.add(latest, replace(entry)), network.history, True)
    return memory, latest + 1


def memory_bytes(memory: Memory) -> int:
    """Bytes of all tensors in the memory, where copies of an entry count like entries of their own."""
    tensors = [t for e in memory.frames.values() for t in e.tensors().values()]
    return sum(t.nbytes for t in [*tensors, *memory.state.values(), *memory.tally.values()])


if __name__ == "__main__":
    main()

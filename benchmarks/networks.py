"""CPU time and memory of a frame, for every network by its preset, with random weights: no file is needed.

    python benchmarks/networks.py                                        # STCN, XMem, Cutie: 480 x 854, 1, 3 and 5 objects
    python benchmarks/networks.py --models xmem --objects 1 --dtype bfloat16 --json figures.json

Time is processor time (`time.process_time`) on one thread, so that what else runs on the machine hardly matters: the mean of
five frames in a row, after five that warm up. Of these five a network remembers as many as it does in steady work: STCN,
XMem and Cutie one, HODOR all; xmem-lite, which takes every third, two, a fifth more than it would. The memory is full
before: twice `history` frames have been remembered, and let go of as the network does. Batch norms are folded, as in
`hodor.load`. Each case has a process of its own, so that peaks do not add up. `whole` is all that the tracker does: beside
the network (`encode`, `segment`, `remember`) it brings the frame to its size and makes labels. The latter takes longer where
there is more outline, as in random masks.
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
VERBS = ("encode", "segment", "remember")


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
            rows.append(alone({"model": model, "objects": objects, **shared}))
            row = rows[-1]
            times = " | ".join(f"{row[k]:.0f}" for k in ("network", *VERBS, "whole"))
            held = f"{row['memory_mb']:.1f} MB, {row['frames']} frames"
            print(f"| {model} | {objects} | {times} | {held} | {row['peak_mb']:.0f} MB |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": benchmark.machine(), "rows": rows}, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=list(weights.MODELS), metavar="MODEL")
    parser.add_argument("--objects", nargs="+", type=int, default=(1, 3, 5))
    parser.add_argument("--height", type=int, default=480, help="of the video")
    parser.add_argument("--width", type=int, default=854)
    parser.add_argument("--size", type=int, help="short side inside; default: the preset's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser.parse_args()


def alone(case: dict[str, Any]) -> dict[str, Any]:
    """`measure` in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--case", json.dumps(case)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{case} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(model: str, objects: int, height: int, width: int, size: int | None, threads: int, dtype: str) -> dict[str, Any]:
    """Milliseconds of processor time a frame, MB that the tracker's memory holds, MB at the process's peak."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = weights.build(model)
    network.fold()
    network.to(memory_format=torch.channels_last, dtype=getattr(torch, dtype))  # type: ignore[call-overload]
    network.eval().requires_grad_(False)
    spent = dict.fromkeys(VERBS, 0.0)
    timed: Any = Timed(network, spent)
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
    spent.update(dict.fromkeys(VERBS, 0.0))
    began = time.process_time()
    for _ in range(FRAMES):
        tracker.track(next(pictures))
    whole = time.process_time() - began
    row = {verb: round(seconds / FRAMES * 1000, 1) for verb, seconds in spent.items()}
    return {
        **{"model": model, "objects": objects, "size": size or network.size, "dtype": dtype, "threads": threads},
        **{"network": round(sum(row.values()), 1), **row, "whole": round(whole / FRAMES * 1000, 1)},
        "memory_mb": round(held(tracker.memory) / 2**20, 2),
        "frames": sum(i >= 0 for i in tracker.memory.frames),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


class Timed:  # stands in for a Network
    """A network whose three verbs add up their processor time."""

    def __init__(self, network: Network, spent: dict[str, float]) -> None:
        self._network, self._spent = network, spent

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._network, name)
        if name not in VERBS:
            return inner

        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            out = inner(*arguments, **named)
            self._spent[name] += time.process_time() - began
            return out

        return timed


def moving(count: int, height: int, width: int) -> Any:
    """-> uint8 [H, W, 3] pictures of a texture that moves."""
    random = np.random.default_rng(0)
    texture = random.integers(0, 255, (height // 16 + 1, width // 16 + 1 + count, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    return (np.ascontiguousarray(texture[:height, 4 * t : 4 * t + width]) for t in range(count))


def filled(network: Network, tracker: Tracker) -> tuple[Memory, int]:
    """The memory after twice as many remembered frames as it keeps, and the frame that follows; copies of the latest stand for
    the others, which cost as much to read."""
    memory, latest = tracker.memory, max(tracker.memory.frames)
    entry = memory.frames[latest]
    step = latest - max((i for i in memory.frames if i < latest), default=latest - 1)
    with torch.inference_mode():
        for _ in range(2 * network.history):
            latest += step
            memory = network.keep(memory.add(latest, replace(entry)), network.history, True)
    return memory, latest + 1


def held(memory: Memory) -> int:
    """Bytes of every tensor in the memory, were no two frames' the same."""
    tensors = [t for e in memory.frames.values() for t in vars(e).values()]
    return sum(t.nbytes for t in [*tensors, *memory.state.values(), *memory.tally.values()])


if __name__ == "__main__":
    main()

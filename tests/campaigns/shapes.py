"""Frames of extreme sizes, and many objects: processor time a frame and peak memory, each case in its own process.

    python tests/campaigns/shapes.py

The networks compute at their own size. Each case has a given mask and three frames more; the time is that of these frames.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from kill import ended, forked

from hodor.models import weights
from hodor.tracking import Tracker

CASES: list[tuple[tuple[int, int], int]] = [
    ((480, 854), 1),
    ((480, 854), 8),
    ((480, 854), 64),
    ((4320, 7680), 1),
    ((4320, 7680), 8),
    ((1, 1), 1),
    ((1, 4096), 1),
    ((1536, 8), 1),
]


def measure(model: str, size: tuple[int, int], objects: int) -> int:
    """Track the objects, the last of which has the id 65535; print a row."""
    network = weights.load(model)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    side = int(np.ceil(objects**0.5))
    rows, columns = (np.arange(n) * side // n for n in size)
    labels = (rows[:, None] * side + columns + 1).astype(np.uint16)
    labels[labels > objects] = 0
    labels[labels == labels.max()] = 65535
    tracker = Tracker(network)
    assert np.array_equal(tracker.track(image, labels), labels)
    began = time.process_time()
    for _ in range(3):
        tracked = tracker.step(image)
        assert tracked.labels.shape == size
        assert len(tracked.objects) == len(np.unique(labels[labels > 0]))
    spent = (time.process_time() - began) / 3 * 1000
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"| {model} | {size[1]} x {size[0]} | {len(tracked.objects)} | {spent:.0f} ms | {peak} MB |", flush=True)
    return 0


def main() -> int:
    print("| network | frame (width x height) | objects | time a frame | peak memory |\n|---|---|---|---|---|", flush=True)
    log, failed = Path(f"/tmp/hodor-shapes-{os.getpid()}.txt"), 0
    for model in ("xmem-lite", "hodor-lite"):
        for size, objects in CASES:
            failed += bool(ended(forked(lambda: measure(model, size, objects), log)))  # noqa: B023
            print(log.read_text(), end="", flush=True)
    log.unlink(missing_ok=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())

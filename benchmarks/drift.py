"""Drift over long videos that have true masks on every frame: each is played forth, back, forth ..., and J told way by way.

    python benchmarks/drift.py DAVIS --sequences bmx-bumps drift-turn --ways 4 --history 7

The mask of the first frame alone is given. A mean over objects and frames; the second and each later way leaves out the frame
that it turns on, and a frame on which an object is neither true nor found counts 1. Weights with other settings are made by
`hodor.models.weights.restate`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hodor.data.layouts import open_layout
from hodor.data.videofiles import VideoFiles
from hodor.masks import objects_in
from hodor.metrics import jaccard
from hodor.models import weights
from hodor.models.base import Network
from hodor.tracking import Tracker


def course(frames: int, ways: int) -> Iterator[list[int]]:
    """-> the frames of each way in their order; a way begins after the frame that the one before ended on."""
    forth = list(range(frames))
    for way in range(ways):
        yield forth if way == 0 else forth[1:] if way % 2 == 0 else forth[-2::-1]


def measure(video: VideoFiles, network: Network, ways: int, history: int | None, size: int | None) -> list[float]:
    """-> mean J of each way, in [0, 1]."""
    pictures = video.pictures(range(len(video.frames)))
    ground_truths = [video.labels(name) for name in video.frames]
    ids = objects_in(ground_truths[0])
    tracker = Tracker(network, history=history, size=size)
    means = []
    for way, indices in enumerate(course(len(pictures), ways)):
        scores = []
        for i in indices:
            found = tracker.track(pictures[i], ground_truths[0] if way == 0 and i == 0 else None)
            scores += [jaccard(np.equal(found, k), np.equal(ground_truths[i], k)) for k in ids]
        means.append(float(np.mean(scores)))
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--sequences", nargs="+", help="only these (default: all)")
    parser.add_argument("--ways", type=int, default=4, help="how often each is played (default: %(default)s)")
    parser.add_argument("--model", default="xmem-lite", help="weights in the box (default: %(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="a .safetensors file instead")
    parser.add_argument("--history", type=int, help="frames remembered (default: the network's)")
    parser.add_argument("--size", type=int, help="short side inside, in pixels (default: the model's)")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    given = parser.parse_args()
    try:
        if given.ways < 1:
            raise ValueError(f"--ways {given.ways}: want 1 or more")
        layout = open_layout(given.dataset, only=given.sequences)
        network = weights.ready(given.checkpoint or given.model, dtype=given.dtype)
        print(f"| | frames | {' | '.join(f'way {way + 1}' for way in range(given.ways))} |")
        print(f"|---|{'---|' * (given.ways + 1)}")
        rows = []
        for video in layout.videos:
            rows.append(measure(video, network, given.ways, given.history, given.size))
            frames = sum(map(len, course(len(video.frames), given.ways)))
            print(f"| {video.name} | {frames} | {' | '.join(f'{100 * j:.1f}' for j in rows[-1])} |", flush=True)
        print(f"| mean | | {' | '.join(f'{100 * j:.1f}' for j in np.mean(rows, 0))} |")
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()

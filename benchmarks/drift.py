"""Measure drift: J over a long video, made by playing a video with ground truth on every frame forwards and backwards in turn.

    python benchmarks/drift.py DAVIS --sequences bmx-bumps drift-turn --passes 4 --history 7

Only the mask of the first frame is given. Prints a Markdown table: a row a video, with the number of frames that were
segmented and the mean J of each pass (in percent, over objects and frames), and a last row with the means over the videos.
The second and each later pass leave out the frame at which the direction turns. A frame on which an object has neither a
predicted nor a ground-truth pixel counts as 1. Weights with other settings are made with `hodor.models.weights.restate`.
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


def frame_order(frames: int, passes: int) -> Iterator[list[int]]:
    """Yield the frame indices of each pass, in order; a pass begins after the frame on which the last pass ended."""
    forwards = list(range(frames))
    for number in range(passes):
        yield forwards if number == 0 else forwards[1:] if number % 2 == 0 else forwards[-2::-1]


def measure(video: VideoFiles, network: Network, passes: int, history: int | None, size: int | None) -> list[float]:
    """Return the mean J of each pass, in [0, 1]."""
    pictures = video.pictures(range(len(video.frames)))
    ground_truths = [video.labels(name) for name in video.frames]
    ids = objects_in(ground_truths[0])
    tracker = Tracker(network, history=history, size=size)
    means = []
    for number, indices in enumerate(frame_order(len(pictures), passes)):
        scores = []
        for i in indices:
            predicted = tracker.track(pictures[i], ground_truths[0] if number == 0 and i == 0 else None)
            scores += [jaccard(np.equal(predicted, k), np.equal(ground_truths[i], k)) for k in ids]
        means.append(float(np.mean(scores)))
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder of a data set with a mask of every frame, such as DAVIS")
    parser.add_argument("--sequences", nargs="+", help="use only these sequences (default: all)")
    parser.add_argument("--passes", type=int, default=4, help="number of passes over each video (default: %(default)s)")
    parser.add_argument("--model", default="xmem-lite", help="bundled weights (default: %(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="a .safetensors file to use instead")
    parser.add_argument("--history", type=int, help="number of past frames kept in memory (default: the network's own)")
    parser.add_argument("--size", type=int, help="short side inside the network, in pixels (default: the model's)")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    options = parser.parse_args()
    try:
        if options.passes < 1:
            raise ValueError(f"expected --passes of at least 1, got {options.passes}")
        layout = open_layout(options.dataset, only=options.sequences)
        network = weights.ready(options.checkpoint or options.model, dtype=options.dtype)
        print(f"| | frames | {' | '.join(f'pass {number + 1}' for number in range(options.passes))} |")
        print(f"|---|{'---|' * (options.passes + 1)}")
        rows = []
        for video in layout.videos:
            rows.append(measure(video, network, options.passes, options.history, options.size))
            frames = sum(map(len, frame_order(len(video.frames), options.passes)))
            print(f"| {video.name} | {frames} | {' | '.join(f'{100 * j:.1f}' for j in rows[-1])} |", flush=True)
        print(f"| mean | | {' | '.join(f'{100 * j:.1f}' for j in np.mean(rows, 0))} |")
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()

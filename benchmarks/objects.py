"""Measure J&F and identity switches against the number of objects, on one video with many objects.

    python benchmarks/objects.py JPEGImages Annotations                            # 1, 2, ... all objects, xmem-lite
    python benchmarks/objects.py JPEGImages Annotations --checkpoint FILE --counts 1 4 7 --json objects.json

JPEGImages is a folder of pictures (or a video file). Annotations is the folder of their label PNGs, one for each picture.
For a count of k, the first k ids of the first mask are segmented and the other objects are background. J&F is that of DAVIS:
the mean over objects and frames, without the first and the last frame.

An object is *mistaken* on a frame if its predicted mask overlaps the ground truth of another object (segmented or not) more
than its own, by Jaccard index. A *switch* (identity switch, as in multi-object tracking) is a frame on which an object
becomes mistaken, or becomes mistaken for a different object than before.

Prints a Markdown table, a row a count: J&F, J, F, switches, share of frames mistaken (of the frames on which the object has
a predicted pixel), and frames a second.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hodor.benchmark import machine
from hodor.frames import open_source
from hodor.masks import objects_in, read_labels
from hodor.metrics import frame_scores
from hodor.models import weights
from hodor.tracking import Tracker

Labels = NDArray[np.integer[Any]]


def mistaken_for(found: Labels, ground_truth: Labels, tracked: Sequence[int], every: Sequence[int]) -> dict[int, int]:
    """Find which object of the ground truth each predicted mask overlaps most.

    Args:
        found: predicted labels [H, W].
        ground_truth: labels [H, W].
        tracked: ids of the segmented objects.
        every: ids of all objects of the ground truth.

    Returns:
        For each tracked id with a predicted pixel: the id in `every` with the largest Jaccard index, its own id in a tie.
    """
    nearest = {}
    for i in tracked:
        mask = found == i
        if not mask.any():
            continue
        overlap = {
            j: np.count_nonzero(mask & (ground_truth == j)) / np.count_nonzero(mask | (ground_truth == j)) for j in every
        }
        best = max(overlap, key=lambda j: overlap[j])
        nearest[i] = best if overlap[best] > overlap[i] else i
    return nearest


def measure(
    pictures: Sequence[NDArray[np.uint8]], ground_truths: Sequence[Labels], count: int, network: Any, size: int | None
) -> dict[str, Any]:
    """Segment the first `count` objects; return J&F, J, F in [0, 1], switches, share of frames mistaken, frames a second."""
    every = objects_in(ground_truths[0])
    tracked = every[:count]
    tracker = Tracker(network, size=size)
    latest: dict[int, int] = {i: i for i in tracked}
    switches = mistaken = counted = 0
    scores, seconds = [], 0.0
    for index, (picture, ground_truth) in enumerate(zip(pictures, ground_truths, strict=True)):
        began = time.perf_counter()
        given = np.where(np.isin(ground_truth, tracked), ground_truth, 0).astype(ground_truth.dtype) if index == 0 else None
        found = tracker.track(picture, given)
        seconds += time.perf_counter() - began
        if 0 < index < len(ground_truths) - 1:
            scores.append(frame_scores(found, ground_truth, tracked))
        for i, now in mistaken_for(found, ground_truth, tracked, every).items():
            switches += now not in (i, latest[i])
            latest[i] = now
            mistaken += now != i
            counted += 1
    j, f = np.mean(scores, axis=(0, 2))
    return {
        **{"objects": count, "J&F": float(j + f) / 2, "J": float(j), "F": float(f)},
        **{"switches": switches, "mistaken": mistaken / max(counted, 1), "frames_per_second": len(pictures) / seconds},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="folder of the video's pictures, or a video file")
    parser.add_argument("masks", type=Path, help="folder of the ground truth: a label PNG for each picture")
    parser.add_argument("--model", default="xmem-lite", help="bundled weights (default: %(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="a .safetensors file to use instead")
    parser.add_argument("--counts", type=int, nargs="+", help="numbers of objects (default: 1 to all)")
    parser.add_argument("--size", type=int, help="short side inside the network, in pixels (default: the model's)")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--json", type=Path, help="also write the figures and the machine to this file")
    options = parser.parse_args()
    try:
        ground_truths = [read_labels(path) for path in sorted(options.masks.glob("[!.]*.png"))]
        with open_source(options.pictures) as source:
            pictures = [frame.image for frame in source.frames()]
        if len(ground_truths) != len(pictures) or len(ground_truths) < 3:
            counts = f"{len(pictures)} pictures and {len(ground_truths)} masks"
            raise ValueError(f"expected one mask for each picture, and at least 3, got {counts}")
        network = weights.ready(options.checkpoint or options.model, dtype=options.dtype)
        rows = []
        print("| objects | J&F | J | F | switches | frames mistaken | frames/s |")
        print("|---|---|---|---|---|---|---|")
        for count in options.counts or range(1, len(objects_in(ground_truths[0])) + 1):
            rows.append(measure(pictures, ground_truths, count, network, options.size))
            row = rows[-1]
            jf, j, f = (f"{100 * row[k]:.1f}" for k in ("J&F", "J", "F"))
            mistaken, speed = f"{100 * row['mistaken']:.1f} %", f"{row['frames_per_second']:.1f}"
            print(f"| {count} | {jf} | {j} | {f} | {row['switches']} | {mistaken} | {speed} |", flush=True)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"{parser.prog}: {error}")
    if options.json:
        about = {"machine": machine(), "threads": torch.get_num_threads(), "model": str(options.checkpoint or options.model)}
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

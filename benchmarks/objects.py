"""J&F and identity switches against the number of objects, on one video with many.

    python benchmarks/objects.py JPEGImages Annotations                            # 1, 2, ... all objects, xmem-lite
    python benchmarks/objects.py JPEGImages Annotations --checkpoint FILE --counts 1 4 7 --json objects.json

JPEGImages is a folder of pictures (or a video file), Annotations their label PNGs, one a picture. With a count of k the first k
ids of the first mask are followed, the others are background. J&F is DAVIS's mean over objects and middle frames. An object is
*mistaken* on a frame if its mask overlaps (by Jaccard index) another object's true mask, followed or not, more than its own;
a *switch* is a frame on which what it is mistaken for begins or changes, as trackers of many objects count them.
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
    """-> for each followed object that has a pixel, the true object, of `every` one, that its mask overlaps most: itself, or
    another one if that overlaps it more."""
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
    """Follow the first `count` objects -> J&F, J, F in [0, 1], switches, share of frames mistaken, frames a second."""
    every = objects_in(ground_truths[0])
    tracked = every[:count]
    tracker = Tracker(network, size=size)
    held: dict[int, int] = {i: i for i in tracked}
    switches = wrong = seen = 0
    scores, seconds = [], 0.0
    for index, (picture, ground_truth) in enumerate(zip(pictures, ground_truths, strict=True)):
        began = time.perf_counter()
        given = np.where(np.isin(ground_truth, tracked), ground_truth, 0).astype(ground_truth.dtype) if index == 0 else None
        found = tracker.track(picture, given)
        seconds += time.perf_counter() - began
        if 0 < index < len(ground_truths) - 1:
            scores.append(frame_scores(found, ground_truth, tracked))
        for i, now in mistaken_for(found, ground_truth, tracked, every).items():
            switches += now not in (i, held[i])
            held[i] = now
            wrong += now != i
            seen += 1
    j, f = np.mean(scores, axis=(0, 2))
    return {
        **{"objects": count, "J&F": float(j + f) / 2, "J": float(j), "F": float(f)},
        **{"switches": switches, "mistaken": wrong / max(seen, 1), "frames_per_second": len(pictures) / seconds},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--model", default="xmem-lite", help="weights in the box (default: %(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="a .safetensors file instead")
    parser.add_argument("--counts", type=int, nargs="+", help="numbers of objects (default: 1 to all)")
    parser.add_argument("--size", type=int, help="short side inside, in pixels (default: the model's)")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--json", type=Path, help="the figures, and the machine")
    given = parser.parse_args()
    try:
        ground_truths = [read_labels(path) for path in sorted(given.masks.glob("[!.]*.png"))]
        with open_source(given.pictures) as source:
            pictures = [frame.image for frame in source.frames()]
        if len(ground_truths) != len(pictures) or len(ground_truths) < 3:
            raise ValueError(
                f"{len(pictures)} pictures, {len(ground_truths)} masks: want one mask a picture, and three or more"
            )
        network = weights.ready(given.checkpoint or given.model, dtype=given.dtype)
        rows = []
        print("| objects | J&F | J | F | switches | frames mistaken | frames/s |")
        print("|---|---|---|---|---|---|---|")
        for count in given.counts or range(1, len(objects_in(ground_truths[0])) + 1):
            rows.append(measure(pictures, ground_truths, count, network, given.size))
            row = rows[-1]
            jf, j, f = (f"{100 * row[k]:.1f}" for k in ("J&F", "J", "F"))
            mistaken, speed = f"{100 * row['mistaken']:.1f} %", f"{row['frames_per_second']:.1f}"
            print(f"| {count} | {jf} | {j} | {f} | {row['switches']} | {mistaken} | {speed} |", flush=True)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"{parser.prog}: {error}")
    if given.json:
        about = {"machine": machine(), "threads": torch.get_num_threads(), "model": str(given.checkpoint or given.model)}
        given.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Report failure modes: J by the size of an object and by how fast it moves.

    python benchmarks/failure_modes.py DAVIS/Annotations runs/folds/*/scores    # masks that `hodor evaluate davis2016` wrote

The first argument is the folder of ground truth. Each further argument is a folder of results, with a folder of label PNGs
for each video, named as in the ground truth. Size is the object's share of the picture. Motion is measured by the Jaccard
index of the object's ground-truth masks on this frame and on the frame before: 1 if the object stands still, 0 if it has
moved by its own length. Frames count as in DAVIS, without the first and the last. Frames without a ground-truth pixel of the
object do not count.

Prints two Markdown tables, by size and by motion: number of objects on frames, their mean J, and the share of them with J
below 0.5.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hodor.masks import objects_in, read_labels
from hodor.metrics import jaccard

SIZES, MOTIONS = (0.0, 0.01, 0.03, 0.1, 1.0), (0.0, 0.5, 0.75, 0.9, 1.0)


class ObjectOnFrame(NamedTuple):
    """An object on a frame. All values are in [0, 1].

    Attributes:
        size: share of the picture that the object covers.
        motion: Jaccard index of its ground-truth mask and the one of the frame before.
        j: Jaccard index of its predicted and its ground-truth mask.
    """

    size: float
    motion: float
    j: float


def objects_on_frames(results: Path, ground_truth: Path) -> Iterator[ObjectOnFrame]:
    """Yield the objects of one video on all frames but the first and the last.

    Raises:
        FileNotFoundError: a frame is missing in `results`.
    """
    frames = sorted(ground_truth.glob("[!.]*.png"))
    before = read_labels(frames[0])
    ids = objects_in(before)
    for path in frames[1:-1]:
        true, predicted = read_labels(path), read_labels(results / path.name)
        if len(ids) == 1:  # DAVIS 2016 has 0 and 255; a prediction has some id for the one object
            true, predicted, before = (np.minimum(labels, 1) for labels in (true, predicted, before))
        for i in objects_in(before):
            mask = np.equal(true, i)
            if mask.any():
                motion = jaccard(mask, np.equal(before, i))
                yield ObjectOnFrame(float(mask.mean()), motion, jaccard(np.equal(predicted, i), mask))
        before = true


def table(rows: Sequence[ObjectOnFrame], name: str, bounds: Sequence[float]) -> Iterator[str]:
    """Yield the lines of a table: J of the objects whose value of `name` is between two neighbouring bounds."""
    yield f"| {name} | objects on frames | mean J | J below 0.5 |"
    yield "|---|---|---|---|"
    for low, high in pairwise(bounds):
        last = high == bounds[-1]
        j = [row.j for row in rows if low <= getattr(row, name) < high or (last and getattr(row, name) == high)]
        if j:
            share = 100 * np.mean(np.less(j, 0.5))
            yield f"| {100 * low:g} to {100 * high:g} % | {len(j)} | {100 * np.mean(j):.1f} | {share:.1f} % |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ground_truth", type=Path, help="folder of ground truth, with a folder of label PNGs for each video")
    parser.add_argument("results", type=Path, nargs="+", help="folders of predicted masks, with the same layout")
    options = parser.parse_args()
    rows: list[ObjectOnFrame] = []
    try:
        for folder in options.results:
            for video in sorted(path for path in folder.iterdir() if (options.ground_truth / path.name).is_dir()):
                rows += objects_on_frames(video, options.ground_truth / video.name)
    except OSError as error:
        sys.exit(f"{parser.prog}: {error}")
    if not rows:
        folders = ", ".join(map(str, options.results))
        sys.exit(
            f"{parser.prog}: no folder in {folders} has the name of one in {options.ground_truth}: give folders of results"
        )
    for name, bounds in (("size", SIZES), ("motion", MOTIONS)):
        print("\n".join(table(rows, name, bounds)) + "\n")


if __name__ == "__main__":
    main()

"""Which objects come out badly: J by the size of an object and by how fast it moves.

    python benchmarks/failure_modes.py DAVIS/Annotations runs/folds/*/scores          # masks as `hodor evaluate --dataset` leaves them

Each folder of results holds a folder of label PNGs a video, named as the true ones. Size is an object's share of the picture;
motion is the Jaccard index of its true masks on this frame and the one before: 1 stands still, 0 has moved by its own length.
Frames count as in DAVIS, without the first and the last; of an object that is away there is nothing to tell.
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


class Seen(NamedTuple):
    """An object on a frame: its share of the picture, its overlap with itself a frame before, and J; all in [0, 1]."""

    size: float
    motion: float
    j: float


def seen(found: Path, ground_truth: Path) -> Iterator[Seen]:
    """Raises FileNotFoundError: a frame that `found` lacks."""
    frames = sorted(ground_truth.glob("[!.]*.png"))
    before = read_labels(frames[0])
    ids = objects_in(before)
    for path in frames[1:-1]:
        true, mine = read_labels(path), read_labels(found / path.name)
        if len(ids) == 1:  # 0 and 255 in DAVIS 2016, whatever the answer calls it
            true, mine, before = (np.minimum(labels, 1) for labels in (true, mine, before))
        for i in objects_in(before):
            mask = np.equal(true, i)
            if mask.any():
                yield Seen(float(mask.mean()), jaccard(mask, np.equal(before, i)), jaccard(np.equal(mine, i), mask))
        before = true


def table(rows: Sequence[Seen], name: str, bounds: Sequence[float]) -> Iterator[str]:
    """Lines of a table: J of the objects whose `name` lies between two bounds."""
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
    parser.add_argument("ground_truth", type=Path)
    parser.add_argument("found", type=Path, nargs="+")
    given = parser.parse_args()
    rows = []
    try:
        for folder in given.found:
            for video in sorted(path for path in folder.iterdir() if (given.ground_truth / path.name).is_dir()):
                rows += seen(video, given.ground_truth / video.name)
    except OSError as error:
        sys.exit(f"{parser.prog}: {error}")
    if not rows:
        sys.exit(f"{parser.prog}: no folder in {', '.join(map(str, given.found))} is named like one in {given.ground_truth}")
    for name, bounds in (("size", SIZES), ("motion", MOTIONS)):
        print("\n".join(table(rows, name, bounds)) + "\n")


if __name__ == "__main__":
    main()

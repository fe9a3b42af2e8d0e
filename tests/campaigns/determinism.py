"""Which runs of a tracker are equal to the bit, and by how much the others differ: a table.

    python tests/campaigns/determinism.py --model xmem-lite hodor-lite --frames 24 --size 192

Every run follows the objects of examples/cup.png through examples/cup.mp4, and is compared with another run frame by frame: the
share of pixels with another id (mean, and on the worst frame), and the largest difference of a soft mask.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from hodor.frames import open_source
from hodor.masks import read_labels
from hodor.models import weights
from hodor.tracking import Tracker

EXAMPLES = Path(__file__).parents[2] / "examples"
Seen = list[tuple[np.ndarray, np.ndarray]]
"""Labels and soft masks of every frame."""


class Row(NamedTuple):
    """The comparison of two runs.

    Attributes:
        run: what was run.
        compared: what it is compared with.
        frames: share of frames with the same labels.
        pixels: mean share of pixels with another label.
        worst: largest share of such pixels on one frame.
        soft: largest difference of a soft mask.
    """

    run: str
    compared: str
    frames: float
    pixels: float
    worst: float
    soft: float

    @classmethod
    def of(cls, run: str, compared: str, one: Seen, two: Seen) -> Row:
        assert len(one) == len(two)
        shares = [float((a != b).mean()) for (a, _), (b, _) in zip(one, two, strict=True)]
        soft = max(float(np.abs(a - b).max(initial=0)) for (_, a), (_, b) in zip(one, two, strict=True))
        return cls(run, compared, shares.count(0.0) / len(shares), sum(shares) / len(shares), max(shares), soft)

    @property
    def is_equal(self) -> bool:
        return self.worst == 0 and self.soft == 0


def pictures(frames: int, reverse: bool = False) -> Iterator[np.ndarray]:
    with open_source(EXAMPLES / "cup.mp4") as source:
        yield from (frame.image for frame in source.frames(0, frames, reverse=reverse))


def follow(model: str, size: int, images: list[np.ndarray], dtype: str = "float32", saved: bool = False) -> Seen:
    """Follow the objects of the mask of the first picture; `saved`: through a file in the middle, as a resumed run does."""
    network = weights.load(model).to(dtype=getattr(torch, dtype))
    tracker, seen = Tracker(network, size=size), Seen()
    for i, image in enumerate(images):
        if saved and i == len(images) // 2:
            with tempfile.TemporaryDirectory() as folder:
                tracker.save(Path(folder) / "state.safetensors")
                tracker = Tracker(network, size=size)
                tracker.restore(Path(folder) / "state.safetensors")
        tracked = tracker.step(image, read_labels(EXAMPLES / "cup.png") if i == 0 else None)
        seen.append((tracked.labels, tracked.soft()))
    return seen


def elsewhere(model: str, size: int, frames: int) -> Seen:
    """The run in a new process."""
    torch.set_num_threads(1)
    return follow(model, size, list(pictures(frames)))


def table(model: str, frames: int, size: int) -> list[Row]:
    images = list(pictures(frames))

    def run(threads: int = 1, dtype: str = "float32", saved: bool = False, images: list[np.ndarray] = images) -> Seen:
        torch.set_num_threads(threads)
        return follow(model, size, images, dtype, saved)

    plain, two, half = run(), run(2), run(dtype="bfloat16")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        other = pool.apply(elsewhere, (model, size, frames))
    backward = list(pictures(frames, reverse=True))
    return [
        Row.of("1 thread, float32, again", "1 thread, float32", run(), plain),
        Row.of("1 thread, float32, in another process", "1 thread, float32", other, plain),
        Row.of("1 thread, float32, saved and restored half-way", "1 thread, float32", run(saved=True), plain),
        Row.of(
            "backwards (the video read from its end)", "the reversed pictures", run(images=backward), run(images=images[::-1])
        ),
        Row.of("2 threads, float32, again", "2 threads, float32", run(2), two),
        Row.of("2 threads, float32", "1 thread, float32", two, plain),
        Row.of("1 thread, bfloat16, again", "1 thread, bfloat16", run(dtype="bfloat16"), half),
        Row.of("2 threads, bfloat16", "1 thread, bfloat16", run(2, "bfloat16"), half),
        Row.of("1 thread, bfloat16", "1 thread, float32", half, plain),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", nargs="+", default=["xmem-lite", "hodor-lite"])
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = {model: table(model, options.frames, options.size) for model in options.model}
    for model, found in rows.items():
        print(f"{model}, {options.frames} frames, size {options.size}\n")
        print("| run | compared with | equal to the bit | frames with equal masks | other pixels | worst frame | soft mask |")
        print("|---|---|---|---|---|---|---|")
        for r in found:
            equal = "yes" if r.is_equal else "no"
            shares = f"{r.frames:.0%} | {r.pixels:.4%} | {r.worst:.4%} | {r.soft:.2g}"
            print(f"| {r.run} | {r.compared} | {equal} | {shares} |")
        print()
    if options.json:
        options.json.write_text(json.dumps({model: [r._asdict() for r in found] for model, found in rows.items()}))


if __name__ == "__main__":
    main()

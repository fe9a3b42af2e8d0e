"""Measure what corrections gain: mean J of a session after each correction, by the way in which the frame is chosen.

    python benchmarks/corrections.py DAVIS --sequences bmx-bumps drift-turn --corrections 3 --size 240

Only the mask of the first frame is given. Then one frame after the other is chosen, and its ground-truth mask is given:

    suggest     the first frame of `Session.suggest`
    uniform     frames that divide the video into equal parts
    confidence  the frame of the lowest confidence; an object without a pixel has the confidence 0

Prints a Markdown table: a row a video and way, with the mean J of all frames (in percent, given frames included; a frame
without a predicted and a ground-truth pixel counts as 1) before and after each correction, and the gain a correction; then the
means.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hodor.data.layouts import open_layout
from hodor.data.videofiles import VideoFiles
from hodor.masks import Labels, objects_in
from hodor.metrics import jaccard
from hodor.models import weights
from hodor.models.base import Network
from hodor.session import Session

Choice = Callable[[Session, int, int], int]


def by_suggestion(session: Session, number: int, total: int) -> int:
    """Return the frame that the session suggests."""
    return session.suggest(1)[0]


def uniformly(session: Session, number: int, total: int) -> int:
    """Return frame `number` of `total` that divide the video into equal parts."""
    return round((number + 1) * (session.count - 1) / (total + 0.5))


def by_confidence(session: Session, number: int, total: int) -> int:
    """Return the frame of the lowest confidence."""
    given = set(session.given_frames(session.objects[0]))
    means = {t: np.mean([*session.result(t).confidence.values()]) for t in range(session.count) if t not in given}
    return min(means, key=means.__getitem__)


WAYS: dict[str, Choice] = {"suggest": by_suggestion, "uniform": uniformly, "confidence": by_confidence}


def mean_j(session: Session, ground_truths: list[Labels]) -> float:
    """Return the mean J of all frames and objects."""
    ids, scores = objects_in(ground_truths[0]), []
    for t in range(session.count):
        labels = session.labels(t)
        scores += [jaccard(np.equal(labels, i), np.equal(ground_truths[t], i)) for i in ids]
    return float(np.mean(scores))


def complete(session: Session) -> None:
    """Compute all results that are missing."""
    for _ in session.propagate():
        pass


def measure(
    video: VideoFiles, network: Network, ways: list[str], corrections: int, size: int | None, frames: int | None
) -> dict[str, list[float]]:
    """Return for each way the mean J before the first correction and after each one."""
    found = {}
    images = video.images if isinstance(video.images, Path) else video.images[0].parent
    with Session(images, network=network, size=size) as session:
        session.count = min(session.count, frames or session.count)
        ground_truths = [video.labels(name) for name in video.frames[: session.count]]
        ids = objects_in(ground_truths[0])

        def give(frame: int) -> None:
            for i in ids:
                session.add_mask(frame, i, ground_truths[frame] == i)

        give(0)
        complete(session)
        for way in ways:
            found[way] = [mean_j(session, ground_truths)]
            chosen = []
            for number in range(corrections):
                chosen.append(WAYS[way](session, number, corrections))
                give(chosen[-1])
                complete(session)
                found[way].append(mean_j(session, ground_truths))
            print(f"{video.name}, {way}: frames {chosen}", file=sys.stderr, flush=True)
            for _ in range(corrections * len(ids)):
                session.undo()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder of a data set with a mask of every frame, such as DAVIS")
    parser.add_argument("--sequences", nargs="+", help="use only these sequences (default: all)")
    parser.add_argument("--ways", nargs="+", default=[*WAYS], choices=[*WAYS], help="ways to choose (default: all)")
    parser.add_argument("--corrections", type=int, default=3, help="number of corrections (default: %(default)s)")
    parser.add_argument("--frames", type=int, help="use only the first frames of each video (default: all)")
    parser.add_argument("--model", default="xmem-lite", help="bundled weights (default: %(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="a .safetensors file to use instead")
    parser.add_argument("--size", type=int, help="short side inside the network, in pixels (default: the model's)")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    options = parser.parse_args()
    try:
        if options.corrections < 1:
            raise ValueError(f"expected --corrections of at least 1, got {options.corrections}")
        layout = open_layout(options.dataset, only=options.sequences)
        network = weights.ready(options.checkpoint or options.model, dtype=options.dtype)
        print(f"| | | {' | '.join(map(str, range(options.corrections + 1)))} | gain a correction |")
        print(f"|---|---|{'---|' * (options.corrections + 2)}", flush=True)
        rows: dict[str, list[list[float]]] = {way: [] for way in options.ways}

        def show(name: str, way: str, scores: list[float]) -> None:
            gain = 100 * (scores[-1] - scores[0]) / options.corrections
            print(f"| {name} | {way} | {' | '.join(f'{100 * j:.1f}' for j in scores)} | {gain:.2f} |", flush=True)

        for video in layout.videos:
            found = measure(video, network, options.ways, options.corrections, options.size, options.frames)
            for way, scores in found.items():
                rows[way].append(scores)
                show(video.name, way, scores)
        for way in options.ways:
            show("mean", way, np.mean(rows[way], 0).tolist())
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()

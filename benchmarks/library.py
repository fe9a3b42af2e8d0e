"""Measure the object library: objects of the first half of each video, searched in the second half and in the other videos.

    python benchmarks/library.py DAVIS --size 240 --rows rows.json
    python benchmarks/library.py DAVIS --size 240 --sequences bmx-bumps dance-jump --checkpoint weights.safetensors

The object of a video is stored from its first half, in which it is followed from its first mask. It is then searched in frames
0, 8 and 16 of the second half and, as a harder case, in frames 0, 8 and 16 before the last one. From the first frame in which
it is found it is followed for some frames. The objects of all other videos are searched in the first frames of the same second
half (`--false`): what is found there is a false alarm.

The confidence is fitted to the first, third, ... video (`--fit`), and all figures are of the other videos. Without --fit, the
factors of `hodor.library.CALIBRATION` are used and all videos count. Frames count one by one; "videos" takes the first frame
that reaches the threshold, as `Library.find` does. J is in percent.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hodor.data.layouts import open_layout
from hodor.data.videofiles import VideoFiles
from hodor.library import CALIBRATION, EVERY, THRESHOLD, VIEWS, Stored, Views, confidence_of, look, store
from hodor.masks import objects_in
from hodor.metrics import jaccard
from hodor.models import weights
from hodor.models.base import Network
from hodor.tracking import Tracker

Row = dict[str, Any]


def stored_object(video: VideoFiles, network: Network, size: int | None, count: int, step: int) -> Stored:
    """Follow the object through the first half of a video, and return what a library stores of it."""
    tracker, views, indices = Tracker(network, size=size), Views(network, size), range(0, len(video.frames) // 2, step)
    for i, frame in zip(indices, video.pictures(indices), strict=True):
        labels = np.asarray(video.labels(video.frames[i])) if not tracker.objects else None
        if labels is not None and not objects_in(labels):
            continue
        tracked = tracker.step(frame, None if labels is None else (labels > 0).astype(np.uint8))
        views.add(frame, tracked.labels, tracked.confidence[1], given=labels is not None)
    return store(network, views, count)


def searched(video: VideoFiles, objects: dict[str, Stored], network: Network, size: int | None, options: Any) -> list[Row]:
    """Search every object in frames of the second half of a video."""
    half, last = len(video.frames) // 2, len(video.frames) - 1
    places = {half + EVERY * i: "early" for i in range(3)} | {last - EVERY * i: "late" for i in range(3)}
    rows: list[Row] = []
    tracker = Tracker(network, size=size)
    for place in sorted(p for p in places if half <= p <= last):
        with torch.inference_mode():
            frame = video.pictures([place])[0]
            image, own = tracker._image(frame)
            features = network.encode(image)
        ground_truth = np.asarray(video.labels(video.frames[place])) > 0
        for name, stored in objects.items():
            if name != video.name and place not in [half + EVERY * i for i in range(options.false)]:
                continue
            if name == video.name and not ground_truth.any():
                continue
            mask, mean, similarity = look(network, stored, features, own)
            row = {"object": name, "video": video.name, "frame": place, "part": places[place], "mean": mean}
            rows.append(row | {"similarity": similarity, "j": jaccard(mask, ground_truth)})
            if name == video.name and options.follow and place == half:
                rows[-1]["followed"] = followed(video, place, mask, network, size, options.follow)
            if options.pictures is not None and mask.any():
                draw(options.pictures, frame, mask, rows[-1], network.name)
    return rows


def followed(video: VideoFiles, place: int, mask: Any, network: Network, size: int | None, count: int) -> float:
    """Return the mean J of the frames after the one in which the object was found."""
    indices = range(place, min(place + 1 + count, len(video.frames)))
    tracker, scores = Tracker(network, size=size), []
    for i, frame in zip(indices, video.pictures(indices), strict=True):
        if i == place and not mask.any():
            return 0.0
        labels = tracker.track(frame, mask.astype(np.uint8) if i == place else None)
        scores.append(jaccard(labels == 1, np.asarray(video.labels(video.frames[i])) > 0))
    return float(np.mean(scores[1:]))


def draw(folder: Path, frame: Any, mask: Any, row: Row, name: str) -> None:
    """Save an overlay, named by its confidence."""
    from PIL import Image

    from hodor.frames import overlay

    confidence = confidence_of(name, row["mean"], row["similarity"])
    kind = "right" if row["object"] == row["video"] else "false"
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(overlay(frame, mask.astype(np.uint8))).reduce(2)
    picture.save(folder / f"{kind}_{confidence:.3f}_{row['object']}_in_{row['video']}_{row['frame']}.jpg")


def fit(rows: list[Row]) -> tuple[float, float, float]:
    """Fit the factors of the confidence: a logistic regression in which right and false pairs have the same weight."""
    rows = [r for r in rows if r["mean"] > 0 and (r["object"] != r["video"] or r["j"] > 0.5)]
    x = torch.tensor([[logit(r["mean"]), r["similarity"]] for r in rows], dtype=torch.double)
    y = torch.tensor([r["object"] == r["video"] for r in rows], dtype=torch.double)
    centre, spread = x.mean(0), x.std(0)
    weight = torch.where(y > 0, 0.5 / y.mean(), 0.5 / (1 - y).mean())
    factors = torch.zeros(3, dtype=torch.double, requires_grad=True)
    optimiser = torch.optim.LBFGS([factors], max_iter=100)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        z = ((x - centre) / spread) @ factors[:2] + factors[2]
        value = torch.nn.functional.binary_cross_entropy_with_logits(z, y, weight) + 0.01 * factors[:2].square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    a, b = (factors.detach()[:2] / spread).tolist()
    return a, b, float((factors[2] - (factors[:2] / spread * centre).sum()).detach())


def logit(mean: float) -> float:
    mean = min(max(mean, 1e-4), 1 - 1e-4)
    return math.log(mean / (1 - mean))


def report(rows: list[Row], factors: tuple[float, float, float], label: str) -> None:
    """Print the figures of these rows."""
    CALIBRATION["measured"] = factors
    for row in rows:
        row["confidence"] = confidence_of("measured", row["mean"], row["similarity"]) if row["mean"] else 0.0
    right = [r for r in rows if r["object"] == r["video"]]
    false = sorted((r["confidence"] for r in rows if r["object"] != r["video"]), reverse=True)
    print(f"{label}: {len(right)} frames with the object, {len(false)} frames of {pairs(rows)} false pairs")
    for part in ("early", "late"):
        these = [r for r in right if r["part"] == part]
        if these:
            found = [r for r in these if r["confidence"] >= THRESHOLD]
            print(
                f"  {part}: found on {share(found, these)} of frames, J there {mean_j(found)}, of all {mean_j(these)}"
                f"; videos {share(firsts(found), firsts(these))}, J on the first such frame {mean_j(firsts(found))}"
            )
    after = [100 * r["followed"] for r in right if "followed" in r]
    if after:
        print(f"  mean J of the frames after the first one: {np.mean(after):.1f}")
    if false:
        alarms = [r for r in rows if r["object"] != r["video"] and r["confidence"] >= THRESHOLD]
        of_pairs = 100 * pairs(alarms) / pairs(rows)
        print(f"  false alarms at {THRESHOLD}: {share(alarms, false)} of frames, {of_pairs:.1f} % of pairs")
        for rate in (0.01, 0.05, 0.1):
            limit = false[int(rate * len(false))]
            found = [r for r in right if r["confidence"] > limit]
            print(f"  at {rate:.0%} false alarms (confidence {limit:.3f}): {share(found, right)} of frames found")


def firsts(rows: list[Row]) -> list[Row]:
    """Of each video, the row with the first frame (the last one, for the late part)."""
    ordered = sorted(rows, key=lambda r: r["frame"] if r["part"] == "early" else -r["frame"])
    return list({r["video"]: r for r in reversed(ordered)}.values())


def pairs(rows: list[Row]) -> int:
    return len({(r["object"], r["video"]) for r in rows if r["object"] != r["video"]})


def share(part: list[Any], whole: list[Any]) -> str:
    return f"{100 * len(part) / max(len(whole), 1):.1f} %"


def mean_j(rows: list[Row]) -> str:
    return f"{100 * np.mean([r['j'] for r in rows]):.1f}" if rows else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder of a data set with a mask of every frame, such as DAVIS")
    parser.add_argument("--sequences", nargs="+", help="use only these sequences (default: all)")
    parser.add_argument("--only", nargs="+", help="search only in these sequences, for the objects of all (default: in all)")
    parser.add_argument("--model", default="xmem-lite", help="bundled weights (default: %(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="a .safetensors file to use instead")
    parser.add_argument("--size", type=int, help="short side inside the network, in pixels (default: the model's)")
    parser.add_argument("--views", type=int, default=VIEWS, help="maximum number of views stored (default: %(default)s)")
    parser.add_argument(
        "--false", type=int, default=1, help="frames in which other objects are searched (default: %(default)s)"
    )
    parser.add_argument("--step", type=int, default=2, help="use every n-th frame of the first half (default: %(default)s)")
    parser.add_argument("--follow", type=int, default=12, help="frames followed after the first one (default: %(default)s)")
    parser.add_argument("--fit", action="store_true", help="fit the confidence to every second video, report on the others")
    parser.add_argument("--rows", type=Path, help="also write one row a search to this JSON file; read it if it exists")
    parser.add_argument("--pictures", type=Path, help="also save overlays of what was found to this folder")
    options = parser.parse_args()
    try:
        network = weights.ready(options.checkpoint or options.model)
        if options.rows and options.rows.exists():
            rows = json.loads(options.rows.read_text())
        else:
            rows = measure(network, options)
        if options.rows:
            options.rows.write_text(json.dumps(rows))
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")
    if not options.fit:
        report(rows, CALIBRATION.get(network.name, CALIBRATION["xmem-lite"]), "all videos")
        return
    names = sorted({r["video"] for r in rows})
    parts = [[r for r in rows if {r["object"], r["video"]} <= set(names[i::2])] for i in (0, 1)]
    factors = fit(parts[0])
    print(f"factors: {', '.join(f'{f:.3f}' for f in factors)}")
    report(parts[0], factors, "videos of the fit")
    report(parts[1], factors, "other videos")


def measure(network: Network, options: argparse.Namespace) -> list[Row]:
    """Search all objects in all videos; a note on stderr after each."""
    layout, began = open_layout(options.dataset, only=options.sequences), time.monotonic()
    objects = {}
    for video in layout.videos:
        objects[video.name] = stored_object(video, network, options.size, options.views, options.step)
        print(f"{time.monotonic() - began:.0f} s: stored {video.name}", file=sys.stderr, flush=True)
    rows = []
    for video in layout.videos:
        if not options.only or video.name in options.only:
            rows += searched(video, objects, network, options.size, options)
            print(f"{time.monotonic() - began:.0f} s: searched in {video.name}", file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    main()

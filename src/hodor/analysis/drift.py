"""Drift: how much quality a network loses because it stores its own predictions.

Every video is followed twice: once as usual, and once with an oracle that stores the ground-truth masks instead of the
predictions. The difference in J&F is the memory-oracle gap. It separates errors that accumulate in the memory from errors in
matching and drawing a single frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hodor.analysis import plots, runs
from hodor.scoring.metrics import frame_scores

if TYPE_CHECKING:
    from hodor.data.layouts import Layout, VideoFiles
    from hodor.models.base import Network

NEAR = 10
"""Pixels: an error at most this far from the ground-truth outline, along rows and columns, counts as near."""
PARTS = 10
"""Parts of equal length into which every video is divided."""
ERRORS = ("missing_near", "missing_far", "false_near", "false_far")


class FrameDrift(NamedTuple):
    """The scores and errors of one frame.

    Attributes:
        place: position in the video in [0, 1]; 0 is the first scored frame, 1 the last frame.
        scores: object id -> (J, F), each in [0, 1].
        errors: number of pixels of each kind in `ERRORS`, summed over the objects.
        area: number of ground-truth pixels, summed over the objects.
    """

    place: float
    scores: dict[int, tuple[float, float]]
    errors: tuple[int, ...]
    area: int


def measure(
    network: Network, video: VideoFiles, *, oracle: bool = False, history: int | None = None, size: int | None = None
) -> list[FrameDrift]:
    """Track a video and score every frame that has a ground-truth mask, without the frames on which masks are given.

    Args:
        network: the network.
        video: the video with its masks.
        oracle: store the ground-truth masks instead of the predictions.
        history: number of past frames kept in memory (T). Default: the network's own.
        size: short side inside the network, in pixels. Default: the network's own.

    Raises:
        ValueError: "expected a mask on every frame of bear for the oracle, got 1 of 82".
    """
    last = max(1, len(video.frames) - 1)
    results = []
    for position, followed, ids in runs.follow(network, video, history=history, size=size, oracle=oracle):
        if not ids or followed.frame not in video.masks:
            continue
        labels, ground_truth = followed.labels, video.labels(followed.frame)
        j, f = frame_scores(labels, ground_truth, ids)
        errors = np.sum([error_areas(labels == i, ground_truth == i) for i in ids], 0)
        scores = {i: (float(a), float(b)) for i, a, b in zip(ids, j, f, strict=True)}
        area = int(np.isin(ground_truth, ids).sum())
        results.append(FrameDrift(position / last, scores, tuple(int(e) for e in errors), area))
    return results


def error_areas(mask: NDArray[np.bool_], ground_truth: NDArray[np.bool_], near: int = NEAR) -> tuple[int, int, int, int]:
    """Count the wrong pixels of one object by kind and by distance from the outline.

    Args:
        mask: predicted mask, bool [H, W].
        ground_truth: ground-truth mask, bool [H, W].
        near: distance in pixels, along rows and columns, up to which an error is near the ground-truth outline.

    Returns:
        Numbers of pixels: missing near, missing far, false near, false far. Where the object has no ground-truth pixel,
        every false pixel is far.
    """
    missing, false = ground_truth & ~mask, mask & ~ground_truth
    grown, shrunk = _grown(ground_truth, near), ~_grown(~ground_truth, near)
    band = grown & ~shrunk
    counts = (missing & band, missing & ~band, false & band, false & ~band)
    return tuple(int(c.sum()) for c in counts)  # type: ignore[return-value]


def _grown(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """A mask grown by a square of `by` pixels to each side, one axis after the other, by running sums."""
    for axis in (0, 1):
        moved = np.moveaxis(mask, axis, 0)
        padded = np.concatenate([np.zeros((by + 1, *moved.shape[1:])), moved, np.zeros((by, *moved.shape[1:]))])
        total = padded.cumsum(0)
        mask = np.moveaxis(total[2 * by + 1 :] - total[: -2 * by - 1] > 0, 0, axis)
    return mask


def summary(frames: Sequence[FrameDrift]) -> dict[str, Any]:
    """Summarise the frames of a video.

    Returns:
        "J&F", "J", "F": means over objects of the means over frames, in [0, 1]; "J_by_part": mean J in each of `PARTS`
        parts of equal length, None for a part without a frame; "errors": pixels of each kind of `ERRORS` as a share of all
        ground-truth pixels.
    """
    ids = sorted({i for frame in frames for i in frame.scores})
    rows = {i: [frame.scores[i] for frame in frames if i in frame.scores] for i in ids}
    j = float(np.mean([np.mean([row[0] for row in rows[i]]) for i in ids]))
    f = float(np.mean([np.mean([row[1] for row in rows[i]]) for i in ids]))
    parts: list[list[float]] = [[] for _ in range(PARTS)]
    for frame in frames:
        parts[min(PARTS - 1, int(frame.place * PARTS))] += [score[0] for score in frame.scores.values()]
    area = max(1, sum(frame.area for frame in frames))
    errors = {name: sum(frame.errors[k] for frame in frames) / area for k, name in enumerate(ERRORS)}
    by_part = [float(np.mean(part)) if part else None for part in parts]
    return {"J&F": (j + f) / 2, "J": j, "F": f, "J_by_part": by_part, "errors": errors}


def find(
    network: Network,
    layout: Layout,
    *,
    history: int | None = None,
    size: int | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure the drift of every video of a data set.

    Args:
        network: the network.
        layout: the data set; every frame needs a mask.
        history: number of past frames kept in memory (T). Default: the network's own.
        size: short side inside the network, in pixels. Default: the network's own.
        progress: is called with the number of frames done, and of all.

    Returns:
        "network", "data"; "sequences": for each video "sequence", "own" and "oracle" (see `summary`) and "gap", the
        difference of their J&F; "mean": the same over the videos.

    Raises:
        ValueError: as `measure`; "expected a video with masks on more frames than the given ones, got none".
    """
    done, total = 0, 2 * sum(len(video.frames) for video in layout.videos)
    sequences = []
    for video in layout.videos:
        both = {}
        for name, oracle in (("own", False), ("oracle", True)):
            frames = measure(network, video, oracle=oracle, history=history, size=size)
            if frames:
                both[name] = summary(frames)
            progress(done := done + len(video.frames), total)
        if both:
            gap = both["oracle"]["J&F"] - both["own"]["J&F"]
            sequences.append({"sequence": video.name, **both, "gap": gap})
    if not sequences:
        raise ValueError("expected a video with masks on more frames than the given ones, got none")
    mean = {name: _mean([sequence[name] for sequence in sequences]) for name in ("own", "oracle")}
    mean["gap"] = float(np.mean([sequence["gap"] for sequence in sequences]))
    return {"network": runs.about(network, size), "data": layout.root.name, "sequences": sequences, "mean": mean}


def _mean(summaries: Sequence[dict[str, Any]]) -> Any:
    """The mean of nested numbers; None where no summary has a number."""
    first = summaries[0]
    if isinstance(first, dict):
        return {name: _mean([s[name] for s in summaries]) for name in first}
    if isinstance(first, list):
        return [_mean(list(column)) for column in zip(*summaries, strict=True)]
    numbers = [s for s in summaries if s is not None]
    return float(np.mean(numbers)) if numbers else None


def draw(data: dict[str, Any], path: Path) -> None:
    """Draw J over the length of the videos and the error areas, as PNG or SVG, with the data beside it as JSON."""
    mean, sequences = data["mean"], data["sequences"]
    with plots.page(path, data, (9.0, 3.4)) as figure:
        over_time, errors = figure.subplots(1, 2)
        x = (np.arange(PARTS) + 0.5) / PARTS
        for number, sequence in enumerate(sequences if len(sequences) > 1 else ()):
            y = [np.nan if j is None else 100 * j for j in sequence["own"]["J_by_part"]]
            over_time.plot(x, y, color="#bbbbbb", linewidth=0.8, label=None if number else "each video, own masks stored")
        for name, label, colour in (
            ("own", "mean, own masks stored", plots.COLOURS[1]),
            ("oracle", "mean, ground truth stored", plots.COLOURS[0]),
        ):
            y = [np.nan if j is None else 100 * j for j in mean[name]["J_by_part"]]
            over_time.plot(x, y, "o-", color=colour, label=label)
        over_time.set_title("J, per cent, over the video")
        over_time.set_xlabel("position in the video")
        over_time.legend(fontsize=7.5)
        places = np.arange(len(ERRORS))
        for offset, name, label, colour in (
            (-0.2, "own", "own masks stored", plots.COLOURS[1]),
            (0.2, "oracle", "ground truth stored", plots.COLOURS[0]),
        ):
            errors.bar(places + offset, [100 * mean[name]["errors"][e] for e in ERRORS], 0.4, color=colour, label=label)
        errors.set_xticks(places, [e.replace("_", ",\n") for e in ERRORS])
        errors.set_title(f"wrong pixels, per cent (near: within {NEAR} px)")
        errors.legend(fontsize=7.5)
        about = data["network"]
        what = f"{len(sequences)} videos of {data['data']}" if len(sequences) > 1 else sequences[0]["sequence"]
        figure.suptitle(
            f"{about['model']}, short side {about['size']}; {what}: "
            f"J&F {100 * mean['own']['J&F']:.1f}, with ground truth stored {100 * mean['oracle']['J&F']:.1f}",
            fontsize=9,
        )

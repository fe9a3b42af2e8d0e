"""What a network finds when its first mask is empty: the coarse masks that one-shot training begins with (its Fig. 1a, 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hodor.analysis import plots
from hodor.analysis.views import Picture, Remembers, after_reference, follow, heat, reference, shrunk, truth_of
from hodor.masks import Labels, fit_labels
from hodor.models.base import Network
from hodor.tracking import Tracker
from hodor.video.render import outline, overlay

if TYPE_CHECKING:
    from hodor.data.layouts import VideoFiles

WIDTH = 420
"""Panels are at most so wide, in pixels."""
GREEN = (60, 220, 90)


@dataclass(frozen=True)
class Found:
    """One frame: the true mask of all objects together, the soft mask found, both [h, w] at the size of the panel, and scores
    at the picture's own size.

    j: Jaccard index of the pixels that the object won. best_j: of the pixels above `threshold`, the best of all thresholds
    for this frame, which needs the ground truth. centre_j: the same for a spot in the middle of the picture, its radius the best for
    this frame: what knowing nothing but the ground truth's size gives. All are 0 where the object is absent and something was found,
    j is 1 where nothing is and nothing was.
    """

    frame: str
    picture: Picture
    ground_truth: Labels
    soft: npt.NDArray[np.float32]
    j: float
    best_j: float
    threshold: float
    centre_j: float


@dataclass(frozen=True)
class Row:
    """One video's row: the picture of the frame that was given empty, its true mask, and the later frames."""

    video: str
    start: str
    picture: Picture
    ground_truth: Labels
    frames: tuple[Found, ...]


def find(
    network: Network,
    video: VideoFiles,
    *,
    frames: int = 5,
    remembers: Remembers = "tracked",
    history: int | None = None,
    size: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Row:
    """Give an empty mask of one object on the video's first given frame and see what is found on evenly spaced later ones.

    remembers: "tracked": every frame's soft mask is remembered, as on the way out of one-shot training; "first": the frame
    with the empty mask alone speaks. Raises ValueError as `views.after_reference`.
    """
    start, chosen = reference(video), after_reference(video, frames)
    tracker = Tracker(network, history=history, size=size, hold_lost=False)
    found = []
    for visit in follow(tracker, video, chosen, remembers, empty=True, progress=progress):
        true, soft = visit.ground_truth > 0, visit.tracked.soft()[0]
        best, threshold = best_jaccard(soft, true)
        picture = shrunk(visit.picture, WIDTH)
        small = picture.shape[0], picture.shape[1]
        found.append(
            Found(
                video.frames[visit.index],
                picture,
                fit_labels(true.astype(np.uint8), small),
                fit_labels((soft * 65535).astype(np.uint16), small).astype(np.float32) / np.float32(65535),
                jaccard(visit.tracked.labels > 0, true),
                best,
                threshold,
                best_jaccard(middle(true.shape[0], true.shape[1]), true)[0],
            )
        )
    first = video.pictures([start])[0]
    ground_truth = (truth_of(video, start, first) > 0).astype(np.uint8)
    first = shrunk(first, WIDTH)
    return Row(video.name, video.frames[start], first, fit_labels(ground_truth, first.shape[:2]), tuple(found))


def jaccard(found: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_]) -> float:
    """Intersection over union; 1 where both are empty."""
    union = int((found | true).sum())
    return int((found & true).sum()) / union if union else 1.0


def best_jaccard(soft: npt.NDArray[np.floating[Any]], true: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """-> the highest Jaccard index of `soft >= threshold` over all thresholds, and the threshold that reaches it."""
    order = soft.ravel().argsort()[::-1]
    values = soft.ravel()[order]
    right = true.ravel()[order].cumsum()
    every = np.arange(1, len(values) + 1)
    scores = right / (every + int(true.sum()) - right)
    scores[:-1][values[:-1] == values[1:]] = 0  # equal values pass a threshold together
    best = int(scores.argmax())
    return float(scores[best]), float(values[best])


def middle(height: int, width: int) -> npt.NDArray[np.float32]:
    """-> [H, W], 1 in the middle of the picture, less with the distance from it, 0 in the corners; ellipses of its shape."""
    y, x = (((np.arange(n) + 0.5) / n * 2 - 1) ** 2 for n in (height, width))
    return (1 - (y[:, None] + x) / 2).astype(np.float32)


def measure(rows: Sequence[Row]) -> dict[str, Any]:
    """The figure's data: the scores of every frame, and their means over all frames."""
    names = ("j", "best_j", "centre_j")
    every = [one for row in rows for one in row.frames]
    return {
        "mean": {name: float(np.mean([getattr(one, name) for one in every])) for name in names},
        "sequences": [
            {
                "video": row.video,
                "empty_on": row.start,
                "frames": [
                    {
                        "frame": one.frame,
                        **{name: getattr(one, name) for name in names},
                        "threshold": one.threshold,
                        "mean_soft": float(one.soft.mean()),
                    }
                    for one in row.frames
                ],
            }
            for row in rows
        ],
    }


def draw(path: Path, rows: Sequence[Row], data: Mapping[str, Any]) -> None:
    """The figure, PNG or SVG, and `data` beside it. Two rows of panels a video: above, pictures with the true mask; below, the
    soft masks, with the true outline white and that of the best threshold green. Each soft map is scaled by its own peak,
    which its title tells."""
    from matplotlib import colormaps

    colours = colormaps["inferno"]
    across = 1 + max(len(row.frames) for row in rows)
    ratio = max(row.picture.shape[0] / row.picture.shape[1] for row in rows)
    width = 2.3
    size = width * across + 0.2, (2 * (width * ratio + 0.28) + 0.35) * len(rows)
    with plots.page(path, data, size) as figure:
        for part, row in zip(figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
            title = f"{row.video}: the first mask empty. White: the ground truth; green: the soft mask at its best threshold"
            part.suptitle(title, x=0.005, ha="left", fontsize=10, fontweight="bold")
            axes = part.subplots(2, across, squeeze=False)
            for axis in axes.flat:
                plots.bare(axis)
            _panel(axes[0, 0], overlay(row.picture, row.ground_truth), f"frame {row.start}, true mask")
            _panel(axes[1, 0], np.zeros_like(row.picture), "the mask given: empty")
            for column, one in enumerate(row.frames, 1):
                _panel(axes[0, column], overlay(one.picture, one.ground_truth), f"frame {one.frame}, true mask")
                peak = max(float(one.soft.max()), 1e-6)
                title = f"J {one.j:.2f}, best {one.best_j:.2f}, middle {one.centre_j:.2f}; peak {peak:.2g}"
                shown = heat(one.picture, one.soft / peak, one.ground_truth, colours)
                shown[outline((one.soft >= one.threshold).astype(np.uint8)) & (shown != 255).any(2)] = GREEN
                _panel(axes[1, column], shown, title, 7)


def _panel(axis: Any, picture: Picture, title: str, font: float = 8) -> None:
    axis.imshow(picture, interpolation="antialiased")
    axis.set_title(title, fontsize=font, pad=2)

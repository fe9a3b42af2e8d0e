"""Masks that a network predicts from an empty first mask: the coarse masks of one-shot training (its Fig. 1a, 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hodor.analysis import plots
from hodor.analysis.views import Picture, Remembers, after_reference, follow, ground_truth_of, heat, reference, shrunk
from hodor.masks import Labels, fit_labels
from hodor.models.base import Network
from hodor.tracking import Tracker
from hodor.video.render import outline, overlay

if TYPE_CHECKING:
    from hodor.data.layouts import VideoFiles

WIDTH = 420
"""Largest width of a panel, in pixels."""
GREEN = (60, 220, 90)


@dataclass(frozen=True)
class Found:
    """One frame of a video. Scores are computed at the size of the original picture.

    Attributes:
        frame: name of the frame.
        picture: RGB, uint8 [h, w, 3], at the size of the panel.
        ground_truth: ground-truth mask of all objects together, [h, w].
        soft: predicted soft mask, [h, w].
        j: Jaccard index of the pixels assigned to the object. If the frame shows no object, 1 if no pixel is assigned, else 0.
        best_j: highest Jaccard index over all thresholds of the soft mask. It is chosen with the ground truth.
        threshold: the threshold that gives `best_j`.
        centre_j: highest Jaccard index of an elliptical spot in the middle of the picture, over all its sizes. It is the score
            of a prediction that uses only the size of the ground truth.
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
    """The frames of one video.

    Attributes:
        video: name of the video.
        start: name of the frame with the empty mask.
        picture: RGB of that frame, uint8 [h, w, 3].
        ground_truth: its ground-truth mask, [h, w].
        frames: the later frames.
    """

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
    """Give an empty mask of one object on the first frame with a given mask and score evenly spaced later frames.

    Args:
        network: the network.
        video: the video.
        frames: largest number of frames.
        remembers: "tracked": the soft mask of every frame enters the memory, as on the outward path of one-shot training.
            "first": only the frame with the empty mask is kept in memory.
        history: number of past frames kept in memory (T). Default: the network's own.
        size: short side inside the network, in pixels. Default: the network's own.
        progress: function that is called with the number of frames done and their total.

    Raises:
        ValueError: the video has no suitable frames; see `views.after_reference`.
    """
    start, chosen = reference(video), after_reference(video, frames)
    tracker = Tracker(network, history=history, size=size, hold_lost=False)
    found = []
    for frame in follow(tracker, video, chosen, remembers, empty=True, progress=progress):
        mask, soft = frame.ground_truth > 0, frame.tracked.soft()[0]
        best, threshold = best_jaccard(soft, mask)
        picture = shrunk(frame.picture, WIDTH)
        small = picture.shape[0], picture.shape[1]
        found.append(
            Found(
                video.frames[frame.index],
                picture,
                fit_labels(mask.astype(np.uint8), small),
                fit_labels((soft * 65535).astype(np.uint16), small).astype(np.float32) / np.float32(65535),
                jaccard(frame.tracked.labels > 0, mask),
                best,
                threshold,
                best_jaccard(middle(mask.shape[0], mask.shape[1]), mask)[0],
            )
        )
    first = video.pictures([start])[0]
    ground_truth = (ground_truth_of(video, start, first) > 0).astype(np.uint8)
    first = shrunk(first, WIDTH)
    return Row(video.name, video.frames[start], first, fit_labels(ground_truth, first.shape[:2]), tuple(found))


def jaccard(found: npt.NDArray[np.bool_], ground_truth: npt.NDArray[np.bool_]) -> float:
    """Return intersection over union of two masks; 1 if both are empty."""
    union = int((found | ground_truth).sum())
    return int((found & ground_truth).sum()) / union if union else 1.0


def best_jaccard(soft: npt.NDArray[np.floating[Any]], ground_truth: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Return the highest Jaccard index of `soft >= threshold` over all thresholds, and that threshold."""
    order = soft.ravel().argsort()[::-1]
    values = soft.ravel()[order]
    intersection = ground_truth.ravel()[order].cumsum()
    predicted = np.arange(1, len(values) + 1)
    scores = intersection / (predicted + int(ground_truth.sum()) - intersection)
    scores[:-1][values[:-1] == values[1:]] = 0  # a threshold cannot separate equal values
    best = int(scores.argmax())
    return float(scores[best]), float(values[best])


def middle(height: int, width: int) -> npt.NDArray[np.float32]:
    """Return [H, W] with 1 in the middle, decreasing to 0 in the corners; its level sets are ellipses of the picture's
    shape."""
    y, x = (((np.arange(n) + 0.5) / n * 2 - 1) ** 2 for n in (height, width))
    return (1 - (y[:, None] + x) / 2).astype(np.float32)


def measure(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the data of the figure: the scores of every frame, and their means over all frames."""
    names = ("j", "best_j", "centre_j")
    every = [frame for row in rows for frame in row.frames]
    return {
        "mean": {name: float(np.mean([getattr(frame, name) for frame in every])) for name in names},
        "sequences": [
            {
                "video": row.video,
                "empty_on": row.start,
                "frames": [
                    {
                        "frame": frame.frame,
                        **{name: getattr(frame, name) for name in names},
                        "threshold": frame.threshold,
                        "mean_soft": float(frame.soft.mean()),
                    }
                    for frame in row.frames
                ],
            }
            for row in rows
        ],
    }


def draw(path: Path, rows: Sequence[Row], data: Mapping[str, Any]) -> None:
    """Draw two rows of panels for each video, and write the data beside the figure.

    The upper row shows the pictures with the ground-truth mask. The lower row shows the soft masks, with the ground-truth
    outline in white and the outline at the best threshold in green. Each soft mask is scaled by its maximum, which is in its
    title.

    Args:
        path: the figure, PNG or SVG.
        rows: the videos, from `find`.
        data: the data that are written as JSON.
    """
    from matplotlib import colormaps

    colours = colormaps["inferno"]
    across = 1 + max(len(row.frames) for row in rows)
    ratio = max(row.picture.shape[0] / row.picture.shape[1] for row in rows)
    width = 2.3
    size = width * across + 0.2, (2 * (width * ratio + 0.28) + 0.35) * len(rows)
    with plots.page(path, data, size) as figure:
        for part, row in zip(figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
            title = f"{row.video}: empty first mask. White: ground truth; green: soft mask at its best threshold"
            part.suptitle(title, x=0.005, ha="left", fontsize=10, fontweight="bold")
            axes = part.subplots(2, across, squeeze=False)
            for axis in axes.flat:
                plots.bare(axis)
            _panel(axes[0, 0], overlay(row.picture, row.ground_truth), f"frame {row.start}, ground truth")
            _panel(axes[1, 0], np.zeros_like(row.picture), "given mask: empty")
            for column, frame in enumerate(row.frames, 1):
                _panel(axes[0, column], overlay(frame.picture, frame.ground_truth), f"frame {frame.frame}, ground truth")
                peak = max(float(frame.soft.max()), 1e-6)
                title = f"J {frame.j:.2f}, best {frame.best_j:.2f}, middle {frame.centre_j:.2f}; peak {peak:.2g}"
                shown = heat(frame.picture, frame.soft / peak, frame.ground_truth, colours)
                shown[outline((frame.soft >= frame.threshold).astype(np.uint8)) & (shown != 255).any(2)] = GREEN
                _panel(axes[1, column], shown, title, 7)


def _panel(axis: Any, picture: Picture, title: str, font: float = 8) -> None:
    """Draw one panel with its title."""
    axis.imshow(picture, interpolation="antialiased")
    axis.set_title(title, fontsize=font, pad=2)

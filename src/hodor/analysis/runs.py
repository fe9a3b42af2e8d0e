"""Tracking and scoring of a video in memory, used by the figures and the ablations."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from hodor.data.layouts import VideoFiles
    from hodor.evaluation.datasets import Followed
    from hodor.models.base import Network


@dataclass(frozen=True)
class Scored:
    """The scores of one video, by the rule of DAVIS 2017.

    Attributes:
        name: name of the video.
        objects: means of J and F over the frames of each scored object, {id: (J, F)}, in [0, 1].
        frames: number of frames that were tracked.
        fps: frames per second, from the median time of a frame after the memory is full. It includes waiting for the image and
            excludes scoring.
    """

    name: str
    objects: Mapping[int, tuple[float, float]]
    frames: int
    fps: float

    def to_json(self) -> dict[str, Any]:
        """Return sequence, frames, fps, J&F, J, F and `objects` {id: {J, F}} (means, in [0, 1])."""
        objects = {str(i): {"J": j, "F": f} for i, (j, f) in self.objects.items()}
        return {
            "sequence": self.name,
            "frames": self.frames,
            "fps": self.fps,
            **means([{"objects": objects}]),
            "objects": objects,
        }


def scored(network: Network, video: VideoFiles, *, history: int | None = None, size: int | None = None) -> Scored:
    """Track the objects of a video from its given masks and score the predictions against all its masks.

    Args:
        network: the network.
        video: the video.
        history: number of past frames kept in memory (T). Default: the network's own.
        size: short side inside the network, in pixels. Default: the network's own.

    Raises:
        ValueError: "expected at least 3 ground-truth masks of bear, got 1: the first and the last one are not scored".
    """
    from hodor.evaluate import evaluate
    from hodor.evaluation import datasets

    labelled = set(video.masks)
    if len(labelled) < 3:
        expected = f"expected at least 3 ground-truth masks of {video.name}, got {len(labelled)}"
        raise ValueError(f"{expected}: the first and the last one are not scored")
    labels: dict[str, np.ndarray] = {}
    seconds: list[float] = []
    began = time.perf_counter()
    for followed in datasets.follow(network, video, history=history, size=size):
        seconds.append(time.perf_counter() - began)
        if followed.frame in labelled:
            labels[followed.frame] = followed.labels
        began = time.perf_counter()
    ground_truth = {frame: video.labels(frame) for frame in video.frames if frame in labelled}
    (scores,) = evaluate({video.name: labels}, {video.name: ground_truth}).to_json()["sequences"]
    objects = {item["object"]: (item["summary"]["J"], item["summary"]["F"]) for item in scores["objects"]}
    full = seconds[(network.history if history is None else history) + 1 :] or seconds[1:] or seconds
    return Scored(video.name, objects, len(seconds), 1 / float(np.median(full)))


class FrameResult(NamedTuple):
    """The tracking result of a frame.

    Attributes:
        position: index of the frame in the video.
        followed: the result of `datasets.follow`.
        predicted: objects that were predicted, without those whose masks are given on this frame.
    """

    position: int
    followed: Followed
    predicted: tuple[int, ...]


def follow(
    network: Network,
    video: VideoFiles,
    *,
    history: int | None = None,
    size: int | None = None,
    oracle: bool = False,
) -> Iterator[FrameResult]:
    """Track a video and yield the result of every frame.

    Args:
        network: the network.
        video: the video.
        history: number of past frames kept in memory (T). Default: the network's own.
        size: short side inside the network, in pixels. Default: the network's own.
        oracle: store the ground-truth masks instead of the predictions, see `datasets.follow`.
    """
    from hodor.evaluation import datasets

    before: set[int] = set()
    for index, followed in enumerate(datasets.follow(network, video, history=history, size=size, oracle=oracle)):
        objects = followed.tracked.objects
        yield FrameResult(index, followed, tuple(i for i in objects if i in before))
        before.update(objects)


def means(runs: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the means of J&F, J and F over all objects of all sequences. Each object counts once (the rule of DAVIS).

    Args:
        runs: values of `Scored.to_json`.
    """
    rows = [(item["J"], item["F"]) for run in runs for item in run["objects"].values()]
    j, f = (statistics.fmean(column) for column in zip(*rows, strict=True))
    return {"J&F": (j + f) / 2, "J": j, "F": f}


def about(network: Network, size: int | None) -> dict[str, Any]:
    """Return what the data of a figure depend on besides the videos: network, weights, size, precision and device."""
    from hodor.models.weights import weights_hash

    first = next(network.parameters())
    return {
        "model": network.name,
        "weights": weights_hash(network)[:16],
        "size": network.size if size is None else size,
        "dtype": str(first.dtype).removeprefix("torch."),
        "device": first.device.type,
    }

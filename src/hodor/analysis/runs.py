"""Follow the objects of a benchmark's video and score them, in memory: what the figures and the ablations share."""

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
    """One video, followed and scored by the rule of DAVIS 2017.

    objects: of each supervised object the means of J and F over its frames, in [0, 1]. frames: frames that were followed. fps:
    frames a second, of the median frame once the memory is full; waiting for the picture is in it, scoring is not.
    """

    name: str
    objects: Mapping[int, tuple[float, float]]
    frames: int
    fps: float

    def to_json(self) -> dict[str, Any]:
        """sequence, frames, fps, J&F, J, F, and `objects` {id: {J, F}} (means, in [0, 1])."""
        objects = {str(i): {"J": j, "F": f} for i, (j, f) in self.objects.items()}
        return {
            "sequence": self.name,
            "frames": self.frames,
            "fps": self.fps,
            **means([{"objects": objects}]),
            "objects": objects,
        }


def scored(network: Network, video: VideoFiles, *, history: int | None = None, size: int | None = None) -> Scored:
    """Follow the video's objects from its given masks and score what came out against all its masks.

    Raises ValueError: "sequence: 1 true masks, want 3 or more to have one to judge".
    """
    from hodor.evaluate import evaluate
    from hodor.evaluation import datasets

    wanted = set(video.masks)
    if len(wanted) < 3:
        raise ValueError(f"{video.name}: {len(wanted)} true masks, want 3 or more to have one to judge")
    labels: dict[str, np.ndarray] = {}
    seconds: list[float] = []
    began = time.perf_counter()
    for followed in datasets.follow(network, video, history=history, size=size):
        seconds.append(time.perf_counter() - began)
        if followed.frame in wanted:
            labels[followed.frame] = followed.labels
        began = time.perf_counter()
    ground_truth = {frame: video.labels(frame) for frame in video.frames if frame in wanted}
    (told,) = evaluate({video.name: labels}, {video.name: ground_truth}).to_json()["sequences"]
    objects = {item["object"]: (item["summary"]["J"], item["summary"]["F"]) for item in told["objects"]}
    full = seconds[(network.history if history is None else history) + 1 :] or seconds[1:] or seconds
    return Scored(video.name, objects, len(seconds), 1 / float(np.median(full)))


class Moment(NamedTuple):
    """A followed frame: its place in the video, from 0; what the tracker says; and the ids that it predicted here, without
    those that were handed over on this very frame."""

    place: int
    followed: Followed
    predicted: tuple[int, ...]


def moments(network: Network, video: VideoFiles, *, history: int | None = None, size: int | None = None) -> Iterator[Moment]:
    """Follow a video, frame by frame; see `datasets.follow`."""
    from hodor.evaluation import datasets

    before: set[int] = set()
    for place, followed in enumerate(datasets.follow(network, video, history=history, size=size)):
        objects = followed.tracked.objects
        yield Moment(place, followed, tuple(i for i in objects if i in before))
        before.update(objects)


def means(runs: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """J&F, J and F over all objects of all sequences, each object counting once (the DAVIS rule), from `Scored.to_json`."""
    rows = [(item["J"], item["F"]) for run in runs for item in run["objects"].values()]
    j, f = (statistics.fmean(column) for column in zip(*rows, strict=True))
    return {"J&F": (j + f) / 2, "J": j, "F": f}


def about(network: Network, size: int | None) -> dict[str, Any]:
    """What a figure's numbers depend on besides the videos: the network, its weights, how it ran."""
    from hodor.models.weights import weights_hash

    first = next(network.parameters())
    return {
        "model": network.name,
        "weights": weights_hash(network)[:16],
        "size": network.size if size is None else size,
        "dtype": str(first.dtype).removeprefix("torch."),
        "device": first.device.type,
    }

"""J&F on held-out videos while a network trains, by the tracker that users run."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hodor.data.layouts import KindOrAuto, VideoFiles, open_layout
from hodor.evaluation.datasets import follow
from hodor.models.base import Network
from hodor.scoring.metrics import average, frame_scores, statistics


@dataclass(frozen=True)
class Validation:
    """Scores of the averaged weights on videos that are not trained on, every `every` steps and after the last; 0: never.

    root, kind, split: a benchmark's folder, as `data.layouts.open_layout` understands it; sequences: these alone, () all.
    size: short side inside, in pixels; None takes the model's. history: frames remembered; None takes the network's own.
    """

    every: int = 0
    root: Path | None = None
    kind: KindOrAuto = "auto"
    split: str | None = None
    sequences: tuple[str, ...] = ()
    size: int | None = None
    history: int | None = None

    def videos(self) -> tuple[VideoFiles, ...]:
        """() where there is nothing to do. Raises ValueError: "validation.every is 100, but validation.root is not given"."""
        if not self.every:
            return ()
        if self.root is None:
            raise ValueError(f"validation.every is {self.every}, but validation.root is not given: name a benchmark's folder")
        return open_layout(self.root, self.kind, self.split, self.sequences or None).videos


@dataclass(frozen=True)
class Row:
    """J and F of one object over its supervised frames, each in [0, 1]."""

    sequence: str
    object: int
    j: tuple[float, ...]
    f: tuple[float, ...]


def validate(network: Network, videos: Iterable[VideoFiles], history: int | None = None, size: int | None = None) -> list[Row]:
    """Follow every video with a folded copy of the network; -> one row an object.

    An object is supervised on every annotated frame after the one on which it was given, but the video's last, as DAVIS does.
    """
    ready = copy.deepcopy(network).eval().requires_grad_(False)
    if not ready.folded:
        ready.fold()
    return [row for video in videos for row in _rows(ready, video, history, size)]


def _rows(network: Network, video: VideoFiles, history: int | None, size: int | None) -> list[Row]:
    j: dict[int, list[float]] = {}
    f: dict[int, list[float]] = {}
    known: set[int] = set()
    for followed in follow(network, video, history=history, size=size):
        if followed.frame in video.masks and known and followed.frame != video.frames[-1]:
            ids = sorted(known)
            scores = frame_scores(followed.labels, video.labels(followed.frame), ids)
            for i, region, boundary in zip(ids, scores.j.tolist(), scores.f.tolist(), strict=True):
                j.setdefault(i, []).append(region)
                f.setdefault(i, []).append(boundary)
        known |= set(followed.tracked.objects)
    return [Row(video.name, i, tuple(j[i]), tuple(f[i])) for i in sorted(j)]


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """-> {"J&F", "J", "F", "sequences": {name: J&F}}; every object counts once (DAVIS rule). Raises ValueError where there is
    no row: "no object of the held-out videos could be supervised: want sequences with masks after the first frame"."""
    if not rows:
        raise ValueError(
            "no object of the held-out videos could be supervised: want sequences with masks after the first frame"
        )
    regions = average(statistics(np.array(row.j)) for row in rows).mean
    outlines = average(statistics(np.array(row.f)) for row in rows).mean
    each: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda row: (row.sequence, row.object)):
        each.setdefault(row.sequence, []).append((float(np.mean(row.j)) + float(np.mean(row.f))) / 2)
    by_name: Mapping[str, float] = {name: float(np.mean(scores)) for name, scores in each.items()}
    return {"J&F": (regions + outlines) / 2, "J": regions, "F": outlines, "sequences": dict(by_name)}

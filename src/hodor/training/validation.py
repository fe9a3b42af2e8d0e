"""J&F on held-out videos during training, computed with the tracker that `hodor segment` uses."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hodor.data.layouts import VideoFiles, open_layout
from hodor.data.stream import Stream
from hodor.data.videofiles import shown
from hodor.data.videos import Videos
from hodor.evaluation.datasets import follow
from hodor.models.base import Network
from hodor.scoring.metrics import average, frame_scores, statistics
from hodor.training.recipe import Validation

log = logging.getLogger(__name__)


def held_out(validation: Validation) -> tuple[VideoFiles, ...]:
    """Return the videos to score, () if `validation.every` is 0. Their masks are read once; videos without a frame to score
    are left out, with a message in the log.

    Raises:
        ValueError: "validation.every is 100, but validation.root is not given: name the folder of a benchmark"; "expected
            held-out videos with masks after the first frame in ROOT, got none that can be scored (a, b): ..."; a mask that
            cannot be read; or as `data.layouts.open_layout`.
    """
    if not validation.every:
        return ()
    if validation.root is None:
        every = validation.every
        raise ValueError(f"validation.every is {every}, but validation.root is not given: name the folder of a benchmark")
    videos = open_layout(validation.root, validation.kind, validation.split, validation.sequences or None).videos
    scored = tuple(video for video in videos if _has_scored_frame(video))
    left_out = shown([video.name for video in videos if video not in scored])
    rule = "a frame is scored if it has a mask, follows a frame on which an object is given, and is not the last of the video"
    if not scored:
        expected = f"expected held-out videos with masks after the first frame in {validation.root}"
        raise ValueError(f"{expected}, got none that can be scored ({left_out}): {rule}")
    if len(scored) < len(videos):
        log.warning("warning: validation leaves out %s, of which no frame can be scored: %s", left_out, rule)
    return scored


def _has_scored_frame(video: VideoFiles) -> bool:
    """Whether `validate` scores a frame of a video. All of its masks are read. Raises the errors of `VideoFiles.labels`."""
    begun = scored = False
    for frame in video.frames:
        if frame in video.masks:
            scored = scored or (begun and frame != video.frames[-1])
            shows_object = bool(video.labels(frame).any())
            begun = begun or (frame in video.given and shows_object)
    return scored


def also_trained(stream: Stream, videos: Iterable[VideoFiles]) -> list[str]:
    """Return the names of the held-out videos that are also names of training videos."""
    trained = {name for source in stream.sources if isinstance(source, Videos) for name in source.names()}
    return [video.name for video in videos if video.name in trained]


@dataclass(frozen=True)
class Row:
    """Scores of one object over its supervised frames.

    Attributes:
        sequence: name of the video.
        object: id of the object.
        j: J of each frame, in [0, 1].
        f: F of each frame, in [0, 1].
    """

    sequence: str
    object: int
    j: tuple[float, ...]
    f: tuple[float, ...]


def validate(network: Network, videos: Iterable[VideoFiles], history: int | None = None, size: int | None = None) -> list[Row]:
    """Segment every video with a folded copy of the network and score each object.

    An object is scored on every annotated frame after the frame on which it was given, except the last frame of the video
    (the rule of DAVIS).

    Args:
        network: the network; it is not changed.
        videos: the videos, with masks.
        history: frames kept in memory. Default: the network's own.
        size: short side at which the network runs, in pixels. Default: the network's own.
    """
    ready = copy.deepcopy(network).eval().requires_grad_(False)
    if not ready.folded:
        ready.fold()
    return [row for video in videos for row in _rows(ready, video, history, size)]


def _rows(network: Network, video: VideoFiles, history: int | None, size: int | None) -> list[Row]:
    j: dict[int, list[float]] = {}
    f: dict[int, list[float]] = {}
    given: set[int] = set()
    for followed in follow(network, video, history=history, size=size):
        if followed.frame in video.masks and given and followed.frame != video.frames[-1]:
            ids = sorted(given)
            scores = frame_scores(followed.labels, video.labels(followed.frame), ids)
            for i, region, boundary in zip(ids, scores.j.tolist(), scores.f.tolist(), strict=True):
                j.setdefault(i, []).append(region)
                f.setdefault(i, []).append(boundary)
        given |= set(followed.tracked.objects)
    return [Row(video.name, i, tuple(j[i]), tuple(f[i])) for i in sorted(j)]


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Average the scores; every object counts once (the rule of DAVIS).

    Returns:
        {"J&F": ..., "J": ..., "F": ..., "sequences": {name: J&F}}, in [0, 1].

    Raises:
        ValueError: "expected held-out videos with masks after the first frame, got none that can be scored".
    """
    if not rows:
        raise ValueError("expected held-out videos with masks after the first frame, got none that can be scored")
    regions = average(statistics(np.array(row.j)) for row in rows).mean
    outlines = average(statistics(np.array(row.f)) for row in rows).mean
    each: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda row: (row.sequence, row.object)):
        each.setdefault(row.sequence, []).append((float(np.mean(row.j)) + float(np.mean(row.f))) / 2)
    by_name: Mapping[str, float] = {name: float(np.mean(scores)) for name, scores in each.items()}
    return {"J&F": (regions + outlines) / 2, "J": regions, "F": outlines, "sequences": dict(by_name)}

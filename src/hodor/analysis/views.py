"""Which frames of a video a figure shows, what a network makes of them, and pictures for looking at.

The walk is the Tracker's own. A figure differs from tracking only in the mask that begins it and in what it remembers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from hodor.masks import Labels, fit_labels, objects_in
from hodor.models.base import Memory
from hodor.tracking import Tracked, Tracker
from hodor.video.render import outline

if TYPE_CHECKING:
    from hodor.data.layouts import VideoFiles

Item = TypeVar("Item")
Picture = npt.NDArray[np.uint8]
Remembers = Literal["tracked", "first"]
BLOCK = 16
"""Frames held at once."""


@dataclass(frozen=True)
class Visit:
    """A frame of a walk. ground truth: its true labels at the picture's size. memory: what spoke for the objects on it."""

    index: int
    picture: Picture
    ground_truth: Labels
    memory: Memory
    tracked: Tracked


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items, evenly spaced, the first and the last among them; one alone is the middle one."""
    if count >= len(items):
        return list(items)
    if count == 1:
        return [items[len(items) // 2]]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def blocks(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    """The indices in runs short enough to hold their pictures at once."""
    for start in range(0, len(indices), BLOCK):
        yield indices[start : start + BLOCK]


def masked(video: VideoFiles) -> list[int]:
    """The indices of the frames that have a mask file.

    Raises ValueError: "video bear has no masks: a figure needs the ground truth".
    """
    found = [index for index, frame in enumerate(video.frames) if frame in video.masks]
    if not found:
        raise ValueError(f"video {video.name} has no masks: a figure needs the ground truth")
    return found


def truth_of(video: VideoFiles, index: int, picture: Picture) -> Labels:
    """The true labels of a frame, at the picture's size."""
    labels = video.labels(video.frames[index])
    return labels if labels.shape == picture.shape[:2] else fit_labels(labels, picture.shape[:2])


def given_ids(video: VideoFiles, index: int, known: Sequence[int]) -> list[int]:
    """The objects whose masks a tracker is handed on this frame, of which it knows `known`; most often none."""
    frame = video.frames[index]
    if frame not in video.given:
        return []
    ids, here = video.given[frame], objects_in(video.labels(frame))
    return [i for i in here if (i not in known if ids is None else i in ids)]


def reference(video: VideoFiles) -> int:
    """The index of the first frame whose mask a tracker is handed and that shows an object.

    Raises ValueError: "video bear gives no object on any frame: a figure needs one".
    """
    for index in range(len(video.frames)):
        if given_ids(video, index, ()):
            return index
    raise ValueError(f"video {video.name} gives no object on any frame: a figure needs one")


def after_reference(video: VideoFiles, count: int) -> list[int]:
    """At most `count` evenly spaced frames with a mask after the reference; the last one is among them.

    Raises ValueError: "video bear has no masks after frame 00000: want at least one more".
    """
    start = reference(video)
    later = [index for index in masked(video) if index > start]
    if not later:
        raise ValueError(f"video {video.name} has no masks after frame {video.frames[start]}: want at least one more")
    return [later[(i + 1) * len(later) // count - 1] for i in range(count)] if count < len(later) else later


def follow(
    tracker: Tracker,
    video: VideoFiles,
    chosen: Sequence[int],
    remembers: Remembers,
    *,
    empty: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> Iterator[Visit]:
    """Visit the `chosen` frames (in order, after the reference) with a tracker that begins at the reference frame.

    remembers: "tracked" goes through every frame between, as in tracking; "first" lets the reference frame alone speak.
    empty: the tracker is given a mask of nothing as object 1, in place of the true masks. progress: called with frames done
    and frames in all.
    """
    start = reference(video)
    visits = range(start, chosen[-1] + 1) if remembers == "tracked" else [start, *chosen]
    done = 0
    for block in blocks(visits):
        for index, picture in zip(block, video.pictures(block), strict=True):
            memory = tracker.memory
            ids = [] if empty else given_ids(video, index, tracker.objects)
            if ids and (index == start or remembers == "tracked"):
                labels = truth_of(video, index, picture)
                tracked = tracker.step(picture, np.where(np.isin(labels, ids), labels, 0).astype(labels.dtype))
            else:
                tracked = tracker.step(picture)
            if index == start and empty:
                tracker.memory = nothing_remembered(tracker, tracked)
            elif index != start and remembers == "first":
                tracker.memory = memory
            done += 1
            if progress is not None:
                progress(done, len(visits))
            if index in chosen:
                yield Visit(index, picture, truth_of(video, index, picture), memory, tracked)


def nothing_remembered(tracker: Tracker, tracked: Tracked) -> Memory:
    """The memory of a frame with one object, 1, whose mask is zero everywhere."""
    features = tracked._features
    with torch.inference_mode():
        known = torch.ones(1, 1, dtype=torch.bool, device=features.device)
        zeros = torch.zeros(1, 1, *features.size, device=known.device)
        return tracker.network.remember(Memory((1,)), 0, features, zeros, known, known)


def shrunk(picture: Picture, width: int) -> Picture:
    """The picture at this width, or as it is if it is no wider."""
    from PIL import Image

    if picture.shape[1] <= width:
        return picture
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))


def heat(picture: Picture, response: npt.NDArray[np.floating[Any]], ground_truth: Labels, colours: Any) -> Picture:
    """The picture in dim grey, the response [h, w] in [0, 1] over it in `colours` (a colour map), white outlines of `ground_truth`.

    The weaker the response, the more of the picture shows through.
    """
    from PIL import Image

    height, width = picture.shape[:2]
    full = np.asarray(Image.fromarray(response.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))
    full = full.clip(0, 1)[..., None]
    grey = picture.mean(2, keepdims=True) * 0.45
    share = 0.25 + 0.75 * full
    out = grey * (1 - share) + colours(full[..., 0])[..., :3] * 255 * share
    out[outline(ground_truth)] = 255
    made: Picture = out.round().astype(np.uint8)
    return made

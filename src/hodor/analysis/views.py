"""The frames of a video that a figure shows, their tracking results, and heat maps.

Frames are processed by `Tracker`. A figure differs from tracking only in the first mask and in the frames kept in memory.
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
"""Frames that are decoded at once."""


@dataclass(frozen=True)
class TrackedFrame:
    """A frame and its tracking result.

    Attributes:
        index: index of the frame in the video.
        picture: RGB, uint8 [H, W, 3].
        ground_truth: ground-truth labels [H, W].
        memory: the memory that this frame was segmented with.
        tracked: the result of the tracker.
    """

    index: int
    picture: Picture
    ground_truth: Labels
    memory: Memory
    tracked: Tracked


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most `count` items, evenly spaced, including the first and the last; for a count of 1, the middle one."""
    if count >= len(items):
        return list(items)
    if count == 1:
        return [items[len(items) // 2]]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def blocks(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield the indices in blocks of at most BLOCK."""
    for start in range(0, len(indices), BLOCK):
        yield indices[start : start + BLOCK]


def masked(video: VideoFiles) -> list[int]:
    """Return the indices of the frames that have a mask file.

    Raises:
        ValueError: "video bear has no masks: choose videos with ground-truth masks".
    """
    indices = [index for index, frame in enumerate(video.frames) if frame in video.masks]
    if not indices:
        raise ValueError(f"video {video.name} has no masks: choose videos with ground-truth masks")
    return indices


def ground_truth_of(video: VideoFiles, index: int, picture: Picture) -> Labels:
    """Read the ground-truth labels of a frame, at the size of the picture."""
    labels = video.labels(video.frames[index])
    return labels if labels.shape == picture.shape[:2] else fit_labels(labels, picture.shape[:2])


def given_ids(video: VideoFiles, index: int, tracked: Sequence[int]) -> list[int]:
    """Return the objects whose masks a tracker is given on a frame; empty for most frames.

    Args:
        video: the video.
        index: index of the frame.
        tracked: objects that the tracker already has.
    """
    frame = video.frames[index]
    if frame not in video.given:
        return []
    ids, visible = video.given[frame], objects_in(video.labels(frame))
    return [i for i in visible if (i not in tracked if ids is None else i in ids)]


def reference(video: VideoFiles) -> int:
    """Return the index of the first frame whose mask is given and contains an object.

    Raises:
        ValueError: "video bear gives no object on any frame: choose videos with objects".
    """
    for index in range(len(video.frames)):
        if given_ids(video, index, ()):
            return index
    raise ValueError(f"video {video.name} gives no object on any frame: choose videos with objects")


def after_reference(video: VideoFiles, count: int) -> list[int]:
    """Return the indices of at most `count` evenly spaced frames with a mask after the reference, including the last one.

    Raises:
        ValueError: "expected at least one mask of video bear after frame 00000, got none".
    """
    start = reference(video)
    later = [index for index in masked(video) if index > start]
    if not later:
        raise ValueError(f"expected at least one mask of video {video.name} after frame {video.frames[start]}, got none")
    return [later[(i + 1) * len(later) // count - 1] for i in range(count)] if count < len(later) else later


def follow(
    tracker: Tracker,
    video: VideoFiles,
    chosen: Sequence[int],
    remembers: Remembers,
    *,
    empty: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> Iterator[TrackedFrame]:
    """Track a video from the reference frame and yield the chosen frames.

    Args:
        tracker: a new tracker.
        video: the video.
        chosen: indices of the frames to yield, in order, after the reference.
        remembers: "tracked" processes every frame in between, as in tracking. With "first" only the reference frame is kept in
            memory.
        empty: give an empty mask of object 1 instead of the ground-truth masks.
        progress: function that is called with the number of frames done and their total.
    """
    start = reference(video)
    indices = range(start, chosen[-1] + 1) if remembers == "tracked" else [start, *chosen]
    done = 0
    for block in blocks(indices):
        for index, picture in zip(block, video.pictures(block), strict=True):
            memory = tracker.memory
            ids = [] if empty else given_ids(video, index, tracker.objects)
            if ids and (index == start or remembers == "tracked"):
                labels = ground_truth_of(video, index, picture)
                tracked = tracker.step(picture, np.where(np.isin(labels, ids), labels, 0).astype(labels.dtype))
            else:
                tracked = tracker.step(picture)
            if index == start and empty:
                tracker.memory = empty_memory(tracker, tracked)
            elif index != start and remembers == "first":
                tracker.memory = memory
            done += 1
            if progress is not None:
                progress(done, len(indices))
            if index in chosen:
                yield TrackedFrame(index, picture, ground_truth_of(video, index, picture), memory, tracked)


def empty_memory(tracker: Tracker, tracked: Tracked) -> Memory:
    """Return the memory of a frame with one object, 1, whose mask is zero everywhere."""
    features = tracked._features
    with torch.inference_mode():
        valid = torch.ones(1, 1, dtype=torch.bool, device=features.device)
        zeros = torch.zeros(1, 1, *features.size, device=valid.device)
        return tracker.network.remember(Memory((1,)), 0, features, zeros, valid, valid)


def shrunk(picture: Picture, width: int) -> Picture:
    """Reduce a picture to this width; a narrower picture is returned as it is."""
    from PIL import Image

    if picture.shape[1] <= width:
        return picture
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))


def heat(picture: Picture, response: npt.NDArray[np.floating[Any]], ground_truth: Labels, colours: Any) -> Picture:
    """Draw a heat map over a dimmed grey picture, uint8 [H, W, 3]. The picture is more visible where the response is weak.

    Args:
        picture: RGB, uint8 [H, W, 3].
        response: the response in [0, 1], [h, w]; it is resized.
        ground_truth: labels [H, W]; their outlines are white.
        colours: colour map of matplotlib.
    """
    from PIL import Image

    height, width = picture.shape[:2]
    full = np.asarray(Image.fromarray(response.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))
    full = full.clip(0, 1)[..., None]
    grey = picture.mean(2, keepdims=True) * 0.45
    share = 0.25 + 0.75 * full
    out = grey * (1 - share) + colours(full[..., 0])[..., :3] * 255 * share
    out[outline(ground_truth)] = 255
    heat_map: Picture = out.round().astype(np.uint8)
    return heat_map

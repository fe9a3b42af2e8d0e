"""The objects of a whole video: which are kept, their classes and scores, and the masks that are written."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.discovery.windows import FrameLabels
from hodor.masks import Labels, label_dtype


@dataclass
class Track:
    """An object of the video.

    Attributes:
        id: its id in `FrameLabels.labels_HW`.
        areas: index of a frame -> number of its pixels there, at the resolution of the labels, if it has any; in order of time.
        logits_C: sum of the class logits over its pixels; None without classes.
    """

    id: int
    areas: dict[int, int] = field(default_factory=dict)
    logits_C: Tensor | None = None

    @property
    def first(self) -> int:
        """Index of the first frame on which it has a pixel."""
        return min(self.areas)

    @property
    def last(self) -> int:
        """Index of the last frame on which it has a pixel."""
        return max(self.areas)

    @property
    def pixels(self) -> int:
        """Number of its pixels in the whole video."""
        return sum(self.areas.values())

    @property
    def category(self) -> int | None:
        """Its class from 1, that of the greatest mean logit; None without classes."""
        return None if self.logits_C is None else int(self.logits_C[1:].argmax()) + 1


class Tracks:
    """Collects the frames of `windows.discover`; label maps are kept compressed."""

    def __init__(self) -> None:
        self._tracks: dict[int, Track] = {}
        self._frames: list[tuple[FrameLabels, bytes]] = []

    def add(self, frame: FrameLabels) -> None:
        """Add the next frame."""
        labels_HW = frame.labels_HW
        ids, counts = labels_HW.unique(return_counts=True)
        logits_CHW = frame.semantics_CHW
        if logits_CHW is not None and logits_CHW.shape[1:] != labels_HW.shape:
            logits_CHW = F.interpolate(logits_CHW[None], labels_HW.shape, mode="bilinear", align_corners=False)[0]
        for i, count in zip(ids.tolist(), counts.tolist(), strict=True):
            if i < 1:
                continue
            track = self._tracks.setdefault(i, Track(i))
            track.areas[frame.index] = count
            if logits_CHW is not None:
                logits_C = logits_CHW[:, labels_HW == i].double().sum(1)
                track.logits_C = logits_C if track.logits_C is None else track.logits_C + logits_C
        packed = zlib.compress(labels_HW.to("cpu", torch.int32).numpy().tobytes(), 1)
        self._frames.append((replace(frame, labels_HW=labels_HW.new_zeros(0), semantics_CHW=None), packed))
        self._shape = tuple(labels_HW.shape)

    def longest(self, max_tracks: int) -> list[Track]:
        """Return the tracks from the longest (last - first frame) to the shortest; of equals, the earlier first.

        Args:
            max_tracks: maximum number of tracks.
        """
        return sorted(self._tracks.values(), key=lambda t: (t.first - t.last, t.first, t.id))[:max_tracks]

    def labels(self, tracks: Sequence[Track]) -> Iterator[Labels]:
        """Yield the label map of each frame at the frame's own size.

        Args:
            tracks: the tracks to paint, from `longest`; their ids are 1, 2, ... in this order. Where two overlap, the later,
                that is the shorter, covers the other.
        """
        for frame, packed in self._frames:
            labels_HW = torch.from_numpy(np.frombuffer(zlib.decompress(packed), np.int32).reshape(self._shape).copy())
            yield paint(labels_HW, [track.id for track in tracks], frame)


def scores(tracks: Sequence[Track]) -> list[float]:
    """Return the score of each track, by the released rule: its number of pixels divided by that of the largest track."""
    largest = max((track.pixels for track in tracks), default=1)
    return [track.pixels / largest for track in tracks]


def paint(labels_HW: Tensor, ids: Sequence[int], frame: FrameLabels) -> Labels:
    """Return labels at a frame's own size: each object's plane is enlarged bilinearly and cut at 0.5.

    Args:
        labels_HW: of the padded frame.
        ids: ids of the objects, which become 1, 2, ...; a later one covers an earlier one.
        frame: the frame's sizes.

    Returns:
        Labels [H, W], uint8 or uint16.
    """
    out = np.zeros(frame.size, label_dtype(len(ids)))
    for place, i in enumerate(ids, 1):
        plane_HW = (labels_HW == i).float()
        if not plane_HW.any():
            continue
        for size, cut in ((frame.padded, frame.inner), (frame.size, frame.size)):
            if plane_HW.shape != size:
                plane_HW = F.interpolate(plane_HW[None, None], size, mode="bilinear", align_corners=False)[0, 0]
            plane_HW = plane_HW[: cut[0], : cut[1]]
        out[(plane_HW > 0.5).numpy()] = place
    return out

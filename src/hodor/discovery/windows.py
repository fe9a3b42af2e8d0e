"""Read a video with a finder in overlapping clips, as a stream, and give what is found common ids.

    for frame in discover(finder, images, PROTOCOLS["stemseg-davis"]):
        frame.labels_HW     # ids at the finder's resolution

Each frame is encoded once. A frame's labels are known a few clips later, since its foreground is decided by all clips that
cover it. The memory does not depend on the length of the video.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.discovery.clustering import Clustering, find
from hodor.discovery.stitching import MIN_IOU, Stitcher
from hodor.masks import fit_size
from hodor.models.finder import Finder, Maps
from hodor.models.prediction import Features
from hodor.tracking import evaluating, image_of


@dataclass(frozen=True)
class Protocol:
    """How a video is read.

    Args:
        overlap: number of frames that two consecutive clips have in common, from 1 to their length - 1. Default: 4.
        foreground: a pixel is foreground if its seediness, or the probability of the foreground of a finder with classes, is
            above this; means over all clips that cover the frame. Default: 0.25.
        enlarge: the maps are enlarged by this factor before pixels are clustered. Default: 1.
        longest: maximum of the frame's long side inside the network, in pixels; the short side is then below the finder's size.
            Default: None, as `fit_size`.
        max_tracks: maximum number of objects of the whole video; the longest are kept. Default: 20.
        clustering: how the pixels of a clip are clustered. Default: `Clustering()`.
        min_iou: least IoU on common frames of objects that are joined, see `stitching.join`. Default: 0.1.
        padding: whether pixels beyond the border of the frame can be foreground, as in the released code. Default: False.
    """

    overlap: int = 4
    foreground: float = 0.25
    enlarge: int = 1
    longest: int | None = None
    max_tracks: int = 20
    clustering: Clustering = field(default_factory=Clustering)
    min_iou: float = MIN_IOU
    padding: bool = False

    def released(self) -> Protocol:
        """Return the protocol with the rules of the released code, see `Clustering`, `stitching.join` and `padding`."""
        return replace(self, clustering=replace(self.clustering, released=True), min_iou=0.0, padding=True)


PROTOCOLS = {
    "stemseg-davis": Protocol(overlap=6, longest=1248),
    "stemseg-ytvis": Protocol(foreground=0.5, enlarge=4, longest=1196, max_tracks=10),
    "stemseg-kitti": Protocol(foreground=0.5, longest=1948, clustering=Clustering(min_seediness=0.95)),
    "stemseg-lite": Protocol(),
}
"""The authors' choices for each of `finders.FINDERS`, where there are any; `Protocol.released` adds the rules of their code."""


@dataclass(frozen=True)
class FrameLabels:
    """What was found on a frame.

    Args:
        index: index of the frame.
        labels_HW: int32, 0 for background, -1 for foreground that joined no object, else the object's id in the whole video; of
            the padded frame, at the resolution of the maps times `Protocol.enlarge`.
        semantics_CHW: mean logits of the classes, 0 is background, at the resolution of the maps; None without classes.
        size: (H, W) of the frame.
        inner: (H, W) of the frame inside the network.
        padded: (H, W) of the padded frame.
    """

    index: int
    labels_HW: Tensor
    semantics_CHW: Tensor | None
    size: tuple[int, int]
    inner: tuple[int, int]
    padded: tuple[int, int]


class Discoverer:
    """Finds the objects of a video, frame by frame.

    Args:
        finder: the network; its attribute `length` is the number of frames of a clip.
        protocol: see `Protocol`. Default: `Protocol()`.
        size: short side of the frame inside the network, in pixels. Default: the finder's own.

    Raises:
        ValueError: "expected an overlap of 1 to 7 frames for clips of 8, got 8".
    """

    def __init__(self, finder: Finder, protocol: Protocol | None = None, *, size: int | None = None) -> None:
        self.finder, self.protocol = finder, protocol or Protocol()
        self.size = finder.size if size is None else size
        if not 1 <= self.protocol.overlap < finder.length:
            raise ValueError(
                f"expected an overlap of 1 to {finder.length - 1} frames for clips of {finder.length}, "
                f"got {self.protocol.overlap}"
            )
        self._stitcher = Stitcher(self.protocol.min_iou)
        self._features: deque[Features] = deque(maxlen=finder.length)  # of the last frames
        self._shape: tuple[int, int] = (0, 0)
        self._count = 0
        self._next = 0  # first frame of the next clip
        self._end = 0  # frame after the last clip
        self._pending: deque[tuple[range, Maps]] = deque()
        self._sums: dict[int, tuple[Tensor, int]] = {}

    @torch.no_grad()
    def step(self, frame: np.ndarray | Tensor) -> list[FrameLabels]:
        """Read the next frame.

        Args:
            frame: RGB, an array uint8 [H, W, 3], or a tensor [3, H, W], uint8 or float in [0, 1].

        Returns:
            The earlier frames whose labels are now known, in the order of time; often none.

        Raises:
            ValueError: "expected a frame of 480x854 pixels, as those before, got 60x80"; as `tracking.image_of`.
        """
        image = image_of(frame, next(self.finder.parameters()).device)
        shape = int(image.shape[2]), int(image.shape[3])
        if self._count and shape != self._shape:
            text = "expected a frame of {}x{} pixels, as those before, got {}x{}"
            raise ValueError(text.format(*self._shape, *shape))
        self._shape = shape
        inner = bounded_size(shape, self.size, self.protocol.longest)
        if inner != shape:
            image = F.interpolate(image, inner, mode="bilinear", align_corners=False)
        with evaluating(self.finder):
            self._features.append(self.finder.encode(image))
            self._count += 1
            if self._count == self._next + self.finder.length:
                self._read(range(self._next, self._count))
                self._next += self.finder.length - self.protocol.overlap
        # the video can end with any frame, and its last clip ends there
        return self._settled(min(self._next, self._count + 1 - self.finder.length))

    @torch.no_grad()
    def finish(self) -> list[FrameLabels]:
        """Return the remaining frames of the video."""
        length = self.finder.length
        with evaluating(self.finder):
            if 0 < self._count < length:
                self._read(range(self._count))
            elif self._end < self._count:
                self._read(range(self._count - length, self._count))
        return self._settled(self._count)

    def _read(self, frames: range) -> None:
        self._end = frames.stop
        features = list(self._features)
        missing = self.finder.length - len(features)
        maps = self.finder.read([features[0]] * missing + features)  # a short video begins with copies of its first frame
        if missing:
            maps = maps.frames(slice(missing, None))
        self._pending.append((frames, maps))
        seen_CTHW = maps.seediness_BTHW if maps.semantics_BCTHW is None else maps.semantics_BCTHW[0]
        for place, t in enumerate(frames):
            total, count = self._sums.get(t, (torch.zeros_like(seen_CTHW[:, 0]), 0))
            self._sums[t] = total + seen_CTHW[:, place], count + 1

    def _settled(self, start: int) -> list[FrameLabels]:
        """Close the clips that end before `start`, the first frame that a later clip can have."""
        done: list[FrameLabels] = []
        while self._pending and self._pending[0][0].stop <= start:
            done += self._close(*self._pending.popleft())
        needed = self._pending[0][0].start if self._pending else start
        self._sums = {t: each for t, each in self._sums.items() if t >= needed}
        return done

    def _close(self, frames: range, maps: Maps) -> list[FrameLabels]:
        features, enlarge = self._features[-1], self.protocol.enlarge
        mean_TCHW = torch.stack([total / count for total, count in (self._sums[t] for t in frames)])
        above_THW = mean_TCHW[:, -1]
        if enlarge > 1:
            above_THW = F.interpolate(above_THW[:, None], scale_factor=float(enlarge), mode="bilinear", align_corners=False)[
                :, 0
            ]
            maps = maps.enlarged(enlarge)
        if maps.semantics_BCTHW is not None:
            above_THW = above_THW.sigmoid()
        foreground_THW = above_THW > self.protocol.foreground
        if not self.protocol.padding:
            cells = [
                -(-side * n // whole)
                for side, n, whole in zip(features.size, foreground_THW.shape[1:], features.padded, strict=True)
            ]
            foreground_THW[:, cells[0] :] = False
            foreground_THW[:, :, cells[1] :] = False
        found = find(maps, foreground_THW, self.protocol.clustering, self._stitcher.highest + 1)
        fresh, _ = self._stitcher.add(frames, found.labels_THW)
        semantics = None if maps.semantics_BCTHW is None else mean_TCHW[:, :-1]
        return [
            FrameLabels(
                t,
                labels,
                None if semantics is None else semantics[t - frames.start],
                self._shape,
                features.size,
                features.padded,
            )
            for t, labels in fresh.items()
        ]


def discover(
    finder: Finder, frames: Iterable[np.ndarray | Tensor], protocol: Protocol | None = None, *, size: int | None = None
) -> Iterator[FrameLabels]:
    """Find the objects of a video.

    Args:
        finder: the network.
        frames: the frames, as `Discoverer.step` reads them.
        protocol: see `Protocol`. Default: `Protocol()`.
        size: short side of the frame inside the network, in pixels. Default: the finder's own.

    Yields:
        Each frame's labels, in the order of time, some frames after it was read.

    Raises:
        ValueError: as `Discoverer` and `Discoverer.step`.
    """
    discoverer = Discoverer(finder, protocol, size=size)
    for frame in frames:
        yield from discoverer.step(frame)
    yield from discoverer.finish()


def bounded_size(size: tuple[int, int], short_side: int, long_side: int | None) -> tuple[int, int]:
    """Return the size at which a finder computes: a short side, unless the long side would be above a maximum.

    Args:
        size: (H, W) of the frame.
        short_side: short side of the result, in pixels.
        long_side: maximum of its long side; None for `masks.fit_size`.

    Returns:
        (h, w), sides rounded, at least 1.

    Example:
        >>> bounded_size((480, 854), 736, 1248)
        (701, 1248)
    """
    if long_side is None:
        return fit_size(size, short_side)
    scale = min(short_side / min(size), long_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

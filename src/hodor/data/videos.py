"""Videos as a source of clips: every folder that `hodor.data.layouts` can open, labelled on all frames or on some."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from hodor.data.benchmarks import benchmark
from hodor.data.file_cache import FileCache, Objects, Size, cover_size, read_picture, shrink
from hodor.data.layouts import Layout
from hodor.data.sampling import below, chance, choose
from hodor.data.stills import RawClip, StoredMask, join_masks, planes_of, read_mask, read_one, store_mask
from hodor.data.videofiles import VideoFiles

JUMP = 5
"""Default of the largest jump between consecutive frames of a clip, for `frame_order` "forward"."""


class Videos:
    """The videos of one root. An item is a frame that a clip can begin with.

    With `frame_order` "window" the other frames of a clip are within `gap` of its first frame. With labels "all" they follow
    the first frame in time order, or precede it in a share `reverse` of the clips. With labels "first" they are on one side of
    the first frame, before or after it, in random order.

    With `frame_order` "forward" the frames are in time order, each at most one jump from the one before. With labels "all" a
    share `reverse` of the clips runs backwards; with labels "first" none does.

    Args:
        layout: the opened folder.
        cache: file cache that reads frames and masks.
        clip_size: height and width of the clips.
        frames: frames of a clip (T). 1 reads single frames, each with a mask.
        labels: "all": every frame of a clip has a mask, and distances count the frames that have one. "first": only the mask of
            the first frame is read, and distances count all frames.
        gap: largest distance of the other frames from the first (window), or largest jump (forward). Default: the value of the
            format (hodor.data.benchmarks), or JUMP.
        reverse: share of clips that run backwards, for labels "all".
        frame_order: "window" or "forward".

    Raises:
        ValueError: "expected a gap of at least 2 for 3 frames, got 1"; "expected a video of at least 3 frames in ROOT, got none
            in 2 videos: use longer videos or fewer frames".
    """

    def __init__(
        self,
        layout: Layout,
        cache: FileCache,
        clip_size: Size,
        frames: int,
        labels: Literal["all", "first"] = "all",
        gap: int | None = None,
        reverse: float = 0.0,
        frame_order: Literal["window", "forward"] = "window",
    ) -> None:
        self.root, self.layout = layout.root, layout
        self.kind: str = layout.kind
        self.moving = frames > 1
        self.frames, self.labels, self.frame_order = frames, labels, frame_order
        self.forward = frame_order == "forward"
        self.back = reverse if labels == "all" else 0.0 if self.forward else 0.5
        self.gap = gap or (JUMP if self.forward else benchmark(layout.kind).gap[labels == "first"])
        if self.gap < frames - 1 and not self.forward:
            raise ValueError(f"expected a gap of at least {frames - 1} for {frames} frames, got {self.gap}")
        self._cache, self._clip_size = cache, clip_size
        self._orders = {video.name: self._order(video) for video in layout.videos}
        self._items = [[(v, frame) for frame in self.starts(video)] for v, video in enumerate(layout.videos)]
        self._ends = list(accumulate(map(len, self._items)))
        self._usable = [i for i, items in enumerate(self._items) if items]
        if not self._usable:
            counted = f"got none in {len(layout.videos)} videos"
            what = "labelled frames" if labels == "all" else "frames"
            raise ValueError(
                f"expected a video of at least {frames} {what} in {layout.root}, {counted}: use longer videos or fewer frames"
            )
        self._objects: dict[Path, Objects] = {}
        self._movies = {video.name: Movie(video, clip_size) for video in layout.videos if isinstance(video.images, Path)}
        cache.files += sum(len(v.masks) + (1 if isinstance(v.images, Path) else len(v.images)) for v in layout.videos)

    def sequence(self, video: VideoFiles) -> list[int]:
        """Return the indices of the frames that distances count: all frames, or those with a mask."""
        return self._orders[video.name]

    def _order(self, video: VideoFiles) -> list[int]:
        return [i for i, frame in enumerate(video.frames) if self.labels == "first" or frame in video.masks]

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks about what was used or left out."""
        return self.layout.notes

    def starts(self, video: VideoFiles) -> list[int]:
        """Return the indices of the frames that a clip can begin with."""
        order = self.sequence(video)
        both = self.back > 0
        need = self.frames - 1
        enough = [len(order) - 1 - at >= need or (both and at >= need) for at in range(len(order))]
        return [i for i, possible in zip(order, enough, strict=True) if possible and video.frames[i] in video.masks]

    def name(self, item: int) -> str:
        """Return the name of the video of an item."""
        return self.place(item)[0].name

    def names(self) -> list[str]:
        """Return the names of all videos."""
        return [video.name for video in self.layout.videos]

    def __len__(self) -> int:
        return self._ends[-1]

    def pick(self, rng: torch.Generator) -> int:
        """Return a random item.

        All items are equally likely. With labels "first" a video is sampled first, and then one of its frames. Both are the
        rules of HODOR's released code.
        """
        if self.labels == "first" and self.frames > 1:
            video = self._usable[below(len(self._usable), rng)]
            return self._ends[video] - 1 - below(len(self._items[video]), rng)
        return below(len(self), rng)

    def place(self, item: int) -> tuple[VideoFiles, int]:
        """Return the video of an item and the index of its frame."""
        video = bisect_right(self._ends, item)
        v, frame = self._items[video][item - self._ends[video]]
        return self.layout.videos[v], frame

    def objects(self, item: int) -> Objects:
        """Return the objects of an item. Raises DamagedFileError."""
        video, frame = self.place(item)
        path = video.masks[video.frames[frame]]
        if path not in self._objects:
            self._objects[path] = self._mask(video, frame).objects
        return self._objects[path]

    def mask(self, item: int) -> StoredMask:
        """Read the mask of an item. Raises DamagedFileError."""
        return self._mask(*self.place(item))

    def read(self, item: int, ids: Sequence[int], rng: torch.Generator, jump: int | None = None) -> RawClip:
        """Sample the other frames of a clip and read its images and masks.

        Args:
            item: the first frame.
            ids: objects whose masks are read.
            rng: generator of the random numbers.
            jump: largest jump between consecutive frames, for `frame_order` "forward". Default: `gap`.

        Raises:
            DamagedFileError: a file is damaged, or a mask has another size than the mask of the first frame.
        """
        video, first = self.place(item)
        chosen = [first, *self._others(video, first, rng, jump or self.gap)]
        labelled = chosen if self.labels == "all" else chosen[:1]
        masks = [self._mask(video, frame) for frame in labelled]
        size = masks[0].size
        for frame, mask in zip(labelled, masks, strict=True):
            if mask.size != size:
                expected = f"expected a mask of {size[0]}x{size[1]} (height x width), the size on the first frame"
                reason = f"{expected}, got {mask.size[0]}x{mask.size[1]}"
                raise self._cache.mark_damaged(video.masks[video.frames[frame]], reason)
        planes = [planes_of(mask, ids) for mask in masks]
        missing: list[Tensor | None] = [None] * (len(chosen) - len(labelled))
        images = [self.picture(video, frame, size) for frame in chosen]
        return RawClip(images, [*(p for p, _ in planes), *missing], [*(v for _, v in planes), *missing])

    def background(self, item: int) -> Tensor:
        """Read the frame alone, uint8 [3, h, w]. Raises DamagedFileError."""
        return self.picture(*self.place(item))

    def _others(self, video: VideoFiles, first: int, rng: torch.Generator, jump: int) -> list[int]:
        """Sample the indices of the other frames of a clip."""
        need = self.frames - 1
        if not need:
            return []
        order = self.sequence(video)
        at = bisect_left(order, first)
        after, before = len(order) - 1 - at, at
        back = chance(self.back, rng)
        if (before if back else after) < need:
            back = not back
        available = before if back else after
        if self.forward:
            steps = [0]
            for left in reversed(range(need)):
                steps.append(steps[-1] + 1 + below(min(jump, available - steps[-1] - left), rng))
            del steps[0]
        else:
            steps = [1 + i for i in choose(need, min(self.gap, available), rng)]
            steps = steps if self.labels == "first" else sorted(steps)
        return [order[at - step if back else at + step] for step in steps]

    def picture(self, video: VideoFiles, frame: int, mask_size: Size | None = None) -> Tensor:
        """Read a frame as uint8 [3, h, w], reduced so that it just covers the clip.

        mask_size: see `read_picture`. Raises DamagedFileError.
        """
        if isinstance(video.images, Path):
            path, movie = video.images, self._movies[video.name]
            return self._cache.get(("frame", path, frame, mask_size), path, lambda: (movie.frame(frame, mask_size), 0))
        file = video.images[frame]

        def read() -> tuple[Tensor, int]:
            image = torch.from_numpy(read_picture(file, mask_size, self._clip_size, video.levels)).permute(2, 0, 1).contiguous()
            return image, image.numel()

        return self._cache.get(("image", file, mask_size), file, read)

    def _mask(self, video: VideoFiles, frame: int) -> StoredMask:
        name = video.frames[frame]
        path = video.masks[name]

        def read() -> tuple[StoredMask, int]:
            if video.parts:
                labels = join_masks(video.part_files(name), max(video.parts))
                return store_mask(labels, self._clip_size)
            return store_mask(read_one(path) if video.shades else read_mask(path, video.single), self._clip_size)

        return self._cache.get(("mask", path), path, read)


class Movie:
    """A video file. All its frames are decoded when the first one is read, and kept in memory at the size of the clips.

    Args:
        video: the video.
        clip_size: height and width of the clips.
    """

    def __init__(self, video: VideoFiles, clip_size: Size) -> None:
        self._video, self._clip_size = video, clip_size
        self._lock = threading.Lock()
        self._frames: list[Tensor] | None = None
        self._size: Size = (0, 0)

    def frame(self, index: int, mask_size: Size | None) -> Tensor:
        """Return a frame, uint8 [3, h, w].

        Raises ValueError if the file has too few frames, or if `mask_size` is given and the frames have another size.
        """
        with self._lock:
            if self._frames is None:
                self._frames = self._decode()
        if mask_size is not None and mask_size != self._size:
            expected = f"expected frames of {mask_size[0]}x{mask_size[1]} (height x width), the size of their masks"
            raise ValueError(f"{expected}, got {self._size[0]}x{self._size[1]}")
        return self._frames[index]

    def _decode(self) -> list[Tensor]:
        frames = []
        for picture in self._video.stream():
            self._size = picture.shape[0], picture.shape[1]
            small = shrink(Image.fromarray(picture), cover_size(self._size, self._clip_size))
            frames.append(torch.from_numpy(small).permute(2, 0, 1).contiguous())
        return frames

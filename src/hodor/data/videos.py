"""Videos as a source of clips: any folder that hodor.data.layouts understands, labelled on all frames or on some."""

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
from hodor.data.file_cache import Objects, Shelf, Size, cover_size, read_picture, shrink
from hodor.data.layouts import Layout
from hodor.data.sampling import below, chance, some
from hodor.data.stills import Seen, Taken, join_masks, planes_of, read_mask, see
from hodor.data.videofiles import VideoFiles

HELD_OUT = ("bmx-bumps", "dance-jump", "drift-turn", "horsejump-low", "scooter-gray")
"""The five DAVIS 2016 train sequences kept out of every run whose score is reported."""

JUMP = 5
"""How far a frame of a clip that goes forward may be from the one before, where nothing is said."""


class Videos:
    """Videos of one root. An item is a frame that a clip can begin with.

    frames: of a clip; 1 takes single frames, each with a mask. gap: how far the others may be from the first, None for the
    format's own (hodor.data.benchmarks). labels "all": every frame of a clip has a mask, and distances count frames that have one; the others
    follow the first in time, sorted, or precede it in `reverse` of the clips. labels "first": only the first frame's mask
    is read, distances count all frames, and the others lie on one side of it, before or after, unsorted.

    frame_order "forward" instead: the frames follow one another in time, each at most a jump from the one before; where only the
    first is labelled, never backwards.
    """

    def __init__(
        self,
        layout: Layout,
        shelf: Shelf,
        want: Size,
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
            raise ValueError(f"a gap of {self.gap} leaves no room for {frames} frames: want {frames - 1} or more")
        self._shelf, self._want = shelf, want
        self._orders = {video.name: self._order(video) for video in layout.videos}
        self._items = [[(v, at) for at in self.starts(video)] for v, video in enumerate(layout.videos)]
        self._ends = list(accumulate(map(len, self._items)))
        self._usable = [i for i, items in enumerate(self._items) if items]
        if not self._usable:
            raise ValueError(
                f"{layout.root}: no clip of {frames} frames in {len(layout.videos)} videos: want longer videos or fewer frames"
            )
        self._objects: dict[Path, Objects] = {}
        self._movies = {video.name: Movie(video, want) for video in layout.videos if isinstance(video.images, Path)}
        shelf.files += sum(len(v.masks) + (1 if isinstance(v.images, Path) else len(v.images)) for v in layout.videos)

    def sequence(self, video: VideoFiles) -> list[int]:
        """The frames that distances count: all of them, or those with a mask."""
        return self._orders[video.name]

    def _order(self, video: VideoFiles) -> list[int]:
        return [i for i, frame in enumerate(video.frames) if self.labels == "first" or frame in video.masks]

    def starts(self, video: VideoFiles) -> list[int]:
        """The frames that a clip can begin with."""
        order = self.sequence(video)
        both = self.back > 0
        need = self.frames - 1
        room = [len(order) - 1 - at >= need or (both and at >= need) for at in range(len(order))]
        return [i for i, enough in zip(order, room, strict=True) if enough and video.frames[i] in video.masks]

    def name(self, item: int) -> str:
        return self.place(item)[0].name

    def names(self) -> list[str]:
        return [video.name for video in self.layout.videos]

    def __len__(self) -> int:
        return self._ends[-1]

    def pick(self, rng: torch.Generator) -> int:
        """Any frame alike; where only first frames are labelled, any video alike first (the released rule for each)."""
        if self.labels == "first" and self.frames > 1:
            video = self._usable[below(len(self._usable), rng)]
            return self._ends[video] - 1 - below(len(self._items[video]), rng)
        return below(len(self), rng)

    def place(self, item: int) -> tuple[VideoFiles, int]:
        """-> the video of an item, and the frame's index."""
        at = bisect_right(self._ends, item)
        v, frame = self._items[at][item - self._ends[at]]
        return self.layout.videos[v], frame

    def objects(self, item: int) -> Objects:
        """Raises DamagedFileError."""
        video, frame = self.place(item)
        path = video.masks[video.frames[frame]]
        if path not in self._objects:
            self._objects[path] = self._seen(video, frame).objects
        return self._objects[path]

    def seen(self, item: int) -> Seen:
        """Raises DamagedFileError."""
        return self._seen(*self.place(item))

    def take(self, item: int, ids: Sequence[int], rng: torch.Generator, jump: int | None = None) -> Taken:
        """jump: of a clip that goes forward, instead of `gap`. Raises DamagedFileError."""
        video, first = self.place(item)
        chosen = [first, *self._others(video, first, rng, jump or self.gap)]
        read = chosen if self.labels == "all" else chosen[:1]
        seen = [self._seen(video, frame) for frame in read]
        for frame, each in zip(read, seen, strict=True):
            if each.size != seen[0].size:
                sizes = f"{each.size[0]}x{each.size[1]} (height x width), the first frame's {seen[0].size[0]}x{seen[0].size[1]}"
                raise self._shelf.blame(video.masks[video.frames[frame]], f"the mask is {sizes}")
        drawn = [planes_of(each, ids) for each in seen]
        missing: list[Tensor | None] = [None] * (len(chosen) - len(read))
        images = [self.picture(video, frame, seen[0].size) for frame in chosen]
        return Taken(images, [*(p for p, _ in drawn), *missing], [*(v for _, v in drawn), *missing])

    def background(self, item: int) -> Tensor:
        """The frame alone, uint8 [3, h, w]. Raises DamagedFileError."""
        return self.picture(*self.place(item))

    def _others(self, video: VideoFiles, first: int, rng: torch.Generator, jump: int) -> list[int]:
        need = self.frames - 1
        if not need:
            return []
        order = self.sequence(video)
        at = bisect_left(order, first)
        after, before = len(order) - 1 - at, at
        back = chance(self.back, rng)
        if (before if back else after) < need:
            back = not back
        room = before if back else after
        if self.forward:
            steps = [0]
            for left in reversed(range(need)):
                steps.append(steps[-1] + 1 + below(min(jump, room - steps[-1] - left), rng))
            del steps[0]
        else:
            steps = [1 + i for i in some(need, min(self.gap, room), rng)]
            steps = steps if self.labels == "first" else sorted(steps)
        return [order[at - step if back else at + step] for step in steps]

    def picture(self, video: VideoFiles, frame: int, stored: Size | None = None) -> Tensor:
        """uint8 [3, h, w], just covering the clips' size. Raises DamagedFileError."""
        if isinstance(video.images, Path):
            path, movie = video.images, self._movies[video.name]
            return self._shelf.get(("frame", path, frame, stored), path, lambda: (movie.frame(frame, stored), 0))
        file = video.images[frame]

        def make() -> tuple[Tensor, int]:
            image = torch.from_numpy(read_picture(file, stored, self._want)).permute(2, 0, 1).contiguous()
            return image, image.numel()

        return self._shelf.get(("image", file, stored), file, make)

    def _seen(self, video: VideoFiles, frame: int) -> Seen:
        name = video.frames[frame]
        path = video.masks[name]

        def make() -> tuple[Seen, int]:
            if video.parts:
                return see(join_masks({i: folder / f"{name}.png" for i, folder in video.parts.items()}), self._want)
            return see(read_mask(path, video.single), self._want)

        return self._shelf.get(("mask", path), path, make)


class Movie:
    """A video file, decoded once, when its first frame is asked for, and kept whole at the clips' size."""

    def __init__(self, video: VideoFiles, want: Size) -> None:
        self._video, self._want = video, want
        self._lock = threading.Lock()
        self._frames: list[Tensor] | None = None
        self._size: Size = (0, 0)

    def frame(self, index: int, stored: Size | None) -> Tensor:
        """uint8 [3, h, w]. Raises ValueError if the file ends early, or its size is not that of its masks."""
        with self._lock:
            if self._frames is None:
                self._frames = self._decode()
        if stored is not None and stored != self._size:
            here = f"{self._size[0]}x{self._size[1]}"
            raise ValueError(f"its frames are {here} (height x width), their masks {stored[0]}x{stored[1]}")
        return self._frames[index]

    def _decode(self) -> list[Tensor]:
        frames = []
        for picture in self._video.stream():
            self._size = picture.shape[0], picture.shape[1]
            small = shrink(Image.fromarray(picture), cover_size(self._size, self._want))
            frames.append(torch.from_numpy(small).permute(2, 0, 1).contiguous())
        return frames

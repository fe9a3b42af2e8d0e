"""The stream of training clips: which data, drawn how, varied how, is a value; every clip depends on (seed, step, index) alone.

stream = Stream(Data(root=(Path("DAVIS"), Path("coco")), share=(0.5, 0.5)), frames=3, batch=4, seed=0)
clip = stream.batch(step=17)                     # the same whoever asks, on whichever thread, in whatever order
part = stream.batch(17, range(2, 4))             # the half of one of two processes
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from hodor.data.augment import Augment, coloured, mirror, on_ground, place, points_of, show, tint, together, warped
from hodor.data.benchmarks import BENCHMARKS, recognise
from hodor.data.clip import Clip, collate
from hodor.data.coco import find_json, open_coco
from hodor.data.file_cache import DamagedFileError, Objects, Shelf
from hodor.data.layouts import Layout, open_layout
from hodor.data.paste import Cutouts, Scene, alpha_folder, compose, from_source, pass_before
from hodor.data.sampling import below, chance, generator, some, weighted
from hodor.data.stills import Source, Stills, Taken, open_stills
from hodor.data.videofiles import VideoFiles
from hodor.data.videos import Videos

TRIES = 32
"""Draws of an image until one has as many objects as wanted; the best of them is taken if none has."""
ROUNDS = 100
"""Draws of a clip that may meet damaged files, or images without an object, before the data are given up."""


@dataclass(frozen=True)
class Data:
    """Which clips a training sees. docs/data.md tells of every field."""

    root: tuple[Path, ...] = ()
    """Data sets: a COCO JSON or its folder, a folder of images/ and masks/, a folder of videos (DAVIS, YouTube-VOS, ...)."""
    share: tuple[float, ...] = ()
    """How often each root is drawn; none given: all alike."""
    gap: tuple[int, ...] = ()
    """How far a clip's other frames may be from its first, one number a root; none given: the kind's own (7 or 15)."""
    frame_order: Literal["window", "forward"] = "window"
    """A video's frames. around: within `gap` of the first (HODOR). forward: in the order of time, each at most a jump from the
    one before (STCN, XMem, Cutie); clips with labels "first" then never run backwards."""
    jump: tuple[int, ...] = ()
    """Of frame_order "forward": the largest jump in frames of the film, one number for each stage of the training; none given: `gap`,
    or 5."""
    jump_at: tuple[float, ...] = ()
    """Where each stage begins, as a share of all steps: 0 first."""
    interval: tuple[int, ...] = ()
    """Frames of the film from one picture to the next, by which jumps are divided, one number a root; none given: the kind's
    own (YouTube-VOS 5, others 1)."""
    split: str = "train"
    """Which part of a benchmark with splits is taken."""
    only: tuple[str, ...] = ()
    """Names of the videos or images to take; none given: all."""
    without: tuple[str, ...] = ()
    """Names of videos or images to leave out."""
    motion: Literal["none", "warp", "video"] = "video"
    """none: copies of one image. warp: copies, each frame moved on its own. video: a video's frames; stills are warped."""
    labels: Literal["all", "first"] = "all"
    """all: every frame of a clip has its masks. first: only frame 0, and copies of it, have; the masks of a video's other
    frames are never opened."""
    annotated: Literal["all", "first", "middle"] = "all"
    """Of a video's masks, which exist for training: all, or one alone, its first or its middle one."""
    max_objects: int = 4
    """Most objects of a clip."""
    count: Literal["equal", "any"] = "equal"
    """equal: as many clips of one object as of two, ... `max_objects` (the released rule). any: each image as it comes."""
    min_area: int = 2000
    """Least area of an object in its first frame, in pixels of the file."""
    min_side: int = 20
    """Least width and height of an object in its first frame, in pixels of the file."""
    size: tuple[int, int] = (256, 448)
    """Height and width of clips."""
    reverse: float = 0.0
    """Share of clips from fully labelled videos that run backwards."""
    paste: float = 0.0
    """Share of clips that are put together from cut-outs."""
    cutouts: tuple[Path, ...] = ()
    """Where cut-outs come from: folders of pictures with alpha, or roots of images with masks."""
    max_pasted: int = 8
    """Most objects of a clip put together from cut-outs; 1 to this many, all alike."""
    cut: float = 0.0
    """Share of clips into which another picture comes, for one or more frames on which no object is: what a cut, or a body that
    passes before the camera, does to a video."""
    distractor: float = 0.0
    """Share of clips before which a cut-out passes for some frames, which is no object and hides what is behind it: from a
    later frame on a stranger comes into view; in the first frame it hides parts of the objects that show themselves later."""
    scene: Scene = field(default_factory=Scene)
    damaged: float = 0.01
    """Share of the files that may be damaged: they are named in the log and passed over."""
    cache: int = 1024
    """Megabytes of decoded images and masks to keep. Video files are kept whole beside them."""
    augment: Augment = field(default_factory=Augment)

    @property
    def planes(self) -> int:
        """The most objects that a clip can have, cut-outs included."""
        return max(self.max_objects, self.max_pasted) if self.paste else self.max_objects


class Stream:
    """Clips of `frames` frames, `batch` to a step. Threads may draw from one stream at once."""

    def __init__(self, data: Data, frames: int, batch: int, seed: int, steps: int = 0) -> None:
        """Opens the roots: lists are read, pictures are not (of a folder of masks, a few). steps: of the whole training, which
        the stages of `Data.jump` are shares of; 0 stays in the first.

        Raises FileNotFoundError and ValueError for roots that hold no clips, and for numbers that do not go together:
        "2 shares for 3 roots: want one each".
        """
        _check(data, frames, batch)
        self.data, self.frames, self.batch_size, self.seed, self.steps = data, frames, batch, seed, steps
        self.shelf = Shelf(data.cache * 1_000_000, data.damaged)
        self.sources = open_sources(data, frames, self.shelf)
        self.cutouts = [self._open_cutouts(root) for root in data.cutouts]
        self.shares = data.share or (1.0,) * len(self.sources)

    @property
    def damaged(self) -> dict[Path, str]:
        """The damaged files met so far, and what is wrong with each."""
        return dict(self.shelf.damaged)

    def batch(self, step: int, indices: range | None = None) -> Clip:
        """The clips `indices` (all by default) of a step's batch, put together."""
        return collate([self.clip(step, index) for index in (range(self.batch_size) if indices is None else indices)])

    def clip(self, step: int, index: int) -> Clip:
        """Clip `index` of a step, B = 1. Raises ValueError, if too many files are damaged, or no image shows an object."""
        rng = generator(self.seed, step, index)
        pasted = chance(self.data.paste, rng)
        for _ in range(ROUNDS):
            root = weighted(self.shares, rng)
            source = self.sources[root]
            try:
                if pasted:
                    return self._pasted(source, rng)
                chosen = self._choose(source, rng)
                if chosen is None:
                    continue
                taken = source.take(*chosen, rng, self.jump(step, root))
            except DamagedFileError:
                continue
            made = self._made(source, taken, rng)
            if self.data.distractor and self.frames > 1 and chance(self.data.distractor, rng):
                self._visited(made, rng)
            if self.data.cut and self.frames > 1 and chance(self.data.cut, rng):
                self._interrupted(made, source, chosen[0], rng)
            return made
        limits = f"{self.data.min_area} pixels and {self.data.min_side} on a side"
        raise ValueError(f"no image in {ROUNDS} draws shows an object of {limits}: want larger objects or lower limits")

    def jump(self, step: int, root: int) -> int | None:
        """The largest jump of root number `root` at a step, in its pictures; None where `Data.jump` says nothing."""
        if not self.data.jump:
            return None
        share = step / self.steps if self.steps else 0.0
        stage = sum(share >= begin for begin in self.data.jump_at) - 1
        kind = self.sources[root].kind  # of stills not a benchmark's: their interval is never used
        interval = BENCHMARKS[kind].interval if kind in BENCHMARKS else 1
        between = self.data.interval[root] if self.data.interval else interval
        return max(1, self.data.jump[stage] // between)

    def _choose(self, source: Source, rng: torch.Generator) -> tuple[int, Sequence[int]] | None:
        """-> an item and which of its objects, in random order.

        "equal": the number of objects is drawn first, then an image among those that have as many; so every image with k
        objects or more is as likely as any other for k.
        """
        most = self.data.max_objects
        want = 1 + below(most, rng) if self.data.count == "equal" else 1
        best: tuple[int, list[int]] | None = None
        for _ in range(TRIES):
            item = source.pick(rng)
            try:
                ids = self.fitting(source.objects(item))
            except DamagedFileError:
                continue
            if ids and (best is None or len(ids) > len(best[1])):
                best = item, ids
            if len(ids) >= want:
                best = item, ids
                break
        if best is None:
            return None
        item, ids = best
        return item, [ids[i] for i in some(want if self.data.count == "equal" else most, len(ids), rng)]

    def fitting(self, objects: Objects) -> list[int]:
        """The ids that are large enough."""
        limits = self.data.min_area, self.data.min_side
        return [i for i, (area, side) in objects.items() if area >= limits[0] and side >= limits[1]]

    def _open_cutouts(self, root: Path) -> Cutouts:
        if not root.exists():
            raise FileNotFoundError(f"{root} does not exist: want a folder of pictures with alpha, or of images and masks")
        found = alpha_folder(root, self.shelf, self.data.size)
        if found:
            return found
        one = replace(self.data, motion="none", labels="all", only=(), without=())
        return from_source(open_root(root, one, 1, self.shelf), self.fitting)

    def _pasted(self, source: Source, rng: torch.Generator) -> Clip:
        """Cut-outs before an image of the root. Raises DamagedFileError."""
        background = source.background(source.pick(rng))
        count = 1 + below(self.data.max_pasted, rng)
        chosen = [self._cutout(rng) for _ in range(count)]
        made = compose(background, chosen, self.data.size, self.frames, self.data.scene, rng)
        number = max(1, int(made.owner[0].max()))
        masks = (made.owner[:, None] == torch.arange(1, number + 1).view(-1, 1, 1)).float()
        matrix, offset = tint(self.data.augment.colour, rng)
        frames = torch.stack([coloured(frame, matrix, offset) for frame in made.frames])
        if chance(self.data.augment.flip, rng):
            frames, masks = frames.flip(-1), masks.flip(-1)
        order = torch.tensor(some(number, number, rng))
        valid = torch.ones(self.frames, *self.data.size, dtype=torch.bool)
        return _clip(list(frames), list(masks[:, order]), list(valid), [True] * self.frames)

    def _cutout(self, rng: torch.Generator) -> Tensor:
        for _ in range(ROUNDS):
            try:
                return self.cutouts[below(len(self.cutouts), rng)].draw(rng)
            except DamagedFileError:
                continue
        raise ValueError(f"no cut-out in {ROUNDS} draws from {', '.join(map(str, self.data.cutouts))}: want larger objects")

    def _made(self, source: Source, taken: Taken, rng: torch.Generator) -> Clip:
        ranges, size = self.data.augment, self.data.size
        first = taken.planes[0]
        assert first is not None
        objects = points_of(first)
        image = taken.images[0]
        base = place((image.shape[1], image.shape[2]), size, objects, ranges.keep, rng)
        if len(taken.images) > 1:
            matrices = together(self.frames, base, size, objects, ranges, rng)
        elif self.data.motion == "none":
            matrices = [base] * self.frames
        else:
            matrices = warped(self.frames, base, size, objects, ranges, rng)
        if chance(ranges.flip, rng):
            matrices = [matrix @ mirror(size[1]) for matrix in matrices]
        matrix, offset = tint(ranges.colour, rng)
        frames: list[Tensor] = []
        masks: list[Tensor] = []
        valid: list[Tensor] = []
        for t, view in enumerate(matrices):
            at = t if len(taken.images) > 1 else 0
            if t and at == 0 and view is matrices[t - 1]:
                for made in (frames, masks, valid):
                    made.append(made[-1])
                continue
            shown = show(taken.images[at], taken.planes[at], taken.void[at], view, size)
            frames.append(on_ground(coloured(shown.image, matrix, offset), shown.inside))
            masks.append(shown.planes if taken.planes[at] is not None else torch.zeros(len(first), *size))
            valid.append(shown.valid)
        # copies of frame 0 carry its masks, whatever `labels` says of a video's other frames
        labelled = [len(taken.images) == 1 or planes is not None for planes in taken.planes]
        return _clip(frames, masks, valid, (labelled * self.frames)[: self.frames])

    def _visited(self, clip: Clip, rng: torch.Generator) -> None:
        """A cut-out passes, at most as large as the picture is high, and at most that far: from a later frame to the last, or
        from the first to an earlier one. Of each object the first frame shows `Scene.visible` at least, else nothing passes."""
        ranges = replace(self.data.scene, objects=(self.data.scene.objects[0], 1.0), drift=1.0)
        begin, end = 1 + below(self.frames - 1, rng), self.frames
        if chance(0.5, rng):
            begin, end = 0, begin
        frames_TCHW = clip.frames_BTCHW[0].clone()
        seen_THW = ~pass_before(frames_TCHW, self._cutout(rng), range(begin, end), ranges, rng)
        first_NHW = clip.masks_BTNHW[0, 0]
        if bool(((first_NHW * seen_THW[0]).sum((1, 2)) < ranges.visible * first_NHW.sum((1, 2))).any()):
            return
        clip.frames_BTCHW[0] = frames_TCHW
        clip.masks_BTNHW[0] *= seen_THW[:, None]
        clip.valid_BTHW[0] |= ~seen_THW

    def _interrupted(self, clip: Clip, source: Source, item: int, rng: torch.Generator) -> None:
        """A run of frames, the first never among them and up to half of all, shows another item's picture, and no object.
        Nothing happens where there is none: of one video alone."""
        count = 1 + below(max(1, self.frames // 2), rng)
        begin = 1 + below(self.frames - count, rng)
        for _ in range(ROUNDS):
            other = self.sources[weighted(self.shares, rng)]
            picked = other.pick(rng)
            if (other.root, other.name(picked)) == (source.root, source.name(item)):
                continue
            try:
                image = other.background(picked)
            except DamagedFileError:
                continue
            ranges, size = self.data.augment, self.data.size
            base = place((image.shape[1], image.shape[2]), size, (), 0.0, rng)
            matrix, offset = tint(ranges.colour, rng)
            for t, view in enumerate(warped(count, base, size, (), ranges, rng), begin):
                shown = show(image, None, None, view, size)
                clip.frames_BTCHW[0, t] = on_ground(coloured(shown.image, matrix, offset), shown.inside)
                clip.valid_BTHW[0, t] = shown.valid
                clip.masks_BTNHW[0, t] = 0
            return


def _clip(frames: list[Tensor], masks: list[Tensor], valid: list[Tensor], labelled: list[bool]) -> Clip:
    planes = torch.stack(masks)[None]
    objects = torch.ones(1, planes.shape[2], dtype=torch.bool)
    return Clip(torch.stack(frames)[None], planes, torch.tensor([labelled]), objects, torch.stack(valid)[None])


def open_sources(data: Data, frames: int, shelf: Shelf) -> list[Source]:
    """Each root as a source of clips. Raises as `Stream`; a name to take must be in one of the roots."""
    gaps: Sequence[int | None] = data.gap or (None,) * len(data.root)
    opened = [open_root(root, data, frames, shelf, gap) for root, gap in zip(data.root, gaps, strict=True)]
    names = {name for source in opened for name in source.names()}
    names |= {Path(name).stem for name in names}
    if missing := [name for name in data.only if name not in names]:
        raise ValueError(f"no {', '.join(missing)} in {', '.join(map(str, data.root))}: see --data.only")
    return opened


def open_root(root: Path, data: Data, frames: int, shelf: Shelf, gap: int | None = None) -> Source:
    """One root, by what is there: a COCO file, pairs of images and masks, else whatever `open_layout` understands."""
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist: want a folder of images and masks or of videos, or a COCO JSON")
    json = find_json(root)
    if json or ((root / "images").is_dir() and (root / "masks").is_dir() and not _in_folders(root / "images")):
        kind, stills = ("coco", open_coco(json)) if json else open_stills(root)
        stills = [s for s in stills if _asked(data, s.name) and _asked(data, Path(s.name).stem)]
        if not stills:
            raise ValueError(f"{root} has none of the images asked for: see --data.only and --data.without")
        return Stills(root, kind, stills, shelf, data.size)
    layout = open_videos(root, data)
    single = data.motion != "video" or all(len(video.frames) == 1 for video in layout.videos)
    return Videos(layout, shelf, data.size, 1 if single else frames, data.labels, gap, data.reverse, data.frame_order)


def open_videos(root: Path, data: Data) -> Layout:
    kind, _ = recognise(root)
    split = data.split if kind != "folder" or (root / data.split).is_dir() else None
    layout = open_layout(root, kind, split, without=data.without)
    videos = tuple(_annotated(video, data.annotated) for video in layout.videos if _asked(data, video.name) and video.masks)
    if not videos:
        raise ValueError(f"{root} has none of the videos asked for: see --data.only and --data.without")
    return replace(layout, videos=videos)


def _annotated(video: VideoFiles, which: Literal["all", "first", "middle"]) -> VideoFiles:
    """The video with all of its masks, or with one alone."""
    if which == "all":
        return video
    frames = [frame for frame in video.frames if frame in video.masks]
    one = frames[0 if which == "first" else len(frames) // 2]
    return replace(video, masks={one: video.masks[one]})


def _asked(data: Data, name: str) -> bool:
    return (not data.only or name in data.only) and name not in data.without


def _in_folders(images: Path) -> bool:
    return any(p.is_dir() for p in images.iterdir())


def _check(data: Data, frames: int, batch: int) -> None:
    """Raises ValueError for what no stream can be made of."""
    roots = len(data.root)
    if not roots:
        raise ValueError("no data: want --data.root, folders of videos or of images with masks, or a COCO JSON")
    for name, given in (("shares", data.share), ("gaps", data.gap), ("intervals", data.interval)):
        if given and len(given) != roots:
            raise ValueError(f"{len(given)} {name} for {roots} roots: want one each")
    if data.share and (min(data.share) < 0 or not math.isfinite(sum(data.share)) or sum(data.share) <= 0):
        raise ValueError(f"shares {data.share}: want numbers from 0 on, one above 0")
    for name, value in (("frames", frames), ("batch", batch), ("max_objects", data.max_objects), ("size", min(data.size))):
        if value < 1:
            raise ValueError(f"{name} {value}: want 1 or more")
    if (data.jump or data.jump_at) and data.frame_order == "window":
        raise ValueError("jumps of a clip that goes around: want --data.frame_order forward")
    if len(data.jump) != len(data.jump_at) or list(data.jump_at) != sorted({0.0, *data.jump_at} if data.jump else ()):
        raise ValueError(f"{len(data.jump)} jumps at {data.jump_at}: want a rising share of the steps for each, the first 0")
    if min((1, *data.jump, *data.interval)) < 1:
        raise ValueError(f"jumps {data.jump}, intervals {data.interval}: want 1 or more")
    for name, share in (("paste", data.paste), ("distractor", data.distractor)):
        if share and not data.cutouts:
            raise ValueError(f"{name} {share} without cut-outs: want --data.cutouts, folders of them")
    for name in ("paste", "distractor", "cut", "damaged", "reverse"):
        share = getattr(data, name)
        if not 0 <= share <= 1:
            raise ValueError(f"{name} {share}: want a share in 0 .. 1")

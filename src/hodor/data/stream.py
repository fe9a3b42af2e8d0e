"""The stream of training clips. Every clip depends only on the settings and on (seed, step, index).

stream = Stream(Data(root=(Path("DAVIS"), Path("coco")), share=(0.5, 0.5)), frames=3, batch=4, seed=0)
clip = stream.batch(step=17)                     # the same on every thread and in every order of calls
part = stream.batch(17, range(2, 4))             # the half of the second of two processes
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from hodor.data.augment import coloured, mirror, on_ground, place, points_of, show, tint, together, warped
from hodor.data.benchmarks import BENCHMARKS, recognise
from hodor.data.beside import paste_beside
from hodor.data.clip import Clip, collate
from hodor.data.coco import find_json, open_coco
from hodor.data.file_cache import DamagedFileError, FileCache, Objects
from hodor.data.layouts import Layout, open_layout
from hodor.data.paste import Cutouts, add_distractor, alpha_folder, compose, cut_out, from_source
from hodor.data.sampling import below, chance, choose, generator, weighted
from hodor.data.search import split_lists
from hodor.data.settings import Data
from hodor.data.stills import RawClip, Source, Stills, open_stills
from hodor.data.videofiles import VideoFiles
from hodor.data.videos import Videos

log = logging.getLogger(__name__)

TRIES = 32
"""Images that are sampled until one has enough objects. If none has, the one with the most objects is used."""
ROUNDS = 100
"""Attempts to sample a clip before an error is raised: files can be damaged, and images can lack objects."""

SMALLEST_TWIN = 0.002
"""Smallest area of an object of which a copy is made, as a share of the frame."""
TWIN_COLOUR = 0.3
"""Colour change of a copy, as a share of the range of the augmentation."""


class Stream:
    """Random access to the training clips. Several threads can use one stream.

    Creating a stream opens the roots. Lists are read; images are not, and only a few masks of a folder of masks are.

    Args:
        data: the data sets and how clips are sampled from them.
        frames: frames of a clip (T).
        batch: clips of a step (B).
        seed: seed of all random numbers.
        steps: steps of the whole training, which the stages of `Data.jump` are shares of. Default: 0, which stays in the first
            stage.

    Raises:
        FileNotFoundError: a root does not exist or contains no data.
        ValueError: a root contains no clips, or the settings contradict each other: "expected one share for each of 3 roots,
            got 2".
    """

    def __init__(self, data: Data, frames: int, batch: int, seed: int, steps: int = 0) -> None:
        _check(data, frames, batch)
        self.data, self.frames, self.batch_size, self.seed, self.steps = data, frames, batch, seed, steps
        self.cache = FileCache(data.cache * 1_000_000, data.damaged)
        self.sources = open_sources(data, frames, self.cache)
        for source in self.sources:
            for note in source.notes:
                log.info("%s: %s", source.root, note)
        self.cutouts = [self._open_cutouts(root) for root in data.cutouts]
        self.shares = data.share or (1.0,) * len(self.sources)

    def __reduce__(self) -> tuple[type[Stream], tuple[Data, int, int, int, int]]:
        """Pickle the arguments alone: another process opens the roots again, and its clips are the same."""
        return type(self), (self.data, self.frames, self.batch_size, self.seed, self.steps)

    @property
    def damaged(self) -> dict[Path, str]:
        """The damaged files found so far and their errors."""
        return dict(self.cache.damaged)

    def batch(self, step: int, indices: range | None = None) -> Clip:
        """Return the clips of a step's batch, joined.

        Args:
            step: training step, from 0.
            indices: clips of the batch to return. Default: all.
        """
        clips = [self.clip(step, index) for index in (range(self.batch_size) if indices is None else indices)]
        return collate(clips, self.data.planes if self.data.pad_objects else 0)

    def clip(self, step: int, index: int) -> Clip:
        """Return clip `index` of a step, B = 1.

        Raises:
            ValueError: too many files are damaged (see `FileCache.mark_damaged`), or "expected an object of 2000 pixels and 20
                on a side, got none in 100 attempts: use larger objects or lower limits".
        """
        rng = generator(self.seed, step, index)
        pasted = chance(self.data.paste, rng)
        for _ in range(ROUNDS):
            root = weighted(self.shares, rng)
            source = self.sources[root]
            try:
                if pasted:
                    return self._composed(source, rng)
                chosen = self._choose(source, rng)
                if chosen is None:
                    continue
                raw = source.read(*chosen, rng, self.jump(step, root))
                if raw.planes[0] is None or not len(raw.planes[0]):  # other objects hide the chosen ones
                    continue
            except DamagedFileError:
                continue
            clip = self._augmented(raw, rng)
            if self.data.distractor and self.frames > 1 and chance(self.data.distractor, rng):
                self._add_distractor(clip, rng)
            if self.data.twin and self.frames > 1 and chance(self.data.twin, rng):
                self._add_twin(clip, rng)
            if self.data.cut and self.frames > 1 and chance(self.data.cut, rng):
                self._add_cut(clip, source, chosen[0], rng)
            if self.data.beside and clip.objects_BN.shape[1] == 1 and chance(self.data.beside, rng):
                clip = paste_beside(clip, rng)
            return clip
        limits = f"{self.data.min_area} pixels and {self.data.min_side} on a side"
        raise ValueError(f"expected an object of {limits}, got none in {ROUNDS} attempts: use larger objects or lower limits")

    def warm(self, threads: int) -> None:
        """Read all images and masks into the cache, up to its limit. Forked processes then share them.

        Args:
            threads: number of threads that read.
        """

        def read(source: Source, item: int) -> None:
            with suppress(DamagedFileError):
                source.objects(item)
                source.background(item)
                source.read(item, (), generator(self.seed, 0, item))

        with ThreadPoolExecutor(threads, thread_name_prefix="warm") as pool:
            for source in self.sources:
                list(pool.map(partial(read, source), range(len(source))))

    def jump(self, step: int, root: int) -> int | None:
        """Return the largest jump at a step, in images of root number `root`; None if `Data.jump` is empty."""
        if not self.data.jump:
            return None
        share = step / self.steps if self.steps else 0.0
        stage = sum(share >= begin for begin in self.data.jump_at) - 1
        kind = self.sources[root].kind  # of stills not a benchmark's: their interval is never used
        interval = BENCHMARKS[kind].interval if kind in BENCHMARKS else 1
        between = self.data.interval[root] if self.data.interval else interval
        return max(1, self.data.jump[stage] // between)

    def _choose(self, source: Source, rng: torch.Generator) -> tuple[int, Sequence[int]] | None:
        """Sample an item and some of its objects, in random order; None if no sampled item has an object.

        With count "equal" the number k of objects is sampled first, then an image with at least k objects. All images with k or
        more objects are equally likely.
        """
        max_objects = self.data.max_objects
        number = 1 + below(max_objects, rng) if self.data.count == "equal" else 1
        best: tuple[int, list[int]] | None = None
        for _ in range(TRIES):
            item = source.pick(rng)
            try:
                ids = self.fitting(source.objects(item))
            except DamagedFileError:
                continue
            if ids and (best is None or len(ids) > len(best[1])):
                best = item, ids
            if len(ids) >= number:
                best = item, ids
                break
        if best is None:
            return None
        item, ids = best
        return item, [ids[i] for i in choose(number if self.data.count == "equal" else max_objects, len(ids), rng)]

    def fitting(self, objects: Objects) -> list[int]:
        """Return the ids of the objects that are large enough (`Data.min_area`, `Data.min_side`)."""
        return fitting(objects, self.data)

    def _open_cutouts(self, root: Path) -> Cutouts:
        if not root.exists():
            raise FileNotFoundError(f"{root} does not exist: give a folder of images with alpha, or of images and masks")
        cutouts = alpha_folder(root, self.cache, self.data.size)
        if cutouts:
            return cutouts
        single_images = replace(self.data, motion="none", labels="all", only=(), without=())
        return from_source(open_root(root, single_images, 1, self.cache), self.fitting)

    def _composed(self, source: Source, rng: torch.Generator) -> Clip:
        """Compose a clip of cut-outs in front of an image of the root. Raises DamagedFileError."""
        background = source.background(source.pick(rng))
        count = 1 + below(self.data.max_pasted, rng)
        chosen = [self._cutout(rng) for _ in range(count)]
        composed = compose(background, chosen, self.data.size, self.frames, self.data.scene, rng)
        number = max(1, int(composed.owner[0].max()))
        masks = (composed.owner[:, None] == torch.arange(1, number + 1).view(-1, 1, 1)).float()
        matrix, offset = tint(self.data.augment.colour, rng)
        frames = torch.stack([coloured(frame, matrix, offset) for frame in composed.frames])
        if chance(self.data.augment.flip, rng):
            frames, masks = frames.flip(-1), masks.flip(-1)
        order = torch.tensor(choose(number, number, rng))
        valid = torch.ones(self.frames, *self.data.size, dtype=torch.bool)
        return _clip(list(frames), list(masks[:, order]), list(valid), [True] * self.frames)

    def _cutout(self, rng: torch.Generator) -> Tensor:
        for _ in range(ROUNDS):
            try:
                return self.cutouts[below(len(self.cutouts), rng)].sample(rng)
            except DamagedFileError:
                continue
        roots = ", ".join(map(str, self.data.cutouts))
        raise ValueError(f"expected a cut-out from {roots}, got none in {ROUNDS} attempts: use larger objects or lower limits")

    def _augmented(self, raw: RawClip, rng: torch.Generator) -> Clip:
        """Augment the images and masks of a clip."""
        ranges, size = self.data.augment, self.data.size
        first = raw.planes[0]
        assert first is not None
        objects = points_of(first)
        image = raw.images[0]
        base = place((image.shape[1], image.shape[2]), size, objects, ranges.keep, rng)
        if len(raw.images) > 1:
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
            at = t if len(raw.images) > 1 else 0
            if t and at == 0 and view is matrices[t - 1]:  # a copy of the frame before
                for tensors in (frames, masks, valid):
                    tensors.append(tensors[-1])
                continue
            shown = show(raw.images[at], raw.planes[at], raw.void[at], view, size)
            frames.append(on_ground(coloured(shown.image, matrix, offset), shown.inside))
            masks.append(shown.planes if raw.planes[at] is not None else torch.zeros(len(first), *size))
            valid.append(shown.valid)
        # copies of frame 0 are labelled like it, whatever the value of `labels` is
        labelled = [len(raw.images) == 1 or planes is not None for planes in raw.planes]
        return _clip(frames, masks, valid, (labelled * self.frames)[: self.frames])

    def _add_distractor(self, clip: Clip, rng: torch.Generator) -> None:
        """Blend a moving cut-out over some frames, in place.

        It is shown from a later frame to the last one, or from the first frame to an earlier one.
        Its size and the distance that it moves are at most the height of the frame. The clip stays as it is if the first frame
        would show less than `Scene.visible` of an object.
        """
        ranges = replace(self.data.scene, objects=(self.data.scene.objects[0], 1.0), drift=1.0)
        begin, end = 1 + below(self.frames - 1, rng), self.frames
        if chance(0.5, rng):
            begin, end = 0, begin
        frames_TCHW = clip.frames_BTCHW[0].clone()
        visible_THW = ~add_distractor(frames_TCHW, self._cutout(rng), range(begin, end), ranges, rng)
        self._hide(clip, frames_TCHW, visible_THW)

    def _add_twin(self, clip: Clip, rng: torch.Generator) -> None:
        """Blend a moving copy of an object over all frames, in place; the copy is not an object.

        It is cut out of one of the frames, and has its size and colours nearly. In half of the clips it passes behind the
        objects, else in front of them. The clip stays as it is if the object is smaller than `SMALLEST_TWIN` on that frame, or
        if the first frame would show less than `Scene.visible` of an object.
        """
        labelled = clip.labelled_BT[0].nonzero()[:, 0].tolist()
        at, which = labelled[below(len(labelled), rng)], below(clip.masks_BTNHW.shape[2], rng)
        plane_HW = clip.masks_BTNHW[0, at, which] > 0
        if float(plane_HW.float().mean()) < SMALLEST_TWIN:
            return
        colour = self.data.augment.colour
        matrix, offset = tint(replace(colour, **{name: TWIN_COLOUR * share for name, share in vars(colour).items()}), rng)
        twin = cut_out(coloured(clip.frames_BTCHW[0, at].clone(), matrix, offset), plane_HW)
        side = (twin.shape[1] * twin.shape[2]) ** 0.5 / self.data.size[0]
        ranges = replace(self.data.scene, objects=(0.75 * side, 1.25 * side), drift=1.0)
        frames_TCHW = clip.frames_BTCHW[0].clone()
        visible_THW = ~add_distractor(frames_TCHW, twin, range(self.frames), ranges, rng)
        if chance(0.5, rng):
            behind_THW = clip.masks_BTNHW[0].amax(1) > 0
            frames_TCHW = torch.where(behind_THW[:, None], clip.frames_BTCHW[0], frames_TCHW)
            visible_THW |= behind_THW
        self._hide(clip, frames_TCHW, visible_THW)

    def _hide(self, clip: Clip, frames_TCHW: Tensor, visible_THW: Tensor) -> None:
        """Replace the frames of a clip by those in which only some pixels of its objects are visible, in place.

        The clip stays as it is if the first frame would show less than `Scene.visible` of an object.
        """
        first_NHW = clip.masks_BTNHW[0, 0]
        least = self.data.scene.visible
        if bool(((first_NHW * visible_THW[0]).sum((1, 2)) < least * first_NHW.sum((1, 2))).any()):
            return
        clip.frames_BTCHW[0] = frames_TCHW
        clip.masks_BTNHW[0] *= visible_THW[:, None]
        clip.valid_BTHW[0] |= ~visible_THW

    def _add_cut(self, clip: Clip, source: Source, item: int, rng: torch.Generator) -> None:
        """Replace consecutive frames by the image of another item, without objects, in place.

        At most half of the frames are replaced, never the first. The clip stays as it is if no other item is found, for example
        if the data are one video.
        """
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


def fitting(objects: Objects, data: Data) -> list[int]:
    """Return the ids of the objects that are large enough (`Data.min_area`, `Data.min_side`)."""
    return [i for i, (area, side) in objects.items() if area >= data.min_area and side >= data.min_side]


def open_sources(data: Data, frames: int, cache: FileCache) -> list[Source]:
    """Open every root as a source of clips.

    Args:
        data: the data sets and how clips are sampled from them.
        frames: frames of a clip (T).
        cache: file cache that reads images and masks.

    Raises:
        ValueError: "no horse in ROOT: correct --data.only"; the errors of `open_root`.
    """
    gaps: Sequence[int | None] = data.gap or (None,) * len(data.root)
    opened = [open_root(root, data, frames, cache, gap) for root, gap in zip(data.root, gaps, strict=True)]
    names = {name for source in opened for name in source.names()}
    names |= {Path(name).stem for name in names}
    if missing := [name for name in data.only if name not in names]:
        roots = ", ".join(map(str, data.root))
        raise ValueError(f"no {', '.join(missing)} in {roots}: correct --data.only")
    return opened


def open_root(root: Path, data: Data, frames: int, cache: FileCache, gap: int | None = None) -> Source:
    """Open one root: a COCO file, a folder of images and masks, or a folder that `open_layout` can read.

    Args:
        root: path of the root.
        data: how clips are sampled.
        frames: frames of a clip (T).
        cache: file cache that reads images and masks.
        gap: see `Videos`.

    Raises:
        FileNotFoundError: "ROOT does not exist: give a folder of images and masks or of videos, or a COCO JSON".
        ValueError: "ROOT contains none of the requested images: see --data.only and --data.without"; the errors of `find_json`,
            `open_coco`, `open_stills`, `open_layout` and `Videos`.
    """
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist: give a folder of images and masks or of videos, or a COCO JSON")
    json, notes = find_json(root, data.split), list[str]()
    if json or ((root / "images").is_dir() and (root / "masks").is_dir() and not _in_folders(root / "images")):
        kind, stills = ("coco", open_coco(json, notes)) if json else open_stills(root, data.split, notes)
        stills = [s for s in stills if _requested(data, s.name, Path(s.name).stem)]
        if not stills:
            raise ValueError(f"{root} contains none of the requested images: see --data.only and --data.without")
        return Stills(root, kind, stills, cache, data.size, notes)
    layout = open_videos(root, data)
    single = data.motion != "video" or all(len(video.frames) == 1 for video in layout.videos)
    return Videos(layout, cache, data.size, 1 if single else frames, data.labels, gap, data.reverse, data.frame_order)


def open_videos(root: Path, data: Data) -> Layout:
    """Open a folder of videos, with the requested videos that have masks.

    Raises:
        ValueError: "ROOT contains none of the requested videos: see --data.only and --data.without"; the errors of
            `open_layout`.
    """
    kind, _ = recognise(root)
    split = data.split if kind != "folder" or (root / data.split).is_dir() or split_lists(root) else None
    layout = open_layout(root, kind, split, without=data.without)
    videos = tuple(_annotated(video, data.annotated) for video in layout.videos if _requested(data, video.name) and video.masks)
    if not videos:
        raise ValueError(f"{root} contains none of the requested videos: see --data.only and --data.without")
    return replace(layout, videos=videos)


def _annotated(video: VideoFiles, which: Literal["all", "first", "middle"]) -> VideoFiles:
    """Return the video with all of its masks, or with only one of them."""
    if which == "all":
        return video
    frames = [frame for frame in video.frames if frame in video.masks]
    one = frames[0 if which == "first" else len(frames) // 2]
    return replace(video, masks={one: video.masks[one]})


def _requested(data: Data, *names: str) -> bool:
    """Whether an image or video of these names is requested."""
    return (not data.only or not {*names}.isdisjoint(data.only)) and {*names}.isdisjoint(data.without)


def _in_folders(images: Path) -> bool:
    return any(p.is_dir() for p in images.iterdir())


def _check(data: Data, frames: int, batch: int) -> None:
    """Raise ValueError for settings that are out of range or contradict each other."""
    roots = len(data.root)
    if not roots:
        raise ValueError("no data: give --data.root, folders of videos or of images with masks, or a COCO JSON")
    for name, values in (("share", data.share), ("gap", data.gap), ("interval", data.interval)):
        if values and len(values) != roots:
            raise ValueError(f"expected one {name} for each of {roots} roots, got {len(values)}")
    if data.share and (min(data.share) < 0 or not math.isfinite(sum(data.share)) or sum(data.share) <= 0):
        raise ValueError(f"expected shares of at least 0, one of them above 0, got {data.share}")
    for name, value in (("frames", frames), ("batch", batch), ("max_objects", data.max_objects), ("size", min(data.size))):
        if value < 1:
            raise ValueError(f"expected {name} of at least 1, got {value}")
    if (data.jump or data.jump_at) and data.frame_order == "window":
        raise ValueError("expected frame_order forward for jumps, got window: give --data.frame-order forward")
    if len(data.jump) != len(data.jump_at) or list(data.jump_at) != sorted({0.0, *data.jump_at} if data.jump else ()):
        rising = f"expected a rising share of the steps for each of {len(data.jump)} jumps, the first 0"
        raise ValueError(f"{rising}, got jump_at {data.jump_at}")
    if min((1, *data.jump, *data.interval)) < 1:
        raise ValueError(f"expected jumps and intervals of at least 1, got jump {data.jump}, interval {data.interval}")
    for name, share in (("paste", data.paste), ("distractor", data.distractor)):
        if share and not data.cutouts:
            raise ValueError(f"expected cut-outs for {name} {share}, got none: give --data.cutouts FOLDER")
    for name in ("paste", "distractor", "twin", "beside", "cut", "damaged", "reverse"):
        share = getattr(data, name)
        if not 0 <= share <= 1:
            raise ValueError(f"expected {name} between 0 and 1, got {share}")

"""The ground truth of a data set: read as its format requires, and checked before a network runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hodor.data.benchmarks import benchmark
from hodor.data.layouts import Layout, VideoFiles
from hodor.data.videofiles import shown
from hodor.evaluate import check
from hodor.masks import Labels


@dataclass(frozen=True)
class Masks:
    """The masks of a layout as a `Store` (hodor.scoring.stores.base), read as the layout's format requires.

    Attributes:
        layout: the folder whose masks are read.
    """

    layout: Layout

    @property
    def name(self) -> str:
        return str(self.layout.root)

    @property
    def single(self) -> bool:
        return False

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    def names(self) -> list[str]:
        return sorted(self.layout.names)

    def frames(self, sequence: str) -> list[str]:
        video = self.layout.video(sequence)
        return [frame for frame in video.frames if frame in video.masks]

    def read(self, sequence: str, frame: str) -> Labels:
        return self.layout.video(sequence).labels(frame)

    def planes(self, sequence: str, frame: str) -> dict[int, npt.NDArray[np.bool_]]:
        return self.layout.video(sequence).planes(frame)

    def place(self, sequence: str, frame: str) -> str:
        return str(self.layout.video(sequence).masks[frame])

    def strays(self) -> list[str]:
        return []


def written(layout: Layout, out: Path) -> Masks:
    """Return the masks that `segment_dataset` wrote into OUT for the videos of `layout`, as a `Store`."""
    videos = (
        replace(video, masks={f: out / video.name / f"{f}.png" for f in video.required}, single=False, parts={})
        for video in layout.videos
    )
    return Masks(replace(layout, root=out, videos=tuple(videos)))


def check_ground_truth(layout: Layout) -> None:
    """Check that a split has ground truth to score against.

    Raises:
        ValueError: "ROOT, test-dev, has masks only where they are given (a, b): its server scores it, `hodor submit` packs the
            masks for it".
    """
    bare = [video.name for video in layout.videos if video.masks.keys() <= video.given.keys() and len(video.frames) > 1]
    if benchmark(layout.kind).held_back and bare:
        place = f"{layout.root}, {layout.split}," if layout.split else str(layout.root)
        server = "its server scores it, `hodor submit` packs the masks for it"
        raise ValueError(f"{place} has masks only where they are given ({shown(bare)}): {server}")


@dataclass(frozen=True)
class Recorded(Masks):
    """Masks that keep the last one read, and the sizes of all.

    Attributes:
        sizes: {(video, frame): size} of the masks that were read.
    """

    sizes: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)
    last: dict[tuple[str, str], Labels] = field(default_factory=dict)

    def read(self, sequence: str, frame: str) -> Labels:
        key = sequence, frame
        if key not in self.last:
            labels = super().read(sequence, frame)
            self.last.clear()
            self.last[key], self.sizes[key] = labels, labels.shape
        return self.last[key]


@dataclass(frozen=True)
class Scorable:
    """What can be scored of a data set.

    Attributes:
        layout: the videos that can be scored; of each, `required` are the frames from its first to its last mask.
        notes: what is left out, one sentence each.
    """

    layout: Layout
    notes: tuple[str, ...]


def scorable(
    layout: Layout,
    profile: str,
    late_objects: bool = False,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Scorable:
    """Find out what can be scored, before there are predictions. Every ground-truth mask that is needed is read once.

    Args:
        layout: the data set.
        profile: the rule that will be used.
        late_objects: as for `hodor.evaluate.evaluate`.
        progress: called as progress(videos done, all videos).

    Raises:
        ValueError: masks that are damaged or that differ in size from their pictures, all in one line; "expected a video of
            ROOT that can be scored, got none: v (expected at least 1 ground-truth frame between the first and the last, got 2
            frames in all): give masks on at least 3 frames".
    """
    notes = []
    videos = []
    for video in layout.videos:
        within, note = _between_masks(video)
        videos.append(within)
        notes += [note] if note else []
    cut, masks = replace(layout, videos=tuple(videos)), Recorded(layout)
    found = check(
        written(cut, layout.root),
        masks,
        profile,
        list(layout.names),
        late_objects=late_objects,
        meta=layout.meta,
        progress=progress,
    )
    problems = [*found.damaged, *(text for video in videos for text in _unusable(video, masks))]
    if problems:
        listed = "; ".join(dict.fromkeys(problems))
        raise ValueError(f"{layout.root} cannot be scored: {listed}")
    if len(found.unscored) == len(videos):
        listed = "; ".join(f"{name} ({why})" for name, why in [*found.unscored.items()][:6])
        expected = f"expected a video of {layout.root} that can be scored, got none"
        raise ValueError(f"{expected}: {listed}: give masks on at least 3 frames, with an object before the last one")
    notes += [f"{name} is not scored: {why}" for name, why in found.unscored.items()]
    kept = tuple(video for video in videos if video.name not in found.unscored)
    return Scorable(replace(layout, videos=kept), tuple(notes))


def check_given(layout: Layout) -> None:
    """Read every mask that will be given to a tracker, and compare its size with that of the pictures.

    Raises:
        ValueError: masks that are damaged or that differ in size from their pictures, all in one line.
    """
    masks = Recorded(layout)
    problems = [text for video in layout.videos for text in _unusable(video, masks)]
    if problems:
        raise ValueError(f"{layout.root} cannot be segmented: {'; '.join(dict.fromkeys(problems))}")


def _between_masks(video: VideoFiles) -> tuple[VideoFiles, str]:
    """Return a video that requires only the frames from its first to its last mask, and a note about the others."""
    labelled = [place for place, frame in enumerate(video.frames) if frame in video.masks]
    if not labelled:
        return video, ""
    within = frozenset(video.frames[labelled[0] : labelled[-1] + 1])
    place = {frame: at for at, frame in enumerate(video.frames)}
    outside = [frame for frame in video.required if frame not in within]
    if not outside:
        return video, ""
    early = sum(place[frame] < labelled[0] for frame in outside)
    counts = [f"{n} {where}" for n, where in ((early, "before its first mask"), (len(outside) - early, "after its last")) if n]
    note = f"{video.name}: frames that are not scored: {' and '.join(counts)} ({shown(outside)})"
    return replace(video, required=tuple(frame for frame in video.required if frame in within)), note


def _unusable(video: VideoFiles, masks: Recorded) -> list[str]:
    """Read the given masks that were not read yet, and a picture for each size of masks; return what is wrong."""
    problems = []
    for frame in video.given:
        if (video.name, frame) not in masks.sizes:
            try:
                labels = masks.read(video.name, frame)
            except (OSError, ValueError) as error:
                problems.append(str(error))
            else:
                if video.single and labels.any():  # the later masks are not given
                    break
    first = dict[tuple[int, ...], str]()
    for frame in video.masks:
        if size := masks.sizes.get((video.name, frame)):
            first.setdefault(size, frame)
    for size, frame in first.items():
        picture = video.pictures([video.frames.index(frame)])[0].shape[:2]
        if picture != size:
            expected = f"expected a mask of {picture[0]}x{picture[1]} (height x width), the size of its picture"
            problems.append(f"{video.masks[frame]}: {expected}, got {size[0]}x{size[1]}")
    return problems

"""Benchmark folders as values: which videos, which frames, which masks, what a tracker is given, what it has to write.

    layout = open_layout("DAVIS", "davis2017", split="val")
    for video in layout.videos:
        first = video.pictures([0])[0], video.labels(video.frames[0])

One reader a kind, in hodor.data.benchmark_folders. Nothing is decoded on opening except a handful of masks of the kind
"folder"; pictures and masks are read when asked for. Everything here can be pickled and handed to another process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hodor.data.benchmarks import Kind, KindOrAuto, benchmark, recognise
from hodor.data.search import Search
from hodor.data.videofiles import Picture, VideoFiles, shown

__all__ = ["Kind", "KindOrAuto", "Layout", "VideoFiles", "open_layout"]


@dataclass(frozen=True)
class Layout:
    """A benchmark's folder as it was understood. split: "" where it has none. notes: what was taken or passed over. meta: the
    file that lists the objects (YouTube-VOS, LVOS, MOSE v2), if there is one."""

    kind: Kind
    root: Path
    split: str
    videos: tuple[VideoFiles, ...]
    notes: tuple[str, ...] = ()
    meta: Path | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(video.name for video in self.videos)

    def video(self, name: str) -> VideoFiles:
        """Raises ValueError: "no sequence 'cow' in ROOT: want bear, bmx-bumps, ..."."""
        for video in self.videos:
            if video.name == name:
                return video
        raise ValueError(f"no sequence {name!r} in {self.root}: want {shown(self.names)}")

    def picture(self, sequence: str, frame: str) -> Picture:
        """A frame, uint8 RGB [H, W, 3]. Errors as `video` and `VideoFiles.pictures`; ValueError for a name that is no frame."""
        video = self.video(sequence)
        return video.pictures([video.frames.index(frame)])[0]


def open_layout(
    root: str | Path,
    kind: KindOrAuto = "auto",
    split: str | None = None,
    only: Sequence[str] | None = None,
    without: Sequence[str] = (),
) -> Layout:
    """Understand a benchmark's folder.

    kind: "auto" tells by what is there, and `notes` says what it took. split: "train", "val" (or "valid"), "test-dev" ...; None
    takes val where there is one, else what there is. only, without: names of sequences to take, to leave out; a name in
    `without` that is not there is passed over.

    Raises FileNotFoundError "ROOT is not a folder: want a benchmark's root". Raises ValueError
    "expected a data set format (auto, davis2016, ...), got 'davis'", "no sequence 'cow' in ROOT: want ...",
    "ROOT has no split 'test': want train, val", and, all that is wrong
    with the sequences taken in one line, "ROOT, read as davis2017: bear has no mask on its first frame 00000; ...".
    """
    root = Path(root)
    if kind != "auto":
        benchmark(kind)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder: want a benchmark's root")
    notes = []
    if kind == "auto":
        kind, why = recognise(root)
        notes.append(f"{root} is read as {kind}: {why}")
    search = Search(root, kind, None if not only else tuple(only), tuple(without), notes)
    split, videos = benchmark(kind).reader(search, split)
    search.check(videos)
    return Layout(kind, root, split, tuple(videos), tuple(search.notes), search.meta)

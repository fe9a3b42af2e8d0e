"""Data sets of videos: their frames and masks, the masks that a tracker is given, and the frames that it must predict.

    layout = open_layout("DAVIS", "davis2017", split="val")
    for video in layout.videos:
        first = video.pictures([0])[0], video.labels(video.frames[0])

The reader of each format is in `hodor.data.benchmark_folders`. Images and masks are read when they are requested; opening a
data set decodes only a few masks of the format "folder". All objects can be pickled and sent to another process.
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
    """An opened data set.

    Attributes:
        kind: format of the data set.
        root: its folder.
        split: name of the split; "" if there are no splits.
        videos: the requested videos.
        notes: remarks about what was recognised, used or skipped.
        meta: JSON file that lists the objects (YouTube-VOS, LVOS, MOSE v2), if there is one.
    """

    kind: Kind
    root: Path
    split: str
    videos: tuple[VideoFiles, ...]
    notes: tuple[str, ...] = ()
    meta: Path | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the videos."""
        return tuple(video.name for video in self.videos)

    def video(self, name: str) -> VideoFiles:
        """Return the video of this name.

        Raises:
            ValueError: "expected a sequence of ROOT (bear, bmx-bumps, ...), got 'cow'".
        """
        for video in self.videos:
            if video.name == name:
                return video
        raise ValueError(f"expected a sequence of {self.root} ({shown(self.names)}), got {name!r}")

    def picture(self, sequence: str, frame: str) -> Picture:
        """Read a frame, uint8 RGB [H, W, 3].

        Raises the errors of `video` and `VideoFiles.pictures`, and ValueError if there is no frame of this name.
        """
        video = self.video(sequence)
        return video.pictures([video.frames.index(frame)])[0]


def open_layout(
    root: str | Path,
    kind: KindOrAuto = "auto",
    split: str | None = None,
    only: Sequence[str] | None = None,
    without: Sequence[str] = (),
) -> Layout:
    """Open a data set of videos.

    Args:
        root: folder of the data set.
        kind: format of the data set. "auto" recognises it by the files in the folder; `notes` states the result.
        split: "train", "val" (or "valid"), "test-dev", ... Default: val if there is one, else test-dev, test, train, or the
            only one.
        only: names of the sequences to open. Default: all.
        without: names of sequences to leave out. Names that do not exist are ignored.

    Raises:
        FileNotFoundError: "ROOT is not a folder: give the root folder of a data set".
        ValueError: "expected a data set format (auto, davis2016, ...), got 'davis'"; "expected a sequence of ROOT (...), got
            'cow'"; "expected a split of ROOT (train, val), got 'test'"; all problems of the requested sequences in one line,
            "ROOT, read as davis2017: bear has no mask on its first frame 00000; ...".
    """
    root = Path(root)
    if kind != "auto":
        benchmark(kind)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder: give the root folder of a data set")
    notes = []
    if kind == "auto":
        kind, why = recognise(root)
        notes.append(f"{root} is read as {kind}: {why}")
    search = Search(root, kind, None if not only else tuple(only), tuple(without), notes)
    try:
        split, videos = benchmark(kind).reader(search, split)
    except (TypeError, AttributeError, KeyError, OverflowError, ValueError) as error:  # values that no meta file has
        if isinstance(error, ValueError) and str(root) in str(error):
            raise
        what = f"{type(error).__name__} {str(error)[:200]}"
        raise ValueError(f"{search.meta or root}, read as {kind}, is damaged: {what}") from None
    search.check(videos)
    return Layout(kind, root, split, tuple(videos), tuple(search.notes), search.meta)

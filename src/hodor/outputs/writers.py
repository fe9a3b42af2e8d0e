"""Results to files while a run goes on: masks, soft masks, overlays, COCO, YouTube-VIS, cut-outs, tables.

Every writer has `write(result)` once a frame, `close()`, `abort()`, and is a context manager that closes at the end and
on Ctrl-C and aborts on any other exception. Nothing grows with the length of the video but the files, and no file is
ever half written under its own name.

To resume a killed run: put the MaskWriter last, so that a frame's mask says that all of the frame is written; at the
start ask `completed(folder)` which frames are whole, and give that set to the writers of records (COCO, YouTube-VIS,
table) as `keep`. They keep what they wrote of those frames, beside their file under a hidden name, drop the rest, and
end with the bytes of an unbroken run. Overlays, sheets and ProRes are streams that cannot be joined: make them anew
and feed them the source with the finished masks first.
"""

import os
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hodor.masks import write_labels, written_whole
from hodor.outputs.records import CocoWriter as CocoWriter
from hodor.outputs.records import Result as Result
from hodor.outputs.records import TableWriter as TableWriter
from hodor.outputs.records import Writer as Writer
from hodor.outputs.records import YtvisWriter as YtvisWriter
from hodor.outputs.records import encode_rle as encode_rle
from hodor.video.render import Sheet, VideoWriter, overlay


def completed(folder: str | os.PathLike[str]) -> set[str]:
    """-> names of the frames whose mask PNG in `folder` exists and is whole (chunk checksums and end are checked)."""
    from PIL import Image

    names = set()
    for path in Path(folder).glob("*.png"):
        try:
            with Image.open(path) as picture:
                picture.verify()
        except (OSError, SyntaxError, ValueError):
            continue
        if not path.name.startswith("."):
            names.add(path.stem)
    return names


class MaskWriter(Writer):
    """folder/<frame name>.png: palette PNG; 16-bit where the labels are uint16, also on a frame without a high id, so that
    all files of a video are of one kind. Aborting keeps the frames done: each one is whole."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)

    def write(self, result: Result) -> None:
        path = self._folder / f"{result.name}.png"
        if result.labels.dtype == np.uint16:
            _write_png(path, result.labels, compress_level=1)
        else:
            write_labels(path, result.labels)


class SoftWriter(Writer):
    """folder/<frame name>.npz: `planes` uint8 [N, H, W], 255 is 1.0, and `objects` int64 [N]. See read_soft."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)

    def write(self, result: Result) -> None:
        """Raises ValueError: "frame 00007 has no soft masks: ask the tracker for them"."""
        if result.soft is None:
            raise ValueError(f"frame {result.name} has no soft masks: ask the tracker for them")
        with written_whole(self._folder / f"{result.name}.npz") as file:
            np.savez_compressed(file, planes=_bytes(result.soft), objects=np.asarray(result.objects, np.int64))


def read_soft(path: str | os.PathLike[str]) -> tuple[npt.NDArray[np.float32], tuple[int, ...]]:
    """-> planes float32 [N, H, W] in [0, 1], within 1/510 of what was written, and their objects."""
    with np.load(path) as stored:
        return stored["planes"].astype(np.float32) / 255, tuple(int(i) for i in stored["objects"])


class _FilmWriter(Writer):
    _video: VideoWriter | None = None

    def close(self, finished: bool = True) -> None:
        if self._video is not None:
            self._video.close()

    def abort(self) -> None:
        if self._video is not None:
            self._video.abort()


class OverlayWriter(_FilmWriter):
    """An MP4 of the frames with their objects drawn over, timed as the source. Frames must come in order of time."""

    def __init__(self, path: str | os.PathLike[str], rate: Fraction | float | None, opacity: float = 0.5) -> None:
        """`rate` in frames a second for frames without time; None means 25."""
        self._video: VideoWriter = VideoWriter(path, rate or 25, crf=20)
        self._opacity = opacity

    def write(self, result: Result) -> None:
        self._video.write(overlay(result.image, result.labels, self._opacity), result.time)


class SheetWriter(Writer):
    """A contact sheet PNG of at most `count` evenly spaced frames, whatever the length. Written at close."""

    def __init__(self, path: str | os.PathLike[str], count: int = 24, columns: int = 4, width: int = 1280) -> None:
        self._path, self._sheet, self._empty = Path(path), Sheet(count, columns, width), True

    def write(self, result: Result) -> None:
        self._sheet.add(result.index, result.image, result.labels)
        self._empty = False

    def close(self, finished: bool = True) -> None:
        if not self._empty:
            _write_png(self._path, self._sheet.image())


class CutoutWriter(_FilmWriter):
    """One object cut out: RGBA, colour as it was, alpha from the soft mask if there is one, else from the labels.

    kind "rgba": a folder of PNG, <frame name>.png; kind "prores": a ProRes 4444 MOV. Frames without the object are
    transparent.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        object_id: int,
        kind: Literal["rgba", "prores"] = "rgba",
        rate: Fraction | float | None = None,
    ) -> None:
        if kind not in ("rgba", "prores"):
            raise ValueError(f"cut-out kind {kind}: wanted rgba or prores")
        self._path, self._object = Path(path), object_id
        self._video = VideoWriter(path, rate or 25, codec="prores4444") if kind == "prores" else None

    def write(self, result: Result) -> None:
        if result.soft is not None and self._object in result.objects:
            alpha = _bytes(result.soft[result.objects.index(self._object)])
        else:
            alpha = (result.labels == self._object).astype(np.uint8) * np.uint8(255)
        picture = np.dstack([result.image, alpha])
        if self._video is None:
            _write_png(self._path / f"{result.name}.png", picture)
        else:
            self._video.write(picture, result.time)


def _bytes(soft: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint8]:
    return (soft.astype(np.float32).clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _write_png(path: Path, picture: npt.NDArray[Any], compress_level: int = 3) -> None:
    from PIL import Image

    with written_whole(path) as file:
        Image.fromarray(picture).save(file, "PNG", compress_level=compress_level)

"""Write the results of a run while it runs: masks, soft masks, overlays, COCO, YouTube-VIS, cut-outs, tables.

Every writer has `write(result)` for each frame, `close()` and `abort()`. As a context manager it closes at the end and on
Ctrl-C, and aborts on any other exception. Memory does not grow with the length of the video, and no file is ever
incomplete under its own name.

To resume a killed run, put the MaskWriter last, so that the mask of a frame shows that all its outputs are written. At
the start, `completed(folder)` returns the frames that are complete; pass them to the writers of records (COCO,
YouTube-VIS, table) as `keep`. Those keep the records of these frames, which are stored under a hidden name beside the
file, and discard the others. The files of the resumed run have the bytes of an uninterrupted one. Overlays, sheets and
ProRes are streams that cannot be continued: write them again from the source and the finished masks.
"""

import os
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
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
from hodor.video.films import REC_709, Colour, VideoWriter
from hodor.video.render import Sheet, overlay
from hodor.video.sound import Sound


def completed(folder: str | os.PathLike[str]) -> set[str]:
    """Find the frames whose mask file is complete; chunk checksums and the end of the file are checked.

    Args:
        folder: folder of mask PNGs.

    Returns:
        The names of the frames.
    """
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
    """Write masks to folder/<frame name>.png.

    They are palette PNGs; 16-bit where the labels are uint16, also on a frame without a high id, so that all files of a
    video have one format. `abort` keeps the frames so far, since each file is complete.

    Args:
        folder: the folder; it is created if needed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder, self._is_new = Path(folder), True

    def write(self, result: Result) -> None:
        """Write the mask of one frame. Raises FileNotFoundError if the folder was removed after the first one."""
        path = self._folder / f"{result.name}.png"
        if result.labels.dtype == np.uint16:
            _write_png(path, result.labels, compress_level=1, new_folder=self._is_new)
        else:
            write_labels(path, result.labels, self._is_new)
        self._is_new = False


class SoftWriter(Writer):
    """Write soft masks to folder/<frame name>.npz: `planes` uint8 [N, H, W], 255 is 1.0, and `objects` int64 [N].

    `read_soft` reads them.

    Args:
        folder: the folder; it is created if needed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder, self._is_new = Path(folder), True

    def write(self, result: Result) -> None:
        """Write the soft masks of one frame.

        Raises:
            ValueError: "expected soft masks for frame 00007, got none: set Result.soft".
        """
        if result.soft is None:
            raise ValueError(f"expected soft masks for frame {result.name}, got none: set Result.soft")
        with written_whole(self._folder / f"{result.name}.npz", self._is_new) as file:
            np.savez_compressed(file, planes=_bytes(result.soft), objects=np.asarray(result.objects, np.int64))
        self._is_new = False


MAX_SOFT = 1 << 28  # bytes of the planes of one frame


def read_soft(path: str | os.PathLike[str]) -> tuple[npt.NDArray[np.float32], tuple[int, ...]]:
    """Read a file of `SoftWriter`.

    Args:
        path: the file.

    Returns:
        Planes, float32 [N, H, W] in [0, 1], within 1/510 of those written, and their ids.

    Raises:
        ValueError: "00007.npz does not hold soft masks (...): start again without resume".
    """
    damages = (OSError, EOFError, KeyError, TypeError, SyntaxError, zipfile.BadZipFile, zlib.error, NotImplementedError)
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > MAX_SOFT:
                raise ValueError(f"it holds {size} bytes, expected at most {MAX_SOFT}")
        with np.load(path) as stored:
            planes, objects = stored["planes"], stored["objects"]
        if planes.dtype != np.uint8 or planes.ndim != 3 or objects.dtype != np.int64 or objects.shape != planes.shape[:1]:
            raise ValueError("it holds other arrays")
    except (*damages, ValueError, RuntimeError, AttributeError, tokenize.TokenError) as error:
        raise ValueError(f"{path} does not hold soft masks ({str(error)[:100]}): start again without resume") from None
    return planes.astype(np.float32) / 255, tuple(int(i) for i in objects)


class _FilmWriter(Writer):
    """A writer with a video file, if there is one."""

    _video: VideoWriter | None = None

    @property
    def notes(self) -> Sequence[str]:  # type: ignore[override]
        """What is missing in the sound of the film."""
        return self._video.notes if self._video is not None else ()

    def close(self, finished: bool = True) -> None:
        if self._video is not None:
            self._video.close()

    def abort(self) -> None:
        if self._video is not None:
            self._video.abort()


class OverlayWriter(_FilmWriter):
    """Write an MP4 of the frames with the objects drawn over them; frames must come in order of time.

    Args:
        path: the file.
        rate: frames a second for frames without a time; None means 25.
        opacity: opacity of the objects' colour, in [0, 1].
        colour: what the RGB values of the frames mean; None means BT.709.
        sound: sound that is copied into the film. Default: none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        rate: Fraction | float | None,
        opacity: float = 0.5,
        colour: Colour | None = None,
        sound: Sound | None = None,
    ) -> None:
        self._video: VideoWriter = VideoWriter(path, rate or 25, crf=20, colour=colour or REC_709, sound=sound)
        self._opacity = opacity

    def write(self, result: Result) -> None:
        """Write one frame."""
        self._video.write(overlay(result.image, result.labels, self._opacity), result.time)


class SheetWriter(Writer):
    """Write a contact sheet of evenly spaced frames as a PNG, on `close`.

    Args:
        path: the file.
        count: maximum number of frames on it.
        columns: frames in a row.
        width: width of the sheet, in pixels.
    """

    def __init__(self, path: str | os.PathLike[str], count: int = 24, columns: int = 4, width: int = 1280) -> None:
        self._path, self._sheet, self._empty = Path(path), Sheet(count, columns, width), True

    def write(self, result: Result) -> None:
        """Add one frame."""
        self._sheet.add(result.index, result.image, result.labels)
        self._empty = False

    def close(self, finished: bool = True) -> None:
        """Write the sheet, if there was a frame."""
        if not self._empty:
            _write_png(self._path, self._sheet.image())


class CutoutWriter(_FilmWriter):
    """Cut out one object: RGBA with the colours of the frame, and alpha from the soft mask, else from the labels.

    Frames without the object are transparent.

    Args:
        path: a folder for <frame name>.png ("rgba"), or a .mov file ("prores").
        object_id: id of the object.
        kind: "rgba" for PNG files, "prores" for a ProRes 4444 video.
        rate: frames a second for frames without a time ("prores"); None means 25.

    Raises:
        ValueError: "expected a cut-out kind (rgba, prores), got 'exr'".
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        object_id: int,
        kind: Literal["rgba", "prores"] = "rgba",
        rate: Fraction | float | None = None,
    ) -> None:
        if kind not in ("rgba", "prores"):
            raise ValueError(f"expected a cut-out kind (rgba, prores), got {kind!r}")
        self._path, self._object, self._is_new = Path(path), object_id, True
        self._video = VideoWriter(path, rate or 25, codec="prores4444") if kind == "prores" else None

    def write(self, result: Result) -> None:
        """Write one frame."""
        if result.soft is not None and self._object in result.objects:
            alpha = _bytes(result.soft[result.objects.index(self._object)])
        else:
            alpha = (result.labels == self._object).astype(np.uint8) * np.uint8(255)
        picture = np.dstack([result.image, alpha])
        if self._video is None:
            _write_png(self._path / f"{result.name}.png", picture, new_folder=self._is_new)
            self._is_new = False
        else:
            self._video.write(picture, result.time)


def _bytes(soft: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint8]:
    """Convert values in [0, 1] to integers from 0 to 255."""
    return (soft.astype(np.float32).clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _write_png(path: Path, picture: npt.NDArray[Any], compress_level: int = 3, new_folder: bool = True) -> None:
    from PIL import Image

    with written_whole(path, new_folder) as file:
        Image.fromarray(picture).save(file, "PNG", compress_level=compress_level)

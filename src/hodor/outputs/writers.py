"""Write the results of a run while it runs: masks, soft masks, films, EXR, records (COCO, YouTube-VIS, tables).

Every writer has `write(result)` for each frame, `close()` and `abort()`. As a context manager it closes at the end and on
Ctrl-C, and aborts on any other exception. Memory does not grow with the length of the video, and no file is ever
incomplete under its own name.

To resume a killed run, put the MaskWriter last, so that the mask of a frame shows that all its outputs are written. At
the start, `completed(folder)` returns the frames that are complete; pass them to the writers of records (COCO,
YouTube-VIS, table) as `keep`. Those keep the records of these frames, which are stored under a hidden name beside the
file, and discard the others. The files of the resumed run have the bytes of an uninterrupted one. Films and
sheets are streams that cannot be continued: write them again from the source and the finished masks.
"""

import os
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hodor.masks import write_labels, written_whole
from hodor.outputs.films import CutoutWriter as CutoutWriter
from hodor.outputs.films import ExrWriter as ExrWriter
from hodor.outputs.films import MatteWriter as MatteWriter
from hodor.outputs.films import OverlayWriter as OverlayWriter
from hodor.outputs.films import write_png
from hodor.outputs.records import CocoWriter as CocoWriter
from hodor.outputs.records import Result as Result
from hodor.outputs.records import TableWriter as TableWriter
from hodor.outputs.records import Writer as Writer
from hodor.outputs.records import YtvisWriter as YtvisWriter
from hodor.outputs.records import encode_rle as encode_rle
from hodor.outputs.refine import as_bytes
from hodor.video.render import Sheet


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
            write_png(path, result.labels, compress_level=1, new_folder=self._is_new)
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
            np.savez_compressed(file, planes=as_bytes(result.soft), objects=np.asarray(result.objects, np.int64))
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
            write_png(self._path, self._sheet.image())

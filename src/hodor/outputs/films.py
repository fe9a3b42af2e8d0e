"""Write films and pictures for editors: overlays, cut-outs and mattes."""

import importlib.util
import os
import secrets
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hodor.masks import written_whole
from hodor.outputs.records import Result, Writer
from hodor.outputs.refine import as_bytes
from hodor.video.films import REC_709, Colour, VideoWriter
from hodor.video.render import overlay
from hodor.video.sound import Sound

CUTOUTS = {"prores": "prores4444", "vp9": "vp9", "ffv1": "ffv1"}
MATTES = {"prores": ("prores4444", "mov"), "ffv1": ("ffv1", "mkv"), "vp9": ("vp9", "webm"), "h264": ("h264", "mp4")}
"""Name of a codec in the options -> that of `VideoWriter`, and the end of the file's name."""
MatteCodec = Literal["prores", "ffv1", "vp9", "h264"]


class FilmWriter(Writer):
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


class OverlayWriter(FilmWriter):
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


class CutoutWriter(FilmWriter):
    """Cut out one object: RGBA with the colours of the frame, and alpha from the soft mask, else from the labels.

    Frames without the object are transparent. ProRes and FFV1 have the colours of `Result.deep`, if there are any.

    Args:
        path: a folder for <frame name>.png ("rgba"), or a film: .mov ("prores"), .webm ("vp9") or .mkv ("ffv1").
        object_id: id of the object.
        kind: "rgba" for PNG files, or the codec of a film with alpha.
        rate: frames a second for frames without a time (films); None means 25.
        colour: what the RGB values of the frames mean (films); None means BT.709.
        sound: sound that is copied into a film. Default: none.

    Raises:
        ValueError: "expected a cut-out kind (rgba, prores, vp9, ffv1), got 'exr'".
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        object_id: int,
        kind: Literal["rgba", "prores", "vp9", "ffv1"] = "rgba",
        rate: Fraction | float | None = None,
        colour: Colour | None = None,
        sound: Sound | None = None,
    ) -> None:
        if kind not in ("rgba", *CUTOUTS):
            raise ValueError(f"expected a cut-out kind ({', '.join(('rgba', *CUTOUTS))}), got {kind!r}")
        self._path, self._object, self._is_new = Path(path), object_id, True
        self._deep = kind in ("prores", "ffv1")
        if kind != "rgba":
            codec: Any = CUTOUTS[kind]
            self._video = VideoWriter(path, rate or 25, codec=codec, colour=colour or REC_709, sound=sound)

    def write(self, result: Result) -> None:
        """Write one frame."""
        alpha = alpha_of(result, self._object)
        if self._video is None:
            write_png(self._path / f"{result.name}.png", np.dstack([result.image, alpha]), new_folder=self._is_new)
            self._is_new = False
        elif self._deep and result.deep is not None:
            self._video.write(np.dstack([result.deep, alpha.astype(np.uint16) * np.uint16(257)]), result.time)
        else:
            self._video.write(np.dstack([result.image, alpha]), result.time)


class MatteWriter(FilmWriter):
    """Write the matte of one object as a film: white is the object, from the soft mask, else from the labels.

    ProRes and VP9 have the matte as brightness and as alpha, FFV1 (8-bit grey, lossless) and H.264 as brightness.

    Args:
        path: the film: .mov ("prores"), .mkv ("ffv1"), .webm ("vp9") or .mp4 ("h264").
        object_id: id of the object.
        codec: "prores", "ffv1", "vp9" or "h264".
        rate: frames a second for frames without a time; None means 25.
        sound: sound that is copied into the film. Default: none.

    Raises:
        ValueError: "expected a matte codec (prores, ffv1, vp9, h264), got 'av1'".
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        object_id: int,
        codec: MatteCodec = "prores",
        rate: Fraction | float | None = None,
        sound: Sound | None = None,
    ) -> None:
        if codec not in MATTES:
            raise ValueError(f"expected a matte codec ({', '.join(MATTES)}), got {codec!r}")
        film: Any = MATTES[codec][0]
        self._object, self._has_alpha = object_id, codec in ("prores", "vp9")
        self._video: VideoWriter = VideoWriter(path, rate or 25, codec=film, crf=8, sound=sound)

    def write(self, result: Result) -> None:
        """Write one frame."""
        alpha = alpha_of(result, self._object)
        self._video.write(np.dstack([alpha] * 4) if self._has_alpha else alpha, result.time)


class ExrWriter(Writer):
    """Write the mattes of objects to folder/<frame name>.exr, one layer an object, 16-bit floats from 0 to 1, ZIP compression.

    The layer of object 3 is named "object_3"; its channel is "object_3.A". Frames without an object have a layer of zeros.
    Requires the package OpenEXR.

    Args:
        folder: the folder; it is created if needed.
        objects: ids of the objects.

    Raises:
        ValueError: "expected the package OpenEXR, which writes EXR, got none: pip install 'hodor-vos[exr]'".
    """

    def __init__(self, folder: str | os.PathLike[str], objects: Sequence[int]) -> None:
        require_exr()
        self._folder, self._objects = Path(folder), tuple(objects)

    def write(self, result: Result) -> None:
        """Write one frame. A full disk raises OSError and leaves no incomplete file."""
        import OpenEXR

        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{result.name}.exr"
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        planes = {f"object_{i}.A": (alpha_of(result, i) / np.float32(255)).astype(np.float16) for i in self._objects}
        header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
        try:
            OpenEXR.File(header, planes).write(str(part))
            os.replace(part, path)
        except RuntimeError as error:
            raise OSError(f"{path} cannot be written: {error}") from None
        finally:
            part.unlink(missing_ok=True)


def require_exr() -> None:
    """Raise ValueError if the package OpenEXR is not installed."""
    if importlib.util.find_spec("OpenEXR") is None:
        raise ValueError("expected the package OpenEXR, which writes EXR, got none: pip install 'hodor-vos[exr]'")


def alpha_of(result: Result, object_id: int) -> npt.NDArray[np.uint8]:
    """Return the matte of an object: its soft mask, else its pixels, uint8 [H, W]."""
    if result.soft is not None and object_id in result.objects:
        return as_bytes(result.soft[result.objects.index(object_id)])
    alpha: npt.NDArray[np.uint8] = (result.labels == object_id).astype(np.uint8) * np.uint8(255)
    return alpha


def write_png(path: Path, picture: npt.NDArray[Any], compress_level: int = 3, new_folder: bool = True) -> None:
    """Write a picture as PNG, completely or not at all; see `hodor.masks.written_whole`."""
    from PIL import Image

    with written_whole(path, new_folder) as file:
        Image.fromarray(picture).save(file, "PNG", compress_level=compress_level)

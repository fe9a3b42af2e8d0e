"""Write films frame by frame: H.264, ProRes 4444, VP9 and FFV1, with the colours and the sound of the source."""

from __future__ import annotations

import contextlib
import os
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from hodor.video.sound import Sound, SoundCopy

ACCURATE = 0x2 | 0x2000 | 0x40000  # swscale: bilinear, full chroma interpolation, accurate rounding
TICK = Fraction(1, 90_000)  # seconds; the time base of videos with their own time stamps
UNKNOWN = 2
"""FFmpeg's number for a colour property that a file does not state."""


class Colour(NamedTuple):
    """What the values of a picture mean, as numbers of ITU-T H.273 (which FFmpeg uses).

    Attributes:
        primaries: 1 is BT.709, 9 is BT.2020.
        transfer: 1 is BT.709, 16 is PQ, 18 is HLG.
        matrix: of YCbCr: 1 is BT.709, 9 is BT.2020.
        full: whether YCbCr has the full range, 0 to 255 in 8 bits, instead of 16 to 235.
    """

    primaries: int = 1
    transfer: int = 1
    matrix: int = 1
    full: bool = False


REC_709 = Colour()  # which players assume where a file does not state the colour space
MATRICES: dict[int, str | int] = {1: "ITU709", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M", 9: 9}


def known(colour: Colour) -> Colour:
    """Replace what is unknown, or cannot be written, by BT.709."""
    primaries, transfer = (1 if value in (0, UNKNOWN) else value for value in colour[:2])
    return Colour(primaries, transfer, colour.matrix if colour.matrix in MATRICES else 1, colour.full)


class _Codec(NamedTuple):
    """How FFmpeg writes a codec.

    Attributes:
        encoder: FFmpeg's name.
        suffixes: names of files that can hold it.
        pixels: format of the pixels, by the number of channels of the pictures: 1, 3 or 4.
        options: of the encoder.
        even: whether width and height must be even.
        full: whether the file can state that its range is full.
    """

    encoder: str
    suffixes: tuple[str, ...]
    pixels: dict[int, str]
    options: dict[str, str]
    even: bool = True
    full: bool = True


CODECS = {
    "h264": _Codec(
        "libx264", (".mp4", ".m4v", ".mov", ".mkv"), dict.fromkeys((1, 3, 4), "yuv420p"), {"preset": "veryfast"}, full=False
    ),
    "prores4444": _Codec(
        "prores_ks",
        (".mov", ".mkv"),
        dict.fromkeys((1, 3, 4), "yuva444p10le"),
        {"profile": "4444", "alpha_bits": "16", "vendor": "apl0"},
        full=False,
    ),
    "vp9": _Codec(
        "libvpx-vp9",
        (".webm", ".mkv"),
        {1: "yuv420p", 3: "yuv420p", 4: "yuva420p"},
        {"crf": "18", "b": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1", "auto-alt-ref": "0"},
    ),
    "ffv1": _Codec("ffv1", (".mkv",), {1: "gray", 3: "bgr0", 4: "bgra"}, {"level": "3", "slicecrc": "1"}, even=False),
}
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}


class VideoWriter:
    """Write a video frame by frame: H.264 (4:2:0), ProRes 4444 or VP9 with alpha, or FFV1, which is lossless.

    Frames written with a time keep their time stamps, so a video of variable rate keeps its timing. Frames without a time
    are shown at a constant rate. An odd size is padded to even by repeating the last row or column, except in FFV1.

    The file is written under a hidden name beside `path` and renamed by `close`; `abort` removes it. As a context
    manager it closes at the end and on Ctrl-C, so that the frames so far can be played, and aborts on any other
    exception. Without a frame no file is written. A full disk raises OSError and leaves no file.

    Args:
        path: the file, which ends in .mp4, .m4v, .mov or .mkv (ProRes: .mov or .mkv; VP9: .webm or .mkv; FFV1: .mkv).
        rate: frames a second, for frames without time.
        codec: "h264", "prores4444", "vp9" or "ffv1".
        crf: quality of H.264, 0 (best) to 51.
        colour: what the RGB values mean. Primaries, transfer and matrix are written as tags; the values are not converted to
            others. The full range is kept in VP9; H.264 and ProRes are written with the limited range. Default: BT.709.
        sound: sound that is copied into the film, as far as the container can hold it. Default: none.

    Attributes:
        notes: what is missing in the sound, one line each.

    Raises:
        ValueError: "expected a codec (h264, prores4444, vp9, ffv1), got 'av1'", "expected a name that ends in .mov or .mkv for
            prores4444, got clip.mp4", "expected a rate above 0 frames a second, got 0".

    Example:
        >>> with VideoWriter("out.mp4", 25) as writer:
        ...     writer.write(image)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        rate: Fraction | float,
        *,
        codec: Literal["h264", "prores4444", "vp9", "ffv1"] = "h264",
        crf: int = 18,
        colour: Colour = REC_709,
        sound: Sound | None = None,
    ) -> None:
        self.path = Path(path)
        if codec not in CODECS:
            raise ValueError(f"expected a codec ({', '.join(CODECS)}), got {codec!r}")
        suffixes = CODECS[codec].suffixes
        if self.path.suffix.lower() not in suffixes:
            raise ValueError(f"expected a name that ends in {' or '.join(suffixes)} for {codec}, got {self.path}")
        if not rate > 0:
            raise ValueError(f"expected a rate above 0 frames a second, got {rate}")
        self.notes: list[str] = []
        self._codec, self._crf, self._is_h264 = CODECS[codec], crf, codec == "h264"
        self._colour = known(colour)
        self._full = self._colour.full and self._codec.full
        self._sound = sound
        self._copy: SoundCopy | None = None
        self._rate = Fraction(rate).limit_denominator(100_000)
        self._part = self.path.with_name(f".{self.path.name}.part")
        self._container: Any = None
        self._start: float | None = None
        self._last = -1
        self._closed = False

    def write(self, image: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], time: float | None = None) -> None:
        """Write one picture.

        Args:
            image: uint8 or uint16 (the full range of 16 bits), [H, W] grey, [H, W, 3] RGB, or [H, W, 4] RGB with straight
                alpha, which H.264 omits. All pictures of a film have one form.
            time: time of the frame in seconds; the first one becomes 0.

        Raises:
            ValueError: "expected frames in order of time, got 1 s after 2 s", "expected pictures of one size, (48, 64)
                (H, W), got (50, 64)", "expected a picture of uint8 or uint16 [H, W], [H, W, 3] or [H, W, 4], got float32
                (48, 64, 3)".
            OSError: the file cannot be written.
        """
        if image.shape[2:] not in ((), (3,), (4,)) or image.ndim < 2 or image.dtype not in (np.uint8, np.uint16):
            expected = "expected a picture of uint8 or uint16 [H, W], [H, W, 3] or [H, W, 4]"
            raise ValueError(f"{expected}, got {image.dtype} {image.shape}")
        if self._closed:
            raise ValueError(f"{self.path} is closed: open another writer")
        if self._container is None:
            self._open(image, time)
        if image.shape[:2] != self._size:
            raise ValueError(f"expected pictures of one size, {self._size} (H, W), got {image.shape[:2]}")
        pts = self._stamp(time)
        frame = self._converted(image)
        frame.pts, frame.time_base, self._last = pts, self._tick, pts
        with contextlib.suppress(AttributeError):  # ProRes writes those of the frame; PyAV sets them from version 16 on
            frame.color_primaries, frame.color_trc = self._colour.primaries, self._colour.transfer
        with self._abort_on_error():
            self._container.mux(self._stream.encode(frame))
            if self._copy is not None:
                self._copy.copy_until(float(pts * self._tick))

    def _converted(self, image: npt.NDArray[Any]) -> Any:
        """Convert a picture to a frame in the pixel format of the film."""
        import av

        deep, padding = image.dtype == np.uint16, [(0, n % 2 if self._codec.even else 0) for n in image.shape[:2]]
        if image.ndim == 2 and self._format != "gray":
            image = np.dstack([image] * 3)
        form = {2: "gray", 3: "rgb48le" if deep else "rgb24", 4: "rgba64le" if deep else "rgba"}[
            image.ndim if image.ndim == 2 else image.shape[2]
        ]
        padded = np.pad(image, [*padding, (0, 0)][: image.ndim], mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format=form)
        if form == self._format:
            return picture
        return picture.reformat(
            format=self._format,
            dst_colorspace=MATRICES[self._colour.matrix],
            src_color_range="JPEG",
            dst_color_range="JPEG" if self._full or self._rgb else "MPEG",
            interpolation=ACCURATE if deep else None,
        )

    def close(self) -> None:
        """Complete the file and rename it. After `close` or `abort` this does nothing."""
        self._closed, container = True, self._container
        if container is None:
            return
        with self._abort_on_error():
            self._container.mux(self._stream.encode())
            if self._copy is not None:
                self._copy.copy_until(float(self._last * self._tick + 1 / self._rate))
                self._copy.close()
            container.close()
            self._container = None
            os.replace(self._part, self.path)

    def abort(self) -> None:
        """Remove the unfinished file. An older file of that name is kept."""
        container, self._container, self._closed = self._container, None, True
        with contextlib.suppress(Exception):
            if self._copy is not None:
                self._copy.close()
            if container is not None:
                container.close()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.close()
        else:
            self.abort()

    def _open(self, image: npt.NDArray[Any], time: float | None) -> None:
        import av

        self.path.parent.mkdir(parents=True, exist_ok=True)
        height, width = self._size = image.shape[:2]
        kind = CONTAINERS[self.path.suffix.lower()]
        self._format = self._codec.pixels[1 if image.ndim == 2 else image.shape[2]]
        if image.dtype == np.uint16:
            self._format = {"bgr0": "rgb48le", "bgra": "rgba64le"}.get(self._format, self._format)
        self._rgb = "rgb" in self._format or "bgr" in self._format
        self._start, self._tick = time, TICK if time is not None else 1 / self._rate
        with self._abort_on_error():
            flags = {"movflags": "+faststart"} if kind in ("mp4", "mov") else {}
            self._container = av.open(f"file:{self._part}", "w", format=kind, options=flags)
            options = self._codec.options | ({"crf": str(self._crf)} if self._is_h264 else {})
            self._stream = self._container.add_stream(self._codec.encoder, rate=self._rate, options=options)
            even = self._codec.even
            self._stream.width, self._stream.height = width + (even and width % 2), height + (even and height % 2)
            self._stream.pix_fmt = self._format
            context = self._stream.codec_context
            context.time_base = self._tick
            context.color_range = 2 if self._full or self._rgb or self._format == "gray" else 1
            context.colorspace = 0 if self._rgb else self._colour.matrix
            context.color_primaries, context.color_trc = self._colour.primaries, self._colour.transfer
            if self._sound is not None:
                start = self._sound.start if time is None else time
                self._copy = SoundCopy(self._sound, self._container, start, self.path.name)
                self.notes = self._copy.notes

    def _stamp(self, time: float | None) -> int:
        if time is None or self._start is None:
            return self._last + 1 if self._start is None else self._last + round(1 / self._rate / TICK)
        pts = round((time - self._start) / TICK)
        if pts < self._last:
            before = self._start + float(self._last * TICK)
            raise ValueError(f"expected frames in order of time, got {time:g} s after {before:g} s")
        return max(pts, self._last + 1)

    @contextlib.contextmanager
    def _abort_on_error(self) -> Any:
        try:
            yield
        except Exception:  # not KeyboardInterrupt: the frames so far can still be played
            self.abort()
            raise

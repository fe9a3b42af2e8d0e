"""Pictures for people: objects drawn over frames, contact sheets, and videos written frame by frame.

The public names are found in hodor.frames as well.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from hodor.masks import Labels, palette

if TYPE_CHECKING:
    from hodor.video.source import Frame

Picture = npt.NDArray[np.uint8]
TICK = Fraction(1, 90_000)  # seconds; the clock of videos with their own time stamps


def overlay(image: Picture, labels: Labels, opacity: float = 0.5) -> Picture:
    """-> a copy of image [H, W, 3] with every object of labels [H, W] tinted in its palette colour and outlined.

    The outline is the one-pixel inner edge of each object in full colour; the frame's own border is no edge. Ids beyond
    255 take the colours of 1..255 again. `opacity` of the tint in [0, 1].
    Raises ValueError: "labels are 4x5, the image 8x5: wanted one size", "opacity 2: wanted 0 to 1".
    """
    if labels.shape != image.shape[:2]:
        sizes = f"labels are {'x'.join(map(str, labels.shape))}, the image {image.shape[0]}x{image.shape[1]}"
        raise ValueError(f"{sizes}: wanted one size")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity {opacity:g}: wanted 0 to 1")
    from PIL import Image

    out = image.copy()
    if labels.dtype != np.uint8:
        top = int(labels.max(initial=0))
        labels = (labels if top < 256 else np.where(labels > 255, (labels - 1) % 255 + 1, labels)).astype(np.uint8)
    rows, columns = np.flatnonzero(labels.any(axis=1)), np.flatnonzero(labels.any(axis=0))
    if not rows.size:
        return out
    box = slice(max(0, rows[0] - 1), rows[-1] + 2), slice(max(0, columns[0] - 1), columns[-1] + 2)
    ids = labels[box]
    inside, edge = ids != 0, outline(ids)
    weight = np.where(inside, np.uint8(round(opacity * 255)), np.uint8(0))
    weight[edge] = 255
    tint = Image.fromarray(ids)
    tint.putpalette(palette().tobytes())
    part = Image.fromarray(out[box])
    part.paste(tint.convert("RGB"), mask=Image.fromarray(weight))  # blends in C, ten times as fast as indexing
    out[box] = np.asarray(part)
    return out


def outline(labels: Labels) -> npt.NDArray[np.bool_]:
    """-> [H, W], the pixels of objects that touch another label to the left, right, above or below."""
    edge = np.zeros(labels.shape, bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    found: npt.NDArray[np.bool_] = edge & (labels != 0)
    return found


class Sheet:
    """A contact sheet of a run of unknown length: evenly spaced overlays with their frame numbers.

    Holds at most `cells` thumbnails: every k-th frame is kept, and k doubles when they are too many. `width` is the
    width of the sheet in pixels, `columns` the thumbnails in a row.
    """

    def __init__(self, cells: int = 24, columns: int = 4, width: int = 1280) -> None:
        if cells < 1 or columns < 1 or width < columns:
            raise ValueError(f"{cells} cells, {columns} columns, width {width}: wanted 1 or more, width >= columns")
        self._cells, self._columns, self._width = cells, columns, width
        self._every, self._seen = 1, 0
        self._kept: list[Picture] = []

    def add(self, index: int, image: Picture, labels: Labels) -> None:
        """One more frame: its number as shown, image [H, W, 3] and labels [H, W]."""
        if self._seen % self._every == 0:
            self._kept.append(self._thumbnail(index, image, labels))
        self._seen += 1
        if len(self._kept) > self._cells:
            self._kept = self._kept[::2]
            self._every *= 2

    def image(self) -> Picture:
        """-> the sheet so far, uint8 [h, width, 3]; unused cells are black. Raises ValueError: "no frame to show"."""
        if not self._kept:
            raise ValueError("no frame to show: the sheet needs one at least")
        height, width = max(t.shape[0] for t in self._kept), self._width // self._columns
        rows = -(-len(self._kept) // self._columns)
        sheet = np.zeros((rows * height, self._width, 3), np.uint8)
        for i, thumbnail in enumerate(self._kept):
            top, left = i // self._columns * height, i % self._columns * width
            sheet[top : top + thumbnail.shape[0], left : left + width] = thumbnail
        return sheet

    def _thumbnail(self, index: int, image: Picture, labels: Labels) -> Picture:
        from PIL import Image, ImageDraw

        width = self._width // self._columns
        height = max(1, round(image.shape[0] * width / image.shape[1]))
        picture = Image.fromarray(overlay(image, labels)).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2)
        ImageDraw.Draw(picture).text((3, 1), str(index), fill="white", stroke_width=1, stroke_fill="black")
        return np.asarray(picture)


def contact_sheet(
    frames_and_labels: Iterable[tuple[Frame, Labels]], columns: int = 4, width: int = 1280, cells: int = 24
) -> Picture:
    """-> one picture [h, width, 3] of at most `cells` evenly spaced frames with their labels drawn over. See Sheet."""
    sheet = Sheet(cells, columns, width)
    for frame, labels in frames_and_labels:
        sheet.add(frame.index, frame.image, labels)
    return sheet.image()


CODECS: dict[str, dict[str, Any]] = {
    # One picture in three bytes or four; BT.709, as players assume where nothing is said.
    "h264": {"encoder": "libx264", "pixels": "yuv420p", "options": {"preset": "veryfast"}},
    "prores4444": {
        "encoder": "prores_ks",
        "pixels": "yuva444p10le",
        "options": {"profile": "4444", "alpha_bits": "16", "vendor": "apl0"},
    },
}
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}


class VideoWriter:
    """A video written frame by frame: H.264 (4:2:0) in MP4, or ProRes 4444 with alpha in MOV. No audio.

    With `time` the frames keep their own time stamps, so a video of variable rate keeps its timing; without, they come
    at `rate` frames a second. An odd size is padded to even by repeating the last row or column. The file is written
    under a hidden name beside `path` and renamed by `close`; `abort` removes it. As a context manager it closes at the
    end and on Ctrl-C, so that the frames written so far can be played, and aborts on any other exception. A writer that
    got no frame leaves no file. A full disk is an OSError, and nothing is left.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        rate: Fraction | float,
        *,
        codec: Literal["h264", "prores4444"] = "h264",
        crf: int = 18,
    ) -> None:
        """`crf`: quality of H.264, 0 (best) to 51. Raises ValueError for a suffix, rate or codec it cannot write."""
        self.path = Path(path)
        if codec not in CODECS:
            raise ValueError(f"codec {codec}: wanted one of {', '.join(CODECS)}")
        suffixes = [s for s in CONTAINERS if codec == "h264" or CONTAINERS[s] != "mp4"]
        if self.path.suffix.lower() not in suffixes:
            raise ValueError(f"{self.path}: wanted a name that ends in {' or '.join(suffixes)} for {codec}")
        if not rate > 0:
            raise ValueError(f"rate {rate}: wanted more than 0 frames a second")
        self._codec, self._crf = codec, crf
        self._rate = Fraction(rate).limit_denominator(100_000)
        self._part = self.path.with_name(f".{self.path.name}.part")
        self._container: Any = None
        self._start: float | None = None
        self._last = -1
        self._done = False

    def write(self, image: npt.NDArray[np.uint8], time: float | None = None) -> None:
        """One picture: uint8 [H, W, 3], for ProRes also [H, W, 4] with straight alpha. `time` in seconds; the first
        one becomes 0. Raises ValueError if size or time do not go on from the frame before: "frame time 1 s after 2 s:
        wanted frames in order of time".
        """
        import av

        if image.ndim != 3 or image.shape[2] not in (3, 4) or image.dtype != np.uint8:
            raise ValueError(f"picture is {image.dtype} {image.shape}: wanted uint8 [H, W, 3 or 4]")
        if self._done:
            raise ValueError(f"{self.path} is closed: open another writer")
        if self._container is None:
            self._open(image.shape[0], image.shape[1], time)
        if image.shape[:2] != self._size:
            raise ValueError(f"picture is {image.shape[:2]}, the first one {self._size} (H, W): wanted one size")
        pts = self._stamp(time)
        padded = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24" if image.shape[2] == 3 else "rgba")
        frame = picture.reformat(
            format=CODECS[self._codec]["pixels"],
            dst_colorspace="ITU709",
            src_color_range="JPEG",
            dst_color_range="MPEG",
        )
        frame.pts, frame.time_base, self._last = pts, self._tick, pts
        with self._whole_or_nothing():
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finish the file and give it its name. Once closed or aborted, closing again does nothing."""
        self._done, container = True, self._container
        if container is None:
            return
        with self._whole_or_nothing():
            self._container.mux(self._stream.encode())
            container.close()
            self._container = None
            os.replace(self._part, self.path)

    def abort(self) -> None:
        """Leave no file. A file of that name from before stays as it was."""
        container, self._container, self._done = self._container, None, True
        with contextlib.suppress(Exception):
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

    def _open(self, height: int, width: int, time: float | None) -> None:
        import av

        self.path.parent.mkdir(parents=True, exist_ok=True)
        settings, kind = CODECS[self._codec], CONTAINERS[self.path.suffix.lower()]
        self._size, self._start = (height, width), time
        self._tick = TICK if time is not None else 1 / self._rate
        with self._whole_or_nothing():
            flags = {"movflags": "+faststart"} if kind != "matroska" else {}
            self._container = av.open(f"file:{self._part}", "w", format=kind, options=flags)
            crf = {"crf": str(self._crf)} if self._codec == "h264" else {}
            self._stream = self._container.add_stream(settings["encoder"], rate=self._rate, options=settings["options"] | crf)
            self._stream.width, self._stream.height = width + width % 2, height + height % 2
            self._stream.pix_fmt = settings["pixels"]
            context = self._stream.codec_context
            context.time_base = self._tick
            context.color_range, context.colorspace, context.color_primaries, context.color_trc = 1, 1, 1, 1

    def _stamp(self, time: float | None) -> int:
        if time is None or self._start is None:
            return self._last + 1 if self._start is None else self._last + round(1 / self._rate / TICK)
        pts = round((time - self._start) / TICK)
        if pts < self._last:
            before = self._start + float(self._last * TICK)
            raise ValueError(f"frame time {time:g} s after {before:g} s: wanted frames in order of time")
        return max(pts, self._last + 1)

    @contextlib.contextmanager
    def _whole_or_nothing(self) -> Any:
        try:
            yield
        except Exception:  # Ctrl-C is not one: the frames so far are still good
            self.abort()
            raise

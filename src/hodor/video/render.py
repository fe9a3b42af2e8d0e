"""Draw objects over frames, make contact sheets, and write videos frame by frame.

The public names can be imported from hodor.frames as well.
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
TICK = Fraction(1, 90_000)  # seconds; the time base of videos with their own time stamps


def overlay(image: Picture, labels: Labels, opacity: float = 0.5) -> Picture:
    """Draw objects over a picture: each is tinted in its palette colour and outlined.

    The outline is the one-pixel inner edge of each object, in full colour; the border of the frame is no edge. Ids above
    255 use the colours of 1..255 again.

    Args:
        image: RGB, uint8 [H, W, 3]; it is not changed.
        labels: ids per pixel [H, W].
        opacity: opacity of the tint, in [0, 1].

    Returns:
        The new picture, uint8 [H, W, 3].

    Raises:
        ValueError: "expected labels of 8x5 pixels, the size of the image, got 4x5", "expected opacity in [0, 1], got 2".
    """
    if labels.shape != image.shape[:2]:
        got = "x".join(map(str, labels.shape))
        raise ValueError(f"expected labels of {image.shape[0]}x{image.shape[1]} pixels, the size of the image, got {got}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"expected opacity in [0, 1], got {opacity:g}")
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
    part.paste(tint.convert("RGB"), mask=Image.fromarray(weight))  # blended in C, ten times as fast as by indexing
    out[box] = np.asarray(part)
    return out


def outline(labels: Labels) -> npt.NDArray[np.bool_]:
    """Return the pixels of objects that are next to another label.

    Args:
        labels: ids per pixel [H, W].

    Returns:
        bool [H, W]: pixels of objects whose left, right, upper or lower neighbour has another label.
    """
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

    Every k-th frame is kept as a thumbnail, and k doubles when there are too many.

    Args:
        cells: maximum number of thumbnails, at least 1.
        columns: thumbnails in a row, at least 1.
        width: width of the sheet in pixels, at least `columns`.

    Raises:
        ValueError: "expected at least 1 cell, 1 column and a width of at least the columns, got 0 cells, 4 columns, width
            1280".
    """

    def __init__(self, cells: int = 24, columns: int = 4, width: int = 1280) -> None:
        if cells < 1 or columns < 1 or width < columns:
            expected = "expected at least 1 cell, 1 column and a width of at least the columns"
            raise ValueError(f"{expected}, got {cells} cells, {columns} columns, width {width}")
        self._cells, self._columns, self._width = cells, columns, width
        self._every, self._seen = 1, 0
        self._kept: list[Picture] = []

    def add(self, index: int, image: Picture, labels: Labels) -> None:
        """Add a frame.

        Args:
            index: number that is printed on the thumbnail.
            image: RGB, uint8 [H, W, 3].
            labels: ids per pixel [H, W].
        """
        if self._seen % self._every == 0:
            self._kept.append(self._thumbnail(index, image, labels))
        self._seen += 1
        if len(self._kept) > self._cells:
            self._kept = self._kept[::2]
            self._every *= 2

    def image(self) -> Picture:
        """Draw the sheet of the frames so far.

        Returns:
            The picture, uint8 [h, width, 3]; unused cells are black.

        Raises:
            ValueError: "no frame to show: add at least one".
        """
        if not self._kept:
            raise ValueError("no frame to show: add at least one")
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
    """Draw evenly spaced frames with their labels on one picture; see `Sheet`.

    Args:
        frames_and_labels: frames, each with its labels [H, W].
        columns: thumbnails in a row.
        width: width of the sheet, in pixels.
        cells: maximum number of thumbnails.

    Returns:
        The picture, uint8 [h, width, 3].
    """
    sheet = Sheet(cells, columns, width)
    for frame, labels in frames_and_labels:
        sheet.add(frame.index, frame.image, labels)
    return sheet.image()


CODECS: dict[str, dict[str, Any]] = {
    # BT.709, which players assume where a file does not state the colour space
    "h264": {"encoder": "libx264", "pixels": "yuv420p", "options": {"preset": "veryfast"}},
    "prores4444": {
        "encoder": "prores_ks",
        "pixels": "yuva444p10le",
        "options": {"profile": "4444", "alpha_bits": "16", "vendor": "apl0"},
    },
}
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}


class VideoWriter:
    """Write a video frame by frame: H.264 (4:2:0) in MP4, or ProRes 4444 with alpha in MOV. No audio.

    Frames written with a time keep their time stamps, so a video of variable rate keeps its timing. Frames without a time
    are shown at a constant rate. An odd size is padded to even by repeating the last row or column.

    The file is written under a hidden name beside `path` and renamed by `close`; `abort` removes it. As a context
    manager it closes at the end and on Ctrl-C, so that the frames so far can be played, and aborts on any other
    exception. Without a frame no file is written. A full disk raises OSError and leaves no file.

    Args:
        path: the file, which ends in .mp4, .m4v, .mov or .mkv (.mov or .mkv for ProRes).
        rate: frames a second, for frames without time.
        codec: "h264" or "prores4444".
        crf: quality of H.264, 0 (best) to 51.

    Raises:
        ValueError: "expected a codec (h264, prores4444), got 'vp9'", "expected a name that ends in .mov or .mkv for
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
        codec: Literal["h264", "prores4444"] = "h264",
        crf: int = 18,
    ) -> None:
        self.path = Path(path)
        if codec not in CODECS:
            raise ValueError(f"expected a codec ({', '.join(CODECS)}), got {codec!r}")
        suffixes = [s for s in CONTAINERS if codec == "h264" or CONTAINERS[s] != "mp4"]
        if self.path.suffix.lower() not in suffixes:
            raise ValueError(f"expected a name that ends in {' or '.join(suffixes)} for {codec}, got {self.path}")
        if not rate > 0:
            raise ValueError(f"expected a rate above 0 frames a second, got {rate}")
        self._codec, self._crf = codec, crf
        self._rate = Fraction(rate).limit_denominator(100_000)
        self._part = self.path.with_name(f".{self.path.name}.part")
        self._container: Any = None
        self._start: float | None = None
        self._last = -1
        self._closed = False

    def write(self, image: npt.NDArray[np.uint8], time: float | None = None) -> None:
        """Write one picture.

        Args:
            image: uint8 [H, W, 3], for ProRes also [H, W, 4] with straight alpha.
            time: time of the frame in seconds; the first one becomes 0.

        Raises:
            ValueError: "expected frames in order of time, got 1 s after 2 s", "expected pictures of one size, (48, 64)
                (H, W), got (50, 64)", "expected a picture of uint8 [H, W, 3 or 4], got float32 (48, 64, 3)".
            OSError: the file cannot be written.
        """
        import av

        if image.ndim != 3 or image.shape[2] not in (3, 4) or image.dtype != np.uint8:
            raise ValueError(f"expected a picture of uint8 [H, W, 3 or 4], got {image.dtype} {image.shape}")
        if self._closed:
            raise ValueError(f"{self.path} is closed: open another writer")
        if self._container is None:
            self._open(image.shape[0], image.shape[1], time)
        if image.shape[:2] != self._size:
            raise ValueError(f"expected pictures of one size, {self._size} (H, W), got {image.shape[:2]}")
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
        with self._abort_on_error():
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Complete the file and rename it. After `close` or `abort` this does nothing."""
        self._closed, container = True, self._container
        if container is None:
            return
        with self._abort_on_error():
            self._container.mux(self._stream.encode())
            container.close()
            self._container = None
            os.replace(self._part, self.path)

    def abort(self) -> None:
        """Remove the unfinished file. An older file of that name is kept."""
        container, self._container, self._closed = self._container, None, True
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
        with self._abort_on_error():
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
            raise ValueError(f"expected frames in order of time, got {time:g} s after {before:g} s")
        return max(pts, self._last + 1)

    @contextlib.contextmanager
    def _abort_on_error(self) -> Any:
        try:
            yield
        except Exception:  # not KeyboardInterrupt: the frames so far can still be played
            self.abort()
            raise

"""Frames of a video by index, encoded as JPEG, WebP or PNG."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hodor.frames import Frame, open_source
from hodor.serve.limits import RefusedError
from hodor.video.source import Source

AHEAD = 48
"""Frames that are decoded without a jump to reach a later one."""
FORMATS = {"jpeg": "image/jpeg", "webp": "image/webp", "png": "image/png"}


class Encoded(NamedTuple):
    """An encoded frame.

    Attributes:
        data: the bytes of the file.
        kind: its media type.
        time: seconds from the first frame, None if the source has none.
    """

    data: bytes
    kind: str
    time: float | None


class Cache:
    """Values by key, as many as fit a number of bytes; the one that was not used for longest is dropped first.

    Args:
        max_bytes: the number of bytes.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        """Return a value, None if it is not here."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Add a value."""
        with self._lock:
            self._bytes += size - self._values.pop(key, (None, 0))[1]
            self._values[key] = value, size
            while self._bytes > self._max_bytes:
                self._bytes -= self._values.popitem(last=False)[1][1]

    def drop(self, first: Hashable) -> None:
        """Remove the values whose keys begin with this."""
        with self._lock:
            for key in [k for k in self._values if isinstance(k, tuple) and k[0] == first]:
                self._bytes -= self._values.pop(key)[1]


class Reader:
    """Frames of one video by index, for several threads. A frame is found by decoding, never by its time.

    The video stays open at the last frame, so that frames in order are decoded once.

    Args:
        key: id of the session, for the caches.
        path: the video.
        decoded: cache of decoded frames, which readers share.
        encoded: cache of encoded frames.
    """

    def __init__(self, key: str, path: Path, decoded: Cache, encoded: Cache) -> None:
        self._key, self._path, self._decoded, self._encoded = key, path, decoded, encoded
        self._source: Source | None = None
        self._open: Iterator[Frame] | None = None
        self._next = 0
        self._lock = threading.Lock()

    def encoded(self, index: int, form: str, height: int | None, quality: int) -> Encoded:
        """Return a frame.

        Args:
            index: number of the frame.
            form: a key of `FORMATS`.
            height: height in pixels of a smaller picture. Default: that of the video, which is also the largest.
            quality: 1 to 100, for JPEG and WebP.

        Raises:
            RefusedError: 404, there is no such frame.
        """
        key = (self._key, index, form, height, quality)
        found: Encoded | None = self._encoded.get(key)
        if found is None:
            frame = self.frame(index)
            found = Encoded(encode(frame.image, form, height, quality), FORMATS[form], frame.time)
            self._encoded.put(key, found, len(found.data))
        return found

    def frame(self, index: int) -> Frame:
        """Return a decoded frame.

        Raises:
            RefusedError: 404, there is no such frame.
        """
        with self._lock:
            found: Frame | None = self._decoded.get((self._key, index))
            if found is None:
                for found in self._until(index):
                    self._decoded.put((self._key, found.index), found, found.image.nbytes)
            if found is None or found.index != index:
                raise RefusedError(404, f"expected a frame of the video, got {index}: it has fewer frames")
            return found

    def _until(self, index: int) -> Iterator[Frame]:
        if self._source is None:
            self._source = open_source(self._path)
        if self._open is None or not self._next <= index < self._next + AHEAD:
            start = 0 if index < AHEAD else index
            self._open, self._next = self._source.frames(start), start
        for frame in self._open:
            self._next = frame.index + 1
            yield frame
            if frame.index >= index:
                return
        self._open = None

    def close(self) -> None:
        """Close the video and drop its frames."""
        with self._lock:
            self._open = None
            if self._source is not None:
                self._source.close()
                self._source = None
        self._decoded.drop(self._key)
        self._encoded.drop(self._key)


def encode(image: npt.NDArray[np.uint8], form: str, height: int | None = None, quality: int = 90) -> bytes:
    """Encode a picture.

    Args:
        image: grey [H, W] or RGB [H, W, 3].
        form: a key of `FORMATS`.
        height: height in pixels, if it is to be smaller.
        quality: 1 to 100, for JPEG and WebP.
    """
    from PIL import Image

    picture, out = Image.fromarray(image), io.BytesIO()
    if height is not None and height < picture.height:
        picture = picture.resize((max(1, round(picture.width * height / picture.height)), height), Image.Resampling.BILINEAR)
    options: dict[str, Any] = {"compress_level": 1} if form == "png" else {"quality": quality}
    picture.save(out, form.upper(), **({"method": 0} if form == "webp" else {}), **options)
    return out.getvalue()

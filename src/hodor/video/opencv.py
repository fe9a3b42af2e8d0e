"""Read video files with OpenCV where PyAV is not installed, as on training machines. Damage is not reported."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import cv2
import numpy as np

from hodor.video.source import Frame, Source


class OpenCvVideo(Source):
    """A video file, forwards only.

    Args:
        path: the file.
        name: name of the source in outputs.

    Raises:
        ValueError: "clip.mp4 is not a video that OpenCV can read: ...".
    """

    def __init__(self, path: str, name: str) -> None:
        super().__init__(name)
        self._path = path
        capture = self._open()
        good, picture = capture.read()
        self.count, self.estimated = max(1, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))), True
        rate = capture.get(cv2.CAP_PROP_FPS)
        capture.release()
        if not good:
            raise ValueError(f"no frame of {path} decodes with OpenCV: pip install av, which reads more formats")
        self.rate = Fraction(rate).limit_denominator(100_000) if rate > 0 else None
        self.size = picture.shape[0], picture.shape[1]
        self.notes.append("read with OpenCV, since PyAV is not installed")

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(self._path, cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise ValueError(f"{self._path} is not a video that OpenCV can read: pip install av, which reads more formats")
        return capture

    def _forward(self, start: int, stop: int | None) -> Iterator[Frame]:
        capture = self._open()
        try:
            index = 0
            while stop is None or index < stop:
                good, picture = capture.read() if index >= start else (capture.grab(), None)
                if not good:
                    return
                if picture is not None:
                    time = index / float(self.rate) if self.rate else None
                    image = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
                    yield Frame(index, self.name_of(index), image, time)
                index += 1
        finally:
            capture.release()

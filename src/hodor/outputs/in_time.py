"""Smooth mattes over time before they are written, and measure their flicker before and after."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hodor.outputs.records import Result, Writer
from hodor.outputs.refine import Refinement, as_bytes, flicker

STILL = 8
"""Mean difference of colours, in levels of 255, up to which a place of the picture stands still."""


class Finished(Writer):
    """Pass results to another writer, with soft masks smoothed, grown and feathered.

    Args:
        writer: the writer, which is closed with this one.
        refinement: how mattes are refined.
    """

    def __init__(self, writer: Writer, refinement: Refinement) -> None:
        self._writer, self._refinement = writer, refinement

    def write(self, result: Result) -> None:
        """Write one frame."""
        self._writer.write(self._refinement.finished(result))

    def close(self, finished: bool = True) -> None:
        """Close the writer."""
        self._writer.close(finished)

    def abort(self) -> None:
        """Abort the writer."""
        self._writer.abort()


class SmoothedInTime(Writer):
    """Pass results to other writers, with soft masks smoothed over time; results must come in order of time.

    A value of a matte becomes the median of its values on the frames around. A frame on which the picture looks different
    there counts as if it had the present value: the colours in the 3 x 3 pixels around differ by more than `STILL` levels in
    the mean. So a value that flickers in a still part of the picture becomes steady, and where the object or the background
    moves, the matte stays as it is. After that it is smoothed, grown and feathered. Labels do not change. Memory holds
    2 reach + 1 results.

    Args:
        writers: the writers, which are closed with this one.
        refinement: how mattes are refined; `smooth_time` is the number of frames to either side, at least 1.

    Attributes:
        flicker: id -> `hodor.outputs.refine.flicker` before and after.
    """

    def __init__(self, writers: Sequence[Writer], refinement: Refinement) -> None:
        self._writers, self._refinement, self._reach = writers, refinement, refinement.smooth_time
        self._window: deque[tuple[Result, npt.NDArray[np.uint8]]] = deque(maxlen=2 * self._reach + 1)
        self._ahead = 0  # results of the window that are not written yet
        self._last: dict[int, deque[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]] = {}
        self._sums: dict[int, list[float]] = {}

    @property
    def notes(self) -> Sequence[str]:  # type: ignore[override]
        """The notes of the writers."""
        return [note for writer in self._writers for note in writer.notes]

    @property
    def flicker(self) -> Mapping[int, tuple[float, float]]:  # type: ignore[override]
        """Percent of each object's area that appears or disappears for a single frame, before and after."""
        return {
            number: (round(100 * before / max(area, 1), 3), round(100 * after / max(smooth_area, 1), 3))
            for number, (before, area, after, smooth_area) in sorted(self._sums.items())
        }

    def write(self, result: Result) -> None:
        """Take one frame; the frame `reach` frames before it is written."""
        assert result.soft is not None
        self._window.append((replace(result, soft=None), as_bytes(result.soft)))
        self._ahead += 1
        if self._ahead > self._reach:
            self._emit()

    def close(self, finished: bool = True) -> None:
        """Write the last frames, and close the writers."""
        while self._ahead:
            self._emit()
        for writer in self._writers:
            writer.close(finished)

    def abort(self) -> None:
        """Abort the writers."""
        self._ahead = 0
        for writer in self._writers:
            writer.abort()

    def _emit(self) -> None:
        place = len(self._window) - self._ahead
        self._ahead -= 1
        now, before = self._window[place]
        around = [self._window[k] for k in range(max(0, place - self._reach), len(self._window)) if k - place <= self._reach]
        planes = [self._smoothed(number, plane, now, around) for number, plane in zip(now.objects, before, strict=True)]
        for number, plane, smooth in zip(now.objects, before, planes, strict=True):
            self._measure(number, plane, smooth)
        soft = (np.stack(planes) if planes else before) / np.float32(255)
        finished = self._refinement.finished(replace(now, soft=soft))
        for writer in self._writers:
            writer.write(finished)

    def _smoothed(
        self, number: int, plane: npt.NDArray[np.uint8], now: Result, around: Sequence[tuple[Result, npt.NDArray[np.uint8]]]
    ) -> npt.NDArray[np.uint8]:
        others = [(o, planes[o.objects.index(number)]) for o, planes in around if o is not now and number in o.objects]
        seen = np.stack([plane, *(other for _, other in others)]).max(axis=0)
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        if not others or not rows.size:
            return plane
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        votes = np.repeat(plane[box][None], 2 * self._reach + 1, axis=0)
        for vote, (other, values) in zip(votes, others, strict=False):
            still = _is_still(now.image, other.image, box)
            vote[still] = values[box][still]
        out = plane.copy()
        out[box] = np.partition(votes, self._reach, axis=0)[self._reach]
        return out

    def _measure(self, number: int, plane: npt.NDArray[np.uint8], smooth: npt.NDArray[np.uint8]) -> None:
        last = self._last.setdefault(number, deque(maxlen=3))
        last.append((plane, smooth))
        if len(last) < 3:
            return
        sums = self._sums.setdefault(number, [0.0] * 4)
        for k in (0, 1):
            planes = [pair[k] for pair in last]
            area = float(planes[1].sum(dtype=np.float64))
            sums[2 * k] += flicker(planes) * area / 100
            sums[2 * k + 1] += area


def _is_still(image: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8], box: tuple[slice, slice]) -> npt.NDArray[np.bool_]:
    """Return where two pictures look the same inside a box, bool [h, w]."""
    rows, columns = (slice(max(0, side.start - 1), side.stop + 1) for side in box)
    inner = tuple(
        slice(side.start - grown.start, side.stop - grown.start) for side, grown in zip(box, (rows, columns), strict=True)
    )
    difference = np.abs(image[rows, columns].astype(np.int16) - other[rows, columns]).sum(axis=2, dtype=np.int32)
    padded = np.pad(difference, 1, mode="edge")
    height, width = difference.shape
    total = np.stack([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]).sum(axis=0)
    still: npt.NDArray[np.bool_] = total[inner] <= 3 * 9 * STILL
    return still

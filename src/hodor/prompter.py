"""Segment one object of a picture from clicks, a box or a previous mask.

    prompter = Prompter(frame)                                          # computes the features of the frame, once
    mask, score = prompter.predict([(120, 80)], [1])
    mask, score = prompter.predict([(120, 80), (200, 40)], [1, 0], mask=mask)

The network first sees the whole frame, and then a window around what it found, at a higher resolution. With a box or a previous
mask it sees only the window. The features of the last windows are kept, so that the next click is fast. The result depends
on the frame and the arguments only, not on earlier calls.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hodor.models.clicks import MULTIPLE, ClickNetwork, Prompts, View, load_clicks

Mask = npt.NDArray[np.bool_]
Window = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of the frame."""

WHOLE_AREA = 320 * 448
"""Pixels of the view of the whole frame."""
WINDOW_AREA = 320 * 320
"""Pixels of the view of a window."""
MARGIN = 1.5
"""Sides of a window, as a multiple of those of what it contains."""
MIN_WINDOW = 48
"""Smallest side of a window, in pixels of the frame."""
MOSTLY = 0.7
"""A window with at least this share of the frame's pixels is replaced by the whole frame."""
KEPT = 8
"""Number of windows whose features are kept."""


@cache
def _bundled() -> ClickNetwork:
    return load_clicks()


def view_size(height: float, width: float, area: int) -> tuple[int, int]:
    """Return the size (h, w) of a view with about this many pixels: multiples of 32 near the aspect of the picture."""
    scale = (area / (height * width)) ** 0.5
    rows, columns = (max(2, round(side * scale / MULTIPLE)) * MULTIPLE for side in (height, width))
    return min(rows, 40 * MULTIPLE), min(columns, 40 * MULTIPLE)


def window_around(box: Sequence[float], height: int, width: int) -> Window:
    """Return the window around a box (x0, y0, x1, y1), inside a frame of this size; similar boxes have the same window.

    Args:
        box: the box, in pixels of the frame.
        height: height of the frame.
        width: width of the frame.
    """
    sides = [max(MARGIN * (box[2] - box[0]), MIN_WINDOW), max(MARGIN * (box[3] - box[1]), MIN_WINDOW)]
    sides = [max(side, 0.5 * max(sides)) for side in sides]
    step = max(1, int(2 ** np.floor(np.log2(max(sides) / 5))))
    window = []
    for low, high, side, limit in ((box[0], box[2], sides[0], width), (box[1], box[3], sides[1], height)):
        side = min(limit, int(np.ceil(side / step)) * step)
        start = int(np.round(((low + high) / 2 - side / 2) / step)) * step
        window.append((min(max(0, start), limit - side), side))
    (left, columns), (top, rows) = window
    if columns * rows >= MOSTLY * height * width:
        return 0, 0, width, height
    return left, top, left + columns, top + rows


class Prompter:
    """Segments one object of a frame from prompts.

    Args:
        frame: RGB, uint8 [H, W, 3], or a PIL image.
        network: the network, from `hodor.models.clicks.load_clicks`. Default: the bundled weights.

    Raises:
        ValueError: "expected a frame uint8 [H, W, 3], got float32 [480, 854, 3]: ...".
    """

    def __init__(self, frame: npt.NDArray[np.uint8] | Image.Image, network: ClickNetwork | None = None) -> None:
        self._picture = _picture(frame)
        self.size = (self._picture.height, self._picture.width)
        self.network = _bundled() if network is None else network
        self._views: OrderedDict[Window, tuple[View, tuple[int, int]]] = OrderedDict()
        self._whole: Window = (0, 0, self._picture.width, self._picture.height)
        with torch.inference_mode():
            self._view(self._whole)

    def predict(
        self,
        points: npt.ArrayLike | None = None,
        labels: npt.ArrayLike | None = None,
        box: npt.ArrayLike | None = None,
        mask: npt.ArrayLike | None = None,
    ) -> tuple[Mask, float]:
        """Segment the object that the prompts describe.

        Args:
            points: clicks [K, 2] as (x, y) in pixels of the frame.
            labels: [K], 1 for a click on the object, 0 for one on the background. Default: all 1.
            box: (x0, y0, x1, y1) in pixels of the frame.
            mask: mask to correct, bool [H, W], such as the result of the click before.

        Returns:
            The mask, bool [H, W], and its predicted IoU with the object, in [0, 1].

        Raises:
            ValueError: "expected a prompt, got none: ..."; the same for points outside the frame, for wrong shapes, for other
                labels than 0 and 1, and for an empty box.
        """
        points_K2, labels_K = _clicks(points, labels, self.size)
        box_4 = _box(box, self.size)
        previous = _mask(mask, self.size)
        if previous is not None and not previous.any():
            previous = None
        if box_4 is None and previous is None and not (labels_K == 1).any():
            raise ValueError("expected a prompt, got none: give a point on the object, a box or a mask")
        with torch.inference_mode():
            return self._predict(points_K2, labels_K, box_4, previous)

    def _predict(
        self,
        points_K2: npt.NDArray[np.float32],
        labels_K: npt.NDArray[np.int64],
        box: list[float] | None,
        previous: Mask | None,
    ) -> tuple[Mask, float]:
        soft = None if previous is None else torch.from_numpy(previous.astype(np.float32))
        if soft is None and box is None:
            soft, score = self._see(self._whole, points_K2, labels_K, box, None)
            if self._whole == (window := self._window(soft, points_K2, labels_K, box)):
                return (soft > 0.5).numpy(), score
        else:
            window = self._window(soft, points_K2, labels_K, box)
        soft, score = self._see(window, points_K2, labels_K, box, soft)
        return (soft > 0.5).numpy(), score

    def _window(
        self, soft: Tensor | None, points_K2: npt.NDArray[np.float32], labels_K: npt.NDArray[np.int64], box: list[float] | None
    ) -> Window:
        """The window around a mask, the clicks on the object, and a box."""
        found = [(x, y, x, y) for x, y in points_K2[labels_K == 1].tolist()]
        if box is not None:
            found.append((box[0], box[1], box[2], box[3]))
        if soft is not None:
            won = soft > 0.5
            rows, columns = won.any(1).nonzero()[:, 0], won.any(0).nonzero()[:, 0]
            if len(rows):
                found.append((float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1))
        x0, y0, x1, y1 = zip(*found, strict=True)
        return window_around((min(x0), min(y0), max(x1), max(y1)), *self.size)

    def _view(self, window: Window) -> tuple[View, tuple[int, int]]:
        """The features of a window and the size of its view; computed once."""
        if window not in self._views:
            left, top, right, bottom = window
            area = WHOLE_AREA if window == self._whole else WINDOW_AREA
            height, width = view_size(bottom - top, right - left, area)
            seen = self._picture.resize((width, height), Image.Resampling.BILINEAR, box=window, reducing_gap=2.0)
            picture = torch.from_numpy(np.array(seen)).permute(2, 0, 1)[None].float() / 255
            self._views[window] = self.network.view(picture), (height, width)
            if len(self._views) > KEPT:
                del self._views[next(each for each in self._views if each != self._whole)]
        if window != self._whole:
            self._views.move_to_end(window)
        return self._views[window]

    def _see(
        self,
        window: Window,
        points_K2: npt.NDArray[np.float32],
        labels_K: npt.NDArray[np.int64],
        box: list[float] | None,
        previous_HW: Tensor | None,
    ) -> tuple[Tensor, float]:
        """The soft mask [H, W] at the frame's size from one look at a window, and the predicted IoU."""
        view, (height, width) = self._view(window)
        left, top, right, bottom = window
        corner, scale = np.array([left, top]), np.array([width / (right - left), height / (bottom - top)])
        inside = ((points_K2 >= corner) & (points_K2 <= (right, bottom))).all(1)
        places = torch.from_numpy((points_K2[inside] - corner) * scale).float()
        kinds = torch.from_numpy(labels_K[inside])
        if not len(places):
            places, kinds = torch.zeros(1, 2), torch.full((1,), -1)
        boxes = torch.zeros(1, 4)
        if box is not None:
            boxes[0] = torch.from_numpy((np.array(box).reshape(2, 2) - corner) * scale).flatten()
        before = torch.zeros(1, 1, height // 4, width // 4)
        if previous_HW is not None:
            before = F.interpolate(previous_HW[None, None, top:bottom, left:right], before.shape[-2:], mode="area")
        answer = self.network(view, Prompts(places[None], kinds[None], boxes, before))
        full = F.interpolate(answer.logits_B1HW, (bottom - top, right - left), mode="bilinear", align_corners=False)
        soft = full.new_zeros(self.size)
        soft[top:bottom, left:right] = full[0, 0].sigmoid()
        return soft, float(answer.iou_B.sigmoid())


def _picture(frame: npt.NDArray[np.uint8] | Image.Image) -> Image.Image:
    if isinstance(frame, Image.Image):
        return frame.convert("RGB")
    kind, shape = getattr(frame, "dtype", type(frame).__name__), list(getattr(frame, "shape", []))
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise ValueError(f"expected a frame uint8 [H, W, 3], got {kind} {shape}: convert it to 8-bit RGB")
    return Image.fromarray(np.ascontiguousarray(frame))


def _numbers(value: Any, name: str) -> npt.NDArray[np.float32]:
    """An argument as finite numbers."""
    try:
        array = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"expected {name} of numbers, got {str(value)[:60]}: give plain numbers") from None
    if not np.isfinite(array).all():
        raise ValueError(f"expected {name} of finite numbers, got NaN or infinity: give pixels of the frame")
    return array


def _clicks(points: Any, labels: Any, size: tuple[int, int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Points as [K, 2] at the centres of their pixels, and labels [K]."""
    if points is None:
        if labels is not None and np.size(labels):
            raise ValueError(f"expected points for {np.size(labels)} labels, got none: give a point for each label")
        return np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
    array = _numbers(points, "points")
    array = array.reshape(0, 2) if array.size == 0 else array
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"expected points [K, 2] as (x, y), got {list(array.shape)}: give a list of pairs")
    kinds = np.ones(len(array), np.float32) if labels is None else _numbers(labels, "labels")
    if kinds.shape != (len(array),):
        raise ValueError(f"expected {len(array)} labels, got {list(kinds.shape)}: give a label for each point")
    if len(wrong := kinds[(kinds != 0) & (kinds != 1)]):
        raise ValueError(f"expected labels of 0 and 1, got {wrong[0]:g}: give 1 for the object and 0 for the background")
    height, width = size
    for x, y in array.tolist():
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f"expected points inside the frame of {width}x{height}, got ({x:g}, {y:g}): give (x, y) in pixels")
    return array + np.float32(0.5), kinds.astype(np.int64)


def _box(box: Any, size: tuple[int, int]) -> list[float] | None:
    """A box as four numbers, cut at the borders of the frame."""
    if box is None:
        return None
    array = _numbers(box, "a box")
    if array.shape != (4,):
        raise ValueError(f"expected a box (x0, y0, x1, y1), got {list(array.shape)}: give four numbers")
    height, width = size
    x0, y0, x1, y1 = array.tolist()
    cut = [max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1)]
    if cut[2] - cut[0] < 1 or cut[3] - cut[1] < 1:
        raise ValueError(
            f"expected a box with pixels of the frame of {width}x{height}, got ({x0:g}, {y0:g}, {x1:g}, {y1:g}): "
            "give (x0, y0, x1, y1) with x0 < x1 and y0 < y1"
        )
    return cut


def _mask(mask: Any, size: tuple[int, int]) -> Mask | None:
    """A mask as bool [H, W]."""
    if mask is None:
        return None
    array = np.asarray(mask)
    if array.shape != size:
        expected = f"expected a mask of {size[0]}x{size[1]} (height x width), the size of the frame"
        raise ValueError(f"{expected}, got {'x'.join(map(str, array.shape))}: give the mask of this frame")
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise ValueError(f"expected a mask of bool, got {array.dtype} with other values than 0 and 1: give labels == id")
    return array.astype(np.bool_)

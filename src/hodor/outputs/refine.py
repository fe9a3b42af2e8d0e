"""Refine masks and mattes for use in an edit: holes, specks, smooth outlines, growth and soft edges. See `Refinement`.

Only what is written is refined. The tracker does not see it: its memory and its next frames are the same with and without.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hodor.masks import Labels, objects_in
from hodor.outputs.parts import Plane, dilate, erode, fill_holes, remove_specks
from hodor.outputs.records import Result

MAX_PIXELS = 200
"""The largest value of `grow`, `feather` and `smooth`."""
MAX_FRAMES = 12
"""The largest value of `smooth_time`: so many frames on each side are held in memory."""
HALO = 3
"""Pixels around a removed speck, or inside a filled hole, whose soft values are removed or filled with it."""


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """How written masks and mattes are refined, in the order of these fields; only `smooth_time` comes before `smooth`."""

    remove_specks: int = 0
    """Remove parts of an object of at most this many pixels; the largest part is kept."""
    fill_holes: int = 0
    """Fill holes of at most this many pixels."""
    smooth: int = 0
    """Smooth outlines: details smaller than about this many pixels disappear."""
    grow: int = 0
    """Grow every object by this many pixels; a negative number shrinks it."""
    feather: int = 0
    """Soften edges of mattes and cut-outs over this many pixels to either side; masks do not change."""
    smooth_time: int = 0
    """Remove flicker of mattes and cut-outs over this many frames to either side, where the picture stands still; masks do not
    change."""

    def __post_init__(self) -> None:
        """Raise ValueError for a value that is out of range."""
        for name in ("grow", "feather", "smooth"):
            value, low = getattr(self, name), -MAX_PIXELS if name == "grow" else 0
            if not low <= value <= MAX_PIXELS:
                raise ValueError(f"expected {name} of {low} to {MAX_PIXELS} pixels, got {value}")
        for name in ("remove_specks", "fill_holes"):
            if getattr(self, name) < 0:
                raise ValueError(f"expected {name} of at least 0 pixels, got {getattr(self, name)}")
        if not 0 <= self.smooth_time <= MAX_FRAMES:
            raise ValueError(f"expected smooth_time of 0 to {MAX_FRAMES} frames, got {self.smooth_time}")

    @property
    def chosen(self) -> list[str]:
        """The steps that were asked for, as "grow 2"."""
        return [f"{f.name} {getattr(self, f.name)}" for f in fields(Refinement) if getattr(self, f.name)]

    def refined(self, result: Result) -> Result:
        """Refine labels and soft masks of a frame, except in time.

        With `smooth_time`, the soft masks are only cleaned of specks and holes: `finished` does the rest after the smoothing
        in time.

        Args:
            result: the result of a frame; it is not changed.

        Returns:
            A result with refined `labels` and `soft`. Soft masks then have 256 levels. An object without a pixel is `lost`.
        """
        if not any((self.remove_specks, self.fill_holes, self.smooth, self.grow, self.feather)):
            return result
        cleaned = result.labels
        if self.remove_specks:
            cleaned = remove_specks(cleaned, self.remove_specks)
        if self.fill_holes:
            cleaned = fill_holes(cleaned, self.fill_holes)
        soft = result.soft
        if soft is not None:
            planes = zip(as_bytes(soft), result.objects, strict=True)
            made = [_cleaned(plane, result.labels, cleaned, number) for plane, number in planes]
            soft = (np.stack(made) if made else soft) / np.float32(255)
        labels = self._labels(cleaned)
        lost = frozenset(result.objects) - frozenset(objects_in(labels))
        refined = replace(result, labels=labels, soft=soft, lost=lost)
        return refined if self.smooth_time else self.finished(refined)

    def finished(self, result: Result) -> Result:
        """Smooth, grow and feather the soft masks of a frame; see `refined`."""
        if result.soft is None or not len(result.soft):
            return result
        planes = [self._plane(plane) for plane in as_bytes(result.soft)]
        return replace(result, soft=np.stack(planes) / np.float32(255))

    def _plane(self, plane: Plane) -> Plane:
        """Smooth, grow and feather one matte."""
        if self.smooth:
            slope = np.float32(self.smooth / 2 * (2 * np.pi) ** 0.5)  # a straight edge stays one pixel wide
            plane = as_bytes((blur(plane, self.smooth) / 255 - 0.5) * slope + 0.5)
        plane = dilate(plane, self.grow) if self.grow > 0 else erode(plane, -self.grow)
        if self.feather:
            plane = as_bytes(blur(plane, self.feather) / 255)
        return plane

    def _labels(self, labels: Labels) -> Labels:
        """Smooth and grow labels. Objects do not grow into each other."""
        objects = objects_in(labels)
        if self.smooth and objects:
            ids = (0, *objects)
            shares = np.stack([blur((labels == i).astype(np.uint8), self.smooth) for i in ids])
            best = shares.argmax(0)
            kept = np.take_along_axis(shares, np.searchsorted(ids, labels)[None].astype(np.int64), 0)[0] >= shares.max(0)
            labels = np.where(kept, labels, np.asarray(ids, labels.dtype)[best])
        if self.grow < 0:
            out = np.zeros_like(labels)
            for i in objects:
                out[erode((labels == i).astype(np.uint8), -self.grow) > 0] = i
            return out
        if self.grow > 0:
            masks = {i: (labels == i).astype(np.uint8) for i in objects}
            out = labels.copy()
            for radius in range(1 if len(objects) > 1 else self.grow, self.grow + 1):
                for i, mask in masks.items():
                    out[(dilate(mask, radius) > 0) & (out == 0)] = i
            return out
        return labels


def _cleaned(plane: Plane, before: Labels, after: Labels, number: int) -> Plane:
    """Apply to a matte what was removed from the labels of its object, or filled in them, with the soft values around."""
    gone, filled = (before == number) & (after != number), (before != number) & (after == number)
    if not gone.any() and not filled.any():
        return plane
    inside = (after == number).astype(np.uint8)
    near = dilate(gone.astype(np.uint8), HALO) & ~dilate(inside, HALO) & 1
    full = dilate(filled.astype(np.uint8), HALO) & ~dilate(1 - inside, HALO) & 1
    out = np.where(gone | (near > 0), np.uint8(0), plane)
    return np.where(filled | (full > 0), np.uint8(255), out)


def blur(plane: npt.NDArray[np.uint8], radius: int) -> npt.NDArray[np.float32]:
    """Blur with a Gaussian of standard deviation radius / 2, which ends at the radius; beyond the border values continue.

    Args:
        plane: uint8 [H, W].
        radius: in pixels, at least 1.

    Returns:
        float32 [H, W], in the same unit.
    """
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / (radius / 2)) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    out = plane.astype(np.float32)
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    if not rows.size:
        return out
    box = tuple(slice(max(0, int(side[0]) - radius), int(side[-1]) + radius + 1) for side in (rows, columns))
    part = out[box]
    for axis in (0, 1):
        padded = np.pad(part, [(radius, radius) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        length, total = part.shape[axis], np.zeros_like(part)
        for k, weight in enumerate(weights):
            total += weight * (padded[k : k + length] if axis == 0 else padded[:, k : k + length])
        part = total
    out[box] = part
    return out


def as_bytes(soft: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint8]:
    """Convert values in [0, 1] to integers from 0 to 255."""
    return (soft.astype(np.float32).clip(0, 1) * 255 + 0.5).astype(np.uint8)


def flicker(planes: Sequence[npt.NDArray[Any]]) -> float:
    """Measure how much of a matte appears or disappears for a single frame.

    Args:
        planes: the matte on consecutive frames, each [H, W]. A matte that moves steadily has no flicker.

    Returns:
        Percent of the object's area, 0 with fewer than three frames or without an object: the sum of how far each value is
        above, or below, both the value before and the value after, divided by the sum of the values.
    """
    total, area = 0.0, 0.0
    for before, now, after in zip(planes, planes[1:], planes[2:], strict=False):
        up, down = now.astype(np.int32) - before, now.astype(np.int32) - after
        total += float(np.where(up * down > 0, np.minimum(abs(up), abs(down)), 0).sum())
        area += float(now.sum(dtype=np.float64))
    return 100 * total / area if area else 0.0

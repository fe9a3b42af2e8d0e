"""From the stored soft masks of both directions to the labels of a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.masks import Labels, label_dtype
from hodor.models.prediction import Prediction, cut
from hodor.sessions.edits import State, Track
from hodor.sessions.planning import EMPTY_WEIGHT, blend
from hodor.sessions.store import Plane, Store

Soft = npt.NDArray[np.float32]
LOGIT_RANGE = 8.0
"""Planes are stored as logits from minus to plus this, in 8 bits; outlines are then where the network puts them."""
LOWEST = 1e-5
"""The smallest value of a plane where logarithms are computed."""


def encoded(soft: Soft) -> npt.NDArray[np.uint8]:
    """Convert soft masks in [0, 1] to the values of stored planes."""
    clipped = soft.astype(np.float64).clip(LOWEST, 1 - LOWEST)
    logits = np.log(clipped / (1 - clipped)).clip(-LOGIT_RANGE, LOGIT_RANGE)
    values: npt.NDArray[np.uint8] = ((logits / LOGIT_RANGE + 1) * 127.5 + 0.5).astype(np.uint8)
    return values


def decoded(values: npt.NDArray[np.uint8]) -> Soft:
    """Convert the values of stored planes to soft masks; 0 and 255 become exactly 0 and 1."""
    table = 1 / (1 + np.exp(-(np.arange(256) / 127.5 - 1) * LOGIT_RANGE))
    table[0], table[-1] = 0, 1
    soft: Soft = table.astype(np.float32)[values]
    return soft


@dataclass(frozen=True)
class Geometry:
    """How planes cover a frame, as in `Features`: sizes (H, W) in pixels of the frame in the network, and of the padded frame.

    Attributes:
        size: size of the frame inside the network.
        padded: size of the padded frame.
        offset: rows above and columns left of the frame in the padded frame.
        grid: size of the planes, which cover the padded frame.
    """

    size: tuple[int, int]
    padded: tuple[int, int]
    offset: tuple[int, int]
    grid: tuple[int, int]

    @classmethod
    def read(cls, stored: Any) -> Geometry:
        """Return the geometry from the values of `stored`."""
        return cls(*((int(a), int(b)) for a, b in stored))

    @property
    def stored(self) -> list[tuple[int, int]]:
        """The four pairs, as values for JSON."""
        return [self.size, self.padded, self.offset, self.grid]

    def full(self, planes_NHW: Tensor, size: tuple[int, int]) -> Tensor:
        """Enlarge planes to the frame's own size."""
        padded = F.interpolate(planes_NHW[None], self.padded, mode="bilinear", align_corners=False)
        inside = cut(padded, self.size, self.offset)
        return inside[0] if inside.shape[-2:] == size else F.interpolate(inside, size, mode="bilinear", align_corners=False)[0]


@dataclass(frozen=True)
class FrameResult:
    """The result of one frame.

    Attributes:
        labels: ids per pixel [H, W]; uint8, or uint16 for ids above 254.
        objects: ids of all objects, in order, whether they are on this frame or not.
        confidence: id -> confidence in [0, 1]; 1 for a given mask, 0 for an object without a pixel.
        agreement: id -> J of the forward and the backward result on the planes; 1 where there is one direction only.
        soft: one soft mask an object in [0, 1], float32 [N, H, W], if it was asked for.
    """

    labels: Labels
    objects: tuple[int, ...]
    confidence: Mapping[int, float]
    agreement: Mapping[int, float]
    soft: Soft | None = None


def compose(
    state: State,
    frame: int,
    store: Store,
    geometry: Geometry | None,
    size: tuple[int, int],
    *,
    with_soft: bool = False,
    partial: bool = False,
) -> FrameResult | None:
    """Make the result of a frame from the given masks and the stored results.

    The two directions are blended, see `planning.blend`. Each pixel then belongs to the object, or the background, with the
    largest value, interpolated as the tracker does. Given masks are used as they are, on top of everything else.

    Args:
        state: the objects.
        frame: index of the frame.
        store: the stored results.
        geometry: how planes cover the frame; None if there is no result yet.
        size: (H, W) of the frame.
        with_soft: whether to compute the soft masks.
        partial: whether an object whose result is missing is left empty.

    Returns:
        The result, None if a result of an object is missing.
    """
    ids = tuple(state.objects)
    shape = (1, 1) if geometry is None else geometry.grid
    planes = {i: np.zeros(shape, np.float32) for i in ids}
    confidence, agreement = dict.fromkeys(ids, 0.0), dict.fromkeys(ids, 1.0)
    given: list[tuple[int, int, npt.NDArray[np.bool_]]] = []
    for i, tracks in state.objects.items():
        for track in (t for t in tracks if t.covers(frame)):
            if frame in track.given:
                each = track.given[frame]
                given.append((each.order, i, store.mask(each.mask)))
                continue
            blended = _blended(track, frame, store, shape)
            if blended is None and partial:
                continue
            if blended is None:
                return None
            values, sure, agreed = blended
            planes[i] = np.minimum(1, planes[i] + values)
            confidence[i], agreement[i] = max(confidence[i], sure), min(agreement[i], agreed)
    stack = torch.from_numpy(np.stack([planes[i] for i in ids])) if ids else torch.zeros(0, *shape)
    labels = _labels(stack, ids, geometry, size)
    if not with_soft:
        soft = None
    elif geometry is None:
        soft = np.zeros((len(ids), *size), np.float32)
    else:
        soft = geometry.full(stack, size).numpy()
    for _, i, mask in sorted(given, key=lambda one: one[0]):
        labels[mask] = i
        if soft is not None:
            soft[:, mask] = 0
            soft[ids.index(i)][mask] = 1
    for _, i, _ in given:
        confidence[i] = 1.0
    found = set(np.unique(labels).tolist())
    return FrameResult(labels, ids, {i: confidence[i] if i in found else 0.0 for i in ids}, agreement, soft)


def trust(state: State, frame: int, store: Store, geometry: Geometry | None) -> dict[int, tuple[float, float] | None]:
    """Return the confidence and the agreement of the two directions of each object, as `compose` does, without its masks.

    Args:
        state: the objects.
        frame: the frame.
        store: the results.
        geometry: how planes cover the frame; None before the first result.

    Returns:
        For each id that is not given on the frame the two numbers; None for one of which a result is missing.
    """
    found: dict[int, tuple[float, float] | None] = {}
    shape = (1, 1) if geometry is None else geometry.grid
    for i, tracks in state.objects.items():
        parts = [_blended(t, frame, store, shape) for t in tracks if t.covers(frame) and frame not in t.given]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            found[i] = None
        elif known:
            found[i] = max(sure for _, sure, _ in known), min(agreed for _, _, agreed in known)
    return found


def _labels(stack_NHW: Tensor, ids: Sequence[int], geometry: Geometry | None, size: tuple[int, int]) -> Labels:
    table = np.array([0, *ids], label_dtype(max(ids, default=0)))
    if geometry is None or not ids:
        return np.zeros(size, table.dtype)
    background = (1 - stack_NHW.sum(0, keepdim=True)).clamp(min=0)
    logits = torch.cat([background, stack_NHW]).clamp(min=LOWEST).log()
    prediction = Prediction(logits[None], 1, geometry.size, geometry.padded, geometry.offset)
    labels: Labels = table[prediction.labels(size)[0].numpy()]
    return labels


def _blended(track: Track, frame: int, store: Store, shape: tuple[int, int]) -> tuple[Soft, float, float] | None:
    """The soft mask of a track on a frame that is not given, its confidence, and the agreement of the two directions."""
    origins = track.origin(frame, 1), track.origin(frame, -1)
    found: list[tuple[Soft, float, float]] = []
    for origin, direction in zip(origins, (1, -1), strict=True):
        if origin is None:
            found.append((np.zeros(shape, np.float32), 0.0, 0.0))
        elif track.given[origin].empty:
            found.append((np.zeros(shape, np.float32), EMPTY_WEIGHT, 0.0))
        elif store.has(run := track.run(origin, direction), frame):
            plane = store.plane(run, frame)
            found.append((_values(plane, shape), plane.confidence, plane.confidence))
        else:
            return None
    (one, weight_1, sure_1), (two, weight_2, sure_2) = found
    forward, backward = blend(frame, *origins, weight_1, weight_2)
    agreed = 1.0
    if None not in origins:
        a, b = one > 0.5, two > 0.5
        union = int(np.count_nonzero(a | b))
        agreed = int(np.count_nonzero(a & b)) / union if union else 1.0
    return forward * one + backward * two, forward * sure_1 + backward * sure_2, agreed


def _values(plane: Plane, shape: tuple[int, int]) -> Soft:
    values = decoded(plane.values)
    if values.shape != shape:
        raise ValueError(f"expected results of {shape[0]}x{shape[1]} cells, got {values.shape}: remove the folder of results")
    return values

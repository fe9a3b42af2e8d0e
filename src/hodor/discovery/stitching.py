"""Join what was found in overlapping clips: the objects of a clip take the ids of those that they cover on common frames."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hodor.scoring.assignment import assign

MIN_IOU = 0.1
"""Objects of two clips that have less in common than this are not joined."""


class Pair(NamedTuple):
    """Two objects that are one.

    Attributes:
        before: id in the earlier clip.
        after: id in the later clip.
        iou: intersection over union of their pixels on the common frames.
    """

    before: int
    after: int
    iou: float


def join(before: Tensor, after: Tensor, min_iou: float = MIN_IOU) -> list[Pair]:
    """Pair the objects of two label maps of the same frames so that the sum of their IoUs is largest.

    Args:
        before: labels of the earlier clip, integers of any shape; values below 1 are no object.
        after: labels of the later clip, of the same shape.
        min_iou: pairs with less are not made. 0 joins as many as there are, also those that have no pixel in common, as the
            released code does. Default: 0.1.

    Returns:
        The pairs, in the order of `before`; no id occurs twice.
    """
    values = [[int(i) for i in labels.unique() if i != 0] for labels in (before, after)]
    ids = [[i for i in each if i > 0] for each in values]
    if not ids[0] or not ids[1]:
        return []
    if min_iou <= 0:  # of pairs without a common pixel, those that the order of a Python set of ids leads to, as released
        ids = [list(set(each) - {-1}) for each in values]
    planes = [
        torch.stack([labels.flatten() == i for i in each]).double() for labels, each in zip((before, after), ids, strict=True)
    ]
    both = planes[0] @ planes[1].T
    union = planes[0].sum(1)[:, None] + planes[1].sum(1) - both
    iou = (both / union).cpu().numpy()
    iou[iou < min_iou] = 0
    rows, columns = assign(iou)
    pairs = [Pair(ids[0][r], ids[1][c], float(iou[r, c])) for r, c in zip(rows, columns, strict=True)]
    return sorted(pair for pair in pairs if pair.iou > 0 or min_iou <= 0)


class Stitcher:
    """Gives the objects of consecutive clips common ids.

    Args:
        min_iou: see `join`. Default: 0.1.

    Attributes:
        highest: the highest id so far. `find(..., first=stitcher.highest + 1)` numbers a clip's objects.
    """

    def __init__(self, min_iou: float = MIN_IOU) -> None:
        self.min_iou = min_iou
        self.highest = 0
        self._known: dict[int, Tensor] = {}

    def add(self, frames: range, labels_THW: Tensor) -> tuple[dict[int, Tensor], list[Pair]]:
        """Add the next clip.

        Args:
            frames: indices of its frames; some of them can be those of the previous clip.
            labels_THW: its label map, with ids above `highest`.

        Returns:
            The labels [H, W] of the frames that no earlier clip had, by index, with common ids; frames that two clips have keep
            the labels of the earlier one. And the pairs that were joined.
        """
        common = [t for t in frames if t in self._known]
        pairs: list[Pair] = []
        joined = labels_THW.clone()
        if common:
            before = torch.stack([self._known[t] for t in common])
            pairs = join(before, torch.stack([labels_THW[t - frames.start] for t in common]), self.min_iou)
        for pair in pairs:
            joined[labels_THW == pair.after] = pair.before
        self.highest = max(self.highest, int(joined.max()), 0)
        fresh = {t: joined[t - frames.start] for t in frames if t not in self._known}
        self._known = {t: self._known.get(t, fresh.get(t, joined[t - frames.start])) for t in frames}
        return fresh, pairs

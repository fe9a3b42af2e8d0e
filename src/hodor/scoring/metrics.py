"""J and F, the scores of video object segmentation, from their definitions (Perazzi et al., CVPR 2016; DAVIS 2017).

    J = |P & G| / |P | G|         region similarity, the Jaccard index
    F = 2 p r / (p + r)           boundary accuracy; precision p and recall r with a tolerance of a few pixels

Both are equal, bit for bit, to the numbers of the DAVIS 2017 evaluation code (tests/golden). `frame_scores` scores a frame;
`statistics` sums up the scores of one object over its frames; `average` averages the objects of a sequence or of a whole data
set. `pair_scores` compares every predicted label with every ground-truth label. `mose_j` and `mose_f` are the variants of
MOSEv2.

A mask is stored as a stream of bits, 64 pixels per word, row after row. Area, overlap, boundary and the dilation of a boundary
by a disk are then a few passes over a small array (hodor.scoring.bits), and the time does not depend on the content of the
frame.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hodor.scoring.bits import (
    Reach,
    Words,
    bit_count,
    cropped,
    disk,
    edges_of,
    grown_by,
    layers_of,
    ones_in,
    skewed_disk,
    stream_of,
)

BOUND = 0.008
"""The boundary tolerance of DAVIS, as a share of the image's diagonal: 8 pixels at 480x854."""

CACHED = 1 << 19
"""Pixels of layers processed at once: 64 KiB of bits per side, which fit into a processor's second-level cache."""

Bools = NDArray[np.bool_]
Labels = NDArray[Any]


class Statistics(NamedTuple):
    """Scores of an object over its frames.

    Attributes:
        mean: mean score, in [0, 1].
        recall: share of frames above 0.5, in [0, 1].
        decay: mean of the first quarter of the frames minus that of the last, in [-1, 1]; below 0 the scores improve.
    """

    mean: float
    recall: float
    decay: float


class FrameScores(NamedTuple):
    """J and F of one frame.

    Attributes:
        j: J, float64 in [0, 1], in the order of the given ids: [N], or [P, N] for pairs.
        f: F, the same.
    """

    j: NDArray[np.float64]
    f: NDArray[np.float64]


def jaccard(prediction: ArrayLike, ground_truth: ArrayLike, void: ArrayLike | None = None) -> float:
    """Compute J of two masks: the pixels in both divided by the pixels in either.

    Args:
        prediction: predicted mask, bool [H, W]; other types count as "not zero".
        ground_truth: ground-truth mask, the same.
        void: pixels that are ignored, bool [H, W]. Default: none.

    Returns:
        J in [0, 1]; 1 if both masks are empty, 0 if one is.

    Raises:
        ValueError: "expected prediction of 4x6 pixels, the size of the ground truth, got 4x5".
    """
    mask, reference = _pair(prediction, ground_truth, void)
    return float(_ratio(np.count_nonzero(mask & reference), np.count_nonzero(mask | reference)))


def boundary_f(prediction: ArrayLike, ground_truth: ArrayLike, void: ArrayLike | None = None, bound: float = BOUND) -> float:
    """Compute F of two masks: the agreement of their boundaries.

    A boundary pixel is matched if a boundary pixel of the other mask is within r pixels (Euclidean). Precision is the matched
    share of the prediction's boundary, recall that of the ground truth's, and F their harmonic mean. r is `bound` times the
    diagonal, rounded up.

    Args:
        prediction: predicted mask, bool [H, W]; other types count as "not zero".
        ground_truth: ground-truth mask, the same.
        void: pixels that are removed from both masks before the boundary is computed, so its outline can be a boundary, as in
            the DAVIS code. Default: none.
        bound: tolerance as a share of the diagonal; 1 or more is r itself, in pixels. Default: 0.008.

    Returns:
        F in [0, 1]; 1 if neither mask has a boundary, even if one is empty and the other fills the frame (the frame's border is
        not a boundary); 0 if only one has a boundary.

    Raises:
        ValueError: for sizes, as `jaccard`; "expected bound of at least 0, got -1".
    """
    mask, reference = _pair(prediction, ground_truth, void)
    return _f_of_masks(mask, reference, disk(_radius(mask.shape, bound), mask.shape))


def boundary(mask: ArrayLike) -> Bools:
    """Compute the boundary of a mask: the pixels that differ from their right, lower or lower right neighbour.

    The line is one pixel wide, at the top left of the edge: it contains pixels on both sides of the edge. Beyond the last row
    and column the mask is continued unchanged, so the frame's border is never a boundary.

    Args:
        mask: bool [H, W]; other types count as "not zero".

    Returns:
        Bool [H, W].
    """
    padded = np.pad(_mask(mask, "mask"), ((0, 1), (0, 1)), mode="edge")
    pixel = padded[:-1, :-1]
    edge: Bools = (pixel ^ padded[:-1, 1:]) | (pixel ^ padded[1:, :-1]) | (pixel ^ padded[1:, 1:])
    return edge


def frame_scores(
    prediction: Labels, ground_truth: Labels, ids: Sequence[int], void: ArrayLike | None = None, bound: float = BOUND
) -> FrameScores:
    """Compute J and F of every object of a frame from two label maps; equal to one call per object, and faster.

    Args:
        prediction: predicted labels, integer [H, W].
        ground_truth: ground-truth labels, the same.
        ids: the N objects to score; every other label, 255 included, is background.
        void: as in `boundary_f`.
        bound: as in `boundary_f`.

    Returns:
        J and F, each float64 [N].

    Raises:
        ValueError: for sizes, as `jaccard`; "expected different ids above 0, got [1, 1]"; "expected integer labels of at least
            0, got float32 from 0.0".
    """
    prediction, ground_truth = _label_pair(prediction, ground_truth, (ids,), void)
    radius = _radius(ground_truth.shape, bound)
    scores = np.ones((2, len(ids)))
    # Outside the box of all labels, enlarged by one pixel, there is nothing to count and no boundary.
    box = _box(prediction, ground_truth)
    if box is None:
        return FrameScores(*scores)
    maps = prediction[box], ground_truth[box]
    reach = disk(radius, maps[0].shape)
    at_once = max(1, CACHED // maps[0].size)  # as many objects as fit into the processor's cache
    for start in range(0, len(ids), at_once):
        part = slice(start, start + at_once)
        found, target = (layers_of(labels, ids[part]) for labels in maps)
        scores[:, part] = _j_and_f(found, target, maps[0].shape[1], reach)
    return FrameScores(*scores)


def pair_scores(
    prediction: Labels,
    ground_truth: Labels,
    proposals: Sequence[int],
    ids: Sequence[int],
    void: ArrayLike | None = None,
    bound: float = BOUND,
) -> FrameScores:
    """Compute J and F of every proposal with every object of a frame, for the unsupervised task of DAVIS 2017.

    Equal to `jaccard` and `boundary_f` of `prediction == proposals[p]` and `ground_truth == ids[n]`, but each label's boundary
    is computed and dilated once, not once per pair.

    Args:
        prediction: predicted labels, integer [H, W].
        ground_truth: ground-truth labels, the same.
        proposals: the P predicted labels.
        ids: the N objects.
        void: as in `boundary_f`.
        bound: as in `boundary_f`.

    Returns:
        J and F, each float64 [P, N].

    Raises:
        ValueError: as `frame_scores`.

    Source: Caelles et al., The 2019 DAVIS Challenge on VOS, 2019.
    """
    prediction, ground_truth = _label_pair(prediction, ground_truth, (proposals, ids), void)
    radius = _radius(ground_truth.shape, bound)
    scores = np.ones((2, len(proposals), len(ids)))
    box = _box(prediction, ground_truth)
    if box is None or not scores.size:
        return FrameScores(*scores)
    maps = prediction[box], ground_truth[box]
    reach = disk(radius, maps[0].shape)
    layers = np.concatenate([layers_of(labels, part) for labels, part in zip(maps, (proposals, ids), strict=True)])
    found = slice(0, len(proposals))
    edges = edges_of(layers, maps[0].shape[1])
    stream, _ = stream_of([line[None] for line in edges], reach)
    points = bit_count(edges)
    lines, disks = (words.reshape(len(layers), -1, words.shape[2]) for words in (stream, grown_by(stream, reach)))
    for place, n in enumerate(range(len(proposals), len(layers))):
        scores[0, :, place] = _ratio(bit_count(layers[found] & layers[n]), bit_count(layers[found] | layers[n]))
        hits, recalled = bit_count(lines[found] & disks[n]), bit_count(disks[found] & lines[n])
        both = (points[found] > 0) & (points[n] > 0)
        f = _f(hits, recalled, np.maximum(points[found], 1), max(points[n], 1))
        scores[1, :, place] = np.where(both, f, points[found] == points[n])
    return FrameScores(*scores)


def mose_j(prediction: ArrayLike, ground_truth: ArrayLike) -> float:
    """Compute J of MOSEv2: (|P & G| + 1) / (|P | G| + 1), which raises the scores of small objects; 1 if both are empty.

    Masks and errors are those of `jaccard`.

    Source: the released scorer of MOSEv2 (tools/metricsv2.py).
    """
    mask, reference = _pair(prediction, ground_truth, None)
    return float((np.count_nonzero(mask & reference) + 1) / (np.count_nonzero(mask | reference) + 1))


def mose_f(prediction: ArrayLike, ground_truth: ArrayLike) -> tuple[float, float]:
    """Compute F of MOSEv2; the tolerance of its new F depends on the size of the object.

    The tolerance r of the new F is ceil(0.1 sqrt(|G|)), at most 0.008 times the diagonal; this limit is not rounded. If r is
    below the limit, the old F has the tolerance of DAVIS. If r is the limit, both have it, so the old F of a large object
    differs slightly from that of DAVIS.

    The released scorer dilates with skimage's disk(r). If r is not an integer, this disk is not symmetric: its grid is -r,
    -r + 1, ... below r + 1, and the grid's middle entry o is placed on the pixel, so a pixel is matched by those at (dy, dx)
    with (dy + o)^2 + (dx + o)^2 <= r^2. This is repeated here. At 480x854, r = 7.837, o is 0.163 and the disk has 191 pixels.

    Masks and errors are those of `jaccard`.

    Returns:
        (new F, old F), each in [0, 1].

    Source: the released scorer of MOSEv2 (tools/metricsv2.py).
    """
    mask, reference = _pair(prediction, ground_truth, None)
    limit = BOUND * float(np.linalg.norm(mask.shape))
    radius = min(limit, math.ceil(0.1 * math.sqrt(np.count_nonzero(reference)))) if reference.any() else limit
    new = _f_of_masks(mask, reference, skewed_disk(radius))
    if radius == limit:
        return new, new
    return new, _f_of_masks(mask, reference, disk(math.ceil(limit), mask.shape))


def statistics(scores: ArrayLike, compat: bool = False) -> Statistics:
    """Compute mean, recall and decay of one object's scores over its frames.

    Recall is the share of frames above 0.5. Decay is the mean of the first quarter minus the mean of the last. Quarters meet at
    round(1 + k (T - 1) / 4), halves rounded up; the frame where two meet belongs to both.

    Args:
        scores: scores in order of time, [T].
        compat: whether to repeat the DAVIS code, which keeps the meeting points in 8 bits, so that decay is wrong or nan above
            256 frames. Default: False.

    Raises:
        ValueError: "expected the scores of at least 1 frame, got none".
    """
    row = np.asarray(scores, dtype=np.float64)
    if row.size == 0:
        raise ValueError("expected the scores of at least 1 frame, got none")
    meets = (np.round(np.linspace(1, row.size, 5) + 1e-10) - 1).astype(np.int64)
    if compat:
        meets &= 255
    first, last = row[meets[0] : meets[1] + 1], row[meets[3] : meets[4] + 1]
    decay = float(first.mean() - last.mean()) if first.size and last.size else math.nan
    return Statistics(float(row.mean()), float((row > 0.5).mean()), decay)


def average(objects: Iterable[Statistics]) -> Statistics:
    """Compute the mean of several objects' statistics, for a sequence or a whole data set.

    The DAVIS rule for a data set is the mean over all objects of all sequences, not over sequences: a sequence with seven
    objects weighs seven times as much as one with a single object.

    Raises:
        ValueError: "expected the statistics of at least 1 object, got none".
    """
    rows = np.array(list(objects), dtype=np.float64)
    if rows.size == 0:
        raise ValueError("expected the statistics of at least 1 object, got none")
    # A contiguous row per statistic: numpy then adds in the order that the DAVIS code adds in.
    return Statistics(*(float(np.mean(row)) for row in np.ascontiguousarray(rows.T)))


def _mask(mask: ArrayLike, name: str) -> Bools:
    array = np.asarray(mask)
    if array.ndim != 2:
        raise ValueError(f"expected {name} of shape [H, W], got {array.shape}")
    return array.astype(bool, copy=False)


def _same_size(prediction: Labels, ground_truth: Labels, name: str = "prediction") -> None:
    if prediction.ndim != 2 or prediction.shape != ground_truth.shape:
        sizes = ["x".join(map(str, array.shape)) for array in (prediction, ground_truth)]
        raise ValueError(f"expected {name} of {sizes[1]} pixels, the size of the ground truth, got {sizes[0]}")


def _pair(prediction: ArrayLike, ground_truth: ArrayLike, void: ArrayLike | None) -> tuple[Bools, Bools]:
    """Return the two masks without the void pixels, after a check of their sizes."""
    mask, reference = _mask(prediction, "prediction"), _mask(ground_truth, "ground truth")
    _same_size(mask, reference)
    if void is None:
        return mask, reference
    keep = ~_mask(void, "void")
    _same_size(keep, reference, "void")
    return mask & keep, reference & keep


def _ratio(inside: Any, either: Any) -> NDArray[np.float64]:
    """Return inside / either; 1 where both are empty."""
    return np.where(np.equal(either, 0), 1.0, np.asarray(inside) / np.maximum(either, 1))


def _radius(size: tuple[int, ...], bound: float) -> float:
    if not bound >= 0:
        raise ValueError(f"expected bound of at least 0, got {bound}")
    return bound if bound >= 1 else math.ceil(bound * float(np.linalg.norm(size)))


def _label_pair(
    prediction: ArrayLike, ground_truth: ArrayLike, ids: Sequence[Sequence[int]], void: ArrayLike | None
) -> tuple[Labels, Labels]:
    """Return the two label maps without the void pixels, after a check of the maps and the ids."""
    prediction, ground_truth = np.asarray(prediction), np.asarray(ground_truth)
    _same_size(prediction, ground_truth)
    for labels in (prediction, ground_truth):
        if labels.dtype.kind not in "bu" and (labels.dtype.kind != "i" or labels.min(initial=0) < 0):
            raise ValueError(f"expected integer labels of at least 0, got {labels.dtype} from {labels.min()}")
    for listed in ids:
        if len(set(listed)) < len(listed) or any(i <= 0 for i in listed):
            raise ValueError(f"expected different ids above 0, got {list(listed)}")
    if void is None:
        return prediction, ground_truth
    keep = ~_mask(void, "void")
    _same_size(keep, ground_truth, "void")
    return prediction * keep, ground_truth * keep


def _box(prediction: Labels, ground_truth: Labels) -> tuple[slice, slice] | None:
    """Return the bounding box of the non-zero pixels of both, enlarged by one pixel within the frame; None if all are zero."""
    if prediction.dtype != ground_truth.dtype:
        prediction, ground_truth = prediction != 0, ground_truth != 0
    either = prediction | ground_truth
    columns = np.flatnonzero(np.bitwise_or.reduce(either, axis=0))
    if not columns.size:
        return None
    left, right = max(int(columns[0]) - 1, 0), int(columns[-1]) + 2
    rows = np.flatnonzero(np.bitwise_or.reduce(either[:, left:right], axis=1))
    return slice(max(int(rows[0]) - 1, 0), int(rows[-1]) + 2), slice(left, right)


def _f_of_masks(mask: Bools, reference: Bools, reach: Reach) -> float:
    box = _box(mask, reference)
    if box is None:
        return 1.0
    return float(_j_and_f(layers_of(mask[box], [1]), layers_of(reference[box], [1]), mask[box].shape[1], reach)[1, 0])


def _j_and_f(found: Words, target: Words, width: int, reach: Reach) -> NDArray[np.float64]:
    """Return J and F [2, N] of layers [N, H, S] whose rows have `width` pixels.

    Matches are inside the box of an object's two boundaries, so only these boxes are dilated: all of them in one stream, those
    of the prediction before those of the ground truth.
    """
    j = _ratio(bit_count(found & target), bit_count(found | target))
    edges = edges_of(np.concatenate([found, target]), width).reshape(2, *found.shape)
    points = bit_count(edges)
    f = (points[0] == points[1]).astype(np.float64)
    evaluated = np.flatnonzero(points.all(axis=0))
    if evaluated.size:
        stream, starts = stream_of([cropped(edges[:, place]) for place in evaluated], reach)
        grown = grown_by(stream, reach)
        hits = np.add.reduceat(ones_in(stream & grown[::-1]).sum(axis=2, dtype=np.int64), starts, axis=1)
        f[evaluated] = _f(*hits, *points[:, evaluated])
    return np.stack([j, f])


def _f(hits: Any, recalled: Any, found: Any, target: Any) -> Any:
    """Return F from the numbers of matched and of all boundary pixels of prediction and ground truth; none is 0."""
    precision, recall = hits / found, recalled / target
    return 2 * precision * recall / np.where(hits + recalled, precision + recall, 1)

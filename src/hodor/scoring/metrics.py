"""J and F, the scores of video object segmentation, from their definitions (Perazzi et al., CVPR 2016; DAVIS 2017).

    J = |P & G| / |P | G|         region similarity, the Jaccard index
    F = 2 p r / (p + r)           boundary accuracy; precision p and recall r with a tolerance of a few pixels

Both are equal, bit for bit, to the numbers of the DAVIS 2017 evaluation code (tests/golden). A frame is scored by
`frame_scores`; the scores of one object over its frames are summed up by `statistics`; the objects of a sequence or of
a whole dataset by `average`. `pair_scores` compares every predicted label with every true one, `mose_j` and `mose_f` are
the variants of MOSEv2.

Speed comes from one idea: a mask is a stream of bits, 64 pixels a word, row after row. Then area, overlap, boundary and
the growing of a boundary by a disk are a few passes over a small array (hodor.scoring.bits), and a frame of noise costs no more
than a frame of blobs.
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
"""Pixels of layers worked on at once: 64 KiB of bits a side, which stay in a processor's second cache."""

Bools = NDArray[np.bool_]
Labels = NDArray[Any]


class Statistics(NamedTuple):
    """A row of per-frame scores in three numbers: mean and recall in [0, 1], decay in [-1, 1] (< 0: it improved)."""

    mean: float
    recall: float
    decay: float


class FrameScores(NamedTuple):
    """J and F of one frame, each float64 in [0, 1], in the order of the ids asked for: [N], or [P, N] for pairs."""

    j: NDArray[np.float64]
    f: NDArray[np.float64]


def jaccard(prediction: ArrayLike, ground_truth: ArrayLike, void: ArrayLike | None = None) -> float:
    """J of two masks: the pixels in both over the pixels in either, in [0, 1].

    Masks are bool [H, W]; other types count as "not zero". Pixels of `void` belong to neither. Two empty masks agree
    (1); one empty mask does not (0). Raises ValueError on sizes:
    "prediction is 4x5, ground truth is 4x6: masks must have the same size".
    """
    mask, wanted = _pair(prediction, ground_truth, void)
    return float(_ratio(np.count_nonzero(mask & wanted), np.count_nonzero(mask | wanted)))


def boundary_f(prediction: ArrayLike, ground_truth: ArrayLike, void: ArrayLike | None = None, bound: float = BOUND) -> float:
    """F of two masks: how well their boundaries agree, in [0, 1].

    A boundary pixel is matched if a boundary pixel of the other mask lies within r pixels (Euclidean). Precision is the
    matched share of the prediction's boundary, recall that of the ground truth's, F their harmonic mean. r is `bound` times
    the diagonal, rounded up; a `bound` of 1 or more is r itself, in pixels.

    Masks are bool [H, W]; other types count as "not zero". `void` is cut out of both masks before the boundary is
    taken, so its outline can be a boundary, as in the DAVIS code. Two masks without a boundary agree (1), even if one
    is empty and the other fills the frame: the frame's border is no boundary. If only one has a boundary: 0.

    Raises ValueError on sizes, as `jaccard`, and "bound is -1: it must be 0 or more".
    """
    mask, wanted = _pair(prediction, ground_truth, void)
    return _f_of_masks(mask, wanted, disk(_radius(mask.shape, bound), mask.shape))


def boundary(mask: ArrayLike) -> Bools:
    """The boundary pixels of a mask, bool [H, W]: those that differ from their right, lower or lower right neighbour.

    The line is one pixel wide and lies to the top left: it holds pixels on both sides of the edge. Beyond the last row
    and column the mask goes on unchanged, so the frame's border is never a boundary.
    """
    grown = np.pad(_mask(mask, "mask"), ((0, 1), (0, 1)), mode="edge")
    here = grown[:-1, :-1]
    edge: Bools = (here ^ grown[:-1, 1:]) | (here ^ grown[1:, :-1]) | (here ^ grown[1:, 1:])
    return edge


def frame_scores(
    prediction: Labels, ground_truth: Labels, ids: Sequence[int], void: ArrayLike | None = None, bound: float = BOUND
) -> FrameScores:
    """J and F of every object of a frame at once, from two label maps; equal to one call per object, and faster.

    `prediction` and `ground_truth` are integer [H, W]. `ids` are the objects to score; every other label, 255 too, is
    background. `void` and `bound` as in `boundary_f`.

    Raises ValueError on sizes, as `jaccard`; "ids are [1, 1]: they must be different and above 0"; "labels are float32,
    from 0.0: they must be integers, 0 or more".
    """
    prediction, ground_truth = _label_pair(prediction, ground_truth, (ids,), void)
    radius = _radius(ground_truth.shape, bound)
    scores = np.ones((2, len(ids)))
    # Outside the box of all labels, one pixel of background added, nothing is counted and nothing has a boundary.
    box = _box(prediction, ground_truth)
    if box is None:
        return FrameScores(*scores)
    maps = prediction[box], ground_truth[box]
    reach = disk(radius, maps[0].shape)
    some = max(1, CACHED // maps[0].size)  # as many objects at once as stay in the processor's cache
    for start in range(0, len(ids), some):
        part = slice(start, start + some)
        found, wanted = (layers_of(labels, ids[part]) for labels in maps)
        scores[:, part] = _j_and_f(found, wanted, maps[0].shape[1], reach)
    return FrameScores(*scores)


def pair_scores(
    prediction: Labels,
    ground_truth: Labels,
    proposals: Sequence[int],
    ids: Sequence[int],
    void: ArrayLike | None = None,
    bound: float = BOUND,
) -> FrameScores:
    """J and F of every proposal with every object of a frame: each float64 [P, N], P `proposals`, N `ids`.

    What the unsupervised task of DAVIS 2017 (Caelles et al., 2019) matches on. Equal to `jaccard` and `boundary_f` of
    `prediction == proposals[p]` and `ground truth == ids[n]`, but each label's boundary is taken and grown once, not once a
    pair. Arguments and errors as in `frame_scores`.
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
    """J of MOSEv2: (|P & G| + 1) / (|P | G| + 1), so small objects are evaluated more gently; 1 where both are empty.

    Source: the released scorer of MOSEv2 (tools/metricsv2.py). Masks and errors as in `jaccard`.
    """
    mask, wanted = _pair(prediction, ground_truth, None)
    return float((np.count_nonzero(mask & wanted) + 1) / (np.count_nonzero(mask | wanted) + 1))


def mose_f(prediction: ArrayLike, ground_truth: ArrayLike) -> tuple[float, float]:
    """F of MOSEv2 -> (its new F, its old F); the new one's tolerance shrinks with the object.

    r = ceil(0.1 sqrt(|G|)), but at most 0.008 times the diagonal, and that limit is not rounded. Where r is under the
    limit the old F has the tolerance of DAVIS; where r is the limit both have it, so that the old F of a large object
    is not quite that of DAVIS.

    Source: the released scorer of MOSEv2 (tools/metricsv2.py), which lays skimage's disk(r) on the pixels. For an r that
    is no integer this disk is not symmetric: its grid is -r, -r + 1, ... below r + 1, and the grid's middle entry o lies
    on the pixel, so a pixel is matched by those at (dy, dx) with (dy + o)^2 + (dx + o)^2 <= r^2. That is repeated here;
    at 480x854, r = 7.837, o is 0.163 and the disk has 191 pixels. Masks and errors as in `jaccard`.
    """
    mask, wanted = _pair(prediction, ground_truth, None)
    limit = BOUND * float(np.linalg.norm(mask.shape))
    radius = min(limit, math.ceil(0.1 * math.sqrt(np.count_nonzero(wanted)))) if wanted.any() else limit
    new = _f_of_masks(mask, wanted, skewed_disk(radius))
    if radius == limit:
        return new, new
    return new, _f_of_masks(mask, wanted, disk(math.ceil(limit), mask.shape))


def statistics(scores: ArrayLike, compat: bool = False) -> Statistics:
    """Mean, recall and decay of one object's scores over its frames, [T] in order of time.

    Recall is the share of frames above 0.5. Decay is the mean of the first quarter less the mean of the last; quarters
    meet at round(1 + k (T - 1) / 4), halves rounded up, and the frame where two meet belongs to both.

    The DAVIS code keeps those meeting points in 8 bits, so decay is wrong or nan above 256 frames. `compat` repeats
    that; it changes nothing up to 256 frames. Raises ValueError: "no scores to sum up".
    """
    row = np.asarray(scores, dtype=np.float64)
    if row.size == 0:
        raise ValueError("no scores to sum up: give the scores of at least one frame")
    meets = (np.round(np.linspace(1, row.size, 5) + 1e-10) - 1).astype(np.int64)
    if compat:
        meets &= 255
    first, last = row[meets[0] : meets[1] + 1], row[meets[3] : meets[4] + 1]
    decay = float(first.mean() - last.mean()) if first.size and last.size else math.nan
    return Statistics(float(row.mean()), float((row > 0.5).mean()), decay)


def average(objects: Iterable[Statistics]) -> Statistics:
    """The mean of several objects' statistics, for a sequence or a whole dataset.

    The DAVIS rule for a dataset is the mean over all objects of all sequences, not over sequences: a sequence with
    seven objects weighs seven times one with a single object. Raises ValueError: "no objects to average".
    """
    rows = np.array(list(objects), dtype=np.float64)
    if rows.size == 0:
        raise ValueError("no objects to average: give the statistics of at least one")
    # A contiguous row per statistic: numpy then adds in the order that the DAVIS code adds in.
    return Statistics(*(float(np.mean(row)) for row in np.ascontiguousarray(rows.T)))


def _mask(mask: ArrayLike, name: str) -> Bools:
    array = np.asarray(mask)
    if array.ndim != 2:
        raise ValueError(f"{name} has shape {array.shape}: a mask is [H, W]")
    return array.astype(bool, copy=False)


def _same_size(prediction: Labels, ground_truth: Labels, name: str = "prediction") -> None:
    if prediction.ndim != 2 or prediction.shape != ground_truth.shape:
        sizes = ["x".join(map(str, array.shape)) for array in (prediction, ground_truth)]
        raise ValueError(f"{name} is {sizes[0]}, ground truth is {sizes[1]}: masks must have the same size")


def _pair(prediction: ArrayLike, ground_truth: ArrayLike, void: ArrayLike | None) -> tuple[Bools, Bools]:
    """The two masks without the void pixels, their sizes checked."""
    mask, wanted = _mask(prediction, "prediction"), _mask(ground_truth, "ground_truth")
    _same_size(mask, wanted)
    if void is None:
        return mask, wanted
    keep = ~_mask(void, "void")
    _same_size(keep, wanted, "void")
    return mask & keep, wanted & keep


def _ratio(inside: Any, either: Any) -> NDArray[np.float64]:
    """inside / either, and 1 where both are empty."""
    return np.where(np.equal(either, 0), 1.0, np.asarray(inside) / np.maximum(either, 1))


def _radius(size: tuple[int, ...], bound: float) -> float:
    if not bound >= 0:
        raise ValueError(f"bound is {bound}: it must be 0 or more")
    return bound if bound >= 1 else math.ceil(bound * float(np.linalg.norm(size)))


def _label_pair(
    prediction: ArrayLike, ground_truth: ArrayLike, ids: Sequence[Sequence[int]], void: ArrayLike | None
) -> tuple[Labels, Labels]:
    """The two label maps without the void pixels, they and the ids checked."""
    prediction, ground_truth = np.asarray(prediction), np.asarray(ground_truth)
    _same_size(prediction, ground_truth)
    for labels in (prediction, ground_truth):
        if labels.dtype.kind not in "bu" and (labels.dtype.kind != "i" or labels.min(initial=0) < 0):
            raise ValueError(f"labels are {labels.dtype}, from {labels.min()}: they must be integers, 0 or more")
    for some in ids:
        if len(set(some)) < len(some) or any(i <= 0 for i in some):
            raise ValueError(f"ids are {list(some)}: they must be different and above 0")
    if void is None:
        return prediction, ground_truth
    keep = ~_mask(void, "void")
    _same_size(keep, ground_truth, "void")
    return prediction * keep, ground_truth * keep


def _box(prediction: Labels, ground_truth: Labels) -> tuple[slice, slice] | None:
    """The bounding box of what is not zero in either and, where the frame has them, one pixel more; None: all zero."""
    if prediction.dtype != ground_truth.dtype:
        prediction, ground_truth = prediction != 0, ground_truth != 0
    either = prediction | ground_truth
    columns = np.flatnonzero(np.bitwise_or.reduce(either, axis=0))
    if not columns.size:
        return None
    left, right = max(int(columns[0]) - 1, 0), int(columns[-1]) + 2
    rows = np.flatnonzero(np.bitwise_or.reduce(either[:, left:right], axis=1))
    return slice(max(int(rows[0]) - 1, 0), int(rows[-1]) + 2), slice(left, right)


def _f_of_masks(mask: Bools, wanted: Bools, reach: Reach) -> float:
    box = _box(mask, wanted)
    if box is None:
        return 1.0
    return float(_j_and_f(layers_of(mask[box], [1]), layers_of(wanted[box], [1]), mask[box].shape[1], reach)[1, 0])


def _j_and_f(found: Words, wanted: Words, width: int, reach: Reach) -> NDArray[np.float64]:
    """J and F [2, N] of layers [N, H, S] whose rows hold `width` pixels.

    Matches lie in the box of an object's two boundaries, so only these boxes are grown: all of them in one stream, those
    of the prediction before those of the ground truth.
    """
    j = _ratio(bit_count(found & wanted), bit_count(found | wanted))
    edges = edges_of(np.concatenate([found, wanted]), width).reshape(2, *found.shape)
    points = bit_count(edges)
    f = (points[0] == points[1]).astype(np.float64)
    evaluated = np.flatnonzero(points.all(axis=0))
    if evaluated.size:
        stream, starts = stream_of([cropped(edges[:, place]) for place in evaluated], reach)
        grown = grown_by(stream, reach)
        hits = np.add.reduceat(ones_in(stream & grown[::-1]).sum(axis=2, dtype=np.int64), starts, axis=1)
        f[evaluated] = _f(*hits, *points[:, evaluated])
    return np.stack([j, f])


def _f(hits: Any, recalled: Any, found: Any, wanted: Any) -> Any:
    """F from the matched boundary pixels of prediction and ground truth and from all of them; no set is empty."""
    precision, recall = hits / found, recalled / wanted
    return 2 * precision * recall / np.where(hits + recalled, precision + recall, 1)

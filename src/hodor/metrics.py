"""J and F, the scores of video object segmentation, from their definitions (Perazzi et al., CVPR 2016; DAVIS 2017).

    J = |P & G| / |P | G|         region similarity, the Jaccard index
    F = 2 p r / (p + r)           boundary accuracy; precision p and recall r with a tolerance of a few pixels

Both are equal, bit for bit, to the numbers of the DAVIS 2017 evaluation code (tests/golden). A frame is scored by
`frame_scores`; the scores of one object over its frames are summed up by `statistics`; the objects of a sequence or of
a whole dataset by `average`. How the tolerance is matched quickly is told at `_matched`.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

BOUND = 0.008
"""The boundary tolerance of DAVIS, as a share of the image's diagonal: 8 pixels at 480x854."""

Bools = NDArray[np.bool_]
Labels = NDArray[Any]
Words = NDArray[np.uint64]
Points = tuple[NDArray[np.intp], NDArray[np.intp]]


class Statistics(NamedTuple):
    """A row of per-frame scores in three numbers: mean and recall in [0, 1], decay in [-1, 1] (< 0: it improved)."""

    mean: float
    recall: float
    decay: float


class FrameScores(NamedTuple):
    """J and F of one frame, each float64 [N] in [0, 1], one number per object in the order of the ids asked for."""

    j: NDArray[np.float64]
    f: NDArray[np.float64]


def jaccard(prediction: ArrayLike, truth: ArrayLike, void: ArrayLike | None = None) -> float:
    """J of two masks: the pixels in both over the pixels in either, in [0, 1].

    Masks are bool [H, W]; other types count as "not zero". Pixels of `void` belong to neither. Two empty masks agree
    (1); one empty mask does not (0). Raises ValueError on sizes:
    "prediction is 4x5, truth is 4x6: masks must have the same size".
    """
    mask, wanted = _pair(prediction, truth, void)
    return float(_ratio(np.count_nonzero(mask & wanted), np.count_nonzero(mask | wanted)))


def boundary_f(prediction: ArrayLike, truth: ArrayLike, void: ArrayLike | None = None, bound: float = BOUND) -> float:
    """F of two masks: how well their boundaries agree, in [0, 1].

    A boundary pixel is matched if a boundary pixel of the other mask lies within r pixels (Euclidean). Precision is the
    matched share of the prediction's boundary, recall that of the truth's, F their harmonic mean. r is `bound` times
    the diagonal, rounded up; a `bound` of 1 or more is r itself, in pixels.

    Masks are bool [H, W]; other types count as "not zero". `void` is cut out of both masks before the boundary is
    taken, so its outline can be a boundary, as in the DAVIS code. Two masks without a boundary agree (1), even if one
    is empty and the other fills the frame: the frame's border is no boundary. If only one has a boundary: 0.

    Raises ValueError on sizes, as `jaccard`, and "bound is -1: it must be 0 or more".
    """
    mask, wanted = _pair(prediction, truth, void)
    return _f_of_points(_points(boundary(mask)), _points(boundary(wanted)), _radius(mask.shape, bound))


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
    prediction: Labels, truth: Labels, ids: Sequence[int], void: ArrayLike | None = None, bound: float = BOUND
) -> FrameScores:
    """J and F of every object of a frame at once, from two label maps; equal to one call per object, and faster.

    `prediction` and `truth` are integer [H, W]. `ids` are the objects to score; every other label, 255 too, is
    background. `void` and `bound` as in `boundary_f`. It keeps (1+N)^2 counts, N objects.

    Raises ValueError on sizes, as `jaccard`; "ids are [1, 1]: they must be different and above 0"; "labels are float32,
    from 0.0: they must be integers, 0 or more".
    """
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    _same_size(prediction, truth)
    for labels in (prediction, truth):
        if labels.dtype.kind not in "biu" or labels.min() < 0:
            raise ValueError(f"labels are {labels.dtype}, from {labels.min()}: they must be integers, 0 or more")
    if len(set(ids)) < len(ids) or any(i <= 0 for i in ids):
        raise ValueError(f"ids are {list(ids)}: they must be different and above 0")
    radius = _radius(prediction.shape, bound)
    if void is not None:
        keep = ~_mask(void, "void")
        _same_size(keep, truth, "void")
        prediction, truth = prediction * keep, truth * keep
    # Outside the box of all labels, one pixel of background added, nothing is counted and nothing has a boundary.
    box = _box((prediction != 0) | (truth != 0))
    found, wanted = _places(prediction[box], ids), _places(truth[box], ids)
    size = len(ids) + 1
    kind = np.min_scalar_type(size * size)  # narrow keys: less memory to walk through
    keys = found.astype(kind) * kind.type(size) + wanted
    confusion = np.bincount(keys.ravel(), minlength=size * size).reshape(size, size)
    inside = confusion.diagonal()
    either = confusion.sum(axis=0) + confusion.sum(axis=1) - inside
    edges = zip(_boundaries(found, len(ids)), _boundaries(wanted, len(ids)), strict=True)
    return FrameScores(_ratio(inside[1:], either[1:]), np.array([_f_of_points(*pair, radius) for pair in edges]))


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


def _same_size(prediction: Labels, truth: Labels, name: str = "prediction") -> None:
    if prediction.ndim != 2 or prediction.shape != truth.shape:
        sizes = ["x".join(map(str, array.shape)) for array in (prediction, truth)]
        raise ValueError(f"{name} is {sizes[0]}, truth is {sizes[1]}: masks must have the same size")


def _pair(prediction: ArrayLike, truth: ArrayLike, void: ArrayLike | None) -> tuple[Bools, Bools]:
    """The two masks without the void pixels, their sizes checked."""
    mask, wanted = _mask(prediction, "prediction"), _mask(truth, "truth")
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


def _box(mask: Bools) -> tuple[slice, slice]:
    """The bounding box of the true pixels and, where the frame has them, one pixel more; one pixel if none is true."""
    spans = []
    for axis, size in ((1, mask.shape[0]), (0, mask.shape[1])):
        hits = np.flatnonzero(mask.any(axis=axis))
        spans.append(slice(max(hits[0] - 1, 0), min(hits[-1] + 2, size)) if hits.size else slice(0, 1))
    return spans[0], spans[1]


def _places(labels: Labels, ids: Sequence[int]) -> Labels:
    """For each pixel the place of its label in `ids`, counted from 1; 0 for every other label."""
    order = np.argsort(np.asarray(ids, dtype=np.intp))
    known = np.asarray(ids, dtype=np.intp)[order]
    kind = np.min_scalar_type(len(ids))
    if (top := int(labels.max())) < 1 << 16:
        table = np.zeros(top + 1, dtype=kind)
        seen = known <= top
        table[known[seen]] = order[seen] + 1
        return table.take(labels)
    place = np.searchsorted(known, labels)  # a table of that length would be a waste
    exact = np.append(known, -1)[place] == labels
    return np.where(exact, np.append(order, -1)[place] + 1, 0).astype(kind)


def _points(edge: Bools) -> Points:
    """The rows and columns of the true pixels; many times quicker on sparse masks than np.nonzero."""
    rows, columns = np.divmod(np.flatnonzero(edge), edge.shape[1])
    return rows, columns


def _boundaries(places: Labels, count: int) -> list[Points]:
    """The boundary pixels of the objects 1 ... count, from one look at the map.

    A pixel is on an object's boundary if the 2x2 block it heads is not uniform and has the object in it.
    """
    grown = np.pad(places, ((0, 1), (0, 1)), mode="edge")
    block = grown[:-1, :-1], grown[:-1, 1:], grown[1:, :-1], grown[1:, 1:]
    rows, columns = _points((block[0] != block[1]) | (block[0] != block[2]) | (block[0] != block[3]))
    labels = np.stack([corner[rows, columns] for corner in block])
    chosen = [(labels == place).any(axis=0) for place in range(1, count + 1)]
    return [(rows[here], columns[here]) for here in chosen]


def _f_of_points(found: Points, wanted: Points, radius: float) -> float:
    """F from the boundary pixels of the prediction and the truth."""
    if not found[0].size or not wanted[0].size:
        return float(found[0].size == wanted[0].size)
    hits, recalled = _matched(found, wanted, radius)
    precision, recall = hits / found[0].size, recalled / wanted[0].size
    return 2 * precision * recall / (precision + recall) if hits else 0.0


def _matched(a: Points, b: Points, radius: float) -> tuple[int, int]:
    """How many pixels of each set have a pixel of the other within `radius`.

    Each set is grown by the disk {dy^2 + dx^2 <= r^2} and laid over the other. The growing is done on 64 pixels at
    once: the sets become bits, row after row in one stream of words, only within the bounding box of both (all matches
    lie in it). Rows are set apart by at least r zero bits, so that shifting the whole stream sideways never moves a
    pixel into another row. The disk is a stack of horizontal runs: row dy has the half-width isqrt(r^2 - dy^2).
    """
    top, left = (min(int(a[axis].min()), int(b[axis].min())) for axis in (0, 1))
    height, width = (max(int(a[axis].max()), int(b[axis].max())) + 1 - low for axis, low in ((0, top), (1, left)))
    radius = min(radius, height + width)  # already reaches from corner to corner
    stride = -(-(width + int(radius)) // 64)
    pixels = np.zeros((2, height, stride * 64), dtype=bool)
    for layer, (rows, columns) in enumerate((a, b)):
        pixels[layer, rows - top, columns - left] = True
    bits: Words = np.packbits(pixels.reshape(2, -1), axis=1, bitorder="little").view("<u8")
    grown, run, half = np.zeros_like(bits), bits, 0
    for dy in range(min(int(radius), height - 1), -1, -1):
        wanted = math.isqrt(math.floor(radius * radius - dy * dy))
        while half < wanted:
            step = min(2 * half + 1, wanted - half)  # the widest that leaves no gap
            run = run | _shifted(run, step)
            half += step
        if dy:
            grown[:, dy * stride :] |= run[:, : -dy * stride]
            grown[:, : -dy * stride] |= run[:, dy * stride :]
        else:
            grown |= run
    hits = _bit_count(bits & grown[::-1])
    return int(hits[0]), int(hits[1])


def _shifted(words: Words, step: int) -> Words:
    """The streams moved by `step` pixels to the right, and to the left, in one; what leaves the ends is lost."""
    whole, part = divmod(step, 64)
    count = words.shape[1]
    moved = np.zeros_like(words)
    moved[:, whole:] |= words[:, : count - whole] << np.uint64(part)
    moved[:, : count - whole] |= words[:, whole:] >> np.uint64(part)
    if part:
        moved[:, whole + 1 :] |= words[:, : count - whole - 1] >> np.uint64(64 - part)
        moved[:, : count - whole - 1] |= words[:, whole + 1 :] << np.uint64(64 - part)
    return moved


def _bit_count(words: Words) -> NDArray[np.int64]:
    """The set bits of each row."""
    if hasattr(np, "bitwise_count"):  # numpy 2
        counts: NDArray[np.uint8] = np.bitwise_count(words)
    else:
        counts = np.array([byte.bit_count() for byte in range(256)], dtype=np.uint8)[words.view(np.uint8)]
    sums: NDArray[np.int64] = counts.sum(axis=1, dtype=np.int64)
    return sums

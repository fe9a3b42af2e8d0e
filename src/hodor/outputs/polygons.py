"""Outlines of masks as polygons, with holes and several parts."""

import numpy as np
import numpy.typing as npt

from hodor.outputs.parts import components

Mask = npt.NDArray[np.bool_]
Ring = list[tuple[int, int]]


def polygons(mask: Mask, tolerance: float = 0.0) -> list[Ring]:
    """Convert a mask to one polygon for each of its parts; parts that touch at a corner are two.

    The corners of a polygon are corners of pixels: pixel (0, 0) covers 0 to 1. A hole is joined to the outline by a cut of
    width zero, which is passed twice. With `tolerance` 0, the pixels whose centres are inside a polygon by the even-odd rule
    are exactly those of the part.

    Args:
        mask: bool [H, W].
        tolerance: omit corners that are at most this far from the line between their neighbours, in pixels. Default: only
            corners on that line. A ring keeps at least four corners.

    Returns:
        Corners (x, y) of each polygon, in reading order of the parts; the first corner is not repeated.
    """
    parts = components(mask, diagonal=False)
    found = []
    for number in range(1, int(parts.max(initial=0)) + 1):
        rows, columns = (np.flatnonzero((parts == number).any(axis=axis)) for axis in (1, 0))
        top, left = int(rows[0]), int(columns[0])
        part = parts[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1] == number
        rings = [_simplified(ring, tolerance) for ring in _rings(part)]
        found.append([(x + left, y + top) for x, y in _joined(rings)])
    return found


def _rings(mask: Mask) -> list[Ring]:
    """Return the closed outlines of one part, the outer one first. The mask lies to the right of every edge."""
    padded = np.pad(mask, 1).astype(np.int8)
    down, right = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for (y, x), step in zip(np.argwhere(down).tolist(), down[down != 0].tolist(), strict=True):
        begin, end = ((x, y), (x + 1, y)) if step > 0 else ((x + 1, y), (x, y))
        following.setdefault(begin, []).append(end)
    for (y, x), step in zip(np.argwhere(right).tolist(), right[right != 0].tolist(), strict=True):
        begin, end = ((x, y + 1), (x, y)) if step > 0 else ((x, y), (x, y + 1))
        following.setdefault(begin, []).append(end)
    rings: list[Ring] = []
    while following:
        start = min(following, key=lambda point: (point[1], point[0])) if not rings else next(iter(following))
        ring, here, before = [], start, (0, 0)
        while True:
            ends = following[here]
            # where two pixels touch at a corner, turn right, around the pixel of this ring
            after = max(ends, key=lambda end: before[0] * (end[1] - here[1]) - before[1] * (end[0] - here[0]))
            ends.remove(after)
            if not ends:
                del following[here]
            step = after[0] - here[0], after[1] - here[1]
            if step != before:
                ring.append(here)
            here, before = after, step
            if here == start:
                break
        if len(ring) > 1 and _on_line(ring[-1], ring[0], ring[1]):
            ring = ring[1:]
        rings.append(ring)
    return rings


def _on_line(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    return (b[0] - a[0]) * (c[1] - a[1]) == (b[1] - a[1]) * (c[0] - a[0])


def _simplified(ring: Ring, tolerance: float) -> Ring:
    """Omit corners by the method of Douglas and Peucker, from the two corners that are farthest apart."""
    if tolerance <= 0 or len(ring) <= 4:
        return ring
    points = np.asarray(ring, np.float64)
    far = int(((points - points[0]) ** 2).sum(axis=1).argmax())
    keep = np.zeros(len(ring) + 1, bool)
    closed = np.vstack([points, points[:1]])
    keep[[0, far, len(ring)]] = True
    spans = [(0, far), (far, len(ring))]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        along = closed[last] - closed[first]
        away = closed[first + 1 : last] - closed[first]
        distance = np.abs(along[0] * away[:, 1] - along[1] * away[:, 0]) / max(float(np.hypot(*along)), 1e-9)
        place = int(distance.argmax())
        if distance[place] > tolerance:
            keep[first + 1 + place] = True
            spans += [(first, first + 1 + place), (first + 1 + place, last)]
    kept = [point for point, use in zip(ring, keep[:-1], strict=True) if use]
    return kept if len(kept) >= 4 else ring


def _joined(rings: list[Ring]) -> Ring:
    """Join holes to the outline, each by the shortest cut between two corners."""
    outline = rings[0]
    for hole in rings[1:]:
        a, b = np.asarray(outline), np.asarray(hole)
        distance = ((a[:, None] - b[None]) ** 2).sum(axis=2)
        at, begin = divmod(int(distance.argmin()), len(hole))
        outline = [*outline[: at + 1], *hole[begin:], *hole[: begin + 1], *outline[at:]]
    return outline

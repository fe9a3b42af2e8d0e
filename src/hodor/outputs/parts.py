"""The connected parts of masks, their holes, and their growth by discs, in exact arithmetic and without more than numpy."""

import numpy as np
import numpy.typing as npt

from hodor.masks import Labels, objects_in

Mask = npt.NDArray[np.bool_]
Plane = npt.NDArray[np.uint8]


def components(mask: Mask, diagonal: bool = True) -> npt.NDArray[np.int64]:
    """Number the connected parts of a mask.

    The runs of each row are joined with those of the row above that they touch.

    Args:
        mask: bool [H, W].
        diagonal: whether pixels that touch at a corner are connected.

    Returns:
        int64 [H, W]: 0 outside the mask, 1, 2, ... in its parts, in reading order of their first pixels.
    """
    height, width = mask.shape
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, start = np.nonzero(edges == 1)
    stop = np.nonzero(edges == -1)[1]
    wide = width + 2  # rows one after another, with a free pixel at both ends
    first, last = row * wide + start, row * wide + stop - 1 + diagonal
    begin = np.searchsorted(last, first - wide)  # runs of the row above that reach the run's first pixel, or end later
    end = np.searchsorted(row * wide + start, last - wide, side="right")
    count = np.maximum(end - begin, 0)
    lower = np.repeat(np.arange(len(row)), count)
    upper = np.arange(len(lower)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(begin, count)
    root = np.arange(len(row))
    while True:  # every run takes the smallest number that it touches, and then the number of that run
        smallest = root.copy()
        np.minimum.at(smallest, lower, root[upper])
        np.minimum.at(smallest, upper, root[lower])
        np.minimum.at(smallest, root, smallest.copy())
        smallest = smallest[smallest]
        if np.array_equal(smallest, root):
            break
        root = smallest
    number = np.unique(root, return_inverse=True)[1] + 1
    marks = np.zeros(height * width + 1, np.int64)
    marks[row * width + start] += number
    np.subtract.at(marks, row * width + stop, number)
    found: npt.NDArray[np.int64] = np.cumsum(marks[:-1]).reshape(height, width)
    return found


def fill_holes(labels: Labels, area: int) -> Labels:
    """Fill holes: parts of the background that do not touch the border of the frame and have one object around them.

    Args:
        labels: ids per pixel [H, W].
        area: a hole has at most so many pixels.

    Returns:
        The new labels. A part of the background between two objects is kept.
    """
    empty = components(labels == 0, diagonal=False)
    sizes = np.bincount(empty.ravel())
    border = np.unique(np.concatenate([empty[0], empty[-1], empty[:, 0], empty[:, -1]]))
    holes = np.setdiff1d(np.flatnonzero(sizes <= area), [0, *border])
    return _surrounded(labels, empty, holes)


def remove_specks(labels: Labels, area: int) -> Labels:
    """Remove specks: small parts of an object that are not its largest part.

    Args:
        labels: ids per pixel [H, W].
        area: a speck has at most so many pixels.

    Returns:
        The new labels. A speck takes the label around it; where several are around it, it becomes background.
    """
    out = labels
    for number in objects_in(labels):
        parts = components(labels == number)
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        specks = np.setdiff1d(np.flatnonzero((sizes <= area) & (sizes > 0)), [sizes.argmax()])
        out = _surrounded(out, parts, specks, otherwise=0)
    return out


def _surrounded(
    labels: Labels, parts: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64], otherwise: int | None = None
) -> Labels:
    """Give each chosen part the label around it; where there are several, `otherwise`, or leave the part (None)."""
    if not chosen.size:
        return labels
    out = labels.copy()
    ids, part = np.pad(labels, 1, mode="edge"), np.pad(parts, 1)
    centre = (slice(1, -1), slice(1, -1))
    around: dict[int, set[int]] = {int(k): set() for k in chosen}
    wanted = np.isin(parts, chosen)
    for rows, columns in ((slice(0, -2), slice(1, -1)), (slice(2, None), slice(1, -1)), (slice(1, -1), slice(0, -2)),
                          (slice(1, -1), slice(2, None))):  # fmt: skip
        differs = wanted & (part[rows, columns] != part[centre])
        differs &= ids[rows, columns] != ids[centre]  # the padding repeats the label
        pairs = np.stack([parts[differs], ids[rows, columns][differs].astype(np.int64)])
        for k, neighbour in np.unique(pairs, axis=1).T:
            around[int(k)].add(int(neighbour))
    table = np.full(int(parts.max()) + 1, -1, np.int64)
    for k, neighbours in around.items():
        if len(neighbours) == 1:
            table[k] = neighbours.pop()
        elif otherwise is not None:
            table[k] = otherwise
    new = table[parts]
    out[new >= 0] = new[new >= 0].astype(labels.dtype)
    return out


def dilate(plane: Plane, radius: int) -> Plane:
    """Replace each value by the highest one in a disc around it.

    Args:
        plane: uint8 [H, W].
        radius: radius of the disc in pixels, at least 0; pixels whose centres are within it count.

    Returns:
        uint8 [H, W].
    """
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    if radius < 1 or not rows.size:
        return plane
    box = tuple(slice(max(0, int(side[0]) - radius), int(side[-1]) + radius + 1) for side in (rows, columns))
    part = plane[box]
    best = np.zeros_like(part)
    height = part.shape[0]
    for dy in range(min(radius + 1, height)):
        wide = _row_maximum(part, int((radius * radius - dy * dy) ** 0.5))
        np.maximum(best[: height - dy or None], wide[dy:], out=best[: height - dy or None])
        np.maximum(best[dy:], wide[: height - dy], out=best[dy:])
    out = plane.copy()
    out[box] = best
    return out


def _row_maximum(plane: Plane, reach: int) -> Plane:
    """Replace each value by the highest one at most `reach` columns away."""
    width = plane.shape[1]
    best, done = np.pad(plane, ((0, 0), (reach, reach))), 1
    while done < 2 * reach + 1:  # best[x] is the maximum of `done` values from x on
        step = min(done, 2 * reach + 1 - done)
        best = np.maximum(best[:, :-step], best[:, step:])
        done += step
    return best[:, :width]


def erode(plane: Plane, radius: int) -> Plane:
    """Replace each value by the lowest one in a disc around it; beyond the border of the frame the values continue.

    Args:
        plane: uint8 [H, W].
        radius: radius of the disc in pixels, at least 0.

    Returns:
        uint8 [H, W].
    """
    if radius < 1:
        return plane
    lowest = 255 - dilate(255 - np.pad(plane, radius, mode="edge"), radius)
    return lowest[radius:-radius, radius:-radius]

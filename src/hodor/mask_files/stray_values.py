"""Find stray values: shades that smoothing leaves along the edges of a mask, and that are no objects.

A mask that was drawn with anti-aliasing, or resized with interpolation, has shades between its original values: between
0 and 255 every grey, between ids 0 and 5 the ids 1 to 4. Read literally, each would be an object. Stray values have three
properties:

    no interior            no pixel has the same value as all of its 3x3 neighbours
    between two values     within a few pixels there are two original values, one on each side of theirs
    along an edge          together they extend along at least half of the object whose edge they are

A small object alone on the background does not have the second property; one at the edge of a large object does not have
the third.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hodor.masks import VOID, palette

Ints = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]

REACH = 4  # px to either side of an edge in which shades are searched: enough for enlargement by about four
OVERSHOOT = 0.12  # share of the step at an edge by which bicubic and Lanczos filters overshoot it
DARK = 32  # greys up to this are nearly black, from 255 minus this nearly white
NOISE = 16  # levels by which a shade can differ from the original value around which it rings
MAX_FAILING = 0.5  # pixels that fail the tests, per pixel that passes, that are still stray: thin parts, ringing
BLOCK = 1 << 22  # pixels that are converted at once
MAX_VALUES = 30  # more colours or greys than this are no list of objects


class Classes(NamedTuple):
    """A picture as its distinct values.

    Attributes:
        at: index of the value of each pixel [H, W].
        values: the distinct values in ascending order [K, C], C channels.
    """

    at: Ints
    values: Ints

    def counts(self) -> Ints:
        """Return the number of pixels of each value [K]."""
        flat = self.at.ravel()
        counts = np.zeros(len(self.values), np.int64)
        for start in range(0, flat.size, BLOCK):  # bincount copies to 8 bytes a pixel
            counts += np.bincount(flat[start : start + BLOCK], minlength=len(counts))
        return counts

    def only(self, keep: Bools) -> "Classes":
        """Return the classes without those that no pixel has; `keep` [K]."""
        return Classes((np.cumsum(keep) - 1)[self.at], self.values[keep])


def classify(pixels: Ints) -> Classes:
    """Find the distinct values of a picture.

    Args:
        pixels: integers [H, W], or bytes [H, W, 3].

    Returns:
        The values, and which of them each pixel has.
    """
    height, width = pixels.shape[:2]
    rows = max(1, BLOCK // max(width, 1))
    parts = [slice(top, top + rows) for top in range(0, height, rows)]  # large pictures in parts, to save memory
    colours = pixels.ndim == 3
    low, high = (0, (1 << 24) - 1) if colours else (int(pixels.min(initial=0)), int(pixels.max(initial=0)))
    if low >= 0 and high < (1 << 16 if height * width <= BLOCK else 1 << 24):  # a table is much faster than sorting
        seen = np.zeros(high + 1, bool)
        for part in parts:
            seen[_numbers(pixels[part])] = True
        present = np.flatnonzero(seen)
        table = np.zeros(high + 1, np.int32)
        table[present] = np.arange(len(present))
        index = np.empty((height, width), np.int32)
        for part in parts:
            index[part] = table[_numbers(pixels[part])]
    else:
        present, inverse = np.unique(_numbers(pixels), return_inverse=True)
        index = inverse.astype(np.int32).reshape(height, width)
    values = np.stack([present >> 16, present >> 8 & 255, present & 255], 1) if colours else present[:, None]
    return Classes(index, values)


def repair_edges(classes: Classes, trusted: bool) -> tuple[Classes, int]:
    """Replace stray values by the most similar of the original values next to them.

    A soft black and white mask is thresholded at 128.

    Args:
        classes: the values of a picture.
        trusted: the values are ids by their form (a palette, small integers). Then only values that are proven stray are
            removed, that is, at least two values of which each alone is between others and follows an edge. Otherwise one
            such value is enough, and values that fail the tests next to them are removed too (thin parts of a mask have
            no original value near them).

    Returns:
        The values without stray ones, and the number of changed pixels, 0 if nothing was found.
    """
    at, values = classes
    soft = not trusted and len(values) > MAX_VALUES
    is_original = _original_values(classes, soft)
    if soft and values.shape[1] == 1 and _is_dark_or_light(values[is_original, 0]).all():
        return _threshold(classes)
    anchors = np.flatnonzero(is_original & (values[:, 0] != VOID) if trusted else is_original)
    ys, xs = np.nonzero(~is_original[at])
    # more shades than original values, or a very large number of both: this is no mask
    if not len(ys) or len(anchors) < 2 or 2 * len(ys) > at.size or len(ys) * len(anchors) > 3e7:
        return classes, 0
    of_class, shades = at[ys, xs], values[at[ys, xs]].astype(np.float64)
    near = np.stack([_grow(at == a, REACH)[ys, xs] for a in anchors], 1)
    counts = classes.counts()

    def suspects(overshoot: float) -> Bools:
        """Return the classes that are between others in at least nine of ten pixels."""
        between = _lies_between(shades, values[anchors], near, overshoot)
        if soft:  # ringing and compression: nearly the shade of an original value close by
            between |= _is_noise(shades, values[anchors], near)
        return ~is_original & (np.bincount(of_class[between], minlength=len(values)) >= 0.9 * counts)

    suspect = suspects(0 if trusted else OVERSHOOT)
    follows = _follows_edges(classes, anchors, near, ys, xs, suspect, together=not trusted)
    if trusted and follows.sum() < 2:
        return classes, 0
    if trusted:  # it was smoothed: shades of few pixels and of ringing are stray too, without a 2x2 block
        stray = follows | (suspects(OVERSHOOT) & (_per_class(classes, _blocks(at)) == 0))
    else:
        others = ~is_original & ~follows
        stray = ~is_original if counts[others].sum() <= MAX_FAILING * counts[follows].sum() else follows
    moved = stray[of_class]
    if not moved.any():
        return classes, 0
    # the most similar of the values nearby; of all values where fewer than two are nearby, as in thin parts
    allowed = (near | (near.sum(1, keepdims=True) < 2))[moved]
    distance = ((shades[moved][:, None] - values[anchors][None]) ** 2).sum(2)
    repaired = at.copy()
    repaired[ys[moved], xs[moved]] = anchors[np.where(allowed, distance, np.inf).argmin(1)]
    return Classes(repaired, values).only(~stray), int(moved.sum())


def _original_values(classes: Classes, soft: bool) -> Bools:
    """Return which values [K] are original: those with an interior.

    Among more than 30 values (soft), a gradient has an interior in some places. Then an original value needs half a
    percent of all interior pixels without those of the largest value; a colour of the DAVIS palette, which is an id by
    itself, needs one pixel.
    """
    interior = _per_class(classes, _interior(classes.at))
    if not soft:
        return interior > 0
    enough: Bools = interior >= max(1.0, 0.005 * (interior.sum() - interior.max(initial=0)))
    if classes.values.shape[1] == 3:
        enough |= (interior > 0) & np.isin(_packed(classes.values), _packed(palette()))
    return enough


def _is_noise(shades: npt.NDArray[np.float64], anchors: Ints, near: Bools) -> Bools:
    """Return whether each shade [P, C] is within a few levels of one of the anchors [A, C] near it [P, A]."""
    off = np.abs(shades[:, None] - anchors[None]).max(2)
    return np.asarray(((off <= NOISE) & near).any(1))


def _is_dark_or_light(greys: Ints) -> Bools:
    return np.asarray((greys <= DARK) | (greys >= 255 - DARK))


def _threshold(classes: Classes) -> tuple[Classes, int]:
    """Threshold a soft black and white mask at 128.

    It is not changed if more than a third of it is grey, or less than a twentieth of what is not black is white.
    """
    shades, counts = classes.values[:, 0], classes.counts()
    light = counts[shades >= 255 - DARK].sum()
    grey = counts[~_is_dark_or_light(shades)].sum()
    if 3 * grey > classes.at.size or 20 * light < light + grey or shades[-1] > 255:
        return classes, 0
    moved = counts[(shades > 0) & (shades < 255)].sum()
    return classify(np.where(shades > 127, 255, 0)[classes.at]), int(moved)


def clutter(classes: Classes) -> float:
    """Return the share of horizontal neighbours that differ, of those in which both are not the commonest value.

    It is at most 0.06 in the masks of DAVIS and COCO, 0.3 for cells of 3x3, above 0.4 for dithered colours, and 0.1 to
    0.8 in photographs of 256 shades.

    Args:
        classes: the values of a picture.

    Returns:
        The share, in [0, 1]; 0 if there are fewer than 500 such neighbours.
    """
    index = classes.at
    ground = classes.counts().argmax()
    left, right = index[:, :-1], index[:, 1:]
    both = (left != ground) & (right != ground)
    return float(np.mean((left != right)[both])) if np.count_nonzero(both) >= 500 else 0.0


def is_dust(classes: Classes) -> bool:
    """Return whether more than a third of the values have no interior."""
    return bool(np.mean(_per_class(classes, _interior(classes.at)) == 0) > 1 / 3)


def is_gradient(classes: Classes) -> bool:
    """Return whether most steps between greys are 1 or 2 in both directions, as in a soft matte or a heat map."""
    if classes.values.shape[1] > 1:
        return False
    steps = []
    shades = classes.values[classes.at, 0]
    for axis in (0, 1):
        change = np.abs(np.diff(shades, axis=axis))
        steps.append(np.mean(change[change > 0] <= 2) if change.any() else 0.0)
    return bool(min(steps) > 0.8)


def _numbers(pixels: Ints) -> Ints:
    """Return one number for each pixel of [H, W] or [H, W, 3]."""
    return _packed(pixels) if pixels.ndim == 3 else pixels.astype(np.int32)


def _packed(colours: Ints) -> Ints:
    """Pack colours [..., 3] of bytes into single numbers, red first."""
    red, green, blue = (colours[..., c].astype(np.int32) for c in range(3))
    return (red << 16) + (green << 8) + blue


def _per_class(classes: Classes, where: Bools) -> Ints:
    """Count the marked pixels of each class."""
    height, width = where.shape
    return np.bincount(classes.at[:height, :width][where], minlength=len(classes.values))


def _interior(index: Ints) -> Bools:
    """Return the pixels whose 3x3 neighbourhood has one value; the border of the picture has none."""
    found = np.zeros(index.shape, bool)
    if min(index.shape) >= 3:
        across = index[:, 1:] == index[:, :-1]
        across = across[:, 1:] & across[:, :-1]
        down = index[1:, 1:-1] == index[:-1, 1:-1]
        found[1:-1, 1:-1] = across[:-2] & across[1:-1] & across[2:] & down[1:] & down[:-1]
    return found


def _blocks(index: Ints) -> Bools:
    """Return the upper left pixels of 2x2 blocks of one value; [H-1, W-1]."""
    across, down = index[:, 1:] == index[:, :-1], index[1:] == index[:-1]
    blocks: Bools = across[1:] & across[:-1] & down[:, 1:] & down[:, :-1]
    return blocks


def _grow(mask: Bools, reach: int) -> Bools:
    """Dilate the mask by `reach` pixels to all sides (a square)."""
    for axis in (0, 1):
        grown = mask.copy()
        for step in range(1, min(reach, mask.shape[axis] - 1) + 1):
            ahead, behind = [slice(None)] * 2, [slice(None)] * 2
            ahead[axis], behind[axis] = slice(step, None), slice(None, -step)
            grown[tuple(ahead)] |= mask[tuple(behind)]
            grown[tuple(behind)] |= mask[tuple(ahead)]
        mask = grown
    return mask


def _lies_between(shades: npt.NDArray[np.float64], anchors: Ints, near: Bools, overshoot: float) -> Bools:
    """Return whether each shade [P, C] is in the box spanned by the anchors [A, C] near it [P, A]; at least two."""
    inside = near.sum(1) >= 2
    for channel in range(shades.shape[1]):
        low = np.where(near, anchors[:, channel], np.inf).min(1, initial=np.inf)
        high = np.where(near, anchors[:, channel], -np.inf).max(1, initial=-np.inf)
        slack = overshoot * np.where(inside, high - low, 0)
        inside &= (shades[:, channel] >= low - slack) & (shades[:, channel] <= high + slack)
    return np.asarray(inside)


def _follows_edges(classes: Classes, anchors: Ints, near: Bools, ys: Ints, xs: Ints, suspect: Bools, together: bool) -> Bools:
    """Return the suspects [K] that extend along half of the smallest anchor near them; jointly if `together`."""
    reach = {int(a): _extent(*np.nonzero(classes.at == a)) for a in anchors}
    by_size = sorted(range(len(anchors)), key=lambda n: reach[int(anchors[n])])
    parent = np.asarray(by_size)[near[:, by_size].argmax(1)]
    of_class = classes.at[ys, xs]
    groups = [np.flatnonzero(suspect)] if together else [np.array([k]) for k in np.flatnonzero(suspect)]
    follows = np.zeros(len(suspect), bool)
    for group in groups:
        members = np.zeros(len(suspect), bool)
        members[group] = True
        chosen = members[of_class] & near.any(1)
        for n in np.unique(parent[chosen]):
            along = chosen & (parent == n)
            if _extent(ys[along], xs[along]) >= 0.5 * reach[int(anchors[n])]:
                follows |= members
    return follows


def _extent(ys: Ints, xs: Ints) -> float:
    """Return the diagonal of the bounding box, in pixels."""
    return float(np.hypot(np.ptp(ys) + 1, np.ptp(xs) + 1)) if len(ys) else 0.0

"""Values that are no objects: the shades that smoothing leaves along the edges of a mask.

A mask that was drawn with anti-aliasing, or resized with interpolation, holds shades between its true values: between
0 and 255 every grey, between ids 0 and 5 the ids 1 to 4. Read literally each would be an object. What gives them away:

    they have no inside        no pixel whose 3x3 neighbours all share its value
    they lie between           within a few pixels there are two true values, one on each side of theirs
    they follow an edge        together they reach along at least half of the thing whose edge they are

A small object alone on the background fails the second, a small one at the edge of a big one fails the third.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hodor.masks import VOID, palette

Ints = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]

REACH = 4  # px to either side of an edge where shades are looked for: enough for enlargement by about four
OVERSHOOT = 0.12  # of the step at the edge: how far bicubic and Lanczos filters ring beyond it
DARK = 32  # greys up to this are near black, from 255 less this near white
NOISE = 16  # levels a shade may be off the true value it rings around
STRAGGLERS = 0.5  # shades that fail the tests above, at most, for each that meets them: thin parts, ringing
MANY = 30  # more values than this in colours or greys are no list of objects


class Classes(NamedTuple):
    """A picture by its distinct values: `values` [K, C] in ascending order, `at` [H, W] says which of them."""

    at: Ints
    values: Ints

    def counts(self) -> Ints:
        return np.bincount(self.at.ravel(), minlength=len(self.values))

    def only(self, keep: Bools) -> "Classes":
        """Without the classes that no pixel has any more; `keep` [K]."""
        return Classes((np.cumsum(keep) - 1)[self.at], self.values[keep])


def classify(pixels: Ints) -> Classes:
    """Pixels [H, W] of integers or [H, W, 3] of bytes -> their distinct values and where they are."""
    flat: Ints = _packed(pixels) if pixels.ndim == 3 else pixels.astype(np.int32)
    if flat.size and flat.min() >= 0 and flat.max() < 1 << 16:  # a table is much faster than sorting
        present = np.flatnonzero(np.bincount(flat.ravel()))
        table = np.zeros(int(present[-1]) + 1, np.int64)
        table[present] = np.arange(len(present))
        index = table[flat]
    else:
        present, index = np.unique(flat, return_inverse=True)
    values = np.stack([present >> 16, present >> 8 & 255, present & 255], 1) if pixels.ndim == 3 else present[:, None]
    return Classes(index.reshape(flat.shape), values)


def mend_edges(classes: Classes, trusted: bool) -> tuple[Classes, int]:
    """Give the pixels of phantom values to the true value next to them that is nearest in shade.

    -> (classes without phantoms, number of pixels moved; 0 where nothing was found). `trusted` says that the values are
    ids by their form (a palette, small whole numbers): then only what is proven goes, that is, at least two values of
    which each alone lies between others and follows an edge. Else one such value is enough, and what fails the tests
    beside them goes too (thin parts of a mask have no true value near). Soft black and white is decided at 128.
    """
    at, values = classes
    soft = not trusted and len(values) > MANY
    is_true = _true_values(classes, soft)
    if soft and values.shape[1] == 1 and _is_dark_or_light(values[is_true, 0]).all():
        return _halve(classes)
    anchors = np.flatnonzero(is_true & (values[:, 0] != VOID) if trusted else is_true)
    ys, xs = np.nonzero(~is_true[at])
    # more shades than true values, or a great many of both: no mask at all
    if not len(ys) or len(anchors) < 2 or 2 * len(ys) > at.size or len(ys) * len(anchors) > 3e7:
        return classes, 0
    of_class, shades = at[ys, xs], values[at[ys, xs]].astype(np.float64)
    near = np.stack([_grow(at == a, REACH)[ys, xs] for a in anchors], 1)
    counts = classes.counts()

    def suspects(overshoot: float) -> Bools:
        """Which classes lie between others, nine pixels of ten."""
        between = _lies_between(shades, values[anchors], near, overshoot)
        if soft:  # ringing and compression: almost the shade of a true value close by
            between |= _is_noise(shades, values[anchors], near)
        return ~is_true & (np.bincount(of_class[between], minlength=len(values)) >= 0.9 * counts)

    suspect = suspects(0 if trusted else OVERSHOOT)
    follows = _follows_edges(classes, anchors, near, ys, xs, suspect, together=not trusted)
    if trusted and follows.sum() < 2:
        return classes, 0
    if trusted:  # it was smoothed: then shades of a few pixels and of ringing are phantoms too, if no blob of 2x2
        phantom = follows | (suspects(OVERSHOOT) & (_per_class(classes, _blocks(at)) == 0))
    else:
        others = ~is_true & ~follows
        phantom = ~is_true if counts[others].sum() <= STRAGGLERS * counts[follows].sum() else follows
    moved = phantom[of_class]
    if not moved.any():
        return classes, 0
    # the nearest in shade among those near; where none or one is near, as in thin parts, among all
    allowed = (near | (near.sum(1, keepdims=True) < 2))[moved]
    distance = ((shades[moved][:, None] - values[anchors][None]) ** 2).sum(2)
    mended = at.copy()
    mended[ys[moved], xs[moved]] = anchors[np.where(allowed, distance, np.inf).argmin(1)]
    return Classes(mended, values).only(~phantom), int(moved.sum())


def _true_values(classes: Classes, soft: bool) -> Bools:
    """Which values [K] are surely no shades: those with an inside.

    Among more than 30 values (soft) a gradient has an inside here and there: there it takes half a percent of all
    insides but the largest; but a colour of the DAVIS palette, being an id by itself, needs one pixel only.
    """
    inside = _per_class(classes, _inside(classes.at))
    if not soft:
        return inside > 0
    enough: Bools = inside >= max(1.0, 0.005 * (inside.sum() - inside.max(initial=0)))
    if classes.values.shape[1] == 3:
        enough |= (inside > 0) & np.isin(_packed(classes.values), _packed(palette()))
    return enough


def _is_noise(shades: npt.NDArray[np.float64], anchors: Ints, near: Bools) -> Bools:
    """Whether each shade [P, C] is within a few levels of one of the anchors [A, C] near it [P, A]."""
    off = np.abs(shades[:, None] - anchors[None]).max(2)
    return np.asarray(((off <= NOISE) & near).any(1))


def _is_dark_or_light(greys: Ints) -> Bools:
    return np.asarray((greys <= DARK) | (greys >= 255 - DARK))


def _halve(classes: Classes) -> tuple[Classes, int]:
    """A soft black and white mask, decided at 128.

    Left as it is where greys are more than a third of it, or white less than a twentieth of what is not black.
    """
    shades, counts = classes.values[:, 0], classes.counts()
    light = counts[shades >= 255 - DARK].sum()
    grey = counts[~_is_dark_or_light(shades)].sum()
    if 3 * grey > classes.at.size or 20 * light < light + grey or shades[-1] > 255:
        return classes, 0
    moved = counts[(shades > 0) & (shades < 255)].sum()
    return classify(np.where(shades > 127, 255, 0)[classes.at]), int(moved)


def clutter(classes: Classes) -> float:
    """How much of a mosaic it is: of all neighbours left and right off the commonest value, the share that differ.

    At most 0.06 in the masks of DAVIS and COCO, 0.3 for cells of 3x3, above 0.4 for dithered colours; in photographs
    of 256 shades 0.1 to 0.8. Fewer than 500 such neighbours are too few to judge: 0.
    """
    index = classes.at
    ground = classes.counts().argmax()
    left, right = index[:, :-1], index[:, 1:]
    both = (left != ground) & (right != ground)
    return float(np.mean((left != right)[both])) if np.count_nonzero(both) >= 500 else 0.0


def is_dust(classes: Classes) -> bool:
    """Whether more than a third of the values have no inside."""
    return bool(np.mean(_per_class(classes, _inside(classes.at)) == 0) > 1 / 3)


def is_gradient(classes: Classes) -> bool:
    """Whether neighbouring greys mostly differ by 1 or 2 both across and down, as in a soft matte or a heat map."""
    if classes.values.shape[1] > 1:
        return False
    steps = []
    shades = classes.values[classes.at, 0]
    for axis in (0, 1):
        change = np.abs(np.diff(shades, axis=axis))
        steps.append(np.mean(change[change > 0] <= 2) if change.any() else 0.0)
    return bool(min(steps) > 0.8)


def _packed(colours: Ints) -> Ints:
    """Colours [..., 3] of bytes as single numbers, red first."""
    red, green, blue = (colours[..., c].astype(np.int32) for c in range(3))
    return (red << 16) + (green << 8) + blue


def _per_class(classes: Classes, where: Bools) -> Ints:
    """How many pixels of each class are marked."""
    height, width = where.shape
    return np.bincount(classes.at[:height, :width][where], minlength=len(classes.values))


def _inside(index: Ints) -> Bools:
    """Pixels whose 3x3 neighbourhood is all of one value; the border of the picture has none."""
    found = np.zeros(index.shape, bool)
    if min(index.shape) >= 3:
        across = index[:, 1:] == index[:, :-1]
        across = across[:, 1:] & across[:, :-1]
        down = index[1:, 1:-1] == index[:-1, 1:-1]
        found[1:-1, 1:-1] = across[:-2] & across[1:-1] & across[2:] & down[1:] & down[:-1]
    return found


def _blocks(index: Ints) -> Bools:
    """Pixels that start a 2x2 block of one value; [H-1, W-1]."""
    across, down = index[:, 1:] == index[:, :-1], index[1:] == index[:-1]
    blocks: Bools = across[1:] & across[:-1] & down[:, 1:] & down[:, :-1]
    return blocks


def _grow(mask: Bools, reach: int) -> Bools:
    """The mask grown by `reach` pixels to all sides (a square)."""
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
    """Whether each shade [P, C] lies in the box spanned by the anchors [A, C] near it [P, A]; two at least."""
    inside = near.sum(1) >= 2
    for channel in range(shades.shape[1]):
        low = np.where(near, anchors[:, channel], np.inf).min(1, initial=np.inf)
        high = np.where(near, anchors[:, channel], -np.inf).max(1, initial=-np.inf)
        slack = overshoot * np.where(inside, high - low, 0)
        inside &= (shades[:, channel] >= low - slack) & (shades[:, channel] <= high + slack)
    return np.asarray(inside)


def _follows_edges(classes: Classes, anchors: Ints, near: Bools, ys: Ints, xs: Ints, suspect: Bools, together: bool) -> Bools:
    """Which suspect classes [K] reach along at least half of the smallest anchor near them; as one if `together`."""
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
            here = chosen & (parent == n)
            if _extent(ys[here], xs[here]) >= 0.5 * reach[int(anchors[n])]:
                follows |= members
    return follows


def _extent(ys: Ints, xs: Ints) -> float:
    """The diagonal of the bounding box, in pixels."""
    return float(np.hypot(np.ptp(ys) + 1, np.ptp(xs) + 1)) if len(ys) else 0.0

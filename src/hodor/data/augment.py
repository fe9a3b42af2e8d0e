"""Stills into clips and plain clips into varied ones: one homography a frame, image, masks and validity together.

Matrices are 3 x 3 and lead from a pixel of the clip to the pixel of the picture that it shows, (x, y, 1) with x to the right
and y down, the first pixel's centre at (0.5, 0.5). Placing, cropping, turning, perspective and mirroring multiply into one, so
a picture is resampled once. The ranges are those of the paper's supplement (section VI) and of its released code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.data.clip import Clip
from hodor.data.sampling import below, chance, uniform, weighted, within

Matrix = npt.NDArray[np.float64]
Points = npt.NDArray[np.float64]
Size = tuple[int, int]

OUTSIDE = (0.485, 0.456, 0.406)
"""The colour of pixels that show no image: the mean of ImageNet, about zero once a network has normalised it."""
TRIES = 3
PLACES = 8
"""Draws of a window, and of a place on the canvas, before the safe one is taken."""
ALIKE = 1.2
"""Shapes that differ by less than this factor are alike: the image always fills the canvas."""


@dataclass(frozen=True)
class Move:
    """Ranges of a random affine move, each the largest size of a symmetric draw.

    translate: share of the frame's sides. rotate, shear: degrees. scale: smallest and largest zoom; above 1 enlarges.
    """

    translate: float = 0.0
    rotate: float = 0.0
    shear: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Colour:
    """Ranges of a colour draw, one for a whole clip; the defaults are the released code's.

    brightness: added, of the full range. contrast: about mid-grey, share. saturation: share. hue: turns about the grey axis.
    The released code shifts hue and saturation in HSV, by up to 12 of 255; here both are linear in RGB, and grey stays grey.
    """

    brightness: float = 25 / 255
    contrast: float = 0.05
    saturation: float = 12 / 255
    hue: float = 12 / 255


@dataclass(frozen=True)
class Augment:
    """How clips are varied. The defaults are the released code's.

    Warped clips (`Data.motion` "warp", and stills) have each frame moved on its own, from the same image. "Basic" ones leave
    frame 0 as it is, and give every other frame one of: an affine move, a perspective, an inset. In "fancy" ones frame 0 is a
    random window (`windows`) that keeps the objects, the others show windows of one size at random places, half of them swayed.
    Videos have all frames moved alike: a window, or one of a move and a perspective.
    """

    flip: float = 0.5
    """Share of clips that are mirrored, all frames alike."""
    keep: float = 0.5
    """Frame 0 shows at least this share of each object's area, whatever is drawn."""
    basic: float = 0.5
    """Share of warped clips of the basic sort; the others are fancy."""
    kinds: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Basic: how often a frame gets the affine move, the perspective, the inset."""
    affine: Move = field(default_factory=lambda: Move(translate=0.25, rotate=20.0, shear=10.0))
    perspective: tuple[float, float] = (0.10, 0.12)
    """Basic: how far the corners come in, as the deviation of a normal draw, in shares of the sides."""
    inset: tuple[float, float] = (0.10, 0.25)
    """Basic: what is cut from each of the four sides, a share of it."""
    windows: tuple[float, ...] = (0.6, 0.7, 0.8)
    """Fancy: shares of the sides that a window keeps, one of them for the whole clip."""
    sway: Move = field(default_factory=lambda: Move(rotate=10.0, shear=5.0))
    """Fancy: the move that every other frame gets in half of the cases."""
    video_window: float = 0.5
    """Share of video clips that show a window; the others get a move or a perspective."""
    video_windows: tuple[float, float] = (0.6, 0.8)
    """Videos: smallest and largest share of the sides that the window keeps."""
    video_move: Move = field(default_factory=lambda: Move(rotate=20.0, shear=10.0))
    video_perspective: tuple[float, float] = (0.08, 0.10)
    shake: float = 0.0
    """Share of video clips whose every frame is moved on its own as well, by `shake_move`. Not in the released code."""
    shake_move: Move = field(default_factory=lambda: Move(translate=0.04, rotate=4.0, shear=2.0, scale=(0.95, 1.05)))
    colour: Colour = field(default_factory=Colour)


PLAIN = Augment(
    flip=0.0,
    basic=1.0,
    affine=Move(),
    kinds=(1.0, 0.0, 0.0),
    video_window=0.0,
    video_move=Move(),
    video_perspective=(0.0, 0.0),
    colour=Colour(0.0, 0.0, 0.0, 0.0),
)
"""No variation at all (Table 1, rows 1 and 2)."""


def affine(move: Move, size: Size, rng: torch.Generator) -> Matrix:
    """A draw of a move about the middle of a canvas of `size`; angles are true on the pixel grid."""
    height, width = size
    angle, shear = math.radians(within(move.rotate, rng)), math.tan(math.radians(within(move.shear, rng)))
    low, high = move.scale
    zoom = low * (high / low) ** uniform(0, 1, rng)
    x, y = within(move.translate, rng) * width, within(move.translate, rng) * height
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    linear = np.array([[cos, cos * shear - sin], [sin, cos + sin * shear]])
    middle = np.array([width / 2, height / 2])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = middle - linear @ (middle + np.array([x, y]))
    return matrix


def perspective(deviation: tuple[float, float], size: Size, rng: torch.Generator) -> Matrix:
    """The canvas shows a quadrangle: its corners come in by |N(0, s)| of the sides, s drawn from the range, 0.4 at most."""
    height, width = size
    scale = uniform(*deviation, rng)
    inward = (torch.randn(4, 2, generator=rng, dtype=torch.float64).abs() * scale).clamp(max=0.4).numpy() * (width, height)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    return homography(corners, corners + inward * [[1, 1], [-1, 1], [-1, -1], [1, -1]])


def homography(source: Points, target: Points) -> Matrix:
    """The matrix that leads each of four points [4, 2] to its target."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    solved = np.linalg.solve(np.array(rows), np.array(values))
    return np.append(solved, 1.0).reshape(3, 3)


def window(left: float, top: float, share: float, across: float | None = None) -> Matrix:
    """The window at (left, top), `share` of the sides tall (and `across` wide), enlarged to the canvas."""
    return np.array([[share if across is None else across, 0, left], [0, share, top], [0, 0, 1.0]])


def mirror(width: int) -> Matrix:
    return np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]])


def points_of(planes_NHW: Tensor, most: int = 256) -> list[Points]:
    """Centres of at most `most` pixels of each plane, evenly taken: enough to tell what share of it is seen."""
    found = []
    for plane in planes_NHW:
        at = plane.flatten().nonzero()[:, 0].numpy()
        at = at[:: max(1, len(at) // most)]
        found.append(np.stack([at % plane.shape[1] + 0.5, at // plane.shape[1] + 0.5], 1))
    return found


def shown(matrix: Matrix, points: Points, size: Size) -> float:
    """The share of points of the picture that the canvas shows. It counts the picture's pixels, not the canvas's: enlarged,
    a corner of an object can cover more pixels than the whole did."""
    if not len(points):
        return 1.0
    x, y, w = np.linalg.inv(matrix) @ np.concatenate([points, np.ones((len(points), 1))], 1).T
    inside = (w > 0) & (x >= 0) & (x <= w * size[1]) & (y >= 0) & (y <= w * size[0])
    return float(inside.mean())


def keeps(matrix: Matrix, objects: Sequence[Points], size: Size, least: float) -> bool:
    return all(shown(matrix, points, size) >= least for points in objects)


def place(have: Size, want: Size, objects: Sequence[Points], least: float, rng: torch.Generator) -> Matrix:
    """Where a picture of `have` (h, w) lies on a canvas of `want`, its aspect kept.

    Shapes that are nearly alike: it just covers the canvas. Others: a random size between fitting inside, with empty bands,
    and covering. At a random place, such that `least` of each object is seen; failing that, it fits inside, all of it seen.
    """
    ratios = want[0] / have[0], want[1] / have[1]
    inside, cover = min(ratios), max(ratios)
    for _ in range(PLACES):
        share = uniform(0, 1, rng)
        scale = cover if cover / inside < ALIKE else inside * (cover / inside) ** share
        left, top = (uniform(0, 1, rng) * (h - w / scale) for h, w in ((have[1], want[1]), (have[0], want[0])))
        matrix = window(left, top, 1 / scale)
        if keeps(matrix, objects, want, least):
            return matrix
    left, top = ((h - w / inside) / 2 for h, w in ((have[1], want[1]), (have[0], want[0])))
    return window(left, top, 1 / inside)


def warped(
    frames: int, base: Matrix, size: Size, objects: Sequence[Points], ranges: Augment, rng: torch.Generator
) -> list[Matrix]:
    """The frames of a clip made of one image: each moved on its own, basic or fancy. `base` places the image."""
    height, width = size
    matrices = []
    if chance(ranges.basic, rng):
        for t in range(frames):
            kind = weighted(ranges.kinds, rng)
            if kind == 0:
                move = affine(ranges.affine, size, rng)
            elif kind == 1:
                move = perspective(ranges.perspective, size, rng)
            else:
                rim = uniform(*ranges.inset, rng)
                move = window(rim * width, rim * height, 1 - 2 * rim)
            matrices.append(base @ move if t else base)
        return matrices
    share = ranges.windows[below(len(ranges.windows), rng)]
    for t in range(frames):
        cut = window(uniform(0, 1 - share, rng) * width, uniform(0, 1 - share, rng) * height, share)
        sway = affine(ranges.sway, size, rng)
        swayed = chance(0.5, rng)
        if t == 0:
            matrices.append(base @ _kept_window(base, size, objects, ranges.windows, ranges.keep, rng))
        else:
            matrices.append(base @ cut @ sway if swayed else base @ cut)
    return matrices


def together(
    frames: int, base: Matrix, size: Size, objects: Sequence[Points], ranges: Augment, rng: torch.Generator
) -> list[Matrix]:
    """The frames of a video clip: all moved alike, by a window, a move or a perspective that keeps frame 0's objects."""
    if chance(ranges.video_window, rng):
        low, high = ranges.video_windows
        choices = [uniform(low, high, rng) for _ in range(TRIES)]
        matrix = base @ _kept_window(base, size, objects, choices, ranges.keep, rng)
    else:
        matrix = base
        for _ in range(TRIES):
            if chance(0.5, rng):
                move = affine(ranges.video_move, size, rng)
            else:
                move = perspective(ranges.video_perspective, size, rng)
            if keeps(base @ move, objects, size, ranges.keep):
                matrix = base @ move
                break
    if not chance(ranges.shake, rng):
        return [matrix] * frames
    moves = [affine(ranges.shake_move, size, rng) for _ in range(frames)]
    shaken = [matrix @ move for move in moves]
    if not keeps(shaken[0], objects, size, ranges.keep):
        shaken[0] = matrix
    return shaken


def _kept_window(
    base: Matrix, size: Size, objects: Sequence[Points], shares: Sequence[float], least: float, rng: torch.Generator
) -> Matrix:
    """A window that shows `least` of each object: at random, or else around all objects, or else the whole canvas."""
    height, width = size
    for _ in range(TRIES):
        share = shares[below(len(shares), rng)]
        cut = window(uniform(0, 1 - share, rng) * width, uniform(0, 1 - share, rng) * height, share)
        if keeps(base @ cut, objects, size, least):
            return cut
    x, y = uniform(0, 1, rng), uniform(0, 1, rng)
    seen = [p for p in objects if len(p)]
    if seen:
        points = np.concatenate(seen)
        at = (np.linalg.inv(base) @ np.concatenate([points, np.ones((len(points), 1))], 1).T)[:2]
        at = np.clip(at, 0, [[width], [height]])
        (left, top), (right, bottom) = at.min(1), at.max(1)
        share = min(0.9, max([max((right - left) / width, (bottom - top) / height), *shares]))
        spare = window(
            _between(right - share * width, left, x, (1 - share) * width),
            _between(bottom - share * height, top, y, (1 - share) * height),
            share,
        )
        if keeps(base @ spare, objects, size, least):
            return spare
    return np.eye(3)


def _between(low: float, high: float, at: float, limit: float) -> float:
    """`at` (0..1) of the way from low to high, both brought into 0 .. limit."""
    low, high = min(max(low, 0), limit), min(max(high, 0), limit)
    return low + (high - low) * at


class Shown(NamedTuple):
    """A picture as a frame shows it: image float [3, H, W] in [0, 1], planes float [N, H, W] of 0 and 1, where the image is
    (inside [H, W]), and where the loss may look (valid [H, W]: inside, and not void)."""

    image: Tensor
    planes: Tensor
    inside: Tensor
    valid: Tensor


def show(image: Tensor, planes: Tensor | None, void: Tensor | None, matrix: Matrix, size: Size) -> Shown:
    """Resample a picture uint8 [3, h, w] (or float in [0, 1]) with planes [N, h, w] and void [h, w] once, bilinearly.

    A picture that is made much smaller is averaged first. A pixel belongs to an object, or is void, from one half on.
    """
    layers = [image if image.is_floating_point() else image.float().mul_(1 / 255)]
    if planes is not None:
        layers.append(planes.float())
    if void is not None:
        layers.append(void.float()[None])
    stack = torch.cat(layers)[None] if len(layers) > 1 else layers[0][None]
    height, width = stack.shape[-2:]
    grid, inside = _grid(matrix, size, (height, width))
    shrunk = math.sqrt(abs(float(np.linalg.det(matrix[:2, :2]))))
    if shrunk >= 1.5:
        stack = F.interpolate(stack, (max(1, round(height / shrunk)), max(1, round(width / shrunk))), mode="area")
    out = F.grid_sample(stack, grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
    count = 0 if planes is None else len(planes)
    masks = ((out[3 : 3 + count] > 0.5) & inside).float()
    valid = inside & ~(out[-1] > 0.5) if void is not None else inside
    return Shown(out[:3], masks, inside, valid)


def _grid(matrix: Matrix, size: Size, have: Size) -> tuple[Tensor, Tensor]:
    """-> the grid of grid_sample [1, H, W, 2], and which pixels lie on the picture [H, W]."""
    height, width = size
    (a, b, c), (d, e, f), (g, h, i) = (matrix / matrix[2, 2]).tolist()
    x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    u, v = x * a + (y * b + c), x * d + (y * e + f)
    if g or h:
        w = x * g + (y * h + i)
        u, v = u / w, v / w
    inside = (u >= 0) & (u <= have[1]) & (v >= 0) & (v <= have[0])
    if g or h:
        inside &= w > 0
    return torch.stack([u * (2 / have[1]) - 1, v * (2 / have[0]) - 1], -1)[None], inside


def tint(ranges: Colour, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """A colour draw as (matrix [3, 3], offset [3]) on RGB in [0, 1]: hue, then saturation, contrast about 0.5, brightness."""
    bright, contrast = within(ranges.brightness, rng), 1 + within(ranges.contrast, rng)
    saturation, angle = 1 + within(ranges.saturation, rng), 2 * math.pi * within(ranges.hue, rng)
    # Rodrigues' formula about k = (1, 1, 1) / sqrt(3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = math.cos(angle) * torch.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) / 3
    grey = torch.tensor([0.299, 0.587, 0.114]).expand(3, 3)
    matrix = contrast * (saturation * torch.eye(3) + (1 - saturation) * grey) @ turn
    return matrix, torch.full((3,), 0.5 * (1 - contrast) + bright)


def coloured(image_3HW: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    flat = torch.addmm(offset[:, None], matrix, image_3HW.flatten(1))
    return flat.clamp_(0, 1).view(image_3HW.shape)


def vary(clip: Clip, ranges: Augment, generator: torch.Generator, motion: Literal["warp", "video"] = "warp") -> Clip:
    """A clip in hand, varied: geometry and colour of each of its B clips drawn on their own. Nothing is read from files.

    motion "warp": each frame moved on its own, as for copies of one image; "video": all alike.
    """
    count, frames, _, height, width = clip.frames_BTCHW.shape
    images, masks, valid = [], [], []
    for b in range(count):
        objects = points_of(clip.masks_BTNHW[b, 0][clip.objects_BN[b]])
        move = warped if motion == "warp" else together
        matrices = move(frames, np.eye(3), (height, width), objects, ranges, generator)
        if chance(ranges.flip, generator):
            matrices = [matrix @ mirror(width) for matrix in matrices]
        matrix, offset = tint(ranges.colour, generator)
        for t, view in enumerate(matrices):
            seen = show(clip.frames_BTCHW[b, t], clip.masks_BTNHW[b, t], ~clip.valid_BTHW[b, t], view, (height, width))
            images.append(on_ground(coloured(seen.image, matrix, offset), seen.inside))
            masks.append(seen.planes)
            valid.append(seen.valid)
    return replace(
        clip,
        frames_BTCHW=torch.stack(images).unflatten(0, (count, frames)),
        masks_BTNHW=torch.stack(masks).unflatten(0, (count, frames)),
        valid_BTHW=torch.stack(valid).unflatten(0, (count, frames)),
    )


def on_ground(image_3HW: Tensor, inside_HW: Tensor) -> Tensor:
    """The image, and OUTSIDE around it."""
    return torch.where(inside_HW, image_3HW, torch.tensor(OUTSIDE)[:, None, None])

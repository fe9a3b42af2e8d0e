"""Augmentation of training clips: one homography for each frame, applied to the image, the masks and the valid pixels.

Matrices are 3 x 3. They map a pixel (x, y, 1) of the clip to the pixel of the source image that it shows; x points right, y
points down, and the centre of the first pixel is (0.5, 0.5). Placement, cropping, rotation, perspective and mirroring are
multiplied into one matrix, so an image is resampled once. The ranges are those of the HODOR supplement (section VI) and of
its released code.
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
"""Colour of pixels outside the image: the mean of ImageNet, which is about zero after the network's normalisation."""
TRIES = 3
"""Random windows that are tried before a window that keeps the objects is computed."""
PLACES = 8
"""Random placements on the canvas that are tried before the image is fitted inside the canvas."""
SAME_SHAPE = 1.2
"""If the aspect ratios of image and canvas differ by less than this factor, the image always covers the canvas."""


@dataclass(frozen=True)
class Move:
    """Ranges of a random affine transform. Translation, rotation and shear are sampled between minus and plus the value.

    Attributes:
        translate: share of the frame's width and height.
        rotate: degrees.
        shear: degrees.
        scale: smallest and largest zoom; above 1 enlarges.
    """

    translate: float = 0.0
    rotate: float = 0.0
    shear: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Colour:
    """Ranges of the random colour change of a clip; all its frames get the same change. The defaults are the released code's.

    The released code shifts hue and saturation in HSV, by up to 12 of 255. Here both are linear in RGB, and grey stays grey.

    Attributes:
        brightness: value added, as a share of the full range.
        contrast: relative change about mid-grey.
        saturation: relative change.
        hue: rotation about the grey axis, in turns.
    """

    brightness: float = 25 / 255
    contrast: float = 0.05
    saturation: float = 12 / 255
    hue: float = 12 / 255


@dataclass(frozen=True)
class Augment:
    """Ranges of the augmentation. The defaults are the released code's.

    Warped clips (`Data.motion` "warp", and images) show one image in every frame, each frame with its own transform. There are
    two types. "Basic" clips leave frame 0 as it is and give every other frame one of: an affine transform, a perspective, an
    inset. In "fancy" clips frame 0 is a random window (`windows`) that keeps the objects; the other frames show windows of one
    size at random places, half of them with an affine transform (`sway`).

    All frames of a video clip get the same transform: a window, an affine transform or a perspective.
    """

    flip: float = 0.5
    """Share of clips that are mirrored. All frames of a clip are mirrored, or none."""
    keep: float = 0.5
    """Smallest share of each object's area that frame 0 shows."""
    basic: float = 0.5
    """Share of warped clips of the basic type; the others are fancy."""
    kinds: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Basic: relative frequencies of the affine transform, the perspective and the inset."""
    affine: Move = field(default_factory=lambda: Move(translate=0.25, rotate=20.0, shear=10.0))
    """Basic: ranges of the affine transform."""
    perspective: tuple[float, float] = (0.10, 0.12)
    """Basic: smallest and largest standard deviation of the inward shift of the corners, in shares of the sides."""
    inset: tuple[float, float] = (0.10, 0.25)
    """Basic: smallest and largest share that is cut from each of the four sides."""
    windows: tuple[float, ...] = (0.6, 0.7, 0.8)
    """Fancy: shares of the sides that a window keeps. One value is sampled for each clip."""
    sway: Move = field(default_factory=lambda: Move(rotate=10.0, shear=5.0))
    """Fancy: affine transform of half of the frames after frame 0."""
    video_window: float = 0.5
    """Share of video clips that show a window; the others get an affine transform or a perspective."""
    video_windows: tuple[float, float] = (0.6, 0.8)
    """Videos: smallest and largest share of the sides that the window keeps."""
    video_move: Move = field(default_factory=lambda: Move(rotate=20.0, shear=10.0))
    """Videos: ranges of the affine transform."""
    video_perspective: tuple[float, float] = (0.08, 0.10)
    """Videos: smallest and largest standard deviation of the inward shift of the corners, in shares of the sides."""
    shake: float = 0.0
    """Share of video clips in which every frame also gets a transform of its own (`shake_move`). Not in the released code."""
    shake_move: Move = field(default_factory=lambda: Move(translate=0.04, rotate=4.0, shear=2.0, scale=(0.95, 1.05)))
    """Ranges of the transform of each frame of those clips."""
    colour: Colour = field(default_factory=Colour)
    """Ranges of the colour change."""


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
"""No augmentation (HODOR, Table 1, rows 1 and 2)."""


def affine(move: Move, size: Size, rng: torch.Generator) -> Matrix:
    """Sample an affine transform about the centre of a canvas of `size` (h, w). Angles are measured on the pixel grid."""
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
    """Sample a perspective: each corner moves inwards by |N(0, s)| of the sides, at most 0.4; s is sampled from `deviation`."""
    height, width = size
    scale = uniform(*deviation, rng)
    inward = (torch.randn(4, 2, generator=rng, dtype=torch.float64).abs() * scale).clamp(max=0.4).numpy() * (width, height)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    return homography(corners, corners + inward * [[1, 1], [-1, 1], [-1, -1], [1, -1]])


def homography(source: Points, target: Points) -> Matrix:
    """Return the matrix that maps each of four points [4, 2] to its target."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    solved = np.linalg.solve(np.array(rows), np.array(values))
    return np.append(solved, 1.0).reshape(3, 3)


def window(left: float, top: float, share: float, across: float | None = None) -> Matrix:
    """Return the matrix of a window at (left, top), enlarged to the canvas.

    The window's height is `share` of the canvas' height; its width is `across` of the canvas' width (default: `share`).
    """
    return np.array([[share if across is None else across, 0, left], [0, share, top], [0, 0, 1.0]])


def mirror(width: int) -> Matrix:
    """Return the matrix that mirrors a canvas of this width, left to right."""
    return np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]])


def points_of(planes_NHW: Tensor, max_points: int = 256) -> list[Points]:
    """Return the centres of evenly chosen pixels of each plane, about `max_points` of large planes and all of small ones.

    They are enough to estimate which share of an object a frame shows.
    """
    points = []
    for plane in planes_NHW:
        pixels = plane.flatten().nonzero()[:, 0].numpy()
        pixels = pixels[:: max(1, len(pixels) // max_points)]
        points.append(np.stack([pixels % plane.shape[1] + 0.5, pixels // plane.shape[1] + 0.5], 1))
    return points


def shown(matrix: Matrix, points: Points, size: Size) -> float:
    """Return the share of an object's points [M, 2] that lie on the canvas; 1 for no points.

    Pixels of the source image are counted, not of the canvas: an enlarged corner of an object can cover more pixels of the
    canvas than the whole object had.
    """
    if not len(points):
        return 1.0
    x, y, w = np.linalg.inv(matrix) @ np.concatenate([points, np.ones((len(points), 1))], 1).T
    inside = (w > 0) & (x >= 0) & (x <= w * size[1]) & (y >= 0) & (y <= w * size[0])
    return float(inside.mean())


def keeps(matrix: Matrix, objects: Sequence[Points], size: Size, min_share: float) -> bool:
    """Return whether the canvas shows at least `min_share` of every object."""
    return all(shown(matrix, points, size) >= min_share for points in objects)


def place(image_size: Size, canvas: Size, objects: Sequence[Points], min_share: float, rng: torch.Generator) -> Matrix:
    """Sample where an image lies on the canvas; its aspect ratio is kept.

    If the aspect ratios are similar (`SAME_SHAPE`), the image just covers the canvas. Otherwise its size is random, between
    fitting inside the canvas, with empty bands, and covering it. The position is random, such that at least `min_share` of each
    object is shown. If no sample achieves this, the image fits inside the canvas and all of it is shown.

    Args:
        image_size: height and width of the image.
        canvas: height and width of the clip.
        objects: points of each object, from `points_of`.
        min_share: smallest share of each object that is shown, in [0, 1].
        rng: generator of the random numbers.

    Returns:
        Matrix [3, 3] from a pixel of the canvas to a pixel of the image.
    """
    ratios = canvas[0] / image_size[0], canvas[1] / image_size[1]
    inside, cover = min(ratios), max(ratios)
    axes = (image_size[1], canvas[1]), (image_size[0], canvas[0])
    for _ in range(PLACES):
        share = uniform(0, 1, rng)
        scale = cover if cover / inside < SAME_SHAPE else inside * (cover / inside) ** share
        left, top = (uniform(0, 1, rng) * (length - side / scale) for length, side in axes)
        matrix = window(left, top, 1 / scale)
        if keeps(matrix, objects, canvas, min_share):
            return matrix
    left, top = ((length - side / inside) / 2 for length, side in axes)
    return window(left, top, 1 / inside)


def warped(
    frames: int, base: Matrix, size: Size, objects: Sequence[Points], ranges: Augment, rng: torch.Generator
) -> list[Matrix]:
    """Sample the matrices of a clip made of one image, one for each frame; see `Augment`. `base` places the image."""
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
        view = window(uniform(0, 1 - share, rng) * width, uniform(0, 1 - share, rng) * height, share)
        sway = affine(ranges.sway, size, rng)
        swayed = chance(0.5, rng)
        if t == 0:
            matrices.append(base @ _kept_window(base, size, objects, ranges.windows, ranges.keep, rng))
        else:
            matrices.append(base @ view @ sway if swayed else base @ view)
    return matrices


def together(
    frames: int, base: Matrix, size: Size, objects: Sequence[Points], ranges: Augment, rng: torch.Generator
) -> list[Matrix]:
    """Sample the matrices of a video clip, one for each frame. All frames get the same window, affine transform or perspective.

    It keeps the objects of frame 0. With `Augment.shake` every frame also gets a small transform of its own.
    """
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
    base: Matrix, size: Size, objects: Sequence[Points], shares: Sequence[float], min_share: float, rng: torch.Generator
) -> Matrix:
    """Sample a window that shows `min_share` of each object; failing that, a window around all objects, or the whole canvas."""
    height, width = size
    for _ in range(TRIES):
        share = shares[below(len(shares), rng)]
        view = window(uniform(0, 1 - share, rng) * width, uniform(0, 1 - share, rng) * height, share)
        if keeps(base @ view, objects, size, min_share):
            return view
    x, y = uniform(0, 1, rng), uniform(0, 1, rng)
    visible = [p for p in objects if len(p)]
    if visible:
        points = np.concatenate(visible)
        on_canvas = (np.linalg.inv(base) @ np.concatenate([points, np.ones((len(points), 1))], 1).T)[:2]
        on_canvas = np.clip(on_canvas, 0, [[width], [height]])
        (left, top), (right, bottom) = on_canvas.min(1), on_canvas.max(1)
        share = min(0.9, max([max((right - left) / width, (bottom - top) / height), *shares]))
        around = window(
            _between(right - share * width, left, x, (1 - share) * width),
            _between(bottom - share * height, top, y, (1 - share) * height),
            share,
        )
        if keeps(base @ around, objects, size, min_share):
            return around
    return np.eye(3)


def _between(low: float, high: float, fraction: float, limit: float) -> float:
    """Interpolate between low (fraction 0) and high (fraction 1), both clamped to 0 .. limit."""
    low, high = min(max(low, 0), limit), min(max(high, 0), limit)
    return low + (high - low) * fraction


class Shown(NamedTuple):
    """A resampled image and its masks.

    Attributes:
        image: float [3, H, W] in [0, 1].
        planes: masks of 0 and 1, float [N, H, W].
        inside: pixels that show the image, bool [H, W].
        valid: supervised pixels, bool [H, W]: those inside that are not void.
    """

    image: Tensor
    planes: Tensor
    inside: Tensor
    valid: Tensor


def show(image: Tensor, planes: Tensor | None, void: Tensor | None, matrix: Matrix, size: Size) -> Shown:
    """Resample an image and its masks once, bilinearly.

    An image that is reduced by a factor of 1.5 or more is averaged first. A pixel belongs to an object, or is void, if the
    resampled value is above one half.

    Args:
        image: uint8 [3, h, w], or float in [0, 1].
        planes: masks [N, h, w], or None for a frame without labels.
        void: void pixels [h, w], or None if there are none.
        matrix: matrix [3, 3] from a pixel of the result to a pixel of the image.
        size: height and width of the result.

    Returns:
        `Shown`, with tensors of this size.
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


def _grid(matrix: Matrix, size: Size, image_size: Size) -> tuple[Tensor, Tensor]:
    """Return the grid for `grid_sample` [1, H, W, 2] and the pixels that lie on the image, bool [H, W]."""
    height, width = size
    (a, b, c), (d, e, f), (g, h, i) = (matrix / matrix[2, 2]).tolist()
    x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    u, v = x * a + (y * b + c), x * d + (y * e + f)
    if g or h:
        w = x * g + (y * h + i)
        u, v = u / w, v / w
    inside = (u >= 0) & (u <= image_size[1]) & (v >= 0) & (v <= image_size[0])
    if g or h:
        inside &= w > 0
    return torch.stack([u * (2 / image_size[1]) - 1, v * (2 / image_size[0]) - 1], -1)[None], inside


def tint(ranges: Colour, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample a colour change as (matrix [3, 3], offset [3]) on RGB in [0, 1].

    The order is hue, saturation, contrast about 0.5, brightness.
    """
    bright, contrast = within(ranges.brightness, rng), 1 + within(ranges.contrast, rng)
    saturation, angle = 1 + within(ranges.saturation, rng), 2 * math.pi * within(ranges.hue, rng)
    # Rodrigues' formula about k = (1, 1, 1) / sqrt(3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = math.cos(angle) * torch.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) / 3
    grey = torch.tensor([0.299, 0.587, 0.114]).expand(3, 3)
    matrix = contrast * (saturation * torch.eye(3) + (1 - saturation) * grey) @ turn
    return matrix, torch.full((3,), 0.5 * (1 - contrast) + bright)


def coloured(image_3HW: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Apply a colour change from `tint` to an image in [0, 1]; the result is clamped to [0, 1]."""
    flat = torch.addmm(offset[:, None], matrix, image_3HW.flatten(1))
    return flat.clamp_(0, 1).view(image_3HW.shape)


def vary(clip: Clip, ranges: Augment, generator: torch.Generator, motion: Literal["warp", "video"] = "warp") -> Clip:
    """Augment a clip that is in memory. Geometry and colour of each of its B clips are sampled independently.

    Args:
        clip: B clips of T frames.
        ranges: ranges of the augmentation.
        generator: generator of the random numbers.
        motion: "warp" gives each frame a transform of its own, as for copies of one image; "video" gives all frames the same.

    Returns:
        A new `Clip` of the same shape.
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
            result = show(clip.frames_BTCHW[b, t], clip.masks_BTNHW[b, t], ~clip.valid_BTHW[b, t], view, (height, width))
            images.append(on_ground(coloured(result.image, matrix, offset), result.inside))
            masks.append(result.planes)
            valid.append(result.valid)
    return replace(
        clip,
        frames_BTCHW=torch.stack(images).unflatten(0, (count, frames)),
        masks_BTNHW=torch.stack(masks).unflatten(0, (count, frames)),
        valid_BTHW=torch.stack(valid).unflatten(0, (count, frames)),
    )


def on_ground(image_3HW: Tensor, inside_HW: Tensor) -> Tensor:
    """Fill the pixels outside the image with the colour OUTSIDE."""
    return torch.where(inside_HW, image_3HW, torch.tensor(OUTSIDE)[:, None, None])

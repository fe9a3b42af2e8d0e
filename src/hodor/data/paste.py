"""Clips put together from cut-outs: objects that pass in front of each other on smooth paths, under a moving camera.

Every mask is exact, for the picture is made by the same layers: from back to front, image = image (1 - a) + colour a, and a
pixel belongs to the topmost object whose alpha a is above one half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from hodor.data.augment import Matrix, Size, window
from hodor.data.file_cache import DamagedFileError, Objects, Shelf
from hodor.data.sampling import below, chance, uniform, within
from hodor.data.stills import SUFFIXES, Source

SCENES = 5
"""Draws of a scene until one shows an object well enough."""
SMALLEST = 0.002
"""Least visible area of an object in frame 0, as a share of the canvas."""


@dataclass(frozen=True)
class Scene:
    """Ranges of a composed clip, over its whole length: sizes and distances in shares of the canvas' height, degrees, zooms."""

    objects: tuple[float, float] = (0.15, 0.6)
    """Smallest and largest size of an object in frame 0, the root of its box's area."""
    drift: float = 0.5
    """How far an object goes from its first to its last place, at most, along each axis."""
    bend: float = 0.1
    """How far its way leaves the straight line."""
    turn: float = 30.0
    zoom: float = 0.25
    """An object grows or shrinks by up to this share."""
    tilt: float = 20.0
    """How an object may be turned in frame 0."""
    camera_drift: float = 0.1
    camera_turn: float = 4.0
    camera_zoom: float = 0.1
    visible: float = 0.3
    """An object of which frame 0 shows less than this share is left out."""


@dataclass(frozen=True)
class Cutouts:
    """Where cut-outs are drawn from: `draw` gives RGBA float [4, h, w], colours premultiplied, cropped to the object."""

    root: Path
    count: int
    draw: Callable[[torch.Generator], Tensor]


def alpha_folder(root: Path, shelf: Shelf, want: Size) -> Cutouts | None:
    """A folder of pictures with alpha, or None if it holds no picture itself."""
    files = sorted(p for p in root.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != ".") if root.is_dir() else []
    if not files:
        return None
    shelf.files += len(files)

    def draw(rng: torch.Generator) -> Tensor:
        path = files[below(len(files), rng)]
        return _premultiplied(shelf.get(("cutout", path), path, lambda: _read_alpha(path, want)))

    return Cutouts(root, len(files), draw)


def from_source(source: Source, fitting: Callable[[Objects], list[int]]) -> Cutouts:
    """The objects of images with masks. Their edges are softened by a pixel.

    `draw` raises DamagedFileError for an image without an object that is large enough, as for one that cannot be read.
    """

    def draw(rng: torch.Generator) -> Tensor:
        item = source.pick(rng)
        ids = fitting(source.objects(item))
        if not ids:
            raise DamagedFileError(f"{source.root}: no object is large enough")
        taken = source.take(item, [ids[below(len(ids), rng)]], rng)
        planes = taken.planes[0]
        assert planes is not None
        plane = planes[0]
        if not bool(plane.any()):
            raise DamagedFileError(f"{source.root}: no object is large enough")
        rows, columns = plane.any(1).nonzero()[:, 0], plane.any(0).nonzero()[:, 0]
        top, bottom = max(int(rows[0]) - 1, 0), int(rows[-1]) + 2
        left, right = max(int(columns[0]) - 1, 0), int(columns[-1]) + 2
        image, cut = taken.images[0][:, top:bottom, left:right], plane[top:bottom, left:right].float()[None]
        alpha = F.avg_pool2d(F.pad(cut, (1, 1, 1, 1), mode="replicate"), 3, 1)
        return torch.cat([image.float() / 255 * alpha, alpha])

    return Cutouts(source.root, len(source), draw)


def _read_alpha(path: Path, want: Size) -> tuple[Tensor, int]:
    """uint8 RGBA [4, h, w], cropped to what is not transparent. Raises ValueError: "has no alpha", "is all transparent"."""
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
        if not picture.has_transparency_data:
            raise ValueError("has no alpha: want a cut-out, a picture with a transparent ground")
        picture = picture.convert("RGBA")
    box = picture.getchannel("A").point([255 * (a > 127) for a in range(256)]).getbbox()
    if box is None:
        raise ValueError("is all transparent: want a cut-out")
    picture = picture.crop((box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1))  # a clear rim to blend over
    if picture.height > want[0] or picture.width > want[0]:
        picture.thumbnail((want[0], want[0]))
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
    return pixels, pixels.numel()


def _premultiplied(pixels: Tensor) -> Tensor:
    made = pixels.float() / 255
    made[:3] *= made[3:]
    return made


@dataclass(frozen=True)
class Way:
    """A smooth path of (x, y, angle, log zoom): start, what is added up to the end, and a bow between that vanishes at both."""

    start: tuple[float, float, float, float]
    drift: tuple[float, float, float, float]
    bend: tuple[float, float, float, float]

    def at(self, time: float) -> tuple[float, float, float, float]:
        """At a time in 0 .. 1."""
        bow = 4 * time * (1 - time)
        x, y, angle, zoom = (s + d * time + b * bow for s, d, b in zip(self.start, self.drift, self.bend, strict=True))
        return x, y, angle, zoom


class Layer(NamedTuple):
    """An object in a frame: premultiplied colours [3, h, w] and alpha [h, w] at (top, left). Empty where it is out of view."""

    top: int
    left: int
    colours: Tensor
    alpha: Tensor


class Composed(NamedTuple):
    """frames [T, 3, H, W] in [0, 1]; owner [T, H, W]: the object's number from 1, 0 for the ground; the ground alone
    [T, 3, H, W] and the layers of each frame, back to front, that made it."""

    frames: Tensor
    owner: Tensor
    ground: Tensor
    layers: list[list[Layer]]


def compose(
    background: Tensor, cutouts: Sequence[Tensor], size: Size, frames: int, ranges: Scene, rng: torch.Generator
) -> Composed:
    """A clip of the cut-outs before a background uint8 [3, h, w]. Those hardly seen in frame 0 are left out; one stays."""
    base = _covering((background.shape[1], background.shape[2]), size, rng)
    camera = _camera(size, ranges, rng)
    best: list[int] = []
    for _ in range(SCENES):
        ways = [_way(cutout, size, ranges, rng) for cutout in cutouts]
        mirrored = [chance(0.5, rng) for _ in cutouts]
        first = _layers(cutouts, ways, mirrored, camera.at(0.0), 0.0, size)
        best = _well_seen(first, cutouts, ways, size, ranges.visible)
        if best:
            break
    if not best:  # the front one, alone, in the middle
        best, height = [len(cutouts) - 1], size[0]
        zoom = math.log(0.4 * height / math.sqrt(cutouts[-1].shape[1] * cutouts[-1].shape[2]))
        ways[-1] = Way((size[1] / 2, height / 2, 0.0, zoom), ways[-1].drift, ways[-1].bend)
    kept, ways, mirrored = [cutouts[i] for i in best], [ways[i] for i in best], [mirrored[i] for i in best]
    grounds, layers = [], []
    for t in range(frames):
        time = t / max(frames - 1, 1)
        view = camera.at(time)
        grounds.append(_ground(background, base @ _camera_matrix(view, size), size))
        layers.append(_layers(kept, ways, mirrored, view, time, size))
    ground = torch.stack(grounds)
    images = ground.clone()
    owner = torch.zeros(frames, *size, dtype=torch.long)
    for t in range(frames):
        for number, layer in enumerate(layers[t], 1):
            blend(images[t], owner[t], layer, number)
    return Composed(images, owner, ground, layers)


def pass_before(images_T3HW: Tensor, cutout: Tensor, shown: range, ranges: Scene, rng: torch.Generator) -> Tensor:
    """Let a cut-out pass before the frames `shown` of a clip, in place; -> bool [T, H, W], the pixels that it covers."""
    frames, size = len(images_T3HW), (images_T3HW.shape[2], images_T3HW.shape[3])
    way, mirrored = _way(cutout, size, ranges, rng), chance(0.5, rng)
    owner = torch.zeros(frames, *size, dtype=torch.long)
    for t in shown:
        layer = _layer(cutout, _object_matrix(cutout, way.at(t / max(frames - 1, 1)), mirrored), size)
        blend(images_T3HW[t], owner[t], layer, 1)
    return owner > 0


def blend(image_3HW: Tensor, owner_HW: Tensor, layer: Layer, number: int) -> None:
    """Lay one object over what is there, in place."""
    height, width = layer.alpha.shape
    box = slice(layer.top, layer.top + height), slice(layer.left, layer.left + width)
    image_3HW[:, box[0], box[1]] *= 1 - layer.alpha
    image_3HW[:, box[0], box[1]] += layer.colours
    owner_HW[box][layer.alpha > 0.5] = number


def _covering(have: Size, want: Size, rng: torch.Generator) -> Matrix:
    """From a pixel of the canvas to the picture, which just covers it, at a random place."""
    scale = max(want[0] / have[0], want[1] / have[1])
    left, top = (uniform(0, max(0.0, h - w / scale), rng) for h, w in ((have[1], want[1]), (have[0], want[0])))
    return window(left, top, 1 / scale)


def _camera(size: Size, ranges: Scene, rng: torch.Generator) -> Way:
    far, turn, zoom = ranges.camera_drift * size[0], math.radians(ranges.camera_turn), math.log1p(ranges.camera_zoom)
    drift = within(far, rng), within(far, rng), within(turn, rng), within(zoom, rng)
    bend = within(far / 4, rng), within(far / 4, rng), within(turn / 4, rng), 0.0
    return Way((0.0, 0.0, 0.0, uniform(0.0, 0.3, rng)), drift, bend)


def _way(cutout: Tensor, size: Size, ranges: Scene, rng: torch.Generator) -> Way:
    height, width = size
    wanted = uniform(*ranges.objects, rng) * height
    zoom = math.log(wanted / math.sqrt(cutout.shape[1] * cutout.shape[2]))
    start = uniform(0.1, 0.9, rng) * width, uniform(0.15, 0.85, rng) * height, within(math.radians(ranges.tilt), rng), zoom
    far, turn, bow = ranges.drift * height, math.radians(ranges.turn), ranges.bend * height
    drift = within(far, rng), within(far, rng), within(turn, rng), within(math.log1p(ranges.zoom), rng)
    return Way(start, drift, (within(bow, rng), within(bow, rng), within(turn / 4, rng), 0.0))


def _camera_matrix(view: tuple[float, float, float, float], size: Size) -> Matrix:
    """From a pixel of the frame to the point of the scene."""
    x, y, angle, zoom = view
    cos, sin = math.cos(angle) * math.exp(-zoom), math.sin(angle) * math.exp(-zoom)
    middle = np.array([size[1] / 2, size[0] / 2])
    matrix = np.eye(3)
    matrix[:2, :2] = [[cos, -sin], [sin, cos]]
    matrix[:2, 2] = middle + np.array([x, y]) - matrix[:2, :2] @ middle
    return matrix


def _object_matrix(cutout: Tensor, view: tuple[float, float, float, float], mirrored: bool) -> Matrix:
    """From a pixel of the cut-out to the point of the scene."""
    x, y, angle, zoom = view
    cos, sin, flip = math.cos(angle) * math.exp(zoom), math.sin(angle) * math.exp(zoom), -1.0 if mirrored else 1.0
    matrix = np.eye(3)
    matrix[:2, :2] = [[cos * flip, -sin], [sin * flip, cos]]
    matrix[:2, 2] = (x, y) - matrix[:2, :2] @ (cutout.shape[2] / 2, cutout.shape[1] / 2)
    return matrix


def _layers(
    cutouts: Sequence[Tensor],
    ways: Sequence[Way],
    mirrored: Sequence[bool],
    camera: tuple[float, float, float, float],
    time: float,
    size: Size,
) -> list[Layer]:
    to_scene = _camera_matrix(camera, size)
    return [
        _layer(cutout, np.linalg.inv(to_scene) @ _object_matrix(cutout, way.at(time), flip), size)
        for cutout, way, flip in zip(cutouts, ways, mirrored, strict=True)
    ]


def _layer(cutout: Tensor, to_frame: Matrix, size: Size) -> Layer:
    """A cut-out as a frame shows it, in the smallest box that holds it."""
    height, width = cutout.shape[1:]
    corners = to_frame[:2, :2] @ np.array([[0, width, width, 0], [0, 0, height, height]]) + to_frame[:2, 2:]
    left, top = (max(math.floor(v), 0) for v in corners.min(1))
    right, bottom = (min(math.ceil(v), limit) for v, limit in zip(corners.max(1), size[::-1], strict=True))
    if right <= left or bottom <= top:
        return Layer(0, 0, cutout.new_zeros(3, 0, 0), cutout.new_zeros(0, 0))
    back = np.linalg.inv(to_frame)
    x, y = torch.arange(left, right) + 0.5, torch.arange(top, bottom)[:, None] + 0.5
    (a, b, c), (d, e, f) = back[:2].tolist()
    grid = torch.stack([(x * a + (y * b + c)) * (2 / width) - 1, (x * d + (y * e + f)) * (2 / height) - 1], -1)
    shrunk = math.sqrt(abs(a * e - b * d))
    source = cutout[None]
    if shrunk >= 1.5:
        source = F.interpolate(source, (max(1, round(height / shrunk)), max(1, round(width / shrunk))), mode="area")
    out = F.grid_sample(source, grid[None], padding_mode="zeros", align_corners=False)[0]
    return Layer(top, left, out[:3], out[3])


def _ground(background: Tensor, matrix: Matrix, size: Size) -> Tensor:
    """The background through the camera, mirrored at its edges so that it never ends."""
    height, width = background.shape[1:]
    x, y = torch.arange(size[1]) + 0.5, torch.arange(size[0])[:, None] + 0.5
    (a, b, c), (d, e, f) = matrix[:2].tolist()
    grid = torch.stack([(x * a + (y * b + c)) * (2 / width) - 1, (x * d + (y * e + f)) * (2 / height) - 1], -1)
    image = background.float()[None] / 255
    out: Tensor = F.grid_sample(image, grid[None], padding_mode="reflection", align_corners=False)[0]
    return out.clamp_(0, 1)


def _well_seen(layers: Sequence[Layer], cutouts: Sequence[Tensor], ways: Sequence[Way], size: Size, least: float) -> list[int]:
    """The objects of which frame 0 shows enough, with all the others there too."""
    owner = torch.zeros(size, dtype=torch.long)
    for number, layer in enumerate(layers, 1):
        height, width = layer.alpha.shape
        owner[layer.top : layer.top + height, layer.left : layer.left + width][layer.alpha > 0.5] = number
    counts = torch.bincount(owner.flatten(), minlength=len(layers) + 1).tolist()
    whole = [float((c[3] > 0.5).sum()) * math.exp(2 * way.start[3]) for c, way in zip(cutouts, ways, strict=True)]
    enough = [max(least * w, SMALLEST * size[0] * size[1]) for w in whole]
    return [i for i, need in enumerate(enough) if counts[i + 1] >= need]

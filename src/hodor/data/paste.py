"""Clips composed of cut-outs: objects move on smooth paths in front of each other, under a moving camera.

The masks are exact, because image and masks are made from the same layers. Layers are blended from back to front,
image = image (1 - a) + colour a. A pixel belongs to the topmost object whose alpha a is above one half.
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
from PIL import ImageOps
from torch import Tensor

from hodor.data.augment import Matrix, Size, window
from hodor.data.file_cache import DamagedFileError, FileCache, Objects
from hodor.data.sampling import below, chance, uniform, within
from hodor.data.settings import Scene
from hodor.data.stills import SUFFIXES, Source
from hodor.video.pictures import opened

SCENES = 5
"""Scenes that are sampled until frame 0 of one shows enough of an object."""
SMALLEST = 0.002
"""Smallest visible area of an object in frame 0, as a share of the canvas."""


@dataclass(frozen=True)
class Cutouts:
    """A source of cut-outs.

    Attributes:
        root: folder that the cut-outs come from.
        count: number of files or images.
        sample: function of a generator that returns a random cut-out, RGBA float [4, h, w], with premultiplied colours and
            cropped to the object.
    """

    root: Path
    count: int
    sample: Callable[[torch.Generator], Tensor]


def alpha_folder(root: Path, cache: FileCache, size: Size) -> Cutouts | None:
    """Return the cut-outs of a folder of images with an alpha channel, or None if the folder contains no image.

    Args:
        root: the folder.
        cache: file cache that reads the images.
        size: height and width of the clips; larger images are reduced.
    """
    files = sorted(p for p in root.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != ".") if root.is_dir() else []
    if not files:
        return None
    cache.files += len(files)

    def sample(rng: torch.Generator) -> Tensor:
        path = files[below(len(files), rng)]
        return _premultiplied(cache.get(("cutout", path), path, lambda: _read_alpha(path, size)))

    return Cutouts(root, len(files), sample)


def from_source(source: Source, fitting: Callable[[Objects], list[int]]) -> Cutouts:
    """Return the objects of images with masks as cut-outs. Their edges are softened by one pixel.

    `sample` raises DamagedFileError for an image that cannot be read and for one without an object that is large enough.

    Args:
        source: images or videos with masks.
        fitting: function that returns the ids of the objects that are large enough.
    """

    def sample(rng: torch.Generator) -> Tensor:
        item = source.pick(rng)
        ids = fitting(source.objects(item))
        if not ids:
            raise DamagedFileError(f"{source.root}: no object is large enough")
        raw = source.read(item, [ids[below(len(ids), rng)]], rng)
        planes = raw.planes[0]
        if planes is None or not bool(planes.any()):
            raise DamagedFileError(f"{source.root}: no object is large enough")
        return cut_out(raw.images[0].float() / 255, planes[0])

    return Cutouts(source.root, len(source), sample)


def cut_out(image: Tensor, plane: Tensor) -> Tensor:
    """Cut an object out of an image, with an edge that is softened by one pixel.

    Args:
        image: float [3, H, W] in [0, 1].
        plane: mask of the object, [H, W], with at least one pixel that is not 0.

    Returns:
        Premultiplied RGBA, float [4, h, w], cropped to the object.
    """
    rows, columns = plane.any(1).nonzero()[:, 0], plane.any(0).nonzero()[:, 0]
    top, bottom = max(int(rows[0]) - 1, 0), int(rows[-1]) + 2
    left, right = max(int(columns[0]) - 1, 0), int(columns[-1]) + 2
    crop = plane[top:bottom, left:right].float()[None]
    alpha = F.avg_pool2d(F.pad(crop, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return torch.cat([image[:, top:bottom, left:right] * alpha, alpha])


def _read_alpha(path: Path, size: Size) -> tuple[Tensor, int]:
    """Read an image as uint8 RGBA [4, h, w], cropped to the opaque part, with its bytes. Raises ValueError without alpha."""
    with opened(path) as file:
        picture = ImageOps.exif_transpose(file)
        if not picture.has_transparency_data:
            raise ValueError("has no alpha channel: give an image with a transparent background")
        picture = picture.convert("RGBA")
    box = picture.getchannel("A").point([255 * (a > 127) for a in range(256)]).getbbox()
    if box is None:
        raise ValueError("is all transparent: give an image with an opaque object")
    picture = picture.crop((box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1))  # a transparent margin of 1 px for blending
    if picture.height > size[0] or picture.width > size[0]:
        picture.thumbnail((size[0], size[0]))
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
    return pixels, pixels.numel()


def _premultiplied(pixels: Tensor) -> Tensor:
    """Convert RGBA of 0 .. 255 to [0, 1] and multiply the colours by alpha."""
    rgba = pixels.float() / 255
    rgba[:3] *= rgba[3:]
    return rgba


@dataclass(frozen=True)
class Trajectory:
    """A smooth path of (x, y, angle, log zoom): a straight line plus a parabola that is zero at both ends.

    Attributes:
        start: values at time 0; x and y in pixels, angle in radians.
        drift: difference between the values at time 1 and at time 0.
        bend: height of the parabola, reached at time 0.5.
    """

    start: tuple[float, float, float, float]
    drift: tuple[float, float, float, float]
    bend: tuple[float, float, float, float]

    def at(self, time: float) -> tuple[float, float, float, float]:
        """Return (x, y, angle, log zoom) at a time in 0 .. 1."""
        parabola = 4 * time * (1 - time)
        x, y, angle, zoom = (s + d * time + b * parabola for s, d, b in zip(self.start, self.drift, self.bend, strict=True))
        return x, y, angle, zoom


class Layer(NamedTuple):
    """An object on a frame. Its tensors are empty if it is out of view.

    Attributes:
        top, left: position of the upper left corner on the frame, in pixels.
        colours: premultiplied colours in [0, 1], float [3, h, w].
        alpha: opacity in [0, 1], float [h, w].
    """

    top: int
    left: int
    colours: Tensor
    alpha: Tensor


class Composed(NamedTuple):
    """A composed clip and the layers that it was made of.

    Attributes:
        frames: float [T, 3, H, W] in [0, 1].
        owner: number of the object that each pixel belongs to, from 1; 0 for the background; int64 [T, H, W].
        ground: the background alone, float [T, 3, H, W].
        layers: the objects of each frame, from back to front.
    """

    frames: Tensor
    owner: Tensor
    ground: Tensor
    layers: list[list[Layer]]


def compose(
    background: Tensor, cutouts: Sequence[Tensor], size: Size, frames: int, ranges: Scene, rng: torch.Generator
) -> Composed:
    """Compose a clip of cut-outs in front of a background.

    Objects of which frame 0 shows too little (`Scene.visible`) are left out. At least one object is kept.

    Args:
        background: image, uint8 [3, h, w].
        cutouts: premultiplied RGBA, float [4, h, w], from back to front.
        size: height and width of the clip.
        frames: number of frames (T).
        ranges: ranges of the scene.
        rng: generator of the random numbers.
    """
    base = _covering((background.shape[1], background.shape[2]), size, rng)
    camera = _camera(size, ranges, rng)
    best: list[int] = []
    for _ in range(SCENES):
        paths = [_trajectory(cutout, size, ranges, rng) for cutout in cutouts]
        mirrored = [chance(0.5, rng) for _ in cutouts]
        first = _layers(cutouts, paths, mirrored, camera.at(0.0), 0.0, size)
        best = _visible_objects(first, cutouts, paths, size, ranges.visible)
        if best:
            break
    if not best:  # only the front object, in the middle of frame 0
        best, height = [len(cutouts) - 1], size[0]
        zoom = math.log(0.4 * height / math.sqrt(cutouts[-1].shape[1] * cutouts[-1].shape[2]))
        paths[-1] = Trajectory((size[1] / 2, height / 2, 0.0, zoom), paths[-1].drift, paths[-1].bend)
    kept, paths, mirrored = [cutouts[i] for i in best], [paths[i] for i in best], [mirrored[i] for i in best]
    grounds, layers = [], []
    for t in range(frames):
        time = t / max(frames - 1, 1)
        view = camera.at(time)
        grounds.append(_ground(background, base @ _camera_matrix(view, size), size))
        layers.append(_layers(kept, paths, mirrored, view, time, size))
    ground = torch.stack(grounds)
    images = ground.clone()
    owner = torch.zeros(frames, *size, dtype=torch.long)
    for t in range(frames):
        for number, layer in enumerate(layers[t], 1):
            blend(images[t], owner[t], layer, number)
    return Composed(images, owner, ground, layers)


def add_distractor(images_T3HW: Tensor, cutout: Tensor, shown: range, ranges: Scene, rng: torch.Generator) -> Tensor:
    """Blend a moving cut-out over some frames of a clip, in place.

    Args:
        images_T3HW: frames in [0, 1], changed in place.
        cutout: premultiplied RGBA, float [4, h, w].
        shown: indices of the frames that show the cut-out.
        ranges: ranges of its size and path.
        rng: generator of the random numbers.

    Returns:
        Pixels that the cut-out covers, bool [T, H, W].
    """
    frames, size = len(images_T3HW), (images_T3HW.shape[2], images_T3HW.shape[3])
    path, mirrored = _trajectory(cutout, size, ranges, rng), chance(0.5, rng)
    owner = torch.zeros(frames, *size, dtype=torch.long)
    for t in shown:
        layer = _layer(cutout, _object_matrix(cutout, path.at(t / max(frames - 1, 1)), mirrored), size)
        blend(images_T3HW[t], owner[t], layer, 1)
    return owner > 0


def blend(image_3HW: Tensor, owner_HW: Tensor, layer: Layer, number: int) -> None:
    """Blend one object over an image, in place, and enter its number into `owner_HW` where its alpha is above one half."""
    height, width = layer.alpha.shape
    box = slice(layer.top, layer.top + height), slice(layer.left, layer.left + width)
    image_3HW[:, box[0], box[1]] *= 1 - layer.alpha
    image_3HW[:, box[0], box[1]] += layer.colours
    owner_HW[box][layer.alpha > 0.5] = number


def _covering(image_size: Size, canvas: Size, rng: torch.Generator) -> Matrix:
    """Return the matrix from a pixel of the canvas to a pixel of the image, which just covers it at a random position."""
    scale = max(canvas[0] / image_size[0], canvas[1] / image_size[1])
    axes = (image_size[1], canvas[1]), (image_size[0], canvas[0])
    left, top = (uniform(0, max(0.0, length - side / scale), rng) for length, side in axes)
    return window(left, top, 1 / scale)


def _camera(size: Size, ranges: Scene, rng: torch.Generator) -> Trajectory:
    """Sample the trajectory of the camera."""
    far, turn, zoom = ranges.camera_drift * size[0], math.radians(ranges.camera_turn), math.log1p(ranges.camera_zoom)
    drift = within(far, rng), within(far, rng), within(turn, rng), within(zoom, rng)
    bend = within(far / 4, rng), within(far / 4, rng), within(turn / 4, rng), 0.0
    return Trajectory((0.0, 0.0, 0.0, uniform(0.0, 0.3, rng)), drift, bend)


def _trajectory(cutout: Tensor, size: Size, ranges: Scene, rng: torch.Generator) -> Trajectory:
    """Sample the size, the position in frame 0 and the trajectory of a cut-out."""
    height, width = size
    target = uniform(*ranges.objects, rng) * height
    zoom = math.log(target / math.sqrt(cutout.shape[1] * cutout.shape[2]))
    start = uniform(0.1, 0.9, rng) * width, uniform(0.15, 0.85, rng) * height, within(math.radians(ranges.tilt), rng), zoom
    far, turn, bend = ranges.drift * height, math.radians(ranges.turn), ranges.bend * height
    drift = within(far, rng), within(far, rng), within(turn, rng), within(math.log1p(ranges.zoom), rng)
    return Trajectory(start, drift, (within(bend, rng), within(bend, rng), within(turn / 4, rng), 0.0))


def _camera_matrix(view: tuple[float, float, float, float], size: Size) -> Matrix:
    """Return the matrix from a pixel of the frame to a point of the scene."""
    x, y, angle, zoom = view
    cos, sin = math.cos(angle) * math.exp(-zoom), math.sin(angle) * math.exp(-zoom)
    middle = np.array([size[1] / 2, size[0] / 2])
    matrix = np.eye(3)
    matrix[:2, :2] = [[cos, -sin], [sin, cos]]
    matrix[:2, 2] = middle + np.array([x, y]) - matrix[:2, :2] @ middle
    return matrix


def _object_matrix(cutout: Tensor, view: tuple[float, float, float, float], mirrored: bool) -> Matrix:
    """Return the matrix from a pixel of the cut-out to a point of the scene."""
    x, y, angle, zoom = view
    cos, sin, flip = math.cos(angle) * math.exp(zoom), math.sin(angle) * math.exp(zoom), -1.0 if mirrored else 1.0
    matrix = np.eye(3)
    matrix[:2, :2] = [[cos * flip, -sin], [sin * flip, cos]]
    matrix[:2, 2] = (x, y) - matrix[:2, :2] @ (cutout.shape[2] / 2, cutout.shape[1] / 2)
    return matrix


def _layers(
    cutouts: Sequence[Tensor],
    paths: Sequence[Trajectory],
    mirrored: Sequence[bool],
    camera: tuple[float, float, float, float],
    time: float,
    size: Size,
) -> list[Layer]:
    """Return the layers of one frame, from back to front."""
    to_scene = _camera_matrix(camera, size)
    return [
        _layer(cutout, np.linalg.inv(to_scene) @ _object_matrix(cutout, path.at(time), flip), size)
        for cutout, path, flip in zip(cutouts, paths, mirrored, strict=True)
    ]


def _layer(cutout: Tensor, to_frame: Matrix, size: Size) -> Layer:
    """Resample a cut-out into the smallest box of the frame that contains it."""
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
    """Resample the background as the camera sees it. Beyond its edges the background is mirrored."""
    height, width = background.shape[1:]
    x, y = torch.arange(size[1]) + 0.5, torch.arange(size[0])[:, None] + 0.5
    (a, b, c), (d, e, f) = matrix[:2].tolist()
    grid = torch.stack([(x * a + (y * b + c)) * (2 / width) - 1, (x * d + (y * e + f)) * (2 / height) - 1], -1)
    image = background.float()[None] / 255
    out: Tensor = F.grid_sample(image, grid[None], padding_mode="reflection", align_corners=False)[0]
    return out.clamp_(0, 1)


def _visible_objects(
    layers: Sequence[Layer], cutouts: Sequence[Tensor], paths: Sequence[Trajectory], size: Size, min_share: float
) -> list[int]:
    """Return the indices of the objects of which frame 0 shows enough when all objects are present."""
    owner = torch.zeros(size, dtype=torch.long)
    for number, layer in enumerate(layers, 1):
        height, width = layer.alpha.shape
        owner[layer.top : layer.top + height, layer.left : layer.left + width][layer.alpha > 0.5] = number
    counts = torch.bincount(owner.flatten(), minlength=len(layers) + 1).tolist()
    areas = [float((c[3] > 0.5).sum()) * math.exp(2 * path.start[3]) for c, path in zip(cutouts, paths, strict=True)]
    enough = [max(min_share * area, SMALLEST * size[0] * size[1]) for area in areas]
    return [i for i, need in enumerate(enough) if counts[i + 1] >= need]

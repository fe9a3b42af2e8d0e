"""Training of the network of clicks: views of stills, simulated clicks, the loss, and a step.

A view is a window of a picture with one object or more. For each object the first prompt is a click, a box or a rough mask;
each further prompt is a click in the largest error of the prediction before, which is given as the previous mask (RITM: Sofiiuk
et al., 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance
from torch import Tensor

from hodor.data.coco import find_json, open_coco
from hodor.data.file_cache import Labels, read_picture, void_of
from hodor.data.sampling import below, chance, choose, uniform, weighted
from hodor.data.stills import Still, open_stills
from hodor.models.clicks import Answer, ClickNetwork, Prompts, View

WHOLE = (1 << 20, 1 << 20)
"""Size that no picture has to be reduced to."""
MIN_VISIBLE = 80
"""Smallest object of a view, in pixels of the view."""

JOINED = 0.15
"""Share of the objects to which one that touches them is added, if there is one: a rider and a horse can be one object."""


class Sample(NamedTuple):
    """Pictures and the objects in them.

    Attributes:
        pictures_BCHW: RGB in [0, 1].
        rows_N: the picture of each object.
        masks_N1HW: its mask, 0 or 1.
        known_N1HW: 0 in void pixels.
    """

    pictures_BCHW: Tensor
    rows_N: Tensor
    masks_N1HW: Tensor
    known_N1HW: Tensor


@dataclass(frozen=True)
class HeldOut:
    """An object that is not trained on: the index of its image, and its id there."""

    image: int
    object: int


def open_roots(roots: Sequence[Path]) -> list[list[Still]]:
    """Open folders of images with masks, or with a COCO file, as lists of stills."""
    return [open_coco(file) if (file := find_json(root)) else open_stills(root)[1] for root in roots]


def hold_out(stills: Sequence[Still], count: int, seed: int = 0, min_area: int = 1024) -> list[HeldOut]:
    """Choose objects to measure on, at most one an image; all are equally likely, first by image and then by object.

    Args:
        stills: the images of all roots, in a fixed order.
        count: number of objects.
        seed: of the random order. Default: 0.
        min_area: smallest object, in pixels of the file. Default: 1024.
    """
    rng = torch.Generator().manual_seed(seed)
    found: list[HeldOut] = []
    for image in choose(len(stills), len(stills), rng):
        if len(found) == count:
            break
        labels = stills[image].draw()
        ids = [i for i in _ids(labels) if np.count_nonzero(labels == i) >= min_area]
        if ids:
            found.append(HeldOut(image, ids[below(len(ids), rng)]))
    return found


def fingerprint(path: Path) -> int:
    """Return the 64 bits of a picture's difference hash. Those of copies in another size or format differ in few bits."""
    with Image.open(path) as file:
        file.draft("L", (64, 64))
        small = np.asarray(file.convert("L").resize((9, 8), Image.Resampling.BILINEAR), np.int16)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes())


def copies_of(prints: Sequence[int], every: Sequence[int], most: int = 4) -> list[bool]:
    """Return, for each fingerprint of `every`, whether it differs from one of `prints` in at most `most` bits."""
    return [any((each ^ other).bit_count() <= most for other in prints) for each in every]


def _ids(labels: Labels) -> list[int]:
    return [int(i) for i in np.unique(labels) if i not in (0, void_of(labels))]


def touching(labels: Labels, target: int, distance: int = 3) -> list[int]:
    """Return the other objects that are within this many pixels of an object, along rows or columns."""
    plane = labels == target
    near = np.zeros_like(plane)
    near[distance:] |= plane[:-distance]
    near[:-distance] |= plane[distance:]
    near[:, distance:] |= plane[:, :-distance]
    near[:, :-distance] |= plane[:, distance:]
    return [i for i in _ids(labels[near]) if i != target]


def pick_window(labels: Labels, target: int, aspect: float, rng: torch.Generator) -> tuple[int, int, int, int]:
    """Return a random window (left, top, right, bottom) that shows an object at a random scale.

    Args:
        labels: labels of the picture.
        target: id of the object.
        aspect: width of the window, as a multiple of its height.
        rng: random numbers.
    """
    height, width = labels.shape
    rows, columns = np.flatnonzero((labels == target).any(1)), np.flatnonzero((labels == target).any(0))
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    largest = min(height, width / aspect)
    tight = min(max(y1 - y0, (x1 - x0) / aspect, 24.0), largest)
    side = largest if chance(0.3, rng) else tight * math.exp(uniform(math.log(1.15), math.log(max(1.2, largest / tight)), rng))
    h, w = max(8, round(min(side, largest))), max(8, round(min(side, largest) * aspect))
    start = []
    for low, high, size, limit in ((x0, x1, w, width), (y0, y1, h, height)):
        ends = sorted((high - size, low))  # the object is inside the window, or the window inside the object
        start.append(int(min(max(0, round(uniform(ends[0], ends[1], rng))), max(0, limit - size))))
    return start[0], start[1], min(width, start[0] + w), min(height, start[1] + h)


def varied(picture: Image.Image, rng: torch.Generator) -> Image.Image:
    """Return the picture with random brightness, contrast and saturation."""
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = kind(picture).enhance(uniform(0.7, 1.3, rng))
    return picture


def draw_view(
    still: Still, size: tuple[int, int], objects: int, rng: torch.Generator
) -> tuple[Tensor, list[Tensor], Tensor] | None:
    """Return a random view: picture [3, h, w] in [0, 1], masks of some of its objects and the known pixels, [h, w].

    None if the image has no object that can be seen.

    Args:
        still: the image.
        size: height and width of the view.
        objects: highest number of objects.
        rng: random numbers.
    """
    labels = still.draw()
    areas = {i: int(np.count_nonzero(labels == i)) for i in _ids(labels)}
    areas = {i: area for i, area in areas.items() if area >= 150}
    if not areas:
        return None
    targets = list(areas)
    target = targets[weighted([areas[i] ** 0.25 for i in targets], rng)]
    if chance(JOINED, rng) and (partners := [i for i in touching(labels, target) if i in areas]):
        partner = partners[below(len(partners), rng)]
        labels = np.where(labels == partner, target, labels).astype(labels.dtype)
        areas[target] += areas[partner]
        targets.remove(partner)
    aspect = size[1] / size[0] * math.exp(uniform(-0.25, 0.25, rng))
    window = pick_window(labels, target, aspect, rng)
    pixels = Image.fromarray(read_picture(still.image, (labels.shape[0], labels.shape[1]), WHOLE))
    seen = varied(pixels.resize(size[::-1], Image.Resampling.BILINEAR, box=window, reducing_gap=2.0), rng)
    picture = torch.from_numpy(np.array(seen)).permute(2, 0, 1).float() / 255
    flip = chance(0.5, rng)

    def fitted(plane: np.ndarray) -> Tensor:
        shown = Image.fromarray(plane.astype(np.uint8) * 255).resize(size[::-1], Image.Resampling.BILINEAR, box=window)
        mask = torch.from_numpy(np.array(shown) > 127)
        return mask.flip(-1) if flip else mask

    masks = []
    left, top, right, bottom = window
    others = [targets[i] for i in choose(len(targets), len(targets), rng) if targets[i] != target]
    for i in [target, *others]:
        plane = labels == i
        if np.count_nonzero(plane[top:bottom, left:right]) < (0 if i == target else 0.5 * areas[i]):
            continue
        mask = fitted(plane)
        if int(mask.sum()) >= MIN_VISIBLE:
            masks.append(mask.float())
        if len(masks) == objects:
            break
    if not masks:
        return None
    known = fitted(labels != void_of(labels)).float()
    return picture.flip(-1) if flip else picture, masks, known


SHAPES = ((256, 288), (288, 256), (224, 320), (320, 224))
"""Sizes of views in training."""


def draw_sample(
    sources: Sequence[Sequence[Still]], shares: Sequence[float], pictures: int, objects: int, rng: torch.Generator
) -> Sample:
    """Return a random batch of views.

    Args:
        sources: the images of each root.
        shares: share of each root.
        pictures: number of views.
        objects: highest number of objects of a view.
        rng: random numbers.
    """
    size = SHAPES[weighted((3, 2, 4, 2), rng)]
    views: list[tuple[Tensor, list[Tensor], Tensor]] = []
    while len(views) < pictures:
        stills = sources[weighted(shares, rng)]
        if view := draw_view(stills[below(len(stills), rng)], size, objects, rng):
            views.append(view)
    rows = [row for row, (_, masks, _) in enumerate(views) for _ in masks]
    masks_N1HW = torch.stack([mask for _, masks, _ in views for mask in masks])[:, None]
    known = torch.stack([known for _, _, known in views])[:, None]
    return Sample(torch.stack([picture for picture, _, _ in views]), torch.tensor(rows), masks_N1HW, known[rows])


def depth(planes_NHW: Tensor) -> Tensor:
    """Return the number of cells from each cell of planes of 0 and 1 to the nearest 0 or border, 0 where the plane is 0.

    The distance is that of a king's moves on a chessboard.
    """
    left, total = planes_NHW, planes_NHW.clone()
    while bool(left.any()):
        padded = F.pad(left, (1, 1, 1, 1))[:, None]
        left = -F.max_pool2d(-padded, 3, 1)[:, 0]
        total = total + left
    return total


def next_clicks(masks_N1HW: Tensor, soft_N1HW: Tensor | None, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the next click of each object, in the deepest part of its errors.

    Half of the clicks are at the deepest point, half at a random one that is at least half as deep.

    Args:
        masks_N1HW: masks, 0 or 1, at the size of the view.
        soft_N1HW: the prediction, of any smaller size; None for nothing found so far.
        rng: random numbers.

    Returns:
        Points [N, 2] in pixels of the view, and labels [N]: 1, 0, or -1 where nothing is wrong.
    """
    wanted = F.avg_pool2d(masks_N1HW, 4)[:, 0] > 0.5
    small = None if soft_N1HW is None else F.interpolate(soft_N1HW, tuple(wanted.shape[-2:]), mode="area")[:, 0]
    found = torch.zeros_like(wanted) if small is None else small > 0.5
    if small is None:  # an object too thin for a cell still has a first click
        wanted = wanted | ((F.avg_pool2d(masks_N1HW, 4)[:, 0] > 0.2) & ~wanted.flatten(1).any(1)[:, None, None])
    wrong_N2HW = torch.stack([wanted & ~found, found & ~wanted], 1).float()
    depths = depth(wrong_N2HW.flatten(0, 1)).unflatten(0, (-1, 2))
    deepest_N2 = depths.flatten(2).amax(2)
    points, labels = [], []
    for n in range(len(depths)):
        kind = int(deepest_N2[n].argmax())
        most = float(deepest_N2[n, kind])
        if most == 0:
            points.append([0.0, 0.0])
            labels.append(-1)
            continue
        cells = (depths[n, kind] >= (most if chance(0.5, rng) else most / 2)).nonzero()
        y, x = cells[below(len(cells), rng)].tolist()
        points.append([4 * x + uniform(1, 3, rng), 4 * y + uniform(1, 3, rng)])
        labels.append(1 - kind)
    return torch.tensor(points), torch.tensor(labels)


def boxes_of(masks_N1HW: Tensor, rng: torch.Generator, jitter: float = 0.08) -> Tensor:
    """Return the boxes of masks, [N, 4], each side moved at random by up to a share of the box."""
    height, width = masks_N1HW.shape[-2:]
    boxes = []
    for mask in masks_N1HW[:, 0] > 0.5:
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        x0, y0, x1, y1 = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
        w, h = (jitter * side for side in (x1 - x0, y1 - y0))
        moved = [x0 + uniform(-w, w, rng), y0 + uniform(-h, h, rng), x1 + uniform(-w, w, rng), y1 + uniform(-h, h, rng)]
        boxes.append([min(max(0.0, each), limit) for each, limit in zip(moved, (width, height) * 2, strict=True)])
    return torch.tensor(boxes)


def roughened(mask_HW: Tensor, rng: torch.Generator) -> Tensor:
    """Return a mask with errors: grown or shrunk, without a part, or with a part too many."""
    size = 2 * below(4, rng) + 3
    grown = F.max_pool2d(mask_HW[None], size, 1, size // 2)[0]
    shrunk = -F.max_pool2d(-mask_HW[None], size, 1, size // 2)[0]
    rough = (grown if chance(0.5, rng) else shrunk).clone()
    rows, columns = mask_HW.nonzero().unbind(1)
    at = below(len(rows), rng)
    tall, wide = (max(2, int(uniform(0.2, 0.8, rng) * (int(x.max() - x.min()) + 1))) for x in (rows, columns))
    top, left = max(0, int(rows[at]) - tall // 2), max(0, int(columns[at]) - wide // 2)
    rough[top : top + tall, left : left + wide] = float(chance(0.5, rng))
    return rough


def first_prompts(sample: Sample, rng: torch.Generator) -> Prompts:
    """Return the first prompt of each object: one click or two, a box, a box and a click, or a rough mask and a click."""
    masks = sample.masks_N1HW
    count = len(masks)
    points_N2, labels_N = next_clicks(masks, None, rng)
    all_boxes, boxes = boxes_of(masks, rng), torch.zeros(count, 4)
    rough = torch.zeros_like(masks)
    extra_points, extra_labels = torch.zeros(count, 2), torch.full((count,), -1)
    kinds = [weighted((0.55, 0.08, 0.12, 0.13, 0.12), rng) for _ in range(count)]
    for n, kind in enumerate(kinds):
        if kind == 1:  # a second click, anywhere on the object or off it
            label = below(2, rng)
            cells = (masks[n, 0] == label).nonzero()
            if len(cells):
                y, x = cells[below(len(cells), rng)].tolist()
                extra_points[n], extra_labels[n] = torch.tensor([x + 0.5, y + 0.5]), label
        elif kind in (2, 3):
            boxes[n] = all_boxes[n]
            if kind == 2:
                labels_N[n] = -1
        elif kind == 4:
            rough[n, 0] = roughened(masks[n, 0], rng)
    if any(kind == 4 for kind in kinds):
        again_N2, kinds_N = next_clicks(masks, rough, rng)
        for n, kind in enumerate(kinds):
            if kind == 4:
                points_N2[n], labels_N[n] = again_N2[n], kinds_N[n]
    points_BK2, labels_BK = torch.stack([points_N2, extra_points], 1), torch.stack([labels_N, extra_labels], 1)
    return Prompts(points_BK2, labels_BK, boxes, F.avg_pool2d(rough, 4))


def next_prompts(sample: Sample, prompts: Prompts, answer: Answer, rng: torch.Generator) -> Prompts:
    """Return the prompts of the next round: one more click for most objects, and the prediction as the previous mask."""
    soft = answer.logits_B1HW.detach().sigmoid()
    points_N2, labels_N = next_clicks(sample.masks_N1HW, soft, rng)
    for n in range(len(labels_N)):
        if chance(0.15, rng):  # the network looks again without a new click, as in a window
            labels_N[n] = -1
    if chance(0.5, rng):
        soft = (soft > 0.5).float()
    points = torch.cat([prompts.points_BK2, points_N2[:, None]], 1)
    labels = torch.cat([prompts.labels_BK, labels_N[:, None]], 1)
    return Prompts(points, labels, prompts.boxes_B4, F.avg_pool2d(soft, 2))


def mask_loss(logits_N1HW: Tensor, target_N1HW: Tensor, known_N1HW: Tensor, gamma: float = 2.0) -> Tensor:
    """Return the normalised focal loss plus the soft IoU loss, the mean over objects.

    The weights of the focal loss are scaled so that they sum to the number of pixels (Sofiiuk et al., 2019).
    """
    soft = logits_N1HW.sigmoid()
    right = 1 - (soft - target_N1HW).abs()
    with torch.no_grad():
        focus = (1 - right) ** gamma * known_N1HW
        focus = focus * (known_N1HW.sum((1, 2, 3), True) / (focus.sum((1, 2, 3), True) + 1e-6)).clamp(max=20)
    cross = F.binary_cross_entropy_with_logits(logits_N1HW, target_N1HW, reduction="none")
    focal = (focus * cross).sum((1, 2, 3)) / known_N1HW.sum((1, 2, 3)).clamp(min=1)
    both = (soft * target_N1HW * known_N1HW).sum((1, 2, 3))
    either = ((soft + target_N1HW) * known_N1HW).sum((1, 2, 3)) - both
    return (0.5 * focal + 1 - (both + 1) / (either + 1)).mean()


def hard_iou(logits_N1HW: Tensor, target_N1HW: Tensor, known_N1HW: Tensor) -> Tensor:
    """Return the IoU of each mask, [N]."""
    found, wanted, known = logits_N1HW > 0, target_N1HW > 0.5, known_N1HW > 0.5
    both = (found & wanted & known).sum((1, 2, 3))
    either = ((found | wanted) & known).sum((1, 2, 3))
    return both / either.clamp(min=1)


def step_loss(
    network: ClickNetwork, sample: Sample, rounds: int, unseen: int, rng: torch.Generator
) -> tuple[Tensor, list[float]]:
    """Return the loss of a batch and the mean IoU of each round.

    Args:
        network: the network, in training mode.
        sample: the batch.
        rounds: number of rounds with a loss.
        unseen: number of rounds before them, without gradients.
        rng: random numbers.
    """
    maps = network.trunk_maps(sample.pictures_BCHW)
    view: View = network.neck(maps).rows(sample.rows_N)
    targets = [F.avg_pool2d(sample.masks_N1HW, stride) for stride in (2, 4)]
    known = [(F.avg_pool2d(sample.known_N1HW, stride) == 1).float() for stride in (2, 4)]
    prompts = first_prompts(sample, rng)
    losses, ious = [], []
    for number in range(unseen + rounds):
        with torch.set_grad_enabled(number >= unseen):
            answer = network(view, prompts)
        iou = hard_iou(answer.logits_B1HW, targets[0], known[0])
        if number >= unseen:
            fine = mask_loss(answer.logits_B1HW, targets[0], known[0])
            coarse = mask_loss(answer.coarse_B1HW, targets[1], known[1])
            score = F.binary_cross_entropy_with_logits(answer.iou_B, iou)
            losses.append(fine + 0.4 * coarse + 0.1 * score)
        ious.append(float(iou.mean()))
        if number + 1 < unseen + rounds:
            prompts = next_prompts(sample, prompts, answer, rng)
    return torch.stack(losses).mean(), ious

"""Stills into clips and plain clips into varied ones: warps and colours on tensors, image, masks and validity together."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.data.clip import Clip


@dataclass(frozen=True)
class Warp:
    """Ranges of a random affine warp (supplement, section VI). Each is the largest size of a symmetric draw.

    translate: share of the frame's side. rotate, shear: degrees. scale: (smallest, largest) zoom; above 1 enlarges.
    """

    translate: float = 0.25
    rotate: float = 20.0
    shear: float = 10.0
    scale: tuple[float, float] = (0.9, 1.4)


@dataclass(frozen=True)
class Colour:
    """Ranges of a colour draw, one for a whole clip: brightness (added), contrast and saturation (share), hue (turns)."""

    brightness: float = 0.1
    contrast: float = 0.1
    saturation: float = 0.15
    hue: float = 0.03


def warp(clip: Clip, ranges: Warp, generator: torch.Generator, first: bool = False) -> Clip:
    """Every frame of the clip (but frame 0, unless `first`) warped on its own; pixels from outside are marked invalid."""
    batch, frames, _, height, width = clip.frames_BTCHW.shape
    matrices = torch.stack([_matrix(ranges, height, width, generator) for _ in range(batch * frames)])
    if not first:
        matrices.view(batch, frames, 2, 3)[:, 0] = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    grid = F.affine_grid(matrices, [batch * frames, 1, height, width], align_corners=False)
    images = F.grid_sample(clip.frames_BTCHW.flatten(0, 1), grid, align_corners=False)
    planes = torch.cat([clip.masks_BTNHW, clip.valid_BTHW[:, :, None].float()], 2).flatten(0, 1)
    planes = F.grid_sample(planes, grid, align_corners=False).unflatten(0, (batch, frames))
    valid = planes[:, :, -1] > 0.99
    return replace(
        clip,
        frames_BTCHW=images.unflatten(0, (batch, frames)),
        masks_BTNHW=(planes[:, :, :-1] > 0.5).float(),
        valid_BTHW=valid,
    )


def _matrix(ranges: Warp, height: int, width: int, generator: torch.Generator) -> Tensor:
    """-> 2 x 3, from output to input in the [-1, 1] coordinates of affine_grid; angles are true on the pixel grid."""

    def draw(size: float) -> float:
        return float(torch.rand((), generator=generator) * 2 - 1) * size

    angle, shear = math.radians(draw(ranges.rotate)), math.tan(math.radians(draw(ranges.shear)))
    low, high = ranges.scale
    zoom = low * (high / low) ** float(torch.rand((), generator=generator))
    cos, sin, ratio = math.cos(angle) / zoom, math.sin(angle) / zoom, width / height
    rows = [
        [cos, (cos * shear - sin) / ratio, draw(ranges.translate * 2) / zoom],
        [sin * ratio, cos + sin * shear, draw(ranges.translate * 2) / zoom],
    ]
    return torch.tensor(rows)


def colour(clip: Clip, ranges: Colour, generator: torch.Generator) -> Clip:
    """One draw of brightness, contrast, saturation and hue for each clip, the same on all its frames."""

    def draw(size: float) -> Tensor:
        return (torch.rand(len(clip.frames_BTCHW), generator=generator) * 2 - 1).view(-1, 1, 1, 1, 1) * size

    x = clip.frames_BTCHW
    grey = (x * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(2, keepdim=True)
    x = grey + (x - grey) * (1 + draw(ranges.saturation))
    angle = draw(ranges.hue) * 2 * math.pi
    # a turn about the grey axis: Rodrigues' formula with k = (1, 1, 1) / sqrt(3)
    cross = (x.roll(1, 2) - x.roll(2, 2)) / math.sqrt(3)
    x = x * angle.cos() + cross * angle.sin() + x.mean(2, keepdim=True) * (1 - angle.cos())
    middle = x.mean((1, 2, 3, 4), keepdim=True)
    x = middle + (x - middle) * (1 + draw(ranges.contrast)) + draw(ranges.brightness)
    return replace(clip, frames_BTCHW=x.clamp(0, 1))


def crop(clip: Clip, ratio: tuple[float, float], generator: torch.Generator) -> Clip:
    """One random window of every frame, `ratio` of its sides, enlarged back; kept if frame 0 still shows each object."""
    height, width = clip.frames_BTCHW.shape[-2:]
    share = ratio[0] + float(torch.rand((), generator=generator)) * (ratio[1] - ratio[0])
    h, w = round(height * share), round(width * share)
    y = int(torch.randint(height - h + 1, (), generator=generator))
    x = int(torch.randint(width - w + 1, (), generator=generator))

    def cut(planes_BTCHW: Tensor, mode: str) -> Tensor:
        window = planes_BTCHW[..., y : y + h, x : x + w].flatten(0, 1)
        sized = F.interpolate(window, (height, width), mode=mode, align_corners=False if mode == "bilinear" else None)
        out: Tensor = sized.unflatten(0, clip.frames_BTCHW.shape[:2])
        return out

    masks = (cut(clip.masks_BTNHW, "bilinear") > 0.5).float()
    before, after = clip.masks_BTNHW[:, 0].sum((-1, -2)), masks[:, 0].sum((-1, -2))
    if bool((after < before * 0.5)[clip.objects_BN].any()):
        return clip
    valid = cut(clip.valid_BTHW[:, :, None].float(), "nearest")[:, :, 0] > 0.5
    return replace(clip, frames_BTCHW=cut(clip.frames_BTCHW, "bilinear"), masks_BTNHW=masks, valid_BTHW=valid)

"""Masks into descriptors and descriptors into masks: pure functions, without parameters. Shapes as in `base`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.models.base import UNKNOWN


def background_cells(masks_BNHW: Tensor, grid: int) -> Tensor:
    """-> B grid*grid H W: what belongs to no object, 1 - sum of their masks, cut into cells; the last row and column take
    the remainder."""
    rest_B1HW = (1 - masks_BNHW.sum(1, keepdim=True)).clamp(min=0)
    height, width = masks_BNHW.shape[-2:]
    row = (torch.arange(height, device=masks_BNHW.device) // max(height // grid, 1)).clamp(max=grid - 1)
    column = (torch.arange(width, device=masks_BNHW.device) // max(width // grid, 1)).clamp(max=grid - 1)
    cell_HW = row[:, None] * grid + column
    return rest_B1HW * F.one_hot(cell_HW, grid * grid).permute(2, 0, 1).to(rest_B1HW.dtype)


@torch.no_grad()
def pool_hard(pixels_BPD: Tensor, masks_BMP: Tensor, cells: int) -> Tensor:
    """-> B M D: mean over the pixels whose mask exceeds 0.5, without gradient. Where there is none, an object takes the one
    pixel of its largest mask value, a background cell (the first `cells` rows) a zero vector."""
    inside_BMP = (masks_BMP > 0.5).to(pixels_BPD.dtype)
    count_BM1 = inside_BMP.sum(-1, keepdim=True)
    mean = inside_BMP @ pixels_BPD / count_BM1.clamp(min=1)
    best = masks_BMP.argmax(-1)[..., None].expand(-1, -1, pixels_BPD.shape[-1])
    alone = pixels_BPD.gather(1, best)
    alone[:, :cells] = 0
    return torch.where(count_BM1 > 0, mean, alone)


def pool_soft(pixels_BPD: Tensor, masks_BMP: Tensor, cells: int) -> Tensor:
    """-> B M D: mean weighted by the mask, with gradients; an empty mask gives nearly the mean over its few faint pixels."""
    return masks_BMP @ pixels_BPD / masks_BMP.sum(-1, keepdim=True).clamp(min=1e-3)


def dot_max(map_BDHW: Tensor, tokens_BTMD: Tensor, valid_BTM: Tensor) -> Tensor:
    """-> B M H W: each descriptor's scaled product with the map, maximum over the T frames that know it, else UNKNOWN."""
    batch, frames, count, width = tokens_BTMD.shape
    height, columns = map_BDHW.shape[-2:]
    logits = tokens_BTMD.flatten(1, 2) / math.sqrt(width) @ map_BDHW.flatten(2)
    logits = logits.view(batch, frames, count, height * columns)
    if not bool(valid_BTM.all()):
        logits = logits.masked_fill(~valid_BTM[..., None], UNKNOWN)
    return logits.amax(1).view(batch, count, height, columns)

"""Descriptors from masks, and logits from descriptors: functions without parameters. Shapes as in `base`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.models.prediction import UNKNOWN
from hodor.tensors import is_exported


def background_cells(masks_BNHW: Tensor, grid: int) -> Tensor:
    """Split the background, 1 - the sum of the objects' masks, into grid x grid cells.

    Args:
        masks_BNHW: soft masks in [0, 1].
        grid: number of rows and columns of cells; the last ones include the remainder.

    Returns:
        Tensor [B, grid*grid, H, W] in [0, 1].
    """
    rest_B1HW = (1 - masks_BNHW.sum(1, keepdim=True)).clamp(min=0)
    height, width = masks_BNHW.shape[-2:]
    row = (torch.arange(height, device=masks_BNHW.device) // max(height // grid, 1)).clamp(max=grid - 1)
    column = (torch.arange(width, device=masks_BNHW.device) // max(width // grid, 1)).clamp(max=grid - 1)
    cell_HW = row[:, None] * grid + column
    return rest_B1HW * F.one_hot(cell_HW, grid * grid).permute(2, 0, 1).to(rest_B1HW.dtype)


@torch.no_grad()
def pool_hard(pixels_BPD: Tensor, masks_BMP: Tensor, cells: int) -> Tensor:
    """Pool the mean over the pixels whose mask exceeds 0.5, without gradient.

    Without such a pixel, an object gets the pixel of its largest mask value, and a background cell a zero vector.

    Args:
        pixels_BPD: features.
        masks_BMP: soft masks in [0, 1], the background cells first.
        cells: number of background cells.

    Returns:
        Tensor [B, M, D].
    """
    inside_BMP = (masks_BMP > 0.5).to(pixels_BPD.dtype)
    count_BM1 = inside_BMP.sum(-1, keepdim=True)
    mean = inside_BMP @ pixels_BPD / count_BM1.clamp(min=1)
    best = masks_BMP.argmax(-1)[..., None].expand(-1, -1, pixels_BPD.shape[-1])
    alone = pixels_BPD.gather(1, best)
    alone[:, :cells] = 0
    return torch.where(count_BM1 > 0, mean, alone)


def pool_soft(pixels_BPD: Tensor, masks_BMP: Tensor, cells: int) -> Tensor:
    """Pool the mean weighted by the mask, with gradients; the sum of the weights is bounded below by 1e-3.

    Args:
        pixels_BPD: features.
        masks_BMP: soft masks in [0, 1].
        cells: number of background cells; not used.

    Returns:
        Tensor [B, M, D].
    """
    return masks_BMP @ pixels_BPD / masks_BMP.sum(-1, keepdim=True).clamp(min=1e-3)


def dot_max(map_BDHW: Tensor, tokens_BTMD: Tensor, valid_BTM: Tensor) -> Tensor:
    """Compute the scaled product of each descriptor with the map, maximum over the T frames that are valid for it.

    Args:
        map_BDHW: features.
        tokens_BTMD: descriptors of T frames.
        valid_BTM: bool, whether the frame is valid for the object or cell.

    Returns:
        Logits [B, M, H, W]; UNKNOWN where no frame is valid.
    """
    batch, frames, count, width = tokens_BTMD.shape
    height, columns = map_BDHW.shape[-2:]
    logits = tokens_BTMD.flatten(1, 2) / math.sqrt(width) @ map_BDHW.flatten(2)
    logits = logits.view(batch, frames, count, height * columns)
    if is_exported() or not bool(valid_BTM.all()):
        logits = logits.masked_fill(~valid_BTM[..., None], UNKNOWN)
    return logits.amax(1).view(batch, count, height, columns)

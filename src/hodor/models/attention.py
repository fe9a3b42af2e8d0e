"""Soft-masked attention, deformable convolution and sine positions: the parts of HODOR that stand on their own."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hodor.models.layers import Linear, linear

CHUNK_ROWS = 1024
"""Pixels whose nine taps are gathered at a time: their product stays in a core's second-level cache."""


class SoftMaskedAttention(nn.Module):
    """Cross-attention from objects to pixels that leans towards each object's own pixels.

        out = softmax(Q K^T / sqrt(D/h) + a M) V W_o                                     HODOR, Eq. 2

    M in [0, 1] is the object's soft mask; a, in logits, is learned per head, 32 ... 4 at the start. The released code
    subtracts a(1 - M) outside the scaling: a constant per row away, which softmax ignores. Gradients flow through M.

    scale "released": as above. "paper": softmax((Q K^T + a M) / sqrt(D)), the formula as printed, where a leans sqrt(D)
    times more weakly. conditioning "hard": pixels with M <= 0.5 get no weight at all (Table 3, row 3); "none": M is ignored
    (row 2).
    """

    def __init__(
        self, width: int, heads: int, *, conditioning: str = "soft", scale: str = "released", dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.heads, self.conditioning, self.scale = heads, conditioning, scale
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (Linear(width, width) for _ in range(4))
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        steps = torch.tensor([32.0, 16.0, 8.0, 4.0])
        self.scaling_factors = nn.Parameter(steps[(torch.arange(heads) * 4) // heads].clone())
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries_BND: Tensor, keys_BPD: Tensor, values_BPD: Tensor, mask_BNP: Tensor) -> Tensor:
        """-> BND. mask_BNP in [0, 1], rows need not sum to one; an all-zero row attends as if unmasked.

        Raises ValueError if the mask has not one row per query: "mask has 3 rows, queries 4".
        """
        if mask_BNP.shape[1] != queries_BND.shape[1]:
            raise ValueError(f"mask has {mask_BNP.shape[1]} rows, queries {queries_BND.shape[1]}")
        width = queries_BND.shape[-1]
        q_BhNd = split_heads(self.q_proj(queries_BND), self.heads)
        k_BhPd = split_heads(self.k_proj(keys_BPD), self.heads)
        v_BhPd = split_heads(self.v_proj(values_BPD), self.heads)
        logits_BhNP = q_BhNd @ k_BhPd.transpose(-1, -2) / math.sqrt(width if self.scale == "paper" else width / self.heads)
        mask_B1NP = mask_BNP[:, None]
        if self.conditioning == "soft":
            lean = self.scaling_factors / math.sqrt(width) if self.scale == "paper" else self.scaling_factors
            logits_BhNP = logits_BhNP - lean.view(1, -1, 1, 1) * (1 - mask_B1NP)
        elif self.conditioning == "hard":
            outside = mask_B1NP <= 0.5
            outside = outside & ~outside.all(-1, keepdim=True)
            logits_BhNP = logits_BhNP.masked_fill(outside, -math.inf)
        weights_BhNP = self.dropout(logits_BhNP.softmax(-1))
        out: Tensor = self.out_proj(join_heads(weights_BhNP @ v_BhPd))
        return out


def split_heads(x_BND: Tensor, heads: int) -> Tensor:
    """B N D -> B h N D/h."""
    out: Tensor = x_BND.unflatten(-1, (heads, -1)).transpose(1, 2)
    return out


def join_heads(x_BhNd: Tensor) -> Tensor:
    """B h N D/h -> B N D."""
    return x_BhNd.transpose(1, 2).flatten(-2)


class DeformableConv(nn.Module):
    """3 x 3 convolution whose nine taps look at learned places (deformable convolution v1: no modulation, one group).

    Offsets come from an ordinary 3 x 3 convolution with its default initialisation, as in the released code; they are in
    pixels, (dy, dx) for each tap, taps row by row. Samples are bilinear, zero outside. The sampling is a weighted bag of
    four rows of the pixel table, which a CPU does faster than `grid_sample`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_offsets = nn.Conv2d(width, 18, 3, padding=1)
        self.conv_deform = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        return deform_conv(x_BDHW, self.conv_offsets(x_BDHW), self.conv_deform.weight, self.conv_deform.bias)


def deform_conv(x_BDHW: Tensor, offsets_BtHW: Tensor, weight_EDkk: Tensor, bias_E: Tensor | None) -> Tensor:
    """Deformable 3 x 3 convolution, padding 1, stride 1: offsets have 18 channels, (dy, dx) of each tap, in pixels."""
    batch, _, height, width = x_BDHW.shape
    rows_R4, weights_R4 = _bilinear_rows(offsets_BtHW)
    table = x_BDHW.permute(0, 2, 3, 1).reshape(batch * height * width, -1).contiguous()
    weights_R4 = weights_R4.to(table.dtype)
    kernel = weight_EDkk.permute(0, 2, 3, 1).flatten(1).to(table.dtype)
    bias_E = None if bias_E is None else bias_E.to(table.dtype)
    pieces = []
    chunk = batch * height * width if torch.is_grad_enabled() or table.is_cuda else CHUNK_ROWS
    for start in range(0, batch * height * width, chunk):
        part = slice(start * 9, (start + chunk) * 9)
        samples = F.embedding_bag(rows_R4[part], table, per_sample_weights=weights_R4[part], mode="sum")
        pieces.append(linear(samples.view(-1, kernel.shape[1]), kernel, bias_E))
    out = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return out.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _bilinear_rows(offsets_BtHW: Tensor) -> tuple[Tensor, Tensor]:
    """-> for every sample (B, H, W, tap) the four rows of the pixel table it blends, and their weights (zero outside)."""
    batch, _, height, width = offsets_BtHW.shape
    device = offsets_BtHW.device
    offsets_BHWt2 = offsets_BtHW.float().permute(0, 2, 3, 1).reshape(batch, height, width, 9, 2)
    tap = torch.arange(9, device=device)
    rows = torch.arange(height, device=device, dtype=torch.float32)
    columns = torch.arange(width, device=device, dtype=torch.float32)
    y = offsets_BHWt2[..., 0] + (tap // 3 - 1) + rows[:, None, None]
    x = offsets_BHWt2[..., 1] + (tap % 3 - 1) + columns[:, None]
    top, left = y.detach().floor(), x.detach().floor()
    down, right = y - top, x - left
    y4 = torch.stack([top, top, top + 1, top + 1], -1)
    x4 = torch.stack([left, left + 1, left, left + 1], -1)
    weights = torch.stack([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right], -1)
    inside = (y4 >= 0) & (y4 < height) & (x4 >= 0) & (x4 < width)
    index = y4.clamp(0, height - 1) * width + x4.clamp(0, width - 1)
    index = index.long() + (torch.arange(batch, device=device) * height * width).view(-1, 1, 1, 1, 1)
    return index.view(-1, 4), (weights * inside).view(-1, 4)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a cached tensor also serves training steps
def sine_positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """-> [channels, H, W] sine and cosine of both coordinates (rows first), normalised to 2 pi, temperature 10,000: DETR's."""
    half = channels // 2
    frequency = 10000 ** (2 * (torch.arange(half, device=device) // 2) / half)

    def axis(length: int) -> Tensor:
        place = torch.arange(1, length + 1, device=device, dtype=torch.float32)
        angle = place[:, None] / (length + 1e-6) * 2 * math.pi / frequency
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], 2).flatten(1)

    y_HD, x_WD = axis(height), axis(width)
    y = y_HD.t()[:, :, None].expand(half, height, width)
    x = x_WD.t()[:, None, :].expand(half, height, width)
    return torch.cat([y, x])

"""Soft-masked attention, deformable convolution and sine positions: the modules of HODOR that do not depend on the others."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hodor.models.layers import Linear, linear
from hodor.tensors import is_exported

CHUNK_ROWS = 1024
"""Pixels whose nine taps are gathered at a time, so that their product fits a core's second-level cache."""


class SoftMaskedAttention(nn.Module):
    """Cross-attention from objects to pixels with a bias towards each object's own pixels.

        out = softmax(Q K^T / sqrt(D/h) + a M) V W_o                                     HODOR, Eq. 2

    M in [0, 1] is the object's soft mask. The bias a, in logits, is learned per head and begins at 32 ... 4. The released code
    subtracts a(1 - M) outside the scaling, which differs by a constant per row that softmax ignores. Gradients flow through M.

    Args:
        width: channels (D).
        heads: number of heads (h).
        conditioning: "soft" as above; "hard" gives pixels with M <= 0.5 no weight (Table 3, row 3); "none" ignores M (row 2).
            Default: "soft".
        scale: "released" as above; "paper" is the formula as printed, softmax((Q K^T + a M) / sqrt(D)), with a bias that is
            weaker by sqrt(D). Default: "released".
        dropout: rate of dropout on the attention weights. Default: 0.1.

    Source: HODOR, section 3.1.
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
        """Attend from queries to pixels.

        Args:
            queries_BND: one query an object.
            keys_BPD: keys of the pixels.
            values_BPD: values of the pixels.
            mask_BNP: soft masks in [0, 1]; rows need not sum to 1. A row of zeros attends as without a mask.

        Returns:
            Tensor [B, N, D].

        Raises:
            ValueError: "expected a mask of 4 rows, one a query, got 3".
        """
        if mask_BNP.shape[1] != queries_BND.shape[1]:
            raise ValueError(f"expected a mask of {queries_BND.shape[1]} rows, one a query, got {mask_BNP.shape[1]}")
        width = queries_BND.shape[-1]
        q_BhNd = split_heads(self.q_proj(queries_BND), self.heads)
        k_BhPd = split_heads(self.k_proj(keys_BPD), self.heads)
        v_BhPd = split_heads(self.v_proj(values_BPD), self.heads)
        logits_BhNP = q_BhNd @ k_BhPd.transpose(-1, -2) / math.sqrt(width if self.scale == "paper" else width / self.heads)
        mask_B1NP = mask_BNP[:, None]
        if self.conditioning == "soft":
            bias = self.scaling_factors / math.sqrt(width) if self.scale == "paper" else self.scaling_factors
            logits_BhNP = logits_BhNP - bias.view(1, -1, 1, 1) * (1 - mask_B1NP)
        elif self.conditioning == "hard":
            outside = mask_B1NP <= 0.5
            outside = outside & ~outside.all(-1, keepdim=True)
            logits_BhNP = logits_BhNP.masked_fill(outside, -math.inf)
        weights_BhNP = self.dropout(logits_BhNP.softmax(-1))
        out: Tensor = self.out_proj(join_heads(weights_BhNP @ v_BhPd))
        return out


def split_heads(x_BND: Tensor, heads: int) -> Tensor:
    """Reshape B N D to B h N D/h."""
    out: Tensor = x_BND.unflatten(-1, (heads, -1)).transpose(1, 2)
    return out


def join_heads(x_BhNd: Tensor) -> Tensor:
    """Reshape B h N D/h to B N D."""
    return x_BhNd.transpose(1, 2).flatten(-2)


class DeformableConv(nn.Module):
    """3 x 3 convolution with learned sampling positions (deformable convolution v1: no modulation, one group).

    Offsets are the output of an ordinary 3 x 3 convolution with its default initialisation, as in the released code. They are
    in pixels, (dy, dx) for each tap, taps row by row. Samples are bilinear, zero outside. Sampling is a weighted sum of four
    rows of the pixel table (an embedding bag), which is faster on a CPU than `grid_sample`.

    Args:
        width: channels of input and output.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_offsets = nn.Conv2d(width, 18, 3, padding=1)
        self.conv_deform = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        return deform_conv(x_BDHW, self.conv_offsets(x_BDHW), self.conv_deform.weight, self.conv_deform.bias)


def deform_conv(x_BDHW: Tensor, offsets_BtHW: Tensor, weight_EDkk: Tensor, bias_E: Tensor | None) -> Tensor:
    """Compute a deformable 3 x 3 convolution with padding 1 and stride 1.

    Args:
        x_BDHW: input.
        offsets_BtHW: (dy, dx) of each tap, in pixels, 18 channels.
        weight_EDkk: weight of the convolution.
        bias_E: bias, or None.

    Returns:
        Tensor [B, E, H, W].

    Raises:
        FloatingPointError: "expected finite sampling positions, got NaN or infinity: ...", where these end the sampling (CPU).
    """
    if is_exported():
        return _traced_deform_conv(x_BDHW, offsets_BtHW, weight_EDkk, bias_E)
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
        try:
            samples = F.embedding_bag(rows_R4[part], table, per_sample_weights=weights_R4[part], mode="sum")
        except RuntimeError:
            if torch.isfinite(offsets_BtHW).all():
                raise
            advice = "the network has diverged, use weights from before that"
            raise FloatingPointError(f"expected finite sampling positions, got NaN or infinity: {advice}") from None
        pieces.append(linear(samples.view(-1, kernel.shape[1]), kernel, bias_E))
    out = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return out.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _traced_deform_conv(x_BDHW: Tensor, offsets_BtHW: Tensor, weight_EDkk: Tensor, bias_E: Tensor | None) -> Tensor:
    """`deform_conv` by `grid_sample`, of which ONNX has the operator, for a frame of any size."""
    height, width = x_BDHW.shape[-2:]
    row_H1 = torch.arange(height, device=x_BDHW.device, dtype=torch.float32)[:, None]
    column_W = torch.arange(width, device=x_BDHW.device, dtype=torch.float32)
    tap_t = torch.arange(9, device=x_BDHW.device)
    y_BtHW = offsets_BtHW[:, 0::2] + (tap_t // 3 - 1)[:, None, None] + row_H1
    x_BtHW = offsets_BtHW[:, 1::2] + (tap_t % 3 - 1)[:, None, None] + column_W
    grid_BtHW2 = torch.stack([(2 * x_BtHW + 1) / width - 1, (2 * y_BtHW + 1) / height - 1], -1)
    taps = [F.grid_sample(x_BDHW, grid_BtHW2[:, t], align_corners=False) for t in range(9)]
    return F.conv2d(torch.cat(taps, 1), weight_EDkk.flatten(2).transpose(1, 2).flatten(1)[..., None, None], bias_E)


def _bilinear_rows(offsets_BtHW: Tensor) -> tuple[Tensor, Tensor]:
    """For each sample (B, H, W, tap) the four rows of the pixel table that it blends, and their weights (zero outside)."""
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


def sine_positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Compute DETR's position encoding: sine and cosine of both coordinates, normalised to 2 pi, temperature 10,000.

    Args:
        height: rows.
        width: columns.
        channels: number of channels; the first half encodes rows, the second columns.
        device: device of the result.

    Returns:
        Tensor [channels, H, W], float32.
    """
    return (
        _sine_positions(height, width, channels, device)
        if is_exported()
        else _cached_positions(height, width, channels, device)
    )


def _sine_positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
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


# a cached tensor is used in training steps too
_cached_positions = lru_cache(maxsize=8)(torch.inference_mode(False)(_sine_positions))

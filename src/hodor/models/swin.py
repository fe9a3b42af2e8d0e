"""Swin Transformer, tiny (Liu et al., 2021), as in detectors: any image size, four outputs, each with a LayerNorm.

Parameter names are those of the released detection checkpoints, so loading them only strips a prefix. Internally maps are
channels-last: B images, H x W cells, D channels, S = 49 cells of a window, h heads.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hodor.models.layers import Backbone, Linear, linear

WINDOW = 7
SHIFT = WINDOW // 2
HEAD_WIDTH = 32
CHUNK = 2**22  # values of the widest layer that the CPU holds at once
MASKED = -100.0  # added to the logits of cells that only the cyclic shift made neighbours


def relative_position_index() -> Tensor:
    """Compute the row of the bias table for each pair of cells, (dy + 6) * 13 + dx + 6 with d = query - key: int64 [S, S]."""
    y, x = torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy, dx = y[:, None] - y[None], x[:, None] - x[None]
    return (dy + WINDOW - 1) * (2 * WINDOW - 1) + dx + WINDOW - 1


def shift_mask(rows: int, columns: int, like: Tensor) -> Tensor:
    """Compute the attention mask of a shifted grid of windows.

    Rolling the map by SHIFT cells moves its first SHIFT rows below its last ones: only the last row of windows contains both,
    and the same holds for the last column. There the two sides must not attend to each other.

    Args:
        rows: rows of windows.
        columns: columns of windows.
        like: a tensor of the device and type of the result.

    Returns:
        Tensor [rows * columns, 1, S, S] of 0 or MASKED.
    """
    cell = torch.arange(WINDOW, device=like.device) >= WINDOW - SHIFT
    wrapped_y, wrapped_x = cell.repeat_interleave(WINDOW), cell.repeat(WINDOW)
    apart_y, apart_x = wrapped_y[:, None] != wrapped_y[None], wrapped_x[:, None] != wrapped_x[None]
    last_row = (torch.arange(rows, device=like.device) == rows - 1)[:, None, None, None]
    last_column = (torch.arange(columns, device=like.device) == columns - 1)[None, :, None, None]
    apart = (last_row & apart_y) | (last_column & apart_x)
    mask = torch.zeros(apart.shape, dtype=like.dtype, device=like.device).masked_fill_(apart, MASKED)
    return mask.reshape(rows * columns, 1, WINDOW**2, WINDOW**2)


class WindowAttention(nn.Module):
    """Self-attention in windows of 7 x 7 cells, with a learned bias for each relative position and head."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(), persistent=False)
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows; x is [B * windows, S, D], the mask [windows, 1, S, S] or None."""
        count, cells, width = x.shape
        q, k, v = self.qkv(x).view(count, cells, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        index = self.relative_position_index.flatten()
        bias = self.relative_position_bias_table[index].view(cells, cells, self.heads).permute(2, 0, 1)[None]
        if mask is not None:
            # every image has the same windows, so the mask repeats along the batch
            bias = (bias + mask).repeat(count // len(mask), 1, 1, 1)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        mixed: Tensor = self.proj(x.transpose(1, 2).reshape(count, cells, width))
        return mixed


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); odd blocks shift their windows by three cells."""

    def __init__(self, width: int, shifted: bool, drop_path: float):
        super().__init__()
        self.shifted, self.drop_path = shifted, drop_path
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, width // HEAD_WIDTH)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"fc1": Linear(width, 4 * width), "fc2": Linear(4 * width, width)})

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Apply the block to x, [B, H, W, D]; `mask` is the shift mask of the padded grid, used by shifted blocks only."""
        x = x + self._drop(self._attend(self.norm1(x), mask if self.shifted else None))
        return x + self._drop(self._mix(x))

    def _mix(self, x: Tensor) -> Tensor:
        exporting = torch.onnx.is_in_onnx_export() or torch.compiler.is_compiling()
        if torch.is_grad_enabled() or exporting or x.device.type != "cpu":
            return self._mlp(x)
        # in chunks the wide layer reuses memory, which is faster
        cells = x.reshape(-1, x.shape[-1])
        out = torch.empty_like(cells)
        rows = max(1, CHUNK // (4 * x.shape[-1]))
        for i in range(0, len(cells), rows):
            out[i : i + rows] = self._mlp(cells[i : i + rows])
        return out.view(x.shape)

    def _mlp(self, x: Tensor) -> Tensor:
        fc1 = cast(Linear, self.mlp["fc1"])
        mixed: Tensor = self.mlp["fc2"](linear(self.norm2(x), fc1.weight, fc1.bias, "gelu"))
        return mixed

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, height, width, channels = x.shape
        # padding follows the norm and is part of the attention, as in the released code
        x = F.pad(x, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
        padded = x.shape
        if self.shifted:
            x = x.roll((-SHIFT, -SHIFT), (1, 2))
        rows, columns = padded[1] // WINDOW, padded[2] // WINDOW
        x = x.view(batch, rows, WINDOW, columns, WINDOW, channels).transpose(2, 3)
        x = self.attn(x.reshape(-1, WINDOW**2, channels), mask)
        x = x.view(batch, rows, columns, WINDOW, WINDOW, channels).transpose(2, 3).reshape(padded)
        if self.shifted:
            x = x.roll((SHIFT, SHIFT), (1, 2))
        return x[:, :height, :width]

    def _drop(self, x: Tensor) -> Tensor:
        """Stochastic depth: in training, drop the branch for some images and scale it up for the others."""
        if not self.training or self.drop_path == 0:
            return x
        kept = torch.rand(x.shape[0], 1, 1, 1, device=x.device) >= self.drop_path
        return x * kept.to(x.dtype) / (1 - self.drop_path)


class PatchMerging(nn.Module):
    """Halves the map: concatenates four neighbours (down first, then right), LayerNorm, projection to twice the width."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        merged: Tensor = self.reduction(self.norm(x))
        return merged


class SwinStage(nn.Module):
    """Blocks at one resolution and, except in the last stage, the patch merging after their output."""

    def __init__(self, width: int, drop_paths: list[float], merge: bool):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, i % 2 == 1, rate) for i, rate in enumerate(drop_paths))
        self.downsample = PatchMerging(width) if merge else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return this stage's map and the next stage's input (the same map after the last stage)."""
        mask = shift_mask(-(-x.shape[1] // WINDOW), -(-x.shape[2] // WINDOW), x)
        for block in self.blocks:
            x = block(x, mask)
        return x, x if self.downsample is None else self.downsample(x)


class PatchEmbed(nn.Module):
    """Embeds 4 x 4 pixels as one cell of 96 channels, then LayerNorm; images are zero-padded to whole patches."""

    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, 4, 4)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(F.pad(x, (0, -x.shape[-1] % 4, 0, -x.shape[-2] % 4)))
        embedded: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return embedded


class SwinTiny(Backbone):
    """Swin-T with detection outputs: 96, 192, 384, 768 channels at strides 4, 8, 16, 32, each with its own LayerNorm.

    Outputs are channels-last in memory.

    Args:
        drop_path: rate of stochastic depth at the last block, in training only; it grows linearly from 0 at the first block.
            Detection and HODOR train with 0.2. Default: 0.0.
    """

    channels = (96, 192, 384, 768)
    strides = (4, 8, 16, 32)

    def __init__(self, drop_path: float = 0.0):
        super().__init__()
        depths = (2, 2, 6, 2)
        rates = torch.linspace(0, drop_path, sum(depths)).tolist()
        self.patch_embed = PatchEmbed(self.channels[0])
        stages = []
        for i, (width, depth) in enumerate(zip(self.channels, depths, strict=True)):
            start = sum(depths[:i])
            stages.append(SwinStage(width, rates[start : start + depth], merge=i < 3))
        self.layers = nn.ModuleList(stages)
        self.norm0, self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for width in self.channels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def parts(self) -> list[list[nn.Module]]:
        groups: list[list[nn.Module]] = []
        before: list[nn.Module] = [self.patch_embed]
        for stage, norm in zip(self.layers, (self.norm0, self.norm1, self.norm2, self.norm3), strict=True):
            assert isinstance(stage, SwinStage)
            groups.append([*before, stage.blocks, norm])
            before = [] if stage.downsample is None else [stage.downsample]
        return groups

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs = []
        x = self.patch_embed(x)
        for stage, norm in zip(self.layers, (self.norm0, self.norm1, self.norm2, self.norm3), strict=True):
            y, x = stage(x)
            outputs.append(norm(y).permute(0, 3, 1, 2))
        return tuple(outputs)

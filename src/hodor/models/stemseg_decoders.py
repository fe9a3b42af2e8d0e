"""The decoders of STEm-Seg: 3D convolutions that squeeze a clip in time at coarse strides and expand it again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOTS = {2: 0, 4: 1, 8: 2, 16: 3, 24: 3, 32: 3}
"""Number of frames of a clip -> number of units of a level, counted from its first, that are followed by a pooling in time."""
UNITS = (3, 2, 1, 1)
"""Units at strides 32, 16, 8 and 4."""
POOLS = (3, 2, 1, 0)
"""Units of each level that a pooling can follow."""


def check_length(frames: int) -> int:
    """Return the number of frames of a clip.

    Raises:
        ValueError: "expected clips of 2, 4, 8, 16, 24 or 32 frames, got 5: give another number of frames".
    """
    if frames not in SLOTS:
        known = ", ".join(map(str, list(SLOTS)[:-1]))
        raise ValueError(f"expected clips of {known} or 32 frames, got {frames}: give another number of frames")
    return frames


class Unit(nn.Module):
    """3x3x3 convolution, group norm, ReLU.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        groups: groups of the norm.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, padding=1)
        self.norm = nn.GroupNorm(groups, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)), inplace=True)


class Decoder(nn.Module):
    """Combines the pyramid's maps of a clip into one map at stride 4 with all frames.

    At each level some units, of which the first halve the number of frames: mean of 3x3x3 cells, every second frame, with zeros
    beyond the border. From coarse to fine the maps are enlarged linearly, in time too where the finer level has more frames,
    and combined by a 1x1x1 convolution without bias. How many units pool depends on the length of the clip alone, so that the
    same weights read clips of 2 to 32 frames.

    Args:
        inputs: channels of the pyramid.
        widths: channels at strides 32, 16, 8 and 4; the last are those of the output. Default: 256, 256, 128, 128.
        groups: groups of the norms. Default: 32.

    Raises:
        ValueError: "expected 4 widths that divide by 32, got [256, 100]".
    """

    def __init__(self, inputs: int, widths: Sequence[int] = (256, 256, 128, 128), groups: int = 32) -> None:
        super().__init__()
        if len(widths) != 4 or any(width < 1 or width % groups for width in widths):
            raise ValueError(f"expected 4 widths that divide by {groups}, got {list(widths)}")
        self.levels = nn.ModuleList(
            nn.ModuleList(Unit(inputs if i == 0 else width, width, groups) for i in range(units))
            for units, width in zip(UNITS, widths, strict=True)
        )
        self.merges = nn.ModuleList(nn.Conv3d(coarse + fine, fine, 1, bias=False) for coarse, fine in pairwise(widths))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Decode clips.

        Args:
            maps: of the pyramid at strides 4, 8, 16 and 32, each [B, D, T, H, W].

        Returns:
            Tensor [B, widths[3], T, H, W] at stride 4.

        Raises:
            ValueError: as `check_length`.
        """
        slots = SLOTS[check_length(maps[0].shape[2])]
        out = maps[0].new_zeros(0)
        for level, x in enumerate(reversed(maps)):
            for i, unit in enumerate(self.levels[level].children()):
                x = unit(x)
                if i < min(slots, POOLS[level]):
                    # padded here, since avg_pool3d refuses maps of fewer than 3 cells, whatever its padding
                    x = F.avg_pool3d(F.pad(x, (1,) * 6), 3, (2, 1, 1))
            if level:
                size = x.shape[2:]
                out = F.interpolate(out, size=size, mode="trilinear", align_corners=False)
                x = self.merges[level - 1](torch.cat([out, x], 1))
            out = x
        return out

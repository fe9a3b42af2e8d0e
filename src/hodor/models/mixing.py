"""The mixing functions of STEm-Seg: which dimensions of an embedding are coordinates of the pixel, and which are free.

The name of a mode lists its dimensions: x, y and t are coordinates, to which the network adds at most 1; each f is free, only
what the network computes.
"""

from __future__ import annotations

import torch
from torch import Tensor

FREE = {"xy": 0, "ff": 0, "xyt": 0, "xyf": 1, "xytf": 1, "xyff": 2, "xytff": 2, "xyfff": 3}
"""Mode -> number of dimensions whose bandwidth is fixed. Those of "ff" are learned."""


def check_mode(mode: str) -> str:
    """Return a mode of `FREE`.

    Raises:
        ValueError: "expected a mode of xy, ff, ..., got 'x'".
    """
    if mode not in FREE:
        raise ValueError(f"expected a mode of {', '.join(FREE)}, got {mode!r}")
    return mode


def coordinates(mode: str, frames: int, height: int, width: int) -> Tensor:
    """Compute what is added to the network's output: the coordinates of each pixel of a clip.

    Args:
        mode: a key of `FREE`.
        frames: number of frames.
        height: rows of the map of the padded frame.
        width: columns of the map.

    Returns:
        Tensor [E, T, H, W], the channels in the order t, y, x, free: t from -1 to 1 over the clip; y from -b to b and x from -a
        to a over the map, a = max(1, W / H), b = max(1, H / W); 0 for free dimensions.

    Raises:
        ValueError: as `check_mode`.
    """
    check_mode(mode)
    across, down = max(1.0, width / height), max(1.0, height / width)
    lines = {
        "t": torch.linspace(-1, 1, frames)[:, None, None],
        "y": torch.linspace(-down, down, height)[None, :, None],
        "x": torch.linspace(-across, across, width)[None, None, :],
    }
    planes = [line.expand(frames, height, width) for name, line in lines.items() if name in mode]
    planes += [torch.zeros(frames, height, width)] * mode.count("f")
    return torch.stack(planes)

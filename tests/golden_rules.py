"""The inputs and synthetic weights behind tests/golden/*.npz.

The arrays were made by running the original implementations (HODOR 45da732, Cutie ec5cdd4, XMem f3b841d, STCN eb83102)
on a CPU with weights from `fill` and input from `frames` and `masks`; PyTorch 2.13, one thread.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"

KEPT_AS_BUILT = ("num_batches_tracked", "relative_position_index", "inv_freq", "time_scale", "free_dim_bandwidths")
RECTANGLES = {1: (13, 55, 19, 66), 2: (41, 86, 90, 139), 3: (6, 37, 101, 150)}  # y0, y1, x0, x1, half open
PHASES = {"hodor": 0.0, "cutie-small": 0.9, "xmem": 0.9, "stcn": 0.6, "stemseg": 0.3}
WAVES = (  # per channel: a1, b1, d1, p1, a2, b2, d2, p2
    (1, 2, 0.35, 0, 5, -3, -0.5, 0.7),
    (2, -1, 0.3, 1.1, -4, 5, 0.45, 2.3),
    (-1.5, 1.5, -0.4, 2, 3, 6, 0.55, 0.4),
)


def keys(network: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the original state dict, in its order, from golden/keys_<network>.txt."""
    shapes = {}
    for line in (GOLDEN / f"keys_{network}.txt").read_text().splitlines():
        name, shape, _ = line.split("\t")
        shapes[name] = tuple(int(size) for size in shape.strip("()").split(",") if size)
    return shapes


def fill(shapes: Mapping[str, Sequence[int]], network: str = "hodor") -> dict[str, Tensor]:
    """Weights for the original key names; counters, index tables and fixed frequencies are left out."""
    state = {}
    for key, size in shapes.items():
        shape = tuple(size)
        if key.endswith(KEPT_AS_BUILT):
            continue
        g = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        if key.endswith("cross_attn.scaling_factors"):
            value = torch.tensor([32.0, 32, 16, 16, 8, 8, 4, 4])
        elif key.endswith("running_mean"):
            value = 0.1 * torch.randn(shape, generator=g)
        elif key.endswith("running_var"):
            value = 1 + 0.1 * torch.rand(shape, generator=g)
        elif len(shape) >= 2:
            value = torch.randn(shape, generator=g) / math.sqrt(math.prod(shape[1:]))
        elif key.endswith("weight"):
            value = 1 + 0.1 * torch.randn(shape, generator=g)
        else:
            value = 0.1 * torch.randn(shape, generator=g)
        state[key] = value
    _afterwards(state, network)
    return state


def _afterwards(state: dict[str, Tensor], network: str) -> None:
    """Keep attention and masks in a useful range."""
    scales = {
        "hodor": {"decoder.instance_query_proj.weight": 4.0, "decoder.bg_query_proj.weight": 2.0},
        "cutie-small": {"key_proj.key_proj.weight": 0.4},
        "stemseg": {
            "embedding_head.conv_embedding.weight": 2.0,
            "seediness_head.conv_out.weight": 6.0,
            "embedding_head.conv_seediness.weight": 3.0,
            "semseg_head.conv_out.weight": -1.0,
        },
    }
    biases = {
        "cutie-small": {"mask_decoder.pred.bias": -3.0},
        "xmem": {"decoder.pred.bias": -1.4},
        "stcn": {"decoder.pred.bias": -1.0},
    }
    for key, scale in scales.get(network, {}).items():
        if key in state:
            state[key] = state[key] * scale
    for key, value in biases.get(network, {}).items():
        if key in state:
            state[key] = torch.full_like(state[key], value)


def frames(phi0: float, T: int = 5, H: int = 96, W: int = 160, waves: tuple[int, int] = (96, 160)) -> Tensor:
    """-> float32 [T, 3, H, W] in [0, 1]: two plane waves per channel that move with time.

    The waves' divisors are 96 and 160 by default: a smaller H or W crops the same pictures (case C: 90 x 148 or 90 x 150).
    """
    t = torch.arange(T, dtype=torch.float64)[:, None, None]
    y = torch.arange(H, dtype=torch.float64)[None, :, None] / waves[0]
    x = torch.arange(W, dtype=torch.float64)[None, None, :] / waves[1]
    channels = []
    for a1, b1, d1, p1, a2, b2, d2, p2 in WAVES:
        first = torch.sin(2 * math.pi * (a1 * x + b1 * y) + d1 * t + p1 + phi0)
        second = torch.sin(2 * math.pi * (a2 * x + b2 * y) + d2 * t + p2 + phi0)
        channels.append(0.5 + 0.25 * first + 0.25 * second)
    return torch.stack(channels, 1).float()


def masks(H: int = 96, W: int = 160) -> dict[int, Tensor]:
    """-> {object: float32 [H, W] of 0 and 1}: rectangles, cut at the border; 1, 2 given on frame 0, 3 on frame 2."""
    planes = {}
    for name, (y0, y1, x0, x1) in RECTANGLES.items():
        plane = torch.zeros(H, W)
        plane[y0:y1, x0:x1] = 1
        planes[name] = plane
    return planes


def normalised(images: Tensor) -> Tensor:
    """RGB in [0, 1] -> ImageNet mean and standard deviation removed."""
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    return (images - mean[:, None, None]) / std[:, None, None]

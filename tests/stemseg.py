"""The golden cases of STEm-Seg (tests/golden/stemseg.npz): networks with the weights of the rule, frames, features, maps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import golden
import numpy as np
import torch
from golden_rules import PHASES, fill, frames, keys

from hodor.models import finders, released, weights
from hodor.models.finder import Maps
from hodor.models.prediction import Features
from hodor.models.stemseg import STEmSeg

KITTI = {  # names of the YouTube-VIS file -> shapes that differ
    "embedding_head.conv_embedding.weight": (3, 128, 1, 1, 1),
    "embedding_head.conv_variance.weight": (3, 128, 1, 1, 1),
    "embedding_head.conv_variance.bias": (3,),
    "semseg_head.conv_out.weight": (4, 128, 1, 1, 1),
    "semseg_head.block_8x.0.weight": (128, 256, 3, 3, 3),
    "semseg_head.block_8x.0.bias": (128,),
    "semseg_head.block_8x.1.weight": (128,),
    "semseg_head.block_8x.1.bias": (128,),
    "semseg_head.block_4x.0.weight": (128, 256, 3, 3, 3),
    "semseg_head.block_4x.0.bias": (128,),
    "semseg_head.block_4x.1.weight": (128,),
    "semseg_head.block_4x.1.bias": (128,),
    "semseg_head.conv_8.weight": (128, 384, 1, 1, 1),
    "semseg_head.conv_4.weight": (128, 256, 1, 1, 1),
}
FREE = "embedding_loss_criterion.free_dim_bandwidths"


@cache
def numbers() -> dict[str, np.ndarray]:
    return golden.numbers("stemseg")


def official(name: str) -> dict[str, torch.Tensor]:
    """The state dict that the authors' file of "davis", "ytvis" or "kitti" would have, filled by the rule, sums checked."""
    shapes = keys("stemseg" if name == "davis" else "stemseg-ytvis")
    if name == "kitti":
        shapes = {key: KITTI.get(key, shape) for key, shape in shapes.items() if key != FREE}
    state = fill(shapes, "stemseg")
    state["embedding_head.time_scale"] = torch.tensor(1.0)
    if FREE in shapes:
        state[FREE] = torch.full((1, 2), 1 / 0.09)
    prefix = {"davis": "", "ytvis": "Y_", "kitti": "M_"}[name]
    sums = dict(zip(numbers()["weights_key"], numbers()["weights_abs_sum"], strict=True))
    sums |= dict(zip(numbers()[f"{prefix}weights_key"], numbers()[f"{prefix}weights_abs_sum"], strict=True))
    for key, value in state.items():
        assert abs(float(value.double().abs().sum()) / sums[key] - 1) < 1e-6, key
    return {key: state[key] for key in shapes}


def empty(name: str, **changes: Any) -> STEmSeg:
    """The network without memory for its weights."""
    with torch.device("meta"):
        made = finders.build(f"stemseg-{name}", **changes)
    assert isinstance(made, STEmSeg)
    return made


@cache
def network(name: str) -> STEmSeg:
    """The network with those weights, in evaluation mode. It reads clips of 8 frames."""
    made = empty(name, length=8)
    state = released.rename(official(name), released.rules(made.name))
    made.load_state_dict(weights.check_fit(made, state, "the rule"), assign=True)
    return made.eval()


@cache
def pictures(case: str = "A") -> torch.Tensor:
    """Frames [T, 3, H, W] in [0, 1] of case A (16 frames) or C (10)."""
    if case == "C":
        return frames(PHASES["stemseg"], 10, 60, 100, waves=(64, 107))
    return frames(PHASES["stemseg"], 16)


@cache
@torch.no_grad()
def features(count: int = 16) -> list[Features]:
    """Features of the first frames; all three networks have the same backbone and pyramid."""
    return [network("davis").encode(pictures()[t : t + 1]) for t in range(count)]


@cache
@torch.no_grad()
def maps(name: str, first: int, count: int) -> Maps:
    return network(name).read(features()[first : first + count])


def close(mine: Any, theirs: str, tolerance: float = 1e-4) -> None:
    golden.close(torch.as_tensor(mine), numbers()[theirs], tolerance)


def cells(some: torch.Tensor, steps: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Slices [start::step] of the last axes."""
    index = (..., *(slice(start, None, step) for start, step in steps))
    return some[index]

"""Networks that find objects, by name, and their weights files: what `weights` is for networks that track given objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hodor.models import weights
from hodor.models.finder import Finder
from hodor.models.stemseg import STEmSeg


@dataclass(frozen=True)
class FinderPreset:
    """What the name of a finder stands for.

    Args:
        network: the class.
        settings: arguments of the class that differ from its defaults.
        size: short side of the frame inside the network, in pixels.
    """

    network: type[Finder]
    settings: Mapping[str, Any]
    size: int


FINDERS: dict[str, FinderPreset] = {
    "stemseg-davis": FinderPreset(STEmSeg, {"length": 16}, 736),
    "stemseg-ytvis": FinderPreset(
        STEmSeg, {"classes": 40, "seediness_decoder": False, "semantic_widths": (256, 256, 256, 256)}, 640
    ),
    "stemseg-kitti": FinderPreset(STEmSeg, {"mode": "xyt", "classes": 2, "seediness_decoder": False}, 736),
    "stemseg-lite": FinderPreset(
        STEmSeg,
        {"backbone": "efficientnet-lite1", "width": 96, "decoder_widths": (96, 96, 64, 64), "seediness_decoder": False},
        256,
    ),
}
"""The networks of the paper by data set: DAVIS (no classes), YouTube-VIS, KITTI-MOTS; and a configuration of this package."""


def build(name: str, **changes: Any) -> Finder:
    """Build a finder by its name, with fresh weights.

    Args:
        name: a key of `FINDERS`.
        **changes: settings that replace those of the preset.

    Raises:
        ValueError: "expected a finder (stemseg-davis, ...), got 'x'".
    """
    preset = _preset(name)
    return _made(name, {**preset.settings, **changes}, preset.size)


def _preset(name: str) -> FinderPreset:
    if name not in FINDERS:
        raise ValueError(f"expected a finder ({', '.join(FINDERS)}), got {name!r}")
    return FINDERS[name]


def _made(name: str, settings: Mapping[str, Any], size: int) -> Finder:
    network = _preset(name).network(**settings)
    network.name, network.size = name, size
    return network


def load(path: str | Path, *, device: str | torch.device = "cpu", folded: bool = True) -> Finder:
    """Load a finder from a weights file that `weights.save` or `hodor convert` wrote.

    Args:
        path: the .safetensors file.
        device: device of the weights. Default: "cpu".
        folded: whether to merge batch norms into their convolutions. Default: True.

    Returns:
        The finder in evaluation mode, without gradients.

    Raises:
        FileNotFoundError, ValueError: as `weights.load`; "FILE contains a network that this version cannot build: ...".
    """
    about, state = weights.read(path)
    weights.check_sizes(about["settings"], state, path)
    try:
        network = _made(about["model"], about["settings"], int(about["size"]))
        slope, offset = about.get("calibration", Finder.calibration)
        network.calibration = float(slope), float(offset)
    except weights.UNBUILDABLE as error:
        raise weights.unbuildable(path, error) from None
    weights.fill(network, state, str(path))
    if folded:
        network.fold()
    return network.to(device).eval().requires_grad_(False)

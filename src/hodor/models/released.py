"""Convert the authors' checkpoint files into weights files of this package; nothing in them is executed."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hodor.files import check_stored
from hodor.models import cutie, finders, state_dicts, stcn, stemseg, weights, xmem
from hodor.models.base import Network
from hodor.models.finder import FREE_DEVIATION
from hodor.models.model import Model

HODOR_RULES: tuple[tuple[str, str | None], ...] = (
    # never used in the released network, or computed again from the window size
    (r".*relative_position_index$", None),
    (r"decoder\.fmap_proj_4x\..*", None),
    (r"feature_extractor\.norm_layers\.[234]\..*", None),
    (r"feature_extractor\.bb_fpn\.1\.fpn_convs\.[23]\..*", None),
    (r"feature_extractor\.bb_fpn\.0\.(.*)", r"backbone.\1"),
    (r"feature_extractor\.bb_fpn\.1\.(.*)", r"pyramid.\1"),
    (r"feature_extractor\.norm_layers\.(.*)", r"norms.\1"),
    (r"encoder\.fg_query_embed", r"encoder.object_embed"),
    (r"encoder\.bg_query_embed", r"encoder.cell_embed"),
    (r"encoder\.attn_layers\.(.*)", r"encoder.layers.\1"),
    (r"decoder\.attn_layers\.(\d)\.self_attn_conv_substitute\.0\.(.*)", r"decoder.layers.\1.conv.\2"),
    (r"decoder\.attn_layers\.(\d)\.self_attn_conv_substitute\.2\.(.*)", r"decoder.layers.\1.conv_norm.\2"),
    (r"decoder\.attn_layers\.(\d)\.([kv])_proj_fg\.(.*)", r"decoder.layers.\1.\2_objects.\3"),
    (r"decoder\.attn_layers\.(\d)\.([kv])_proj_bg\.(.*)", r"decoder.layers.\1.\2_cells.\3"),
    (r"decoder\.attn_layers\.(\d)\.cross_attn\.q_proj\.(.*)", r"decoder.layers.\1.q_proj.\2"),
    (r"decoder\.attn_layers\.(\d)\.fc1\.(.*)", r"decoder.layers.\1.ffn.0.\2"),
    (r"decoder\.attn_layers\.(\d)\.fc2\.(.*)", r"decoder.layers.\1.ffn.3.\2"),
    (r"decoder\.attn_layers\.(\d)\.(norm.*)", r"decoder.layers.\1.\2"),
    (r"decoder\.conv_4x_reduce\.(.*)", r"decoder.reduce_fine.\1"),
    (r"decoder\.conv_4x\.(.*)", r"decoder.head.\1"),
    (r"decoder\.instance_query_proj\.(.*)", r"decoder.object_proj.\1"),
    (r"decoder\.bg_query_proj\.(.*)", r"decoder.cell_proj.\1"),
    (r"decoder\.catch_all_conv\.(.*)", r"decoder.catch_all.\1"),
)
"""Released name -> name in this package, the first match is used. None: left out, the output does not depend on it."""

RULES = {
    "hodor-t": HODOR_RULES,
    "stcn": stcn.RELEASED,
    "xmem": xmem.RELEASED,
    "cutie": cutie.RELEASED,
    "cutie-small": cutie.RELEASED,
    "stemseg-davis": stemseg.RELEASED,
    "stemseg-ytvis": stemseg.RELEASED,
    "stemseg-kitti": stemseg.RELEASED,
}
"""Rules by model name."""

STORED_CONSTANTS = {
    "embedding_head.time_scale": 1.0,
    "embedding_loss_criterion.free_dim_bandwidths": FREE_DEVIATION**-2,
}
"""Released name -> value of tensors that are constants in this package, see `check_constants`."""

TRACKING: dict[str, dict[str, int | bool]] = {
    "hodor-t": {"history": 7, "pin_first": False, "hold_lost": False},
    "stcn": {"history": stcn.STCN.history, "pin_first": True, "hold_lost": False},
    "xmem": {"history": xmem.XMem.history, "pin_first": True, "hold_lost": False},
    "cutie": {"history": cutie.Cutie.history, "pin_first": True, "hold_lost": False},
    "cutie-small": {"history": cutie.Cutie.history, "pin_first": True, "hold_lost": False},
}
"""How the authors follow a video, by model name: `Network.set_tracking` of a converted network.

HODOR keeps a sliding window of 7 frames, and the given mask leaves it. The others keep the first frame; STCN keeps all
remembered frames, here the last 20.
"""

# (input channels in the file, in the network): the last channel is the sum of the other objects' masks. Networks that were
# trained with one object at a time lack it, and zero weights give the same output.
_WIDENED = ((4, 5), (257, 258))


def rules(model: str) -> tuple[tuple[str, str | None], ...]:
    """Return the rules that rename a released file's tensors.

    Args:
        model: a name in `RULES`.

    Raises:
        ValueError: "expected a model with released weights (hodor-t, stcn, ...), got 'x'".
    """
    if model not in RULES:
        raise ValueError(f"expected a model with released weights ({', '.join(RULES)}), got {model!r}")
    return RULES[model]


def widen(state: Mapping[str, Tensor], network: Model) -> dict[str, Tensor]:
    """Add zero weights for a last input channel that only the network has: 4 -> 5, Cutie's 257 -> 258.

    Args:
        state: tensors under the names of this package.
        network: the network that they are for.

    Returns:
        A new state dict.
    """
    own, out = network.state_dict(), dict(state)
    for key, value in state.items():
        if key in own and value.ndim == 4 and (value.shape[1], own[key].shape[1]) in _WIDENED:
            out[key] = torch.cat([value, torch.zeros_like(value[:, :1])], 1)
    return out


def rename(state: Mapping[str, Tensor], rules: tuple[tuple[str, str | None], ...]) -> dict[str, Tensor]:
    """Rename the tensors of a released file.

    Args:
        state: tensors under the authors' names.
        rules: from `rules`.

    Returns:
        A new state dict. A name that matches no rule is kept, so that strict loading reports it.
    """
    out = {}
    for key, value in state.items():
        pattern, name = next(((p, n) for p, n in rules if re.fullmatch(p, key)), ("", ""))
        if name is not None:
            out[re.sub(pattern, name, key) if pattern else key] = value
    return out


def check_constants(state: Mapping[str, Tensor], source: str) -> None:
    """Check the tensors of a released file that are constants in this package.

    Args:
        state: tensors under the authors' names.
        source: name of their file, for the message.

    Raises:
        ValueError: "expected a NAME of 1.0, got FILE, in which it is 0.1: give a file of the released settings".
    """
    for name, value in STORED_CONSTANTS.items():
        found = state.get(name, torch.tensor(value))
        if not torch.allclose(found.float(), torch.tensor(value), rtol=1e-4):
            is_ = ", ".join(f"{each:.4g}" for each in found.flatten()[:4].tolist())
            advice = "give a file of the released settings"
            raise ValueError(f"expected a {name} of {value:.4g}, got {source}, in which it is {is_}: {advice}")


def convert(source: Path, out: Path, model: str = "hodor-t") -> Model:
    """Convert an authors' .pth file into a .safetensors file of this package, with the authors' protocol in its metadata.

    Args:
        source: the authors' file.
        out: file to write; it is written only if every key fits.
        model: a name in `RULES`. Default: "hodor-t".

    Returns:
        The network with its weights.

    Raises:
        FileNotFoundError: "no file PATH: give the authors' .pth file".
        ValueError: "expected a model with released weights (hodor-t, stcn, ...), got 'x'".
        ValueError: "FILE contains more than tensors and plain values: refused, since loading it would run code".
        ValueError: "FILE contains no state dict: ..."; "FILE does not fit the network: ..." with every key that is missing,
            unexpected or of another shape.
    """
    names, state = rules(model), read_pth(source)
    check_constants(state, str(source))
    network: Model = finders.build(model) if model in finders.FINDERS else weights.build(model)
    if isinstance(network, Network):
        network.set_tracking(**TRACKING.get(model, {}))
    weights.fill(network, widen(rename(state, names), network), str(source))
    weights.save(network, out, converted_from=source.name)
    return network


def read_pth(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a .pth file without executing anything in it.

    Args:
        path: a file whose content is a dict of tensors, or has one under a name of `state_dicts.WRAPPERS`: "model",
            "state_dict", "network" (a training state of STCN or XMem), "weights" (Cutie), "ema". A prefix such as "module."
            before all names is removed.

    Raises:
        FileNotFoundError, ValueError: as `convert`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: give the authors' .pth file")
    with open(path, "rb") as file:
        if not file.read(2).startswith((b"PK", b"\x80\x02")):  # a zip, or the older form's pickle
            raise ValueError(f"{path} is not a PyTorch file: it does not begin as a file of torch.save does")
    try:
        check_stored(path)  # torch.save compresses nothing
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual protocols: what cannot be read raises
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        refused = "contains more than tensors and plain values: refused, since loading it would run code"
        raise ValueError(f"{path} {refused}") from None
    except Exception as error:  # a damaged file can raise any exception
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"{path} is not a PyTorch file: {reason}") from None
    if state_dicts.is_run(content):
        raise ValueError(state_dicts.run_line(path))
    content = state_dicts.inner(content)
    named = isinstance(content, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    if not named or not content:
        raise ValueError(f"{path} contains no state dict: give a dict of tensors, or one under 'model' or 'state_dict'")
    return state_dicts.unwrapped(content)

"""The authors' checkpoint files, read without executing anything in them, as weights of our networks."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hodor.models import cutie, stcn, weights, xmem
from hodor.models.base import Network

HODOR_RULES: tuple[tuple[str, str | None], ...] = (
    # computed but never read in the released network, or made anew from the window size
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
"""Released name -> ours, first match wins; None: left out, because the function does not depend on it."""

RULES = {
    "hodor-t": HODOR_RULES,
    "stcn": stcn.RELEASED,
    "xmem": xmem.RELEASED,
    "cutie": cutie.RELEASED,
    "cutie-small": cutie.RELEASED,
}
"""By preset."""

# Input channels that a wider network has more of, the last one: the other objects' masks, which weigh nothing in files of
# networks that followed one object at a time.
_WIDENED = ((4, 5), (257, 258))


def rules(model: str) -> tuple[tuple[str, str | None], ...]:
    """Released name -> ours for this preset. Raises ValueError: "no key map for 'x': want hodor-t, ..."."""
    if model not in RULES:
        raise ValueError(f"no key map for {model!r}: want {', '.join(RULES)}")
    return RULES[model]


def widen(state: Mapping[str, Tensor], network: Network) -> dict[str, Tensor]:
    """The state with zeros for a last input channel that only the network has: 4 -> 5, Cutie's 257 -> 258."""
    want, out = network.state_dict(), dict(state)
    for key, value in state.items():
        if key in want and value.ndim == 4 and (value.shape[1], want[key].shape[1]) in _WIDENED:
            out[key] = torch.cat([value, torch.zeros_like(value[:, :1])], 1)
    return out


def rename(state: Mapping[str, Tensor], rules: tuple[tuple[str, str | None], ...]) -> dict[str, Tensor]:
    """The state under our names; a name that no rule knows is kept, so that strict loading reports it."""
    out = {}
    for key, value in state.items():
        pattern, name = next(((p, n) for p, n in rules if re.fullmatch(p, key)), ("", ""))
        if name is not None:
            out[re.sub(pattern, name, key) if pattern else key] = value
    return out


def convert(source: Path, out: Path, model: str = "hodor-t") -> Network:
    """An authors' .pth file -> a safetensors file of ours, strict. -> the network.

    Raises FileNotFoundError, and ValueError in one line: "no key map for 'x': want hodor-t, stcn, ..."; "FILE holds more than
    tensors and plain values: refused, since loading it would run code"; "FILE holds no state dict"; and every key that is
    missing, unexpected or misshapen. `out` is written only if all fits.
    """
    names, network = rules(model), weights.build(model)
    weights.fill(network, widen(rename(read_pth(source), names), network), str(source))
    weights.save(network, out, converted_from=source.name)
    return network


def read_pth(path: Path) -> dict[str, Tensor]:
    """The state dict of a .pth file: the file's own dict of tensors, or the one under "model", "state_dict", "network" (a
    training state of STCN or XMem) or "weights" (Cutie)."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: want the authors' .pth file")
    with open(path, "rb") as file:
        if not file.read(2).startswith((b"PK", b"\x80\x02")):  # a zip, or the older form's pickle
            raise ValueError(f"{path} is not a PyTorch file: it begins like no file of torch.save")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(f"{path} holds more than tensors and plain values: refused, since loading it would run code") from None
    except Exception as error:  # damaged bytes make the reader fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is not a PyTorch file: {reason}") from None
    for name in ("model", "state_dict", "network", "weights"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} holds no state dict: want a dict of tensors, or one under 'model' or 'state_dict'")
    return content

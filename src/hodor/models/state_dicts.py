"""State dicts of other programs: names without what wrappers put before them, and what does not fit, in one short line."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "ema.", "ema_model.", "model_ema.")
"""What DistributedDataParallel, torch.compile, trainers and averaged copies put before every name."""
WRAPPERS = (
    "model",
    "state_dict",
    "network",
    "weights",
    "model_state_dict",
    "ema",
    "ema_state_dict",
    "state_dict_ema",
    "module",
)
"""Names under which training programs store a state dict; the first that a file has is used."""
SHORT = 240
"""Greatest length of a list of what does not fit, in characters."""


def unwrapped(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict without the prefixes of `PREFIXES`.

    A prefix is removed if all names have it; counters without a dot in their name (`n_averaged`) are then left out.
    `_orig_mod.` is removed wherever it is, since parts of a network can be compiled alone.

    Args:
        state: tensors by name.
    """
    state = {name.replace("_orig_mod.", ""): value for name, value in state.items()}
    while dotted := [name for name in state if "." in name]:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in dotted)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): state[name] for name in dotted}
    return state


def inner(content: Any) -> Any:
    """Return the state dict inside what a file of torch.save contains, see `WRAPPERS`; what has none is returned as it is."""
    for _ in range(4):  # a file can contain a dict that contains itself
        name = next((name for name in WRAPPERS if isinstance(content, dict) and isinstance(content.get(name), dict)), None)
        if name is None:
            break
        content = content[name]
    return content


def is_run(content: Any) -> bool:
    """Return whether this is the content of a checkpoint of `hodor train`, OUT/last.pt."""
    return isinstance(content, dict) and {"network", "average", "recipe", "step"} <= content.keys()


def is_run_file(path: Path) -> bool:
    """Return whether a file is a checkpoint of `hodor train`; only the names in it are read."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as file:
                head = file.read(4_000_000)
    except (OSError, StopIteration, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile):
        return False
    return all(name in head for name in (b"network", b"average", b"optimiser", b"recipe"))


def run_line(path: Path) -> str:
    """Return the message for a checkpoint of `hodor train` where weights are expected."""
    return f"expected weights, got {path}, a checkpoint of a training run: give {path.parent / 'weights.safetensors'}"


def problems(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Return what of a state dict does not fit a network, "" if all does.

    Args:
        state: tensors by name.
        own: the network's tensors by name.

    Returns:
        "missing a; unexpected b; c is (7,), expected (32,)", or as many of them as fit into `SHORT` characters, then
        "and 412 more".
    """
    found = [f"missing {cut(name)}" for name in own if name not in state]
    found += [f"unexpected {cut(name)}" for name in state if name not in own]
    found += [
        f"{cut(name)} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    return shortest(lambda shown: "; ".join([*found[:shown], *_more(len(found) - shown)]), len(found))


def not_finite(state: Mapping[str, Tensor]) -> str:
    """Return "3 of 120 tensors hold NaN or infinity (first: a)" about a state dict, "" if all its values are finite."""
    bad = [name for name, value in state.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    return f"{len(bad)} of {len(state)} tensors hold NaN or infinity (first: {cut(bad[0])})" if bad else ""


def shortest(text: Callable[[int], str], most: int) -> str:
    """Return text(n) for the largest n up to `most` for which it has at most `SHORT` characters, or else text(1)."""
    for shown in range(min(most, 12), 1, -1):
        if len(line := text(shown)) <= SHORT:
            return line
    return text(min(most, 1))


def _more(count: int) -> Iterable[str]:
    return [f"and {count} more"] if count > 0 else []


def cut(name: str) -> str:
    """Return a name, shortened to 80 characters."""
    return name if len(name) <= 80 else f"{name[:77]}..."

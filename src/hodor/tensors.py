"""Short descriptions of tensors, for the `repr` and the error messages of the classes that hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def shape_text(tensor: Tensor) -> str:
    """Return the shape of a tensor as text: "[1, 2, 128]"."""
    return str(list(tensor.shape))


def describe(value: Any) -> str:
    """Return the `repr` of a dataclass with shapes and types in place of the data of its tensors.

    Example: "Entry(per_object=float32 [1, 2, 128], shared={key: float32 [1, 64, 6, 10]}, ...)".
    """
    fields = (f"{name}={_text(getattr(value, name))}" for name in value.__dataclass_fields__)
    return f"{type(value).__name__}({', '.join(fields)})"


def is_traced() -> bool:
    """Return whether PyTorch is compiling or tracing this code, in which case shapes are not checked."""
    return bool(torch.compiler.is_compiling() or torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def is_exported() -> bool:
    """Return whether this code is traced for `hodor export`: no step can then depend on the data."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def _text(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {shape_text(value)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_text(each)}" for name, each in value.items()) + "}"
    return repr(value)

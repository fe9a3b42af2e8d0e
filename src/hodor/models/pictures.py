"""Frames of a caller, checked and converted to tensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

EXPECTED = "expected a frame as an array [H, W, 3] or a tensor [3, H, W], uint8 or floats in [0, 1], or as a PIL image"
MODES = ("RGB", "RGBA", "L", "LA", "P", "1")
"""Modes of PIL images whose values are converted to 8-bit RGB without a loss."""
TOLERANCE = 1e-3
"""How far floats may be outside [0, 1], as after resizing."""


def to_tensor(frame: np.ndarray | Tensor | Image.Image) -> Tensor:
    """Convert one frame to a tensor.

    Args:
        frame: RGB: array [H, W, 3] or tensor [3, H, W] of uint8 or of floats in [0, 1], or a PIL image. Alpha of an image is
            dropped, and its EXIF rotation is not applied, so that the size is `image.size`.

    Returns:
        Tensor [3, H, W], uint8 or floating, on the frame's own device.

    Raises:
        ValueError: "expected a frame as an array [H, W, 3] or a tensor [3, H, W], uint8 or floats in [0, 1], or as a PIL image,
            got (480, 854): ..."; the same for other types, floats outside [0, 1] and NaN.
    """
    given: Any = frame
    if isinstance(given, Image.Image):
        if given.mode not in MODES:
            raise ValueError(f"{EXPECTED}, got a PIL image of mode {given.mode}: convert it to RGB")
        given = np.asarray(given.convert("RGB"))
    if not isinstance(given, np.ndarray | Tensor):
        raise ValueError(f"{EXPECTED}, got {type(given).__name__}: read the picture first")
    is_array, shape = isinstance(given, np.ndarray), tuple(given.shape)
    if len(shape) != 3 or shape[2 if is_array else 0] != 3 or 0 in shape:
        raise ValueError(f"{EXPECTED}, got {shape}: {_advice(shape, is_array)}")
    kind = str(given.dtype).removeprefix("torch.")
    if is_array:
        if given.dtype not in (np.uint8, np.float16, np.float32, np.float64):
            accepted = "float32" if "f" in kind else "uint8"
            raise ValueError(f"{EXPECTED}, got {kind} {shape}: convert it to {accepted}")
        # a mirrored or read-only array is copied, since a tensor can be neither
        given = torch.from_numpy(np.require(given, requirements=["C", "W"])).permute(2, 0, 1)
    if given.dtype != torch.uint8 and not given.is_floating_point():
        raise ValueError(f"{EXPECTED}, got {kind} {shape}: convert it to uint8")
    if given.is_floating_point():
        in_memory_order = given.movedim(0, -1) if given.stride(0) == 1 else given  # four times as fast
        low, high = (float(value) for value in torch.aminmax(in_memory_order))  # both are NaN if one value is
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
            got = "NaN" if low != low else f"values from {low:g} to {high:g}"
            is_finite = -math.inf < low and high < math.inf  # false for NaN, too
            advice = "give finite values" if not is_finite else "divide by 255" if high > 2 else "clamp the values"
            raise ValueError(f"{EXPECTED}, got {got}: {advice}")
    image: Tensor = given
    return image


def _advice(shape: tuple[int, ...], is_array: bool) -> str:
    """Return what to do with a frame of this shape."""
    if len(shape) == 4:
        return "give one frame at a time"
    if len(shape) == 3 and 3 in (shape[0], shape[2]) and 0 not in shape:
        return "give the channels last" if is_array else "give the channels first"
    return "convert it to RGB"

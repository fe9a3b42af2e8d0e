"""A training sample: a few frames of a video, or of a warped still image, with the masks that are labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hodor.tensors import describe, is_traced, shape_text


@dataclass(frozen=True, repr=False)
class Clip:
    """T frames of B videos.

    Args:
        frames_BTCHW: RGB in [0, 1].
        masks_BTNHW: masks in {0, 1}, one plane an object; zeros on a frame that is not labelled.
        labelled_BT: bool, the frames that are labelled.
        objects_BN: bool, the planes that are an object; the others pad the batch.
        valid_BTHW: bool, the pixels that show the image; those that a warp brought in from outside are not supervised.

    Raises:
        ValueError: "expected masks_BTNHW [2, 3, 4, 64, 96], got [2, 3, 4, 64, 95]", the same for each of the other fields.
    """

    frames_BTCHW: Tensor
    masks_BTNHW: Tensor
    labelled_BT: Tensor
    objects_BN: Tensor
    valid_BTHW: Tensor

    def __post_init__(self) -> None:
        if is_traced():
            return
        if self.frames_BTCHW.ndim != 5:
            raise ValueError(f"expected frames_BTCHW [B, T, C, H, W], got {shape_text(self.frames_BTCHW)}")
        batch, frames, _, height, width = self.frames_BTCHW.shape
        objects: int | str = self.masks_BTNHW.shape[2] if self.masks_BTNHW.ndim == 5 else "N"
        shapes: dict[str, list[int | str]] = {
            "masks_BTNHW": [batch, frames, objects, height, width],
            "labelled_BT": [batch, frames],
            "objects_BN": [batch, objects],
            "valid_BTHW": [batch, frames, height, width],
        }
        for name, shape in shapes.items():
            if list(getattr(self, name).shape) != shape:
                sizes = ", ".join(map(str, shape))
                raise ValueError(f"expected {name} [{sizes}], got {shape_text(getattr(self, name))}")

    def __repr__(self) -> str:
        return describe(self)

    @property
    def visible_BTN(self) -> Tensor:
        """Objects with a pixel in the frame, bool; on a frame that is not labelled all objects count as visible."""
        return self.masks_BTNHW.flatten(3).any(-1) | ~self.labelled_BT[..., None]

    def to(self, device: torch.device) -> Clip:
        """Return the clip on a device, with masks in the type of the frames."""
        moved = {k: v.to(device, non_blocking=True) for k, v in vars(self).items()}
        return Clip(**{**moved, "masks_BTNHW": moved["masks_BTNHW"].to(self.frames_BTCHW.dtype)})


def collate(clips: Sequence[Clip], planes: int = 0) -> Clip:
    """Concatenate clips along the batch, padded to the largest number of objects.

    Args:
        clips: clips with the same T, H and W.
        planes: smallest number of planes of the result. Default: 0.
    """
    max_objects = max(planes, *(c.objects_BN.shape[1] for c in clips))

    def pad(x: Tensor, dim: int) -> Tensor:
        shape = list(x.shape)
        shape[dim] = max_objects - shape[dim]
        return torch.cat([x, x.new_zeros(shape)], dim)

    return Clip(
        torch.cat([c.frames_BTCHW for c in clips]),
        torch.cat([pad(c.masks_BTNHW, 2) for c in clips]),
        torch.cat([c.labelled_BT for c in clips]),
        torch.cat([pad(c.objects_BN, 1) for c in clips]),
        torch.cat([c.valid_BTHW for c in clips]),
    )

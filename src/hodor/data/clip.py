"""A training sample: a few frames of a video, or of a warped still, with the masks that are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Clip:
    """T frames of B videos.

    frames_BTCHW: RGB in [0, 1]. masks_BTNHW: {0, 1}, one plane an object, zero where the frame is not labelled.
    labelled_BT: frames whose masks are known. objects_BN: planes that hold an object; the rest pad the batch.
    valid_BTHW: pixels that show the image; what a warp brought in from outside is not supervised.
    """

    frames_BTCHW: Tensor
    masks_BTNHW: Tensor
    labelled_BT: Tensor
    objects_BN: Tensor
    valid_BTHW: Tensor

    @property
    def visible_BTN(self) -> Tensor:
        """Objects with a pixel in the frame; on an unlabelled frame they count as visible."""
        return self.masks_BTNHW.flatten(3).any(-1) | ~self.labelled_BT[..., None]

    def to(self, device: torch.device) -> Clip:
        return Clip(**{k: v.to(device, non_blocking=True) for k, v in vars(self).items()})


def collate(clips: Sequence[Clip]) -> Clip:
    """One clip of several, padded to the largest number of objects. All have the same T, H and W."""
    most = max(c.objects_BN.shape[1] for c in clips)

    def pad(x: Tensor, dim: int) -> Tensor:
        shape = list(x.shape)
        shape[dim] = most - shape[dim]
        return torch.cat([x, x.new_zeros(shape)], dim)

    return Clip(
        torch.cat([c.frames_BTCHW for c in clips]),
        torch.cat([pad(c.masks_BTNHW, 2) for c in clips]),
        torch.cat([c.labelled_BT for c in clips]),
        torch.cat([pad(c.objects_BN, 1) for c in clips]),
        torch.cat([c.valid_BTHW for c in clips]),
    )

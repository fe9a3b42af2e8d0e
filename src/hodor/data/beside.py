"""Clips of one object in which it is pasted again beside itself, as a second object, so that a finder must part the two."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hodor.data.clip import Clip
from hodor.data.sampling import chance, uniform, within

APART = (0.75, 1.0)
"""Distance of the copy from the object, in widths of the object on the frame."""
HIGHER = 0.25
"""Largest distance up or down, in heights of the object."""


def paste_beside(clip: Clip, rng: torch.Generator) -> Clip:
    """Paste the object of a clip again beside itself, behind the object.

    The side is sampled for the clip; distance, height and whether the copy is mirrored (a half) for each frame. Source:
    STEm-Seg, released code, which samples all of it for each frame.

    Args:
        clip: a clip, B = 1, of one object.
        rng: random generator.

    Returns:
        The clip with the copy as its second object; the clip as it is if the copy would have no pixel.
    """
    frames_TCHW, masks_THW = clip.frames_BTCHW[0].clone(), clip.masks_BTNHW[0, :, 0]
    copies_THW = torch.zeros_like(masks_THW)
    side = 1 if chance(0.5, rng) else -1
    for t, mask_HW in enumerate(masks_THW):
        share, higher, mirrored = uniform(*APART, rng), within(HIGHER, rng), chance(0.5, rng)
        if not bool(mask_HW.any()):
            continue
        copies_THW[t] = _paste(frames_TCHW[t], mask_HW > 0, (side * share, higher), mirrored)
    if not bool(copies_THW.any()):
        return clip
    masks_BTNHW = torch.stack([masks_THW, copies_THW], 1)[None]
    objects_BN = clip.objects_BN.new_ones(1, 2)
    valid_BTHW = clip.valid_BTHW | (copies_THW > 0)
    return replace(clip, frames_BTCHW=frames_TCHW[None], masks_BTNHW=masks_BTNHW, objects_BN=objects_BN, valid_BTHW=valid_BTHW)


def _paste(frame_CHW: Tensor, mask_HW: Tensor, shift: tuple[float, float], mirrored: bool) -> Tensor:
    """Paste the object into the frame, in place, `shift` widths to the right and heights down; -> the copy's mask."""
    (height, width), (y, x) = mask_HW.shape, mask_HW.nonzero(as_tuple=True)
    left, right, top, bottom = int(x.min()), int(x.max()), int(y.min()), int(y.max())
    source_x = left + right - x if mirrored else x
    to_x = source_x + round(shift[0] * (right - left + 1))
    to_y = y + round(shift[1] * (bottom - top + 1))
    inside = (to_x >= 0) & (to_x < width) & (to_y >= 0) & (to_y < height)
    y, x, to_y, to_x = (each[inside] for each in (y, x, to_y, to_x))
    free = ~mask_HW[to_y, to_x]
    y, x, to_y, to_x = (each[free] for each in (y, x, to_y, to_x))
    copy_HW = torch.zeros_like(mask_HW, dtype=frame_CHW.dtype)
    copy_HW[to_y, to_x] = 1
    frame_CHW[:, to_y, to_x] = frame_CHW[:, y, x]
    return copy_HW

"""What a prediction is judged by: cross-entropy and Dice, as the released HODOR computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.plans import Judged


class Losses(NamedTuple):
    cross_entropy: Tensor
    dice: Tensor

    @property
    def total(self) -> Tensor:
        return self.cross_entropy + self.dice


def hodor_losses(judged: Sequence[Judged]) -> Losses:
    """Cross-entropy (mean over pixels) and Dice (one value a clip, all objects, predictions and pixels together).

    Background channels are merged by max before either. Pixels outside the image (`Clip.valid_BTHW`) do not count; the
    released code counts them as background.
    """
    logits = [j.prediction.logits() for j in judged]
    truths = [torch.cat([1 - j.masks_BNHW.amax(1, keepdim=True), j.masks_BNHW], 1) for j in judged]
    entropy = torch.stack([_cross_entropy(x, t, j.valid_BHW) for x, t, j in zip(logits, truths, judged, strict=True)])
    dice = joint_dice(
        torch.stack([x.softmax(1)[:, 1:] for x in logits], 1),
        torch.stack([t[:, 1:] for t in truths], 1),
        torch.stack([j.valid_BHW for j in judged], 1)[:, :, None],
    )
    return Losses(entropy.mean(), dice)


def _cross_entropy(logits_BKHW: Tensor, truth_BKHW: Tensor, valid_BHW: Tensor) -> Tensor:
    each_BHW = F.cross_entropy(logits_BKHW, truth_BKHW.argmax(1), reduction="none")
    return (each_BHW * valid_BHW).sum() / valid_BHW.sum().clamp(min=1)


def joint_dice(soft: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Mean over the first axis of 1 - (2 mean(p g) + e) / (mean(p + g) + e), e = 1e-6; means over every other axis at once.

    Where p and g do not overlap at all the term is 0 and sends no gradient, as released: a total miss is left to the
    cross-entropy. soft in [0, 1], truth in {0, 1}, valid broadcast against both.
    """
    both = 2 * (soft * truth * valid).flatten(1).mean(1)
    each = ((soft + truth) * valid).flatten(1).mean(1)
    dice = 1 - (both + 1e-6) / (each + 1e-6)
    return torch.where(both <= 1e-6, torch.zeros_like(dice), dice).mean()

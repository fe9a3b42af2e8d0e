"""What a prediction is judged by: cross-entropy and Dice, each the mean over the clips of a batch.

Every clip is judged by itself and the batch is the plain mean, so that the mean over processes, or over the parts of an
accumulated batch, is the loss of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.plans import Judged

Loss = Literal["released", "object-dice", "cross-entropy"]
"""Which terms are added up. "released": cross-entropy and one Dice of all objects and predictions of a clip together, as the
released HODOR. "object-dice": cross-entropy and the mean of each object's own Dice, so that small objects weigh as much as
large ones and a total miss sends a gradient. "cross-entropy": that alone; the joint Dice is only told."""


class Losses(NamedTuple):
    """Two terms, each a scalar, and their sum as the choice of loss has it."""

    cross_entropy: Tensor
    dice: Tensor
    dice_weight: float = 1.0

    @property
    def total(self) -> Tensor:
        return self.cross_entropy + self.dice_weight * self.dice


def hodor_losses(judged: Sequence[Judged], kind: Loss = "released") -> Losses:
    """Cross-entropy and Dice of what a rollout judged, means over the clips.

    Background channels are merged by max before either. Pixels outside the image (`Clip.valid_BTHW`) do not count; the
    released code counts them as background. Planes that only pad the batch (`Judged.objects_BN`) do not count either, so
    that a clip's loss does not depend on the clips beside it.
    """
    logits = [j.prediction.logits() for j in judged]
    truths = [torch.cat([1 - j.masks_BNHW.amax(1, keepdim=True), j.masks_BNHW], 1) for j in judged]
    entropy = torch.stack([_cross_entropy(x, t, j.valid_BHW) for x, t, j in zip(logits, truths, judged, strict=True)])
    soft_BSNHW = torch.stack([x.softmax(1)[:, 1:] for x in logits], 1)
    truth_BSNHW = torch.stack([t[:, 1:] for t in truths], 1)
    objects_BN = judged[0].objects_BN
    if objects_BN is None:
        objects_BN = judged[0].masks_BNHW.new_ones(truth_BSNHW.shape[0], truth_BSNHW.shape[2], dtype=torch.bool)
    counted_BSNHW = torch.stack([j.valid_BHW for j in judged], 1)[:, :, None] & objects_BN[:, None, :, None, None]
    if kind == "object-dice":
        dice = object_dice(soft_BSNHW, truth_BSNHW, counted_BSNHW)
    else:
        share_B = objects_BN.float().mean(1).clamp(min=1e-6)
        dice = joint_dice(soft_BSNHW, truth_BSNHW, counted_BSNHW, share_B)
    return Losses(entropy.mean(), dice, 0.0 if kind == "cross-entropy" else 1.0)


def _cross_entropy(logits_BKHW: Tensor, truth_BKHW: Tensor, valid_BHW: Tensor) -> Tensor:
    """-> the mean over the valid pixels of each clip, then over the clips; a clip without one counts 0."""
    each_BHW = F.cross_entropy(logits_BKHW, truth_BKHW.argmax(1), reduction="none") * valid_BHW
    return (each_BHW.flatten(1).sum(1) / valid_BHW.flatten(1).sum(1).clamp(min=1)).mean()


def joint_dice(soft: Tensor, truth: Tensor, valid: Tensor, share_B: Tensor | float = 1.0) -> Tensor:
    """Mean over the first axis of 1 - (2 mean(p g) + e) / (mean(p + g) + e), e = 1e-6; means over every other axis at once.

    Where p and g do not overlap at all the term is 0 and sends no gradient, as released: a total miss is left to the
    cross-entropy. soft in [0, 1], truth in {0, 1}, valid broadcast against both. share_B: the share of the planes that are
    objects and not padding, over which alone the means are taken.
    """
    both = 2 * (soft * truth * valid).flatten(1).mean(1) / share_B
    each = ((soft + truth) * valid).flatten(1).mean(1) / share_B
    dice = 1 - (both + 1e-6) / (each + 1e-6)
    return torch.where(both <= 1e-6, torch.zeros_like(dice), dice).mean()


def object_dice(soft_BSNHW: Tensor, truth_BSNHW: Tensor, counted_BSNHW: Tensor) -> Tensor:
    """Mean over clips of the mean over their objects of 1 - (2 sum(p g) + 1) / (sum(p + g) + 1), sums over predictions and
    pixels. An object that is nowhere and predicted nowhere costs 0."""
    axes = (1, 3, 4)
    both_BN = 2 * (soft_BSNHW * truth_BSNHW * counted_BSNHW).sum(axes)
    each_BN = ((soft_BSNHW + truth_BSNHW) * counted_BSNHW).sum(axes)
    objects_BN = counted_BSNHW.any(-1).any(-1).any(1)
    dice_BN = (1 - (both_BN + 1) / (each_BN + 1)) * objects_BN
    return (dice_BN.sum(1) / objects_BN.sum(1).clamp(min=1)).mean()

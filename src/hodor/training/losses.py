"""What a prediction is supervised by: cross-entropy and Dice, each the mean over the clips of a batch.

Every clip is supervised by itself and the batch is the plain mean, so that the mean over processes, or over the parts of an
accumulated batch, is the loss of the whole batch. Over the supervised frames of a clip HODOR's losses are means, those of STCN,
XMem and Cutie sums, each as its authors have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.models.base import Prediction, leader_of
from hodor.training.plans import Supervised

Loss = Literal["released", "object-dice", "cross-entropy", "bootstrapped", "bootstrapped-dice", "points"]
"""Which terms are added up. "released": cross-entropy and one Dice of all objects and predictions of a clip together, as the
released HODOR. "object-dice": cross-entropy and the mean of each object's own Dice, so that small objects weigh as much as
large ones and a total miss sends a gradient. "cross-entropy": that alone; the joint Dice is only told. "bootstrapped": STCN's,
cross-entropy of the hardest pixels of each frame, see `Bootstrap`; the Dice is only told. "bootstrapped-dice": XMem's, that and
the mean of the objects' Dice in each frame. "points": Cutie's, cross-entropy and Dice on sampled points, see `Points`."""


@dataclass(frozen=True)
class Bootstrap:
    """The share of pixels that losses "bootstrapped" and "bootstrapped-dice" take, those that cost most: all of them before
    step `start`, then, along a straight line, fewer, down to `least` at step `end`. Defaults: STCN's and XMem's."""

    start: int = 20_000
    end: int = 70_000
    least: float = 0.15

    def share(self, step: int) -> float:
        """In `least` .. 1."""
        if step < self.start:
            return 1.0
        if step >= self.end:
            return self.least
        return self.least + (1 - self.least) * (self.end - step) / (self.end - self.start)


@dataclass(frozen=True)
class Points:
    """Where loss "points" looks: at `count` points of each frame; a share `uncertain` of them are the least certain (by the
    margin of the two best logits) of `oversample` times as many drawn at random, the rest are random. aux: weight of the
    losses of a network's additional logits (`Prediction.aux`), each at points of its own. Defaults: Cutie's; 8192 points in
    its pretraining."""

    count: int = 12_544
    oversample: float = 3.0
    uncertain: float = 0.75
    aux: float = 0.01


class Losses(NamedTuple):
    """The terms, each a scalar, and their sum as the choice of loss has it. aux: of additional logits, already weighed."""

    cross_entropy: Tensor
    dice: Tensor
    dice_weight: float = 1.0
    aux: Tensor | float = 0.0

    @property
    def total(self) -> Tensor:
        return self.cross_entropy + self.dice_weight * self.dice + self.aux


def hodor_losses(
    supervised: Sequence[Supervised],
    kind: Loss = "released",
    share: float = 1.0,
    points: Points | None = None,
    rngs: Sequence[torch.Generator] = (),
) -> Losses:
    """Cross-entropy and Dice of what a rollout supervised, means over the clips.

    share: of the pixels, for the bootstrapped losses. points, and rngs, one generator a clip (none given: alike ones): for loss
    "points". Which points a clip is supervised at must not depend on the clips beside it.

    Background channels are merged by max before either. Pixels outside the image (`Clip.valid_BTHW`) do not count; the
    released code counts them as background. Planes that only pad the batch (`Judged.objects_BN`) do not count either, so
    that a clip's loss does not depend on the clips beside it.
    """
    if kind == "points":
        return _at_points(supervised, points or Points(), rngs)
    logits = [j.prediction.logits() for j in supervised]
    ground_truths = [_truth(j) for j in supervised]
    soft_BSNHW = torch.stack([x.softmax(1)[:, 1:] for x in logits], 1)
    truth_BSNHW = torch.stack([t[:, 1:] for t in ground_truths], 1)
    objects_BN = _objects(supervised[0])
    counted_BSNHW = torch.stack([j.valid_BHW for j in supervised], 1)[:, :, None] & objects_BN[:, None, :, None, None]
    if kind in ("bootstrapped", "bootstrapped-dice"):
        hardest = [
            _hardest(x.float(), t, j.valid_BHW, share) for x, t, j in zip(logits, ground_truths, supervised, strict=True)
        ]
        frames = zip(soft_BSNHW.split(1, 1), truth_BSNHW.split(1, 1), counted_BSNHW.split(1, 1), strict=True)
        dice = torch.stack([object_dice(*frame) for frame in frames]).sum()
        return Losses(torch.stack(hardest).sum(), dice, 1.0 if kind == "bootstrapped-dice" else 0.0)
    entropy = torch.stack(
        [_cross_entropy(x, t, j.valid_BHW) for x, t, j in zip(logits, ground_truths, supervised, strict=True)]
    )
    if kind == "object-dice":
        dice = object_dice(soft_BSNHW, truth_BSNHW, counted_BSNHW)
    else:
        share_B = objects_BN.float().mean(1).clamp(min=1e-6)
        dice = joint_dice(soft_BSNHW, truth_BSNHW, counted_BSNHW, share_B)
    return Losses(entropy.mean(), dice, 0.0 if kind == "cross-entropy" else 1.0)


def _truth(supervised: Supervised) -> Tensor:
    """-> B(1+N)HW in {0, 1}, background first."""
    return torch.cat([1 - supervised.masks_BNHW.amax(1, keepdim=True), supervised.masks_BNHW], 1)


def _objects(supervised: Supervised) -> Tensor:
    """-> BN, the planes that count."""
    if supervised.objects_BN is not None:
        return supervised.objects_BN
    return torch.ones_like(supervised.masks_BNHW[:, :, 0, 0], dtype=torch.bool)


def _hardest(logits_BKHW: Tensor, truth_BKHW: Tensor, valid_BHW: Tensor, share: float) -> Tensor:
    """-> the mean over the `share` of each clip's valid pixels that cost most (one at least), then over the clips; a clip
    without a valid pixel counts 0."""
    each_BHW = _each_pixel(logits_BKHW, truth_BKHW, valid_BHW)
    taken_B1 = (valid_BHW.flatten(1).sum(1, keepdim=True) * share).floor().clamp(min=1)
    if share >= 1:
        return (each_BHW.flatten(1).sum(1, keepdim=True) / taken_B1).mean()
    # sorted, and not topk, whose count would have to be known on the CPU
    sorted_BP = each_BHW.flatten(1).sort(1, descending=True).values
    ranks_P = torch.arange(sorted_BP.shape[1], device=sorted_BP.device)
    return ((sorted_BP * (ranks_P < taken_B1)).sum(1, keepdim=True) / taken_B1).mean()


def _at_points(supervised: Sequence[Supervised], points: Points, rngs: Sequence[torch.Generator]) -> Losses:
    clips = []
    for b in range(len(supervised[0].masks_BNHW)):
        rng = rngs[b] if rngs else torch.Generator()
        truth_SKHW = torch.stack([_truth(j)[b] for j in supervised])
        valid_S1HW = torch.stack([j.valid_BHW[b] for j in supervised])[:, None].to(truth_SKHW.dtype)
        objects_N = _objects(supervised[0])[b]
        full = torch.stack([j.prediction.logits()[b] for j in supervised])
        entropy, dice = _points_of(full, truth_SKHW, valid_S1HW, objects_N, points, rng)
        aux = torch.zeros_like(entropy)
        for maps_SKHW in _additional([j.prediction for j in supervised], b):
            padded = supervised[0].prediction
            more = _points_of(maps_SKHW, truth_SKHW, valid_S1HW, objects_N, points, rng, padded)
            aux = aux + points.aux * (more[0] + more[1])
        clips.append(torch.stack([entropy, dice, aux]))
    entropy, dice, aux = torch.stack(clips).mean(0)
    return Losses(entropy, dice, aux=aux)


def _additional(predictions: Sequence[Prediction], b: int) -> list[Tensor]:
    """A clip's additional logits, each S(1+N)hw, of the padded frame."""
    found: list[Tensor] = []
    for name in predictions[0].aux:
        maps = torch.stack([p.aux[name][b] for p in predictions])
        found += [maps] if maps.dim() == 4 else maps.unbind(1)
    return found


def _points_of(
    logits_SKHW: Tensor,
    truth_SKHW: Tensor,
    valid_S1HW: Tensor,
    objects_N: Tensor,
    points: Points,
    rng: torch.Generator,
    padded: Prediction | None = None,
) -> tuple[Tensor, Tensor]:
    """-> a clip's cross-entropy and Dice at points drawn for these logits: means over points and objects, sums over frames.

    padded: where the frame lies, if the logits are of the padded one.
    """
    logits_SKHW = logits_SKHW.float()
    with torch.no_grad():
        at_SP2 = _draw(logits_SKHW, valid_S1HW, points, rng, padded)
        truth_SKP, shown_SP = _sample(truth_SKHW, at_SP2), (_sample(valid_S1HW, at_SP2) > 0.5)[:, 0]
    logits_SKP = _sample(logits_SKHW, at_SP2, padded)
    each_SP = -(truth_SKP * logits_SKP.log_softmax(1)).sum(1) * shown_SP
    entropy = (each_SP.sum(1) / shown_SP.sum(1).clamp(min=1)).sum()
    soft_SNP, truth_SNP = (x[:, 1:] * shown_SP[:, None] for x in (logits_SKP.softmax(1), truth_SKP))
    dice_SN = 1 - (2 * (soft_SNP * truth_SNP).sum(-1) + 1) / ((soft_SNP + truth_SNP).sum(-1) + 1)
    return entropy, ((dice_SN * objects_N).sum(1) / objects_N.sum().clamp(min=1)).sum()


def _draw(logits_SKHW: Tensor, valid_S1HW: Tensor, points: Points, rng: torch.Generator, padded: Prediction | None) -> Tensor:
    """-> SP2, places (x, y) in 0 .. 1 of the frame: the least certain of many, and others."""
    frames, device = len(logits_SKHW), logits_SKHW.device
    chosen = int(points.uncertain * points.count)
    many_SM2 = torch.rand(frames, int(points.oversample * points.count), 2, generator=rng).to(device)
    others_SP2 = torch.rand(frames, points.count - chosen, 2, generator=rng).to(device)
    best_S2M = _sample(logits_SKHW, many_SM2, padded).topk(2, dim=1).values
    margin_SM = (best_S2M[:, 0] - best_S2M[:, 1]).masked_fill(_sample(valid_S1HW, many_SM2)[:, 0] <= 0.5, torch.inf)
    least_SP = margin_SM.topk(chosen, dim=1, largest=False).indices
    return torch.cat([many_SM2.gather(1, least_SP[..., None].expand(-1, -1, 2)), others_SP2], 1)


def _sample(maps_SKHW: Tensor, at_SP2: Tensor, padded: Prediction | None = None) -> Tensor:
    """-> SKP, bilinear; beyond the outermost centres as at them."""
    if padded is not None:
        size, offset, whole = (at_SP2.new_tensor(sides[::-1]) for sides in (padded.size, padded.offset, padded.padded))
        at_SP2 = (at_SP2 * size + offset) / whole
    return F.grid_sample(maps_SKHW, 2 * at_SP2[:, :, None] - 1, padding_mode="border", align_corners=False)[..., 0]


def _cross_entropy(logits_BKHW: Tensor, truth_BKHW: Tensor, valid_BHW: Tensor) -> Tensor:
    """-> the mean over the valid pixels of each clip, then over the clips; a clip without one counts 0."""
    each_BHW = _each_pixel(logits_BKHW, truth_BKHW, valid_BHW)
    return (each_BHW.flatten(1).sum(1) / valid_BHW.flatten(1).sum(1).clamp(min=1)).mean()


def _each_pixel(logits_BKHW: Tensor, truth_BKHW: Tensor, valid_BHW: Tensor) -> Tensor:
    """-> BHW, the cross-entropy of each pixel, 0 outside the image."""
    classes_BHW = leader_of(truth_BKHW.transpose(0, 1)).long()
    return F.cross_entropy(logits_BKHW, classes_BHW, reduction="none") * valid_BHW


def joint_dice(soft: Tensor, ground_truth: Tensor, valid: Tensor, share_B: Tensor | float = 1.0) -> Tensor:
    """Mean over the first axis of 1 - (2 mean(p g) + e) / (mean(p + g) + e), e = 1e-6; means over every other axis at once.

    Where p and g do not overlap at all the term is 0 and sends no gradient, as released: a total miss is left to the
    cross-entropy. soft in [0, 1], ground truth in {0, 1}, valid broadcast against both. share_B: the share of the planes that are
    objects and not padding, over which alone the means are taken.
    """
    both = 2 * (soft * ground_truth * valid).flatten(1).mean(1) / share_B
    each = ((soft + ground_truth) * valid).flatten(1).mean(1) / share_B
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

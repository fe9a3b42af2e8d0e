"""Losses of a rollout. One function a loss; `LOSSES` names them.

To add a loss:

1. write a function `(supervised, options) -> Losses` here (`cross_entropy` below is the shortest example);
2. enter it in `LOSSES`, at the end of this file;
3. add its name to the literal `Loss` in training/recipe.py.

`hodor train RECIPE --loss NAME` then trains with it; the training loop (`train.Play`) calls `compute_loss` and needs no change.

Each clip is supervised by itself and the loss of a batch is the mean over its clips. The mean over processes, or over the
parts of an accumulated batch, is therefore the loss of the whole batch. Over the supervised frames of a clip, the losses of
HODOR are means and those of STCN, XMem and Cutie are sums, as in the authors' code.

Axes: B clips, S supervised frames, N objects, K = 1 + N channels (background first), P points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.data.sampling import generator
from hodor.models.prediction import Prediction, leader_of
from hodor.training.plans import Supervised
from hodor.training.recipe import Loss, Points, Recipe

STREAM_OF_POINTS = (0, 2)
"""Follows (seed, step, clip) in the seed of the points: keeps them apart from the random numbers of clips and dropout."""


class Losses(NamedTuple):
    """The terms of a loss, each a scalar. All are logged; `total` is minimised.

    Attributes:
        cross_entropy: the cross-entropy.
        dice: the Dice loss.
        dice_weight: its weight in `total`; 0 logs it without training on it.
        aux: loss of a network's additional outputs, already weighted.
    """

    cross_entropy: Tensor
    dice: Tensor
    dice_weight: float = 1.0
    aux: Tensor | float = 0.0

    @property
    def total(self) -> Tensor:
        return self.cross_entropy + self.dice_weight * self.dice + self.aux


@dataclass(frozen=True)
class LossOptions:
    """What a loss depends on beside the predictions.

    Attributes:
        hard_share: share of the pixels that the bootstrapped losses use, in (0, 1]. Default: 1, all pixels.
        points: settings of loss "points".
        rngs: random generators of loss "points", one a clip: the points of a clip must not depend on the other clips of the
            batch. Default: (), new generators with the same seed.
    """

    hard_share: float = 1.0
    points: Points = field(default_factory=Points)
    rngs: Sequence[torch.Generator] = ()


def options_of(recipe: Recipe, step: int, first: int, clips: int) -> LossOptions:
    """Return the options of a recipe's loss at a step, for clips `first`, `first` + 1, ... of the batch (`clips` of them)."""
    rngs = [generator(recipe.seed, step, first + b, *STREAM_OF_POINTS) for b in range(clips)] if recipe.loss == "points" else ()
    return LossOptions(recipe.bootstrap.share(step), recipe.points, rngs)


def compute_loss(supervised: Sequence[Supervised], name: Loss = "released", options: LossOptions | None = None) -> Losses:
    """Compute a loss of what a rollout predicted.

    Pixels outside the image (`Clip.valid_BTHW`) and planes that pad the batch (`Supervised.objects_BN`) do not count, so that
    the loss of a clip does not depend on the other clips of the batch. (The released code of HODOR counts padding as
    background.) Several background channels are merged by their maximum.

    Args:
        supervised: the supervised predictions, from `plans.rollout`.
        name: a key of `LOSSES`. Default: "released".
        options: see `LossOptions`. Default: `LossOptions()`.

    Raises:
        ValueError: "expected a loss (released, ...), got 'x'".
    """
    if name not in LOSSES:
        raise ValueError(f"expected a loss ({', '.join(LOSSES)}), got {name!r}")
    return LOSSES[name](supervised, options or LossOptions())


# The losses -----------------------------------------------------------------------------------------------------------


def released(supervised: Sequence[Supervised], options: LossOptions) -> Losses:
    """Cross-entropy plus one Dice loss of all objects and predictions of a clip. Source: HODOR, released code."""
    maps = _maps(supervised)
    return Losses(_mean_cross_entropy(maps), _clip_dice(maps))


def mean_object_dice(supervised: Sequence[Supervised], options: LossOptions) -> Losses:
    """Cross-entropy plus the mean of each object's Dice loss: small objects weigh as much as large ones, and an object that
    is missed entirely still has a gradient."""
    maps = _maps(supervised)
    return Losses(_mean_cross_entropy(maps), object_dice(maps.soft_BSNHW, maps.ground_truth_BSNHW, maps.counted_BSNHW))


def cross_entropy(supervised: Sequence[Supervised], options: LossOptions) -> Losses:
    """Cross-entropy alone; the Dice loss of "released" is logged."""
    maps = _maps(supervised)
    return Losses(_mean_cross_entropy(maps), _clip_dice(maps), dice_weight=0.0)


def bootstrapped(supervised: Sequence[Supervised], options: LossOptions) -> Losses:
    """Cross-entropy of the pixels with the largest loss; the Dice loss is logged. Source: STCN, released code."""
    maps = _maps(supervised)
    return Losses(_hard_cross_entropy(maps, options.hard_share), _frame_dice(maps), dice_weight=0.0)


def bootstrapped_dice(supervised: Sequence[Supervised], options: LossOptions) -> Losses:
    """Bootstrapped cross-entropy plus the mean of the objects' Dice loss in each frame. Source: XMem, released code."""
    maps = _maps(supervised)
    return Losses(_hard_cross_entropy(maps, options.hard_share), _frame_dice(maps))


def sampled_points(supervised: Sequence[Supervised], options: LossOptions) -> Losses:
    """Cross-entropy plus Dice loss at sampled points, and the same for the network's additional outputs.

    Source: Cutie, Sec. 3.5 and released code; point sampling as in PointRend.
    """
    clips = []
    for b in range(len(supervised[0].masks_BNHW)):
        rng = options.rngs[b] if options.rngs else torch.Generator()
        clip = _PointLoss(
            torch.stack([_with_background(s)[b] for s in supervised]),
            torch.stack([s.valid_BHW[b] for s in supervised])[:, None].to(supervised[0].masks_BNHW.dtype),
            _objects(supervised[0])[b],
            options.points,
            rng,
        )
        entropy, dice = clip(torch.stack([s.prediction.logits()[b] for s in supervised]))
        aux = torch.zeros_like(entropy)
        for logits_SKhw in _additional([s.prediction for s in supervised], b):
            aux_entropy, aux_dice = clip(logits_SKhw, supervised[0].prediction)
            aux = aux + options.points.aux * (aux_entropy + aux_dice)
        clips.append(torch.stack([entropy, dice, aux]))
    entropy, dice, aux = torch.stack(clips).mean(0)
    return Losses(entropy, dice, aux=aux)


# Dice -----------------------------------------------------------------------------------------------------------------


def joint_dice(soft: Tensor, ground_truth: Tensor, valid: Tensor, share_B: Tensor | float = 1.0) -> Tensor:
    """Compute the mean over the first axis of 1 - (2 mean(p g) + e) / (mean(p + g) + e), e = 1e-6.

    The means run over all other axes together. Where p and g do not overlap at all, the term is 0 and has no gradient: a
    total miss is left to the cross-entropy. Source: HODOR, released code.

    Args:
        soft: p, predicted masks in [0, 1].
        ground_truth: g, masks in {0, 1}, same shape.
        valid: bool, the positions that count; broadcast against both.
        share_B: share of the planes that are objects rather than padding; the means run over these alone.
    """
    both = 2 * (soft * ground_truth * valid).flatten(1).mean(1) / share_B
    each = ((soft + ground_truth) * valid).flatten(1).mean(1) / share_B
    dice = 1 - (both + 1e-6) / (each + 1e-6)
    return torch.where(both <= 1e-6, torch.zeros_like(dice), dice).mean()


def object_dice(soft_BSNHW: Tensor, ground_truth_BSNHW: Tensor, counted_BSNHW: Tensor) -> Tensor:
    """Compute the mean over clips of the mean over their objects of 1 - (2 sum(p g) + 1) / (sum(p + g) + 1).

    The sums run over predictions and pixels. An object that is in no ground truth and in no prediction costs 0.

    Args:
        soft_BSNHW: p, predicted masks in [0, 1].
        ground_truth_BSNHW: g, masks in {0, 1}.
        counted_BSNHW: bool, the pixels that count; an object without any is left out.
    """
    axes = (1, 3, 4)
    both_BN = 2 * (soft_BSNHW * ground_truth_BSNHW * counted_BSNHW).sum(axes)
    each_BN = ((soft_BSNHW + ground_truth_BSNHW) * counted_BSNHW).sum(axes)
    objects_BN = counted_BSNHW.any(-1).any(-1).any(1)
    dice_BN = (1 - (both_BN + 1) / (each_BN + 1)) * objects_BN
    return (dice_BN.sum(1) / objects_BN.sum(1).clamp(min=1)).mean()


# Parts of the dense losses --------------------------------------------------------------------------------------------


class _Maps(NamedTuple):
    """Predictions and ground truth at the frame's own size; lists have one tensor a supervised frame."""

    logits: list[Tensor]
    ground_truth: list[Tensor]
    valid: list[Tensor]
    soft_BSNHW: Tensor
    ground_truth_BSNHW: Tensor
    counted_BSNHW: Tensor
    objects_BN: Tensor


def _maps(supervised: Sequence[Supervised]) -> _Maps:
    logits = [s.prediction.logits() for s in supervised]
    ground_truth = [_with_background(s) for s in supervised]
    valid, objects_BN = [s.valid_BHW for s in supervised], _objects(supervised[0])
    soft_BSNHW = torch.stack([x.softmax(1)[:, 1:] for x in logits], 1)
    ground_truth_BSNHW = torch.stack([x[:, 1:] for x in ground_truth], 1)
    counted_BSNHW = torch.stack(valid, 1)[:, :, None] & objects_BN[:, None, :, None, None]
    return _Maps(logits, ground_truth, valid, soft_BSNHW, ground_truth_BSNHW, counted_BSNHW, objects_BN)


def _with_background(supervised: Supervised) -> Tensor:
    """Ground truth with a background channel in front, BKHW in {0, 1}."""
    return torch.cat([1 - supervised.masks_BNHW.amax(1, keepdim=True), supervised.masks_BNHW], 1)


def _objects(supervised: Supervised) -> Tensor:
    """BN, the planes that are objects rather than padding."""
    if supervised.objects_BN is not None:
        return supervised.objects_BN
    return torch.ones_like(supervised.masks_BNHW[:, :, 0, 0], dtype=torch.bool)


def _mean_cross_entropy(maps: _Maps) -> Tensor:
    """Mean over frames of the mean over clips of the mean over valid pixels; a clip without a valid pixel counts 0."""
    frames = []
    for logits_BKHW, ground_truth_BKHW, valid_BHW in zip(maps.logits, maps.ground_truth, maps.valid, strict=True):
        pixels_BHW = _pixel_cross_entropy(logits_BKHW, ground_truth_BKHW, valid_BHW)
        frames.append((pixels_BHW.flatten(1).sum(1) / valid_BHW.flatten(1).sum(1).clamp(min=1)).mean())
    return torch.stack(frames).mean()


def _hard_cross_entropy(maps: _Maps, share: float) -> Tensor:
    """Sum over frames of the mean over clips of the mean over the `share` of valid pixels (at least one) with the largest
    loss; a clip without a valid pixel counts 0."""
    frames = []
    for logits_BKHW, ground_truth_BKHW, valid_BHW in zip(maps.logits, maps.ground_truth, maps.valid, strict=True):
        pixels_BP = _pixel_cross_entropy(logits_BKHW.float(), ground_truth_BKHW, valid_BHW).flatten(1)
        count_B1 = (valid_BHW.flatten(1).sum(1, keepdim=True) * share).floor().clamp(min=1)
        if share < 1:  # sort and not topk, whose count would have to be on the CPU
            ranks_P = torch.arange(pixels_BP.shape[1], device=pixels_BP.device)
            pixels_BP = pixels_BP.sort(1, descending=True).values * (ranks_P < count_B1)
        frames.append((pixels_BP.sum(1, keepdim=True) / count_B1).mean())
    return torch.stack(frames).sum()


def _pixel_cross_entropy(logits_BKHW: Tensor, ground_truth_BKHW: Tensor, valid_BHW: Tensor) -> Tensor:
    """BHW, the cross-entropy of each pixel, 0 outside the image."""
    classes_BHW = leader_of(ground_truth_BKHW.transpose(0, 1)).long()
    return F.cross_entropy(logits_BKHW, classes_BHW, reduction="none") * valid_BHW


def _clip_dice(maps: _Maps) -> Tensor:
    """`joint_dice` of each clip."""
    share_B = maps.objects_BN.float().mean(1).clamp(min=1e-6)
    return joint_dice(maps.soft_BSNHW, maps.ground_truth_BSNHW, maps.counted_BSNHW, share_B)


def _frame_dice(maps: _Maps) -> Tensor:
    """Sum over frames of `object_dice`."""
    each = (maps.soft_BSNHW.split(1, 1), maps.ground_truth_BSNHW.split(1, 1), maps.counted_BSNHW.split(1, 1))
    return torch.stack([object_dice(*frame) for frame in zip(*each, strict=True)]).sum()


# Parts of the loss on points ------------------------------------------------------------------------------------------


class _PointLoss(NamedTuple):
    """Cross-entropy and Dice loss of one clip at points that are sampled for the given logits."""

    ground_truth_SKHW: Tensor
    valid_S1HW: Tensor
    objects_N: Tensor
    points: Points
    rng: torch.Generator

    def __call__(self, logits_SKHW: Tensor, padded: Prediction | None = None) -> tuple[Tensor, Tensor]:
        """Means over points and objects, sums over frames. padded: position of the frame, for logits of the padded frame."""
        logits_SKHW = logits_SKHW.float()
        with torch.no_grad():
            at_SP2 = self.places(logits_SKHW, padded)
            ground_truth_SKP = _sample(self.ground_truth_SKHW, at_SP2)
            valid_SP = (_sample(self.valid_S1HW, at_SP2) > 0.5)[:, 0]
        logits_SKP = _sample(logits_SKHW, at_SP2, padded)
        points_SP = -(ground_truth_SKP * logits_SKP.log_softmax(1)).sum(1) * valid_SP
        entropy = (points_SP.sum(1) / valid_SP.sum(1).clamp(min=1)).sum()
        soft_SNP, masks_SNP = (x[:, 1:] * valid_SP[:, None] for x in (logits_SKP.softmax(1), ground_truth_SKP))
        dice_SN = 1 - (2 * (soft_SNP * masks_SNP).sum(-1) + 1) / ((soft_SNP + masks_SNP).sum(-1) + 1)
        return entropy, ((dice_SN * self.objects_N).sum(1) / self.objects_N.sum().clamp(min=1)).sum()

    def places(self, logits_SKHW: Tensor, padded: Prediction | None) -> Tensor:
        """SP2, points (x, y) in [0, 1] of the frame: the most uncertain of many candidates, and random ones."""
        frames, device, points = len(logits_SKHW), logits_SKHW.device, self.points
        uncertain = int(points.uncertain * points.count)
        candidates_SM2 = torch.rand(frames, int(points.oversample * points.count), 2, generator=self.rng).to(device)
        others_SP2 = torch.rand(frames, points.count - uncertain, 2, generator=self.rng).to(device)
        best_S2M = _sample(logits_SKHW, candidates_SM2, padded).topk(2, dim=1).values
        invalid_SM = _sample(self.valid_S1HW, candidates_SM2)[:, 0] <= 0.5
        margin_SM = (best_S2M[:, 0] - best_S2M[:, 1]).masked_fill(invalid_SM, torch.inf)
        chosen_SP = margin_SM.topk(uncertain, dim=1, largest=False).indices
        return torch.cat([candidates_SM2.gather(1, chosen_SP[..., None].expand(-1, -1, 2)), others_SP2], 1)


def _sample(maps_SKHW: Tensor, at_SP2: Tensor, padded: Prediction | None = None) -> Tensor:
    """SKP, bilinear values at the points; beyond the outermost pixel centres, the values there."""
    if padded is not None:
        size, offset, whole = (at_SP2.new_tensor(sides[::-1]) for sides in (padded.size, padded.offset, padded.padded))
        at_SP2 = (at_SP2 * size + offset) / whole
    return F.grid_sample(maps_SKHW, 2 * at_SP2[:, :, None] - 1, padding_mode="border", align_corners=False)[..., 0]


def _additional(predictions: Sequence[Prediction], b: int) -> list[Tensor]:
    """Additional logits of clip `b`, each SKhw, of the padded frame."""
    found: list[Tensor] = []
    for name in predictions[0].aux:
        maps = torch.stack([p.aux[name][b] for p in predictions])
        found += [maps] if maps.dim() == 4 else maps.unbind(1)
    return found


LOSSES: Mapping[str, Callable[[Sequence[Supervised], LossOptions], Losses]] = {
    "released": released,
    "object-dice": mean_object_dice,
    "cross-entropy": cross_entropy,
    "bootstrapped": bootstrapped,
    "bootstrapped-dice": bootstrapped_dice,
    "points": sampled_points,
}
"""Name of a loss, as in `--loss` -> its function."""

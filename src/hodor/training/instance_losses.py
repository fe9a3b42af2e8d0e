"""The losses of a finder: pixels of an object together, in embeddings, bandwidths and seediness, and its class.

Source: STEm-Seg (Athar et al., ECCV 2020); the Lovasz hinge: Berman et al., CVPR 2018. Axes as in `hodor.models.finder`, and P
pixels of all frames of a clip. An object's centre is the mean embedding of its pixels in the clip, its bandwidths the means of
theirs; p = exp(-d^2 / 2), d the distance from the centre in standard deviations, is its soft mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.models.finder import BANDWIDTH, FREE_DEVIATION, Maps
from hodor.tensors import describe, shape_text

SMOOTHNESS_WEIGHT = 10.0
"""Weight of the variance smoothness in the total; the other terms have weight 1."""
SHRINK = 4
"""Stride of the maps."""


@dataclass(frozen=True, repr=False)
class Targets:
    """The ground truth of clips at the resolution of the maps.

    Args:
        masks_BNTHW: bool, the objects' masks.
        known_BN: bool, the planes that are objects rather than padding of the batch.
        ignore_BTHW: bool, pixels whose seediness and class are unknown if they belong to no object.
        classes_BN: int64, classes of the objects from 1. Default: None, no classes.

    Raises:
        ValueError: "expected known_BN [1, 3], got [1, 2]", the same for the others.
    """

    masks_BNTHW: Tensor
    known_BN: Tensor
    ignore_BTHW: Tensor
    classes_BN: Tensor | None = None

    def __post_init__(self) -> None:
        shape = list(self.masks_BNTHW.shape)
        if list(self.ignore_BTHW.shape) != [shape[0], *shape[2:]]:
            raise ValueError(f"expected ignore_BTHW {[shape[0], *shape[2:]]}, got {shape_text(self.ignore_BTHW)}")
        for name, each in (("known_BN", self.known_BN), ("classes_BN", self.classes_BN)):
            if each is not None and list(each.shape) != shape[:2]:
                raise ValueError(f"expected {name} {shape[:2]}, got {shape_text(each)}")

    def __repr__(self) -> str:
        return describe(self)


def targets_of(
    masks_BNTHW: Tensor,
    ignore_BTHW: Tensor,
    known_BN: Tensor | None = None,
    classes_BN: Tensor | None = None,
    *,
    released: bool = False,
) -> Targets:
    """Shrink masks of padded frames to the resolution of the maps: the mean of the 2x2 pixels in the middle of each 4x4.

    Args:
        masks_BNTHW: masks of 0 and 1 or bool, rows and columns of the padded frame.
        ignore_BTHW: the same, the pixels to ignore.
        known_BN: see `Targets`. Default: None, all.
        classes_BN: see `Targets`. Default: None, no classes.
        released: a cell belongs to an object only if its mean is 1, as in the released code, so that objects lose their
            outline; otherwise if it is above 0.5. Default: False.

    Raises:
        ValueError: "expected masks of padded frames, sides that divide by 4, got 90x150".
    """
    height, width = masks_BNTHW.shape[-2:]
    if height % SHRINK or width % SHRINK:
        raise ValueError(f"expected masks of padded frames, sides that divide by {SHRINK}, got {height}x{width}")

    def shrunk(masks: Tensor) -> Tensor:
        mean = F.avg_pool2d(masks.float().flatten(0, -3)[:, None, 1:-1, 1:-1], 2, SHRINK)[:, 0]
        cells: Tensor = mean.unflatten(0, masks.shape[:-2])
        return cells >= 1 if released else cells > 0.5

    if known_BN is None:
        known_BN = torch.ones(masks_BNTHW.shape[:2], dtype=torch.bool, device=masks_BNTHW.device)
    return Targets(shrunk(masks_BNTHW), known_BN, shrunk(ignore_BTHW), classes_BN)


@dataclass(frozen=True)
class FinderLosses:
    """The terms of a finder's loss, each a scalar. All are logged; `total` is minimised.

    Attributes:
        lovasz: mean of the objects' Lovasz hinge losses.
        smoothness: mean of the squared differences between an object's spreads and their mean, without its weight.
        seediness: how far the seediness of an object's pixels is from p, and that of the background from 0.
        classes: cross-entropy of the classes; 0 without classes.
        foreground: binary cross-entropy of the foreground; 0 without classes.
    """

    lovasz: Tensor
    smoothness: Tensor
    seediness: Tensor
    classes: Tensor
    foreground: Tensor

    @property
    def total(self) -> Tensor:
        """lovasz + 10 smoothness + seediness + classes + foreground."""
        return self.lovasz + SMOOTHNESS_WEIGHT * self.smoothness + self.seediness + self.classes + self.foreground


def clip_loss(maps: Maps, targets: Targets, *, released: bool = False) -> FinderLosses:
    """Compute the loss of clips, the mean over the clips of each clip's own loss.

    An object without a pixel in a clip does not count there. A clip without objects trains its background to a seediness of 0.

    Args:
        maps: of B clips, from `Finder.read`.
        targets: of the same clips; `classes_BN` is needed if the maps have semantics.
        released: compute what the released code computes. An object without a pixel shifts the pairing: the objects after it
            are compared with the mask of the one before them. The means of Lovasz and seediness run over the objects of all
            clips together. Clips without any object have no loss. Ignored pixels count for the classes. Default: False.

    Raises:
        ValueError: "expected masks [1, ..., 8, 24, 40], got [1, 3, 8, 12, 20]"; "expected classes of the objects, got none".
    """
    shape = maps.seediness_BTHW.shape
    if list(targets.ignore_BTHW.shape) != list(shape):
        expected = f"expected masks [{shape[0]}, ..., {', '.join(map(str, shape[1:]))}]"
        raise ValueError(f"{expected}, got {shape_text(targets.masks_BNTHW)}")
    clips = [_Clip(maps, targets, b, released) for b in range(len(maps.seediness_BTHW))]
    zero = maps.embeddings_BETHW.sum() * 0
    classes = foreground = zero
    if maps.semantics_BCTHW is not None:
        classes, foreground = _semantic(maps.semantics_BCTHW, targets, released)
    smoothness = torch.stack([_mean(clip.smoothness, zero) for clip in clips]).mean()
    if released:
        every = [term for clip in clips for term in clip.lovasz]
        seeds = torch.stack([clip.seediness_sum for clip in clips]).sum() / (len(every) + 1) if every else zero
        return FinderLosses(_mean(every, zero), smoothness, seeds, classes, foreground)
    lovasz = torch.stack([_mean(clip.lovasz, zero) for clip in clips]).mean()
    seeds = torch.stack([clip.seediness_sum / (len(clip.lovasz) + 1) for clip in clips]).mean()
    return FinderLosses(lovasz, smoothness, seeds, classes, foreground)


class _Clip:
    """The terms of one clip: of each object, and the sum of the seediness."""

    def __init__(self, maps: Maps, targets: Targets, b: int, released: bool) -> None:
        spreads_VP = maps.spreads_BVTHW[b].flatten(1)
        embeddings_EP, seediness_P = maps.embeddings_BETHW[b].flatten(1), maps.seediness_BTHW[b].flatten()
        masks_NP = targets.masks_BNTHW[b][targets.known_BN[b]].flatten(1)
        present = [mask_P for mask_P in masks_NP if bool(mask_P.any())]
        compared = list(masks_NP) if released else present
        background_P = ~masks_NP.any(0)
        squares_P = seediness_P.square() * ~targets.ignore_BTHW[b].flatten()
        self.lovasz: list[Tensor] = []
        self.smoothness: list[Tensor] = []
        count = background_P.sum().clamp(min=1)
        self.seediness_sum = (squares_P * background_P).sum() / count
        for own_P, mask_P in zip(present, compared, strict=False):
            soft_P = soft_mask(embeddings_EP, spreads_VP, own_P)
            self.lovasz.append(lovasz_hinge(2 * soft_P - 1, mask_P))
            inside_VP = spreads_VP[:, own_P]
            if len(inside_VP):
                self.smoothness.append((inside_VP - inside_VP.mean(1, keepdim=True)).square().mean())
            if bool(mask_P.any()):
                self.seediness_sum = self.seediness_sum + (seediness_P - soft_P.detach()).square()[mask_P].mean()


def soft_mask(embeddings_EP: Tensor, spreads_VP: Tensor, mask_P: Tensor) -> Tensor:
    """Compute p of every pixel for the object that a mask shows.

    Args:
        embeddings_EP: embeddings.
        spreads_VP: logarithms of the bandwidths, see `Maps`.
        mask_P: bool, the object's pixels, at least one.
    """
    centre_E1 = embeddings_EP[:, mask_P].mean(1, keepdim=True)
    bandwidth_V = (BANDWIDTH * spreads_VP[:, mask_P].exp()).mean(1)
    free = bandwidth_V.new_full((len(embeddings_EP) - len(bandwidth_V),), FREE_DEVIATION**-2)
    squares_EP = (embeddings_EP - centre_E1).square()
    return (-0.5 * torch.cat([bandwidth_V, free]) @ squares_EP).exp()


def lovasz_hinge(logits_P: Tensor, mask_P: Tensor) -> Tensor:
    """Compute the Lovasz hinge of one mask: a convex bound of 1 - IoU, at least 0; 0 for a mask without a pixel.

    Args:
        logits_P: above 0 where the pixel is predicted to belong to the mask.
        mask_P: bool.
    """
    if not bool(mask_P.any()):
        return logits_P.sum() * 0
    errors_P, order = (1 - logits_P * (2 * mask_P.to(logits_P) - 1)).sort(descending=True)
    inside_P = mask_P[order].to(logits_P)
    count = inside_P.sum()
    jaccard_P = 1 - (count - inside_P.cumsum(0)) / (count + (1 - inside_P).cumsum(0))
    steps_P = torch.cat([jaccard_P[:1], jaccard_P[1:] - jaccard_P[:-1]])
    return errors_P.relu() @ steps_P


def _semantic(semantics_BCTHW: Tensor, targets: Targets, released: bool) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the classes and of the foreground; where objects overlap, of the highest class."""
    if targets.classes_BN is None:
        raise ValueError("expected classes of the objects, got none: the network has a semantic head")
    classes_BN = targets.classes_BN * targets.known_BN
    classes_BTHW = (targets.masks_BNTHW * classes_BN[..., None, None, None]).amax(1) if classes_BN.shape[1] else None
    if classes_BTHW is None:
        classes_BTHW = torch.zeros_like(targets.ignore_BTHW, dtype=torch.int64)
    counted_BTHW = (~targets.ignore_BTHW).to(semantics_BCTHW)
    each_BTHW = F.cross_entropy(semantics_BCTHW[:, :-1], classes_BTHW, reduction="none")
    classes = each_BTHW.mean() if released else _counted_mean(each_BTHW, counted_BTHW)
    above_BTHW = (classes_BTHW > 0).to(semantics_BCTHW)
    each_BTHW = F.binary_cross_entropy_with_logits(semantics_BCTHW[:, -1], above_BTHW, reduction="none")
    return classes, _counted_mean(each_BTHW, counted_BTHW)


def _counted_mean(each_BTHW: Tensor, counted_BTHW: Tensor) -> Tensor:
    """Mean over the clips of the mean over a clip's pixels that count; a clip without any counts 0."""
    return ((each_BTHW * counted_BTHW).flatten(1).sum(1) / counted_BTHW.flatten(1).sum(1).clamp(min=1)).mean()


def _mean(terms: Sequence[Tensor], zero: Tensor) -> Tensor:
    return torch.stack(list(terms)).mean() if terms else zero

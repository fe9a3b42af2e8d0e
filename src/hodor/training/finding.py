"""A training step of a finder, for the loop of `hodor.train`: scheme "find"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from hodor.data.clip import Clip
from hodor.discovery.clustering import Clustering, find
from hodor.masks import palette
from hodor.models.finder import Finder, Maps
from hodor.models.model import Model
from hodor.training.instance_losses import SMOOTHNESS_WEIGHT, FinderLosses, clip_loss, targets_of
from hodor.training.journal import over
from hodor.training.recipe import Recipe

SCHEME = "find"
FOREGROUND = 0.25
"""Seediness above which a pixel is shown in the pictures of a run."""


def check_recipe(recipe: Recipe, network: Model) -> None:
    """Check that a recipe's scheme is for its network, before the first step.

    Raises:
        ValueError: "expected scheme find for stemseg-davis, which finds objects, got dense", "expected another scheme than find
            for xmem-lite, which tracks given objects".
        ValueError: "expected clips of 2, 4, 8, 16, 24 or 32 frames for stemseg-davis, got 3: set --frames".
        ValueError: "expected a finder without classes, got 40: training clips have none".
        ValueError: "expected no validation and no replay with scheme find, which tracks no given object: ...".
    """
    if not isinstance(network, Finder):
        if recipe.scheme == SCHEME:
            raise ValueError(f"expected another scheme than find for {network.name}, which tracks given objects")
        return
    if recipe.scheme != SCHEME:
        raise ValueError(f"expected scheme find for {network.name}, which finds objects, got {recipe.scheme}")
    if recipe.frames not in network.lengths:
        known = ", ".join(map(str, network.lengths[:-1]))
        expected = f"expected clips of {known} or {network.lengths[-1]} frames for {network.name}"
        raise ValueError(f"{expected}, got {recipe.frames}: set --frames")
    if classes := network.settings.get("classes"):
        raise ValueError(f"expected a finder without classes, got {classes}: training clips have none")
    if recipe.validation.every or recipe.replay.share:
        advice = "leave out --validation.every and --replay.share"
        raise ValueError(f"expected no validation and no replay with scheme find, which tracks no given object: {advice}")


class FindTerms(NamedTuple):
    """The terms of the loss; scalars, means over the clips of a step. See `FinderLosses`."""

    lovasz: Any
    smoothness: Any
    seediness: Any

    @classmethod
    def of(cls, losses: FinderLosses, shown: Sequence[Maps], clip: Clip) -> Self:
        """Collect the terms, as tensors."""
        return cls(losses.lovasz.detach(), losses.smoothness.detach(), losses.seediness.detach())

    @property
    def loss(self) -> float:
        """The total."""
        return float(self.lovasz + SMOOTHNESS_WEIGHT * self.smoothness + self.seediness)


class FindPlay(nn.Module):
    """The forward pass of a finder's training step: the clip is read in the recipe's precision, then the loss in float32.

    Args:
        network: the finder to train.
        recipe: the recipe; `precision` and `unlabelled` are used.
    """

    terms = FindTerms

    def __init__(self, network: Finder, recipe: Recipe) -> None:
        super().__init__()
        self.network, self.recipe = network, recipe

    def forward(self, clip: Clip, step: int, first: int = 0, start: None = None) -> tuple[FinderLosses, list[Maps]]:
        """Compute the loss of some clips of a batch.

        Args:
            clip: the clips, with masks on every frame.
            step: not used.
            first: not used.
            start: not used.

        Returns:
            The loss, and the maps, without gradient.
        """
        device, count = clip.frames_BTCHW.device.type, clip.frames_BTCHW.shape[1]
        with torch.autocast(device, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            features = self.network.encode(clip.frames_BTCHW.transpose(0, 1).flatten(0, 1))
            maps = self.network.read(features.split(count))
        height, width = features.padded
        beyond = (0, width - features.size[1], 0, height - features.size[0])
        masks_BNTHW = F.pad(clip.masks_BTNHW.transpose(1, 2), beyond)
        ignore_BTHW = ~clip.valid_BTHW
        if self.recipe.unlabelled == "ignored":
            ignore_BTHW = torch.ones_like(ignore_BTHW)  # an object's own pixels count in any case
        targets = targets_of(masks_BNTHW, F.pad(ignore_BTHW.float(), beyond), clip.objects_BN)
        losses = clip_loss(maps, targets)
        shown = (maps.embeddings_BETHW, maps.spreads_BVTHW, maps.seediness_BTHW)
        return losses, [Maps(*(each.detach() for each in shown))]

    def check(self, clip: Clip, step: int) -> None:
        """Check that every frame has masks.

        Raises:
            ValueError: "expected masks on every frame for scheme find, got masks on 1 of 8: set --data.labels all".
        """
        for labelled_T in clip.labelled_BT:
            if not bool(labelled_T.all()):
                found = f"got masks on {int(labelled_T.sum())} of {len(labelled_T)}"
                raise ValueError(f"expected masks on every frame for scheme find, {found}: set --data.labels all")

    def line(self, terms: FindTerms, losses: FinderLosses, shown: Sequence[Maps]) -> dict[str, float]:
        """Return what the log states of a step's loss."""
        return {"loss": terms.loss, **terms._asdict()}

    def draw(self, clip: Clip, shown: Sequence[Maps]) -> npt.NDArray[np.uint8]:
        """Draw what is found: uint8 RGB [H, W, 3], two rows a clip, ground truth above finds, a column a frame."""
        return draw(clip, shown[-1])


def draw(clip: Clip, maps: Maps, max_clips: int = 4) -> npt.NDArray[np.uint8]:
    """Draw what is found in clips, see `FindPlay.draw`.

    Args:
        clip: the clips.
        maps: of the same clips.
        max_clips: maximum number of clips. Default: 4.
    """
    colours, rows = torch.from_numpy(palette()), []
    height, width = clip.frames_BTCHW.shape[-2:]
    for b in range(min(max_clips, len(clip.frames_BTCHW))):
        own = Maps(maps.embeddings_BETHW[b : b + 1], maps.spreads_BVTHW[b : b + 1], maps.seediness_BTHW[b : b + 1])
        labels_THW = find(own, own.seediness_BTHW[0] > FOREGROUND, Clustering(min_seediness=0.5)).labels_THW.clamp(min=0).cpu()
        large_THW = labels_THW.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :height, :width]
        pictures = (clip.frames_BTCHW[b].float().cpu() * 255).clamp(0, 255).byte()
        masks_TNHW = clip.masks_BTNHW[b].cpu()
        ground_truth_THW = torch.where(masks_TNHW.amax(1) > 0.5, masks_TNHW.argmax(1) + 1, 0)
        for labels in (ground_truth_THW, large_THW):
            rows.append(torch.cat([over(picture, each, colours) for picture, each in zip(pictures, labels, strict=True)], 2))
    image: npt.NDArray[np.uint8] = torch.cat(rows, 1).permute(1, 2, 0).contiguous().numpy()
    return image


def place(network: Finder, device: torch.device) -> None:
    """Move a finder to a device, with the weights of its 2D convolutions in channels-last memory format."""
    network.to(device)
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def freeze(network: Model, names: Sequence[str]) -> None:
    """Leave parts of a network as they are.

    Args:
        network: the network.
        names: names of submodules.

    Raises:
        ValueError: "expected the name of a part of stemseg-davis (backbone, pyramid, ...), got 'fpn'".
    """
    parts: dict[str, nn.Module] = dict(network.named_children())
    for name in names:
        if name not in parts:
            raise ValueError(f"expected the name of a part of {network.name} ({', '.join(parts)}), got {name!r}")
        parts[name].requires_grad_(False)

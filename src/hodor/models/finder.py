"""The interface of networks that find objects by themselves: a clip in, maps out, in which pixels of an object lie together.

Shapes as in `base`, and

    E  dimensions of an embedding      V  dimensions with a learned bandwidth, the first of E      C  classes and foreground

A finder remembers nothing and is given no object: `read` sees T frames as one volume. What is found in the maps, and how the
finds of overlapping clips are joined, is computed by `hodor.discovery`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.models.model import Model
from hodor.models.prediction import Features
from hodor.tensors import describe, is_traced, shape_text

BANDWIDTH = 10.0
"""Bandwidth (inverse variance) of a dimension where the network's output is 0; it is this times exp(output)."""
FREE_DEVIATION = 0.3
"""Standard deviation of the dimensions without a learned bandwidth."""


@dataclass(frozen=True, repr=False)
class Maps:
    """What a finder computes for clips, at the network's resolution.

    Args:
        embeddings_BETHW: float32, pixels of the same object are near each other and those of others far.
        spreads_BVTHW: float32, logarithm of the bandwidths of the first V dimensions, without their factor; V can be 0.
        seediness_BTHW: float32 in [0, 1], how well the pixel's embedding represents its object; low on the background.
        semantics_BCTHW: float32 logits of the classes (0 is background), and of the foreground last. Default: None, no classes.

    Raises:
        ValueError: "expected seediness [1, 8, 24, 40], got [1, 8, 12, 20]", the same for the other maps.
    """

    embeddings_BETHW: Tensor
    spreads_BVTHW: Tensor
    seediness_BTHW: Tensor
    semantics_BCTHW: Tensor | None = None

    def __post_init__(self) -> None:
        if is_traced():
            return
        shape = [len(self.embeddings_BETHW), *self.embeddings_BETHW.shape[2:]]
        if list(self.seediness_BTHW.shape) != shape:
            raise ValueError(f"expected seediness {shape}, got {shape_text(self.seediness_BTHW)}")
        for name, each in (("spreads", self.spreads_BVTHW), ("semantics", self.semantics_BCTHW)):
            if each is not None and [len(each), *each.shape[2:]] != shape:
                raise ValueError(f"expected {name} [{shape[0]}, ..., {', '.join(map(str, shape[1:]))}], got {shape_text(each)}")

    def __repr__(self) -> str:
        return describe(self)

    @property
    def bandwidths_BETHW(self) -> Tensor:
        """Inverse variances of all dimensions: 10 exp(spread) of the first, 1 / 0.3^2 of the others."""
        learned = BANDWIDTH * self.spreads_BVTHW.exp()
        free = self.embeddings_BETHW.shape[1] - learned.shape[1]
        shape = (len(learned), free, *learned.shape[2:])
        return torch.cat([learned, learned.new_full(shape, FREE_DEVIATION**-2)], 1)

    def frames(self, indices: Sequence[int] | slice) -> Maps:
        """Return the maps of some frames of the clips."""
        semantics = None if self.semantics_BCTHW is None else self.semantics_BCTHW[:, :, indices]
        return Maps(
            self.embeddings_BETHW[:, :, indices], self.spreads_BVTHW[:, :, indices], self.seediness_BTHW[:, indices], semantics
        )

    def enlarged(self, factor: int) -> Maps:
        """Return the maps with this many times the rows and columns, interpolated bilinearly (the bandwidths themselves are
        interpolated, not their logarithm).

        Args:
            factor: at least 1.
        """
        bandwidths = _enlarge(self.spreads_BVTHW.exp(), factor)
        semantics = None if self.semantics_BCTHW is None else _enlarge(self.semantics_BCTHW, factor)
        return replace(
            self,
            embeddings_BETHW=_enlarge(self.embeddings_BETHW, factor),
            spreads_BVTHW=bandwidths.log(),
            seediness_BTHW=_enlarge(self.seediness_BTHW[:, None], factor)[:, 0],
            semantics_BCTHW=semantics,
        )


def _enlarge(maps_BCTHW: Tensor, factor: int) -> Tensor:
    flat = maps_BCTHW.transpose(1, 2).flatten(0, 1)
    if not flat.shape[1]:
        return maps_BCTHW.new_zeros(*maps_BCTHW.shape[:3], *(factor * s for s in maps_BCTHW.shape[3:]))
    large: Tensor = F.interpolate(flat, scale_factor=float(factor), mode="bilinear", align_corners=False)
    out: Tensor = large.unflatten(0, (len(maps_BCTHW), maps_BCTHW.shape[2])).transpose(1, 2)
    return out


class Finder(Model):
    """Base class of networks that find the objects of a clip. A subclass implements `encode` and `read`.

    Attributes:
        length: number of frames of a clip, see `set_length`.
        lengths: the numbers of frames that `read` accepts.
    """

    length: int = 8
    lengths: tuple[int, ...] = ()

    def about(self) -> dict[str, Any]:
        return super().about() | {"finds": True}

    def read(self, features: Sequence[Features]) -> Maps:
        """Compute the maps of clips.

        Args:
            features: of each frame in the order of time, from `encode`, each with the frames of B clips; their number is one of
                `lengths`.

        Raises:
            ValueError: "expected clips of 2, 4, 8, 16, 24 or 32 frames, got 5: ...".
        """
        raise NotImplementedError

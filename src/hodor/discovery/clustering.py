"""Clusters of pixels: the most representative pixel that is left becomes a centre, and the pixels near it join.

Pure functions of a finder's maps. Axes: P pixels, N clusters; otherwise as in `hodor.models.finder`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hodor.models.finder import Maps

ATTEMPTS = 5
"""Centres that are tried, as a multiple of the number of clusters that is asked for."""


@dataclass(frozen=True)
class Clustering:
    """How pixels are clustered.

    Args:
        join: a pixel joins a centre if its probability is above this. Default: 0.5.
        rest: a pixel that joined none joins the nearest centre if its probability for it is above this. Default: 0.3.
        min_seediness: the seediness of a centre is at least this. Default: 0.8.
        max_clusters: maximum number of clusters in a clip. Default: 20.
        min_pixels: a centre that fewer pixels join is not a cluster; its pixels can join others. Default: 16.
        released: cluster as the released code does. The probability is exp(-d / 2) rather than exp(-d^2 / 2), which training
            uses, d the distance in standard deviations; the pixels that are left join the farthest centre rather than the
            nearest; once `max_clusters` is reached the pixels of the last cluster count as left; `min_pixels` is not used.
            Default: False.

    Raises:
        ValueError: "expected max_clusters of at least 1, got 0".
    """

    join: float = 0.5
    rest: float = 0.3
    min_seediness: float = 0.8
    max_clusters: int = 20
    min_pixels: int = 16
    released: bool = False

    def __post_init__(self) -> None:
        if self.max_clusters < 1:
            raise ValueError(f"expected max_clusters of at least 1, got {self.max_clusters}")

    def probability(self, squares: Tensor) -> Tensor:
        """Return the probability that a pixel belongs to a centre, from the square of its distance."""
        return (-(squares.sqrt() if self.released else squares) / 2).exp()


@dataclass(frozen=True)
class Clusters:
    """The clusters of a set of pixels.

    Args:
        labels_P: int64, place of the pixel's cluster from 0, or -1 for a pixel that joined none.
        centres_NE: embeddings of the centres, in the order in which they were chosen.
        bandwidths_NE: inverse variances at the centres.
        seeds_N: index of each centre's pixel.
    """

    labels_P: Tensor
    centres_NE: Tensor
    bandwidths_NE: Tensor
    seeds_N: Tensor


@torch.no_grad()
def cluster(embeddings_PE: Tensor, bandwidths_PE: Tensor, seediness_P: Tensor, options: Clustering | None = None) -> Clusters:
    """Cluster pixels by their embeddings.

    Args:
        embeddings_PE: embeddings.
        bandwidths_PE: inverse variances of each dimension at each pixel; those of a centre are used.
        seediness_P: seediness.
        options: see `Clustering`. Default: `Clustering()`.
    """
    options = options or Clustering()
    labels_P = torch.full_like(seediness_P, -1, dtype=torch.int64)
    left_P = torch.ones_like(labels_P, dtype=torch.bool)
    last_P = torch.zeros_like(left_P)
    rank_P = seediness_P.clone()  # of the pixels that can be a centre; the others are -1
    squares: list[Tensor] = []
    seeds: list[int] = []
    for _ in range(ATTEMPTS * options.max_clusters):
        if len(seeds) == options.max_clusters or not len(rank_P):
            break
        seed = int(rank_P.argmax())
        if rank_P[seed] < options.min_seediness:
            break
        squares_P = (bandwidths_PE[seed] * (embeddings_PE - embeddings_PE[seed]).square()).sum(1)
        last_P = left_P & (options.probability(squares_P) > options.join)
        last_P[seed] = True
        rank_P[last_P] = -1
        if not options.released and int(last_P.sum()) < options.min_pixels:
            continue
        labels_P[last_P] = len(seeds)
        left_P &= ~last_P
        squares.append(squares_P)
        seeds.append(seed)
    if seeds:
        if options.released and len(seeds) == options.max_clusters:
            left_P |= last_P
        squares_NP = torch.stack(squares)
        distance_P, place_P = squares_NP.max(0) if options.released else squares_NP.min(0)
        joins_P = left_P & (options.probability(distance_P) > options.rest)
        labels_P[joins_P] = place_P[joins_P]
    seeds_N = torch.tensor(seeds, dtype=torch.int64, device=labels_P.device)
    return Clusters(labels_P, embeddings_PE[seeds_N], bandwidths_PE[seeds_N], seeds_N)


@dataclass(frozen=True)
class Find:
    """An object that was found in a clip.

    Args:
        id: its value in the label map.
        pixels: number of its pixels in the clip.
        score: mean seediness of its pixels.
        seed: frame, row and column of the centre's pixel.
        centre: embedding of the centre, [E].
        bandwidths: inverse variances at the centre, [E].
    """

    id: int
    pixels: int
    score: float
    seed: tuple[int, int, int]
    centre: Tensor
    bandwidths: Tensor


@dataclass(frozen=True)
class Found:
    """What was found in a clip.

    Args:
        labels_THW: int32, 0 for background, -1 for foreground that joined no object, else the id of the object.
        finds: the objects, in the order in which they were found.
    """

    labels_THW: Tensor
    finds: tuple[Find, ...]


@torch.no_grad()
def find(maps: Maps, foreground_THW: Tensor, options: Clustering | None = None, first: int = 1) -> Found:
    """Find the objects of a clip: cluster the foreground pixels of all its frames at once.

    Args:
        maps: of one clip.
        foreground_THW: bool, the pixels to cluster.
        options: see `Clustering`. Default: `Clustering()`.
        first: id of the first object; the others count from it. Default: 1.

    Raises:
        ValueError: "expected maps of one clip, got 2"; "expected a foreground of [8, 24, 40], got [8, 12, 20]".
    """
    seediness_THW = maps.seediness_BTHW[0]
    if len(maps.seediness_BTHW) != 1:
        raise ValueError(f"expected maps of one clip, got {len(maps.seediness_BTHW)}")
    if foreground_THW.shape != seediness_THW.shape:
        raise ValueError(f"expected a foreground of {list(seediness_THW.shape)}, got {list(foreground_THW.shape)}")
    places_P3 = foreground_THW.nonzero()
    seediness_P = seediness_THW[foreground_THW]
    points = [each[0].movedim(0, -1)[foreground_THW] for each in (maps.embeddings_BETHW, maps.bandwidths_BETHW)]
    clusters = cluster(points[0], points[1], seediness_P, options)
    labels_THW = torch.zeros_like(seediness_THW, dtype=torch.int32)
    labels_P = clusters.labels_P
    labels_THW[foreground_THW] = torch.where(labels_P < 0, labels_P, labels_P + first).int()
    finds = []
    for place, seed in enumerate(clusters.seeds_N.tolist()):
        won = labels_P == place
        t, y, x = places_P3[seed].tolist()
        count = int(won.sum())
        score = float(seediness_P[won].mean()) if count else 0.0  # the released second pass can move the last cluster's pixels
        finds.append(Find(first + place, count, score, (t, y, x), clusters.centres_NE[place], clusters.bandwidths_NE[place]))
    return Found(labels_THW, tuple(finds))

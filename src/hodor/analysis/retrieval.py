"""Re-identification of objects by their descriptors (HODOR, supplement, section II).

Each descriptor is used as a query. The others are ranked by their Euclidean distance to it. Those of the same object are
correct.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hodor.analysis import plots

if TYPE_CHECKING:
    from hodor.analysis.descriptors import Described

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
LEVELS = 101
"""Number of recalls at which precision is computed: 0, 0.01 ... 1."""
ROWS = 256
"""Queries that are ranked at once."""


class Ranking(NamedTuple):
    """The results of Q queries.

    Attributes:
        rows: indices of the queries, int [Q]. A descriptor whose object has no other descriptor is not a query.
        precision: highest precision at each recall or above, [Q, LEVELS].
        average: average precision, [Q]: the mean, over the correct descriptors, of the precision at their rank. Equal distances
            share a rank, as in scikit-learn.
        chance: share of correct descriptors among the others, [Q], which is the precision of a random order.
    """

    rows: Ints
    precision: Floats
    average: Floats
    chance: Floats


def rank(vectors: Floats, instance: Ints, within: Ints | None = None) -> Ranking:
    """Rank the descriptors by distance, for each descriptor as the query.

    Args:
        vectors: descriptors [M, D].
        instance: index of the object of each descriptor, [M].
        within: group of each descriptor, [M], for example its video. Each query then ranks only the descriptors of its group,
            and groups with only one object have no queries, because every descriptor would be correct. Default: one group.

    Returns:
        The results; the arrays are empty if there is no query.

    Raises:
        ValueError: "expected one instance for each of 4 vectors, got 3"; "expected finite vectors, got nan or infinity".
    """
    if len(vectors) != len(instance):
        raise ValueError(f"expected one instance for each of {len(vectors)} vectors, got {len(instance)}")
    if not np.isfinite(vectors).all():
        raise ValueError("expected finite vectors, got nan or infinity")
    if within is None:
        groups = [np.arange(len(vectors))]
    else:
        groups = [np.flatnonzero(within == group) for group in np.unique(within)]
        groups = [rows for rows in groups if len(np.unique(instance[rows])) > 1]
    parts = [Ranking(np.zeros(0, np.int64), np.zeros((0, LEVELS)), np.zeros(0), np.zeros(0))]
    for rows in groups:
        own, ids = vectors[rows].astype(np.float64), instance[rows]
        queries = np.flatnonzero((ids[:, None] == ids).sum(1) > 1)
        for start in range(0, len(queries), ROWS):
            part = queries[start : start + ROWS]
            found = _rank(own, ids, part)
            parts.append(found._replace(rows=rows[part]))
    return Ranking(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _rank(vectors: Floats, ids: Ints, queries: Ints) -> Ranking:
    """Rank all other rows for each query; each query has at least one other row of its object."""
    query_vectors = vectors[queries]
    # squared distances give the same order as distances
    distance = (query_vectors**2).sum(1)[:, None] + (vectors**2).sum(1) - 2 * query_vectors @ vectors.T
    distance[np.arange(len(queries)), queries] = np.inf
    order = distance.argsort(1, kind="stable")[:, :-1]
    distance = np.take_along_axis(distance, order, 1)
    correct = ids[order] == ids[queries][:, None]
    count = correct.shape[1]
    # equal distances share the rank of the last of them
    position = np.arange(count)
    last = np.concatenate([distance[:, 1:] != distance[:, :-1], np.ones((len(queries), 1), bool)], 1)
    end = np.minimum.accumulate(np.where(last, position, count)[:, ::-1], 1)[:, ::-1]
    precision = np.take_along_axis(correct.cumsum(1) / (position + 1), end, 1)
    total = correct.sum(1)
    average = (precision * correct).sum(1) / total
    best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    # for every recall, the column of the k-th correct one of a row; `columns` lists the correct ones of all rows, row by row
    _, columns = correct.nonzero()
    first = np.concatenate([[0], total.cumsum()[:-1]])
    needed = np.ceil(np.arange(LEVELS)[None] * total[:, None] / (LEVELS - 1) - 1e-9).astype(np.int64).clip(min=1)
    at = columns[first[:, None] + needed - 1]
    return Ranking(queries, np.take_along_axis(best, at, 1), average, total / count)


def measure(described: Described) -> dict[str, Any]:
    """Return the data of the figure: curves and average precision among all videos and within each video, and of each object.

    Videos with one object have no queries within the video. "same_video" is None if all videos have one object.

    Raises:
        ValueError: "expected at least two frames of an object, got one frame of each"; "expected at least two objects, got one,
            bear 1".
    """

    def summary(ranking: Ranking) -> dict[str, Any] | None:
        if not len(ranking.rows):
            return None
        return {
            "queries": len(ranking.rows),
            "average_precision": float(ranking.average.mean()),
            "chance": float(ranking.chance.mean()),
            "precision": ranking.precision.mean(0).round(6).tolist(),
        }

    everywhere = rank(described.vectors, described.instance)
    inside = rank(described.vectors, described.instance, described.video)
    if not len(everywhere.rows):
        raise ValueError("expected at least two frames of an object, got one frame of each")
    if len(described.instances) < 2:
        raise ValueError(f"expected at least two objects, got one, {described.instances[0]}")
    objects = []
    for number, name in enumerate(described.instances):
        row: dict[str, Any] = {"name": name, "descriptors": int((described.instance == number).sum())}
        for key, ranking in (("all_videos", everywhere), ("same_video", inside)):
            own = described.instance[ranking.rows] == number
            row[key] = float(ranking.average[own].mean()) if own.any() else None
        objects.append(row)
    return {
        "descriptors": len(described.instance),
        "videos": len(described.videos),
        "recall": [level / (LEVELS - 1) for level in range(LEVELS)],
        "all_videos": summary(everywhere),
        "same_video": summary(inside),
        "objects": objects,
    }


def draw(path: Path, data: Mapping[str, Any], max_objects: int = 30) -> None:
    """Draw precision-recall curves and the average precision of each object, and write the data beside the figure.

    The precision of a random order is dotted. The data of one video have one curve.

    Args:
        path: the figure, PNG or SVG.
        data: the data from `measure`.
        max_objects: largest number of objects, those with the lowest average precision.
    """
    rows = sorted((o for o in data["objects"] if o["all_videos"] is not None), key=lambda o: o["all_videos"])
    shown = rows[:max_objects]
    with plots.page(path, data, (11, max(4.6, 1.6 + 0.2 * len(shown)))) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        curves = (("all_videos", "among all videos"), ("same_video", "within its video"))[: data["videos"]]
        for (key, name), colour in zip(curves, plots.COLOURS, strict=False):
            curve = data[key]
            if curve is not None:
                text = f"{name}: average precision {curve['average_precision']:.3f}"
                left.plot(data["recall"], curve["precision"], color=colour, label=text)
                left.axhline(curve["chance"], color=colour, linestyle=":", label=f"chance, {name}: {curve['chance']:.3f}")
        left.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision (highest at that recall or more)")
        videos = f"{data['videos']} video{'s' * (data['videos'] > 1)}"
        left.set_title(f"{data['all_videos']['queries']} queries, {len(data['objects'])} objects, {videos}")
        figure.legend(loc="outside lower left", ncols=2)  # outside the axes, so that it covers no curve
        right.barh([o["name"] for o in shown], [o["all_videos"] for o in shown], color=plots.COLOURS[0], height=0.7)
        for position, row in enumerate(shown):
            right.text(row["all_videos"] + 0.01, position, f"{row['all_videos']:.2f}", va="center", fontsize=8)
        right.axvline(data["all_videos"]["chance"], color=plots.COLOURS[0], linestyle=":")
        which = f"the {len(shown)} lowest of {len(rows)}" if len(shown) < len(rows) else "lowest first"
        right.set_title(f"average precision among all videos, {which}")
        right.set(xlim=(0, 1.1), ylim=(-0.7, len(shown) - 0.3))
        right.grid(visible=False, axis="y")
        right.tick_params(axis="y", labelsize=8)
        right.invert_yaxis()

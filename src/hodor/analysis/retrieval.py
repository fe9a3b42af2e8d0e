"""Re-identification: do an object's descriptors find each other among those of all objects? (HODOR, supplement, section II)

Each descriptor in turn is the query; the others are ranked by Euclidean distance to it; those of the same object are right.
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
"""Recalls at which precision is told: 0, 0.01 ... 1."""
ROWS = 256
"""Queries ranked at once."""


class Ranking(NamedTuple):
    """What Q queries found.

    rows: int [Q], which descriptors asked; one whose object has no other descriptor cannot. precision: [Q, LEVELS], the highest
    precision at that recall or more. average: [Q], average precision: the mean, over the right ones, of the precision down to
    there, ties taken together, as scikit-learn defines it. chance: [Q], the share of right ones among the others, which is the
    precision of a random order.
    """

    rows: Ints
    precision: Floats
    average: Floats
    chance: Floats


def rank(vectors: Floats, instance: Ints, within: Ints | None = None) -> Ranking:
    """Rank, for each of the vectors [M, D], the others by distance; equal numbers in `instance` [M] are one object.

    within: [M], the others are only those with the same number here (for example, of the same video), and only groups with
    at least two objects ask: with one object every answer would be right. No query at all gives empty arrays.

    Raises ValueError: "4 vectors, 3 instances: want one each", "vectors hold values that are not finite".
    """
    if len(vectors) != len(instance):
        raise ValueError(f"{len(vectors)} vectors, {len(instance)} instances: want one each")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors hold values that are not finite")
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
    """Rankings of some rows among all others; each has at least one other row of its object."""
    asked = vectors[queries]
    # squared distances order the others as distances do
    distance = (asked**2).sum(1)[:, None] + (vectors**2).sum(1) - 2 * asked @ vectors.T
    distance[np.arange(len(queries)), queries] = np.inf
    order = distance.argsort(1, kind="stable")[:, :-1]
    distance = np.take_along_axis(distance, order, 1)
    right = ids[order] == ids[queries][:, None]
    count = right.shape[1]
    # equally distant ones are answered together: each counts at the end of its tie
    place = np.arange(count)
    last = np.concatenate([distance[:, 1:] != distance[:, :-1], np.ones((len(queries), 1), bool)], 1)
    end = np.minimum.accumulate(np.where(last, place, count)[:, ::-1], 1)[:, ::-1]
    precision = np.take_along_axis(right.cumsum(1) / (place + 1), end, 1)
    total = right.sum(1)
    average = (precision * right).sum(1) / total
    best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    # the k-th right one of a row, for every level of recall: the right ones of all rows stand one behind the other
    _, columns = right.nonzero()
    first = np.concatenate([[0], total.cumsum()[:-1]])
    wanted = np.ceil(np.arange(LEVELS)[None] * total[:, None] / (LEVELS - 1) - 1e-9).astype(np.int64).clip(min=1)
    at = columns[first[:, None] + wanted - 1]
    return Ranking(queries, np.take_along_axis(best, at, 1), average, total / count)


def measure(described: Described) -> dict[str, Any]:
    """The figure's data: curves and mean average precision among all videos and within each, and every object's own.

    Within a video nothing is measured where it has one object only; without any other, "same_video" is None.
    """

    def told(found: Ranking) -> dict[str, Any] | None:
        if not len(found.rows):
            return None
        return {
            "queries": len(found.rows),
            "average_precision": float(found.average.mean()),
            "chance": float(found.chance.mean()),
            "precision": found.precision.mean(0).round(6).tolist(),
        }

    everywhere = rank(described.vectors, described.instance)
    inside = rank(described.vectors, described.instance, described.video)
    if not len(everywhere.rows):
        raise ValueError("no object has two descriptors: want at least two frames of an object")
    if len(described.instances) < 2:
        raise ValueError(f"one object, {described.instances[0]}: want at least two to tell apart")
    objects = []
    for number, name in enumerate(described.instances):
        row: dict[str, Any] = {"name": name, "descriptors": int((described.instance == number).sum())}
        for key, found in (("all_videos", everywhere), ("same_video", inside)):
            own = described.instance[found.rows] == number
            row[key] = float(found.average[own].mean()) if own.any() else None
        objects.append(row)
    return {
        "descriptors": len(described.instance),
        "videos": len(described.videos),
        "recall": [level / (LEVELS - 1) for level in range(LEVELS)],
        "all_videos": told(everywhere),
        "same_video": told(inside),
        "objects": objects,
    }


def draw(path: Path, data: Mapping[str, Any], most: int = 30) -> None:
    """The figure, PNG or SVG, and `data` (from `measure`) beside it: left the precision-recall curves with chance dotted, right
    the average precision of each object, the lowest `most` of them. One video alone has one curve."""
    rows = sorted((o for o in data["objects"] if o["all_videos"] is not None), key=lambda o: o["all_videos"])
    shown = rows[:most]
    with plots.page(path, data, (11, max(4.6, 1.6 + 0.2 * len(shown)))) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        named = (("all_videos", "among all videos"), ("same_video", "within its video"))[: data["videos"]]
        for (key, name), colour in zip(named, plots.COLOURS, strict=False):
            curve = data[key]
            if curve is not None:
                text = f"{name}: average precision {curve['average_precision']:.3f}"
                left.plot(data["recall"], curve["precision"], color=colour, label=text)
                left.axhline(curve["chance"], color=colour, linestyle=":", label=f"chance, {name}: {curve['chance']:.3f}")
        left.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision (highest at that recall or more)")
        videos = f"{data['videos']} video{'s' * (data['videos'] > 1)}"
        left.set_title(f"{data['all_videos']['queries']} queries, {len(data['objects'])} objects, {videos}")
        figure.legend(loc="outside lower left", ncols=2)  # no curve is there
        right.barh([o["name"] for o in shown], [o["all_videos"] for o in shown], color=plots.COLOURS[0], height=0.7)
        for place, row in enumerate(shown):
            right.text(row["all_videos"] + 0.01, place, f"{row['all_videos']:.2f}", va="center", fontsize=8)
        right.axvline(data["all_videos"]["chance"], color=plots.COLOURS[0], linestyle=":")
        which = f"the {len(shown)} lowest of {len(rows)}" if len(shown) < len(rows) else "the lowest first"
        right.set_title(f"average precision among all videos, {which}")
        right.set(xlim=(0, 1.1), ylim=(-0.7, len(shown) - 0.3))
        right.grid(visible=False, axis="y")
        right.tick_params(axis="y", labelsize=8)
        right.invert_yaxis()

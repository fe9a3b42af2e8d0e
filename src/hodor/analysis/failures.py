"""Failure cases, and the relation of confidence and J (HODOR's supplement, Fig. 5, with numbers).

Every frame with a ground-truth mask is scored. The first figure shows the worst frames of the worst sequences: the image, the
prediction, the ground truth and the confidence. The second figure plots J against the tracker's confidence.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hodor.analysis import plots, runs
from hodor.scoring.metrics import frame_scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hodor.data.layouts import Layout, VideoFiles
    from hodor.models.base import Network
    from hodor.tracking import Tracked

MIN_FOUND_J = 0.5
"""An object with a J of at least this counts as found, the others as missed."""


@dataclass(frozen=True)
class FrameRecord:
    """A scored frame. The labels and their confidence are kept compressed.

    Attributes:
        frame: name of the frame.
        index: index of the frame in the video.
        j: J of each object, in [0, 1].
        f: F of each object, in [0, 1].
        confidence: confidence of each object, in [0, 1].
        lost: objects to which the tracker assigned no pixel.
        size: height and width of the labels.
    """

    frame: str
    index: int
    j: dict[int, float]
    f: dict[int, float]
    confidence: dict[int, float]
    lost: frozenset[int]
    size: tuple[int, int]
    _labels: bytes
    _wide: bool
    _confidence: bytes

    @property
    def score(self) -> float:
        """J&F of the frame: the mean of J and F over its objects."""
        return float(np.mean([*self.j.values(), *self.f.values()]))

    def labels(self) -> NDArray[Any]:
        """Return the predicted labels [H, W]."""
        return np.frombuffer(zlib.decompress(self._labels), np.uint16 if self._wide else np.uint8).reshape(self.size)

    def label_confidence(self) -> NDArray[np.uint8]:
        """Return the probability that the network assigns to the label of each pixel, [H, W] in 0 .. 255."""
        return np.frombuffer(zlib.decompress(self._confidence), np.uint8).reshape(self.size)

    def to_json(self) -> dict[str, Any]:
        """Return the scores as JSON values."""
        objects = {
            str(i): {"J": self.j[i], "F": self.f[i], "confidence": self.confidence[i], "lost": i in self.lost} for i in self.j
        }
        return {"frame": self.frame, "J&F": self.score, "objects": objects}


def follow(network: Network, video: VideoFiles, *, history: int | None = None, size: int | None = None) -> list[FrameRecord]:
    """Track the objects of a video and score every frame that has a ground-truth mask and whose mask is not given.

    Args:
        network: the network.
        video: the video.
        history: number of past frames kept in memory (T). Default: the network's own.
        size: short side inside the network, in pixels. Default: the network's own.
    """
    records = []
    for index, followed, ids in runs.follow(network, video, history=history, size=size):
        if not ids or followed.frame not in video.masks:
            continue
        tracked = followed.tracked
        j, f = frame_scores(followed.labels, video.labels(followed.frame), ids)
        labels = np.ascontiguousarray(followed.labels)
        records.append(
            FrameRecord(
                followed.frame,
                index,
                dict(zip(ids, j.tolist(), strict=True)),
                dict(zip(ids, f.tolist(), strict=True)),
                {i: tracked.confidence[i] for i in ids},
                tracked.lost & set(ids),
                (labels.shape[0], labels.shape[1]),
                zlib.compress(labels.tobytes(), 1),
                labels.dtype != np.uint8,
                zlib.compress(_label_confidence(tracked).tobytes(), 1),
            )
        )
    return records


def _label_confidence(tracked: Tracked) -> NDArray[np.uint8]:
    """Return the soft mask of each pixel's label, [H, W] in 0 .. 255. The background has one minus the sum of the objects."""
    soft = tracked.soft()
    highest = np.maximum(soft.max(axis=0), 1 - soft.sum(axis=0)).clip(0, 1)
    confidence: NDArray[np.uint8] = np.rint(255 * highest).astype(np.uint8)
    return confidence


def worst(records: Sequence[FrameRecord], count: int, spacing: int) -> list[FrameRecord]:
    """Return the frames with the lowest J&F, worst first.

    Args:
        records: scored frames of one video.
        count: largest number of frames.
        spacing: smallest distance between two of them, in frames; neighbouring frames fail in the same way.
    """
    chosen: list[FrameRecord] = []
    for frame in sorted(records, key=lambda record: (record.score, record.index)):
        if len(chosen) < count and all(abs(frame.index - other.index) >= spacing for other in chosen):
            chosen.append(frame)
    return chosen


def find(
    network: Network,
    layout: Layout,
    *,
    sequences: int = 4,
    frames: int = 2,
    spacing: int = 10,
    history: int | None = None,
    size: int | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> tuple[list[tuple[VideoFiles, FrameRecord]], dict[str, Any]]:
    """Track and score every sequence and select the worst frames.

    Args:
        network: the network.
        layout: the data set.
        sequences: number of sequences, those with the lowest mean J&F over their frames.
        frames: number of frames of each.
        spacing: smallest distance between two frames of one sequence, in frames.
        history: number of past frames kept in memory (T). Default: the network's own.
        size: short side inside the network, in pixels. Default: the network's own.
        progress: function that is called with the number of frames done and their total.

    Returns:
        The worst frames of the worst sequences, and the data of both figures: `sequences` (name, J&F, and every scored frame
        with its objects), worst first, and `confidence` (see `confidence_statistics`).

    Raises:
        ValueError: "expected sequences with ground-truth masks on frames other than the given ones, got none".
    """
    found: list[tuple[float, VideoFiles, list[FrameRecord]]] = []
    listed: list[dict[str, Any]] = []
    done, total = 0, sum(len(video.frames) for video in layout.videos)
    for video in layout.videos:
        records = follow(network, video, history=history, size=size)
        if records:
            score = float(np.mean([record.score for record in records]))
            listed.append({"sequence": video.name, "J&F": score, "frames": [record.to_json() for record in records]})
            found.append((score, video, worst(records, frames, spacing)))
        progress(done := done + len(video.frames), total)
    if not found:
        raise ValueError("expected sequences with ground-truth masks on frames other than the given ones, got none")
    found.sort(key=lambda item: item[0])
    listed.sort(key=lambda item: item["J&F"])
    chosen = [(video, frame) for _, video, few in found[:sequences] for frame in few]
    objects = [item for sequence in listed for frame in sequence["frames"] for item in frame["objects"].values()]
    confidence = confidence_statistics(objects, calibration=network.calibration)
    return chosen, {"format": "hodor-failures/1", "sequences": listed, "confidence": confidence}


# Confidence -----------------------------------------------------------------------------------------------------------


def confidence_statistics(
    objects: Sequence[dict[str, Any]], bins: int = 10, calibration: tuple[float, float] = (1.0, 0.0)
) -> dict[str, Any]:
    """Measure how well confidence predicts J.

    Args:
        objects: {J, confidence, lost} of objects on frames.
        bins: largest number of bins.
        calibration: slope and offset that the weights have now.

    Returns:
        Statistics of the objects that are not lost; nan where there are too few.

        - count, missed: number of objects, and of those with J below 0.5.
        - bins: bins of equal number, ordered by confidence, with the mean confidence, the mean of J and its quartiles.
        - rank: Spearman's correlation of confidence and J, in [-1, 1].
        - spots: probability that a found object (J >= 0.5) has a higher confidence than a missed one; 0.5 is chance level.
        - error: mean distance of confidence and J over the bins (expected calibration error, Guo et al. 2017).
        - calibration: slope and offset with which the confidence of these weights would be the expected J on these objects.
        - lost: number of objects that the tracker reported as lost, and the share that was not visible (J = 1).
    """
    kept = [o for o in objects if not o["lost"]]
    lost = [o for o in objects if o["lost"]]
    confidence = np.array([o["confidence"] for o in kept], float)
    j = np.array([o["J"] for o in kept], float)
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, max(len(order) // 5, 1))) if part.size]
    rows = [
        {
            "confidence": float(confidence[part].mean()),
            "J": float(j[part].mean()),
            "J_quarter": float(np.quantile(j[part], 0.25)),
            "J_three_quarters": float(np.quantile(j[part], 0.75)),
            "count": int(part.size),
        }
        for part in parts
    ]
    slope, offset = _platt(confidence, j)
    return {
        "count": len(kept),
        "bins": rows,
        "rank": _correlation(_ranks(confidence), _ranks(j)),
        "spots": _auc(confidence[j >= MIN_FOUND_J], confidence[j < MIN_FOUND_J]),
        "error": float(sum(abs(r["confidence"] - r["J"]) * r["count"] for r in rows) / len(kept)) if kept else float("nan"),
        "calibration": (slope * calibration[0], slope * calibration[1] + offset),
        "missed": int((j < MIN_FOUND_J).sum()),
        "lost": {"count": len(lost), "gone": float(np.mean([o["J"] == 1 for o in lost])) if lost else float("nan")},
    }


def _platt(confidence: NDArray[Any], j: NDArray[Any], steps: int = 50) -> tuple[float, float]:
    """Fit slope and offset of sigmoid(slope * logit(confidence) + offset) to J by logistic regression (Newton's method).

    Returns (1, 0) if there are fewer than two different confidences.
    """
    if np.unique(confidence).size < 2:
        return 1.0, 0.0
    confidence = confidence.clip(1e-4, 1 - 1e-4)
    x = np.stack([np.log(confidence / (1 - confidence)), np.ones_like(confidence)], 1)
    weights = np.array([1.0, 0.0])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-x @ weights))
        hessian = x.T @ (x * (p * (1 - p))[:, None]) + 1e-6 * np.eye(2)
        weights += np.linalg.solve(hessian, x.T @ (j - p)).clip(-1, 1)
    return float(weights[0]), float(weights[1])


def _ranks(values: NDArray[Any]) -> NDArray[Any]:
    """Return the rank of each value. Equal values have the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middle: NDArray[Any] = (ends - (counts - 1) / 2)[inverse]
    return middle


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return Pearson's correlation; nan if one side is constant."""
    if a.size < 2 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _auc(high: NDArray[Any], low: NDArray[Any]) -> float:
    """Return the probability that a value of `high` exceeds one of `low`; ties count half (area under the ROC curve)."""
    if not high.size or not low.size:
        return float("nan")
    ranks = _ranks(np.concatenate([high, low]))
    return float((ranks[: high.size].sum() - high.size * (high.size + 1) / 2) / (high.size * low.size))


# Pictures -------------------------------------------------------------------------------------------------------------


def draw(chosen: Sequence[tuple[VideoFiles, FrameRecord]], data: dict[str, Any], path: Path) -> None:
    """Draw one row for each frame: the whole frame, and prediction, ground truth and confidence of a part of it.

    Args:
        chosen: the frames, from `find`.
        data: the data that are written beside the figure.
        path: the figure, PNG or SVG.
    """
    images = [video.pictures([frame.index])[0] for video, frame in chosen]
    titles = [_title(video, frame) for video, frame in chosen]
    aspects = [image.shape[0] / image.shape[1] for image in images]
    heads = ("frame", "prediction", "ground truth", "confidence (dark: low)")
    with plots.strips(path, data, titles, aspects, 4, heads) as rows:
        for axes, image, (video, frame) in zip(rows, images, chosen, strict=True):
            _draw_row(axes, image, video.labels(frame.frame), frame)


def _title(video: VideoFiles, frame: FrameRecord) -> str:
    """Return the title of a row: the scores of up to four objects, the worst first."""
    visible = set(np.unique(video.labels(frame.frame)).tolist())
    ids = sorted(frame.j, key=lambda i: frame.j[i] + frame.f[i])
    words = []
    for i in ids[:4]:
        name = f"object\u00a0{i}: " if len(ids) > 1 else ""  # a space at which the line is not broken
        note = "" if i in visible else " (not visible)"
        confidence = "reported lost" if i in frame.lost else f"confidence {100 * frame.confidence[i]:.0f}"
        words.append(f"{name}J {100 * frame.j[i]:.0f}, F {100 * frame.f[i]:.0f}, {confidence}{note}")
    more = [f"{len(ids) - 4} better ones"] if len(ids) > 4 else []
    return f"{video.name}, frame {frame.frame}:  {';  '.join(words + more)}"


def _draw_row(axes: Sequence[Axes], image: NDArray[np.uint8], ground_truth: NDArray[Any], frame: FrameRecord) -> None:
    labels, confidence = frame.labels(), frame.label_confidence()
    box = _part((ground_truth != 0) | (labels != 0))
    top, bottom, left, right = box[0].start, box[0].stop, box[1].start, box[1].stop
    whole, prediction, reference, heat = axes
    plots.picture(whole, image, aspect="auto")
    if (bottom - top, right - left) != image.shape[:2]:
        across, down = [left, right, right, left, left], [top, top, bottom, bottom, top]
        limits = whole.axis()
        whole.plot(across, down, color="black", linewidth=2.4)
        whole.plot(across, down, color="white", linewidth=1.1)
        whole.axis(limits)
    for axis, shown in ((prediction, labels[box]), (reference, ground_truth[box])):
        plots.picture(axis, plots.tinted(image[box], shown, 0.25), aspect="auto")
        for i in frame.j:
            plots.outline(axis, shown == i, plots.object_colour(i))
    plots.picture(heat, confidence[box], aspect="auto", cmap="magma", vmin=0, vmax=255)
    for i in frame.j:
        plots.outline(heat, labels[box] == i, "white", width=0.8)


def _part(mask: NDArray[Any], min_share: float = 0.4) -> tuple[slice, slice]:
    """Return a box around the mask with a margin, with the proportions of the frame and at least `min_share` of its sides.

    For an empty mask it is the whole frame.
    """
    size = np.array(mask.shape)
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not ys.size:
        return slice(0, int(size[0])), slice(0, int(size[1]))
    low, high = np.array([ys[0], xs[0]]), np.array([ys[-1] + 1, xs[-1] + 1])
    share = float(np.clip(1.3 * ((high - low) / size).max(), min_share, 1))
    span = np.rint(share * size).astype(int)
    start = np.clip(np.rint((low + high - span) / 2).astype(int), 0, size - span)
    return slice(int(start[0]), int(start[0] + span[0])), slice(int(start[1]), int(start[1] + span[1]))


def draw_confidence(data: dict[str, Any], path: Path) -> None:
    """Plot J against confidence: a dot for each object of each frame, and a curve of bins of equal number with quartiles.

    Args:
        data: the data of `find`.
        path: the figure, PNG or SVG.
    """
    statistics = data["confidence"]
    dots = [
        (o["confidence"], o["J"])
        for s in data["sequences"]
        for frame in s["frames"]
        for o in frame["objects"].values()
        if not o["lost"]
    ]
    with plots.page(path, {"format": "hodor-confidence/1", **statistics}, (5.2, 4.4)) as figure:
        axis = figure.subplots()
        if dots:
            x, y = (100 * np.array(column) for column in zip(*dots, strict=True))
            alpha = float(np.clip(60 / len(dots) ** 0.75, 0.05, 0.5))
            axis.scatter(x, y, s=9, color="#777777", alpha=alpha, linewidths=0, label="an object on a frame", rasterized=True)
        rows = statistics["bins"]
        middle = [100 * row["confidence"] for row in rows]
        low, high = ([100 * row[key] for row in rows] for key in ("J_quarter", "J_three_quarters"))
        axis.fill_between(middle, low, high, color=plots.COLOURS[0], alpha=0.2, linewidth=0, label="middle half of each bin")
        axis.plot(middle, [100 * row["J"] for row in rows], "o-", color=plots.COLOURS[0], label="mean of bins of equal number")
        axis.plot([0, 100], [0, 100], color="#888888", linewidth=0.8, linestyle=":", label="J equal to confidence")
        axis.set_xlim(100 * min((dot[0] for dot in dots), default=0) - 2, 101)
        axis.set_ylim(-2, 102)
        axis.set_xlabel("confidence, per cent")
        axis.set_title("J, per cent")
        figure.legend(fontsize=7.5, loc="outside lower center", ncols=2)
        rank, auc = ("undefined" if math.isnan(statistics[key]) else f"{statistics[key]:.2f}" for key in ("rank", "spots"))
        words = f"{statistics['count']} masks, {statistics['missed']} of them missed (J < {MIN_FOUND_J})\n"
        words += f"rank correlation {rank}; P(found object has higher confidence than missed one) {auc}"
        if lost := statistics["lost"]["count"]:
            words += f"\n{lost} reported lost, {100 * statistics['lost']['gone']:.0f} % of them not visible"
        figure.suptitle(words, fontsize=8.5, x=0.02, ha="left")

"""Where the network fails, and whether its confidence tells (HODOR's supplement, Fig. 5, with numbers).

Every frame with a true mask is scored; the worst frames of the worst sequences are shown, with what was given, found and
wanted side by side. A second figure sets J against the tracker's confidence.
"""

from __future__ import annotations

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

RIGHT = 0.5
"""An object with a J of this or more counts as found."""


@dataclass(frozen=True)
class Seen:
    """A scored frame: its place in the video, per object J, F, confidence and whether it was called lost; and, packed, the
    labels and how likely the network holds each pixel's label to be, both [H, W]."""

    frame: str
    index: int
    j: dict[int, float]
    f: dict[int, float]
    confidence: dict[int, float]
    lost: frozenset[int]
    size: tuple[int, int]
    _labels: bytes
    _wide: bool
    _sure: bytes

    @property
    def score(self) -> float:
        """J&F of the frame: over its objects, the mean of J and F."""
        return float(np.mean([*self.j.values(), *self.f.values()]))

    def labels(self) -> NDArray[Any]:
        return np.frombuffer(zlib.decompress(self._labels), np.uint16 if self._wide else np.uint8).reshape(self.size)

    def sure(self) -> NDArray[np.uint8]:
        """How likely the network holds each pixel's label to be, 0 ... 255."""
        return np.frombuffer(zlib.decompress(self._sure), np.uint8).reshape(self.size)

    def to_json(self) -> dict[str, Any]:
        objects = {
            str(i): {"J": self.j[i], "F": self.f[i], "confidence": self.confidence[i], "lost": i in self.lost} for i in self.j
        }
        return {"frame": self.frame, "J&F": self.score, "objects": objects}


def watch(network: Network, video: VideoFiles, *, history: int | None = None, size: int | None = None) -> list[Seen]:
    """Follow a video; -> its frames with a true mask, but for those on which a mask was given, scored one by one."""
    seen = []
    for index, followed, ids in runs.moments(network, video, history=history, size=size):
        if not ids or followed.frame not in video.masks:
            continue
        tracked = followed.tracked
        j, f = frame_scores(followed.labels, video.labels(followed.frame), ids)
        labels = np.ascontiguousarray(followed.labels)
        seen.append(
            Seen(
                followed.frame,
                index,
                dict(zip(ids, j.tolist(), strict=True)),
                dict(zip(ids, f.tolist(), strict=True)),
                {i: tracked.confidence[i] for i in ids},
                tracked.lost & set(ids),
                (labels.shape[0], labels.shape[1]),
                zlib.compress(labels.tobytes(), 1),
                labels.dtype != np.uint8,
                zlib.compress(_sure(tracked).tobytes(), 1),
            )
        )
    return seen


def _sure(tracked: Tracked) -> NDArray[np.uint8]:
    """[H, W] in 0 ... 255: the soft mask of each pixel's label, the background's being what the objects leave."""
    soft = tracked.soft()
    likeliest = np.maximum(soft.max(axis=0), 1 - soft.sum(axis=0)).clip(0, 1)
    sure: NDArray[np.uint8] = np.rint(255 * likeliest).astype(np.uint8)
    return sure


def worst(seen: Sequence[Seen], count: int, spacing: int) -> list[Seen]:
    """The `count` frames with the lowest J&F, worst first, at least `spacing` frames apart: neighbours fail alike."""
    chosen: list[Seen] = []
    for frame in sorted(seen, key=lambda s: (s.score, s.index)):
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
) -> tuple[list[tuple[VideoFiles, Seen]], dict[str, Any]]:
    """Follow every sequence; -> the worst frames of the worst sequences, and the data of both figures.

    Sequences are ordered by their mean J&F over frames. Data: `sequences` (name, J&F, every scored frame with its objects),
    worst first, and `confidence` (see `tells`).

    Raises ValueError: "no frame to judge: want sequences with true masks on more frames than the given ones".
    """
    found: list[tuple[float, VideoFiles, list[Seen]]] = []
    listed: list[dict[str, Any]] = []
    done, total = 0, sum(len(video.frames) for video in layout.videos)
    for video in layout.videos:
        seen = watch(network, video, history=history, size=size)
        if seen:
            score = float(np.mean([s.score for s in seen]))
            listed.append({"sequence": video.name, "J&F": score, "frames": [s.to_json() for s in seen]})
            found.append((score, video, worst(seen, frames, spacing)))
        progress(done := done + len(video.frames), total)
    if not found:
        raise ValueError("no frame to judge: want sequences with true masks on more frames than the given ones")
    found.sort(key=lambda item: item[0])
    listed.sort(key=lambda item: item["J&F"])
    chosen = [(video, frame) for _, video, few in found[:sequences] for frame in few]
    objects = [item for sequence in listed for frame in sequence["frames"] for item in frame["objects"].values()]
    told = tells(objects, calibration=network.calibration)
    return chosen, {"format": "hodor-failures/1", "sequences": listed, "confidence": told}


# Does confidence tell? ------------------------------------------------------------------------------------------------


def tells(objects: Sequence[dict[str, Any]], bins: int = 10, calibration: tuple[float, float] = (1.0, 0.0)) -> dict[str, Any]:
    """How well confidence tells J: of {J, confidence, lost} of objects on frames.

    bins: objects that were found somewhere, by confidence, in parts of equal number: mean confidence, quarter, mean and
    three quarters of J. rank: Spearman's correlation of confidence and J, in [-1, 1]. spots: the chance that a found object
    (J >= 0.5) is more confident than a missed one, 0.5 being a guess. error: mean distance of confidence and J over the
    parts (expected calibration error, Guo et al. 2017). calibration: slope and offset with which these weights' confidence
    would be the J to expect here; the argument is what they have now. lost: objects that the tracker called lost, and the
    share that was truly gone (J = 1). nan where there is nothing to tell from.
    """
    here = [o for o in objects if not o["lost"]]
    lost = [o for o in objects if o["lost"]]
    sure = np.array([o["confidence"] for o in here], float)
    j = np.array([o["J"] for o in here], float)
    order = np.argsort(sure, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, max(len(order) // 5, 1))) if part.size]
    rows = [
        {
            "confidence": float(sure[part].mean()),
            "J": float(j[part].mean()),
            "J_quarter": float(np.quantile(j[part], 0.25)),
            "J_three_quarters": float(np.quantile(j[part], 0.75)),
            "count": int(part.size),
        }
        for part in parts
    ]
    slope, offset = _platt(sure, j)
    return {
        "count": len(here),
        "bins": rows,
        "rank": _correlation(_ranks(sure), _ranks(j)),
        "spots": _chance(sure[j >= RIGHT], sure[j < RIGHT]),
        "error": float(sum(abs(r["confidence"] - r["J"]) * r["count"] for r in rows) / len(here)) if here else float("nan"),
        "calibration": (slope * calibration[0], slope * calibration[1] + offset),
        "missed": int((j < RIGHT).sum()),
        "lost": {"count": len(lost), "gone": float(np.mean([o["J"] == 1 for o in lost])) if lost else float("nan")},
    }


def _platt(sure: NDArray[Any], j: NDArray[Any], steps: int = 50) -> tuple[float, float]:
    """-> slope and offset that make sigmoid(slope * logit(sure) + offset) likeliest, J being the chance of a right pixel.

    Logistic regression by Newton's method; (1, 0) where fewer than two confidences are known.
    """
    if np.unique(sure).size < 2:
        return 1.0, 0.0
    sure = sure.clip(1e-4, 1 - 1e-4)
    x = np.stack([np.log(sure / (1 - sure)), np.ones_like(sure)], 1)
    found = np.array([1.0, 0.0])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-x @ found))
        curve = x.T @ (x * (p * (1 - p))[:, None]) + 1e-6 * np.eye(2)
        found += np.linalg.solve(curve, x.T @ (j - p)).clip(-1, 1)
    return float(found[0]), float(found[1])


def _ranks(values: NDArray[Any]) -> NDArray[Any]:
    """The place of each value in order, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middle: NDArray[Any] = (ends - (counts - 1) / 2)[inverse]
    return middle


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    if a.size < 2 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _chance(high: NDArray[Any], low: NDArray[Any]) -> float:
    """The chance that one of `high` exceeds one of `low`, ties counting half (the area under the ROC curve)."""
    if not high.size or not low.size:
        return float("nan")
    ranks = _ranks(np.concatenate([high, low]))
    return float((ranks[: high.size].sum() - high.size * (high.size + 1) / 2) / (high.size * low.size))


# Pictures -------------------------------------------------------------------------------------------------------------


def draw(chosen: Sequence[tuple[VideoFiles, Seen]], data: dict[str, Any], path: Path) -> None:
    """A row a failure: the frame with the part that is shown beside it; prediction, ground truth and confidence of that part."""
    images = [video.pictures([frame.index])[0] for video, frame in chosen]
    titles = [_title(video, frame) for video, frame in chosen]
    aspects = [image.shape[0] / image.shape[1] for image in images]
    heads = ("frame", "prediction", "ground_truth", "confidence (dark: unsure)")
    with plots.strips(path, data, titles, aspects, 4, heads) as rows:
        for axes, image, (video, frame) in zip(rows, images, chosen, strict=True):
            _draw_row(axes, image, video.labels(frame.frame), frame)


def _title(video: VideoFiles, frame: Seen) -> str:
    ground_truth = set(np.unique(video.labels(frame.frame)).tolist())
    ids = sorted(frame.j, key=lambda i: frame.j[i] + frame.f[i])
    words = []
    for i in ids[:4]:
        name = f"object\u00a0{i}: " if len(ids) > 1 else ""  # not to be torn apart by the end of a line
        gone = "" if i in ground_truth else " (it is not there)"
        sure = "called lost" if i in frame.lost else f"confidence {100 * frame.confidence[i]:.0f}"
        words.append(f"{name}J {100 * frame.j[i]:.0f}, F {100 * frame.f[i]:.0f}, {sure}{gone}")
    more = [f"{len(ids) - 4} better ones"] if len(ids) > 4 else []
    return f"{video.name}, frame {frame.frame}:  {';  '.join(words + more)}"


def _draw_row(axes: Sequence[Axes], image: NDArray[np.uint8], ground_truth: NDArray[Any], frame: Seen) -> None:
    labels, sure = frame.labels(), frame.sure()
    box = _part((ground_truth != 0) | (labels != 0))
    top, bottom, left, right = box[0].start, box[0].stop, box[1].start, box[1].stop
    whole, found, wanted, certain = axes
    plots.picture(whole, image, aspect="auto")
    if (bottom - top, right - left) != image.shape[:2]:
        across, down = [left, right, right, left, left], [top, top, bottom, bottom, top]
        limits = whole.axis()
        whole.plot(across, down, color="black", linewidth=2.4)
        whole.plot(across, down, color="white", linewidth=1.1)
        whole.axis(limits)
    for axis, mine in ((found, labels[box]), (wanted, ground_truth[box])):
        plots.picture(axis, plots.tinted(image[box], mine, 0.25), aspect="auto")
        for i in frame.j:
            plots.outline(axis, mine == i, plots.object_colour(i))
    plots.picture(certain, sure[box], aspect="auto", cmap="magma", vmin=0, vmax=255)
    for i in frame.j:
        plots.outline(certain, labels[box] == i, "white", width=0.8)


def _part(mask: NDArray[Any], least: float = 0.4) -> tuple[slice, slice]:
    """The part of the frame to look at: of the frame's own proportions, around the mask with a margin, at least `least` of
    its side; the whole frame for an empty mask."""
    size = np.array(mask.shape)
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not ys.size:
        return slice(0, int(size[0])), slice(0, int(size[1]))
    low, high = np.array([ys[0], xs[0]]), np.array([ys[-1] + 1, xs[-1] + 1])
    share = float(np.clip(1.3 * ((high - low) / size).max(), least, 1))
    span = np.rint(share * size).astype(int)
    start = np.clip(np.rint((low + high - span) / 2).astype(int), 0, size - span)
    return slice(int(start[0]), int(start[0] + span[0])), slice(int(start[1]), int(start[1] + span[1]))


def draw_confidence(data: dict[str, Any], path: Path) -> None:
    """J against confidence: every object of every frame as a dot, parts of equal number as a curve with its quarters."""
    told = data["confidence"]
    dots = [
        (o["confidence"], o["J"])
        for s in data["sequences"]
        for frame in s["frames"]
        for o in frame["objects"].values()
        if not o["lost"]
    ]
    with plots.page(path, {"format": "hodor-confidence/1", **told}, (5.2, 4.4)) as figure:
        axis = figure.subplots()
        if dots:
            x, y = (100 * np.array(column) for column in zip(*dots, strict=True))
            alpha = float(np.clip(60 / len(dots) ** 0.75, 0.05, 0.5))
            axis.scatter(x, y, s=9, color="#777777", alpha=alpha, linewidths=0, label="an object on a frame", rasterized=True)
        rows = told["bins"]
        middle = [100 * row["confidence"] for row in rows]
        low, high = ([100 * row[key] for row in rows] for key in ("J_quarter", "J_three_quarters"))
        axis.fill_between(middle, low, high, color=plots.COLOURS[0], alpha=0.2, linewidth=0, label="their middle half")
        axis.plot(middle, [100 * row["J"] for row in rows], "o-", color=plots.COLOURS[0], label="mean, parts of equal number")
        axis.plot([0, 100], [0, 100], color="#888888", linewidth=0.8, linestyle=":", label="J equal to confidence")
        axis.set_xlim(100 * min((dot[0] for dot in dots), default=0) - 2, 101)
        axis.set_ylim(-2, 102)
        axis.set_xlabel("confidence, per cent")
        axis.set_title("J, per cent")
        figure.legend(fontsize=7.5, loc="outside lower center", ncols=2)
        rank, spots = (f"{told[key]:.2f}" if told[key] == told[key] else "not to be told" for key in ("rank", "spots"))
        words = f"{told['count']} masks, {told['missed']} of them missed (J < {RIGHT})\n"
        words += f"rank correlation {rank}; a found one is surer than a missed one: {spots}"
        if told["lost"]["count"]:
            words += f"\n{told['lost']['count']} called lost, {100 * told['lost']['gone']:.0f} % of them truly gone"
        figure.suptitle(words, fontsize=8.5, x=0.02, ha="left")

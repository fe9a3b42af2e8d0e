"""Descriptors of objects under their true masks, and maps of them in two dimensions (HODOR, supplement, section III)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from hodor.analysis import plots
from hodor.analysis.views import Picture, blocks, masked, spread, truth_of
from hodor.masks import objects_in
from hodor.models.base import Network
from hodor.tracking import Tracker

if TYPE_CHECKING:
    from hodor.data.layouts import VideoFiles

Method = Literal["tsne", "pca"]
APART = 0.6
"""Cut-outs stand this share of their size apart, at least."""
TITLES = {"tsne": "t-SNE", "pca": "PCA"}
Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Described:
    """Descriptors of objects, a row each, in the order of videos, frames, ids.

    vectors: float32 [M, D]. instance: int [M], which object, counted over all videos. video: int [M]. frame: int [M], its
    place in the video. instances: the objects' names, "bear 1". videos: names. crops: RGBA cut-outs, None where not wanted.
    """

    vectors: Floats
    instance: Ints
    video: Ints
    frame: Ints
    instances: tuple[str, ...]
    videos: tuple[str, ...]
    crops: tuple[Picture | None, ...]


def describe(
    network: Network,
    videos: Sequence[VideoFiles],
    *,
    frames: int = 24,
    size: int | None = None,
    crop: int = 0,
    progress: Callable[[int, int | None], None] | None = None,
) -> Described:
    """Descriptors of every object on at most `frames` evenly spaced frames of each video, from its true mask.

    They are what tracking remembers of a frame whose mask is given. size: short side inside, None for the network's own.
    crop: longest side of the cut-outs in pixels, 0 for none. progress: called with frames done and frames in all.

    Raises ValueError: "network stcn keeps no descriptors: want a HODOR", "no object on any frame: want masks with ids above 0".
    """
    if not hasattr(network, "grid"):
        raise ValueError(f"network {network.name or type(network).__name__} keeps no descriptors: want a HODOR")
    chosen = [spread(masked(video), frames) for video in videos]
    total, done = sum(map(len, chosen)), 0
    vectors, rows, crops = [], [], []
    names: dict[str, int] = {}
    for number, (video, indices) in enumerate(zip(videos, chosen, strict=True)):
        for block in blocks(indices):
            for index, picture in zip(block, video.pictures(block), strict=True):
                labels = truth_of(video, index, picture)
                done += 1
                if progress is not None:
                    progress(done, total)
                if not objects_in(labels):
                    continue
                tracker = Tracker(network, size=size)
                tracker.step(picture, labels)
                found = tracker.memory.frames[0].per_object[0].float().cpu().numpy()
                for i, vector in zip(tracker.objects, found, strict=True):
                    vectors.append(vector)
                    rows.append((names.setdefault(f"{video.name} {i}", len(names)), number, index))
                    crops.append(cut_out(picture, labels == i, crop) if crop else None)
    if not rows:
        raise ValueError("no object on any frame: want masks with ids above 0")
    instance, video_of, frame = np.array(rows).T
    return Described(
        np.stack(vectors), instance, video_of, frame, tuple(names), tuple(v.name for v in videos), tuple(crops)
    )  # fmt: skip


def cut_out(picture: Picture, mask: npt.NDArray[np.bool_], longest: int) -> Picture:
    """-> RGBA [h, w, 4], the box around the mask, transparent outside the mask, its longer side at most `longest` pixels."""
    from PIL import Image

    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    alpha = mask[box].astype(np.uint8) * 255
    image = Image.fromarray(np.dstack([picture[box], alpha]))
    image.thumbnail((longest, longest))
    return np.asarray(image)


def project(
    vectors: Floats, method: Method, *, perplexity: float | None = None, seed: int = 0
) -> tuple[Floats, dict[str, Any]]:
    """-> points [M, 2], and what to say of them.

    pca: the two directions of greatest variance, and their shares of it. tsne: t-SNE of Euclidean distances, begun at the PCA,
    shaken a little by the seed. perplexity: about how many neighbours a point heeds; None takes 30, or a third of the others.

    Raises ValueError: "3 descriptors: want at least 4 for a map", "perplexity 50: want above 0 and below 20, the number of
    descriptors", "t-SNE needs scikit-learn: pip install 'hodor-vos[viz]'".
    """
    count = len(vectors)
    if count < 4:
        raise ValueError(f"{count} descriptors: want at least 4 for a map")
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    share = scale**2 / max((scale**2).sum(), 1e-12)
    # a direction's sign is arbitrary: the point that lies farthest out is put on the positive side
    points = left[:, :2] * scale[:2] * np.sign(left[np.abs(left[:, :2]).argmax(0), [0, 1]])
    if method == "pca":
        return points, {"variance": [float(s) for s in share[:2]]}
    if perplexity is None:
        perplexity = min(30.0, (count - 1) / 3)
    if not 0 < perplexity < count:
        raise ValueError(f"perplexity {perplexity:g}: want above 0 and below {count}, the number of descriptors")
    plots.need("sklearn", "t-SNE")
    from sklearn.manifold import TSNE

    noise = np.random.default_rng(seed).normal(size=points.shape)
    begin = (1e-4 * points / max(points[:, 0].std(), 1e-12) + 1e-5 * noise).astype(np.float32)
    made = TSNE(2, perplexity=perplexity, init=begin, learning_rate="auto", random_state=seed, n_jobs=1)
    return made.fit_transform(vectors.astype(np.float32)), {"perplexity": perplexity, "seed": seed}


def drift(described: Described) -> dict[str, float | None]:
    """Mean Euclidean distances: from an object's descriptor to that of its next frame, to those of its other frames, and to
    other objects'; None where there is no such pair. A descriptor that drifts has the first well below the second."""
    vectors, instance = described.vectors.astype(np.float64), described.instance
    squares = (vectors**2).sum(1)
    distance = np.sqrt(np.maximum(squares[:, None] + squares - 2 * vectors @ vectors.T, 0))
    same = instance[:, None] == instance
    following = np.zeros_like(same)
    for own in range(len(described.instances)):
        rows = np.flatnonzero(instance == own)
        following[rows[:-1], rows[1:]] = True
    alone = np.eye(len(instance), dtype=bool)
    pairs = {"next_frame": following, "same_object": same & ~alone, "other_object": ~same}
    return {name: float(distance[pair].mean()) if pair.any() else None for name, pair in pairs.items()}


def maps(described: Described, methods: Sequence[Method], *, perplexity: float | None = None, seed: int = 0) -> dict[str, Any]:
    """The figure's data: every descriptor's object, frame and place on each map, and how far objects drift."""
    made = {}
    for method in methods:
        points, about = project(described.vectors, method, perplexity=perplexity, seed=seed)
        made[method] = {**about, "points": points.astype(float).round(4).tolist()}
    rows = zip(described.instance, described.frame, strict=True)
    return {
        "objects": list(described.instances),
        "rows": [{"object": described.instances[i], "frame": int(frame)} for i, frame in rows],
        "distances": drift(described),
        "maps": made,
    }


def palette(count: int) -> list[tuple[float, float, float]]:
    """Colours for so many objects: ten that are told apart easily, else hues by the golden ratio."""
    import colorsys

    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](i)[:3] for i in range(count)]
    return [colorsys.hsv_to_rgb(i * 0.618034 % 1, (0.95, 0.6, 0.8)[i % 3], (0.8, 0.65, 0.5)[i % 3]) for i in range(count)]


def draw(path: Path, described: Described, data: Mapping[str, Any], most: int = 120) -> None:
    """The maps side by side, PNG or SVG, and `data` (from `maps`) beside them: a point a descriptor, a line along each
    object's frames, a ring at its first, and at most `most` cut-outs a map, spread over each object's frames as far as they
    do not hide each other."""
    count = len(described.instances)
    colours = palette(count)
    rows_of = [np.flatnonzero(described.instance == i) for i in range(count)]
    order = [row for rows in rows_of for row in spread(rows.tolist(), max(1, most // count))]
    order += sorted(set(range(len(described.instance))) - set(order))
    columns = min(count, 5 * len(data["maps"]))
    height = 7.6 + 0.18 * -(-count // columns)
    with plots.page(path, data, (7.4 * len(data["maps"]), height)) as figure:
        for axis, (method, made) in zip(
            figure.subplots(1, len(data["maps"]), squeeze=False)[0], data["maps"].items(), strict=True
        ):
            points = np.array(made["points"])
            for name, rows, colour in zip(described.instances, rows_of, colours, strict=True):
                axis.plot(*points[rows].T, "-", color=colour, linewidth=1, alpha=0.55, zorder=2)
                axis.plot(*points[rows].T, ".", color=colour, zorder=3, label=name)
                ring = {"markersize": 9, "fillstyle": "none", "markeredgewidth": 1.6}
                axis.plot(*points[rows[0]], "o", color=colour, zorder=5, **ring)
            axis.set_title(f"{TITLES[method]} of {len(points)} descriptors of {count} object{'s' * (count > 1)}")
            if method == "pca":
                axis.set_xlabel(f"first direction: {made['variance'][0]:.0%} of the variance")
                axis.set_ylabel(f"second direction: {made['variance'][1]:.0%}")
            else:
                axis.set_xlabel(f"perplexity {made['perplexity']:.3g}, seed {made['seed']}; distances have no unit")
            axis.set_aspect("equal", adjustable="datalim")
            axis.margins(0.06)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        if len(described.videos) == 1:
            labels = [f"object {label.rsplit(' ', 1)[1]}" for label in labels]
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, markerscale=2.5)
        figure.draw_without_rendering()  # so that the axes are where they will be
        for axis, made in zip(figure.axes, data["maps"].values(), strict=True):
            _paste(figure, axis, np.array(made["points"]), described.crops, order, most)


def _paste(figure: Any, axis: Any, points: Floats, crops: Sequence[Picture | None], order: Sequence[int], most: int) -> None:
    """At most `most` cut-outs at their points, a pixel a pixel, in this order; one that would hide another is left out."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    places = axis.transData.transform(points) * plots.DPI / figure.dpi
    taken: list[tuple[Floats, int]] = []
    for row in order:
        crop = crops[row]
        if crop is None or len(taken) == most:
            continue
        reach = max(crop.shape[:2])
        if all(np.abs(places[row] - place).max() > APART * (reach + other) / 2 for place, other in taken):
            taken.append((places[row], reach))
            image = OffsetImage(crop, zoom=72 / plots.DPI)
            axis.add_artist(AnnotationBbox(image, points[row], frameon=False, zorder=4))

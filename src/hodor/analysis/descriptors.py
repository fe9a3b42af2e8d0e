"""Descriptors of objects from their ground-truth masks, and their maps in two dimensions (HODOR, supplement, section III)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from hodor.analysis import plots
from hodor.analysis.views import Picture, blocks, ground_truth_of, masked, spread
from hodor.masks import objects_in
from hodor.models.base import Network
from hodor.tracking import Tracker

if TYPE_CHECKING:
    from hodor.data.layouts import VideoFiles

Method = Literal["tsne", "pca"]
MIN_DISTANCE = 0.6
"""Smallest distance between two cut-outs on a map, as a share of their size."""
TITLES = {"tsne": "t-SNE", "pca": "PCA"}
Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Described:
    """M descriptors of objects, in the order of videos, frames and ids.

    Attributes:
        vectors: the descriptors, float32 [M, D].
        instance: index of the object of each descriptor, counted over all videos, int [M].
        video: index of the video, int [M].
        frame: index of the frame in its video, int [M].
        instances: names of the objects, "bear 1".
        videos: names of the videos.
        crops: cut-outs of the objects, RGBA uint8 [h, w, 4], or None.
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
    """Compute the descriptor of every object on evenly spaced frames of each video, from its ground-truth mask.

    They are the descriptors that tracking keeps in memory for a frame whose mask is given.

    Args:
        network: a HODOR network.
        videos: the videos.
        frames: largest number of frames of each video.
        size: short side inside the network, in pixels. Default: the network's own.
        crop: longest side of the cut-outs, in pixels; 0 for none.
        progress: function that is called with the number of frames done and their total.

    Raises:
        ValueError: "expected a HODOR network, which has descriptors, got stcn"; "expected masks with ids above 0, got none".
    """
    if not hasattr(network, "grid"):
        name = network.name or type(network).__name__
        raise ValueError(f"expected a HODOR network, which has descriptors, got {name}")
    chosen = [spread(masked(video), frames) for video in videos]
    total, done = sum(map(len, chosen)), 0
    vectors, rows, crops = [], [], []
    names: dict[str, int] = {}
    for number, (video, indices) in enumerate(zip(videos, chosen, strict=True)):
        for block in blocks(indices):
            for index, picture in zip(block, video.pictures(block), strict=True):
                labels = ground_truth_of(video, index, picture)
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
        raise ValueError("expected masks with ids above 0, got none")
    instance, video_of, frame = np.array(rows).T
    return Described(
        np.stack(vectors), instance, video_of, frame, tuple(names), tuple(v.name for v in videos), tuple(crops)
    )  # fmt: skip


def cut_out(picture: Picture, mask: npt.NDArray[np.bool_], longest: int) -> Picture:
    """Cut an object out of a picture.

    Args:
        picture: RGB, uint8 [H, W, 3].
        mask: mask of the object, [H, W].
        longest: largest length of the longer side, in pixels.

    Returns:
        RGBA, uint8 [h, w, 4]: the box around the mask, transparent outside the mask.
    """
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
    """Project descriptors to two dimensions.

    Args:
        vectors: descriptors [M, D].
        method: "pca": the two directions of largest variance. "tsne": t-SNE of Euclidean distances, initialised with the PCA
            plus a little noise that depends on the seed.
        perplexity: of t-SNE, about the number of neighbours that influence a point. Default: 30, or a third of M - 1 if that is
            smaller.
        seed: seed of t-SNE.

    Returns:
        Points [M, 2], and the parameters of the map: {"variance": shares of the two directions} or {"perplexity", "seed"}.

    Raises:
        ValueError: "expected at least 4 descriptors for a map, got 3"; "expected a perplexity above 0 and below 20, the number
            of descriptors, got 50"; "t-SNE needs scikit-learn: pip install 'hodor-vos[viz]'".
    """
    count = len(vectors)
    if count < 4:
        raise ValueError(f"expected at least 4 descriptors for a map, got {count}")
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    share = scale**2 / max((scale**2).sum(), 1e-12)
    # the sign of a direction is arbitrary: the point with the largest absolute value is positive
    points = left[:, :2] * scale[:2] * np.sign(left[np.abs(left[:, :2]).argmax(0), [0, 1]])
    if method == "pca":
        return points, {"variance": [float(s) for s in share[:2]]}
    if perplexity is None:
        perplexity = min(30.0, (count - 1) / 3)
    if not 0 < perplexity < count:
        limits = f"above 0 and below {count}, the number of descriptors"
        raise ValueError(f"expected a perplexity {limits}, got {perplexity:g}")
    plots.need("sklearn", "t-SNE")
    from sklearn.manifold import TSNE

    noise = np.random.default_rng(seed).normal(size=points.shape)
    start = (1e-4 * points / max(points[:, 0].std(), 1e-12) + 1e-5 * noise).astype(np.float32)
    tsne = TSNE(2, perplexity=perplexity, init=start, learning_rate="auto", random_state=seed, n_jobs=1)
    return tsne.fit_transform(vectors.astype(np.float32)), {"perplexity": perplexity, "seed": seed}


def drift(described: Described) -> dict[str, float | None]:
    """Return mean Euclidean distances between descriptors, or None if there is no such pair.

    The keys are `next_frame` (the same object on its next frame), `same_object` (the same object on all other frames) and
    `other_object`. If descriptors drift, the first distance is well below the second.
    """
    vectors, instance = described.vectors.astype(np.float64), described.instance
    squares = (vectors**2).sum(1)
    distance = np.sqrt(np.maximum(squares[:, None] + squares - 2 * vectors @ vectors.T, 0))
    same = instance[:, None] == instance
    following = np.zeros_like(same)
    for own in range(len(described.instances)):
        rows = np.flatnonzero(instance == own)
        following[rows[:-1], rows[1:]] = True
    itself = np.eye(len(instance), dtype=bool)
    pairs = {"next_frame": following, "same_object": same & ~itself, "other_object": ~same}
    return {name: float(distance[pair].mean()) if pair.any() else None for name, pair in pairs.items()}


def maps(described: Described, methods: Sequence[Method], *, perplexity: float | None = None, seed: int = 0) -> dict[str, Any]:
    """Return the data of the figure: object, frame and point on each map of every descriptor, and the distances of `drift`.

    Args:
        described: the descriptors.
        methods: the maps.
        perplexity: see `project`.
        seed: see `project`.
    """
    projections = {}
    for method in methods:
        points, parameters = project(described.vectors, method, perplexity=perplexity, seed=seed)
        projections[method] = {**parameters, "points": points.astype(float).round(4).tolist()}
    rows = zip(described.instance, described.frame, strict=True)
    return {
        "objects": list(described.instances),
        "rows": [{"object": described.instances[i], "frame": int(frame)} for i, frame in rows],
        "distances": drift(described),
        "maps": projections,
    }


def palette(count: int) -> list[tuple[float, float, float]]:
    """Return a colour for each object: the set "tab10" for up to ten objects, else hues spaced by the golden ratio."""
    import colorsys

    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](i)[:3] for i in range(count)]
    return [colorsys.hsv_to_rgb(i * 0.618034 % 1, (0.95, 0.6, 0.8)[i % 3], (0.8, 0.65, 0.5)[i % 3]) for i in range(count)]


def draw(path: Path, described: Described, data: Mapping[str, Any], max_crops: int = 120) -> None:
    """Draw the maps side by side, and write the data beside the figure.

    A point is a descriptor, a line connects the frames of an object, and a ring marks its first frame. Cut-outs are evenly
    spaced over the frames of each object; one that would hide another is left out.

    Args:
        path: the figure, PNG or SVG.
        described: the descriptors.
        data: the data from `maps`.
        max_crops: largest number of cut-outs on a map.
    """
    count = len(described.instances)
    colours = palette(count)
    rows_of = [np.flatnonzero(described.instance == i) for i in range(count)]
    order = [row for rows in rows_of for row in spread(rows.tolist(), max(1, max_crops // count))]
    order += sorted(set(range(len(described.instance))) - set(order))
    columns = min(count, 5 * len(data["maps"]))
    height = 7.6 + 0.18 * -(-count // columns)
    with plots.page(path, data, (7.4 * len(data["maps"]), height)) as figure:
        for axis, (method, projection) in zip(
            figure.subplots(1, len(data["maps"]), squeeze=False)[0], data["maps"].items(), strict=True
        ):
            points = np.array(projection["points"])
            for name, rows, colour in zip(described.instances, rows_of, colours, strict=True):
                axis.plot(*points[rows].T, "-", color=colour, linewidth=1, alpha=0.55, zorder=2)
                axis.plot(*points[rows].T, ".", color=colour, zorder=3, label=name)
                ring = {"markersize": 9, "fillstyle": "none", "markeredgewidth": 1.6}
                axis.plot(*points[rows[0]], "o", color=colour, zorder=5, **ring)
            axis.set_title(f"{TITLES[method]} of {len(points)} descriptors of {count} object{'s' * (count > 1)}")
            if method == "pca":
                axis.set_xlabel(f"first direction: {projection['variance'][0]:.0%} of the variance")
                axis.set_ylabel(f"second direction: {projection['variance'][1]:.0%}")
            else:
                axis.set_xlabel(f"perplexity {projection['perplexity']:.3g}, seed {projection['seed']}; distances have no unit")
            axis.set_aspect("equal", adjustable="datalim")
            axis.margins(0.06)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        if len(described.videos) == 1:
            labels = [f"object {label.rsplit(' ', 1)[1]}" for label in labels]
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, markerscale=2.5)
        figure.draw_without_rendering()  # computes the final positions of the axes
        for axis, projection in zip(figure.axes, data["maps"].values(), strict=True):
            _add_crops(figure, axis, np.array(projection["points"]), described.crops, order, max_crops)


def _add_crops(
    figure: Any, axis: Any, points: Floats, crops: Sequence[Picture | None], order: Sequence[int], max_crops: int
) -> None:
    """Draw cut-outs at their points in this order, at their size in pixels; one that would hide another is left out."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    pixels = axis.transData.transform(points) * plots.DPI / figure.dpi
    drawn: list[tuple[Floats, int]] = []
    for row in order:
        crop = crops[row]
        if crop is None or len(drawn) == max_crops:
            continue
        side = max(crop.shape[:2])
        if all(np.abs(pixels[row] - pixel).max() > MIN_DISTANCE * (side + other) / 2 for pixel, other in drawn):
            drawn.append((pixels[row], side))
            image = OffsetImage(crop, zoom=72 / plots.DPI)
            axis.add_artist(AnnotationBbox(image, points[row], frameon=False, zorder=4))

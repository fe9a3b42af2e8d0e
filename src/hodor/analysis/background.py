"""Where background descriptors answer: the catch-all, the cells of the grid, the objects (HODOR, supplement, section IV)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from hodor.analysis import plots
from hodor.analysis.views import Picture, Remembers, after_reference, follow, heat, shrunk
from hodor.masks import Labels, fit_labels
from hodor.models.base import Network, Prediction
from hodor.tracking import Tracker
from hodor.video.render import outline, overlay

if TYPE_CHECKING:
    from hodor.data.layouts import VideoFiles

Response = Literal["softmax", "sigmoid"]
WIDTH = 420
"""Panels are at most so wide, in pixels."""
NEAR = 0.02
"""Pixels within this share of the short side from an object's outline count as near it."""


@dataclass(frozen=True)
class Responses:
    """What every channel of a network says of one frame.

    maps: float32 [K+N, h, w] in [0, 1] at the network's inner size, backgrounds first. names: of the K background channels.
    objects: ids of the others. grid: the background is cut into grid x grid cells, 0 where it is not.
    """

    video: str
    frame: str
    picture: Picture
    ground_truth: Labels
    found: Labels
    maps: npt.NDArray[np.float32]
    names: tuple[str, ...]
    objects: tuple[int, ...]
    grid: int

    def numbers(self) -> dict[str, Any]:
        """For each channel: its mean over the picture, the share of pixels that it wins, its means near the true outlines, on
        the other pixels of objects and on the other pixels of background (None where there are none); for a cell also the
        share of its sum that lies inside it, and that cell's share of the picture."""
        size = self.maps.shape[1], self.maps.shape[2]
        ground_truth = fit_labels(self.ground_truth, size)
        near = _grown(outline(ground_truth), max(1, round(NEAR * min(size))))
        zones = {"near_outlines": near, "on_objects": (ground_truth > 0) & ~near, "on_background": (ground_truth == 0) & ~near}
        winner = self.maps.argmax(0)
        channels = []
        for number, (name, response) in enumerate(zip(self._all_names(), self.maps, strict=True)):
            row: dict[str, Any] = {"channel": name, "mean": float(response.mean()), "wins": float((winner == number).mean())}
            row |= {key: float(response[zone].mean()) if zone.any() else None for key, zone in zones.items()}
            cell = number - (len(self.names) - self.grid**2)
            if self.grid and 0 <= cell < self.grid**2:
                inside = _cell(size, self.grid, cell)
                row["in_own_cell"] = float(response[inside].sum(dtype=float) / max(response.sum(dtype=float), 1e-12))
                row["cell_share"] = float(inside.mean())
            channels.append(row)
        return {"video": self.video, "frame": self.frame, "channels": channels}

    def _all_names(self) -> list[str]:
        return [*self.names, *(f"object {i}" for i in self.objects)]


def respond(
    network: Network,
    video: VideoFiles,
    *,
    frames: int = 2,
    response: Response = "softmax",
    remembers: Remembers = "tracked",
    history: int | None = None,
    size: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> list[Responses]:
    """The responses of all channels on evenly spaced frames after the first given one.

    response: "softmax", a pixel's shares, which sum to one over the channels; "sigmoid" of each logit alone. Tracking gives
    what the network remembers when it sees the frame (`views.follow`). Raises ValueError as `views.after_reference`.
    """
    chosen = after_reference(video, frames)
    seen = []
    for visit in follow(Tracker(network, history=history, size=size), video, chosen, remembers, progress=progress):
        features = visit.tracked._features
        with torch.inference_mode():
            prediction, _ = network.segment(visit.memory, features)
            maps = prediction.probabilities() if response == "softmax" else _sigmoid(prediction)
        names, grid = channel_names(prediction.backgrounds, getattr(network, "grid", 0))
        seen.append(
            Responses(
                video.name,
                video.frames[visit.index],
                visit.picture,
                visit.ground_truth,
                visit.tracked.labels,
                maps[0].float().cpu().numpy(),
                names,
                visit.memory.objects,
                grid,
            )
        )
    return seen


def channel_names(count: int, grid: int) -> tuple[tuple[str, ...], int]:
    """-> names of `count` background channels, and the grid: 0 where the channels are not its cells.

    One channel more than cells is the catch-all, which comes first.
    """
    cells = tuple(f"cell {row + 1}, {column + 1}" for row in range(grid) for column in range(grid))
    if grid and count == len(cells):
        return cells, grid
    if grid and count == len(cells) + 1:
        return ("catch-all", *cells), grid
    return tuple("background" if count == 1 else f"background {i + 1}" for i in range(count)), 0


def draw(path: Path, seen: Sequence[Responses], data: Mapping[str, Any], most: int = 6) -> None:
    """The figure, PNG or SVG, and `data` beside it: a block of panels a frame. On the left the true masks, the masks found and
    the backgrounds that are no cell; then the grid's cells in their places; then the first `most` objects."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable

    colours = colormaps["inferno"]
    blocks = [_panels(one, most, colours, softmax=data["response"] == "softmax") for one in seen]
    down, across = max(len(b) for b in blocks), max(len(row) for b in blocks for row in b)
    ratio = max(one.picture.shape[0] / one.picture.shape[1] for one in seen)
    width = 2.3
    with plots.page(path, data, (width * across + 1.5, (width * ratio + 0.24) * down * len(seen) + 0.3 * len(seen))) as figure:
        parts = figure.subfigures(len(seen), 1, squeeze=False)[:, 0]
        for part, one, block in zip(parts, seen, blocks, strict=True):
            part.suptitle(f"{one.video}, frame {one.frame}", x=0.01, ha="left", fontsize=11, fontweight="bold")
            for axis, panel in zip(part.subplots(down, across, squeeze=False).flat, _filled(block, down, across), strict=True):
                plots.bare(axis)
                if panel is not None:
                    name, picture = panel
                    axis.imshow(picture, interpolation="antialiased")
                    axis.set_title(name, fontsize=8, pad=2)
            text = "share of the pixel" if data["response"] == "softmax" else "sigmoid of the logit"
            part.colorbar(ScalarMappable(cmap=colours), ax=part.axes, location="right", shrink=0.7, aspect=30, label=text)


Panel = tuple[str, Picture]


def _panels(one: Responses, most: int, colours: Any, *, softmax: bool) -> list[list[Panel | None]]:
    """Rows of panels: the left column, the grid, the objects."""

    def warm(name: str, response: npt.NDArray[np.float32], ground_truth: Labels) -> Panel:
        mean = f"{response.mean():.1%} of the picture" if softmax else f"mean {response.mean():.2f}"
        return f"{name}: {mean}", heat(small, response, ground_truth, colours)

    small = shrunk(one.picture, WIDTH)
    ground_truth, found = (fit_labels(labels, small.shape[:2]) for labels in (one.ground_truth, one.found))
    whole = (ground_truth > 0).astype(np.uint8)
    others = len(one.names) - one.grid**2
    left = [("true masks", overlay(small, ground_truth)), ("masks found", overlay(small, found))]
    left += [warm(name, response, whole) for name, response in zip(one.names[:others], one.maps, strict=False)]
    cells = [warm(n, m, whole) for n, m in zip(one.names[others:], one.maps[others : len(one.names)], strict=True)]
    planes = zip(one.objects[:most], one.maps[len(one.names) :], strict=False)
    objects = [warm(f"object {i}", response, (ground_truth == i).astype(np.uint8)) for i, response in planes]
    down = max(len(left), one.grid)
    rows: list[list[Panel | None]] = []
    for number in range(down):
        row: list[Panel | None] = [left[number] if number < len(left) else None]
        cells_here: list[Panel | None] = list(cells[number * one.grid : (number + 1) * one.grid])
        row += cells_here + [None] * (one.grid - len(cells_here))
        row += objects[number::down]
        rows.append(row)
    return rows


def _filled(block: list[list[Panel | None]], down: int, across: int) -> list[Panel | None]:
    rows = [row + [None] * (across - len(row)) for row in block] + [[None] * across] * (down - len(block))
    return [panel for row in rows for panel in row]


def _sigmoid(prediction: Prediction) -> torch.Tensor:
    full = F.interpolate(prediction.logits_BKHW, size=prediction.padded, mode="bilinear", align_corners=False)
    return full.sigmoid()[..., : prediction.size[0], : prediction.size[1]]


def _cell(size: tuple[int, int], grid: int, cell: int) -> npt.NDArray[np.bool_]:
    """-> [H, W], where a cell of the grid lies; cut as in `readout.background_cells`."""
    row, column = (np.minimum(np.arange(n) // max(n // grid, 1), grid - 1) for n in size)
    inside: npt.NDArray[np.bool_] = (row == cell // grid)[:, None] & (column == cell % grid)
    return inside


def _grown(mask: npt.NDArray[np.bool_], by: int) -> npt.NDArray[np.bool_]:
    """The mask and what lies within `by` pixels of it along rows and columns."""
    grown = F.max_pool2d(torch.from_numpy(mask)[None, None].float(), 2 * by + 1, stride=1, padding=by)
    return np.asarray(grown[0, 0].numpy() > 0)

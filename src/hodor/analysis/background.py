"""Responses of the background descriptors: catch-all, grid cells and objects (HODOR, supplement, section IV)."""

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
from hodor.models.base import Network
from hodor.models.prediction import Prediction
from hodor.tracking import Tracker
from hodor.video.render import outline, overlay

if TYPE_CHECKING:
    from hodor.data.layouts import VideoFiles

Response = Literal["softmax", "sigmoid"]
WIDTH = 420
"""Largest width of a panel, in pixels."""
NEAR = 0.02
"""Pixels within this distance of an object's outline count as near it, as a share of the short side."""


@dataclass(frozen=True)
class Responses:
    """The responses of all channels of a network on one frame.

    Attributes:
        video, frame: names of the video and the frame.
        picture: RGB, uint8 [H, W, 3].
        ground_truth: ground-truth labels [H, W].
        found: predicted labels [H, W].
        maps: responses in [0, 1], float32 [K+N, h, w], at the size inside the network; the K background channels come first.
        names: names of the background channels.
        objects: ids of the objects of the other channels.
        grid: number of cells in a row of the background grid; 0 if there is no grid.
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
        """Return the statistics of each channel.

        They are the mean over the picture; the share of pixels on which the channel is the highest; the means near the
        ground-truth outlines, on the other pixels of objects, and on the other pixels of the background (None if there are no
        such pixels). For a cell, also the share of its sum that lies inside the cell, and the cell's share of the picture.
        """
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
    """Return the responses of all channels on evenly spaced frames after the first frame with a given mask.

    Args:
        network: the network.
        video: the video.
        frames: largest number of frames.
        response: "softmax" over all channels of a pixel, or "sigmoid" of each logit.
        remembers: frames kept in memory; see `views.follow`.
        history: number of past frames kept in memory (T). Default: the network's own.
        size: short side inside the network, in pixels. Default: the network's own.
        progress: function that is called with the number of frames done and their total.

    Raises:
        ValueError: the video has no suitable frames; see `views.after_reference`.
    """
    chosen = after_reference(video, frames)
    responses = []
    for frame in follow(Tracker(network, history=history, size=size), video, chosen, remembers, progress=progress):
        features = frame.tracked._features
        with torch.inference_mode():
            prediction, _ = network.segment(frame.memory, features)
            maps = prediction.probabilities() if response == "softmax" else _sigmoid(prediction)
        names, grid = channel_names(prediction.backgrounds, getattr(network, "grid", 0))
        responses.append(
            Responses(
                video.name,
                video.frames[frame.index],
                frame.picture,
                frame.ground_truth,
                frame.tracked.labels,
                maps[0].float().cpu().numpy(),
                names,
                frame.memory.objects,
                grid,
            )
        )
    return responses


def channel_names(count: int, grid: int) -> tuple[tuple[str, ...], int]:
    """Return the names of the background channels, and the grid: 0 if the channels are not the cells of the grid.

    If there is one channel more than cells, the first one is the catch-all.

    Args:
        count: number of background channels (K).
        grid: number of cells in a row of the network's grid; 0 if it has none.
    """
    cells = tuple(f"cell {row + 1}, {column + 1}" for row in range(grid) for column in range(grid))
    if grid and count == len(cells):
        return cells, grid
    if grid and count == len(cells) + 1:
        return ("catch-all", *cells), grid
    return tuple("background" if count == 1 else f"background {i + 1}" for i in range(count)), 0


def draw(path: Path, responses: Sequence[Responses], data: Mapping[str, Any], max_objects: int = 6) -> None:
    """Draw one block of panels for each frame, and write the data beside the figure.

    The left column shows the ground-truth masks, the predicted masks and the background channels that are not cells. The cells
    of the grid follow at their positions, then the objects.

    Args:
        path: the figure, PNG or SVG.
        responses: the frames, from `respond`.
        data: the data that are written as JSON.
        max_objects: largest number of objects of a frame.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable

    colours = colormaps["inferno"]
    blocks = [_panels(frame, max_objects, colours, softmax=data["response"] == "softmax") for frame in responses]
    down, across = max(len(b) for b in blocks), max(len(row) for b in blocks for row in b)
    ratio = max(frame.picture.shape[0] / frame.picture.shape[1] for frame in responses)
    width, count = 2.3, len(responses)
    with plots.page(path, data, (width * across + 1.5, (width * ratio + 0.24) * down * count + 0.3 * count)) as figure:
        parts = figure.subfigures(count, 1, squeeze=False)[:, 0]
        for part, frame, block in zip(parts, responses, blocks, strict=True):
            part.suptitle(f"{frame.video}, frame {frame.frame}", x=0.01, ha="left", fontsize=11, fontweight="bold")
            for axis, panel in zip(part.subplots(down, across, squeeze=False).flat, _filled(block, down, across), strict=True):
                plots.bare(axis)
                if panel is not None:
                    name, picture = panel
                    axis.imshow(picture, interpolation="antialiased")
                    axis.set_title(name, fontsize=8, pad=2)
            text = "share of the pixel" if data["response"] == "softmax" else "sigmoid of the logit"
            part.colorbar(ScalarMappable(cmap=colours), ax=part.axes, location="right", shrink=0.7, aspect=30, label=text)


Panel = tuple[str, Picture]


def _panels(frame: Responses, max_objects: int, colours: Any, *, softmax: bool) -> list[list[Panel | None]]:
    """Return rows of panels: the left column, the grid, the objects."""

    def heat_panel(name: str, response: npt.NDArray[np.float32], ground_truth: Labels) -> Panel:
        mean = f"{response.mean():.1%} of the picture" if softmax else f"mean {response.mean():.2f}"
        return f"{name}: {mean}", heat(small, response, ground_truth, colours)

    small = shrunk(frame.picture, WIDTH)
    ground_truth, found = (fit_labels(labels, small.shape[:2]) for labels in (frame.ground_truth, frame.found))
    whole = (ground_truth > 0).astype(np.uint8)
    names, grid = frame.names, frame.grid
    others = len(names) - grid**2
    left = [("ground-truth masks", overlay(small, ground_truth)), ("predicted masks", overlay(small, found))]
    left += [heat_panel(name, response, whole) for name, response in zip(names[:others], frame.maps, strict=False)]
    cells = [heat_panel(n, m, whole) for n, m in zip(names[others:], frame.maps[others : len(names)], strict=True)]
    planes = zip(frame.objects[:max_objects], frame.maps[len(names) :], strict=False)
    objects = [heat_panel(f"object {i}", response, (ground_truth == i).astype(np.uint8)) for i, response in planes]
    down = max(len(left), grid)
    rows: list[list[Panel | None]] = []
    for number in range(down):
        row: list[Panel | None] = [left[number] if number < len(left) else None]
        row_cells: list[Panel | None] = list(cells[number * grid : (number + 1) * grid])
        row += row_cells + [None] * (grid - len(row_cells))
        row += objects[number::down]
        rows.append(row)
    return rows


def _filled(block: list[list[Panel | None]], down: int, across: int) -> list[Panel | None]:
    """Pad a block to `down` rows of `across` panels and flatten it."""
    rows = [row + [None] * (across - len(row)) for row in block] + [[None] * across] * (down - len(block))
    return [panel for row in rows for panel in row]


def _sigmoid(prediction: Prediction) -> torch.Tensor:
    """Return the sigmoid of the logits at the size inside the network, [B, K+N, h, w]."""
    full = F.interpolate(prediction.logits_BKHW, size=prediction.padded, mode="bilinear", align_corners=False)
    return full.sigmoid()[..., : prediction.size[0], : prediction.size[1]]


def _cell(size: tuple[int, int], grid: int, cell: int) -> npt.NDArray[np.bool_]:
    """Return the pixels of a cell of the grid, bool [H, W], as in `readout.background_cells`."""
    row, column = (np.minimum(np.arange(n) // max(n // grid, 1), grid - 1) for n in size)
    inside: npt.NDArray[np.bool_] = (row == cell // grid)[:, None] & (column == cell % grid)
    return inside


def _grown(mask: npt.NDArray[np.bool_], by: int) -> npt.NDArray[np.bool_]:
    """Dilate a mask by `by` pixels along rows and columns."""
    grown = F.max_pool2d(torch.from_numpy(mask)[None, None].float(), 2 * by + 1, stride=1, padding=by)
    return np.asarray(grown[0, 0].numpy() > 0)

"""Qualitative sheets: a row a sequence, frames at even times, the objects drawn over (HODOR, Fig. 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hodor.analysis import plots, runs
from hodor.scoring.metrics import frame_scores

if TYPE_CHECKING:
    from hodor.data.layouts import Layout, VideoFiles
    from hodor.models.base import Network

ROWS = 8
"""Sequences on one picture; further ones go to sheet-2.png, sheet-3.png ..."""


@dataclass(frozen=True)
class Cell:
    """One frame of a row: its name, the picture with its labels, J&F where the ground truth is known."""

    frame: str
    image: NDArray[np.uint8]
    labels: NDArray[Any]
    score: float | None


def even(count: int, columns: int) -> list[int]:
    """`columns` places out of range(count) at even times, the last one among them; all, where there are not as many."""
    if columns >= count:
        return list(range(count))
    return [round((k + 1) * count / columns) - 1 for k in range(columns)]


def row(
    network: Network,
    video: VideoFiles,
    columns: int,
    *,
    given: bool = False,
    history: int | None = None,
    size: int | None = None,
) -> list[Cell]:
    """Follow a video; -> its frames at even times. given: the first frame comes first, with the mask that was given."""
    places = {frame: index for index, frame in enumerate(video.frames)}
    begin = min((places[frame] for frame in video.given if frame in places), default=0)
    chosen = [begin + 1 + i for i in even(len(video.frames) - begin - 1, columns - given)]
    if given:
        chosen = [begin, *chosen]
    images = dict(zip(chosen, video.pictures(chosen), strict=True))
    cells = []
    for index, followed, ids in runs.moments(network, video, history=history, size=size):
        if index in images:
            score = None
            if ids and followed.frame in video.masks:
                score = float(np.mean(frame_scores(followed.labels, video.labels(followed.frame), ids)))
            cells.append(Cell(followed.frame, images[index], followed.labels, score))
        if index == chosen[-1]:
            break
    return cells


def draw(
    network: Network,
    layout: Layout,
    path: Path,
    *,
    columns: int = 5,
    given: bool = False,
    history: int | None = None,
    size: int | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> list[Path]:
    """Sheets of all sequences, `ROWS` on each, as PNG or SVG with the frames' scores beside as JSON; -> the pictures.

    Raises ValueError: "0 frames a row: want 1 or more".
    """
    if columns - given < 1:
        raise ValueError(f"{columns - given} frames a row: want 1 or more")
    made = []
    done, total = 0, sum(len(video.frames) for video in layout.videos)
    for start in range(0, len(layout.videos), ROWS):
        rows = []
        for video in layout.videos[start : start + ROWS]:
            rows.append((video.name, row(network, video, columns, given=given, history=history, size=size)))
            progress(done := done + len(video.frames), total)
        to = path if not start else path.with_name(f"{path.stem}-{start // ROWS + 1}{path.suffix}")
        _draw([(name, cells) for name, cells in rows if cells], columns, to)
        made.append(to)
    return made


def _draw(rows: list[tuple[str, list[Cell]]], columns: int, path: Path) -> None:
    named = [{"sequence": name, "frames": [{"frame": c.frame, "J&F": c.score} for c in cells]} for name, cells in rows]
    aspects = [cells[0].image.shape[0] / cells[0].image.shape[1] for _, cells in rows]
    data = {"format": "hodor-sheet/1", "rows": named}
    with plots.strips(path, data, [name for name, _ in rows], aspects, columns) as lines:
        for axes, (_, cells) in zip(lines, rows, strict=True):
            for axis, cell in zip(axes, cells, strict=False):
                plots.picture(axis, plots.tinted(cell.image, cell.labels), aspect="auto")
                for i in np.unique(cell.labels[cell.labels != 0]).tolist():
                    plots.outline(axis, cell.labels == i, plots.object_colour(i), width=0.9)
                _tag(axis, cell)


def _tag(axis: Any, cell: Cell) -> None:
    """The frame's name in the corner, and its J&F."""
    words = cell.frame if cell.score is None else f"{cell.frame}   J&F {100 * cell.score:.0f}"
    style = {"boxstyle": "square,pad=0.2", "facecolor": "black", "alpha": 0.55, "linewidth": 0}
    axis.text(0.012, 0.02, words, transform=axis.transAxes, fontsize=7, color="white", va="bottom", ha="left", bbox=style)

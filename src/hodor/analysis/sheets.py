"""Qualitative results: one row for each sequence, with evenly spaced frames and the predicted objects (HODOR, Fig. 4)."""

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
"""Largest number of sequences in one file. The next ones are in sheet-2.png, sheet-3.png ..."""


@dataclass(frozen=True)
class Cell:
    """One frame of a row.

    Attributes:
        frame: name of the frame.
        image: RGB, uint8 [H, W, 3].
        labels: predicted labels [H, W].
        score: J&F in [0, 1]; None for a frame that is not scored.
    """

    frame: str
    image: NDArray[np.uint8]
    labels: NDArray[Any]
    score: float | None


def even(count: int, columns: int) -> list[int]:
    """Return `columns` evenly spaced numbers of range(count), including the last; all of them if there are fewer."""
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
    """Track a video and return evenly spaced frames.

    Args:
        network: the network.
        video: the video.
        columns: largest number of frames.
        given: begin with the first frame and its given mask.
        history: number of past frames kept in memory (T). Default: the network's own.
        size: short side inside the network, in pixels. Default: the network's own.

    Raises:
        ValueError: "expected at least one frame of video a after the given masks of 00000, got none: give a longer video".
    """
    index_of = {frame: index for index, frame in enumerate(video.frames)}
    begin = min((index_of[frame] for frame in video.given if frame in index_of), default=0)
    chosen = [begin + 1 + i for i in even(len(video.frames) - begin - 1, columns - given)]
    if given:
        chosen = [begin, *chosen]
    if not chosen:
        expected = f"expected at least one frame of video {video.name} after the given masks of {video.frames[begin]}"
        raise ValueError(f"{expected}, got none: give a longer video, or leave it out with --sequences")
    images = dict(zip(chosen, video.pictures(chosen), strict=True))
    cells = []
    for index, followed, ids in runs.follow(network, video, history=history, size=size):
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
    """Draw all sequences, `ROWS` in each file, and write the scores of the frames beside each file as JSON.

    Args:
        network: the network.
        layout: the data set.
        path: the first file, PNG or SVG.
        columns: frames of a sequence.
        given: begin each row with the first frame and its given mask.
        history: number of past frames kept in memory (T). Default: the network's own.
        size: short side inside the network, in pixels. Default: the network's own.
        progress: function that is called with the number of frames done and their total.

    Returns:
        The files.

    Raises:
        ValueError: "expected at least 1 predicted frame in a row, got 0".
    """
    if columns - given < 1:
        raise ValueError(f"expected at least 1 predicted frame in a row, got {columns - given}")
    paths = []
    done, total = 0, sum(len(video.frames) for video in layout.videos)
    for start in range(0, len(layout.videos), ROWS):
        rows = []
        for video in layout.videos[start : start + ROWS]:
            rows.append((video.name, row(network, video, columns, given=given, history=history, size=size)))
            progress(done := done + len(video.frames), total)
        out = path if not start else path.with_name(f"{path.stem}-{start // ROWS + 1}{path.suffix}")
        _draw([(name, cells) for name, cells in rows if cells], columns, out)
        paths.append(out)
    return paths


def _draw(rows: list[tuple[str, list[Cell]]], columns: int, path: Path) -> None:
    """Draw the sequences of one file."""
    scores = [{"sequence": name, "frames": [{"frame": c.frame, "J&F": c.score} for c in cells]} for name, cells in rows]
    aspects = [cells[0].image.shape[0] / cells[0].image.shape[1] for _, cells in rows]
    data = {"format": "hodor-sheet/1", "rows": scores}
    with plots.strips(path, data, [name for name, _ in rows], aspects, columns) as lines:
        for axes, (_, cells) in zip(lines, rows, strict=True):
            for axis, cell in zip(axes, cells, strict=False):
                plots.picture(axis, plots.tinted(cell.image, cell.labels), aspect="auto")
                for i in np.unique(cell.labels[cell.labels != 0]).tolist():
                    plots.outline(axis, cell.labels == i, plots.object_colour(i), width=0.9)
                _tag(axis, cell)


def _tag(axis: Any, cell: Cell) -> None:
    """Write the name of a frame and its J&F into the corner."""
    words = cell.frame if cell.score is None else f"{cell.frame}   J&F {100 * cell.score:.0f}"
    style = {"boxstyle": "square,pad=0.2", "facecolor": "black", "alpha": 0.55, "linewidth": 0}
    axis.text(0.012, 0.02, words, transform=axis.transAxes, fontsize=7, color="white", va="bottom", ha="left", bbox=style)

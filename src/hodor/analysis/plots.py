"""One look for every figure, drawn without a display; the numbers go beside each picture as JSON.

with plots.page(Path("history.png"), data, (6.4, 3.6)) as figure:      # writes history.png and history.json
    axis = figure.subplots()
    axis.plot(x, y, color=plots.COLOURS[0])
"""

from __future__ import annotations

import importlib.util
import json
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hodor.masks import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Colours of curves, in this order: the Okabe-Ito set, which colour-blind readers tell apart."""

OBJECTS = (
    "#ff3b30", "#35d04f", "#ffd60a", "#1e90ff", "#ff5fd2", "#2ee6d6", "#ff9500", "#b26bff", "#c8ff3d", "#ffffff",
)  # fmt: skip
"""Colours of objects over pictures, brighter than the palette of mask files, whose dark ones are lost on dark ground."""

STYLE: Mapping[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "savefig.facecolor": "white",
    "svg.hashsalt": "hodor",  # the same figure is the same file
    "svg.fonttype": "none",  # words stay words, to be found and edited
}
DPI = 150


def check(path: Path) -> None:
    """Look whether a figure can be drawn to this file, before minutes of work.

    Raises ValueError: "figure x.gif: want a name that ends in .png or .svg", "a figure needs matplotlib: pip install
    'hodor-vos[viz]'".
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"figure {path}: want a name that ends in .png or .svg")
    need("matplotlib", "a figure")


def need(module: str, what: str) -> None:
    """Raises ValueError where a module of the extra `viz` is missing: "a figure needs matplotlib: pip install
    'hodor-vos[viz]'"."""
    if importlib.util.find_spec(module) is None:
        shown = {"sklearn": "scikit-learn"}.get(module, module)
        raise ValueError(f"{what} needs {shown}: pip install 'hodor-vos[viz]'")


def data_path(path: Path) -> Path:
    """Where the numbers of a figure stand: beside it, with the suffix .json."""
    return path.with_suffix(".json")


@contextmanager
def page(path: Path, data: Mapping[str, Any] | None, size: tuple[float, float]) -> Iterator[Figure]:
    """An empty figure to draw on, of `size` (width, height) in inches; written when the block ends well.

    PNG or SVG by the suffix of `path`, and `data` beside it as JSON (None: no JSON); each whole or not at all. Raises as
    `check`.
    """
    check(path)
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = STYLE
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        form = path.suffix.lower().lstrip(".")
        with written_whole(path) as out:
            figure.savefig(out, dpi=DPI, format=form, metadata={"Date": None} if form == "svg" else None)
    if data is not None:
        write_data(data_path(path), data)


@contextmanager
def strips(
    path: Path,
    data: Mapping[str, Any],
    titles: Sequence[str],
    aspects: Sequence[float],
    columns: int,
    heads: Sequence[str] = (),
    width: float = 10.0,
) -> Iterator[list[list[Axes]]]:
    """Rows of pictures without a gap in their lines: -> axes by row and column, to be filled in the block; written as `page`.

    titles: one a row, above it, long ones wrapped. aspects: height / width of each row's pictures. heads: a word above each
    column. width: of the whole, in inches.
    """
    lines = [textwrap.wrap(title, int(13.5 * width)) or [""] for title in titles]
    above = [0.07 + 0.165 * len(few) for few in lines]
    heights = [width / columns * aspect for aspect in aspects]
    top = 0.2 if heads else 0.0
    whole = top + sum(above) + sum(heights)
    with page(path, data, (width, whole)) as figure:
        figure.set_layout_engine("none")
        for column, head in enumerate(heads):
            figure.text((column + 0.5) / columns, 1 - 0.03 / whole, head, fontsize=9, va="top", ha="center", weight="bold")
        y, rows = whole - top, []
        for few, gap, height in zip(lines, above, heights, strict=True):
            y -= gap
            figure.text(0.003, (y + 0.05) / whole, "\n".join(few), fontsize=9, va="bottom", ha="left")
            y -= height
            box = [(c / columns + 0.0012, y / whole, 1 / columns - 0.0024, (height - 0.024) / whole) for c in range(columns)]
            rows.append([figure.add_axes(one) for one in box])
            for axis in rows[-1]:
                bare(axis)
        yield rows


def write_data(path: Path, data: Mapping[str, Any]) -> None:
    """Data as strict JSON, whole or not at all: numpy's numbers and arrays become plain, nan and infinity null."""
    text = json.dumps(_plain(data), indent=1, allow_nan=False) + "\n"
    with written_whole(path) as out:
        out.write(text.encode())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def picture(axis: Axes, image: NDArray[Any], **options: Any) -> None:
    """An image [H, W, 3] uint8, or a map [H, W] with imshow's options, without ticks, grid or frame."""
    axis.imshow(image, **options)
    bare(axis)


def bare(axis: Axes) -> None:
    """Take ticks, grid and frame away."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)


def object_colour(i: int) -> str:
    """The colour of an object's id over pictures; after ten they come again."""
    return OBJECTS[(i - 1) % len(OBJECTS)]


def tinted(image: NDArray[np.uint8], labels: NDArray[Any], opacity: float = 0.4) -> NDArray[np.uint8]:
    """A copy of image [H, W, 3] with every object of labels [H, W] tinted in its `object_colour`."""
    from matplotlib.colors import to_rgb

    out = image.copy()
    for i in np.unique(labels[labels != 0]).tolist():
        here = labels == i
        colour = 255 * np.array(to_rgb(object_colour(i)))
        out[here] = np.rint((1 - opacity) * image[here] + opacity * colour).astype(np.uint8)
    return out


def outline(axis: Axes, mask: NDArray[Any], colour: Any, width: float = 1.4, style: str = "solid") -> None:
    """The outline of a mask [H, W], drawn over a picture of the same size; an empty or full mask has none.

    A line of one colour with a thin dark rim, so that it is seen on any ground.
    """
    from matplotlib import patheffects

    mask = np.asarray(mask, bool)
    if mask.all() or not mask.any():
        return
    height, width_px = mask.shape
    across, down = np.arange(-1, width_px + 1), np.arange(-1, height + 1)
    limits = axis.axis()
    lines = axis.contour(
        across, down, np.pad(mask, 1).astype(np.float32), [0.5], colors=[colour], linewidths=width, linestyles=style
    )
    lines.set_path_effects([patheffects.withStroke(linewidth=width + 1.2, foreground=(0, 0, 0, 0.55))])
    axis.axis(limits)

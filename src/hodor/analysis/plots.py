"""Common style and helpers of the figures. They are drawn without a display; their data are written beside them as JSON.

with plots.page(Path("history.png"), data, (6.4, 3.6)) as figure:      # writes history.png and history.json
    axis = figure.subplots()
    axis.plot(x, y, color=plots.COLOURS[0])
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hodor.masks import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Colours of curves, in this order: the Okabe-Ito set, which colour-blind readers can distinguish."""

OBJECTS = (
    "#ff3b30", "#35d04f", "#ffd60a", "#1e90ff", "#ff5fd2", "#2ee6d6", "#ff9500", "#b26bff", "#c8ff3d", "#ffffff",
)  # fmt: skip
"""Colours of objects over pictures. They are brighter than the palette of mask files, so that they are visible on dark
areas."""

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
    "svg.hashsalt": "hodor",  # equal figures give equal files
    "svg.fonttype": "none",  # text stays text, so that it can be searched and edited
}
DPI = 150


def check(path: Path) -> None:
    """Check that a figure can be written to this file. Call it before the computation, which can take minutes.

    Raises:
        ValueError: "expected a figure that ends in .png or .svg, got x.gif"; "a figure needs matplotlib: pip install
            'hodor-vos[viz]'".
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"expected a figure that ends in .png or .svg, got {path}")
    need("matplotlib", "a figure")
    load_matplotlib()


def load_matplotlib() -> None:
    """Import matplotlib, also where MPLBACKEND names a backend that is not installed here, such as that of a notebook.

    Figures are written to files without a backend. The variable keeps its value for child processes.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib

        if backend is not None:
            with suppress(ValueError):
                matplotlib.rcParams["backend"] = backend
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def need(module: str, what: str) -> None:
    """Check that a module of the extra `viz` is installed.

    Raises:
        ValueError: "a figure needs matplotlib: pip install 'hodor-vos[viz]'".
    """
    if importlib.util.find_spec(module) is None:
        shown = {"sklearn": "scikit-learn"}.get(module, module)
        raise ValueError(f"{what} needs {shown}: pip install 'hodor-vos[viz]'")


def data_path(path: Path) -> Path:
    """Return the path of a figure's data: the name of the figure with the suffix .json."""
    return path.with_suffix(".json")


@contextmanager
def page(path: Path, data: Mapping[str, Any] | None, size: tuple[float, float]) -> Iterator[Figure]:
    """Context manager that gives an empty figure and writes it at the end of the block, unless an exception is raised.

    No partial file is left if writing fails.

    Args:
        path: the figure; its suffix selects PNG or SVG.
        data: data that are written beside it as JSON; None for no JSON.
        size: width and height, in inches.

    Raises:
        ValueError: see `check`.
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
    """Context manager that gives axes for rows of pictures without gaps, by row and column. The figure is written as in `page`.

    Args:
        path: the figure, PNG or SVG.
        data: data that are written beside it as JSON.
        titles: title of each row; long ones are wrapped.
        aspects: height / width of the pictures of each row.
        columns: pictures in a row.
        heads: titles of the columns. Default: none.
        width: width of the figure, in inches.
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
    """Write data as strict JSON. NumPy values become lists and numbers, nan and infinity become null.

    No partial file is left if writing fails.
    """
    text = json.dumps(_plain(data), indent=1, allow_nan=False) + "\n"
    with written_whole(path) as out:
        out.write(text.encode())


def _plain(value: Any) -> Any:
    """Convert a value to types that JSON can represent."""
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
    """Draw an image, uint8 [H, W, 3], or a map [H, W] with options of `imshow`, without ticks, grid and frame."""
    axis.imshow(image, **options)
    bare(axis)


def bare(axis: Axes) -> None:
    """Remove ticks, grid and frame."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)


def object_colour(i: int) -> str:
    """Return the colour of an object's id over pictures. The colours repeat after ten ids."""
    return OBJECTS[(i - 1) % len(OBJECTS)]


def tinted(image: NDArray[np.uint8], labels: NDArray[Any], opacity: float = 0.4) -> NDArray[np.uint8]:
    """Return a copy of image [H, W, 3] in which every object of labels [H, W] is tinted with its `object_colour`."""
    from matplotlib.colors import to_rgb

    out = image.copy()
    for i in np.unique(labels[labels != 0]).tolist():
        mask = labels == i
        colour = 255 * np.array(to_rgb(object_colour(i)))
        out[mask] = np.rint((1 - opacity) * image[mask] + opacity * colour).astype(np.uint8)
    return out


def outline(axis: Axes, mask: NDArray[Any], colour: Any, width: float = 1.4, style: str = "solid") -> None:
    """Draw the outline of a mask [H, W] over a picture of the same size. An empty or full mask has no outline.

    The line has a thin dark rim, so that it is visible on every background.
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

"""J&F and speed against the number of past frames kept in memory (HODOR, Fig. 5; supplement, Fig. 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hodor.analysis import plots, runs
from hodor.files import parse_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hodor.data.layouts import Layout
    from hodor.models.base import Network

FORMAT = "hodor-history/1"
LENGTHS = (1, 2, 3, 5, 7, 10)
PAPER = {"J&F": {1: 0.743, 4: 0.772, 7: 0.775}, "fps": {1: 17.3, 10: 16.7}}
"""Values of the curves that are stated in the paper's text: HODOR-T on DAVIS 2017 val, on an RTX 3090."""


def measure(
    network: Network,
    layout: Layout,
    out: Path,
    *,
    lengths: Sequence[int] = LENGTHS,
    size: int | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Track and score every sequence with every history length.

    The data are written to `out` after each sequence and length. Results that `out` already contains are not measured again, so
    an interrupted run can be resumed. All lengths of a sequence are measured before the next sequence, so that a change of the
    machine's speed affects all lengths.

    Args:
        network: the network.
        layout: the data set.
        out: JSON file of the data.
        lengths: numbers of past frames kept in memory (T), each at least 1.
        size: short side inside the network, in pixels. Default: the network's own.
        progress: function that is called with the number of frames done and their total.

    Returns:
        `runs` (one for each sequence and length: J&F, J, F, fps, objects), `curve` (one for each length, over `sequences`),
        `network` and `data`.

    Raises:
        ValueError: "expected history of at least 1 frame, got 0"; "history.json contains another run (weights 3f.. in the file,
            9a.. now): give another --out, or remove it".
    """
    if wrong := [length for length in lengths if length < 1]:
        raise ValueError(f"expected history of at least 1 frame, got {wrong[0]}")
    lengths = sorted(set(lengths))
    about = {"network": runs.about(network, size), "data": layout.root.name}
    done = _earlier(out, about)
    todo = [(v, n) for v in layout.videos for n in lengths if (v.name, n) not in done]
    frames, total = 0, sum(len(video.frames) for video, _ in todo)
    for video, length in todo:
        scored = runs.scored(network, video, history=length, size=size)
        done[video.name, length] = {"length": length, **scored.to_json()}
        plots.write_data(out, _data(about, done, layout, lengths))
        progress(frames := frames + len(video.frames), total)
    data = _data(about, done, layout, lengths)
    plots.write_data(out, data)
    return data


def draw(data: dict[str, Any], path: Path, *, mark: int | None = None, paper: bool = False) -> None:
    """Draw J&F and frames per second against the history length.

    Args:
        data: the data from `measure`.
        path: the figure, PNG or SVG.
        mark: a length to mark with a line.
        paper: also draw the values stated in the paper.
    """
    curve, names = data["curve"], data["sequences"]
    shown = [run for run in data["runs"] if run["sequence"] in names and run["length"] in {row["length"] for row in curve}]
    several, x = len(names) > 1, [row["length"] for row in curve]
    of = "all sequences" if several else names[0]
    with plots.page(path, None, (7.2, 3.1)) as figure:
        quality, speed = figure.subplots(1, 2)
        for number, name in enumerate(names if several else ()):
            own = [run for run in shown if run["sequence"] == name]
            quality.plot(
                [run["length"] for run in own], [100 * run["J&F"] for run in own], color="#bbbbbb", linewidth=0.8,
                label=None if number else "each sequence",
            )  # fmt: skip
        quality.plot(x, [100 * row["J&F"] for row in curve], "o-", color=plots.COLOURS[0], label=of)
        speed.plot(x, [row["fps"] for row in curve], "o-", color=plots.COLOURS[1], label=of)
        speed.set_ylim(0, 1.25 * max(row["fps"] for row in curve))
        if paper:
            _add_paper(quality, speed)
        for axis, title in ((quality, "J&F, per cent"), (speed, "frames per second")):
            axis.set_title(title)
            axis.set_xlabel("past frames in memory")
            axis.set_xticks(x)
            if mark in x:
                axis.axvline(mark, color="#888888", linewidth=0.8, linestyle=":")
        for row in curve:
            at = row["length"], 100 * row["J&F"]
            quality.annotate(f"{at[1]:.1f}", at, (0, 6), textcoords="offset points", ha="center", fontsize=7.5)
            at = row["length"], row["fps"]
            speed.annotate(f"{at[1]:.1f}", at, (0, 6), textcoords="offset points", ha="center", fontsize=7.5)
        quality.margins(y=0.18)
        if paper or several:
            quality.legend(fontsize=7.5)
        what = f"{len(names)} sequences of {data['data']}" if len(names) > 3 else ", ".join(names)
        about = data["network"]
        figure.suptitle(
            f"{about['model']}, short side {about['size']}, {about['dtype']} on {about['device']}; {what}", fontsize=9
        )


def _add_paper(quality: Axes, speed: Axes) -> None:
    """Draw the values stated in the paper."""
    for axis, rows, share, what in ((quality, PAPER["J&F"], 100, "J&F"), (speed, PAPER["fps"], 1, "speed")):
        axis.plot(
            list(rows), [share * y for y in rows.values()], "D", color="#555555", markerfacecolor="white",
            label=f"the paper's {what}\n(HODOR-T, {'DAVIS 2017 val' if share == 100 else 'RTX 3090'})",
        )  # fmt: skip
    top = max(*PAPER["fps"].values(), speed.get_ylim()[1])
    speed.set_ylim(0, 1.25 * top)
    speed.legend(fontsize=7.5)


def _earlier(out: Path, about: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the runs that the file contains, {(sequence, length): run}; empty if it does not exist."""
    if not out.is_file():
        return {}
    try:
        data = parse_json(out.read_bytes())
        stored = {key: data[key] for key in about}
        same_format = data["format"] == FORMAT
        earlier = {(run["sequence"], run["length"]): run for run in data["runs"]}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{out} is not a file of this figure: give another --out, or remove it") from None
    before, now = ({**a["network"], "data": a["data"]} for a in (stored, about))
    differs = ", ".join(f"{key} {before.get(key)} in the file, {now[key]} now" for key in now if before.get(key) != now[key])
    if differs or not same_format:
        raise ValueError(f"{out} contains another run ({differs or 'another format'}): give another --out, or remove it")
    return earlier


def _data(
    about: dict[str, Any], done: dict[tuple[str, int], dict[str, Any]], layout: Layout, lengths: Sequence[int]
) -> dict[str, Any]:
    """Return the data of the figure. The curve has the lengths for which all sequences are done."""
    names = [video.name for video in layout.videos]
    curve = []
    for length in lengths:
        own = [done[name, length] for name in names if (name, length) in done]
        if own and len(own) == len(names):
            fps = len(own) / sum(1 / run["fps"] for run in own)
            curve.append({"length": length, **runs.means(own), "fps": fps})
    kept = [run for _, run in sorted(done.items())]
    return {"format": FORMAT, **about, "sequences": names, "curve": curve, "runs": kept}

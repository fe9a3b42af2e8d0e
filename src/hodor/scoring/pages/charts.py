"""Small charts as inline SVG. They stretch to the available width; lines keep their width, points stay round."""

import json
import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from hodor.scoring.intervals import Difference, clock
from hodor.scoring.results import Row, SequenceScores

COLOURS, DASHES = 8, 5  # number of colours, and of dashes for further lines; page.css defines them
HEIGHT = 1000  # units of a chart; one is a thousandth of a score


def curves(sequence: SequenceScores, metric: str, every: int = 1) -> str:
    """Draw J or F of a sequence's objects over time: x is the frame, counted from the first scored one, y the score.

    `every`: draw only every Nth frame. The page's script reads the values under the pointer from the path's numbers.
    """
    names = clock(sequence.objects)
    place = {name: t for t, name in enumerate(names)}
    lines = []
    for n, one in enumerate(sequence.objects):
        row = np.full(len(names), np.nan)
        row[[place[frame] for frame in one.frames]] = one.j if metric == "J" else one.f
        mean = one.summary.get(metric)
        label = f"object {one.object}" + ("" if mean is None else f", {metric} {100 * mean:.1f}")
        lines.append(
            f'<path class="{colour(n)}" data-o="{one.object}" d="{line(row, every)}"><title>{escape(label)}</title></path>'
        )
    last = max(1, len(names) - 1)
    grid = "".join(f'<line class="grid" x1="0" x2="{last}" y1="{y}" y2="{y}"/>' for y in (0, 250, 500, 750, 1000))
    label = escape(f"{metric} of {sequence.name} over time", quote=True)
    svg = (
        f'<svg class="curve" viewBox="0 0 {last} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{label}" '
        f'data-m="{metric}">{grid}{"".join(lines)}</svg>'
    )
    ticks = "".join(f"<span>{escape(name)}</span>" for name in _ticks(names))
    scale = "".join(f"<span>{value}</span>" for value in (100, 75, 50, 25, 0))
    return (
        f'<figure class="chart"><figcaption>{metric}, per cent</figcaption><div class="y">{scale}</div>'
        f'<div class="plot">{svg}</div><div class="x">{ticks}</div></figure>'
    )


def frame_names(sequence: SequenceScores) -> str:
    """Return the frames of a sequence's charts as an attribute for the page's script."""
    return escape(json.dumps(clock(sequence.objects), separators=(",", ":")), quote=True)


def colour(n: int) -> str:
    """Return the CSS classes of the n-th line: eight colours, then the same with dashes (page.css)."""
    dash = n // COLOURS % DASHES
    return f"c{n % COLOURS}" + (f" d{dash}" if dash else "")


def line(row: Row, every: int = 1) -> str:
    """Convert scores [T] in [0, 1] or nan to an SVG path, one step per frame, interrupted at nan.

    y is in thousandths, from the top: line([1, 0.5]) is "M0 0l1 500".
    """
    ys = [None if math.isnan(v) else round(HEIGHT * (1 - v)) for v in row]
    parts: list[str] = []
    last: tuple[int, int] | None = None
    drawn = {*range(0, len(ys), every), len(ys) - 1}
    for x, y in enumerate(ys):
        if y is None:
            last = None
        elif last is None:
            parts.append(f"M{x} {y}l0 0")  # a single frame is a dot, because the line's ends are round
            last = x, y
        elif x in drawn:
            dx, dy = x - last[0], y - last[1]
            parts.append(f" {dx}{dy}" if dy < 0 else f" {dx} {dy}")
            last = x, y
    return "".join(parts)


def forest(rows: Mapping[str, Sequence[Difference]]) -> str:
    """Draw a forest plot: a row per heading, with a point and a 95 % bar for each difference, in points (per cent).

    The scale contains all intervals and zero.
    """
    every = [d for ones in rows.values() for d in ones]
    ends = [100 * v for d in every for v in (d.low, d.high, d.difference) if v is not None]
    low, high, step = _scale(min([0.0, *ends]), max([0.0, *ends]))
    body = "".join(_forest_row(name, ones, low, high, n == 0) for n, (name, ones) in enumerate(rows.items()))
    marks = [low + step * k for k in range(round((high - low) / step) + 1)]
    ticks = "".join(f'<span style="left:{100 * (m - low) / (high - low):.2f}%">{_signed(m, step)}</span>' for m in marks)
    foot = f'<div class="line"><div class="name"></div><div class="ticks">{ticks}</div><div class="value"></div></div>'
    return f'<div class="forest">{body}{foot}</div>'


def in_words(one: Difference) -> str:
    """Return a difference as text, in points: "+1.2 [-0.3, 2.7]"."""
    text = f"{100 * one.difference:+.1f}"
    if one.low is not None and one.high is not None:
        text += f" [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
    return text.replace("-", "\N{MINUS SIGN}")


def _forest_row(name: str, ones: Sequence[Difference], low: float, high: float, whole: bool) -> str:
    def x(value: float) -> float:
        return round(HEIGHT * (100 * value - low) / (high - low), 1)

    height = 22 * len(ones)
    marks = [f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="0" y2="{height}"/>']
    words = []
    for n, one in enumerate(ones):
        y, kind = 22 * n + 11, f"c{n % COLOURS}"
        label = f"{one.name}, {name}: {in_words(one)}"
        bar = ""
        if one.low is not None and one.high is not None:
            bar = f'<line class="bar {kind}" x1="{x(one.low)}" x2="{x(one.high)}" y1="{y}" y2="{y}"/>'
        at = x(one.difference)
        dot = f'<path class="dot {kind}" d="M{at} {y}l0 0"/>'
        marks.append(f"<g><title>{escape(label)}</title>{bar}{dot}</g>")
        words.append(f"<span>{in_words(one)}</span>")
    row = " whole" if whole else ""
    return (
        f'<div class="line{row}"><div class="name">{escape(name)}</div>'
        f'<svg viewBox="0 0 {HEIGHT} {height}" height="{height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape("; ".join(in_words(one) for one in ones), quote=True)}">{"".join(marks)}</svg>'
        f'<div class="value">{"".join(words)}</div></div>'
    )


def _scale(low: float, high: float) -> tuple[float, float, float]:
    """Return round ends and a step, for about five steps."""
    span = max(high - low, 0.2)
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(m * power for m in (1, 2, 5, 10) if m * power * 6 >= span)
    return math.floor(low / step - 1e-9) * step, math.ceil(high / step + 1e-9) * step, step


def _signed(value: float, step: float) -> str:
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    text = f"{value:+.{digits}f}"
    return "0" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def _ticks(names: Sequence[str]) -> list[str]:
    """Return the first name, the middle one and the last."""
    if len(names) < 3:
        return list(names)
    return [names[0], names[(len(names) - 1) // 2], names[-1]]

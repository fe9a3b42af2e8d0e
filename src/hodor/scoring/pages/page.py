"""The HTML pages of one results file and of a comparison of several. Each function returns the page as one string."""

import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from hodor.scoring.intervals import METRICS, Comparison, Difference
from hodor.scoring.pages import charts
from hodor.scoring.pages.pictures import FALSE, MISSED, Panels, Worst
from hodor.scoring.pages.rules import sentences
from hodor.scoring.results import COLUMNS, ObjectScores, Scores, SequenceScores

OPEN = 6  # up to this many sequences are shown with their curves open
POINTS = 600_000  # of all curves, five bytes each; above it frames are skipped
NAMES = {
    "J_recall": "J recall",
    "J_decay": "J decay",
    "F_recall": "F recall",
    "F_decay": "F decay",
}
SEEN = {True: "yes", False: "no", None: ""}
LOCKED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def scores_page(scores: Scores, worst: Sequence[Worst], panels: Sequence[Panels] | None) -> str:
    """Return the page of one results file.

    Args:
        scores: the results.
        worst: the worst frames.
        panels: pictures of `worst`, one each; None: no pictures.
    """
    title = f"{scores.predictions or 'Scores'}, by {scores.profile}"
    sequences, objects = len(scores.sequences), sum(1 for _ in scores.objects)
    size = f"{_many(sequences, 'sequence')}, {_many(objects, 'object')}, {_many(scores.frame_objects, 'scored mask')}"
    against = f" Ground truth: {escape(scores.ground_truth)}." if scores.ground_truth else ""
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{size}.{against} All numbers are per cent; decay is in points, lower is better.</p>',
        _tiles(scores.summary),
        _list("Notes", [escape(note) for note in scores.notes]),
        "<h2>Sequences</h2>",
        _table(scores.sequences, numbered=True),
        "<h2>Objects</h2>",
        _table(list(scores.objects)),
        _curves(scores),
        _worst(worst, panels),
        _run(scores),
    ]
    return _page(title, body)


def comparison_page(comparison: Comparison) -> str:
    """Return the page of a comparison: forest plots, then every number."""
    first, others = comparison.names[0], comparison.names[1:]
    title = f"{', '.join(others)} against {first}"
    size = f"{_many(len(comparison.sequences), 'sequence')}, {_many(comparison.objects, 'object')}"
    left = [f"Left out, not in all results: {escape(', '.join(comparison.left_out))}"] if comparison.left_out else []
    keys = "".join(f"<span>{_stroke(charts.colour(n))} {escape(name)}</span> &nbsp; " for n, name in enumerate(others))
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{size}, profile {escape(comparison.profile)}{", compat" if comparison.compat else ""}.</p>',
        _lead(comparison),
        _list("Notes", [*left, *(escape(note) for note in comparison.notes)]),
        f"<h2>Differences to {escape(first)}, in points</h2>",
        "<p>Right of the line is better than the first. Bars contain 95 % of "
        f"{comparison.draws:,} bootstrap resamples (seed {comparison.seed}): for the data set, whole sequences are resampled; "
        "for a sequence, blocks of its frames. The data set's bar is valid for other videos of this type, a sequence's bar "
        "only for other moments of that video.</p>",
        f'<p class="legend">{keys}</p>',
    ]
    for metric in METRICS:
        rows = _forest_rows(comparison, metric)
        if rows:
            body.append(
                f"<details{' open' if metric == METRICS[0] else ''}><summary>{metric}</summary>{charts.forest(rows)}</details>"
            )
    body += ["<h2>All numbers</h2>", _differences(comparison)]
    return _page(title, body)


# Parts of the scores' page -----------------------------------------------------------------------------------------------


def _tiles(summary: dict[str, float]) -> str:
    main = "G" if "G" in summary else "J&F"
    keys = [main, *(k for k in (*COLUMNS, *summary) if k != main)]
    tiles = (
        f'<div class="tile{" main" if k == main else ""}"><span class="soft">{escape(NAMES.get(k, k.replace("_", " ")))}</span>'
        f"<b>{_percent(summary[k])}</b></div>"
        for k in dict.fromkeys(keys)
        if k in summary
    )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _table(rows: Sequence[SequenceScores | ObjectScores], numbered: bool = False) -> str:
    """Return a sortable table of sequences or of objects. `numbered`: link each to its curves."""
    ones = [row for row in rows if isinstance(row, ObjectScores)]
    keys = [
        k for k in dict.fromkeys([*COLUMNS, *(k for row in rows for k in row.summary)]) if any(k in r.summary for r in rows)
    ]
    texts = ["sequence"] + (["category"] if any(o.category is not None for o in ones) else [])
    texts += ["seen"] if any(o.seen is not None for o in ones) else []
    counts = ["object", "frames"] if ones else ["objects"]
    head = "".join(f'<th class="t"><button type="button">{name}</button></th>' for name in texts)
    head += "".join(f'<th><button type="button">{name}</button></th>' for name in counts)
    named = (escape(NAMES.get(k, k.replace("_", " "))) for k in keys)
    head += "".join(f'<th><button type="button">{name}</button></th>' for name in named)
    body = []
    for n, row in enumerate(rows):
        name = escape(row.sequence if isinstance(row, ObjectScores) else row.name)
        cells = [f'<td class="t"><a href="#s{n}">{name}</a></td>' if numbered else f'<td class="t">{name}</td>']
        if isinstance(row, ObjectScores):
            cells += [f'<td class="t">{escape(row.category or "")}</td>'] if "category" in texts else []
            cells += [f'<td class="t">{SEEN[row.seen]}</td>'] if "seen" in texts else []
            cells += [f'<td data-v="{row.object}">{row.object}</td>', f'<td data-v="{len(row.frames)}">{len(row.frames)}</td>']
        else:
            cells.append(f'<td data-v="{len(row.objects)}">{len(row.objects)}</td>')
        cells += [_cell(row.summary.get(k), bar=k in METRICS) for k in keys]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _cell(value: float | None, bar: bool = True) -> str:
    if value is None:
        return '<td data-v=""></td>'
    share = f' class="v" style="--p:{min(100.0, max(0.0, 100 * value)):.0f}"' if bar else ""
    return f'<td{share} data-v="{value:.6g}">{_percent(value)}</td>'


def _curves(scores: Scores) -> str:
    points = sum(2 * len(one.frames) for one in scores.objects)
    if not points:
        return ""
    every = math.ceil(points / POINTS)
    note = f" Curves are drawn in steps of {every} frames, because there are many." if every > 1 else ""
    metrics = [m for m in ("J", "F") if any(m in one.summary for one in scores.objects)] or ["J"]
    shown = " open" if len(scores.sequences) <= OPEN else ""
    parts = []
    for n, sequence in enumerate(scores.sequences):
        mean = sequence.summary.get("J&F", sequence.summary.get("J"))
        about = f"{_many(len(sequence.objects), 'object')}" + ("" if mean is None else f", {_percent(mean)}")
        figures = "".join(charts.curves(sequence, metric, every) for metric in metrics)
        legend = "".join(_legend(n, one) for n, one in enumerate(sequence.objects))
        parts.append(
            f'<details id="s{n}"{shown} data-names="{charts.frame_names(sequence)}"><summary>{escape(sequence.name)} '
            f'<span class="soft">{about}</span></summary><div class="pair">{figures}</div>'
            f'<div class="legend">{legend}</div></details>'
        )
    tools = ""
    if not shown:
        tools = (
            '<p class="tools"><button type="button" class="open" data-open="1">Open all</button>'
            '<button type="button" class="open" data-open="0">Close all</button></p>'
        )
    text = "Point at a curve for its frame and value; click an object's name to keep it in front."
    return f'<h2>Over time</h2><p class="soft">{text}{note}</p>{tools}<div class="over">{"".join(parts)}</div>'


def _legend(n: int, one: ObjectScores) -> str:
    mean = one.summary.get("J&F", one.summary.get("J"))
    name = f"{one.object}" + (f" {escape(one.category)}" if one.category else "")
    score = "" if mean is None else f' <span class="soft">{_percent(mean)}</span>'
    return f'<button type="button" data-o="{one.object}" aria-pressed="false">{_stroke(charts.colour(n))}{name}{score}</button>'


def _stroke(classes: str) -> str:
    return (
        '<svg viewBox="0 0 24 8" width="24" height="8" aria-hidden="true">'
        f'<path class="{classes}" stroke-width="2.6" d="M0 4l24 0"/></svg>'
    )


def _worst(worst: Sequence[Worst], panels: Sequence[Panels] | None) -> str:
    if not worst:
        return ""
    rows = []
    for n, one in enumerate(worst):
        about = (
            f"<b>{escape(one.sequence)}</b><br>frame {escape(one.frame)}, object {one.object}{_swatch(one.object, panels)}<br>"
        )
        about += ", ".join(f"{m} {_percent(v)}" for m, v in (("J", one.j), ("F", one.f)) if not math.isnan(v))
        pictures = ""
        if panels is not None:
            shown = panels[n]
            about += '<br><span class="soft">' + _shares(shown) + "</span>"
            titles = (
                ("ground truth", shown.ground_truth),
                ("prediction", shown.prediction),
                (f"errors of object {one.object}", shown.errors),
            )
            pictures = "".join(
                f'<figure><img src="{uri}" alt="{title}"><figcaption>{title}</figcaption></figure>' for title, uri in titles
            )
        rows.append(f'<div class="worst"><p>{about}</p><div class="panels">{pictures}</div></div>')
    text = "The lowest J&amp;F, worst first; of an object, frames close to one already shown are skipped. "
    if panels is None:
        text += "Give the predictions and the ground truth to see pictures."
    else:
        keys = (("missed", MISSED), ("false", FALSE))
        text += "The errors are enlarged, with the outline of the ground truth in white: "
        text += ", ".join(f'<span class="key" style="background:rgb{c}"></span>{name}' for name, c in keys) + "."
    return f'<h2>Worst frames</h2><p class="soft">{text}</p>{"".join(rows)}'


def _swatch(i: int, panels: Sequence[Panels] | None) -> str:
    """Return the object's colour in the pictures, as hodor.video.render.overlay: ids above 255 repeat the colours."""
    if panels is None:
        return ""
    from hodor.masks import palette

    red, green, blue = palette()[(i - 1) % 255 + 1]
    return f'&nbsp;<span class="key" style="background:rgb({red},{green},{blue})"></span>'


def _shares(panels: Panels) -> str:
    if panels.missed is None or panels.false is None:
        return "the object is not in the ground truth"
    return f"{100 * panels.missed:.0f} % missed, {100 * panels.false:.0f} % false"


def _run(scores: Scores) -> str:
    rules = {"profile": scores.profile, "compat": scores.compat, **scores.options}
    made = {"predictions": scores.predictions, "ground_truth": scores.ground_truth, **scores.run}
    rule = f"<p>{escape(' '.join(sentences(scores.profile, scores.options)))}</p>{_definitions(rules)}"
    return f"<h2>How it was scored</h2>{rule}<h2>How it was made</h2>{_definitions(made)}"


def _definitions(pairs: dict[str, Any]) -> str:
    rows = (f"<dt>{escape(str(k).replace('_', ' '))}</dt><dd>{_value(v)}</dd>" for k, v in pairs.items() if v not in (None, ""))
    return f"<dl>{''.join(rows)}</dl>"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


# Parts of the comparison's page ------------------------------------------------------------------------------------------


def _lead(comparison: Comparison) -> str:
    """Return the main result in one sentence per results file."""
    lines = []
    for one in comparison.dataset():
        text = f"<b>{escape(one.name)}</b> has {_percent(one.value)} J&amp;F, "
        text += f"{charts.in_words(one)} points compared with the first's {_percent(one.first)}"
        if one.better is not None:
            text += f"; it is better in {100 * one.better:.1f} % of the resamples"
        lines.append(f"{text}, in {one.wins} of {_many(one.wins + one.losses + one.ties, 'sequence')} (worse in {one.losses}).")
    return "".join(f"<p>{line}</p>" for line in lines)


def _forest_rows(comparison: Comparison, metric: str) -> dict[str, Sequence[Difference]]:
    """Return the data set, then the sequences, the largest difference first."""
    rows: dict[str, Sequence[Difference]] = {"dataset": comparison.dataset(metric)}
    found = {name: comparison.of(name, metric) for name in comparison.sequences}
    found = {name: ones for name, ones in found.items() if ones}
    # A sequence can have the name "dataset" too: its key then needs another spelling.
    for name, ones in sorted(found.items(), key=lambda item: -item[1][0].difference):
        rows[name if name != "dataset" else "dataset (sequence)"] = ones
    return rows if rows["dataset"] else {}


def _differences(comparison: Comparison) -> str:
    names = ("where", "results", "metric", "first", "value", "difference", "low", "high", "better", "wins", "losses", "ties")
    left = ("where", "results", "metric")
    head = "".join(f'<th{" class=t" if n in left else ""}><button type="button">{n}</button></th>' for n in names)
    body = []
    for one in comparison.differences:
        cells = [f'<td class="t">{escape(t)}</td>' for t in (one.sequence or "dataset", one.name, one.metric)]
        cells += [_cell(v, bar=False) for v in (one.first, one.value)]
        cells += [_signed(v) for v in (one.difference, one.low, one.high)]
        cells.append(_cell(one.better, bar=False))
        cells += [f'<td data-v="{v}">{v}</td>' for v in (one.wins, one.losses, one.ties)]
        body.append(f"<tr{' class=whole' if one.sequence is None else ''}>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _signed(value: float | None) -> str:
    if value is None:
        return '<td data-v=""></td>'
    text = f"{100 * value:+.2f}".replace("-", "\N{MINUS SIGN}")
    return f'<td data-v="{value:.6g}">{text}</td>'


# Both --------------------------------------------------------------------------------------------------------------------


def _page(title: str, body: Iterable[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{LOCKED}"><title>{escape(title)}</title>'
        f"<style>{_part('page.css')}</style></head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + f"\n<script>{_part('page.js')}</script>"
        "\n</body></html>\n"
    )


def _part(name: str) -> str:
    return (files("hodor.scoring.pages") / name).read_text(encoding="utf-8")


def _list(heading: str, items: Sequence[str]) -> str:
    return f"<h2>{heading}</h2><ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>" if items else ""


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}".replace("-", "\N{MINUS SIGN}")

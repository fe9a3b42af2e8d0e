"""Results of an ablation: mean and standard deviation over seeds, beside the numbers of the paper, marked as such."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hodor.ablations.runs import Setup, own, settings_of, write
from hodor.ablations.tables import Row, Table, model_of
from hodor.files import DAMAGES, parse_json
from hodor.masks import written_whole

if TYPE_CHECKING:
    from rich.table import Table as Printed

SCORES = ("J&F", "J", "F")


@dataclass(frozen=True)
class Result:
    """A row of the finished table; scores in per cent.

    Attributes:
        row: the row of the table.
        state: "done", "2 of 3 seeds", "to do", or what the row needs.
        paper: scores printed in the paper, by name ("J&F", "J", "F").
        ours: scores measured here: (mean over the seeds, standard deviation; None for one seed), by name.
        paper_against: difference in J&F to the row `Table.against`, in the paper.
        ours_against: the same here, seed by seed: (mean, standard deviation).
        change: changed settings, such as "encoder_layers 2 -> 1".
    """

    row: Row
    state: str
    paper: dict[str, float] = field(default_factory=dict)
    ours: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    paper_against: float | None = None
    ours_against: tuple[float, float | None] | None = None
    change: str = ""


def results(table: Table, setup: Setup) -> list[Result]:
    """Return a result for every row of the table, from the finished runs in `setup.out`."""
    base = table.row(table.against)
    reference = _scores(table, setup, base)
    out = []
    for row in table.rows:
        own = _scores(table, setup, row)
        paper = dict(zip(SCORES, row.paper or (), strict=False))
        both = [own[seed]["J&F"] - reference[seed]["J&F"] for seed in own if seed in reference]
        compared = row.key != table.against
        count = len(setup.seeds)
        missing = table.missing(row, setup.base.model)
        todo = f"needs {missing}" if missing else "to do"
        state = "done" if len(own) == count else f"{len(own)} of {count} seeds" if own else todo
        out.append(
            Result(
                row,
                state,
                paper,
                {name: _spread([scores[name] for scores in own.values()]) for name in SCORES} if own else {},
                round(paper["J&F"] - base.paper[0], 1) if compared and paper and base.paper else None,
                _spread(both) if compared and both else None,
                _change(row, model_of(row, setup.base.model)),
            )
        )
    return out


def _change(row: Row, model: str) -> str:
    """The changed settings of the network: "encoder_layers 2 -> 1"."""
    from hodor.models import weights

    if model not in weights.MODELS:
        return ""
    preset = weights.MODELS[model]
    pairs = [(name, own(preset, name), new) for name, new in settings_of(row, model).items()]
    return ", ".join(f"{name} {old} -> {new}" for name, old, new in pairs if new != old)


def _scores(table: Table, setup: Setup, row: Row) -> dict[int, dict[str, float]]:
    """Scores of the finished runs in per cent, by seed."""
    out = {}
    for seed in setup.seeds:
        file = setup.folder(table, row, seed) / "scores.json"
        if file.is_file():
            try:
                data = parse_json(file.read_bytes())
                out[seed] = {name: 100 * float(data[name]) for name in SCORES}
            except DAMAGES as error:
                raise ValueError(f"{file} is damaged ({type(error).__name__} {str(error)[:100]}): remove it") from None
    return out


def _spread(values: Sequence[float]) -> tuple[float, float | None]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


HEADS = ("row", "setting", "paper J&F", "J", "F", "to base", "here J&F", "J", "F", "to base", "state")


def cells(result: Result) -> tuple[str, ...]:
    """Return a result as the cells under `HEADS`; missing numbers are empty."""

    def with_spread(pair: tuple[float, float | None] | None, sign: str = "") -> str:
        if pair is None:
            return ""
        return f"{pair[0]:{sign}.1f}" + ("" if pair[1] is None else f" ± {pair[1]:.1f}")

    row = result.row
    name = row.name + (f" [{result.change}]" if result.change else "")
    paper = [f"{result.paper[s]:.1f}" if s in result.paper else "" for s in SCORES]
    ours = [with_spread(result.ours.get(s)) for s in SCORES]
    paper_against = "" if result.paper_against is None else f"{result.paper_against:+.1f}"
    return (row.key, name, *paper, paper_against, *ours, with_spread(result.ours_against, "+"), result.state)


def footnote(table: Table, setup: Setup) -> str:
    """Return the sentences that state where the numbers come from."""
    n, recipe = len(setup.seeds), setup.base
    return (
        f"paper: as printed in {table.source}, measured on {table.measured} with the authors' training; not measured here. "
        f"here: {recipe.model}, {recipe.steps} steps of {recipe.batch} clips, scored on {', '.join(setup.test.names)}; "
        f"{n} seed{'s' * (n > 1)}{', mean ± standard deviation' * (n > 1)}. to base: J&F minus that of row {table.against}"
        f"{', seed by seed' * (n > 1)}."
    )


def printed(table: Table, setup: Setup, rows: Sequence[Result]) -> Printed:
    """Return the table for the terminal (rich), with J&F alone; `markdown` and `to_json` have J and F too."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table as RichTable

    title = f"{table.caption} ({table.source}): J&F, per cent"
    out = RichTable(title=title, caption=footnote(table, setup), box=SIMPLE_HEAD, caption_justify="left", padding=(0, 1, 0, 0))
    out.add_column("row", no_wrap=True)
    out.add_column("setting", min_width=20)
    for head, style in (("paper", "dim"), ("to base", "dim"), ("here", ""), ("to base", "")):
        out.add_column(head, justify="right", no_wrap=True, style=style)
    out.add_column("", min_width=7)
    for result in rows:
        key, name, paper, _, _, paper_against, ours, _, _, ours_against, state = map(escape, cells(result))
        out.add_row(key, name, paper, paper_against, ours, ours_against, state)
    return out


def markdown(table: Table, setup: Setup, rows: Sequence[Result]) -> str:
    """Return the table as Markdown, with the numbers of the paper in italics."""
    lines = [
        f"## {table.caption}",
        "",
        "| " + " | ".join(HEADS) + " |",
        "|" + "|".join("---" if n in (0, 1, 10) else "---:" for n in range(len(HEADS))) + "|",
    ]
    for result in rows:
        words = [f"*{w}*" if 2 <= n <= 5 and w else w for n, w in enumerate(cells(result))]
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join([*lines, "", footnote(table, setup), ""])


def to_json(table: Table, setup: Setup, rows: Sequence[Result]) -> dict[str, Any]:
    """Return the table as plain values; scores in per cent, those measured here in full precision."""
    return {
        "format": "hodor-ablations/1",
        "table": table.name,
        "caption": table.caption,
        "paper": {"source": table.source, "measured": table.measured},
        "against": table.against,
        "seeds": list(setup.seeds),
        "note": footnote(table, setup),
        "rows": [
            {
                "row": r.row.key,
                "name": r.row.name,
                "state": r.state,
                "settings": r.change,
                "paper": r.paper or None,
                "paper_to_base": r.paper_against,
                "ours": {name: {"mean": m, "spread": s} for name, (m, s) in r.ours.items()} or None,
                "ours_to_base": None if r.ours_against is None else dict(zip(("mean", "spread"), r.ours_against, strict=True)),
            }
            for r in rows
        ],
    }


def save(table: Table, setup: Setup, rows: Sequence[Result]) -> Path:
    """Write OUT/TABLE/table.json and OUT/TABLE/table.md; return the path of the latter."""
    to = setup.out / table.name / "table.md"
    write(to.with_suffix(".json"), to_json(table, setup, rows))
    with written_whole(to) as out:
        out.write(markdown(table, setup, rows).encode())
    return to

"""`hodor compare`: compare several results files with the first."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from hodor.commands.console import info, write_json
from hodor.commands.options import parse

if TYPE_CHECKING:
    from rich.table import Table

    from hodor.scoring.intervals import Comparison


@dataclass(frozen=True)
class Compare:
    """Compare results files of `hodor score --json` or `hodor evaluate`: differences to the first, with 95 % intervals.

    All must be scored by the same profile against the same ground truth.
    """

    files: Positional[tuple[Path, ...]]
    """Two results files or more; the others are compared with the first."""
    names: tuple[str, ...] = ()
    """Names for the files; default: the files' names."""
    metric: str = "J&F"
    """The metric in the table: J&F, J or F. The written files contain all three."""
    common: bool = False
    """Compare only the objects that are in all files, and list the others. Without it, different objects are an error."""
    draws: int = 10_000
    """Number of bootstrap resamples, at least 100."""
    seed: int = 0
    """Seed of the bootstrap; the same seed gives the same intervals."""
    json: Path | None = None
    """Write all differences to this file; - prints them."""
    html: Path | None = None
    """Write a page with forest plots to this file."""

    def run(self) -> int:
        from rich.console import Console

        from hodor.scoring import result_files

        if self.metric not in ("J&F", "J", "F"):
            raise ValueError(f"expected --metric J&F, J or F, got {self.metric}")
        results = [result_files.read(file) for file in self.files]
        names = self.names or _names(self.files)
        comparison = result_files.compare(results, names, draws=self.draws, seed=self.seed, common=self.common)
        write_json(self.json, comparison.to_json())
        if self.html:
            result_files.write_comparison(comparison, self.html)
            info(f"-> {self.html}")
        if self.json != Path("-"):
            Console().print(table(comparison, self.metric))
            for note in comparison.notes:
                info(note)
            if comparison.left_out:
                info(f"left out: {', '.join(comparison.left_out)}")
        return 0


def table(comparison: "Comparison", metric: str = "J&F") -> "Table":
    """Return the differences of the data set and of every sequence as a table for a terminal, in per cent and points.

    At 80 columns no figure is cut; long names are folded.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    first, *others = comparison.names
    many = len(others) > 1
    title = f"{metric} of {', '.join(others)} minus {first}, by {comparison.profile}"
    shown = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("", overflow="fold")
    if many:
        shown.add_column("", overflow="fold")
    for heading in ("first", "value", "diff", "95 % interval", "better", "won", "lost"):
        shown.add_column(heading, justify="right", no_wrap=True)
    rows = [*comparison.dataset(metric), *(d for name in comparison.sequences for d in comparison.of(name, metric))]
    for n, one in enumerate(rows):
        interval = better = ""
        if one.low is not None and one.high is not None and one.better is not None:
            interval, better = f"{100 * one.low:+.1f} to {100 * one.high:+.1f}", f"{100 * one.better:.1f} %"
        cells = [one.sequence or "dataset", *([one.name] if many else [])]
        cells += [f"{100 * one.first:.1f}", f"{100 * one.value:.1f}", f"{100 * one.difference:+.1f}", interval, better]
        cells += [str(one.wins), str(one.losses)]
        whole = one.sequence is None
        shown.add_row(*map(Text, cells), style="bold" if whole else None, end_section=whole and n + 1 == len(others))
    return shown


def _names(files: tuple[Path, ...]) -> tuple[str, ...]:
    """Return the files' stems, or the whole paths if two have the same stem."""
    stems = tuple(file.stem for file in files)
    return stems if len(set(stems)) == len(stems) else tuple(map(str, files))


def main(argv: list[str]) -> int:
    """Run `hodor compare`; return the exit code."""
    return parse(Compare, "compare", argv)

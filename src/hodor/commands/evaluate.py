"""`hodor evaluate`: scores of masks against the truth."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from hodor.commands.options import parse
from hodor.console import say, write_json


@dataclass(frozen=True)
class Evaluate:
    """Score masks against the truth: DAVIS J, F and J&F of the middle frames.

    Both hold one folder a sequence, or are one sequence themselves.
    """

    predictions: Positional[Path]
    truth: Positional[Path]
    sequences: tuple[str, ...] = ()
    """Score only these; default: all of the truth's."""
    late_objects: bool = False
    """Also score objects that appear after the first frame, from the frame after their first."""
    workers: int | None = None
    """Processes; default: one a core."""
    json: Path | None = None
    """Write the scores to this file; - prints them."""

    def run(self) -> int:
        from rich.console import Console

        from hodor import evaluate

        report = evaluate.evaluate(
            self.predictions,
            self.truth,
            sequences=list(self.sequences) or None,
            late_objects=self.late_objects,
            workers=self.workers,
        )
        if self.json != Path("-"):
            Console().print(evaluate.table(report))
            for note in report.notes:
                say(note)
        write_json(self.json, report.to_json())
        return 0


def main(argv: list[str]) -> int:
    return parse(Evaluate, "evaluate", argv)

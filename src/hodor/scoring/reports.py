"""The result of `hodor.evaluate.evaluate`: scores of frames, objects, sequences and the data set, as JSON and as a table."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hodor.scoring.metrics import Statistics, average

if TYPE_CHECKING:
    from rich.table import Table

FORMAT = "hodor-scores/1"

HALVES = (
    ("J&F_new", "J", "F_new"),
    ("disappear_J&F_new", "disappear_J", "disappear_F_new"),
    ("reappear_J&F_new", "reappear_J", "reappear_F_new"),
)
"""Numbers of MOSE v2 that are the mean of two others: (name, one, other)."""


@dataclass(frozen=True)
class ObjectScore:
    """The scores of one object of one sequence.

    Attributes:
        object: the object's id.
        frames: the scored frames, in order of time.
        j_frames: J of every scored frame, in [0, 1].
        f_frames: F of every scored frame, in [0, 1].
        j: mean, recall and decay of J.
        f: mean, recall and decay of F.
        category: its category, if the meta file has it.
        seen: whether it counts as seen in training, if known.
        more: the profile's own numbers (V; F_new, disappear_J, ...).
        more_frames: the profile's own scores of every frame (F_new).
    """

    object: int
    frames: tuple[str, ...]
    j_frames: tuple[float, ...]
    f_frames: tuple[float, ...]
    j: Statistics
    f: Statistics
    category: str | None = None
    seen: bool | None = None
    more: Mapping[str, float] = field(default_factory=dict)
    more_frames: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def jf(self) -> float:
        """J&F: the mean of the mean J and the mean F, in [0, 1]."""
        return (self.j.mean + self.f.mean) / 2

    def to_json(self) -> dict[str, Any]:
        return {
            "object": self.object,
            "category": self.category,
            "seen": self.seen,
            "summary": summary([self]),
            "frames": list(self.frames),
            "J": list(self.j_frames),
            "F": list(self.f_frames),
            **{key: list(row) for key, row in self.more_frames.items()},
        }


@dataclass(frozen=True)
class SequenceScore:
    """The scores of one sequence: means over its objects.

    Attributes:
        name: the sequence.
        objects: its objects, ordered by id.
    """

    name: str
    objects: tuple[ObjectScore, ...]

    @property
    def j(self) -> Statistics:
        return average(score.j for score in self.objects)

    @property
    def f(self) -> Statistics:
        return average(score.f for score in self.objects)

    @property
    def jf(self) -> float:
        return (self.j.mean + self.f.mean) / 2

    def to_json(self) -> dict[str, Any]:
        objects = [score.to_json() for score in self.objects]
        return {"name": self.name, "summary": summary(self.objects), "objects": objects}


@dataclass(frozen=True)
class Report:
    """The scores of a whole data set. J and F are means over all objects of all sequences; each object counts once.

    Attributes:
        sequences: the sequences.
        notes: unexpected facts that do not forbid a score, one sentence each.
        profile: name of the rule.
        compat: whether the numbers are the official tool's, including its bugs.
        options: the rule's settings.
        predictions: name of the predictions.
        ground_truth: name of the ground truth.
        run: how the predictions were made, if known.
    """

    sequences: tuple[SequenceScore, ...]
    notes: tuple[str, ...] = ()
    profile: str = "davis2017"
    compat: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    predictions: str = ""
    ground_truth: str = ""
    run: Mapping[str, Any] | None = None

    @property
    def objects(self) -> tuple[ObjectScore, ...]:
        return tuple(score for sequence in self.sequences for score in sequence.objects)

    @property
    def j(self) -> Statistics:
        return average(score.j for score in self.objects)

    @property
    def f(self) -> Statistics:
        return average(score.f for score in self.objects)

    @property
    def jf(self) -> float:
        """(mean J + mean F) / 2."""
        return (self.j.mean + self.f.mean) / 2

    @property
    def summary(self) -> dict[str, float | None]:
        """The data set's numbers by name, in [0, 1].

        J&F, J, F, J_recall, J_decay, F_recall, F_decay, and the profile's own: J_seen, F_seen, J_unseen, F_unseen and G, the
        mean of these four; V; F_new, J&F_new, disappear_J&F_new, ... A decay that is not a number (compat, above 256 frames) is
        None.
        """
        return summary(self.objects, grouped=True)

    @property
    def frame_objects(self) -> int:
        """Number of scored masks: the sum of the scored frames of all objects."""
        return sum(len(score.frames) for score in self.objects)

    def to_json(self) -> dict[str, Any]:
        """Return plain values in full precision, scores in [0, 1]: the format "hodor-scores/1" of docs/evaluation.md."""
        return {
            "format": FORMAT,
            "profile": self.profile,
            "compat": self.compat,
            "options": dict(self.options),
            "predictions": self.predictions,
            "ground_truth": self.ground_truth,
            "summary": self.summary,
            "sequences": [sequence.to_json() for sequence in self.sequences],
            "frame_objects": self.frame_objects,
            "notes": list(self.notes),
            "run": None if self.run is None else dict(self.run),
        }


def summary(objects: Sequence[ObjectScore], grouped: bool = False) -> dict[str, float | None]:
    """Return means over objects by name; `grouped`: also those over seen and over unseen objects, where that is known."""
    j, f = average(score.j for score in objects), average(score.f for score in objects)
    numbers = {"J&F": (j.mean + f.mean) / 2, "J": j.mean, "F": f.mean}
    numbers |= {"J_recall": j.recall, "J_decay": j.decay, "F_recall": f.recall, "F_decay": f.decay}
    for key in dict.fromkeys(key for score in objects for key in score.more):
        numbers[key] = _mean(score.more[key] for score in objects if key in score.more)
    for key, one, other in HALVES:
        if other in numbers:
            numbers[key] = (numbers[one] + numbers[other]) / 2
    if grouped:
        numbers |= _groups(objects)
    return {key: None if math.isnan(number) else number for key, number in numbers.items()}


def print_report(report: Report) -> None:
    """Print the table and the data set's other numbers to stdout."""
    from rich.console import Console

    console = Console()
    console.print(table(report))
    console.print(other_numbers(report), highlight=False)


def table(report: Report) -> "Table":
    """Return the report as a table for a terminal (rich), in per cent: every sequence, its objects if several, the data set.

    At 80 columns no figure is cut; long names are folded.
    """
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    rows = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("sequence", "object"):
        rows.add_column(title, overflow="fold")
    for title in ("J&F", "J", "F", "frames"):
        rows.add_column(title, justify="right", no_wrap=True)

    def add(name: str, item: str, j: Statistics, f: Statistics, frames: int) -> None:
        numbers = [(j.mean + f.mean) / 2, j.mean, f.mean]
        rows.add_row(escape(name), item, *(f"{100 * number:.1f}" for number in numbers), str(frames))

    for sequence in report.sequences:
        several = len(sequence.objects) > 1
        label = "all" if several else str(sequence.objects[0].object)
        add(sequence.name, label, sequence.j, sequence.f, sum(len(score.frames) for score in sequence.objects))
        for score in sequence.objects if several else ():
            add("", str(score.object), score.j, score.f, len(score.frames))
    rows.add_section()
    add(f"all {len(report.sequences)}", f"all {len(report.objects)}", report.j, report.f, report.frame_objects)
    return rows


def other_numbers(report: Report) -> str:
    """Return the data set's numbers that are not in the table, in per cent: "J_recall 90.1  J_decay 3.0 ...  G 71.2"."""
    others = {key: number for key, number in report.summary.items() if key not in ("J&F", "J", "F") and number is not None}
    return "  ".join(f"{key} {100 * number:.1f}" for key, number in others.items())


def _groups(objects: Sequence[ObjectScore]) -> dict[str, float]:
    """Return J, F (and V) of seen and of unseen objects, and G, the mean of the four, if both groups have objects."""
    numbers = {}
    for name, group in (("seen", True), ("unseen", False)):
        members = [score for score in objects if score.seen is group]
        if members:
            numbers[f"J_{name}"] = _mean(score.j.mean for score in members)
            numbers[f"F_{name}"] = _mean(score.f.mean for score in members)
            if "V" in members[0].more:
                numbers[f"V_{name}"] = _mean(score.more["V"] for score in members)
    four = [numbers[key] for key in ("J_seen", "F_seen", "J_unseen", "F_unseen") if key in numbers]
    return {"G": sum(four) / 4, **numbers} if len(four) == 4 else numbers


def _mean(numbers: Iterable[float]) -> float:
    return float(np.mean(np.fromiter(numbers, np.float64)))

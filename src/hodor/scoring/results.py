"""A results file ("hodor-scores/1") as frozen values, checked when it is parsed."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = "hodor-scores/1"
COLUMNS = ("J&F", "J", "F", "J_recall", "J_decay", "F_recall", "F_decay")
Row = NDArray[np.float64]
Summary = dict[str, float]


@dataclass(frozen=True, eq=False)
class ObjectScores:
    """The scores of one object of one sequence.

    Attributes:
        sequence: the sequence.
        object: the object's id.
        category: its category, if known.
        seen: whether it counts as seen in training, if known.
        summary: its means by name.
        frames: the scored frames, in order of time.
        j: J of every frame, float64 [T] in [0, 1]; nan where there is none.
        f: F of every frame, the same.
    """

    sequence: str
    object: int
    category: str | None
    seen: bool | None
    summary: Summary
    frames: tuple[str, ...]
    j: Row
    f: Row

    @property
    def jf(self) -> Row:
        """(J + F) / 2 of every frame, [T]."""
        return (self.j + self.f) / 2


@dataclass(frozen=True, eq=False)
class SequenceScores:
    """One sequence: its name, its means and its objects."""

    name: str
    summary: Summary
    objects: tuple[ObjectScores, ...]


@dataclass(frozen=True, eq=False)
class Scores:
    """A results file. Its fields have the names of the JSON keys (docs/evaluation.md).

    Summaries contain only numbers that exist: no null, no nan.
    """

    profile: str
    compat: bool
    options: dict[str, Any]
    predictions: str
    ground_truth: str
    summary: Summary
    sequences: tuple[SequenceScores, ...]
    frame_objects: int
    notes: tuple[str, ...]
    run: dict[str, Any]

    @property
    def objects(self) -> Iterator[ObjectScores]:
        """All objects, sequence by sequence."""
        return (one for sequence in self.sequences for one in sequence.objects)


def parse(results: Mapping[str, Any], name: str = "results") -> Scores:
    """Check the content of a results file and return it as `Scores`.

    Args:
        results: the content, as json.load returns it.
        name: name for messages. Default: "results".

    Raises:
        ValueError: "scores a.json: expected the format hodor-scores/1, which `hodor score --json` writes, got None"; "scores
            a.json are damaged: 'sequences' is missing"; "scores a.json: bear, object 1: expected J of 3 frames, got 2".
    """
    form = results.get("format") if isinstance(results, Mapping) else None
    if form != FORMAT:
        expected = f"expected the format {FORMAT}, which `hodor score --json` writes"
        raise ValueError(f"scores {name}: {expected}, got {str(form)[:40]}")
    try:
        return Scores(
            profile=str(results["profile"]),
            compat=bool(results.get("compat")),
            options=dict(results.get("options") or {}),
            predictions=str(results.get("predictions") or ""),
            ground_truth=str(results.get("ground_truth") or ""),
            summary=_summary(results["summary"]),
            sequences=tuple(_sequence(s, name) for s in results["sequences"]),
            frame_objects=int(results.get("frame_objects") or 0),
            notes=tuple(map(str, results.get("notes") or ())),
            run=dict(results.get("run") or {}),
        )
    except KeyError as error:
        raise ValueError(f"scores {name} are damaged: {error} is missing") from None
    except (TypeError, AttributeError, OverflowError, ValueError) as error:
        if str(error).startswith(f"scores {name}: "):
            raise
        raise ValueError(f"scores {name} are damaged: {str(error)[:200]}") from None


def _sequence(given: Mapping[str, Any], name: str) -> SequenceScores:
    sequence = str(given["name"])
    objects = tuple(_object(one, sequence, name) for one in given["objects"])
    return SequenceScores(sequence, _summary(given["summary"]), objects)


def _object(given: Mapping[str, Any], sequence: str, name: str) -> ObjectScores:
    frames = tuple(map(str, given.get("frames") or ()))
    j, f = (np.array(given.get(key) or [None] * len(frames), np.float64) for key in ("J", "F"))
    for key, row in (("J", j), ("F", f)):
        if row.ndim == 1 and not ((np.isnan(row)) | ((row >= 0) & (row <= 1 + 1e-9))).all():
            raise ValueError(f"scores {name}: {sequence}, object {given['object']}: expected {key} from 0 to 1 on every frame")
        if row.ndim != 1 or len(row) != len(frames):
            raise ValueError(
                f"scores {name}: {sequence}, object {given['object']}: expected {key} of {len(frames)} frames, got {len(row)}"
            )
    category, seen = given.get("category"), given.get("seen")
    return ObjectScores(
        sequence,
        int(given["object"]),
        None if category is None else str(category),
        None if seen is None else bool(seen),
        _summary(given["summary"]),
        frames,
        j,
        f,
    )


def _summary(given: Mapping[str, Any]) -> Summary:
    summary = {str(k): float(v) for k, v in given.items() if v is not None and not math.isnan(v)}
    if infinite := [key for key, value in summary.items() if math.isinf(value)]:
        raise TypeError(f"{infinite[0][:40]} is infinite")
    return summary

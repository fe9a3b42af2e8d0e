"""A results file as values: what "hodor-scores/1" holds, checked once, for all that reads it."""

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
    """One object of one sequence: J and F, float64 [T], frame by frame in order of time, nan where there is none."""

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
        """(J + F) / 2 of every frame."""
        return (self.j + self.f) / 2


@dataclass(frozen=True, eq=False)
class SequenceScores:
    """One sequence: its means and its objects."""

    name: str
    summary: Summary
    objects: tuple[ObjectScores, ...]


@dataclass(frozen=True, eq=False)
class Scores:
    """A results file as a value. Summaries hold only the numbers there are: no null, no nan."""

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
    """The dict of a results file -> Scores. `name` stands in messages.

    Raises ValueError: "scores a.json have the format None: wanted hodor-scores/1, which `hodor evaluate --json` writes",
    "scores a.json are damaged: 'sequences' is missing or of a wrong kind", "scores a.json: bear, object 1 has 3 frames, J
    of 2".
    """
    form = results.get("format") if isinstance(results, Mapping) else None
    if form != FORMAT:
        said = f"scores {name} have the format {str(form)[:40]}"
        raise ValueError(f"{said}: wanted {FORMAT}, which `hodor evaluate --json` writes")
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
    except (TypeError, AttributeError) as error:
        raise ValueError(f"scores {name} are damaged: {error}") from None


def _sequence(given: Mapping[str, Any], name: str) -> SequenceScores:
    sequence = str(given["name"])
    objects = tuple(_object(one, sequence, name) for one in given["objects"])
    return SequenceScores(sequence, _summary(given["summary"]), objects)


def _object(given: Mapping[str, Any], sequence: str, name: str) -> ObjectScores:
    frames = tuple(map(str, given.get("frames") or ()))
    j, f = (np.array(given.get(key) or [None] * len(frames), np.float64) for key in ("J", "F"))
    for key, row in (("J", j), ("F", f)):
        if len(row) != len(frames):
            raise ValueError(
                f"scores {name}: {sequence}, object {given['object']} has {len(frames)} frames, {key} of {len(row)}"
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
    return {str(k): float(v) for k, v in given.items() if v is not None and not math.isnan(v)}

"""From looks at frames to the scores of a sequence: which frames count for which object, and what was wrong."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hodor.masks import VOID
from hodor.scoring.assignment import assign
from hodor.scoring.checks import first_of, ids, strangers
from hodor.scoring.frame_scores import Job, Look, evaluated_frames
from hodor.scoring.metrics import statistics
from hodor.scoring.profiles import MOST_PROPOSALS, Profile, Terms
from hodor.scoring.reports import ObjectScore
from hodor.scoring.stores.base import some

Row = NDArray[np.float64]
Scores = tuple[float, ...]


@dataclass(frozen=True)
class Outcome:
    """What came of one sequence."""

    name: str
    objects: tuple[ObjectScore, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def merge(job: Job, looks: Sequence[Look], terms: Terms, only_check: bool) -> Outcome:
    """The outcome of a sequence from the looks at its evaluated frames, in order of time."""
    rule, compat = terms.rule, terms.compat
    shown = {i for look in looks for i in look.shown}
    predicted = {i for look in looks for i in look.predicted}
    objects = job.objects if job.objects is not None else _objects(job, shown, rule)
    unread = [job.unread] * bool(job.unread) + [text for look in looks for text in look.unread]
    problems = first_of(unread) + first_of([look.size for look in looks if look.size])
    if not problems or objects:  # frames that could not be looked at tell nothing of objects
        problems += _id_problems(job, objects, shown, predicted, rule, compat)
    scores, notes = list[ObjectScore](), list[str]()
    if not (problems or only_check):
        if rule.match == "proposals":
            scores, renamed = _assigned(job, looks, objects, terms)
            notes += renamed
        else:
            scores = [_score(i, job, looks, terms) for i in objects]
        if empty := [score.object for score in scores if not score.frames]:
            scores = [score for score in scores if score.frames]
            if scores:
                notes.append(f"the ground truth's {ids(empty)} have no evaluated frame: not scored")
            else:
                problems.append("objects appear only in the last evaluated frame, none is evaluated")
    notes += _notes(job, objects, shown, predicted, rule, compat)
    told = ([f"{job.name}: {text}" for text in texts] for texts in (problems, notes))
    return Outcome(job.name, tuple(scores), *map(tuple, told))


def _objects(job: Job, shown: set[int], rule: Profile) -> tuple[int, ...]:
    """The objects where only the looks tell them."""
    return tuple(sorted(shown if rule.objects == "evaluated" else shown | set(job.opening)))


def _id_problems(
    job: Job, objects: Sequence[int], shown: set[int], predicted: set[int], rule: Profile, compat: bool
) -> list[str]:
    problems = []
    if not objects:
        if rule.objects == "first":
            hint = ": 255 is void for the official tool, use the profile davis2016" if compat else ""
            problems.append(f"the first true frame, {job.frames[0]}, shows no object{hint}")
        else:
            problems.append("the true frames show no object")
    if not objects or not predicted or rule.objects == "one":
        return problems
    if rule.match == "proposals":
        proposed = {i for i in predicted if i != VOID} if not compat else predicted
        if len(proposed) > MOST_PROPOSALS or (compat and max(proposed) > MOST_PROPOSALS):
            problems.append(f"{len(proposed)} proposals, {ids(proposed)}: at most {MOST_PROPOSALS} are allowed")
        return problems
    known = {*objects, *shown, *({VOID} if job.single else ())}
    if not predicted & known:
        problems.append(strangers(predicted, known))
    elif compat and rule.objects == "first" and max(predicted) > len(objects):
        above = ids(i for i in predicted if i > len(objects))
        problems.append(f"the predictions' {above} are above the {len(objects)} objects: the official tool gives no score")
    return problems


def _notes(job: Job, objects: Sequence[int], shown: set[int], predicted: set[int], rule: Profile, compat: bool) -> list[str]:
    notes = []
    known = {*objects, *shown, *({VOID} if job.single else ())}
    if rule.objects in ("first", "listed") and (late := shown - set(objects)):
        where = "appear after its first frame" if rule.objects == "first" else "are not in the meta file"
        notes.append(f"the ground truth's {ids(late)} {where}: not scored")
    if rule.objects == "one":
        if len(predicted) > 2:
            notes.append(f"the predictions hold {len(predicted)} different values: all but 0 count as the object")
    elif rule.match == "id" and (strange := predicted - known):
        notes.append(f"the predictions' {ids(strange)} are not in the ground truth: taken as background")
    elif rule.match == "proposals" and VOID in predicted:
        notes.append("the predictions' 255 is no proposal: taken as background")
    if not predicted:
        notes.append("all evaluated predictions are empty")
    if rule.objects == "first" and not job.single:
        phantoms = set(range(1, max(objects, default=0))) - set(job.opening)
        if phantoms:
            verb = "are scored as objects, as the official tool does" if compat else "would be objects for the official tool"
            notes.append(f"the {ids(phantoms)}, not in the first true frame, {verb}")
    if rule.objects == "evaluated" and VOID in objects and len(objects) > 1:
        notes.append("255 is an object here, as it is for the official tool")
    return notes


def _frames(i: int, job: Job, looks: Sequence[Look], rule: Profile) -> Iterable[Look]:
    """The looks that count for object `i`."""
    if rule.span == "sighted":
        first = next((n for n, look in enumerate(looks) if i in look.shown or i in look.predicted), len(looks))
        return looks[first:]
    if rule.span == "listed":
        wanted = set(evaluated_frames(job.listed[i], rule))
        return [look for look in looks if look.frame in wanted]
    if rule.span == "object" and i not in job.opening:
        first = next((n for n, look in enumerate(looks) if i in look.shown), len(looks))
        return looks[first + (not rule.first) :]
    return looks


def _score(i: int, job: Job, looks: Sequence[Look], terms: Terms) -> ObjectScore:
    """Object `i` over its frames; a frame with it in neither mask is right."""
    counted = list(_frames(i, job, looks, terms.rule))
    right = (1.0,) * (3 if terms.rule.formulae == "mose" else 2)
    rows = [look.scores.get(i, right) for look in counted]
    j, f, *new = (tuple(row[n] for row in rows) for n in range(len(right)))
    score = _summed(i, tuple(look.frame for look in counted), j, f, job, terms)
    if not new or not counted:
        return score
    visible = np.array([i in look.shown for look in counted])
    gaps = _gaps(np.array(j), np.array(new[0]), visible)
    return replace(score, more={"F_new": float(np.mean(new[0])), **gaps}, more_frames={"F_new": new[0]})


def _summed(i: int, frames: tuple[str, ...], j: Scores, f: Scores, job: Job, terms: Terms) -> ObjectScore:
    """The score of an object from its J and F on its frames; V is LVOS's, which rounds the variance to four places."""
    rule, groups = terms.rule, terms.groups
    sums = [statistics(row or (0.0,), terms.compat and rule.short_decay) for row in (j, f)]
    category = job.listed[i].category if i in job.listed else None
    seen = {"none": None, "category": groups(category), "video": groups(job.name)}[rule.groups]
    more = {}
    if rule.spread and frames:
        both = (np.array(j) + np.array(f)) / 2
        variance = float(np.sum((both.mean() - both) ** 2) / len(both))
        more["V"] = math.sqrt(round(variance, 4) if terms.compat else variance)
    return ObjectScore(i, frames, j, f, j=sums[0], f=sums[1], category=category, seen=seen, more=more)


def _gaps(j: Row, f: Row, visible: NDArray[np.bool_]) -> dict[str, float]:
    """MOSE v2: the means over stretches of frames in which the object is gone after it was there, and is there after it was
    gone. Every stretch counts once. Nothing where there is none. A gap that the frames open with is no disappearance."""
    starts = (np.flatnonzero(visible[1:] != visible[:-1]) + 1).tolist()
    stretches = list(zip(starts, [*starts[1:], len(visible)], strict=False))
    numbers = {}
    for name, wanted in (("disappear", False), ("reappear", True)):
        chosen = [slice(*stretch) for stretch in stretches if visible[stretch[0]] == wanted]
        if chosen:
            numbers[f"{name}_J"] = float(np.mean([j[part].mean() for part in chosen]))
            numbers[f"{name}_F_new"] = float(np.mean([f[part].mean() for part in chosen]))
    return numbers


def _assigned(job: Job, looks: Sequence[Look], objects: Sequence[int], terms: Terms) -> tuple[list[ObjectScore], list[str]]:
    """Give every object the proposal that makes the sum of J&F largest; compat names them in the proposals' order."""
    named = sorted({i for look in looks for i in look.scores} - {0})
    proposals = list(range(1, max(named, default=0) + 1)) if terms.compat else named
    proposals += [0] * (len(objects) - len(proposals))
    pairs = np.array([[look.scores.get(p, look.scores[0]) for p in proposals] for look in looks])
    j, f = np.ascontiguousarray(pairs.transpose(2, 1, 3, 0))  # each [P, N, T]
    rows, columns = assign((j.mean(axis=2) + f.mean(axis=2)) / 2)
    frames = tuple(look.frame for look in looks)
    scores = []
    for place, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        name = objects[place if terms.compat else column]
        scores.append(_summed(name, frames, tuple(j[row, column].tolist()), tuple(f[row, column].tolist()), job, terms))
    scores.sort(key=lambda score: score.object)
    notes = []
    if columns.tolist() != sorted(columns.tolist()) and not terms.compat:
        order = some((objects[column] for column in columns), 8)
        notes.append(f"the official tool names objects in the order of their proposals: {order} would be {some(objects, 8)}")
    return scores, notes

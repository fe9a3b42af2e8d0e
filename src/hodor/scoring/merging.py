"""From the results of frames to the scores of a sequence: which frames count for which object, and which problems there are."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hodor.masks import VOID
from hodor.scoring.assignment import assign
from hodor.scoring.checks import first_of, ids, no_common_ids
from hodor.scoring.frame_scores import FrameResult, Job, evaluated_frames
from hodor.scoring.metrics import statistics
from hodor.scoring.profiles import MAX_PROPOSALS, Profile, Terms
from hodor.scoring.reports import ObjectScore
from hodor.scoring.stores.base import some

Row = NDArray[np.float64]
Scores = tuple[float, ...]


@dataclass(frozen=True)
class Outcome:
    """The result of one sequence.

    Attributes:
        name: the sequence.
        objects: the scores of its objects; () if there are problems.
        problems: what forbids a score, one sentence each.
        notes: other facts, one sentence each.
    """

    name: str
    objects: tuple[ObjectScore, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def merge(job: Job, results: Sequence[FrameResult], terms: Terms, only_check: bool) -> Outcome:
    """Combine the frames of a sequence.

    Args:
        job: the sequence.
        results: the results of its scored frames, in order of time.
        terms: how to score.
        only_check: whether only problems and notes are needed.

    Returns:
        The scores of the objects, problems and notes.
    """
    rule, compat = terms.rule, terms.compat
    shown = {i for result in results for i in result.shown}
    predicted = {i for result in results for i in result.predicted}
    objects = job.objects if job.objects is not None else _objects(job, shown, rule)
    unread = [job.unread] * bool(job.unread) + [text for result in results for text in result.unread]
    problems = first_of(unread) + first_of([result.size for result in results if result.size])
    if not problems or objects:  # unreadable frames can be the reason why there is no object
        problems += _id_problems(job, objects, shown, predicted, rule, compat)
    scores, notes = list[ObjectScore](), list[str]()
    if not (problems or only_check):
        if rule.match == "proposals":
            scores, renamed = _assigned(job, results, objects, terms)
            notes += renamed
        else:
            scores = [_score(i, job, results, terms) for i in objects]
            notes += _exchanged(objects, results)
        if empty := [score.object for score in scores if not score.frames]:
            scores = [score for score in scores if score.frames]
            if scores:
                notes.append(f"the ground truth's {ids(empty)} have no scored frame: they are skipped")
            else:
                problems.append("expected an object before the last scored frame, got none")
    notes += _notes(job, objects, shown, predicted, rule, compat)
    named = ([f"{job.name}: {text}" for text in texts] for texts in (problems, notes))
    return Outcome(job.name, tuple(scores), *map(tuple, named))


def _objects(job: Job, shown: set[int], rule: Profile) -> tuple[int, ...]:
    """Return the objects, where they depend on the scored frames."""
    return tuple(sorted(shown if rule.objects == "evaluated" else shown | set(job.opening)))


def _id_problems(
    job: Job, objects: Sequence[int], shown: set[int], predicted: set[int], rule: Profile, compat: bool
) -> list[str]:
    problems = []
    if not objects:
        if rule.objects == "first":
            hint = ": 255 is void for the official tool, use the profile davis2016" if compat else ""
            problems.append(f"expected an object on the first ground-truth frame, {job.frames[0]}, got none{hint}")
        else:
            problems.append("expected an object in the ground truth, got none")
    if not objects or not predicted or rule.objects == "one":
        return problems
    if rule.match == "proposals":
        proposed = {i for i in predicted if i != VOID} if not compat else predicted
        if len(proposed) > MAX_PROPOSALS or (compat and max(proposed) > MAX_PROPOSALS):
            problems.append(f"expected at most {MAX_PROPOSALS} proposals, got {len(proposed)} ({ids(proposed)})")
        return problems
    valid = {*objects, *shown, *({VOID} if job.single else ())}
    if not predicted & valid:
        problems.append(no_common_ids(predicted, valid))
    elif compat and rule.objects == "first" and max(predicted) > len(objects):
        above = ids(i for i in predicted if i > len(objects))
        problems.append(f"expected predicted ids up to {len(objects)}, got {above}: the official tool gives no score")
    return problems


def _exchanged(objects: Sequence[int], results: Sequence[FrameResult]) -> list[str]:
    """Return a note if other ids are predicted on objects on most of their frames: the ids may be exchanged."""
    others = {}
    for i in objects:
        found = Counter(result.instead[i] for result in results if i in result.instead).most_common(1)
        if found and 2 * found[0][1] > sum(i in result.shown for result in results):
            others[i] = found[0][0]
    if not others:
        return []
    pairs = ", ".join(f"{other} on object {i}" for i, other in others.items())
    return [f"the predictions show object {pairs} on most frames: the ids may be exchanged, as equal ids are compared"]


def _notes(job: Job, objects: Sequence[int], shown: set[int], predicted: set[int], rule: Profile, compat: bool) -> list[str]:
    notes = []
    valid = {*objects, *shown, *({VOID} if job.single else ())}
    if rule.objects in ("first", "listed") and (late := shown - set(objects)):
        where = "appear after its first frame" if rule.objects == "first" else "are not in the meta file"
        notes.append(f"the ground truth's {ids(late)} {where}: they are not scored")
    if rule.objects == "one":
        if len(predicted) > 2:
            notes.append(f"the predictions contain {len(predicted)} different values: all but 0 count as the object")
    elif rule.match == "id" and (strange := predicted - valid):
        notes.append(f"the predictions' {ids(strange)} are not in the ground truth: they count as background")
    elif rule.match == "proposals" and VOID in predicted:
        notes.append("the predictions' 255 is not a proposal: it counts as background")
    if not predicted:
        notes.append("all scored predictions are empty")
    if rule.objects == "first" and not job.single:
        gaps = set(range(1, max(objects, default=0))) - set(job.opening)
        if gaps:
            verb = "are scored as objects, as the official tool does" if compat else "would be objects for the official tool"
            notes.append(f"the {ids(gaps)}, not in the first ground-truth frame, {verb}")
    if rule.objects == "evaluated" and VOID in objects and len(objects) > 1:
        notes.append("255 is an object here, as it is for the official tool")
    return notes


def _frames(i: int, job: Job, results: Sequence[FrameResult], rule: Profile) -> Iterable[FrameResult]:
    """Return the frames that count for object `i`."""
    if rule.span == "sighted":
        first = next((n for n, one in enumerate(results) if i in one.shown or i in one.predicted), len(results))
        return results[first:]
    if rule.span == "listed":
        listed = set(evaluated_frames(job.listed[i], rule))
        return [result for result in results if result.frame in listed]
    if rule.span == "object" and i not in job.opening:
        first = next((n for n, result in enumerate(results) if i in result.shown), len(results))
        return results[first + (not rule.first) :]
    return results


def _score(i: int, job: Job, results: Sequence[FrameResult], terms: Terms) -> ObjectScore:
    """Score object `i` over its frames; a frame with it in neither mask scores 1."""
    counted = list(_frames(i, job, results, terms.rule))
    correct = (1.0,) * (3 if terms.rule.formulae == "mose" else 2)
    rows = [result.scores.get(i, correct) for result in counted]
    j, f, *new = (tuple(row[n] for row in rows) for n in range(len(correct)))
    score = _summed(i, tuple(result.frame for result in counted), j, f, job, terms)
    if not new or not counted:
        return score
    visible = np.array([i in result.shown for result in counted])
    gaps = _gaps(np.array(j), np.array(new[0]), visible)
    return replace(score, more={"F_new": float(np.mean(new[0])), **gaps}, more_frames={"F_new": new[0]})


def _summed(i: int, frames: tuple[str, ...], j: Scores, f: Scores, job: Job, terms: Terms) -> ObjectScore:
    """Sum up J and F of an object over its frames. V follows LVOS; its tool (compat) rounds the variance to four places."""
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
    """Return the numbers of MOSE v2 for disappearance and reappearance.

    They are means over stretches of frames in which the object is absent after it was visible, and visible after it was absent.
    Every stretch counts once. Without a stretch there is no number. A gap at the first frame is not a disappearance.
    """
    starts = (np.flatnonzero(visible[1:] != visible[:-1]) + 1).tolist()
    stretches = list(zip(starts, [*starts[1:], len(visible)], strict=False))
    numbers = {}
    for name, state in (("disappear", False), ("reappear", True)):
        chosen = [slice(*stretch) for stretch in stretches if visible[stretch[0]] == state]
        if chosen:
            numbers[f"{name}_J"] = float(np.mean([j[part].mean() for part in chosen]))
            numbers[f"{name}_F_new"] = float(np.mean([f[part].mean() for part in chosen]))
    return numbers


def _assigned(
    job: Job, results: Sequence[FrameResult], objects: Sequence[int], terms: Terms
) -> tuple[list[ObjectScore], list[str]]:
    """Assign proposals to objects with the largest sum of J&F; compat names the objects in the order of the proposals."""
    named = sorted({i for result in results for i in result.scores} - {0})
    proposals = list(range(1, max(named, default=0) + 1)) if terms.compat else named
    proposals += [0] * (len(objects) - len(proposals))
    pairs = np.array([[result.scores.get(p, result.scores[0]) for p in proposals] for result in results])
    j, f = np.ascontiguousarray(pairs.transpose(2, 1, 3, 0))  # each [P, N, T]
    rows, columns = assign((j.mean(axis=2) + f.mean(axis=2)) / 2)
    frames = tuple(result.frame for result in results)
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

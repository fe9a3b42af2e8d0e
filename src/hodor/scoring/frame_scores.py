"""One look at a frame: both masks read once, what they show, and the scores of every object in either.

A frame is looked at without knowing the others, so frames can be shared among processes in any order; an object that is in
neither mask scores 1 and is not written down. hodor.scoring.merging puts the looks together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hodor.masks import VOID
from hodor.scoring import checks
from hodor.scoring.checks import Findings
from hodor.scoring.metrics import boundary_f, frame_scores, jaccard, mose_f, mose_j, pair_scores
from hodor.scoring.profiles import Listed, Profile, Terms
from hodor.scoring.stores.base import Kept, Store, some

FRAMES = 24
"""Frames of a task: some tenths of a second."""

Labels = NDArray[Any]


@dataclass(frozen=True)
class Job:
    """One sequence to score. `name` is the ground truth's name for it, `source` the predictions'.

    `frames` are the true ones in order, `evaluated` those of them to look at: evaluated for some object, and predicted.
    `opening` are the ids of the first true frame. `single`: the ground truth knows only 0 and 255, which is object 1. `objects`
    are the ones to score where that is known before, else None.
    """

    name: str
    source: str
    frames: tuple[str, ...]
    evaluated: tuple[str, ...]
    opening: tuple[int, ...]
    single: bool
    objects: tuple[int, ...] | None
    listed: Mapping[int, Listed]
    unread: str = ""

    def cost(self, task: "Task") -> int:
        """How long a task of this job takes, roughly."""
        return min(FRAMES, len(self.evaluated) - task.start) * (1 + len(self.objects or self.opening))


class Task(NamedTuple):
    """A chunk of a job: FRAMES evaluated frames from place `start` on."""

    job: int
    start: int
    only_check: bool


class Look(NamedTuple):
    """What one frame holds. `scores` {id: (J, F) or (J, F, F_new)}; with proposals {proposal: rows of J and F over the
    objects}, 0 standing for a proposal that is not there."""

    frame: str
    shown: tuple[int, ...] = ()
    predicted: tuple[int, ...] = ()
    scores: Mapping[int, Any] = {}
    unread: tuple[str, ...] = ()
    size: str = ""


def plan(
    ours: Store, true: Store, name: str, source: str, terms: Terms, listed: Mapping[int, Listed]
) -> tuple[Job | None, Findings]:
    """The job of one sequence, from the names of its frames and its first true frame; None if there is nothing to judge."""
    rule = terms.rule
    names, found = true.frames(name), ours.frames(source)
    frames = [frame for frame in names if _nth(names[0], frame, rule.every)] if rule.span != "listed" else names
    if rule.objects == "listed" and not listed:
        return None, Findings((f"{name}: the meta file does not list it",))
    if rule.span == "listed":
        wanted = {frame for one in listed.values() for frame in evaluated_frames(one, rule)}
        if gone := sorted(wanted - set(names)):
            return None, Findings((f"{name}: the ground truth lacks {len(gone)} frames of the meta file ({some(gone)})",))
        evaluated = [frame for frame in names if frame in wanted]
    else:
        evaluated = frames[0 if rule.first else 1 : None if rule.last else -1]
    if not evaluated:
        between = "" if rule.first and rule.last else " between the first and the last" if not rule.last else " after the first"
        return None, Findings((f"{name}: {len(frames)} true frames, nothing to judge{between}",))
    findings = checks.match(name, names, evaluated, found, dense=rule.every > 1)
    there = set(found)
    looked = tuple(frame for frame in evaluated if frame in there)
    opening: tuple[int, ...] = ()
    single, unread = False, ""
    if rule.objects in ("first", "any") or rule.span == "object":
        try:
            opening, single = _opening(true, name, names[0], terms)
        except (OSError, ValueError) as error:
            unread = str(error)
    objects = _objects(terms, opening, single, listed)
    return Job(name, source, tuple(names), looked, opening, single, objects, listed, unread), findings


def evaluated_frames(one: Listed, rule: Profile) -> tuple[str, ...]:
    """The frames of a listed object that are evaluated."""
    return one.frames[0 if rule.first else 1 : None if rule.last else -1]


def look_at(ours: Store, true: Store, rule: Profile, jobs: Sequence[Job], task: Task) -> list[Look]:
    """Look at the frames of a task."""
    job = jobs[task.job]
    frames = job.evaluated[task.start : task.start + FRAMES]
    return [_look(ours, true, rule, job, frame, task.only_check) for frame in frames]


def present(labels: Labels) -> tuple[int, ...]:
    """The labels there are but 0, sorted.

    Eight bytes at a time: a word equal to the one before it shows nothing new, and masks are mostly such words.
    """
    flat = np.ascontiguousarray(labels).reshape(-1)
    whole = flat.size * flat.itemsize // 8 * 8 // flat.itemsize
    words = flat[:whole].view(np.uint64)
    new = words[1:][words[1:] != words[:-1]]
    some = np.concatenate([words[:1], new]).view(flat.dtype), flat[whole:]
    if flat.dtype == np.uint8:
        ids = np.flatnonzero(np.bincount(some[0], minlength=256) + np.bincount(some[1], minlength=256))
    else:
        ids = np.unique(np.concatenate(some))
    return tuple(ids[ids != 0].tolist())


def layered(store: Store) -> bool:
    """Whether each object has a mask of its own in this store, so that objects may overlap (SA-V, JSON)."""
    if not isinstance(store, Kept) or type(store).planes is Kept.planes:
        return False
    values = (value for frames in store.sequences.values() for value in frames.values())
    return not isinstance(next(values, ""), str)


def _look(ours: Store, true: Store, rule: Profile, job: Job, frame: str, only_check: bool) -> Look:
    overlapping = rule.match == "id" and rule.objects != "one" and not job.single and (layered(ours) or layered(true))
    unread, masks = list[str](), list[Any]()
    for store, name in ((true, job.name), (ours, job.source)):
        try:
            masks.append(store.planes(name, frame) if overlapping else store.read(name, frame))
        except (OSError, ValueError) as error:
            unread.append(str(error))
    if unread:
        return Look(frame, unread=tuple(unread))
    if overlapping:
        return _look_at_planes(masks[0], masks[1], rule, job, frame, only_check)
    labels, mask = masks
    if labels.shape != mask.shape:
        return Look(frame, size=_sizes(frame, mask, labels))
    predicted = present(mask)
    if job.single or rule.objects == "one":
        labels = labels == VOID if job.single else labels != 0
        mask = (mask == VOID) | (mask == 1) if job.single else mask != 0
        labels, mask = labels.view(np.uint8), mask.view(np.uint8)
        shown: tuple[int, ...] = (1,) if labels.any() else ()
        ids, void = {1} if shown or predicted else set[int](), None
    else:
        shown = _ids(labels, rule)
        ids = _scored({*shown, *predicted}, job, rule, labels.dtype == np.uint8)
        void = labels == VOID if rule.void == "ignored" and labels.dtype == np.uint8 else None
    if only_check:
        return Look(frame, shown, predicted)
    if rule.match == "proposals":
        proposed = (1,) if job.single and predicted else tuple(i for i in predicted if i != VOID)
        return Look(frame, shown, predicted, _proposals(mask, labels, proposed, job.objects or (), void))
    if rule.formulae == "mose":
        pairs = {i: (mask == i, labels == i) for i in ids}
        return Look(frame, shown, predicted, {i: _pair_scores(*pairs[i], rule) for i in pairs})
    if not ids:
        return Look(frame, shown, predicted)
    order = sorted(ids)
    j, f = frame_scores(mask, labels, order, void)
    return Look(frame, shown, predicted, dict(zip(order, zip(j.tolist(), f.tolist(), strict=True), strict=True)))


def _look_at_planes(
    ground_truth: Mapping[int, Labels], masks: Mapping[int, Labels], rule: Profile, job: Job, frame: str, only_check: bool
) -> Look:
    """A look at objects that have a mask each and may overlap."""
    shown, predicted = (tuple(sorted(i for i, plane in side.items() if plane.any())) for side in (ground_truth, masks))
    some_true, some_mask = (next(iter(side.values()), None) for side in (ground_truth, masks))
    if some_true is not None and some_mask is not None and some_true.shape != some_mask.shape:
        return Look(frame, shown, predicted, size=_sizes(frame, some_mask, some_true))
    if only_check:
        return Look(frame, shown, predicted)
    empty = np.zeros_like(some_mask if some_true is None else some_true)
    ids = _scored({*shown, *predicted}, job, rule, False)
    return Look(frame, shown, predicted, {i: _pair_scores(masks.get(i, empty), ground_truth.get(i, empty), rule) for i in ids})


def _scored(ids: set[int], job: Job, rule: Profile, eight_bits: bool) -> set[int]:
    """Those of the ids that can be objects."""
    if job.objects is not None:
        return ids.intersection(job.objects)
    return ids - {VOID} if eight_bits and rule.void != "object" else ids


def _pair_scores(mask: Labels, ground_truth: Labels, rule: Profile) -> tuple[float, ...]:
    """J and F, or J, F and F_new, of one object's masks."""
    if rule.formulae == "davis":
        return jaccard(mask, ground_truth), boundary_f(mask, ground_truth)
    new, old = mose_f(mask, ground_truth)
    return mose_j(mask, ground_truth), old, new


def _sizes(frame: str, mask: Labels, ground_truth: Labels) -> str:
    sizes = ["x".join(map(str, array.shape)) for array in (mask, ground_truth)]
    return f"prediction {frame} is {sizes[0]}, the ground truth {sizes[1]}"


def _proposals(
    mask: Labels, labels: Labels, proposed: Sequence[int], objects: Sequence[int], void: Labels | None
) -> dict[int, tuple[list[float], list[float]]]:
    """Rows of J and F of every proposal in the frame, and of one that is not there."""
    absent = max(proposed, default=0) + 1
    j, f = pair_scores(mask, labels, [*proposed, absent], objects, void)
    return {key: (j[row].tolist(), f[row].tolist()) for row, key in enumerate([*proposed, 0])}


def _opening(true: Store, name: str, frame: str, terms: Terms) -> tuple[tuple[int, ...], bool]:
    """The ids of the first true frame, and whether it knows only 0 and 255, which is then object 1."""
    if layered(true):
        return tuple(sorted(i for i, plane in true.planes(name, frame).items() if plane.any())), False
    labels = true.read(name, frame)
    if present(labels) == (VOID,) and labels.dtype == np.uint8 and not terms.compat:
        return (1,), True
    return _ids(labels, terms.rule), False


def _ids(labels: Labels, rule: Profile) -> tuple[int, ...]:
    """The objects that a true mask shows: in 8 bits 255 is none, unless the rule says so."""
    ids = present(labels)
    return ids if rule.void == "object" or labels.dtype != np.uint8 else tuple(i for i in ids if i != VOID)


def _objects(terms: Terms, opening: tuple[int, ...], single: bool, listed: Mapping[int, Listed]) -> tuple[int, ...] | None:
    rule = terms.rule
    if single or rule.objects == "one":
        return (1,)
    if rule.objects == "first":
        return tuple(range(1, max(opening, default=0) + 1)) if terms.compat else opening
    return tuple(listed) if rule.objects == "listed" else None


def _nth(first: str, frame: str, every: int) -> bool:
    """Whether a frame's number lies a multiple of `every` after the first's; a frame without a number counts."""
    here, there = checks.number(frame), checks.number(first)
    return every == 1 or here is None or there is None or (here - there) % every == 0

"""The scores of single frames: both masks are read once; the ids in them and the scores of every object are returned.

A frame is scored without the others, so processes can share the frames in any order. An object that is in neither mask scores 1
and is not stored. hodor.scoring.merging combines the frames of a sequence.
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
from hodor.scoring.stores.base import MappingStore, Store, some

FRAMES = 24
"""Frames per task; a task takes some tenths of a second."""

MISSED = 0.1
"""J of a frame below which the prediction is searched for another id on the object."""

Labels = NDArray[Any]


@dataclass(frozen=True)
class Job:
    """One sequence to score.

    Attributes:
        name: its name in the ground truth.
        source: its name in the predictions.
        frames: all ground-truth frames, in order.
        evaluated: the frames to read: scored for some object, and predicted.
        opening: ids of the first ground-truth frame.
        single: whether the ground truth contains only 0 and 255; 255 is then object 1.
        objects: the objects to score; None if they depend on the masks of later frames.
        listed: what the meta file lists for each object.
        unread: message, if the first ground-truth frame could not be read.
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
        """Return roughly how long a task of this job takes, in arbitrary units."""
        return min(FRAMES, len(self.evaluated) - task.start) * (1 + len(self.objects or self.opening))


class Task(NamedTuple):
    """A chunk of a job: `FRAMES` scored frames from index `start`.

    Attributes:
        job: index of the job.
        start: index of the first frame in `Job.evaluated`.
        only_check: whether the frames are checked and not scored.
    """

    job: int
    start: int
    only_check: bool


class FrameResult(NamedTuple):
    """The result of one frame.

    Attributes:
        frame: the frame's name.
        shown: ids in the ground truth.
        predicted: ids in the prediction.
        scores: {id: (J, F) or (J, F, F_new)}. With proposals {proposal: rows of J and F over the objects}; key 0 is a proposal
            that is not in the frame.
        unread: messages, if a mask could not be read.
        size: message, if the sizes differ.
        instead: {id: another id}, objects with J near 0 where the prediction shows another object on most of their pixels.
    """

    frame: str
    shown: tuple[int, ...] = ()
    predicted: tuple[int, ...] = ()
    scores: Mapping[int, Any] = {}
    unread: tuple[str, ...] = ()
    size: str = ""
    instead: Mapping[int, int] = {}


def plan(
    predictions: Store, ground_truth: Store, name: str, source: str, terms: Terms, listed: Mapping[int, Listed]
) -> tuple[Job | None, Findings]:
    """Plan the scoring of one sequence, from the names of its frames and its first ground-truth frame.

    Args:
        predictions: the predicted masks.
        ground_truth: the ground-truth masks.
        name: the sequence's name in the ground truth.
        source: the sequence's name in the predictions.
        terms: how to score.
        listed: what the meta file lists for the sequence.

    Returns:
        The job, None if there is no frame to score; and problems and notes.
    """
    rule = terms.rule
    names, found = ground_truth.frames(name), predictions.frames(source)
    frames = [frame for frame in names if _nth(names[0], frame, rule.every)] if rule.span != "listed" else names
    if rule.objects == "listed" and not listed:
        return None, Findings((f"{name}: the meta file does not list it",))
    if rule.span == "listed":
        expected = {frame for one in listed.values() for frame in evaluated_frames(one, rule)}
        if gone := sorted(expected - set(names)):
            return None, Findings((f"{name}: the ground truth lacks {len(gone)} frames of the meta file ({some(gone)})",))
        evaluated = [frame for frame in names if frame in expected]
    else:
        evaluated = frames[0 if rule.first else 1 : None if rule.last else -1]
    if not evaluated:
        between = "" if rule.first and rule.last else " between the first and the last" if not rule.last else " after the first"
        return None, Findings((f"{name}: expected at least 1 ground-truth frame{between}, got {len(frames)} frames in all",))
    findings = checks.match(name, names, evaluated, found, dense=rule.every > 1)
    predicted = set(found)
    readable = tuple(frame for frame in evaluated if frame in predicted)
    opening: tuple[int, ...] = ()
    single, unread = False, ""
    if rule.objects in ("first", "any") or rule.span == "object":
        try:
            opening, single = _opening(ground_truth, name, names[0], terms)
        except (OSError, ValueError) as error:
            unread = str(error)
    objects = _objects(terms, opening, single, listed)
    return Job(name, source, tuple(names), readable, opening, single, objects, listed, unread), findings


def evaluated_frames(one: Listed, rule: Profile) -> tuple[str, ...]:
    """Return the scored frames of a listed object."""
    return one.frames[0 if rule.first else 1 : None if rule.last else -1]


def score_frames(predictions: Store, ground_truth: Store, rule: Profile, jobs: Sequence[Job], task: Task) -> list[FrameResult]:
    """Score the frames of a task."""
    job = jobs[task.job]
    frames = job.evaluated[task.start : task.start + FRAMES]
    return [_score_frame(predictions, ground_truth, rule, job, frame, task.only_check) for frame in frames]


def present(labels: Labels) -> tuple[int, ...]:
    """Return the ids in a label map except 0, sorted.

    Eight bytes are compared at a time: a word equal to the previous one contains no new id, and most words of a mask are equal.
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
    """Return whether each object has a mask of its own in this store, so that objects can overlap (SA-V, JSON)."""
    if not isinstance(store, MappingStore) or type(store).planes is MappingStore.planes:
        return False
    values = (value for frames in store.sequences.values() for value in frames.values())
    return not isinstance(next(values, ""), str)


def _score_frame(predictions: Store, ground_truth: Store, rule: Profile, job: Job, frame: str, only_check: bool) -> FrameResult:
    by_id = rule.match == "id" and rule.objects != "one" and not job.single
    overlapping = by_id and (layered(predictions) or layered(ground_truth))
    unread, masks = list[str](), list[Any]()
    for store, name in ((ground_truth, job.name), (predictions, job.source)):
        try:
            masks.append(store.planes(name, frame) if overlapping else store.read(name, frame))
        except (OSError, ValueError) as error:
            unread.append(str(error))
    if unread:
        return FrameResult(frame, unread=tuple(unread))
    if overlapping:
        return _score_planes(masks[0], masks[1], rule, job, frame, only_check)
    labels, mask = masks
    if labels.shape != mask.shape:
        return FrameResult(frame, size=_sizes(frame, mask, labels))
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
        return FrameResult(frame, shown, predicted)
    if rule.match == "proposals":
        proposed = (1,) if job.single and predicted else tuple(i for i in predicted if i != VOID)
        return FrameResult(frame, shown, predicted, _proposals(mask, labels, proposed, job.objects or (), void))
    if rule.formulae == "mose":
        pairs = {i: (mask == i, labels == i) for i in ids}
        return FrameResult(frame, shown, predicted, {i: _pair_scores(*pairs[i], rule) for i in pairs})
    if not ids:
        return FrameResult(frame, shown, predicted)
    order = sorted(ids)
    j, f = frame_scores(mask, labels, order, void)
    scores = dict(zip(order, zip(j.tolist(), f.tolist(), strict=True), strict=True))
    missed = [i for i in order if i in shown and scores[i][0] < MISSED]
    return FrameResult(frame, shown, predicted, scores, instead=_instead(mask, labels, missed))


def _instead(mask: Labels, labels: Labels, missed: Sequence[int]) -> dict[int, int]:
    """Return the other object that the prediction shows on most pixels of each of these objects, {id: other id}."""
    found = {}
    for i in missed:
        values, counts = np.unique(mask[labels == i], return_counts=True)
        place = int(counts.argmax())
        if values[place] not in (0, i) and 2 * counts[place] > counts.sum():
            found[i] = int(values[place])
    return found


def _score_planes(
    ground_truth: Mapping[int, Labels], masks: Mapping[int, Labels], rule: Profile, job: Job, frame: str, only_check: bool
) -> FrameResult:
    """Score objects that have a mask each and can overlap."""
    shown, predicted = (tuple(sorted(i for i, plane in side.items() if plane.any())) for side in (ground_truth, masks))
    any_true, any_mask = (next(iter(side.values()), None) for side in (ground_truth, masks))
    if any_true is not None and any_mask is not None and any_true.shape != any_mask.shape:
        return FrameResult(frame, shown, predicted, size=_sizes(frame, any_mask, any_true))
    if only_check:
        return FrameResult(frame, shown, predicted)
    empty = np.zeros_like(any_mask if any_true is None else any_true)
    ids = _scored({*shown, *predicted}, job, rule, False)
    scores = {i: _pair_scores(masks.get(i, empty), ground_truth.get(i, empty), rule) for i in ids}
    return FrameResult(frame, shown, predicted, scores)


def _scored(ids: set[int], job: Job, rule: Profile, eight_bits: bool) -> set[int]:
    """Return the ids that can be objects."""
    if job.objects is not None:
        return ids.intersection(job.objects)
    return ids - {VOID} if eight_bits and rule.void != "object" else ids


def _pair_scores(mask: Labels, ground_truth: Labels, rule: Profile) -> tuple[float, ...]:
    """Return J and F, or J, F and F_new, of one object's masks."""
    if rule.formulae == "davis":
        return jaccard(mask, ground_truth), boundary_f(mask, ground_truth)
    new, old = mose_f(mask, ground_truth)
    return mose_j(mask, ground_truth), old, new


def _sizes(frame: str, mask: Labels, ground_truth: Labels) -> str:
    sizes = ["x".join(map(str, array.shape)) for array in (mask, ground_truth)]
    return f"expected prediction {frame} of {sizes[1]} pixels, the size of the ground truth, got {sizes[0]}"


def _proposals(
    mask: Labels, labels: Labels, proposed: Sequence[int], objects: Sequence[int], void: Labels | None
) -> dict[int, tuple[list[float], list[float]]]:
    """Return rows of J and F of every proposal in the frame, and of one that is not in it."""
    missing = max(proposed, default=0) + 1
    j, f = pair_scores(mask, labels, [*proposed, missing], objects, void)
    return {key: (j[row].tolist(), f[row].tolist()) for row, key in enumerate([*proposed, 0])}


def _opening(ground_truth: Store, name: str, frame: str, terms: Terms) -> tuple[tuple[int, ...], bool]:
    """Return the ids of the first ground-truth frame, and whether it contains only 0 and 255; 255 is then object 1."""
    if layered(ground_truth):
        return tuple(sorted(i for i, plane in ground_truth.planes(name, frame).items() if plane.any())), False
    labels = ground_truth.read(name, frame)
    if present(labels) == (VOID,) and labels.dtype == np.uint8 and not terms.compat:
        return (1,), True
    return _ids(labels, terms.rule), False


def _ids(labels: Labels, rule: Profile) -> tuple[int, ...]:
    """Return the objects of a ground-truth mask: in 8 bits 255 is not one, unless the rule makes it one."""
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
    """Return whether a frame's number is a multiple of `every` after the first's; a frame without a number qualifies."""
    number, base = checks.number(frame), checks.number(first)
    return every == 1 or number is None or base is None or (number - base) % every == 0

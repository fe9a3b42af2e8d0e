"""Score predicted masks against the ground truth by the rule of a benchmark.

    report = evaluate("predictions", "DAVIS/Annotations/480p")
    report.jf                                          # 0.732
    json.dumps(report.to_json())
    evaluate({"cup": {"00000": labels, ...}}, ground_truth, profile="vos-benchmark").summary

The default rule is that of DAVIS 2017, semi-supervised. The objects are those of the first ground-truth frame. Every
ground-truth frame except the first and the last is scored. 255 is background. If the first ground-truth frame contains only 0
and 255 (DAVIS 2016), 255 is the one object, and the prediction can be 1 or 255. `scoring.profiles` has the other rules.

Each mask is read once; it is checked and scored in the same pass (`scoring.frame_scores`). Everything that would make a number
meaningless is reported at once, and no score is given. Facts that do not forbid a score are notes in the report.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from hodor.scoring import checks, profiles, workers
from hodor.scoring.frame_scores import FRAMES, FrameResult, Job, Task, plan, score_frames
from hodor.scoring.merging import Outcome, merge
from hodor.scoring.metrics import statistics
from hodor.scoring.profiles import Groups, Meta, Profile, Terms
from hodor.scoring.reports import Report, SequenceScore
from hodor.scoring.stores.base import Store, some
from hodor.scoring.stores.open import open_store

FEW = 256
"""Scored frames below which one process is faster than several."""


def evaluate(
    predictions: Any,
    ground_truth: Any,
    profile: str | Profile = "davis2017",
    sequences: Sequence[str] | None = None,
    *,
    compat: bool = False,
    late_objects: bool = False,
    workers: int | None = 1,
    meta: profiles.Source | Mapping[str, Any] | None = None,
    seen: profiles.Source | Iterable[str] | None = None,
    unseen: profiles.Source | Iterable[str] | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Report:
    """Score predicted masks against ground-truth masks.

    Frames are matched by name. Predicted ids that the ground truth does not have count as background, with a note. Ids can have
    gaps.

    Args:
        predictions: anything that hodor.scoring.stores.open.open_store accepts: a folder of sequences, one sequence, a zip
            file, SA-V folders, RLE JSON, {sequence: {frame: array}}.
        ground_truth: the same for the ground truth.
        profile: a name of `scoring.profiles.PROFILES`, or a `Profile`. Default: "davis2017".
        sequences: names of the sequences to score, in this order. Default: all of the ground truth.
        compat: whether to give the official tool's numbers, including its bugs. Without it a note reports where the two differ
            for these data. Default: False.
        late_objects: whether objects that appear after the first ground-truth frame are scored too, each from the frame after
            its first. Default: False.
        workers: number of processes that share the frames; None: one per processor, or this one alone if there are few frames.
            With more than one, a script must start under `if __name__ == "__main__":`, as for every process pool. Default: 1.
        meta: the data set's meta.json or its content (youtube-vos: categories and frames; lvos: frame ranges, required; mose:
            objects).
        seen: categories (youtube-vos) or videos (lvos) that count as seen in training: names, or a file that
            hodor.scoring.profiles.read_names reads. Without `seen` and `unseen` there is no G.
        unseen: the same for unseen ones.
        progress: called as progress(frames done, all frames).

    Returns:
        The scores of every frame, object and sequence, and of the data set.

    Raises:
        FileNotFoundError: for a source that does not exist.
        ValueError: all problems, one per line: sequences and frames that are missing or are not in the ground truth, different
            sizes, files that are not labels, no common id (a palette converted to grey, 0/255 for ids), no object, no frame to
            score.
        RuntimeError: if a process dies (hodor.scoring.workers.each).
    """
    terms, listed = _terms(profile, late_objects, meta, compat)
    groups = Groups(*(None if names is None else profiles.read_names(names) for names in (seen, unseen)))
    terms, rule = replace(terms, groups=groups), terms.rule
    stores = open_store(predictions, "predictions"), open_store(ground_truth, "ground truth")
    jobs, problems, notes = _jobs(*stores, terms, sequences, listed)
    outcomes = _outcomes(jobs, stores, terms, bool(problems), workers, progress)
    checks.complain([*problems, *(problem for outcome in outcomes for problem in outcome.problems)])
    notes += [note for outcome in outcomes for note in outcome.notes]
    report = Report(
        sequences=tuple(SequenceScore(outcome.name, outcome.objects) for outcome in outcomes if outcome.objects),
        profile=rule.name,
        compat=compat,
        options={key: value for key, value in asdict(rule).items() if key not in ("name", "short_decay")},
        predictions=_named(predictions),
        ground_truth=_named(ground_truth),
    )
    return replace(report, notes=tuple(notes + _group_notes(report, rule, compat)))


@dataclass(frozen=True)
class Check:
    """What `check` found.

    Attributes:
        unscored: {sequence: why it cannot be scored}.
        damaged: masks that cannot be read, one sentence each.
    """

    unscored: Mapping[str, str]
    damaged: tuple[str, ...]


def check(
    predictions: Store,
    ground_truth: Store,
    profile: str | Profile = "davis2017",
    sequences: Sequence[str] | None = None,
    *,
    late_objects: bool = False,
    meta: profiles.Source | Mapping[str, Any] | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Check:
    """Find out which sequences can be scored, before there are predictions. Every ground-truth mask is read once.

    Args:
        predictions: the predictions that will be made; only the names of their frames are used.
        ground_truth: the ground truth.
        profile: as for `evaluate`.
        sequences: as for `evaluate`.
        late_objects: as for `evaluate`.
        meta: as for `evaluate`.
        progress: called as progress(sequences done, all sequences).

    Raises:
        ValueError: as `evaluate` for a wrong profile or meta file.
    """
    terms, listed = _terms(profile, late_objects, meta, False)
    unscored, damaged = dict[str, str](), list[str]()
    names = ground_truth.names() if sequences is None else sequences
    for done, name in enumerate(names, 1):
        job, found = plan(predictions, ground_truth, name, name, terms, listed.get(name, {}))
        problems = list(found.problems)
        if job is not None and not problems:
            tasks = (Task(0, start, True) for start in range(0, len(job.evaluated), FRAMES))
            read = [one for task in tasks for one in score_frames(ground_truth, ground_truth, terms.rule, (job,), task)]
            unread = [text for frame in read for text in frame.unread[:1]] or [job.unread] * bool(job.unread)
            damaged += unread
            if not unread:
                value = (1.0,) * (3 if terms.rule.formulae == "mose" else 2)
                perfect = [frame._replace(scores=dict.fromkeys(frame.shown, value)) for frame in read]
                problems += merge(job, perfect, terms, terms.rule.match == "proposals").problems
        if problems:
            unscored[name] = "; ".join(text.removeprefix(f"{name}: ") for text in problems)
        if progress:
            progress(done, len(names))
    return Check(unscored, tuple(dict.fromkeys(damaged)))


def _terms(
    profile: str | Profile, late_objects: bool, meta: profiles.Source | Mapping[str, Any] | None, compat: bool
) -> tuple[Terms, Meta]:
    """Return the rule of a profile without groups, and the content of the meta file."""
    rule = profiles.profile_named(profile)
    if late_objects:
        rule = replace(rule, objects="any", span="object")
    listed = profiles.read_meta(meta) if meta is not None else {}
    return Terms(_with_lists(rule, listed), compat, Groups(None, None)), listed


def _with_lists(rule: Profile, listed: Meta) -> Profile:
    """Return the rule, extended by what a meta file lists."""
    if rule.objects == "listed" and not listed:
        raise ValueError(f"profile {rule.name} needs the data set's meta file: give meta (--meta)")
    if rule.span == "object" and any(one.frames for objects in listed.values() for one in objects.values()):
        return replace(rule, objects="listed", span="listed")
    return replace(rule, objects="listed") if rule.objects == "any" and rule.span == "video" and listed else rule


def _named(source: Any) -> str:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else "in memory"


def _jobs(
    predictions: Store, ground_truth: Store, terms: Terms, chosen: Sequence[str] | None, listed: Meta
) -> tuple[list[Job], list[str], list[str]]:
    """Match both sides by name; return the jobs that can be scored, problems, notes."""
    pairs, found = checks.pair(ground_truth.names(), predictions.names(), chosen, ground_truth.single, predictions.single)
    problems, notes, jobs = list(found.problems), [*ground_truth.notes, *predictions.notes, *found.notes], list[Job]()
    for what, store in (("ground truth", ground_truth), ("predictions", predictions)):
        if strays := store.strays():
            notes.append(f"{what}: {len(strays)} files are not masks and are skipped ({some(strays)})")
    for name, source in pairs:
        job, found = plan(predictions, ground_truth, name, source, terms, listed.get(name, {}))
        jobs += [job] if job else []
        short = job is None and "expected at least 1 ground-truth frame" in " ".join(found.problems)
        advice = ": leave it out (name the others with sequences), or score its ends (ends both)" if short else ""
        problems += [text + advice for text in found.problems]
        notes += found.notes
    if not (pairs or problems):
        problems.append("no sequence to score: the ground truth has none")
    return jobs, problems, notes


def _outcomes(
    jobs: Sequence[Job],
    stores: tuple[Store, Store],
    terms: Terms,
    only_check: bool,
    count: int | None,
    progress: Callable[[int, int | None], None] | None,
) -> list[Outcome]:
    """Score all frames of all jobs in chunks; merge a job as soon as all of its frames are scored."""
    tasks = [Task(place, start, only_check) for place, job in enumerate(jobs) for start in range(0, len(job.evaluated), FRAMES)]
    tasks.sort(key=lambda task: -jobs[task.job].cost(task))  # long ones first, so that all processes end at about the same time
    left = Counter(task.job for task in tasks)
    total = sum(len(job.evaluated) for job in jobs)
    if count is None and total < FEW:
        count = 1
    chunks = defaultdict[int, dict[int, list[FrameResult]]](dict)
    outcomes, done = dict[int, Outcome](), 0
    for place, result in workers.each(partial(score_frames, *stores, terms.rule, tuple(jobs)), tasks, count):
        task = tasks[place]
        chunks[task.job][task.start] = result
        left[task.job] -= 1
        done += len(result)
        if progress:
            progress(done, total)
        if not left[task.job]:
            parts = chunks.pop(task.job)
            results = [frame for start in sorted(parts) for frame in parts[start]]
            outcomes[task.job] = merge(jobs[task.job], results, terms, only_check)
    return [outcomes[place] if place in outcomes else merge(job, [], terms, True) for place, job in enumerate(jobs)]


def _group_notes(report: Report, rule: Profile, compat: bool) -> list[str]:
    """Return notes about the whole data set: groups without members, decay above 256 frames."""
    notes = []
    if rule.groups != "none":
        what = "categories" if rule.groups == "category" else "videos"
        unknown = sum(score.seen is None for score in report.objects)
        if unknown:
            notes.append(f"{unknown} objects are neither seen nor unseen: give the {what} (--seen, --unseen, --meta)")
        for name, group in (("seen", True), ("unseen", False)):
            if unknown < len(report.objects) and not any(score.seen is group for score in report.objects):
                notes.append(f"no object is {name}: there is no G")
    if rule.short_decay and not compat:
        long = [score for score in report.objects if len(score.frames) > 256]
        different = sum(
            statistics(row, compat=True).decay != sums.decay
            for score in long
            for row, sums in ((score.j_frames, score.j), (score.f_frames, score.f))
        )
        if different:
            notes.append(f"decay of {len(long)} objects differs from the official tool's: more than 256 frames")
    if compat and rule.name in ("youtube-vos", "vos-benchmark", "mose"):
        notes.append(f"compat changes nothing in profile {rule.name}")
    return notes

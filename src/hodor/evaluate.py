"""Score predicted masks against true ones by the rule of a benchmark.

    report = evaluate("predictions", "DAVIS/Annotations/480p")
    report.jf                                          # 0.732
    json.dumps(report.to_json())
    evaluate({"cup": {"00000": labels, ...}}, ground truth, profile="vos-benchmark").summary

The default rule is DAVIS 2017's, semi-supervised: the objects are those of the first true frame; every true frame but the
first and the last is evaluated; 255 is background. Where the first true frame knows only 0 and 255 (DAVIS 2016), 255 is the
one object, and the prediction may call it 1 or 255. `scoring.profiles` has the other rules. Each mask is read once: checked
and scored by the way (`scoring.looks`). Everything that would make a number meaningless is told at once, in place of a score;
what may be passed over is a note in the report.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from hodor.scoring import checks, profiles, workers
from hodor.scoring.frame_scores import FRAMES, Job, Look, Task, look_at, plan
from hodor.scoring.merging import Outcome, merge
from hodor.scoring.metrics import statistics
from hodor.scoring.profiles import Groups, Meta, Profile, Terms
from hodor.scoring.reports import Report, SequenceScore
from hodor.scoring.stores.base import Store, some
from hodor.scoring.stores.open import open_store

FEW = 256
"""Judged frames for which one process is quicker than starting more."""


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
    """Score the masks in `predictions` against those in `ground_truth`; both are anything that
    hodor.scoring.stores.open.open_store takes: a folder of sequences, a sequence, a zip, SA-V folders,
    RLE JSON, {sequence: {frame: array}}. Frames match by name.

    `profile` is a name of `scoring.profiles.PROFILES`, or a Profile of your own. `sequences` names the ones to score, in that
    order; None: all of the ground truth. `compat` gives the official tool's numbers, bugs included; without it a note tells where
    the two differ for these data. `late_objects`: objects that the ground truth shows only after its first frame are scored too,
    each from the frame after its first on. Ids that the ground truth has not are background, with a note. Ids may have gaps.

    `meta` is the dataset's meta.json (youtube-vos: categories and frames; lvos: frame ranges, needed; mose: objects).
    `seen` or `unseen`, a list or a file (hodor.scoring.profiles.read_names): the categories (youtube-vos) or videos (lvos) that
    count as seen in training; without them no G.

    `workers` processes share the frames; None: one per processor, or this one alone if there is little to do. With more
    than one, a script must start under `if __name__ == "__main__":`, as for every process pool. `progress(done, total)` is
    told of frames.

    Raises FileNotFoundError for what does not exist, and one ValueError with all problems, one a line: sequences and frames
    that are missing or have no place in the ground truth, sizes that differ, files that are no labels, no ids in common (a palette
    turned to grey, 0/255 for ids), no object, nothing to judge. RuntimeError if a process dies (hodor.scoring.workers.each).
    """
    rule = profiles.profile_named(profile)
    if late_objects:
        rule = replace(rule, objects="any", span="object")
    listed = profiles.read_meta(meta) if meta is not None else {}
    rule = _with_lists(rule, listed)
    groups = Groups(*(None if names is None else profiles.read_names(names) for names in (seen, unseen)))
    terms = Terms(rule, compat, groups)
    stores = open_store(predictions, "predictions"), open_store(ground_truth, "ground_truth")
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


def _with_lists(rule: Profile, listed: Meta) -> Profile:
    """The rule with what a meta file adds to it."""
    if rule.objects == "listed" and not listed:
        raise ValueError(f"profile {rule.name} needs the dataset's meta file: give meta (--meta)")
    if rule.span == "object" and any(one.frames for objects in listed.values() for one in objects.values()):
        return replace(rule, objects="listed", span="listed")
    return replace(rule, objects="listed") if rule.objects == "any" and rule.span == "video" and listed else rule


def _named(source: Any) -> str:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else "in memory"


def _jobs(
    ours: Store, true: Store, terms: Terms, chosen: Sequence[str] | None, listed: Meta
) -> tuple[list[Job], list[str], list[str]]:
    """Pair both sides by name: jobs that can be looked into, problems, notes."""
    pairs, found = checks.pair(true.names(), ours.names(), chosen, true.single, ours.single)
    problems, notes, jobs = list(found.problems), [*true.notes, *ours.notes, *found.notes], list[Job]()
    for what, store in (("ground_truth", true), ("predictions", ours)):
        if strays := store.strays():
            notes.append(f"{what}: {len(strays)} files are no masks and are passed over ({some(strays)})")
    for name, source in pairs:
        job, found = plan(ours, true, name, source, terms, listed.get(name, {}))
        jobs += [job] if job else []
        problems += found.problems
        notes += found.notes
    if not (pairs or problems):
        problems.append("no sequence to score: the ground truth holds none")
    return jobs, problems, notes


def _outcomes(
    jobs: Sequence[Job],
    stores: tuple[Store, Store],
    terms: Terms,
    only_check: bool,
    count: int | None,
    progress: Callable[[int, int | None], None] | None,
) -> list[Outcome]:
    """Look at all frames of all jobs, chunk by chunk, and sum each job up as soon as it is whole."""
    tasks = [Task(place, start, only_check) for place, job in enumerate(jobs) for start in range(0, len(job.evaluated), FRAMES)]
    tasks.sort(key=lambda task: -jobs[task.job].cost(task))  # long ones first: no process ends with one alone
    left = Counter(task.job for task in tasks)
    total = sum(len(job.evaluated) for job in jobs)
    if count is None and total < FEW:
        count = 1
    looks = defaultdict[int, dict[int, list[Look]]](dict)
    outcomes, done = dict[int, Outcome](), 0
    for place, result in workers.each(partial(look_at, *stores, terms.rule, tuple(jobs)), tasks, count):
        task = tasks[place]
        looks[task.job][task.start] = result
        left[task.job] -= 1
        done += len(result)
        if progress:
            progress(done, total)
        if not left[task.job]:
            parts = looks.pop(task.job)
            whole = [look for start in sorted(parts) for look in parts[start]]
            outcomes[task.job] = merge(jobs[task.job], whole, terms, only_check)
    return [outcomes[place] if place in outcomes else merge(job, [], terms, True) for place, job in enumerate(jobs)]


def _group_notes(report: Report, rule: Profile, compat: bool) -> list[str]:
    """What is to be said of the whole: groups without members, decay above 256 frames."""
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
        wrong = sum(
            statistics(row, compat=True).decay != sums.decay
            for score in long
            for row, sums in ((score.j_frames, score.j), (score.f_frames, score.f))
        )
        if wrong:
            notes.append(f"decay of {len(long)} objects differs from the official tool's: more than 256 frames")
    if compat and rule.name in ("youtube-vos", "vos-benchmark", "mose"):
        notes.append(f"compat changes nothing in profile {rule.name}")
    return notes

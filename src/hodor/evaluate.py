"""Score folders of predicted masks against folders of true ones, by the semi-supervised rule of DAVIS 2017.

    report = evaluate("predictions", "DAVIS/Annotations/480p")
    report.jf                                          # 0.732
    json.dumps(report.to_json())

The rule: the objects are those of the first true frame; every true frame but the first and the last is judged; 255 is
background. Where the first true frame knows only 0 and 255 (DAVIS 2016), 255 is the one object, and the prediction may
call it 1 or 255. Everything that would make a number meaningless is looked for first and told at once; what may be
passed over is a note in the report.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hodor.masks import VOID, objects_in, palette, read_labels
from hodor.metrics import Statistics, average, frame_scores, statistics

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class ObjectScore:
    """One object of one sequence: J and F over its `frames` judged frames."""

    object: int
    j: Statistics
    f: Statistics
    frames: int

    @property
    def jf(self) -> float:
        """J&F: the mean of the mean J and the mean F, in [0, 1]."""
        return (self.j.mean + self.f.mean) / 2

    def to_json(self) -> dict[str, Any]:
        return {**_numbers(self.j, self.f), "frames": self.frames}


@dataclass(frozen=True)
class SequenceScore:
    """One sequence: J and F are means over its objects, ordered by id."""

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
        objects = {str(score.object): score.to_json() for score in self.objects}
        return {"J&F": self.jf, "J": self.j.mean, "F": self.f.mean, "objects": objects}


@dataclass(frozen=True)
class Report:
    """A whole dataset. J and F are means over all objects of all sequences, each object counting once (DAVIS rule).

    `notes` are facts that changed no number but may surprise, one sentence each.
    """

    sequences: tuple[SequenceScore, ...]
    notes: tuple[str, ...] = ()

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
        return (self.j.mean + self.f.mean) / 2

    @property
    def frame_objects(self) -> int:
        """How many masks were judged: the judged frames of every object, added up."""
        return sum(score.frames for score in self.objects)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values, full precision, scores in [0, 1]:
        `J&F`, `J`, `F`, `J_recall`, `J_decay`, `F_recall`, `F_decay`, `frame_objects`, `notes` (list of str) and
        `sequences` {name: {`J&F`, `J`, `F`, `objects` {id: the seven numbers and `frames`}}}."""
        return {
            **_numbers(self.j, self.f),
            "frame_objects": self.frame_objects,
            "notes": list(self.notes),
            "sequences": {sequence.name: sequence.to_json() for sequence in self.sequences},
        }


def evaluate(
    predictions: str | os.PathLike[str],
    truth: str | os.PathLike[str],
    sequences: Sequence[str] | None = None,
    late_objects: bool = False,
    workers: int | None = 1,
) -> Report:
    """Score the mask PNGs in folder `predictions` against those in folder `truth`.

    Both hold one folder per sequence, or both are one sequence themselves. Frames are matched by name ("00001.png") and
    ordered by the numbers in it. The predictions of the first and the last true frame are not judged and may be absent.

    `sequences` names the ones to score; None: all of the truth. Objects that the truth shows only after its first frame
    are not scored (a note tells), unless `late_objects`: then each is judged from the frame after its first on. Ids
    that the truth has not are background, with a note. Ids may have gaps.

    `workers` processes share the sequences; None: one per processor. With more than one, a script must start under
    `if __name__ == "__main__":`, as for every process pool.

    Raises FileNotFoundError "predictions folder x does not exist", and one ValueError with all problems, one a line:
    sequences and frames that are missing or have no place in the truth, sizes that differ, files that are no label
    PNGs, no ids in common (a palette turned to grey, 0/255 for ids), no object, nothing between first and last frame.
    """
    jobs, problems, notes = _jobs(Path(predictions), Path(truth), sequences)
    score = partial(_score, late_objects=late_objects, only_check=bool(problems))
    outcomes = _each(score, jobs, workers)
    problems += [problem for outcome in outcomes for problem in outcome.problems]
    if problems:
        heading = [f"{len(problems)} problems, nothing was scored:"] if len(problems) > 1 else []
        raise ValueError("\n- ".join(heading + problems))
    notes += [note for outcome in outcomes for note in outcome.notes]
    return Report(tuple(SequenceScore(outcome.name, outcome.objects) for outcome in outcomes), tuple(notes))


def table(report: Report) -> "Table":
    """The report as a table for the terminal (rich), in per cent: every sequence, its objects if several, the whole."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("sequence", "object"):
        rows.add_column(title, no_wrap=True)
    for title in ("J&F", "J", "recall", "decay", "F", "recall", "decay", "frames"):
        rows.add_column(title, justify="right", no_wrap=True)

    def add(name: str, item: str, j: Statistics, f: Statistics, frames: int) -> None:
        numbers = [(j.mean + f.mean) / 2, *j, *f]
        rows.add_row(name, item, *(f"{100 * number:.1f}" for number in numbers), str(frames))

    for sequence in report.sequences:
        several = len(sequence.objects) > 1
        label = "all" if several else str(sequence.objects[0].object)
        add(sequence.name, label, sequence.j, sequence.f, sum(score.frames for score in sequence.objects))
        for score in sequence.objects if several else ():
            add("", str(score.object), score.j, score.f, score.frames)
    rows.add_section()
    add(f"all {len(report.sequences)}", f"all {len(report.objects)}", report.j, report.f, report.frame_objects)
    return rows


RUN = "masks"
"""Where `hodor segment -o DIR` puts its masks: such a DIR is read as the sequence it holds."""


@dataclass(frozen=True)
class _Job:
    """One sequence to score: true frames in order, and the predictions of those between first and last."""

    name: str
    truth: tuple[Path, ...]
    predictions: tuple[Path, ...]


@dataclass(frozen=True)
class _Outcome:
    name: str
    objects: tuple[ObjectScore, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def _numbers(j: Statistics, f: Statistics) -> dict[str, Any]:
    means = {"J&F": (j.mean + f.mean) / 2, "J": j.mean, "F": f.mean}
    return {**means, "J_recall": j.recall, "J_decay": j.decay, "F_recall": f.recall, "F_decay": f.decay}


def _each(score: Any, jobs: Sequence[_Job], workers: int | None) -> list[_Outcome]:
    """The outcome of every job, in order; the longest start first, so that no process ends with a long one alone."""
    workers = min(workers if workers is not None else os.cpu_count() or 1, len(jobs))
    if workers <= 1:
        return [score(job) for job in jobs]
    longest = sorted(jobs, key=lambda job: -len(job.truth))
    try:
        # Not fork: the caller may hold threads (torch), and a forked child would wait for their locks for ever.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            outcomes = {outcome.name: outcome for outcome in pool.map(score, longest)}
    except BrokenProcessPool as error:
        raise RuntimeError(
            'a scoring process died: start the script under `if __name__ == "__main__":`, or use workers=1'
        ) from error
    return [outcomes[job.name] for job in jobs]


# What the folders hold ------------------------------------------------------------------------------------------------


def _jobs(predictions: Path, truth: Path, chosen: Sequence[str] | None) -> tuple[list[_Job], list[str], list[str]]:
    """Pair the folders by name alone: jobs that can be looked into, problems, notes."""
    wanted, one = _sequences(truth, "truth")
    found, one_found = _sequences(predictions, "predictions")
    if one != one_found:
        single, several = (truth, predictions) if one else (predictions, truth)
        raise ValueError(
            f"{single} is one sequence, {several} holds one folder per sequence ({_some(found if one else wanted)}): "
            "give two of the same kind"
        )
    if one:
        found = dict(zip(wanted, found.values(), strict=True))
    names = list(wanted) if chosen is None else sorted(set(chosen))
    problems, notes, jobs = list[str](), list[str](), list[_Job]()
    if unknown := [name for name in names if name not in wanted]:
        problems.append(f"the truth has no sequence {_some(unknown)}: it has {_some(wanted)}")
    if lost := [name for name in names if name in wanted and name not in found]:
        problems.append(f"no predictions for {_some(lost, len(lost))}: name the sequences to score to leave others out")
    if chosen is None and (extra := [name for name in found if name not in wanted]):
        notes.append(f"not scored, the truth does not have them: {_some(extra, len(extra))}")
    for name in names:
        if name in wanted and name in found:
            job, troubles, remarks = _pair(name, wanted[name], found[name])
            jobs += [job] if job else []
            problems += troubles
            notes += remarks
    return jobs, problems, notes


def _sequences(root: Path, what: str) -> tuple[dict[str, dict[str, Path]], bool]:
    """{sequence: {frame: its PNG}} in order, and whether `root` is one sequence itself. Hidden files do not exist."""
    if not root.exists():
        raise FileNotFoundError(f"{what} folder {root} does not exist")
    if not root.is_dir():
        raise ValueError(f"{what} {root} is a file: a folder of mask PNGs is wanted")
    frames = _frames(root)
    if frames and (root / RUN).is_dir():
        return {root.resolve().name: frames}, True
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    sequences = {path.name: below for path in folders if (below := _frames(path))}
    if frames and sequences:
        raise ValueError(
            f"{what} folder {root} holds PNGs ({_some(path.name for path in frames.values())}) and folders of PNGs "
            f"({_some(sequences)}): a sequence or a folder of sequences is wanted, not both"
        )
    if frames:
        return {root.resolve().name: frames}, True
    if not sequences:
        deeper = next((path for path in folders for below in path.iterdir() if below.is_dir() and _frames(below)), None)
        others = sorted({path.suffix for path in root.glob("*/*") if path.suffix})
        hint = f": did you mean {deeper}?" if deeper else f", only {_some(others)}: masks are PNGs" if others else ""
        raise ValueError(f"{what} folder {root} holds no PNGs, nor do the folders in it{hint}")
    return sequences, False


def _frames(folder: Path) -> dict[str, Path]:
    folder = folder / RUN if (folder / RUN).is_dir() else folder
    files = [path for path in folder.iterdir() if path.suffix.lower() == ".png" and not path.name.startswith(".")]
    return {path.stem: path for path in sorted(files, key=lambda path: _order(path.stem))}


def _order(name: str) -> tuple[Any, ...]:
    """Names in order of the numbers in them: "9" before "10"."""
    return *(int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)), name


def _pair(name: str, truth: Mapping[str, Path], found: Mapping[str, Path]) -> tuple[_Job | None, list[str], list[str]]:
    """Match the frames of one sequence: a job if any can be looked into, problems, notes."""
    problems, notes = [], []
    stems = list(truth)
    judged = stems[1:-1]
    if not judged:
        return None, [f"{name}: {len(stems)} true frames, nothing to judge between the first and the last"], []
    if lost := [stem for stem in judged if stem not in found]:
        missing, there = (_some(path.name for path in paths) for paths in ([truth[stem] for stem in lost], found.values()))
        problems.append(f"{name}: {len(lost)} of {len(judged)} judged frames are missing ({missing}); there are {there}")
    extra = [stem for stem in found if stem not in truth]
    outside = [stem for stem in extra if not _order(stems[0]) < _order(stem) < _order(stems[-1])]
    if outside:
        names = _some(found[stem].name for stem in outside)
        problems.append(f"{name}: {len(outside)} predictions lie before or after all true frames ({names})")
    if len(extra) > len(outside):
        notes.append(f"{name}: {len(extra) - len(outside)} predictions lie between the true frames and are not judged")
    kept = [stem for stem in judged if stem in found]
    paths = (truth[stems[0]], *(truth[stem] for stem in kept), truth[stems[-1]])
    return _Job(name, paths, tuple(found[stem] for stem in kept)), problems, notes


def _some(names: Iterable[Any], most: int = 4) -> str:
    """The first few names, and that there are more."""
    names = [str(name) for name in names]
    return ", ".join(names[:most]) + (f", ... {names[-1]}" if len(names) > most else "")


# What the files hold --------------------------------------------------------------------------------------------------


def _score(job: _Job, late_objects: bool, only_check: bool) -> _Outcome:
    """Read a sequence once, check every file and, unless `only_check`, score it."""
    unread, sizes = list[str](), list[str]()
    scores: dict[int, list[tuple[float, float]]] = {}
    shown, predicted = set[int](), set[int]()

    def read(path: Path) -> Any:
        try:
            return read_labels(path)
        except (OSError, ValueError) as error:
            unread.append(str(error))
            return None

    first = read(job.truth[0])
    ids = set() if first is None else set(objects_in(first))
    single = ids == {VOID}  # DAVIS 2016
    objects = {1} if single else ids - {VOID}
    for truth_path, path in zip(job.truth[1:-1], job.predictions, strict=True):
        truth, mask = read(truth_path), read(path)
        if truth is None or mask is None:
            continue
        if truth.shape != mask.shape:
            sizes.append(f"prediction {path.name} is {_size(mask)}, the truth {_size(truth)}")
            continue
        predicted.update(objects_in(mask))
        if single:
            truth, mask = truth == VOID, (mask == VOID) | (mask == 1)
        else:
            shown.update(i for i in objects_in(truth) if i != VOID)
        keys = sorted(objects)
        if not only_check:
            for key, j, f in zip(keys, *frame_scores(mask, truth, keys), strict=True):
                scores.setdefault(key, []).append((float(j), float(f)))
        if late_objects:
            objects |= shown  # judged from the next frame on

    problems = [texts[0] + (f" (and {len(texts) - 1} more)" if texts[1:] else "") for texts in (unread, sizes) if texts]
    if first is not None and not objects:
        problems.append(f"the first true frame, {job.truth[0].name}, shows no object")
    known = objects | shown | ({VOID} if single else set())
    if objects and predicted and not predicted & known:
        problems.append(_strangers(predicted, known))
    if not (scores or only_check or problems):
        problems.append("objects appear only in the last judged frame, none is judged")
    notes = []
    if late := shown - objects:
        notes.append(f"the truth's {_ids(late)} appear after its first frame: not scored")
    if strange := predicted - known:
        notes.append(f"the predictions' {_ids(strange)} are not in the truth: taken as background")
    if not predicted:
        notes.append("all judged predictions are empty")
    columns = {key: list(zip(*rows, strict=True)) for key, rows in sorted(scores.items())}
    summed = [ObjectScore(key, statistics(j), statistics(f), len(j)) for key, (j, f) in columns.items()]
    told = ([f"{job.name}: {text}" for text in texts] for texts in (problems, notes))
    return _Outcome(job.name, tuple(summed), *map(tuple, told))


def _strangers(predicted: set[int], known: set[int]) -> str:
    """What to say of predictions that share no id with the truth: their score would be a silent zero."""
    red, green, blue = palette().astype(int)[[i for i in known if i < len(palette())]].T
    greys = {int(grey) for grey in (299 * red + 587 * green + 114 * blue + 500) // 1000}
    if predicted <= greys:
        advice = "these are the colours of a palette turned to grey, write the ids themselves"
    elif predicted == {VOID}:
        advice = "255 is no id here, write the ids themselves"
    else:
        advice = "write the truth's ids"
    return f"the predictions hold the {_ids(predicted)}, the truth the {_ids(known)}: {advice}"


def _ids(ids: set[int]) -> str:
    return f"ids {_some(sorted(ids), 8)}"


def _size(labels: Any) -> str:
    return "x".join(str(length) for length in labels.shape)

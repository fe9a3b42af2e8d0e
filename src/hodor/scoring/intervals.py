"""Paired differences of several results, with bootstrap intervals.

Data set: sequences are resampled with replacement, as many as there are. A resampled sequence contributes all of its objects,
with their scores in all results (a paired cluster bootstrap). Objects are not resampled alone, because objects of one video
fail together. One sequence: blocks of about sqrt(T) neighbouring frames out of its T are resampled with replacement; the last
frame is followed by the first; the same blocks are used for all objects and all results (a paired circular block bootstrap),
because neighbouring frames fail together. So the data set's interval is valid for other videos of this type, a sequence's
interval only for other moments of this video.

The average is the profile's: the mean over objects, each counting once; where the profile has a G (YouTube-VOS, LVOS), the
mean of the means over seen and over unseen objects.

The interval is the percentile interval, widened for few units (Hesterberg, "What teachers should know about the
bootstrap", 2015, section 5.3): with n units the ends are the quantiles at Phi(-sqrt(n / (n - 1)) t), where t is the 97.5 %
point of Student's t with n - 1 degrees of freedom. For 30 sequences this is 1.9 % on either side instead of 2.5 %.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hodor.names import natural_key
from hodor.scoring.results import ObjectScores, Row, Scores

METRICS = ("J&F", "J", "F")
TIE = 1e-12  # differences below it are rounding
FEW = 5
"""Sequences below which an interval contains the true difference clearly less often than 95 times in 100 (docs/reports.md)."""

CHUNK = 20_000_000  # numbers in memory at once

Array = NDArray[np.float64]
Key = tuple[str, int]


@dataclass(frozen=True)
class Difference:
    """The difference of one result to the first, of the data set or of one sequence.

    Attributes:
        name: the result.
        sequence: the sequence; None: the data set.
        metric: "J&F", "J" or "F".
        first: score of the first result, in [0, 1].
        value: score of this result, in [0, 1].
        difference: `value` minus `first`, in [-1, 1].
        low: lower end of the 95 % interval. `low`, `high` and `better` are None if there is too little to resample: one
            sequence, or fewer than four frames.
        high: upper end of the 95 % interval.
        better: share of resamples in which the difference is above zero; ties count half.
        wins: number of sequences (data set) or objects (sequence) that are better than in the first.
        losses: number of those that are worse.
        ties: number of those that are equal.
    """

    name: str
    sequence: str | None
    metric: str
    first: float
    value: float
    difference: float
    low: float | None
    high: float | None
    better: float | None
    wins: int
    losses: int
    ties: int


@dataclass(frozen=True)
class Comparison:
    """Several results compared with the first, `names[0]`.

    Attributes:
        names: names of the results.
        profile: the rule that they were scored by.
        compat: whether they were scored as by the official tool.
        draws: number of bootstrap resamples.
        seed: seed of the bootstrap.
        sequences: names of the compared sequences.
        objects: number of compared objects.
        left_out: objects that are not in all results, as "sequence id".
        notes: facts that limit the comparison, one sentence each.
        differences: all differences.
    """

    names: tuple[str, ...]
    profile: str
    compat: bool
    draws: int
    seed: int
    sequences: tuple[str, ...]
    objects: int
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    differences: tuple[Difference, ...]

    def dataset(self, metric: str = "J&F") -> tuple[Difference, ...]:
        """Return the data set's differences, one per name after the first."""
        return tuple(d for d in self.differences if d.sequence is None and d.metric == metric)

    def of(self, sequence: str, metric: str = "J&F") -> tuple[Difference, ...]:
        """Return one sequence's differences, one per name after the first."""
        return tuple(d for d in self.differences if d.sequence == sequence and d.metric == metric)

    def to_json(self) -> dict[str, Any]:
        """Return a dict of the format "hodor-comparison/1": the fields of this class; `differences` is a list of dicts."""
        return {"format": "hodor-comparison/1", **asdict(self)}


def compare(scores: Sequence[Scores], names: Sequence[str], draws: int, seed: int, common: bool) -> Comparison:
    """Compare results; see hodor.scoring.result_files.compare, which checks the arguments."""
    _check_profiles(scores, names)
    tables = [{(one.sequence, one.object): one for one in s.objects} for s in scores]
    keys, left_out = _matched(tables, names, common)
    sequences = tuple(sorted({sequence for sequence, _ in keys}))
    groups = _groups(scores, [tables[0][key] for key in keys])
    # means[i, m, o]: results i, metric m, object o
    means = np.array([[[table[key].summary.get(metric, np.nan) for key in keys] for metric in METRICS] for table in tables])
    where = np.array([sequences.index(sequence) for sequence, _ in keys])
    rng = np.random.default_rng(seed)
    differences = list(_of_dataset(means, where, groups, names, draws, rng))
    for i, sequence in enumerate(sequences):
        own = [key for key in keys if key[0] == sequence]
        frames = np.array([_on_one_clock([table[key] for key in own]) for table in tables])
        differences += _of_sequence(sequence, means[:, :, where == i], frames, names, draws, np.random.default_rng([seed, i]))
    notes = _notes(scores, names, means, groups, left_out, len(sequences))
    first = scores[0]
    left = tuple(f"{sequence} {i}" for sequence, i in left_out)
    return Comparison(
        tuple(names), first.profile, first.compat, draws, seed, sequences, len(keys), left, notes, tuple(differences)
    )


def widened(units: int) -> float:
    """Return the lower quantile of a 95 % interval from resamples of `units` units (at least 2); the upper is one minus it."""
    z, v = NormalDist().inv_cdf(0.975), units - 1
    # Student's t by Cornish and Fisher's expansion (Abramowitz and Stegun 26.7.5): 2.5 % low for v = 2, exact beyond 5.
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    t = z + sum(term / v ** (k + 1) for k, term in enumerate(terms))
    return NormalDist().cdf(-t * (units / v) ** 0.5)


# What can be compared ----------------------------------------------------------------------------------------------------


def _check_profiles(scores: Sequence[Scores], names: Sequence[str]) -> None:
    first, base = scores[0], names[0]
    for one, name in zip(scores[1:], names[1:], strict=True):
        if one.profile != first.profile:
            raise ValueError(f"{name} was scored by {one.profile}, {base} by {first.profile}: score both by one profile")
        if one.compat != first.compat:
            raise ValueError(f"{name} was scored with compat {one.compat}, {base} with {first.compat}: use one of them")
        options, base_options = one.options, first.options
        if options != base_options:
            keys = options.keys() | base_options.keys()
            odd = sorted(k for k in keys if options.get(k) != base_options.get(k))
            changed = ", ".join(f"{k} {options.get(k)} instead of {base_options.get(k)}" for k in odd[:3])
            raise ValueError(f"{name} was scored with other options than {base} ({changed}): score both with the same settings")


def _matched(tables: Sequence[Mapping[Key, ObjectScores]], names: Sequence[str], common: bool) -> tuple[list[Key], list[Key]]:
    """Return the objects that are in all results, sorted, and those that are not."""
    every = {key for table in tables for key in table}
    keys = sorted(key for key in every if all(key in table for table in tables))
    odd = sorted(every - set(keys))
    some = ", ".join(f"{sequence} {i}" for sequence, i in odd[:4]) + (", ..." if odd[4:] else "")
    if not keys:
        raise ValueError(f"{' and '.join(names)} have no object in common ({some}): compare scores of one ground truth")
    if odd and not common:
        many = f"{len(odd)} objects are" if odd[1:] else "1 object is"
        raise ValueError(f"{many} not in all results ({some}): --common compares the others")
    for key in keys:
        for table, name in zip(tables[1:], names[1:], strict=True):
            if table[key].frames != tables[0][key].frames:
                where = f"{key[0]}, object {key[1]} was scored on other frames in {name} than in {names[0]}"
                raise ValueError(f"{where}: compare scores of one ground truth")
    return keys, odd


def _groups(scores: Sequence[Scores], objects: Sequence[ObjectScores]) -> list[NDArray[np.bool_]]:
    """Return the groups of objects whose means are averaged: seen and unseen ones if there is a G, else all."""
    if "G" not in scores[0].summary:
        return [np.ones(len(objects), bool)]
    seen = [one.seen for one in objects]
    return [np.array([s == kind for s in seen]) for kind in (True, False) if kind in seen]


def _notes(
    scores: Sequence[Scores],
    names: Sequence[str],
    means: Array,
    groups: Sequence[NDArray[np.bool_]],
    left_out: Sequence[Key],
    sequences: int,
) -> tuple[str, ...]:
    notes = []
    if 1 < sequences < FEW:
        notes.append(f"{sequences} sequences: the dataset's interval is too short for so few")
    if left_out:
        notes.append(f"{len(left_out)} objects are not in all results and are left out of every number")
    for one, name, rows in zip(scores, names, means, strict=True):
        own = one.summary.get("G", one.summary.get("J&F"))
        mean = float(np.mean([rows[0, group].mean() for group in groups]))
        if own is not None and not left_out and abs(own - mean) > 1e-6:
            notes.append(f"{name}: the profile's average is {own:.4f}; the mean over objects is {mean:.4f}")
        if one.ground_truth != scores[0].ground_truth:
            used = one.ground_truth or "an unnamed ground truth"
            notes.append(f"{name} was scored against {used}, {names[0]} against {scores[0].ground_truth}")
    return tuple(notes)


# Resampling --------------------------------------------------------------------------------------------------------------


def _of_dataset(
    means: Array,
    where: NDArray[np.int64],
    groups: Sequence[NDArray[np.bool_]],
    names: Sequence[str],
    draws: int,
    rng: np.random.Generator,
) -> Iterator[Difference]:
    """Yield the data set's rows. `means` [results, metrics, objects]; `where`: each object's sequence, counted from 0."""
    count = int(where.max()) + 1
    change = (means[1:] - means[:1]).reshape(-1, means.shape[2])  # [results x metrics, objects]
    member = (where[:, None] == np.arange(count)).astype(np.float64)  # [objects, sequences]
    valid = ~np.isnan(change)
    sums = [np.where(valid & group, change, 0) @ member for group in groups]
    sizes = [(valid & group) @ member for group in groups]
    by_sequence = _ratio(sum(sums), sum(sizes))
    samples = None
    if count > 1:
        parts = []
        for begin in range(0, draws, step := max(1, CHUNK // max(count, len(change)))):
            times = rng.multinomial(count, np.full(count, 1 / count), min(step, draws - begin)).astype(np.float64)
            parts.append(_mean([_ratio(times @ s.T, times @ n.T) for s, n in zip(sums, sizes, strict=True)]))
        samples = np.concatenate(parts)
    points = _mean([_mean(np.moveaxis(means[:, :, group], 2, 0)) for group in groups])
    yield from _rows(None, points, by_sequence, samples, count, names)


def _of_sequence(
    sequence: str, means: Array, frames: Array, names: Sequence[str], draws: int, rng: np.random.Generator
) -> Iterator[Difference]:
    """Yield the rows of one sequence. `means` [results, metrics, objects]; `frames` [results, metrics, objects, T]."""
    change = (frames[1:] - frames[:1]).reshape(-1, *frames.shape[2:])  # [results x metrics, objects, T]
    rows, objects, length = change.shape
    block = max(1, round(length**0.5))
    blocks = round(length / block) if length else 0
    samples = None
    if blocks > 1 and length > 3:
        valid = ~np.isnan(change).reshape(-1, length)
        filled = np.where(valid, change.reshape(-1, length), 0).T
        parts = []
        for begin in range(0, draws, step := max(1, CHUNK // max(length, rows * objects))):
            starts = rng.multinomial(blocks, np.full(length, 1 / length), min(step, draws - begin))
            times = sum(np.roll(starts, shift, axis=1) for shift in range(block)) * 1.0
            means_of_objects = _ratio(times @ filled, times @ valid.T)
            parts.append(_mean(np.moveaxis(means_of_objects.reshape(-1, rows, objects), 2, 0)))
        samples = np.concatenate(parts)
    points = _mean(np.moveaxis(means, 2, 0))
    by_object = (means[1:] - means[:1]).reshape(-1, objects)
    yield from _rows(sequence, points, by_object, samples, blocks, names)


def _rows(
    sequence: str | None, points: Array, by_unit: Array, samples: Array | None, units: int, names: Sequence[str]
) -> Iterator[Difference]:
    """Yield rows.

    `points` [results, metrics]; `by_unit` [(results - 1) x metrics, units]; `samples` [draws, (results - 1) x metrics].
    """
    for row, (name, m) in enumerate((n, m) for n in range(1, len(points)) for m in range(len(METRICS))):
        first, value = float(points[0, m]), float(points[name, m])
        if np.isnan(first) or np.isnan(value):
            continue  # a profile without this number
        low = high = better = None
        if samples is not None:
            column = samples[:, row]
            column = column[~np.isnan(column)]
            if len(column):
                tail = widened(units)
                low, high = (float(q) for q in np.quantile(column, [tail, 1 - tail]))
                better = float(np.mean(column > TIE) + np.mean(np.abs(column) <= TIE) / 2)
        wins, losses = int((by_unit[row] > TIE).sum()), int((by_unit[row] < -TIE).sum())
        ties = int((np.abs(by_unit[row]) <= TIE).sum())
        yield Difference(names[name], sequence, METRICS[m], first, value, value - first, low, high, better, wins, losses, ties)


def _on_one_clock(objects: Sequence[ObjectScores]) -> list[Array]:
    """Return J&F, J and F of a sequence's objects, each [objects, T]; nan where an object is not scored."""
    names = clock(objects)
    place = {name: t for t, name in enumerate(names)}
    table = np.full((len(METRICS), len(objects), len(names)), np.nan)
    for o, one in enumerate(objects):
        table[:, o, [place[frame] for frame in one.frames]] = one.jf, one.j, one.f
    return list(table)


def clock(objects: Sequence[ObjectScores]) -> list[str]:
    """Return all frames on which any of the objects is scored, in order of time."""
    longest = max((one.frames for one in objects), key=len, default=())
    every = {frame for one in objects for frame in one.frames}
    if len(every) == len(longest):
        return list(longest)
    return sorted(every, key=natural_key)


def _ratio(part: Any, whole: Any) -> Row:
    """Return part / whole; nan where `whole` is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(np.asarray(whole) > 0, np.asarray(part) / whole, np.nan), np.float64)


def _mean(parts: Any) -> Array:
    """Return the mean over the first axis, without nan; nan if all are nan."""
    stack = np.asarray(parts)
    valid = ~np.isnan(stack)
    return _ratio(np.where(valid, stack, 0).sum(0), valid.sum(0))

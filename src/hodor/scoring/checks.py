"""What can be wrong with predictions before a number means anything: found, and said in one line each.

Names are looked at before anything is read (`pair`, `match`), contents while they are read once for the scores (`judge`).
A `problem` forbids a score; a `note` is a fact that may surprise.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hodor.masks import VOID, palette
from hodor.names import natural_key
from hodor.scoring.stores.base import some


@dataclass(frozen=True)
class Findings:
    """Problems and notes, one sentence each."""

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def complain(problems: Sequence[str]) -> None:
    """Raise one ValueError with all problems, one a line, if there are any."""
    if problems:
        heading = [f"{len(problems)} problems, nothing was scored:"] if len(problems) > 1 else []
        raise ValueError("\n- ".join([*heading, *problems]))


def pair(
    ground_truth: Sequence[str],
    found: Sequence[str],
    chosen: Sequence[str] | None,
    one_true: bool = False,
    one_found: bool = False,
) -> tuple[list[tuple[str, str]], Findings]:
    """Match the sequences by name: [(true name, predicted name)] in the order chosen, else the ground truth's.

    `one_true`, `one_found`: what was given is one sequence, not a set of them, so its name means nothing. It is the one
    sequence chosen, or the only one there.
    """
    names = list(ground_truth) if chosen is None else list(dict.fromkeys(chosen))
    if one_true and chosen is None and len(found) == 1:
        return [(ground_truth[0], found[0])], Findings()
    if one_found and len(names) == 1 and names[0] in ground_truth:
        return [(names[0], found[0])], Findings()
    if one_true != one_found:
        single, several = ("ground truth is", "predictions hold") if one_true else ("predictions are", "ground truth holds")
        there = some(found if one_true else ground_truth)
        return [], Findings((f"the {single} one sequence, the {several} {there}: give two of a kind, or name the sequence",))
    problems, notes = list[str](), list[str]()
    if unknown := [name for name in names if name not in ground_truth]:
        problems.append(f"the ground truth has no sequence {some(unknown)}: it has {some(ground_truth)}")
    lost = [name for name in names if name in ground_truth and name not in found]
    if lost and len(lost) == len(names):
        problems.append(f"no predictions for {some(lost, len(lost))}: the predictions hold {some(found)}")
    elif lost:
        problems.append(f"no predictions for {some(lost, len(lost))}: name the sequences to score to leave others out")
    if chosen is None and (extra := [name for name in found if name not in ground_truth]):
        notes.append(f"not scored, the ground truth does not have them: {some(extra, len(extra))}")
    common = [(name, name) for name in names if name in ground_truth and name in found]
    return common, Findings(tuple(problems), tuple(notes))


def match(
    name: str, ground_truth: Sequence[str], evaluated: Sequence[str], found: Sequence[str], dense: bool = False
) -> Findings:
    """Match one sequence's frames by name. `ground_truth` and `found` are all frames there are, `evaluated` those to be scored; all
    in order of time. `dense`: predictions beyond the last true frame are usual (the ground truth has every fifth frame)."""
    problems, notes = [], []
    there, true = set(found), set(ground_truth)
    if lost := [frame for frame in evaluated if frame not in there]:
        text = f"{name}: {len(lost)} of {len(evaluated)} evaluated frames are missing ({some(lost)})"
        if not found:
            problems.append(f"{text}; there are none")
        elif {number(frame) for frame in lost} <= {number(frame) for frame in found} - {None}:
            problems.append(f"{text}; there are {some(found)}: name them as the ground truth does")
        else:
            problems.append(f"{text}; there are {some(found)}")
    extra = [frame for frame in found if frame not in true]
    if extra and ground_truth:
        first, last = natural_key(ground_truth[0]), natural_key(ground_truth[-1])
        outside = [frame for frame in extra if not first < natural_key(frame) < last]
        if outside and not dense:
            problems.append(f"{name}: {len(outside)} predictions lie before or after all true frames ({some(outside)})")
        between = len(extra) if dense else len(extra) - len(outside)
        if between:
            notes.append(f"{name}: {between} predictions lie between the true frames and are not evaluated")
    return Findings(tuple(problems), tuple(notes))


def strangers(predicted: Iterable[int], known: Iterable[int]) -> str:
    """What to say of predictions that share no id with the ground truth: their score would be a silent zero."""
    predicted, known = set(predicted), set(known)
    red, green, blue = palette().astype(int)[[i for i in known if i < len(palette())]].T
    greys = {int(grey) for grey in (299 * red + 587 * green + 114 * blue + 500) // 1000}
    if predicted <= greys:
        advice = "these are the colours of a palette turned to grey, write the ids themselves"
    elif predicted == {VOID}:
        advice = "255 is no id here, write the ids themselves"
    else:
        advice = "write the ground truth's ids"
    return f"the predictions hold the {ids(predicted)}, the ground truth the {ids(known)}: {advice}"


def first_of(texts: Sequence[str]) -> list[str]:
    """Many problems of one kind in one line: the first, and how many more."""
    return [texts[0] + (f" (and {len(texts) - 1} more)" if texts[1:] else "")] if texts else []


def ids(objects: Iterable[int]) -> str:
    return f"ids {some(sorted(objects), 8)}"


def number(frame: str) -> int | None:
    """The last number in a frame's name; None if it has none."""
    found = re.findall(r"[0-9]+", frame)
    return int(found[-1]) if found else None

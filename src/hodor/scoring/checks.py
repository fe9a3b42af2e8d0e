"""What can be wrong with predictions before a number means anything: found, and said in one line each.

Names are looked at before anything is read (`pair`, `match`), contents while they are read once for the scores (`judge`).
A `problem` forbids a score; a `note` is a fact that may surprise.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hodor.masks import VOID, palette
from hodor.scoring.stores.base import frame_order, some


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
    truth: Sequence[str],
    found: Sequence[str],
    chosen: Sequence[str] | None,
    one_true: bool = False,
    one_found: bool = False,
) -> tuple[list[tuple[str, str]], Findings]:
    """Match the sequences by name: [(true name, predicted name)] in the order chosen, else the truth's.

    `one_true`, `one_found`: what was given is one sequence, not a set of them, so its name means nothing. It is the one
    sequence chosen, or the only one there.
    """
    names = list(truth) if chosen is None else list(dict.fromkeys(chosen))
    if one_true and chosen is None and len(found) == 1:
        return [(truth[0], found[0])], Findings()
    if one_found and len(names) == 1 and names[0] in truth:
        return [(names[0], found[0])], Findings()
    if one_true != one_found:
        single, several = ("truth is", "predictions hold") if one_true else ("predictions are", "truth holds")
        there = some(found if one_true else truth)
        return [], Findings((f"the {single} one sequence, the {several} {there}: give two of a kind, or name the sequence",))
    problems, notes = list[str](), list[str]()
    if unknown := [name for name in names if name not in truth]:
        problems.append(f"the truth has no sequence {some(unknown)}: it has {some(truth)}")
    lost = [name for name in names if name in truth and name not in found]
    if lost and len(lost) == len(names):
        problems.append(f"no predictions for {some(lost, len(lost))}: the predictions hold {some(found)}")
    elif lost:
        problems.append(f"no predictions for {some(lost, len(lost))}: name the sequences to score to leave others out")
    if chosen is None and (extra := [name for name in found if name not in truth]):
        notes.append(f"not scored, the truth does not have them: {some(extra, len(extra))}")
    common = [(name, name) for name in names if name in truth and name in found]
    return common, Findings(tuple(problems), tuple(notes))


def match(name: str, truth: Sequence[str], judged: Sequence[str], found: Sequence[str], dense: bool = False) -> Findings:
    """Match one sequence's frames by name. `truth` and `found` are all frames there are, `judged` those to be scored; all
    in order of time. `dense`: predictions beyond the last true frame are usual (the truth has every fifth frame)."""
    problems, notes = [], []
    there, true = set(found), set(truth)
    if lost := [frame for frame in judged if frame not in there]:
        text = f"{name}: {len(lost)} of {len(judged)} judged frames are missing ({some(lost)})"
        if not found:
            problems.append(f"{text}; there are none")
        elif {number(frame) for frame in lost} <= {number(frame) for frame in found} - {None}:
            problems.append(f"{text}; there are {some(found)}: name them as the truth does")
        else:
            problems.append(f"{text}; there are {some(found)}")
    extra = [frame for frame in found if frame not in true]
    if extra and truth:
        first, last = frame_order(truth[0]), frame_order(truth[-1])
        outside = [frame for frame in extra if not first < frame_order(frame) < last]
        if outside and not dense:
            problems.append(f"{name}: {len(outside)} predictions lie before or after all true frames ({some(outside)})")
        between = len(extra) if dense else len(extra) - len(outside)
        if between:
            notes.append(f"{name}: {between} predictions lie between the true frames and are not judged")
    return Findings(tuple(problems), tuple(notes))


def strangers(predicted: Iterable[int], known: Iterable[int]) -> str:
    """What to say of predictions that share no id with the truth: their score would be a silent zero."""
    predicted, known = set(predicted), set(known)
    red, green, blue = palette().astype(int)[[i for i in known if i < len(palette())]].T
    greys = {int(grey) for grey in (299 * red + 587 * green + 114 * blue + 500) // 1000}
    if predicted <= greys:
        advice = "these are the colours of a palette turned to grey, write the ids themselves"
    elif predicted == {VOID}:
        advice = "255 is no id here, write the ids themselves"
    else:
        advice = "write the truth's ids"
    return f"the predictions hold the {ids(predicted)}, the truth the {ids(known)}: {advice}"


def first_of(texts: Sequence[str]) -> list[str]:
    """Many problems of one kind in one line: the first, and how many more."""
    return [texts[0] + (f" (and {len(texts) - 1} more)" if texts[1:] else "")] if texts else []


def ids(objects: Iterable[int]) -> str:
    return f"ids {some(sorted(objects), 8)}"


def number(frame: str) -> int | None:
    """The last number in a frame's name; None if it has none."""
    found = re.findall(r"[0-9]+", frame)
    return int(found[-1]) if found else None

"""The checks of predictions that come before a score. Each problem is reported in one line.

Names are checked before any file is read (`pair`, `match`); contents are checked while they are read for the scores
(hodor.scoring.frame_scores). A problem forbids a score; a note is an unexpected fact that does not.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hodor.masks import VOID, palette
from hodor.names import natural_key
from hodor.scoring.stores.base import some


@dataclass(frozen=True)
class Findings:
    """The result of a check.

    Attributes:
        problems: what forbids a score, one sentence each.
        notes: other facts, one sentence each.
    """

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def complain(problems: Sequence[str]) -> None:
    """Raise one ValueError with all problems, one per line, if there are any."""
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
    """Match the sequences by name.

    Args:
        ground_truth: names of the ground truth.
        found: names of the predictions.
        chosen: names to score. Default: all of the ground truth.
        one_true: whether the ground truth is one sequence, not a set of them, so that its name has no meaning: it is the one
            that was chosen, or the only one.
        one_found: the same for the predictions.

    Returns:
        [(ground-truth name, predicted name)] in the order of `chosen`, else of the ground truth; and problems and notes.
    """
    names = list(ground_truth) if chosen is None else list(dict.fromkeys(chosen))
    if one_true and chosen is None and len(found) == 1:
        return [(ground_truth[0], found[0])], Findings()
    if one_found and len(names) == 1 and names[0] in ground_truth:
        return [(names[0], found[0])], Findings()
    if one_true != one_found:
        single, several = ("ground truth", "predictions") if one_true else ("predictions", "ground truth")
        names_of_several = some(found if one_true else ground_truth)
        got = f"one sequence as {single} and several as {several} ({names_of_several})"
        return [], Findings((f"expected one sequence or several on both sides, got {got}: name the sequence",))
    problems, notes = list[str](), list[str]()
    if unknown := [name for name in names if name not in ground_truth]:
        problems.append(f"expected sequences of the ground truth ({some(ground_truth)}), got {some(unknown)}")
    missing = [name for name in names if name in ground_truth and name not in found]
    if missing and len(missing) == len(names):
        problems.append(f"expected predictions for {some(missing, len(missing))}, got {some(found)}")
    elif missing:
        problems.append(f"no predictions for {some(missing, len(missing))}: name the sequences to score to leave others out")
    if chosen is None and (extra := [name for name in found if name not in ground_truth]):
        notes.append(f"not scored because the ground truth does not have them: {some(extra, len(extra))}")
    common = [(name, name) for name in names if name in ground_truth and name in found]
    return common, Findings(tuple(problems), tuple(notes))


def match(
    name: str, ground_truth: Sequence[str], evaluated: Sequence[str], found: Sequence[str], dense: bool = False
) -> Findings:
    """Match one sequence's frames by name. All names are in order of time.

    Args:
        name: the sequence.
        ground_truth: all ground-truth frames.
        evaluated: the frames to score.
        found: all predicted frames.
        dense: whether predictions after the last ground-truth frame are usual (the ground truth has every fifth frame).

    Returns:
        Problems and notes.
    """
    problems, notes = [], []
    predicted, true = set(found), set(ground_truth)
    if missing := [frame for frame in evaluated if frame not in predicted]:
        text = f"{name}: {len(missing)} of {len(evaluated)} frames to score are missing ({some(missing)}), got"
        if not found:
            problems.append(f"{text} none")
        elif {number(frame) for frame in missing} <= {number(frame) for frame in found} - {None}:
            problems.append(f"{text} {some(found)}: give them the names of the ground truth")
        else:
            problems.append(f"{text} {some(found)}")
    extra = [frame for frame in found if frame not in true]
    if extra and ground_truth:
        first, last = natural_key(ground_truth[0]), natural_key(ground_truth[-1])
        outside = [frame for frame in extra if not first < natural_key(frame) < last]
        if outside and not dense:
            problems.append(f"{name}: {len(outside)} predictions are before or after all ground-truth frames ({some(outside)})")
        between = len(extra) if dense else len(extra) - len(outside)
        if between:
            notes.append(f"{name}: {between} predictions are between the ground-truth frames and are not scored")
    return Findings(tuple(problems), tuple(notes))


def no_common_ids(predicted: Iterable[int], valid: Iterable[int]) -> str:
    """Return the message for predictions that share no id with the ground truth; without it their score would be 0."""
    predicted, valid = set(predicted), set(valid)
    red, green, blue = palette().astype(int)[[i for i in valid if i < len(palette())]].T
    greys = {int(grey) for grey in (299 * red + 587 * green + 114 * blue + 500) // 1000}
    if predicted <= greys:
        advice = "these are the grey values of a palette's colours, write the ids themselves"
    elif predicted == {VOID}:
        advice = "255 is not an id here, write the ids themselves"
    else:
        advice = "write the ground truth's ids"
    return f"expected the {ids(valid)} of the ground truth, got predictions with the {ids(predicted)}: {advice}"


def first_of(texts: Sequence[str]) -> list[str]:
    """Return many problems of one type as one line: the first, and the number of the others."""
    return [texts[0] + (f" (and {len(texts) - 1} more)" if texts[1:] else "")] if texts else []


def ids(objects: Iterable[int]) -> str:
    """Return ids as text: "ids 1, 2, 3"."""
    return f"ids {some(sorted(objects), 8)}"


def number(frame: str) -> int | None:
    """Return the last number in a frame's name; None if it has none."""
    found = re.findall(r"[0-9]+", frame)
    return int(found[-1]) if found else None

"""Clicks and boxes as text, and the labels that follow from them.

    [ID:]X,Y[@FRAME]            a click, in pixels of the frame from its upper left corner
    [ID:]X0,Y0,X1,Y1[@FRAME]    a box: its upper left and its lower right corner

Without ID it is object 1, without FRAME frame 0. `read_prompts` reads them for all objects and frames, `segment_prompts`
segments the objects of one frame.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hodor.masks import Labels, label_dtype, objects_in

FORMS = {"box": ("[ID:]X0,Y0,X1,Y1", 4, "2:80,40,420,300"), "point": ("[ID:]X,Y", 2, "2:310,190")}
FORMS["background"] = FORMS["point"]
"""Option -> form of its values, how many numbers they have, and an example."""


@dataclass
class ObjectPrompts:
    """The prompts of one object on one frame.

    Attributes:
        points: clicks (x, y), in pixels of the frame.
        labels: for each click 1 on the object, 0 on the background.
        box: (x0, y0, x1, y1), in pixels of the frame; None for no box.
    """

    points: list[tuple[float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    box: tuple[float, ...] | None = None


class Answer(NamedTuple):
    """What was found for one object.

    Attributes:
        object: its id.
        score: estimated IoU of its mask with the object, in [0, 1].
        area: its pixels in the labels.
    """

    object: int
    score: float
    area: int


class Segmented(NamedTuple):
    """The labels of a frame.

    Attributes:
        labels: ids per pixel [H, W].
        answers: what was found for each object with prompts, by id.
        notes: pixels that were in several objects, one line each.
    """

    labels: Labels
    answers: tuple[Answer, ...]
    notes: tuple[str, ...]


def read_prompts(
    boxes: Iterable[str] = (), points: Iterable[str] = (), backgrounds: Iterable[str] = (), *, frame: int | None = None
) -> dict[int, dict[int, ObjectPrompts]]:
    """Read the prompts of a command.

    Args:
        boxes: values of `--box`.
        points: values of `--point`, clicks on objects.
        backgrounds: values of `--background`, clicks beside objects.
        frame: the frame of all prompts, if the values must not name one. Default: they can.

    Returns:
        Number of a frame -> id of an object -> its prompts, both sorted.

    Raises:
        ValueError: "expected --point [ID:]X,Y[@FRAME], got 3;4: give pixels of the frame, such as 2:310,190@40", "two boxes for
            object 1 on frame 0: give one, or another ID", "expected ids from 1 to 65535, got 0 in --point 0:1,1".
    """
    found: dict[int, dict[int, ObjectPrompts]] = {}
    for option, texts in (("box", boxes), ("point", points), ("background", backgrounds)):
        for text in texts:
            i, numbers, at = _read(option, text, frame)
            prompts = found.setdefault(at, {}).setdefault(i, ObjectPrompts())
            if option != "box":
                prompts.points.append((numbers[0], numbers[1]))
                prompts.labels.append(int(option == "point"))
            elif prompts.box is not None:
                raise ValueError(f"two boxes for object {i} on frame {at}: give one, or another ID")
            else:
                prompts.box = numbers
    return {at: dict(sorted(found[at].items())) for at in sorted(found)}


def _read(option: str, text: str, frame: int | None) -> tuple[int, tuple[float, ...], int]:
    """Return the id, the numbers and the frame of a value."""
    form, count, example = FORMS[option]
    parts = re.fullmatch(r"(?:(\d+):)?([^:@]+)(?:@(\d+))?", text.strip(), re.ASCII)
    try:
        numbers = tuple(float(number) for number in (parts[2].split(",") if parts else ()))
    except ValueError:
        numbers = ()
    if parts is None or len(numbers) != count or not np.isfinite(numbers).all() or (parts[3] and frame is not None):
        where, at = ("[@FRAME]", "@40") if frame is None else ("", "")
        advice = f"give pixels of the frame, such as {example}{at}"
        if parts is not None and parts[3] and frame is not None:
            advice = "name the frame behind the source, SOURCE@FRAME"
        raise ValueError(f"expected --{option} {form}{where}, got {text}: {advice}")
    i = int(parts[1] or 1)
    if not 1 <= i <= 65535:
        raise ValueError(f"expected ids from 1 to 65535, got {i} in --{option} {text}: give another ID")
    return i, numbers, int(parts[3] or 0) if frame is None else frame


def segment_prompts(
    picture: npt.NDArray[np.uint8], prompts: Mapping[int, ObjectPrompts], start: Labels | None = None, *, frame: int = 0
) -> Segmented:
    """Segment the objects of one frame.

    Each object is segmented alone. Where several objects with prompts overlap, the smaller one is used; objects of `start`
    without prompts lose the pixels of those with prompts.

    Args:
        picture: RGB, uint8 [H, W, 3].
        prompts: id -> prompts of the object.
        start: labels [H, W] to correct. An object that is in it is segmented from that mask and its prompts.
        frame: number of the frame, for messages.

    Returns:
        The labels with all objects, and what was found.

    Raises:
        ValueError: "expected points inside frame 0 of 854x480 pixels, got 900,20 for object 1: ...", "expected a point on
            object 2 on frame 0, got only background points: ...", "no pixel of object 1 was found on frame 0: ...".
    """
    before = np.zeros(picture.shape[:2], np.uint8) if start is None else start
    for i, given in prompts.items():
        _check(i, given, (before == i).any(), (before.shape[0], before.shape[1]), frame)
    prompter = make_prompter(picture)
    masks, scores, notes = {}, {}, []
    for i, given in prompts.items():
        previous = before == i
        mask, scores[i] = prompter.predict(
            points=given.points or None,
            labels=given.labels or None,
            box=given.box,
            mask=previous if previous.any() else None,
        )
        if not mask.any():
            raise ValueError(f"no pixel of object {i} was found on frame {frame}: give another point or a box")
        masks[i] = mask
    labels = before.astype(label_dtype(max(*prompts, int(before.max()))))
    labels[np.isin(labels, list(masks))] = 0
    others = objects_in(labels)
    covered = np.sum(list(masks.values()), axis=0)
    for i in others:
        if lost := int(np.count_nonzero(covered[labels == i])):
            notes.append(f"{lost} px of object {i} now belong to objects with prompts")
    if shared := int(np.count_nonzero(covered > 1)):
        notes.append(f"{shared} px are in several objects with prompts: the smaller object is used")
    for i in sorted(masks, key=lambda i: -int(np.count_nonzero(masks[i]))):
        labels[masks[i]] = i
    gone = [i for i in (*others, *masks) if not (labels == i).any()]
    if gone:
        raise ValueError(f"no pixel of object {gone[0]} is left on frame {frame}, other objects cover it: give other prompts")
    answers = tuple(Answer(i, float(scores[i]), int(np.count_nonzero(labels == i))) for i in masks)
    return Segmented(labels, answers, tuple(notes))


def make_prompter(picture: npt.NDArray[np.uint8]) -> Any:
    """Return the `hodor.prompter.Prompter` of a picture."""
    from hodor.prompter import Prompter

    return Prompter(picture)


def _check(i: int, given: ObjectPrompts, has_mask: bool, size: tuple[int, int], frame: int) -> None:
    """Raise ValueError for prompts from which no object can be segmented."""
    height, width = size
    where = f"frame {frame} of {width}x{height} pixels"
    for x, y in given.points:
        if not (0 <= x < width and 0 <= y < height):
            advice = f"give X from 0 to {width - 1} and Y from 0 to {height - 1}"
            raise ValueError(f"expected points inside {where}, got {x:g},{y:g} for object {i}: {advice}")
    if given.box is not None:
        x0, y0, x1, y1 = given.box
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            advice = "give the upper left corner, then the lower right one"
            raise ValueError(f"expected a box inside {where}, got {x0:g},{y0:g},{x1:g},{y1:g} for object {i}: {advice}")
    if given.box is None and not has_mask and 1 not in given.labels:
        raise ValueError(
            f"expected a point on object {i} on frame {frame}, got only background points: give --point or --box for it, too"
        )


def split_frame(given: str) -> tuple[str, int]:
    """Split SOURCE@FRAME.

    Args:
        given: "clip.mp4" is frame 0, "clip.mp4@40" frame 40. An existing file whose name has an @ is not split.

    Returns:
        The source and the number of the frame.
    """
    import os

    source, at, number = given.rpartition("@")
    return (source, int(number)) if at and number.isdecimal() and not os.path.exists(given) else (given, 0)

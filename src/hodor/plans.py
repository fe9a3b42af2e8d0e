"""Training schemes as data: a plan names its steps, and one rollout plays any of them.

plan = cyclic(3)                          # out and back, judged on the frame we started from
played = rollout(network, clip, plan)     # what each step predicted, beside the truth
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from hodor.data.clip import Clip
from hodor.models.base import Memory, Network, Prediction

Handoff = Literal["soft", "detached", "hard"]


@dataclass(frozen=True)
class Step:
    """Segment frame `target` from what frames `sources` left in the memory.

    judged: the loss reads this prediction. grad: record gradients. handoff: how the predicted mask is remembered, "soft" with
    gradients through it (the paper's claim), "detached" without (the released setting), "hard" rounded as well. restart:
    before the step, forget everything but the sources, and take their masks as if they had been given.
    """

    sources: tuple[int, ...]
    target: int
    judged: bool = True
    grad: bool = True
    handoff: Handoff = "detached"
    restart: bool = False


Plan = tuple[Step, ...]


@dataclass(frozen=True)
class Judged:
    """A prediction that the loss reads, and the truth of its frame: masks_BNHW without objects that no step could know.

    objects_BN: planes that hold an object; the rest pad the batch and are not judged. None: all do.
    """

    target: int
    prediction: Prediction
    masks_BNHW: Tensor
    valid_BHW: Tensor
    objects_BN: Tensor | None = None


def still() -> Plan:
    """Single image: an image is segmented from its own descriptors (Table 1, row 1)."""
    return (Step((0,), 0),)


def chain(frames: int, handoff: Handoff = "detached") -> Plan:
    """Forward through the clip, each frame from the one before: duplicated or augmented stills (Table 1, rows 2 to 4)."""
    return tuple(Step((t - 1,), t, handoff=handoff) for t in range(1, frames))


def dense(frames: int, handoff: Handoff = "detached") -> Plan:
    """Forward through an annotated clip, each frame from all before it (Table 1, row 6)."""
    return tuple(Step(tuple(range(t)), t, handoff=handoff) for t in range(1, frames))


def cyclic(frames: int, handoff: Handoff = "soft") -> Plan:
    """Out to the last frame and back to the first; only the first is labelled and judged (Table 1, row 5)."""
    out = [Step((t - 1,), t, judged=False, handoff=handoff) for t in range(1, frames)]
    back = [Step((t + 1,), t, judged=t == 0, handoff=handoff) for t in range(frames - 2, -1, -1)]
    return tuple(out + back)


def released(iteration: int, handoff: Handoff = "detached") -> Plan:
    """The released code's three chains over three frames: 0>0; 0>1>0; and, by the iteration's parity, 0>1>2>1>0 or its twin
    with two sources, 0>1, {0,1}>2>1, {1,2}>0. Six predictions, as the first step of the last two chains is one."""
    two = iteration % 2 == 1
    steps = [((0,), 0), ((0,), 1), ((1,), 0), ((0, 1) if two else (1,), 2), ((2,), 1), ((1, 2) if two else (1,), 0)]
    return tuple(Step(sources, target, handoff=handoff) for sources, target in steps)


def rollout(network: Network, clip: Clip, plan: Sequence[Step]) -> list[Judged]:
    """Play the plan on a clip; -> what is judged, in order.

    Frame 0 is the one whose masks are given; predictions of it are never remembered. A remembered object is one that some
    source could show: the truth of an object that vanished before, and so cannot be known, is taken to be background. A
    frame without labels is not judged, whatever the plan says; `check` finds clips of which nothing would be.

    Raises ValueError: "step 2 reads frame 1, which no earlier step has remembered".
    """
    frames = clip.frames_BTCHW.shape[1]
    images = network.encode(clip.frames_BTCHW.transpose(0, 1).flatten(0, 1)).split(frames)
    known, visible = clip.objects_BN, clip.visible_BTN
    memory = Memory(objects=tuple(range(1, known.shape[1] + 1)))
    memory = network.remember(memory, 0, images[0], clip.masks_BTNHW[:, 0], known, known)
    trackable = {0: known & visible[:, 0]}
    given = {0}
    soft = {0: clip.masks_BTNHW[:, 0]}
    judged = []
    for number, step in enumerate(plan):
        with torch.set_grad_enabled(step.grad and torch.is_grad_enabled()):
            missing = [s for s in step.sources if s not in soft or not (step.restart or s in memory.frames)]
            if missing:
                raise ValueError(f"step {number} reads frame {missing[0]}, which no earlier step has remembered")
            if step.restart:
                memory, given = Memory(objects=memory.objects), set(step.sources)
                for source in step.sources:
                    memory = network.remember(memory, source, images[source], soft[source], known, known)
            prediction, memory_after = network.segment(memory.only(step.sources), images[step.target])
            can_know = torch.stack([trackable[s] for s in step.sources]).any(0)
            if step.judged:
                truth = clip.masks_BTNHW[:, step.target] * can_know[..., None, None]
                valid = clip.valid_BTHW[:, step.target] & clip.labelled_BT[:, step.target, None, None]
                judged.append(Judged(step.target, prediction, truth, valid, known))
            memory = replace(memory, state=memory_after.state)
            if step.target in given or not _read_later(plan[number + 1 :], step.target):
                continue
            mask = prediction.soft()
            mask = mask if step.handoff == "soft" else mask.detach()
            soft[step.target] = mask.round() if step.handoff == "hard" else mask
            memory = network.remember(
                memory, step.target, images[step.target], soft[step.target], known, torch.zeros_like(known)
            )
            trackable[step.target] = can_know & visible[:, step.target]
    return judged


def check(plan: Sequence[Step], clip: Clip) -> None:
    """Raises ValueError for a clip of which the plan judges nothing: "the plan judges frames 1, 2, the clip is labelled on
    frame 0: want a plan that judges frame 0 (cyclic), or labels on the others"."""
    judged = list(dict.fromkeys(step.target for step in plan if step.judged))
    for labelled_T in clip.labelled_BT:
        if not bool(labelled_T[judged].any()):
            wanted = ", ".join(map(str, judged))
            have = ", ".join(map(str, labelled_T.nonzero().flatten().tolist()))
            told = f"the plan judges {_plural(judged)} {wanted}, the clip is labelled on frame {have or 'none'}"
            raise ValueError(f"{told}: want a plan that judges frame 0 (cyclic), or labels on the others")


def _plural(frames: Sequence[int]) -> str:
    return "frames" if len(frames) > 1 else "frame"


def _read_later(steps: Sequence[Step], frame: int) -> bool:
    """Whether a later step reads what this prediction would leave, before another takes its place."""
    for step in steps:
        if frame in step.sources:
            return True
        if step.target == frame:
            return False
    return False

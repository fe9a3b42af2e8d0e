"""Training schemes as data: a plan names its steps, and one rollout plays any of them.

plan = cyclic(3)                          # out and back, supervised on the frame we started from
played = rollout(network, clip, plan)     # what each step predicted, beside the ground truth

Plans with random parts (`propagate`, `one_shot`, `empty_reference`) draw them from a passed generator. docs/one-shot.md tells
of every reading of the one-shot training paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from hodor.data.clip import Clip
from hodor.data.sampling import below, some
from hodor.models.base import Features, Memory, Network, Prediction

MaskFeedback = Literal["soft", "detached", "hard"]
References = Literal["previous", "first-random", "random"]
"""Which frames a step of `propagate` reads: "previous", frame 0 and the one before (STCN); "first-random", frame 0 and others
of the past (XMem); "random", any of the past, frame 0 like another (Cutie)."""
Back = Literal["two", "all", "one"]
"""The way back of one-shot training: by one random frame between, by every frame, or straight."""


@dataclass(frozen=True)
class Step:
    """Segment frame `target` from what frames `sources` left in the memory.

    supervised: the loss reads this prediction. grad: record gradients. mask_feedback: how the predicted mask is remembered, "soft" with
    gradients through it (the paper's claim), "detached" without (the released setting), "hard" rounded as well. restart:
    before the step, forget everything but the sources, and take their masks as if they had been given. blank: of a restart,
    take empty masks instead. present: of a restart, leave out the objects that no source shows on any pixel (above 0.5):
    they are neither remembered nor supervised from there on.
    """

    sources: tuple[int, ...]
    target: int
    supervised: bool = True
    grad: bool = True
    mask_feedback: MaskFeedback = "detached"
    restart: bool = False
    blank: bool = False
    present: bool = False


Plan = tuple[Step, ...]


@dataclass(frozen=True)
class Supervised:
    """A prediction that the loss reads, and the ground truth of its frame: masks_BNHW without objects that no step could know.

    objects_BN: planes that hold an object; the rest pad the batch and are not supervised. None: all do. began_BNHW: the soft masks,
    at the frame's own size, that the last restart began with; None where there was none.
    """

    target: int
    prediction: Prediction
    masks_BNHW: Tensor
    valid_BHW: Tensor
    objects_BN: Tensor | None = None
    began_BNHW: Tensor | None = None


def still() -> Plan:
    """Single image: an image is segmented from its own descriptors (Table 1, row 1)."""
    return (Step((0,), 0),)


def chain(frames: int, mask_feedback: MaskFeedback = "detached") -> Plan:
    """Forward through the clip, each frame from the one before: duplicated or augmented stills (Table 1, rows 2 to 4)."""
    return tuple(Step((t - 1,), t, mask_feedback=mask_feedback) for t in range(1, frames))


def dense(frames: int, mask_feedback: MaskFeedback = "detached") -> Plan:
    """Forward through an annotated clip, each frame from all before it (Table 1, row 6)."""
    return tuple(Step(tuple(range(t)), t, mask_feedback=mask_feedback) for t in range(1, frames))


def cyclic(frames: int, mask_feedback: MaskFeedback = "soft") -> Plan:
    """Out to the last frame and back to the first; only the first is labelled and supervised (Table 1, row 5)."""
    out = [Step((t - 1,), t, supervised=False, mask_feedback=mask_feedback) for t in range(1, frames)]
    back = [Step((t + 1,), t, supervised=t == 0, mask_feedback=mask_feedback) for t in range(frames - 2, -1, -1)]
    return tuple(out + back)


def released(iteration: int, mask_feedback: MaskFeedback = "detached") -> Plan:
    """The released code's three chains over three frames: 0>0; 0>1>0; and, by the iteration's parity, 0>1>2>1>0 or its twin
    with two sources, 0>1, {0,1}>2>1, {1,2}>0. Six predictions, as the first step of the last two chains is one."""
    two = iteration % 2 == 1
    steps = [((0,), 0), ((0,), 1), ((1,), 0), ((0, 1) if two else (1,), 2), ((2,), 1), ((1, 2) if two else (1,), 0)]
    return tuple(Step(sources, target, mask_feedback=mask_feedback) for sources, target in steps)


def propagate(
    frames: int,
    references: References = "first-random",
    reads: int = 3,
    rng: torch.Generator | None = None,
    mask_feedback: MaskFeedback = "soft",
) -> Plan:
    """Forward through an annotated clip as STCN, XMem and Cutie train: each frame from at most `reads` frames of the past
    (all of it, while it is shorter), chosen as `references` says; "previous" reads two at most. Every prediction is supervised.

    rng: what is random is drawn from it; None is a generator of its own, always the same. Raises ValueError: "a clip of 1
    frames has nothing to predict: want 2 or more".
    """
    if frames < 2:
        raise ValueError(f"a clip of {frames} frames has nothing to predict: want 2 or more")
    rng = torch.Generator() if rng is None else rng
    return tuple(Step(_past(t, references, reads, rng), t, mask_feedback=mask_feedback) for t in range(1, frames))


def _past(t: int, references: References, reads: int, rng: torch.Generator) -> tuple[int, ...]:
    if references == "previous":
        return tuple(sorted({0, t - 1}))
    if t <= reads:
        return tuple(range(t))
    if references == "random":
        return tuple(sorted(some(reads, t, rng)))
    return (0, *sorted(1 + i for i in some(reads - 1, t - 1, rng)))


def one_shot(
    frames: int,
    back: Back = "two",
    references: References = "first-random",
    reads: int = 3,
    rng: torch.Generator | None = None,
    mask_feedback: MaskFeedback = "soft",
    begin: Literal["soft", "hard"] = "soft",
    present: bool = False,
) -> Plan:
    """Out to the last frame T without gradient; then, from a memory that holds T and its predicted mask alone, back to frame
    0, which alone is supervised (one-shot training, Fig. 3).

    back "all": through every frame, T in the role of frame 0 (T-step). "two": T > T1 > 0 with T1 random, predicted anew from
    T; frame 0 is read from {T, T1}. "one": straight from T to 0. references, reads: as in `propagate`, both ways. mask_feedback: of
    the predictions on the way back. begin: the mask of T as it is, or rounded. present: see `Step`.

    Raises ValueError: "one step between 2 frames: want 3 frames or more to go back by two, or back one".
    """
    rng = torch.Generator() if rng is None else rng
    out = [
        replace(s, supervised=False, grad=False, mask_feedback="detached") for s in propagate(frames, references, reads, rng)
    ]
    out[-1] = replace(out[-1], mask_feedback="detached" if begin == "soft" else "hard")
    return (*out, *_way_back(frames, back, references, reads, rng, mask_feedback, present=present))


def empty_reference(
    frames: int,
    back: Back = "two",
    references: References = "first-random",
    reads: int = 3,
    rng: torch.Generator | None = None,
    mask_feedback: MaskFeedback = "soft",
) -> Plan:
    """The way back of `one_shot` from an empty mask on the last frame, without the way out: what coarse masks a network learns
    that is told nothing (one-shot training, Fig. 1a and 6). Put the prediction there instead, and it is one-shot training."""
    rng = torch.Generator() if rng is None else rng
    return _way_back(frames, back, references, reads, rng, mask_feedback, blank=True)


def _way_back(
    frames: int,
    back: Back,
    references: References,
    reads: int,
    rng: torch.Generator,
    mask_feedback: MaskFeedback,
    **restart: Any,
) -> Plan:
    last = frames - 1
    if back == "all":
        mirrored = propagate(frames, references, reads, rng)
        steps = [Step(tuple(last - s for s in step.sources), last - step.target) for step in mirrored]
    elif back == "one":
        steps = [Step((last,), 0)]
    elif frames < 3:
        raise ValueError(f"one step between {frames} frames: want 3 frames or more to go back by two, or back one")
    else:
        between = 1 + below(last - 1, rng)
        steps = [Step((last,), between), Step((last, between), 0)]
    steps = [replace(step, supervised=step.target == 0, mask_feedback=mask_feedback) for step in steps]
    return (replace(steps[0], restart=True, **restart), *steps[1:])


def rollout(network: Network, clip: Clip, plan: Sequence[Step]) -> list[Supervised]:
    """Play the plan on a clip; -> what is supervised, in order.

    Frame 0 is the one whose masks are given; predictions of it are never remembered. A remembered object is one that some
    source could show: the ground truth of an object that vanished before, and so cannot be known, is taken to be background. A
    frame without labels is not supervised, whatever the plan says; `check` finds clips of which nothing would be. Labels of frames
    that the plan does not judge are not looked at, but for frame 0's.

    A frame is encoded once, and without gradient where only steps without gradient see it. Every predicted frame that a later
    step reads is remembered; with a recurrent network every one, as that moves its state on. A restart begins with a fresh
    state.

    Raises ValueError: "step 2 reads frame 1, which no earlier step has remembered".
    """
    images = _encode(network, clip, plan)
    known = clip.objects_BN
    looked_at = {0, *(step.target for step in plan if step.supervised)}
    visible = {t: clip.visible_BTN[:, t] if t in looked_at else torch.ones_like(known) for t in images}
    memory = Memory(objects=tuple(range(1, known.shape[1] + 1)))
    opening = _until_restart(plan)
    if opening:
        with torch.set_grad_enabled(any(step.grad for step in opening) and torch.is_grad_enabled()):
            memory = network.remember(memory, 0, images[0], clip.masks_BTNHW[:, 0], known, known)
    trackable = {0: known & visible[0]}
    given = {0}
    soft = {0: clip.masks_BTNHW[:, 0]}
    began: Tensor | None = None
    supervised = []
    for number, step in enumerate(plan):
        with torch.set_grad_enabled(step.grad and torch.is_grad_enabled()):
            if step.blank:
                soft |= {s: torch.zeros_like(clip.masks_BTNHW[:, s]) for s in step.sources}
                trackable |= dict.fromkeys(step.sources, known)
            missing = [s for s in step.sources if s not in soft or not (step.restart or s in memory.frames)]
            if missing:
                raise ValueError(f"step {number} reads frame {missing[0]}, which no earlier step has remembered")
            if step.restart:
                memory, given = Memory(objects=memory.objects), set(step.sources)
                if step.present:
                    known = known & torch.stack([_shown(soft[s]) for s in step.sources]).any(0)
                for source in step.sources:
                    memory = network.remember(memory, source, images[source], soft[source], known, known)
                began = images[step.sources[0]].full(soft[step.sources[0]].detach())
            prediction, memory_after = network.segment(memory.only(step.sources), images[step.target])
            can_know = torch.stack([trackable[s] for s in step.sources]).any(0)
            if step.supervised:
                ground_truth = clip.masks_BTNHW[:, step.target] * can_know[..., None, None]
                valid = clip.valid_BTHW[:, step.target] & clip.labelled_BT[:, step.target, None, None]
                if known is not clip.objects_BN:
                    valid = valid & ~(ground_truth * ~known[..., None, None]).any(1)
                    ground_truth = ground_truth * known[..., None, None]
                supervised.append(Supervised(step.target, prediction, ground_truth, valid, known, began))
            memory = replace(memory, state=memory_after.state)
            if step.target in given:
                continue
            mask = prediction.soft()
            mask = mask if step.mask_feedback == "soft" else mask.detach()
            soft[step.target] = mask.round() if step.mask_feedback == "hard" else mask
            trackable[step.target] = can_know & visible[step.target]
            later = _until_restart(plan[number + 1 :])
            if _read_later(later, step.target) or (network.recurrent and later):
                memory = network.remember(
                    memory, step.target, images[step.target], soft[step.target], known, torch.zeros_like(known)
                )
    return supervised


def _encode(network: Network, clip: Clip, plan: Sequence[Step]) -> dict[int, Features]:
    """The frames that the plan names; those that no gradient can reach without one."""
    every = range(clip.frames_BTCHW.shape[1])
    named = [t for t in every if any(t in (0, *step.sources, step.target) for step in plan)]
    reached = {0} if any(step.grad for step in _until_restart(plan)) else set[int]()
    for step in plan:
        if step.grad:
            reached.update([step.target, *(step.sources if step.restart else ())])
    if not torch.is_grad_enabled():
        reached = set(named)
    found: dict[int, Features] = {}
    for group, grad in (([t for t in named if t in reached], True), ([t for t in named if t not in reached], False)):
        if group:
            with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
                frames = clip.frames_BTCHW[:, group].transpose(0, 1).flatten(0, 1)
                found |= dict(zip(group, network.encode(frames).split(len(group)), strict=True))
    return found


def _until_restart(steps: Sequence[Step]) -> Sequence[Step]:
    """The steps that share a memory with the first."""
    return steps[: next((i for i, step in enumerate(steps) if step.restart), len(steps))]


def _shown(soft_BNHW: Tensor) -> Tensor:
    """-> BN, objects with a pixel above one half."""
    return (soft_BNHW > 0.5).flatten(2).any(-1)


def check(plan: Sequence[Step], clip: Clip) -> None:
    """Raises ValueError for a clip of which the plan judges nothing: "the plan judges frames 1, 2, the clip is labelled on
    frame 0: want a plan that judges frame 0 (cyclic), or labels on the others"."""
    supervised = list(dict.fromkeys(step.target for step in plan if step.supervised))
    for labelled_T in clip.labelled_BT:
        if not bool(labelled_T[supervised].any()):
            wanted = ", ".join(map(str, supervised))
            have = ", ".join(map(str, labelled_T.nonzero().flatten().tolist()))
            told = f"the plan judges {_plural(supervised)} {wanted}, the clip is labelled on frame {have or 'none'}"
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

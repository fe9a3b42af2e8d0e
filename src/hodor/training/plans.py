"""Training schemes as data: a plan is a tuple of steps, and one function (`rollout`) runs any plan on a clip.

    plan = cyclic(3)                              # forward and back; supervised on the first frame
    supervised = rollout(network, clip, plan)     # the predictions that the loss reads, with their ground truth

To add a scheme: write a function that returns a plan, and enter it in `plan_of` and in the literal `Scheme` of
training/recipe.py. Plans with random parts (`propagate`, `one_shot`, `empty_reference`) take a random generator.
docs/one-shot.md lists how the one-shot training paper was read where it leaves a choice open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from hodor.data.clip import Clip
from hodor.data.sampling import below, choose, generator
from hodor.models.base import Memory, Network
from hodor.models.prediction import Features, Prediction
from hodor.training.recipe import Back, MaskFeedback, Recipe, References

STREAM_OF_PLANS = (0, 0, 1)
"""Follows (seed, step) in the seed of plans: keeps them apart from the random numbers of clips and dropout."""


@dataclass(frozen=True)
class Step:
    """One prediction: segment frame `target` from the frames `sources` in memory.

    Attributes:
        sources: frames to read.
        target: frame to segment.
        supervised: whether the loss reads this prediction. Default: True.
        grad: whether gradients are recorded. Default: True.
        mask_feedback: how the predicted mask enters the memory: "soft" with gradients through it (HODOR's paper), "detached"
            without (HODOR's released code), "hard" rounded as well. Default: "detached".
        restart: before the step, empty the memory except for the sources, and treat their masks as given. Default: False.
        blank: for a restart: use empty masks instead. Default: False.
        present: for a restart: leave out objects that no source shows on any pixel (above 0.5); they are neither remembered
            nor supervised from there on. Default: False.
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
    """A prediction that the loss reads, with the ground truth of its frame.

    Attributes:
        target: the frame.
        prediction: the prediction.
        masks_BNHW: ground truth in {0, 1}, float, without objects that no source of the step could show.
        valid_BHW: bool, the pixels that are supervised.
        objects_BN: bool, the planes that hold an object; the others pad the batch and are not supervised. None: all do.
        began_BNHW: the soft masks, at the frame's own size, at the start of the return path. None without a restart.
    """

    target: int
    prediction: Prediction
    masks_BNHW: Tensor
    valid_BHW: Tensor
    objects_BN: Tensor | None = None
    began_BNHW: Tensor | None = None


def plan_of(recipe: Recipe, step: int) -> Plan:
    """Return the plan of a recipe's scheme at a training step; it is the same for all clips of the batch.

    The scheme "released" alternates with the parity of the step. Random parts depend on (seed, step) alone.

    Raises:
        ValueError: if the clips are too short for the plan, as `propagate` and `one_shot`.
    """
    frames, rng = recipe.frames, generator(recipe.seed, step, *STREAM_OF_PLANS)
    past: dict[str, Any] = {"references": recipe.references, "reads": recipe.reads, "rng": rng}
    schemes: dict[str, Callable[..., Plan]] = {
        "still": lambda **_: still(),
        "chain": partial(chain, frames),
        "dense": partial(dense, frames),
        "cyclic": partial(cyclic, frames),
        "released": partial(released, step),
        "propagate": partial(propagate, frames, **past),
        "one-shot": partial(one_shot, frames, recipe.back, **past, begin=recipe.begin, present=recipe.present),
        "empty-reference": partial(empty_reference, frames, recipe.back, **past),
    }
    return schemes[recipe.scheme](**({"mask_feedback": recipe.mask_feedback} if recipe.mask_feedback else {}))


def still() -> Plan:
    """Return the plan of single images: an image is segmented from its own descriptors. Source: HODOR, Table 1, row 1."""
    return (Step((0,), 0),)


def chain(frames: int, mask_feedback: MaskFeedback = "detached") -> Plan:
    """Return the plan forward through the clip, each frame from the one before. Source: HODOR, Table 1, rows 2 to 4.

    Args:
        frames: frames of the clip (T).
        mask_feedback: see `Step`.
    """
    return tuple(Step((t - 1,), t, mask_feedback=mask_feedback) for t in range(1, frames))


def dense(frames: int, mask_feedback: MaskFeedback = "detached") -> Plan:
    """Return the plan forward through an annotated clip, each frame from all before it. Source: HODOR, Table 1, row 6.

    Args:
        frames: frames of the clip (T).
        mask_feedback: see `Step`.
    """
    return tuple(Step(tuple(range(t)), t, mask_feedback=mask_feedback) for t in range(1, frames))


def cyclic(frames: int, mask_feedback: MaskFeedback = "soft") -> Plan:
    """Return the plan forward to the last frame and back to the first, the only one that is supervised.

    Source: HODOR, Table 1, row 5.

    Args:
        frames: frames of the clip (T).
        mask_feedback: see `Step`.
    """
    out = [Step((t - 1,), t, supervised=False, mask_feedback=mask_feedback) for t in range(1, frames)]
    back = [Step((t + 1,), t, supervised=t == 0, mask_feedback=mask_feedback) for t in range(frames - 2, -1, -1)]
    return tuple(out + back)


def released(iteration: int, mask_feedback: MaskFeedback = "detached") -> Plan:
    """Return the plan of HODOR's released code: three chains over three frames.

    The chains are 0>0; 0>1>0; and, in even iterations, 0>1>2>1>0, in odd ones the same with two sources, 0>1, {0,1}>2>1,
    {1,2}>0. There are six predictions, as the last two chains share their first step.

    Args:
        iteration: training step, from 0.
        mask_feedback: see `Step`.
    """
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
    """Return the plan forward through an annotated clip, every prediction supervised, as STCN, XMem and Cutie train.

    Args:
        frames: frames of the clip (T), at least 2.
        references: which past frames a step reads: see `recipe.References`.
        reads: maximum number of past frames that a step reads (all of them while there are fewer); "previous" reads at most
            two. Default: 3.
        rng: generator of the random frames. Default: a new generator with a fixed seed.
        mask_feedback: see `Step`.

    Raises:
        ValueError: "expected a clip of at least 2 frames, got 1".
    """
    if frames < 2:
        raise ValueError(f"expected a clip of at least 2 frames, got {frames}")
    rng = torch.Generator() if rng is None else rng
    return tuple(Step(_past(t, references, reads, rng), t, mask_feedback=mask_feedback) for t in range(1, frames))


def _past(t: int, references: References, reads: int, rng: torch.Generator) -> tuple[int, ...]:
    if references == "previous":
        return tuple(sorted({0, t - 1}))
    if t <= reads:
        return tuple(range(t))
    if references == "recent":
        return (0, *range(t - reads + 1, t))
    if references == "random":
        return tuple(sorted(choose(reads, t, rng)))
    return (0, *sorted(1 + i for i in choose(reads - 1, t - 1, rng)))


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
    """Return the plan of one-shot training: forward without gradient, then back from the last frame's predicted mask.

    The outward path goes to the last frame T without gradient. The return path starts from a memory that holds T and its
    predicted mask alone and ends at frame 0, the only one that is supervised. Source: one-shot training, Fig. 3.

    Args:
        frames: frames of the clip, at least 3 with back "two".
        back: "all": through every frame, with T in the role of frame 0 (T-step). "two": T > T1 > 0 with a random T1, which is
            predicted again from T; frame 0 is read from {T, T1}. "one": directly from T to 0.
        references: as in `propagate`, on both paths.
        reads: as in `propagate`, on both paths.
        rng: as in `propagate`.
        mask_feedback: of the predictions on the return path.
        begin: mask of T at the start of the return path, as predicted ("soft") or rounded ("hard").
        present: see `Step`.

    Raises:
        ValueError: "expected a clip of at least 3 frames for back two, got 2: use longer clips, or back one".
    """
    rng = torch.Generator() if rng is None else rng
    out = [
        replace(s, supervised=False, grad=False, mask_feedback="detached") for s in propagate(frames, references, reads, rng)
    ]
    out[-1] = replace(out[-1], mask_feedback="detached" if begin == "soft" else "hard")
    return (*out, *_return_path(frames, back, references, reads, rng, mask_feedback, present=present))


def empty_reference(
    frames: int,
    back: Back = "two",
    references: References = "first-random",
    reads: int = 3,
    rng: torch.Generator | None = None,
    mask_feedback: MaskFeedback = "soft",
) -> Plan:
    """Return the return path of `one_shot` from an empty mask on the last frame, without the outward path.

    It shows which coarse masks a network learns without any mask as input. Source: one-shot training, Fig. 1a and 6.

    Args:
        frames: as in `one_shot`.
        back: as in `one_shot`.
        references: as in `one_shot`.
        reads: as in `one_shot`.
        rng: as in `one_shot`.
        mask_feedback: as in `one_shot`.
    """
    rng = torch.Generator() if rng is None else rng
    return _return_path(frames, back, references, reads, rng, mask_feedback, blank=True)


def _return_path(
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
        raise ValueError(f"expected a clip of at least 3 frames for back two, got {frames}: use longer clips, or back one")
    else:
        between = 1 + below(last - 1, rng)
        steps = [Step((last,), between), Step((last, between), 0)]
    steps = [replace(step, supervised=step.target == 0, mask_feedback=mask_feedback) for step in steps]
    return (replace(steps[0], restart=True, **restart), *steps[1:])


def rollout(network: Network, clip: Clip, plan: Sequence[Step]) -> list[Supervised]:
    """Run a plan on a clip.

    Frame 0 is the frame whose masks are given; predictions of it are never remembered. The ground truth of an object counts as
    background where no source of the step could show the object, for example after it left the picture. A frame without labels
    is not supervised, whatever the plan states (`check_labels` finds clips that would not be supervised at all). Labels of
    frames that the plan does not supervise are not read, except those of frame 0.

    Each frame is encoded once, without gradient if only steps without gradient read it. A predicted frame is remembered if a
    later step reads it, and always if the network is recurrent, as `remember` updates its state. A restart begins with a new
    state.

    Args:
        network: the network.
        clip: the clips.
        plan: the steps, in order.

    Returns:
        The supervised predictions, in the order of the plan.

    Raises:
        ValueError: "step 2 reads frame 1, which no earlier step has remembered".
    """
    images = _encode(network, clip, plan)
    valid_BN = clip.objects_BN
    labels_read = {0, *(step.target for step in plan if step.supervised)}
    visible = {t: clip.visible_BTN[:, t] if t in labels_read else torch.ones_like(valid_BN) for t in images}
    memory = Memory(objects=tuple(range(1, valid_BN.shape[1] + 1)))
    opening = _until_restart(plan)
    if opening:
        with _gradient(any(step.grad for step in opening)):
            memory = network.remember(memory, 0, images[0], clip.masks_BTNHW[:, 0], valid_BN, valid_BN)
    traceable = {0: valid_BN & visible[0]}
    given = {0}
    soft = {0: clip.masks_BTNHW[:, 0]}
    began: Tensor | None = None
    supervised = []
    for number, step in enumerate(plan):
        with _gradient(step.grad):
            if step.blank:
                soft |= {s: torch.zeros_like(clip.masks_BTNHW[:, s]) for s in step.sources}
                traceable |= dict.fromkeys(step.sources, valid_BN)
            missing = [s for s in step.sources if s not in soft or not (step.restart or s in memory.frames)]
            if missing:
                raise ValueError(f"step {number} reads frame {missing[0]}, which no earlier step has remembered")
            if step.restart:
                memory, given = Memory(objects=memory.objects), set(step.sources)
                if step.present:
                    valid_BN = valid_BN & torch.stack([_shown(soft[s]) for s in step.sources]).any(0)
                for source in step.sources:
                    memory = network.remember(memory, source, images[source], soft[source], valid_BN, valid_BN)
                began = images[step.sources[0]].full(soft[step.sources[0]].detach())
            prediction, memory_after = network.segment(memory.only(step.sources), images[step.target])
            traceable_BN = torch.stack([traceable[s] for s in step.sources]).any(0)
            if step.supervised:
                ground_truth = clip.masks_BTNHW[:, step.target] * traceable_BN[..., None, None]
                valid_BHW = clip.valid_BTHW[:, step.target] & clip.labelled_BT[:, step.target, None, None]
                if valid_BN is not clip.objects_BN:
                    valid_BHW = valid_BHW & ~(ground_truth * ~valid_BN[..., None, None]).any(1)
                    ground_truth = ground_truth * valid_BN[..., None, None]
                supervised.append(Supervised(step.target, prediction, ground_truth, valid_BHW, valid_BN, began))
            memory = replace(memory, state=memory_after.state)
            if step.target in given:
                continue
            mask = prediction.soft()
            mask = mask if step.mask_feedback == "soft" else mask.detach()
            soft[step.target] = mask.round() if step.mask_feedback == "hard" else mask
            traceable[step.target] = traceable_BN & visible[step.target]
            later = _until_restart(plan[number + 1 :])
            if _read_later(later, step.target) or (network.recurrent and later):
                memory = network.remember(
                    memory, step.target, images[step.target], soft[step.target], valid_BN, torch.zeros_like(valid_BN)
                )
    return supervised


@contextmanager
def _gradient(enabled: bool) -> Iterator[None]:
    """Record gradients only if `enabled`, and if the caller does.

    torch 2.6 reuses weights that autocast has cast without gradient in a later part with gradient, which then does not train
    them (torch 2.13 does not). So the cache of autocast is emptied between the two.
    """
    with torch.set_grad_enabled(enabled and torch.is_grad_enabled()):
        yield
    if not enabled:
        torch.clear_autocast_cache()


def _encode(network: Network, clip: Clip, plan: Sequence[Step]) -> dict[int, Features]:
    """Encode the frames that the plan names, those that no gradient can reach without a graph."""
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
            with _gradient(grad):
                frames = clip.frames_BTCHW[:, group].transpose(0, 1).flatten(0, 1)
                found |= dict(zip(group, network.encode(frames).split(len(group)), strict=True))
    return found


def _until_restart(steps: Sequence[Step]) -> Sequence[Step]:
    """The steps up to the next restart: they share the memory of the first."""
    return steps[: next((i for i, step in enumerate(steps) if step.restart), len(steps))]


def _shown(soft_BNHW: Tensor) -> Tensor:
    """BN, the objects with a pixel above 0.5."""
    return (soft_BNHW > 0.5).flatten(2).any(-1)


def check_labels(plan: Sequence[Step], clip: Clip) -> None:
    """Check that the plan supervises at least one labelled frame of each clip.

    Raises:
        ValueError: "expected labels on a supervised frame (1, 2), got labels on frame 0: use a plan that supervises frame 0
            (cyclic), or label other frames".
    """
    supervised = list(dict.fromkeys(step.target for step in plan if step.supervised))
    for labelled_T in clip.labelled_BT:
        if not bool(labelled_T[supervised].any()):
            labelled = ", ".join(map(str, labelled_T.nonzero().flatten().tolist()))
            raise ValueError(
                f"expected labels on a supervised frame ({', '.join(map(str, supervised))}), "
                f"got labels on {f'frame {labelled}' if labelled else 'no frame'}: "
                "use a plan that supervises frame 0 (cyclic), or label other frames"
            )


def check_recurrent(recipe: Recipe, network: Network) -> None:
    """Check that the return path trains the state of a recurrent network.

    Raises:
        ValueError: "expected --back two or all for the recurrent network xmem, got one: it would never train the update of
            the state, which only a second step back reads".
    """
    if network.recurrent and recipe.scheme in ("one-shot", "empty-reference") and recipe.back == "one":
        raise ValueError(
            f"expected --back two or all for the recurrent network {network.name}, got one: "
            "it would never train the update of the state, which only a second step back reads"
        )


def _read_later(steps: Sequence[Step], frame: int) -> bool:
    """Whether a later step reads this prediction of the frame, before another prediction replaces it."""
    for step in steps:
        if frame in step.sources:
            return True
        if step.target == frame:
            return False
    return False

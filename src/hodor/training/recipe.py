"""A training as values: every choice that a run's weights depend on, and what follows from them at a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from hodor.data.sampling import generator
from hodor.data.stream import Data
from hodor.models.base import Network
from hodor.training import plans
from hodor.training.losses import Bootstrap, Loss, Points
from hodor.training.validation import Validation

Scheme = Literal["still", "chain", "dense", "cyclic", "released", "propagate", "one-shot", "empty-reference"]
Setting = bool | int | float | str


@dataclass(frozen=True)
class Recipe:
    """Everything that a run's weights depend on, as values."""

    model: str = "hodor-lite"
    """A network of `models.weights.MODELS`."""
    settings: tuple[tuple[str, Setting], ...] = ()
    """Changes to the network's settings, as (name, value): ("conditioning", "hard")."""
    backbone: Path | None = None
    """A public checkpoint of the backbone to begin from (.pth), or a .safetensors file of ours, of whatever network, whose
    backbone is taken."""
    init: Path | None = None
    """A .safetensors file of ours to begin from."""
    data: Data = field(default_factory=Data)
    """Where clips come from."""
    scheme: Scheme = "dense"
    """Which frames speak to which, and which are supervised: see `plans`."""
    frames: int = 3
    """T, frames of a clip."""
    mask_feedback: plans.MaskFeedback | None = None
    """How predicted masks are remembered; None takes the scheme's own (cycles, propagate and ways back soft, the others
    detached)."""
    references: plans.References = "first-random"
    """Of propagate, one-shot and empty-reference: which past frames a step reads. previous: frame 0 and the one before (STCN).
    first-random: frame 0 and others (XMem). random: any (Cutie)."""
    reads: int = 3
    """Of the same: how many of them at most; "previous" reads two."""
    back: plans.Back = "two"
    """Of one-shot and empty-reference: the way back, by one random frame between, by all, or straight in one step."""
    begin: Literal["soft", "hard"] = "soft"
    """Of one-shot: the mask that the way back begins with, as predicted or rounded."""
    present: bool = False
    """Of one-shot: leave out objects of which the way out finds no pixel on the last frame."""
    loss: Loss = "released"
    """Which terms are added up: see `losses`."""
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    """Of the bootstrapped losses: from which step to which fewer pixels are taken, down to what share."""
    points: Points = field(default_factory=Points)
    """Of loss points: where it looks."""
    steps: int = 2000
    """Steps of the optimiser."""
    batch: int = 4
    """Clips a step, of all processes together."""
    accumulate: int = 1
    """Parts into which each process plays its share of a batch, one after another: less memory, the same gradient."""
    schedule: Literal["cosine", "steps"] = "cosine"
    """cosine: up over `warmup` steps, then along half a cosine to `final_lr` of `lr`. steps: from 0 up over `warmup` steps, then
    constant, times `drop` at each of the `milestones`."""
    optimiser: Literal["adamw", "adam"] = "adamw"
    """adamw: weights decay by themselves. adam: the decay is added to the gradient."""
    lr: float = 3e-4
    """The learning rate."""
    backbone_lr: float = 0.1
    """The backbone's learning rate, as a share of `lr`."""
    weight_decay: float = 0.01
    """The optimiser's, on every weight."""
    decay_embeddings: bool = True
    """Whether learned queries, and whatever else is no layer's weight or bias, decay, too."""
    eps: float = 1e-8
    """The optimiser's, in its denominator."""
    warmup: int = 100
    """Steps over which the learning rate rises."""
    milestones: tuple[int, ...] = ()
    """Steps at which schedule "steps" drops the learning rate."""
    drop: float = 0.1
    """What schedule "steps" multiplies it by there."""
    final_lr: float = 0.02
    """Where schedule "cosine" ends, as a share of `lr`."""
    clip_norm: float = 1.0
    """Longest gradient, over all weights; 0 does not clip."""
    ema: float = 0.998
    """Decay of the averaged weights, which are those that are scored and given out; 0 takes the last ones."""
    frozen: int = 4
    """Stride up to which the backbone is not trained; 0 trains all of it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: by autocast; weights, losses and optimiser stay in float32."""
    compile: Literal["none", "inductor", "eager"] = "none"
    """torch.compile of backbone, pyramid, encoder and decoder, by this backend."""
    checkpoint: bool = False
    """Activation checkpointing: work out activations again on the way back instead of keeping them."""
    workers: int = 2
    """Threads that draw clips ahead, in each process; 0 draws them in the loop."""
    seed: int = 0
    """Of weights, clips and dropout."""
    save_every: int = 100
    """Steps between checkpoints."""
    pictures_every: int = 500
    """Steps between pictures of predictions; 0 draws none."""
    validation: Validation = field(default_factory=Validation)
    """Scores on held-out videos while training; the best weights are kept."""


STREAM_OF_PLANS = (0, 0, 1)
STREAM_OF_POINTS = (0, 2)
"""After (seed, step) and (seed, step, clip): what keeps these random numbers apart from those of clips and dropout."""

FREE = ("accumulate", "checkpoint", "workers", "save_every", "pictures_every", "validation", "data.cache", "backbone", "init")
"""What may change when a run goes on: nothing here changes what is computed but for rounding. `steps`, too, with schedule
"steps", whose past does not depend on its end."""


def plan_of(recipe: Recipe, step: int) -> plans.Plan:
    """The plan that the recipe's scheme plays at this step, for all of a batch: the released scheme's parity is the step's,
    what is random in a plan depends on (seed, step) alone.

    Raises ValueError for clips that are too short for the plan.
    """
    frames, rng = recipe.frames, generator(recipe.seed, step, *STREAM_OF_PLANS)
    past: dict[str, Any] = {"references": recipe.references, "reads": recipe.reads, "rng": rng}
    made: dict[str, Callable[..., plans.Plan]] = {
        "still": lambda **_: plans.still(),
        "chain": partial(plans.chain, frames),
        "dense": partial(plans.dense, frames),
        "cyclic": partial(plans.cyclic, frames),
        "released": partial(plans.released, step),
        "propagate": partial(plans.propagate, frames, **past),
        "one-shot": partial(plans.one_shot, frames, recipe.back, **past, begin=recipe.begin, present=recipe.present),
        "empty-reference": partial(plans.empty_reference, frames, recipe.back, **past),
    }
    return made[recipe.scheme](**({"mask_feedback": recipe.mask_feedback} if recipe.mask_feedback else {}))


def supervision(recipe: Recipe, step: int, first: int, clips: int) -> dict[str, Any]:
    """What the recipe's loss takes beside its name at this step, for clips `first`, `first` + 1, ... of the batch."""
    if recipe.loss in ("bootstrapped", "bootstrapped-dice"):
        return {"share": recipe.bootstrap.share(step)}
    if recipe.loss == "points":
        rngs = [generator(recipe.seed, step, first + b, *STREAM_OF_POINTS) for b in range(clips)]
        return {"points": recipe.points, "rngs": rngs}
    return {}


def suits(recipe: Recipe, network: Network) -> None:
    """Raises ValueError: "back one never trains what moves the state of xmem on, which the second step reads first: want --back
    two or all"."""
    if network.recurrent and recipe.scheme in ("one-shot", "empty-reference") and recipe.back == "one":
        untrained = f"back one never trains what moves the state of {network.name} on, which the second step reads first"
        raise ValueError(f"{untrained}: want --back two or all")


def optimiser_of(recipe: Recipe, network: Network, device: torch.device) -> torch.optim.Optimizer:
    """The optimiser of the weights that are trained: the network's, its backbone's, and embeddings where these do not decay;
    each group's share of the learning rate is in its "share"."""
    own = set(map(id, network.backbone.parameters()))
    layers = ("weight", "bias")
    embeddings = {id(p) for m in network.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    embeddings |= {id(p) for name, p in network.named_parameters() if not name.endswith(layers)}
    still = embeddings - own if not recipe.decay_embeddings else set()
    trained = [p for p in network.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if id(p) not in own | still], "share": 1.0},
        {"params": [p for p in trained if id(p) in own], "share": recipe.backbone_lr},
    ]
    if still:
        groups.append({"params": [p for p in trained if id(p) in still], "share": 1.0, "weight_decay": 0.0})
    kind = torch.optim.Adam if recipe.optimiser == "adam" else torch.optim.AdamW
    return kind(groups, weight_decay=recipe.weight_decay, eps=recipe.eps, fused=device.type != "mps")


def rate_of(recipe: Recipe, step: int) -> float:
    """Share of the learning rate at a step, in [0, 1]: see `Recipe.schedule`."""
    if recipe.schedule == "steps":
        rise = min(step / recipe.warmup, 1.0) if recipe.warmup else 1.0
        return rise * float(recipe.drop ** sum(step >= m for m in recipe.milestones))
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    return recipe.final_lr + (1 - recipe.final_lr) * 0.5 * (1 + math.cos(math.pi * done))

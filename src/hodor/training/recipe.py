"""A training run as a value: every choice that its weights depend on.

This module and `recipes` hold plain values and import no network: listing or comparing recipes stays fast. The functions that
act on a recipe are where they are used: `plans.plan_of`, `losses.options_of`, `optimisation`, `validation`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hodor.data.benchmarks import KindOrAuto
from hodor.data.settings import Data

Scheme = Literal["still", "chain", "dense", "cyclic", "released", "propagate", "one-shot", "empty-reference", "find"]
"""The training schemes; each is a function of `training.plans`, but for "find", which is for finders: `training.finding`."""

Loss = Literal["released", "object-dice", "cross-entropy", "bootstrapped", "bootstrapped-dice", "points"]
"""The losses; each is an entry of `training.losses.LOSSES`."""

MaskFeedback = Literal["soft", "detached", "hard"]
"""How a predicted mask enters the memory in training: "soft" with gradients through it (HODOR's paper), "detached" without
(HODOR's released code), "hard" rounded to 0 or 1 and without."""

References = Literal["previous", "first-random", "random", "recent"]
"""Past frames that a step reads: "previous", frame 0 and the frame before (STCN); "first-random", frame 0 and random others
(XMem); "random", any past frames (Cutie); "recent", frame 0 and the most recent others, as a tracker keeps them."""

Back = Literal["two", "all", "one"]
"""Return path of one-shot training: through one random frame between, through every frame, or in one step."""

Setting = bool | int | float | str


@dataclass(frozen=True)
class Bootstrap:
    """Schedule of the share of pixels that losses "bootstrapped" and "bootstrapped-dice" use: those with the largest loss.

    The share is 1 before step `start`, falls linearly, and is `least` from step `end` on. Source: STCN and XMem (defaults).

    Attributes:
        start: step at which the share starts to fall. Default: 20,000.
        end: step at which it reaches `least`. Default: 70,000.
        least: smallest share, in (0, 1]. Default: 0.15.
    """

    start: int = 20_000
    end: int = 70_000
    least: float = 0.15

    def share(self, step: int) -> float:
        """Return the share of pixels at a step, in [least, 1]."""
        if step < self.start:
            return 1.0
        if step >= self.end:
            return self.least
        return self.least + (1 - self.least) * (self.end - step) / (self.end - self.start)


@dataclass(frozen=True)
class Points:
    """Sampled points of loss "points". Source: Cutie (defaults); its pretraining uses 8192 points.

    Attributes:
        count: points a frame. Default: 12,544.
        oversample: candidates for the uncertain points, as a multiple of `count`. Default: 3.
        uncertain: share of the points that are the most uncertain candidates (smallest margin between the two largest
            logits); the other points are random. In [0, 1]. Default: 0.75.
        aux: weight of the loss of each additional output of a network (`Prediction.aux`). Default: 0.01.
    """

    count: int = 12_544
    oversample: float = 3.0
    uncertain: float = 0.75
    aux: float = 0.01


@dataclass(frozen=True)
class Validation:
    """Scoring of the averaged weights on held-out videos, every `every` steps and after the last step.

    Attributes:
        every: steps between validations; 0 never validates. Default: 0.
        root: folder of a benchmark, in a format of `data.layouts.open_layout`.
        kind: format of the folder. Default: "auto", recognised by its files.
        split: split of the benchmark, such as "val". Default: the format's own.
        sequences: names of the videos to score. Default: (), all of them.
        size: short side at which the network runs, in pixels. Default: None, the model's own.
        history: frames kept in memory. Default: None, the network's own.
    """

    every: int = 0
    root: Path | None = None
    kind: KindOrAuto = "auto"
    split: str | None = None
    sequences: tuple[str, ...] = ()
    size: int | None = None
    history: int | None = None


@dataclass(frozen=True)
class ReplaySettings:
    """Training that begins at memories of tracked training videos, see `training.replay`. Needs one clip a part (`accumulate`).

    Attributes:
        share: share of the clips that begin at such a memory, in [0, 1]; 0 uses none. Default: 0.
        size: short side of these videos inside the network, in pixels. Default: 256.
        frames: frames of such a clip. Default: 4.
        advance: frames that are tracked for each of these clips, to refresh the memories. Default: 3.
        capacity: number of memories kept. Default: 64.
    """

    share: float = 0.0
    size: int = 256
    frames: int = 4
    advance: int = 3
    capacity: int = 64


@dataclass(frozen=True)
class Recipe:
    """Everything that the weights of a run depend on, as plain values. docs/training.md lists the fields."""

    model: str = "hodor-lite"
    """Name of a network in `models.weights.MODELS`."""
    settings: tuple[tuple[str, Setting], ...] = ()
    """Changes to the network's settings, as (name, value): ("conditioning", "hard")."""
    backbone: Path | None = None
    """Weights of the backbone to begin from: a public checkpoint (.pth), or a .safetensors file of this package, from any
    network with this backbone."""
    init: Path | None = None
    """Weights of the whole network to begin from: a .safetensors file of this package, or the name of bundled weights."""
    data: Data = field(default_factory=Data)
    """Training data and augmentation."""
    scheme: Scheme = "dense"
    """Which frames each prediction reads, and which predictions are supervised: see `training.plans`."""
    frames: int = 3
    """Frames of a clip (T)."""
    mask_feedback: MaskFeedback | None = None
    """How a predicted mask enters the memory. soft: with gradients. detached: without. hard: rounded. None: the default of the
    scheme (soft for cyclic, propagate and return paths, detached for the others)."""
    references: References = "first-random"
    """For propagate, one-shot and empty-reference: the past frames that a step reads. previous: frame 0 and the frame before
    (STCN). first-random: frame 0 and random others (XMem). random: any (Cutie). recent: frame 0 and the most recent others."""
    reads: int = 3
    """For the same schemes: the maximum number of past frames that a step reads; "previous" reads at most two."""
    back: Back = "two"
    """For one-shot and empty-reference: the return path. two: through one random frame between. all: through every frame. one:
    directly to frame 0."""
    begin: Literal["soft", "hard"] = "soft"
    """For one-shot: the mask at the start of the return path, as predicted (soft) or rounded (hard)."""
    present: bool = False
    """For one-shot: leave out objects that have no pixel in the prediction on the last frame."""
    evaluation_mode: bool = False
    """Train the network in evaluation mode, so that it reads its memory as it does while tracking: top-k attention, a deep
    update on every stored frame, no dropout. Cutie's auxiliary loss needs the training mode."""
    replay: ReplaySettings = field(default_factory=ReplaySettings)
    """Clips that begin at the memory of a tracked training video instead of at a ground-truth mask."""
    loss: Loss = "released"
    """The loss: see `training.losses`. Scheme find has its own."""
    unlabelled: Literal["ignored", "background"] = "ignored"
    """For scheme find: whether pixels of no object are ignored, since not all objects have masks, or are background."""
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    """For the bootstrapped losses: the steps over which the share of pixels falls, and the final share."""
    points: Points = field(default_factory=Points)
    """For loss points: number and sampling of the points."""
    steps: int = 2000
    """Steps of the optimiser."""
    batch: int = 4
    """Clips a step, of all processes together."""
    accumulate: int = 1
    """Parts into which each process splits its share of a batch; they run one after another: less memory, the same gradient."""
    schedule: Literal["cosine", "steps", "exponential"] = "cosine"
    """cosine: linear warm-up over `warmup` steps, then half a cosine down to `final_lr` of `lr`. steps: linear warm-up from 0,
    then constant, multiplied by `drop` at each of the `milestones`. exponential: linear warm-up, then constant up to the first
    of the `milestones`, then falling by the same factor each step, down to `final_lr` of `lr`."""
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    """adamw: decoupled weight decay. adam: the weight decay is added to the gradient. sgd: the same, with a Nesterov momentum
    of 0.9."""
    lr: float = 3e-4
    """The learning rate."""
    backbone_lr: float = 0.1
    """Learning rate of the backbone, as a share of `lr`."""
    weight_decay: float = 0.01
    """Weight decay of the optimiser, on every weight."""
    decay_embeddings: bool = True
    """Whether weight decay also applies to learned queries and other parameters that are not the weight or bias of a layer."""
    eps: float = 1e-8
    """Epsilon in the optimiser's denominator."""
    warmup: int = 100
    """Steps over which the learning rate rises."""
    milestones: tuple[int, ...] = ()
    """For schedule steps: the steps at which the learning rate drops. For exponential: the step at which it begins to fall."""
    drop: float = 0.1
    """For schedule steps: the factor of each drop."""
    final_lr: float = 0.02
    """For schedules cosine and exponential: the final learning rate, as a share of `lr`."""
    clip_norm: float = 1.0
    """Maximum norm of the gradient over all weights; 0 does not clip."""
    ema: float = 0.998
    """Decay of the averaged weights, which are the ones that are scored and saved; 0 uses the weights of the last step."""
    frozen: int = 4
    """Stride up to which the backbone is not trained; 0 trains all of it."""
    frozen_parts: tuple[str, ...] = ()
    """Names of further parts of the network that are not trained, such as pyramid."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: by autocast; weights, losses and optimiser stay in float32."""
    compile: Literal["none", "inductor", "eager"] = "none"
    """torch.compile of backbone, pyramid, encoder and decoder, by this backend."""
    checkpoint: bool = False
    """Activation checkpointing: recompute activations in the backward pass instead of keeping them."""
    workers: int = 2
    """Threads or processes (`worker_kind`) of each process that prepare clips ahead; 0 prepares them in the training loop."""
    worker_kind: Literal["thread", "process"] = "thread"
    """thread: workers share one cache. process: workers are forked after the cache was filled, which they share; this is faster
    with many cores. The clips are the same."""
    seed: int = 0
    """Seed of weights, clips and dropout."""
    save_every: int = 100
    """Steps between checkpoints."""
    pictures_every: int = 500
    """Steps between pictures of predictions; 0 writes none."""
    validation: Validation = field(default_factory=Validation)
    """Scores on held-out videos during training; the best weights are kept."""


FREE = (
    "accumulate",
    "checkpoint",
    "workers",
    "worker_kind",
    "save_every",
    "pictures_every",
    "validation",
    "data.cache",
    "backbone",
    "init",
)
"""Fields that may change when a run resumes: none of them changes the computed numbers, except for rounding. With schedule
"steps", whose past does not depend on its end, `steps` may change too."""

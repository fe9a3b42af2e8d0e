"""The training loop, once: clips -> rollout -> losses -> step. What differs between schemes is in the recipe."""

from __future__ import annotations

import io
import json
import logging
import math
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from hodor import plans
from hodor.data import augment, davis, stills
from hodor.data.clip import Clip, collate
from hodor.losses import hodor_losses
from hodor.models import weights
from hodor.models.backbones import load_checkpoint
from hodor.models.base import Network

log = logging.getLogger(__name__)

Scheme = Literal["still", "chain", "dense", "cyclic", "released"]


@dataclass(frozen=True)
class Data:
    """Where clips come from. video: a DAVIS-shaped folder, or None. without: sequences left out of training. stills: folders
    of images/ and masks/. video_share: how often a batch is video. short_side: of clips, in pixels. gap: largest step
    between a clip's frames. most: objects a clip."""

    video: Path | None = None
    without: tuple[str, ...] = davis.HELD_OUT
    stills: tuple[Path, ...] = ()
    video_share: float = 0.5
    short_side: int = 252
    gap: int = 8
    most: int = 4
    crop: tuple[float, float] = (0.6, 1.0)
    warp: augment.Warp = field(default_factory=augment.Warp)
    shake: augment.Warp = field(default_factory=lambda: augment.Warp(translate=0.04, rotate=4.0, shear=2.0, scale=(0.95, 1.05)))
    colour: augment.Colour = field(default_factory=augment.Colour)


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on. lr: AdamW's, for all but the backbone, whose is lr * backbone_lr; both rise over `warmup`
    steps and fall along a cosine to `floor` of themselves. frozen: stride up to which the backbone is not trained. backbone:
    a public checkpoint file to begin from. start: a file of ours to begin from. ema: decay of the averaged weights, which
    are the ones that are saved. handoff: None takes the scheme's own (cycles soft, the others detached)."""

    model: str = "hodor-lite"
    backbone: Path | None = None
    start: Path | None = None
    data: Data = field(default_factory=Data)
    scheme: Scheme = "dense"
    frames: int = 3
    handoff: plans.Handoff | None = None
    steps: int = 2000
    batch: int = 4
    lr: float = 3e-4
    backbone_lr: float = 0.1
    weight_decay: float = 0.01
    warmup: int = 100
    floor: float = 0.02
    clip_norm: float = 1.0
    ema: float = 0.998
    frozen: int = 4
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    save_every: int = 100


def plan_of(recipe: Recipe, step: int) -> plans.Plan:
    """The plan that the recipe's scheme plays at this step."""
    made: dict[str, Callable[..., plans.Plan]] = {
        "still": lambda **_: plans.still(),
        "chain": partial(plans.chain, recipe.frames),
        "dense": partial(plans.dense, recipe.frames),
        "cyclic": partial(plans.cyclic, recipe.frames),
        "released": partial(plans.released, step),
    }
    return made[recipe.scheme](**({"handoff": recipe.handoff} if recipe.handoff else {}))


def run(recipe: Recipe, out: Path, *, device: str | torch.device = "cpu") -> Path:
    """Train; -> the file of the averaged weights. A stopped run goes on from its last checkpoint, the same as unbroken."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    random.seed(recipe.seed)
    network = weights.build(recipe.model)
    if recipe.backbone:
        load_checkpoint(network.backbone, torch.load(recipe.backbone, map_location="cpu", weights_only=True))
    if recipe.start:
        weights.fill(network, weights.read(recipe.start)[1], str(recipe.start))
    network.backbone.freeze(recipe.frozen)
    device = torch.device(device)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = {k: v.detach().clone() for k, v in network.state_dict().items()}
    optimiser = torch.optim.AdamW(_groups(network, recipe), weight_decay=recipe.weight_decay)
    first = _resume(out / "last.pt", network, average, optimiser)
    _cut(out / "log.jsonl", first)
    batches = _batches(recipe, first)
    began = time.monotonic()
    network.train()
    for step in range(first, recipe.steps):
        rate = _rate(recipe, step)
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * rate * group["share"]
        clip = next(batches).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            judged = plans.rollout(network, clip, plan_of(recipe, step))
        losses = hodor_losses(judged)
        optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
        if not math.isfinite(float(norm)):
            raise FloatingPointError(f"the gradient is {float(norm)} at step {step}: lower --lr, or train in float32")
        optimiser.step()
        # a short memory at first, so that the average forgets the untrained network
        decay = min(recipe.ema, (1 + step) / (10 + step))
        for key, value in network.state_dict().items():
            average[key].lerp_(value.to(average[key].dtype), 1 - decay) if value.is_floating_point() else None
        _note(out / "log.jsonl", step, losses, norm, rate, began, step - first + 1, recipe)
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
            _checkpoint(out, recipe, network, average, optimiser, step + 1)
    return out / "weights.safetensors"


def _groups(network: Network, recipe: Recipe) -> list[dict[str, Any]]:
    backbone = [p for p in network.backbone.parameters() if p.requires_grad]
    own = set(map(id, network.backbone.parameters()))
    rest = [p for p in network.parameters() if id(p) not in own and p.requires_grad]
    return [{"params": rest, "share": 1.0}, {"params": backbone, "share": recipe.backbone_lr}]


def _rate(recipe: Recipe, step: int) -> float:
    """Share of the learning rate at a step: a linear rise, then half a cosine down to `floor`."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    return recipe.floor + (1 - recipe.floor) * 0.5 * (1 + math.cos(math.pi * done))


def _batches(recipe: Recipe, first: int) -> Iterator[Clip]:
    """Batch of step `first`, `first` + 1, ...: each drawn from its own seed, so that a resumed run sees the same ones."""
    data = recipe.data
    video = still = None
    if data.video:
        names = davis.names(data.video, without=data.without)
        sequences = [davis.load(data.video, name, data.short_side) for name in names]
        labelled = "first" if recipe.scheme == "cyclic" else "all"
        video = davis.VideoClips(sequences, recipe.frames, data.gap, data.most, labelled)
        size = video.size
    else:
        size = (data.short_side, round(data.short_side * 16 / 9))
    if data.stills:
        found = [pair for folder in data.stills for pair in stills.pairs(folder)]
        still = stills.StillClips(found, (size[0], size[1]), recipe.frames, data.most)
    if video is None and still is None:
        raise ValueError("the recipe names no data: want data.video or data.stills")

    def draw(step: int) -> Clip:
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        chance = float(torch.rand((), generator=generator))
        if video is not None and (still is None or chance < data.video_share):
            clips = [augment.crop(video.sample(generator), data.crop, generator) for _ in range(recipe.batch)]
            clip = collate(clips)
            if float(torch.rand((), generator=generator)) < 0.5:
                clip = augment.warp(clip, data.shake, generator)
        else:
            assert still is not None
            clip = augment.warp(collate([still.sample(generator) for _ in range(recipe.batch)]), data.warp, generator)
        return augment.colour(clip, data.colour, generator)

    with ThreadPoolExecutor(1) as ahead:
        pending = ahead.submit(draw, first)
        for step in range(first + 1, recipe.steps + 2):
            clip = pending.result()
            pending = ahead.submit(draw, step)
            yield clip


def _note(path: Path, step: int, losses: Any, norm: Any, rate: float, began: float, done: int, recipe: Recipe) -> None:
    seconds = time.monotonic() - began
    line = {
        "step": step,
        "ce": round(float(losses.cross_entropy.detach()), 5),
        "dice": round(float(losses.dice.detach()), 5),
        "norm": round(float(norm), 4),
        "lr": recipe.lr * rate,
        "clips_per_second": round(done * recipe.batch / seconds, 3),
    }
    with open(path, "a") as out:
        out.write(json.dumps(line) + "\n")
    if step % 20 == 0:
        log.info("step %d of %d: %s", step, recipe.steps, line)


def _cut(path: Path, steps: int) -> None:
    """Drop the lines of steps that will be done again."""
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    if len(lines) > steps:
        weights.write_atomically(path, b"".join(lines[:steps]))


def _checkpoint(
    out: Path, recipe: Recipe, network: Network, average: dict[str, Any], optimiser: torch.optim.Optimizer, step: int
) -> None:
    buffer = io.BytesIO()
    state = {"network": network.state_dict(), "average": average, "optimiser": optimiser.state_dict(), "step": step}
    if torch.cuda.is_available():
        state["random_cuda"] = torch.cuda.get_rng_state_all()
    torch.save({**state, "random": torch.get_rng_state()}, buffer)
    weights.write_atomically(out / "last.pt", buffer.getvalue())
    with torch.random.fork_rng(devices=[]):  # or the run would go on with other numbers than one that resumes here
        holder = weights.build(recipe.model)
    holder.load_state_dict(average)
    # files and folders by their names alone: where they lay on this machine is nobody's business
    about = json.loads(json.dumps(asdict(recipe), default=lambda path: path.name))
    weights.save(holder, out / "weights.safetensors", half=True, recipe=about, step=step, commit=_commit())


def _resume(path: Path, network: Network, average: dict[str, Any], optimiser: torch.optim.Optimizer) -> int:
    if not path.is_file():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict(state["network"])
    for key, value in state["average"].items():
        average[key].copy_(value)
    optimiser.load_state_dict(state["optimiser"])
    torch.set_rng_state(state["random"])
    if torch.cuda.is_available() and "random_cuda" in state:
        torch.cuda.set_rng_state_all(state["random_cuda"])
    log.info("going on from step %d", state["step"])
    return int(state["step"])


def _commit() -> str:
    """The commit of the checkout this code runs from, "" outside one."""
    try:
        return subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""

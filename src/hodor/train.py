"""The training loop, told once: clips -> rollout -> losses -> step. What differs between schemes is in the recipe.

Beside it, in `training`: `recipe` holds the choices, `loader` draws clips ahead, `budget` tells the memory, `checkpoints` keeps
and resumes, `journal` writes what happened, `validation` scores held-out videos. The same loop runs on the CPU, on one GPU, and
in many processes (docs/scale.md).
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hodor.data.clip import Clip
from hodor.data.stream import Data, Stream
from hodor.models import weights
from hodor.models.backbones import load_checkpoint
from hodor.models.base import Network
from hodor.models.released import read_pth
from hodor.training import budget, checkpoints, journal, plans, validation
from hodor.training.loader import Loader, shares
from hodor.training.losses import Losses, hodor_losses
from hodor.training.recipe import FREE, Recipe, Scheme, optimiser_of, plan_of, rate_of, suits, supervision
from hodor.training.validation import Validation

__all__ = ["FREE", "Data", "Recipe", "Scheme", "Validation", "plan_of", "rate_of", "run"]

log = logging.getLogger(__name__)


class Play(nn.Module):
    """What a process does with some clips: the plan's rollout in the recipe's precision, then the losses in float32."""

    def __init__(self, network: Network, recipe: Recipe) -> None:
        super().__init__()
        self.network, self.recipe = network, recipe

    def forward(self, clip: Clip, step: int, first: int = 0) -> tuple[Losses, list[plans.Supervised]]:
        """first: which of the batch's clips the first of `clip` is."""
        kind = clip.frames_BTCHW.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            supervised = plans.rollout(self.network, clip, plan_of(self.recipe, step))
        more = supervision(self.recipe, step, first, len(clip.frames_BTCHW))
        return hodor_losses(supervised, self.recipe.loss, **more), supervised


def run(recipe: Recipe, out: Path, *, device: str | torch.device = "cpu", resume: bool = False, fresh: bool = False) -> Path:
    """Train; -> the file of the averaged weights, OUT/weights.safetensors.

    A run that was stopped, however, goes on from OUT/last.pt and ends with the weights of an unbroken one; on the CPU bit for
    bit, with the same number of processes and of torch's threads (a line tells where those differ). resume: insist that there
    is one. fresh: remove it and begin again. Of several processes (torchrun) each takes its share of every batch, and the
    first alone writes; a folder takes one run at a time.

    Raises ValueError in one line for whatever is wrong before the first step, and for memory that runs out, with what to
    lower; FloatingPointError for a loss or gradient that is not finite, whose batch is then in OUT/nan.pt.
    """
    with ExitStack() as held:
        return _run(recipe, out, torch.device(device), resume, fresh, held)


def _run(recipe: Recipe, out: Path, device: torch.device, resume: bool, fresh: bool, held: ExitStack) -> Path:
    accelerator, device = _processes(device)
    rank, count, first_process = accelerator.process_index, accelerator.num_processes, accelerator.is_main_process
    parts = shares(recipe.batch, recipe.accumulate, rank, count)
    stream = Stream(recipe.data, recipe.frames, recipe.batch, recipe.seed, recipe.steps)
    videos = recipe.validation.videos()
    saved = _agreed(accelerator, lambda: _begin(recipe, out, resume, fresh, count, held))
    first, best = (int(saved["step"]), float(saved["best"])) if saved else (0, -1.0)

    network = _network(recipe)
    suits(recipe, network)
    play = Play(network, recipe)
    data = recipe.data
    need = budget.estimate(network, lambda clip: play(clip, 0)[0].total, recipe.frames, data.planes, data.size, len(parts[0]))
    for name in need.idle:  # what no gradient reaches must not decay, nor be waited for by the other processes
        network.get_parameter(name).requires_grad_(False)
    budget.check(need, device, recipe.accumulate, recipe.checkpoint)
    log.info("memory: %s", need)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = checkpoints.Average(network, recipe.ema)
    optimiser = optimiser_of(recipe, network, device)
    if saved:
        network.load_state_dict(saved["network"])
        average.network.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        log.info("going on from step %d%s", first, checkpoints.elsewhere(saved, count))
    _compile(network, recipe, device)
    player = _joined(accelerator, play) if count > 1 else play
    trained = [p for p in network.parameters() if p.requires_grad]
    scales = journal.scales(network)
    network.train()

    def keep(done: int) -> None:
        about = checkpoints.plain(recipe, names_only=True)
        state = {"network": network.state_dict(), "average": average.network.state_dict(), "optimiser": optimiser.state_dict()}
        facts = {"step": done, "best": best, "recipe": about, "rounding": checkpoints.rounding(count)}
        checkpoints.save(out / checkpoints.LAST, {**state, **facts})
        checkpoints.give_out(out / checkpoints.WEIGHTS, average.network, about, step=done)

    with ExitStack() as stack:
        stack.enter_context(budget.explained(need, device, recipe.accumulate, recipe.checkpoint))
        notes = journal.Journal(out if first_process else None, first, recipe.steps)
        stack.callback(notes.close)
        loader = Loader(stream.batch, parts, first, recipe.steps, recipe.workers, pin=device.type == "cuda")
        batches, pace = iter(stack.enter_context(loader)), journal.Pace()
        for step in range(first, recipe.steps):
            rate = rate_of(recipe, step)
            for group in optimiser.param_groups:
                group["lr"] = recipe.lr * rate * group["share"]
            optimiser.zero_grad(set_to_none=True)
            clips, terms = [], torch.zeros(6, device=device)
            for part in range(len(parts)):
                clips.append(next(batches)[1])
                plans.check(plan_of(recipe, step), clips[-1])
                torch.manual_seed(_dropout_seed(recipe.seed, step, rank, part))
                # gradients travel between processes with the last part alone
                with nullcontext() if count == 1 or part + 1 == len(parts) else accelerator.no_sync(player):
                    clip = clips[-1].to(device)
                    losses, supervised = player(clip, step, parts[part].start)
                    (losses.total / len(parts)).backward()
                each = torch.stack([losses.cross_entropy, losses.dice, torch.as_tensor(losses.aux, device=device)])
                terms += torch.cat([each.detach(), journal.way_back(supervised[-1], clip)]) / len(parts)
            norm = nn.utils.clip_grad_norm_(trained, recipe.clip_norm or math.inf)
            # the one wait for the device in a step
            row = torch.cat([norm.detach().view(1), terms, *[s.detach().flatten() for s in scales]])
            rows = accelerator.gather(row[None]).tolist()
            (length, ce, dice, aux, *back), lean = np.mean(rows, 0)[:7].tolist(), rows[0][7:]
            if not all(math.isfinite(v) for row in rows for v in row[:4]):
                _stop(out, recipe, step, clips, rows, rank)
            optimiser.step()
            average.update(step)
            line = {"step": step, "loss": ce + losses.dice_weight * dice + aux, "ce": ce, "dice": dice, "norm": length}
            line |= {"aux": aux} if recipe.loss == "points" else {}
            line |= dict(zip(journal.WAY_BACK, back, strict=True)) if supervised[-1].began_BNHW is not None else {}
            more = {"lr": recipe.lr * rate, **pace.mark(loader.waited, recipe.batch)}
            memory = round(budget.in_use(device) / 2**20)
            notes.step({**line, **more, "memory_mb": memory, "scales": _by_layer(lean, scales)})
            if first_process and recipe.pictures_every and (step % recipe.pictures_every == 0 or step + 1 == recipe.steps):
                notes.picture(step, journal.draw(clips[-1].frames_BTCHW, supervised))
            if videos and ((step + 1) % recipe.validation.every == 0 or step + 1 == recipe.steps):
                scores = _scores(accelerator, average.network, recipe, videos)
                notes.validated(step, scores)
                if scores["J&F"] > best:
                    best = scores["J&F"]
                    if first_process:
                        about = checkpoints.plain(recipe, names_only=True)
                        facts = {"step": step + 1, "validation": scores}
                        checkpoints.give_out(out / checkpoints.BEST, average.network, about, **facts)
            if first_process and ((step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps):
                keep(step + 1)
            del losses, supervised
    if first_process and checkpoints.given_out(out / checkpoints.WEIGHTS).get("step") != recipe.steps:
        keep(recipe.steps)  # killed between the two files of the last checkpoint
    accelerator.wait_for_everyone()
    return out / checkpoints.WEIGHTS


def _processes(device: torch.device) -> tuple[Any, torch.device]:
    """accelerate's view of the processes, and our device: the one asked for, or, of several processes, each its own."""
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError:
        raise ValueError("training needs accelerate: pip install 'hodor-vos[train]'") from None
    # batch norms use stored statistics, so there are no buffers to send round
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1  # torchrun's word; alone we place everything ourselves
    accelerator = Accelerator(cpu=alone or device.type == "cpu", kwargs_handlers=[ddp])
    return accelerator, device if alone else accelerator.device


def _joined(accelerator: Any, play: nn.Module) -> nn.Module:
    """`play` whose backward pass averages gradients over the processes, while it goes on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
        joined: nn.Module = accelerator.prepare_model(play, device_placement=False)
    return joined


def _begin(recipe: Recipe, out: Path, resume: bool, fresh: bool, processes: int, held: ExitStack) -> dict[str, Any] | None:
    """Make the run's folder ready, and this run's alone while `held` is open; -> the checkpoint to go on from, or None.

    Raises as `checkpoints.alone`, and ValueError: "OUT holds no run to resume: leave --resume out", "OUT holds a run of another
    recipe: lr was 0.0003, now 0.0001; ...: take another --out, or --fresh to begin again", "resume and fresh exclude each
    other".
    """
    if resume and fresh:
        raise ValueError("resume and fresh exclude each other: want one of them")
    if resume and not (out / checkpoints.LAST).is_file():
        raise ValueError(f"{out} holds no run to resume: leave --resume out, or name its folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    held.enter_context(checkpoints.alone(out))
    checkpoints.clear(out, all_of_it=fresh)
    saved = checkpoints.read(out / checkpoints.LAST)
    if saved is not None:
        endless = recipe.schedule == "steps" and not recipe.data.jump
        free = (*FREE, "steps") if endless else FREE
        before = checkpoints.completed(saved["recipe"], checkpoints.plain(Recipe()))
        changed = checkpoints.differences(before, checkpoints.plain(recipe, names_only=True), free)
        if changed:
            what = "; ".join(changed)
            raise ValueError(f"{out} holds a run of another recipe: {what}: take another --out, or --fresh to begin again")
        if saved["step"] > recipe.steps:
            raise ValueError(f"{out} holds a run of {saved['step']} steps, more than {recipe.steps}: want as many or more")
    checkpoints.write_recipe(out, recipe, processes=processes)
    return saved


def _agreed(accelerator: Any, work: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
    """What `work` returns in the first process, in all of them; what it raises, too."""
    answer: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            answer[0] = work()
        except ValueError as error:
            answer[1] = str(error)
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(answer)
    if answer[1] is not None:
        raise ValueError(answer[1])
    found: dict[str, Any] | None = answer[0]
    return found


def _network(recipe: Recipe) -> Network:
    """The network as training begins, on the CPU."""
    torch.manual_seed(recipe.seed)
    network = weights.build(recipe.model, **dict(recipe.settings))
    if recipe.backbone:
        ours = recipe.backbone.suffix == ".safetensors"
        load_checkpoint(network.backbone, weights.read(recipe.backbone)[1] if ours else read_pth(recipe.backbone))
    if recipe.init:
        weights.fill(network, weights.read(recipe.init)[1], str(recipe.init))
    network.backbone.freeze(recipe.frozen)
    if recipe.checkpoint:
        network.checkpoint_activations()
    return network


def _compile(network: Network, recipe: Recipe, device: torch.device) -> None:
    """Raises ValueError: "torch.compile with inductor does not work here (...): want a C++ compiler, or --compile none"."""
    if recipe.compile == "none":
        return
    if recipe.checkpoint:
        raise ValueError("compile and checkpoint are both on: want one of them")
    try:
        torch.compile(lambda x: x.cos() + 1, backend=recipe.compile)(torch.zeros(8, device=device))
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:100]
        wanted = "want a C++ compiler (a GPU: Triton), or --compile none"
        raise ValueError(f"torch.compile with {recipe.compile} does not work here ({reason}): {wanted}") from None
    for name in ("backbone", "pyramid", "encoder", "decoder"):
        if isinstance(part := getattr(network, name, None), nn.Module):
            part.compile(backend=recipe.compile)


def _dropout_seed(seed: int, step: int, rank: int, part: int) -> int:
    """Random numbers of a step depend on nothing before it, so that a resumed run draws the same."""
    return int(np.random.SeedSequence([seed, step, rank, part]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _by_layer(values: list[float], scales: list[Tensor]) -> list[list[float]]:
    """One flat list -> a list a layer, of four digits after the point."""
    ends = np.cumsum([len(s) for s in scales]).tolist()
    return [[round(v, 4) for v in values[end - len(s) : end]] for s, end in zip(scales, ends, strict=True)]


def _scores(accelerator: Any, network: Network, recipe: Recipe, videos: tuple[Any, ...]) -> dict[str, Any]:
    """Held-out videos shared out among the processes; -> `validation.summary` in each."""
    mine = videos[accelerator.process_index :: accelerator.num_processes]
    rows = validation.validate(network, mine, recipe.validation.history, recipe.validation.size)
    if accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        rows = gather_object(rows)
    return validation.summary(rows)


def _stop(out: Path, recipe: Recipe, step: int, clips: list[Clip], rows: list[list[float]], rank: int) -> None:
    """Leave the batch for inspection, from every process whose loss is at fault, and stop. The checkpoints stay."""
    name = f"nan-{rank}.pt" if rank else "nan.pt"
    if rank == 0 or not all(map(math.isfinite, rows[rank][1:4])):
        about: Mapping[str, Any] = {"recipe": checkpoints.plain(recipe, names_only=True), "step": step, "rank": rank}
        checkpoints.save(out / name, {**about, "clips": [dict(vars(clip)) for clip in clips], "losses": rows})
    losses, norm = ", ".join(f"{sum(row[1:4]):.4g}" for row in rows), rows[0][0]
    told = f"the loss is {losses} and its gradient {norm:.4g} at step {step}"
    raise FloatingPointError(f"{told}: the batch is in {out / name}; lower --lr, or train in float32")

"""The training loop: clips -> rollout -> loss -> optimiser step. What differs between schemes is in the recipe.

The package `training` contains the parts: settings (`recipe`), schemes (`plans`), `losses`, optimiser and schedule
(`optimisation`), clips prepared ahead (`loader`), estimate of the memory (`budget`), saving and resuming (`checkpoints`), logs
(`journal`), scores on held-out videos (`validation`). The same loop runs on the CPU, on one GPU, and in several processes
(docs/scale.md).
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hodor.data.clip import Clip
from hodor.data.settings import Data
from hodor.data.stream import Stream
from hodor.data.videofiles import VideoFiles
from hodor.data.videos import Videos
from hodor.models import finders, weights
from hodor.models.backbones import load_checkpoint
from hodor.models.base import Network
from hodor.models.finder import Finder
from hodor.models.model import Model
from hodor.models.released import read_pth
from hodor.training import budget, checkpoints, finding, journal, plans, validation
from hodor.training.finding import FindPlay
from hodor.training.loader import Loader, shares
from hodor.training.losses import Losses, compute_loss, options_of
from hodor.training.optimisation import optimiser_of, rate_of
from hodor.training.plans import plan_of
from hodor.training.recipe import FREE, Recipe, Scheme, Validation
from hodor.training.replay import Replay, Sample, rollout_from

__all__ = ["FREE", "Data", "Recipe", "Scheme", "Validation", "plan_of", "rate_of", "run"]

log = logging.getLogger(__name__)


class Play(nn.Module):
    """The forward pass of a training step: rollout of the plan in the recipe's precision, then the loss in float32.

    Args:
        network: the network to train.
        recipe: the recipe; scheme, loss and precision are used.
    """

    terms = journal.Terms

    def __init__(self, network: Network, recipe: Recipe) -> None:
        super().__init__()
        self.network, self.recipe = network, recipe

    def forward(
        self, clip: Clip, step: int, first: int = 0, start: Sample | None = None
    ) -> tuple[Losses, list[plans.Supervised]]:
        """Run the step's plan on some clips of its batch, or continue a tracked video.

        Args:
            clip: the clips.
            step: the training step, from 0.
            first: index in the batch of the first of these clips. Default: 0.
            start: the memory at which the clip begins. Default: None, the clip begins at its ground-truth masks.

        Returns:
            The loss, and the supervised predictions.
        """
        device = clip.frames_BTCHW.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            if start is None:
                supervised = plans.rollout(self.network, clip, plan_of(self.recipe, step))
            else:
                supervised = rollout_from(self.network, clip, start.memory, start.index)
        options = options_of(self.recipe, step, first, len(clip.frames_BTCHW))
        return compute_loss(supervised, self.recipe.loss, options), supervised

    def check(self, clip: Clip, step: int) -> None:
        """Check that the step's plan supervises a labelled frame: see `plans.check_labels`."""
        plans.check_labels(plan_of(self.recipe, step), clip)

    def line(self, terms: journal.Terms, losses: Losses, supervised: Sequence[plans.Supervised]) -> dict[str, float]:
        """Return what the log states of a step's loss: means over its clips."""
        ce, dice, aux = terms.cross_entropy, terms.dice, terms.aux
        line = {"loss": ce + losses.dice_weight * dice + aux, "ce": ce, "dice": dice}
        line |= {"aux": aux} if self.recipe.loss == "points" else {}
        return line | (terms.return_path() if supervised[-1].began_BNHW is not None else {})

    def draw(self, clip: Clip, supervised: Sequence[plans.Supervised]) -> npt.NDArray[np.uint8]:
        """Draw what is supervised: see `journal.draw`."""
        return journal.draw(clip.frames_BTCHW, supervised)


def play_of(network: Model, recipe: Recipe) -> Play | FindPlay:
    """Return the forward pass of a recipe's training steps."""
    finding.check_recipe(recipe, network)
    if isinstance(network, Finder):
        return FindPlay(network, recipe)
    assert isinstance(network, Network)
    plans.check_recurrent(recipe, network)
    return Play(network, recipe)


def run(
    recipe: Recipe,
    out: Path,
    *,
    device: str | torch.device = "cpu",
    resume: bool = False,
    fresh: bool = False,
    log_to: Sequence[journal.LogTo] = (),
) -> Path:
    """Train a network.

    A stopped run resumes from OUT/last.pt and ends with the weights of an uninterrupted run: bit for bit on the CPU, with the
    same number of processes and of torch's threads (a note is printed where these differ). With several processes (torchrun)
    each trains on its share of every batch, and the first alone writes. A folder can be used by one run at a time.

    Args:
        recipe: the recipe.
        out: folder of the run.
        device: device to train on; with several processes on GPUs, each uses its own GPU. Default: "cpu".
        resume: fail if there is no run to resume. Default: False.
        fresh: remove the run in the folder and start again. Default: False.
        log_to: experiment trackers to log to, beside TensorBoard: see `journal.Journal`. Default: ().

    Returns:
        Path of the averaged weights, OUT/weights.safetensors.

    Raises:
        ValueError: in one line, for wrong input before the first step, and for memory that runs out, with what to lower.
        FloatingPointError: for a loss or gradient that is not finite; its batch is then in OUT/nan.pt.
    """
    with ExitStack() as held:
        return _run(recipe, out, torch.device(device), resume, fresh, log_to, held)


def _run(
    recipe: Recipe,
    out: Path,
    device: torch.device,
    resume: bool,
    fresh: bool,
    log_to: Sequence[journal.LogTo],
    held: ExitStack,
) -> Path:
    accelerator, device = _processes(device)
    rank, count, first_process = accelerator.process_index, accelerator.num_processes, accelerator.is_main_process
    parts = shares(recipe.batch, recipe.accumulate, rank, count)
    journal.check_trackers(log_to)
    stream = Stream(recipe.data, recipe.frames, recipe.batch, recipe.seed, recipe.steps)
    videos = validation.held_out(recipe.validation)
    saved = _agreed(accelerator, lambda: _begin(recipe, out, resume, fresh, count, held))
    first, best = (int(saved["step"]), float(saved["best"])) if saved else (0, -1.0)
    if first_process:
        _warn(recipe, stream, videos, resumed=saved is not None)

    network = _network(recipe).train(not recipe.evaluation_mode)
    play = play_of(network, recipe)
    data = recipe.data
    probed = min(recipe.frames, budget.FRAMES) if recipe.scheme == "propagate" else recipe.frames
    probe = play_of(network, replace(recipe, frames=probed))
    need = budget.estimate(network, lambda clip: probe(clip, 0)[0].total, probed, data.planes, data.size, len(parts[0]))
    need = replace(need, clip=round(need.clip * recipe.frames / probed))
    for name in need.idle:  # parameters without gradient must not decay, nor must other processes wait for them
        network.get_parameter(name).requires_grad_(False)
    budget.check(need, device, recipe.accumulate, recipe.checkpoint)
    log.info("memory: %s", need)
    if isinstance(network, Finder):
        finding.place(network, device)
    else:
        network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = checkpoints.Average(network, recipe.ema)
    optimiser = optimiser_of(recipe, network, device)
    if saved:
        network.load_state_dict(saved["network"])
        average.network.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        log.info("resuming from step %d%s", first, checkpoints.rounding_note(saved, count))
    _compile(network, recipe, device)
    player = _distributed(accelerator, play) if count > 1 else play
    trained = [p for p in network.parameters() if p.requires_grad]
    scales = journal.scales(network)
    replay = _replay(recipe, average.network, stream, parts)

    def save(done: int) -> None:
        about = checkpoints.plain(recipe, names_only=True)
        state = {"network": network.state_dict(), "average": average.network.state_dict(), "optimiser": optimiser.state_dict()}
        facts = {"step": done, "best": best, "recipe": about, "rounding": checkpoints.rounding(count)}
        checkpoints.save(out / checkpoints.LAST, {**state, **facts})
        checkpoints.write_weights(out / checkpoints.WEIGHTS, average.network, about, step=done)

    with ExitStack() as stack:
        stack.enter_context(budget.explained(need, device, recipe.accumulate, recipe.checkpoint))
        config = checkpoints.plain(recipe, names_only=True)
        notes = journal.Journal(out if first_process else None, first, recipe.steps, log_to, config)
        stack.callback(notes.close)
        if recipe.worker_kind == "process" and recipe.workers:
            stream.warm(recipe.workers)
        pin = device.type == "cuda"
        loader = Loader(stream.batch, parts, first, recipe.steps, recipe.workers, pin, recipe.worker_kind)
        batches, pace = iter(stack.enter_context(loader)), journal.Pace()
        for step in range(first, recipe.steps):
            if first_process:
                checkpoints.check_present(out)
            last_step = step + 1 == recipe.steps
            rate = rate_of(recipe, step)
            for group in optimiser.param_groups:
                group["lr"] = recipe.lr * rate * group["share"]
            optimiser.zero_grad(set_to_none=True)
            clips: list[Clip] = []
            terms: list[Any] = []
            for part in range(len(parts)):
                clips.append(next(batches)[1])
                start = replay.next(step, parts[part].start) if replay else None
                if start:
                    clips[-1] = start.clip
                else:
                    play.check(clips[-1], step)
                torch.manual_seed(_dropout_seed(recipe.seed, step, rank, part))
                # gradients are exchanged between processes after the last part only
                with nullcontext() if count == 1 or part + 1 == len(parts) else accelerator.no_sync(player):
                    clip = clips[-1].to(device)
                    try:
                        losses, supervised = player(clip, step, parts[part].start, start)
                    except FloatingPointError:  # the forward pass met values that are not finite: the loss could only be NaN
                        nan = [math.nan] * (1 + len(play.terms._fields))
                        _stop(out, recipe, step, clips, [journal.StepNumbers.unpack(nan, play.terms)] * count, rank)
                    (losses.total / len(parts)).backward()
                terms.append(play.terms.of(losses, supervised[-1], clip))
            norm = nn.utils.clip_grad_norm_(trained, recipe.clip_norm or math.inf)
            # a step waits for the device once, here
            packed = accelerator.gather(journal.StepNumbers.pack(norm, terms, scales)[None]).tolist()
            processes = [journal.StepNumbers.unpack(values, play.terms) for values in packed]
            if not all(numbers.finite for numbers in processes):
                _stop(out, recipe, step, clips, processes, rank)
            optimiser.step()
            average.update(step)
            numbers = journal.StepNumbers.mean(processes)
            line = {"step": step, **play.line(numbers.terms, losses, supervised), "norm": numbers.norm}
            speed = {"lr": recipe.lr * rate, **pace.mark(loader.waited, recipe.batch)}
            memory = round(budget.in_use(device) / 2**20)
            notes.step({**line, **speed, "memory_mb": memory, "scales": journal.by_layer(numbers.scales, scales)})
            if first_process and recipe.pictures_every and (step % recipe.pictures_every == 0 or last_step):
                notes.picture(step, play.draw(clips[-1], supervised))
            if videos and ((step + 1) % recipe.validation.every == 0 or last_step):
                scores = _scores(accelerator, average.network, recipe, videos)
                notes.validated(step, scores)
                if scores["J&F"] > best:
                    best = scores["J&F"]
                    if first_process:
                        about = checkpoints.plain(recipe, names_only=True)
                        facts = {"step": step + 1, "validation": scores}
                        checkpoints.write_weights(out / checkpoints.BEST, average.network, about, **facts)
            if first_process and ((step + 1) % recipe.save_every == 0 or last_step):
                save(step + 1)
            del losses, supervised
    if first_process and checkpoints.facts_of(out / checkpoints.WEIGHTS).get("step") != recipe.steps:
        save(recipe.steps)  # the run was killed between the two files of the last checkpoint
    accelerator.wait_for_everyone()
    return out / checkpoints.WEIGHTS


def _processes(device: torch.device) -> tuple[Any, torch.device]:
    """The Accelerator, and the device of this process: the given one, or with several processes each its own."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # set by torchrun
        return _SingleProcess(), device
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError:
        raise ValueError("expected package accelerate for several processes: pip install 'hodor-vos[train]'") from None
    # batch norms use stored statistics, so there are no buffers to broadcast
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    accelerator = Accelerator(cpu=device.type == "cpu", kwargs_handlers=[ddp])
    return accelerator, accelerator.device


class _SingleProcess:
    """What a run uses of an Accelerator, for one process."""

    process_index, num_processes, is_main_process = 0, 1, True

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def wait_for_everyone(self) -> None:
        return


def _replay(recipe: Recipe, average: Model, stream: Stream, parts: Sequence[range]) -> Replay | None:
    """The memories of tracked training videos, or None if the recipe uses none.

    Raises ValueError: "expected one clip a part for replay.share, got 4: set --accumulate to the number of clips a process";
    as `Replay`.
    """
    if not recipe.replay.share:
        return None
    if len(parts[0]) != 1:
        advice = "set --accumulate to the number of clips a process"
        raise ValueError(f"expected one clip a part for replay.share, got {len(parts[0])}: {advice}")
    assert isinstance(average, Network)  # `finding.check_recipe`
    videos = [video for source in stream.sources if isinstance(source, Videos) for video in source.layout.videos]
    return Replay(average, videos, recipe.replay, seed=recipe.seed, reverse=recipe.data.reverse)


def _distributed(accelerator: Any, play: nn.Module) -> nn.Module:
    """`play` with a backward pass that averages gradients over the processes while it runs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
        prepared: nn.Module = accelerator.prepare_model(play, device_placement=False)
    return prepared


def _begin(recipe: Recipe, out: Path, resume: bool, fresh: bool, processes: int, held: ExitStack) -> dict[str, Any] | None:
    """Prepare the folder of the run and lock it while `held` is open; return the checkpoint to resume from, or None.

    Raises as `checkpoints.alone`, and ValueError: "OUT holds no run to resume: leave out --resume, ...", "OUT holds a run of
    another recipe: lr was 0.0003, now 0.0001; ...: choose another --out, or --fresh to start again", "expected either --resume
    or --fresh, got both".
    """
    if resume and fresh:
        raise ValueError("expected either --resume or --fresh, got both")
    if resume and not (out / checkpoints.LAST).is_file():
        raise ValueError(f"{out} holds no run to resume: leave out --resume, or name the folder of a run with --out")
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
            what = "; ".join(change[:100] for change in changed[:12]) + (", ..." if len(changed) > 12 else "")
            raise ValueError(f"{out} holds a run of another recipe: {what}: choose another --out, or --fresh to start again")
        if saved["step"] > recipe.steps:
            raise ValueError(f"expected at least {saved['step']} steps, as many as the run in {out} has, got {recipe.steps}")
    checkpoints.write_recipe(out, recipe, processes=processes)
    return saved


def _warn(recipe: Recipe, stream: Stream, videos: Sequence[VideoFiles], resumed: bool) -> None:
    """Warn of settings that are allowed but rarely meant."""
    if not (resumed or recipe.init or recipe.backbone):
        log.warning(
            "warning: training starts from random weights: "
            "give --backbone FILE (public ImageNet weights) or --init FILE (weights of this package) to start from trained ones"
        )
    if both := validation.also_trained(stream, videos):
        names = " ".join(both)
        log.warning("warning: validation videos are also trained on (%s): leave them out with --data.without %s", names, names)


def _agreed(accelerator: Any, work: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
    """Run `work` in the first process; return its result, or raise its error, in all of them."""
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


def _network(recipe: Recipe) -> Model:
    """The network before the first step, on the CPU."""
    torch.manual_seed(recipe.seed)
    build: Callable[..., Model] = finders.build if recipe.model in finders.FINDERS else weights.build
    network = build(recipe.model, **dict(recipe.settings))
    if recipe.backbone:
        own_format = recipe.backbone.suffix == ".safetensors"
        load_checkpoint(network.backbone, weights.read(recipe.backbone)[1] if own_format else read_pth(recipe.backbone))
    if recipe.init:
        weights.begin_from(network, recipe.init)
    network.backbone.freeze(recipe.frozen)
    finding.freeze(network, recipe.frozen_parts)
    if recipe.checkpoint:
        network.checkpoint_activations()
    return network


def _compile(network: Model, recipe: Recipe, device: torch.device) -> None:
    """Compile the large parts. Raises ValueError: "torch.compile with inductor does not work here (...): install ..."."""
    if recipe.compile == "none":
        return
    if recipe.checkpoint:
        raise ValueError("expected either --compile or --checkpoint, got both")
    try:
        torch.compile(lambda x: x.cos() + 1, backend=recipe.compile)(torch.zeros(8, device=device))
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:100]
        advice = "install a C++ compiler (on a GPU: Triton), or use --compile none"
        raise ValueError(f"torch.compile with {recipe.compile} does not work here ({reason}): {advice}") from None
    for name in ("backbone", "pyramid", "encoder", "decoder"):
        if isinstance(part := getattr(network, name, None), nn.Module):
            part.compile(backend=recipe.compile)


def _dropout_seed(seed: int, step: int, rank: int, part: int) -> int:
    """Seed of a step's random numbers; it depends on nothing before the step, so that a resumed run has the same numbers."""
    return int(np.random.SeedSequence([seed, step, rank, part]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _scores(accelerator: Any, network: Model, recipe: Recipe, videos: tuple[VideoFiles, ...]) -> dict[str, Any]:
    """Score the held-out videos, shared among the processes; every process returns the `validation.summary` of all."""
    share = videos[accelerator.process_index :: accelerator.num_processes]
    assert isinstance(network, Network)  # `finding.check_recipe`
    rows = validation.validate(network, share, recipe.validation.history, recipe.validation.size)
    if accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        rows = gather_object(rows)
    return validation.summary(rows)


def _stop(
    out: Path, recipe: Recipe, step: int, clips: list[Clip], processes: Sequence[journal.StepNumbers], rank: int
) -> NoReturn:
    """Save the batch of every process whose loss is not finite, and stop. The checkpoints stay."""
    name = f"nan-{rank}.pt" if rank else "nan.pt"
    if rank == 0 or not math.isfinite(processes[rank].loss):
        about = {"recipe": checkpoints.plain(recipe, names_only=True), "step": step, "rank": rank}
        rows = [numbers.flat() for numbers in processes]
        checkpoints.save(out / name, {**about, "clips": [dict(vars(clip)) for clip in clips], "losses": rows})
    losses = ", ".join(f"{numbers.loss:.4g}" for numbers in processes)
    raise FloatingPointError(
        f"expected a finite loss and gradient, got {losses} and {processes[0].norm:.4g} at step {step}: "
        f"the batch is in {out / name}; lower --lr, or train in float32"
    )

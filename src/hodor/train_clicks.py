"""Train the network of clicks on images with masks.

    python -m hodor.train_clicks IMAGES ... --out RUN --steps 2500

RUN/clicks.safetensors has the averaged weights, RUN/last.pt all that a stopped run needs to continue when the same command is
given again (--steps can change), RUN/log.jsonl a line every ten steps, and RUN/split.json the images that are not trained on.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hodor.data.sampling import generator, weighted
from hodor.data.stills import Still
from hodor.models.clicks import ClickNetwork, load_clicks, load_trunk, save_clicks
from hodor.models.layers import StoredNorm
from hodor.training import checkpoints, journal
from hodor.training.clicks import copies_of, draw_sample, fingerprint, hold_out, open_roots, step_loss
from hodor.training.optimisation import rate_of
from hodor.training.recipe import Recipe

log = logging.getLogger(__name__)


@torch.no_grad()
def set_norms(network: ClickNetwork, sources: Sequence[Sequence[Still]], shares: Sequence[float], batches: int = 8) -> None:
    """Set the statistics with which the trunk's maps are normalised, from random views."""
    rng = generator(7)
    every = [network.trunk_maps(draw_sample(sources, shares, 4, 1, rng).pictures_BCHW) for _ in range(batches)]
    for norm, *maps in zip(network.neck.norms, *every, strict=True):
        assert isinstance(norm, StoredNorm)
        cells = torch.cat([x.transpose(0, 1).flatten(1) for x in maps], 1)
        norm.running_mean, norm.running_var = cells.mean(1), cells.var(1)


def training_sources(roots: Sequence[Path], held_out: int, split: Path) -> list[list[Still]]:
    """Return the images of each root without those that are held out and without copies of them.

    Args:
        roots: folders of images with masks.
        held_out: number of objects that are held out.
        split: JSON file with the names of both; it is written if it does not exist, since finding copies takes a minute.
    """
    sources = open_roots(roots)
    if not split.exists():
        together = [still for stills in sources for still in stills]
        held = [each.image for each in hold_out(together, held_out)]
        prints = [fingerprint(still.image) for still in together]
        same = copies_of([prints[i] for i in held], prints)
        names = {"held_out": held, "copies": [i for i, copy in enumerate(same) if copy and i not in held]}
        split.write_text(json.dumps({kind: [_name(together[i]) for i in each] for kind, each in names.items()}, indent=0))
    left_out = {name for each in json.loads(split.read_text()).values() for name in each}
    return [[still for still in stills if _name(still) not in left_out] for stills in sources]


def _name(still: Still) -> str:
    return f"{still.image.parent.parent.name}/{still.image.name}"


def rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Return the learning rate of a step: linear up, then a cosine down to a hundredth."""
    return peak * rate_of(Recipe(steps=steps, warmup=warmup, final_lr=0.01), step)


def saved_run(options: argparse.Namespace, about: dict[str, Any]) -> dict[str, Any] | None:
    """Return the checkpoint to resume from, or None.

    Args:
        options: the options of the command.
        about: the same as plain values.

    Raises:
        ValueError: "OUT holds a run with other options: lr was 0.0008, now 0.001: choose another --out"; as `checkpoints.read`.
    """
    checkpoints.clear(options.out, all_of_it=False)
    saved = checkpoints.read(options.out / checkpoints.LAST, "remove it to start again, or replace it")
    if saved and (changed := checkpoints.differences(saved["recipe"], about, ("steps", "save_every", "out"))):
        what = "; ".join(change[:100] for change in changed)
        raise ValueError(f"{options.out} holds a run with other options: {what}: choose another --out")
    return saved


def train(options: argparse.Namespace) -> None:
    """Run the training; see the module."""
    out: Path = options.out
    about = json.loads(json.dumps(vars(options), default=lambda path: path.name))
    saved = saved_run(options, about)
    shares = options.share or [1.0] * len(options.roots)
    if len(shares) != len(options.roots):
        raise ValueError(f"expected a --share for each of {len(options.roots)} folders, got {len(shares)}: give as many")
    sources = training_sources(options.roots, options.held_out, out / "split.json")
    torch.manual_seed(options.seed)
    network = ClickNetwork(load_trunk(options.trunk), widths=options.widths, layers=options.layers, heads=options.heads)
    if options.init:
        network.load_state_dict(load_clicks(options.init, options.trunk).state_dict())
        network.requires_grad_(True)
    else:
        set_norms(network, sources, shares)
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = checkpoints.Average(network, options.average)
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.lr, weight_decay=0.01)
    first = 0
    if saved:
        network.load_state_dict(saved["network"])
        average.network.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        first = saved["step"]
    journal.cut(out / journal.LOG, first + 1)  # a line's step counts the steps that are done
    log.info("%d images, from step %d of %d", sum(map(len, sources)), first, options.steps)

    def store(step: int) -> None:
        state = {"network": network.state_dict(), "average": average.network.state_dict(), "optimiser": optimiser.state_dict()}
        checkpoints.save(out / checkpoints.LAST, {**state, "step": step, "recipe": about})
        save_clicks(average.network, out / "clicks.safetensors", step=step, recipe=about, commit=checkpoints.commit())

    begin, seen = time.monotonic(), []
    for step in range(first, options.steps):
        rng = generator(options.seed, step)
        for group in optimiser.param_groups:
            group["lr"] = rate(step, options.steps, options.lr, options.warmup)
        sample = draw_sample(sources, shares, options.pictures, options.objects, rng)
        unseen = (0, 1, 3)[weighted((0.6, 0.2, 0.2), rng)]
        loss, ious = step_loss(network, sample, options.rounds, unseen, rng)
        value = float(loss.detach())
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0))
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise FloatingPointError(f"expected a finite loss and gradient, got {value} and {norm} in step {step}: lower --lr")
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        average.update(step)
        seen.append((value, ious[0], ious[-1], norm))
        if (step + 1) % 10 == 0 or step + 1 == options.steps:
            means = [sum(each) / len(seen) for each in zip(*seen, strict=True)]
            names = ("loss", "iou_first", "iou_last", "norm")
            line = {"step": step + 1, **{k: round(v, 4) for k, v in zip(names, means, strict=True)}}
            line["seconds"] = round((time.monotonic() - begin) / (step + 1 - first), 3)
            with (out / journal.LOG).open("a") as file:
                file.write(json.dumps(line) + "\n")
            log.info("%s", line)
            seen = []
        if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
            store(step + 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 complete, 2 wrong input, or a loss or gradient that is not finite.

    Args:
        arguments: the arguments of the command. Default: those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m hodor.train_clicks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("roots", type=Path, nargs="+", help="folders of images with masks")
    parser.add_argument("--share", type=float, nargs="+", help="share of each folder (default: equal)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--pictures", type=int, default=4, help="views of a step (default: %(default)s)")
    parser.add_argument("--objects", type=int, default=2, help="highest number of objects of a view (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of clicks with a loss (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--average", type=float, default=0.995, help="decay of the averaged weights (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=200, help="objects whose images are left out (default: %(default)s)")
    parser.add_argument("--trunk", default="xmem-lite", help="weights whose trunk is used (default: %(default)s)")
    parser.add_argument("--init", type=Path, help="file of clicks to begin from")
    parser.add_argument("--widths", type=int, nargs=4, default=[16, 32, 64, 128], help="channels at strides 2, 4, 8, 16")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=100)
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        with checkpoints.alone(options.out):
            train(options)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"hodor: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

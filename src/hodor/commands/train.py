"""`hodor train`: a network by a named recipe."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from hodor.commands.console import info

USAGE = """usage: hodor train RECIPE [OPTIONS]

  hodor train --list               the recipes
  hodor train RECIPE --help        every field of the recipe is an option
  hodor train RECIPE --print       the recipe as it would run, as JSON
  hodor train RECIPE --out DIR     train, or go on where DIR stopped
"""


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    from hodor.training import recipes

    if argv[0] == "--list":
        widest = max(map(len, recipes.RECIPES))
        for name, recipe in recipes.RECIPES.items():
            clips = f"{recipe.batch} clips of {recipe.frames}"
            print(f"{name:<{widest}} {recipe.model}, {recipe.scheme}, {recipe.steps} steps of {clips}")
        return 0
    if argv[0] not in recipes.RECIPES:
        raise ValueError(f"no recipe {argv[0]!r}: want {', '.join(recipes.RECIPES)}; see `hodor train --list`")
    rank = int(os.environ.get("RANK", "0"))  # torchrun's number of this process: the first one speaks for all
    try:
        return _train(argv[0], argv[1:], quiet=rank > 0)
    except (ValueError, FileNotFoundError):
        if rank == 0:
            raise
        return 2


def _train(name: str, argv: list[str], quiet: bool) -> int:
    import json
    import logging

    import tyro

    from hodor import train
    from hodor.models import weights
    from hodor.training import checkpoints, recipes

    @dataclass(frozen=True)
    class Train:
        """Train a network by a named recipe; every field of the recipe can be changed here.

        A run goes on where its folder stopped, with the same recipe, and ends with the weights of an unbroken one.
        """

        recipe: Annotated[train.Recipe, arg(name="")] = field(default_factory=lambda: recipes.RECIPES[name])
        out: Path = Path("runs") / name
        """Folder of the run: recipe.json, log.jsonl, tensorboard/, pictures/, last.pt (to go on from), weights.safetensors,
        best.safetensors (the best on held-out videos)."""
        device: str = "auto"
        """auto takes a GPU if there is one, else the CPU; of several processes each takes its own GPU."""
        resume: bool = False
        """Go on, and fail where there is nothing to go on from."""
        fresh: bool = False
        """Remove the run in the folder, and begin again."""
        print: bool = False
        """Print the recipe as JSON and stop."""

    chosen = tyro.cli(Train, prog=f"hodor train {name}", args=argv)
    if chosen.print:
        print(json.dumps(checkpoints.plain(chosen.recipe), indent=1))
        return 0
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, format="%(message)s", stream=sys.stderr)
    device = weights.pick_device(chosen.device)
    try:
        path = train.run(chosen.recipe, chosen.out, device=device, resume=chosen.resume, fresh=chosen.fresh)
    except FloatingPointError as error:
        if not quiet:
            info(f"hodor: {error}")
        return 1
    if not quiet:
        print(path)
    return 0

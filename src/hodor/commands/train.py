"""`hodor train`: train a network by a named recipe."""

import difflib
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from hodor.commands.console import info

USAGE = """usage: hodor train RECIPE [OPTIONS]

  hodor train --list               list the recipes
  hodor train RECIPE --help        list the fields of the recipe; each is an option
  hodor train RECIPE --print       print the recipe as it would run, as JSON
  hodor train RECIPE --out DIR     train, or resume the run in DIR
"""

NO_RECIPE = """hodor: expected a recipe before the options, got {option}. Recipes for your own videos:
  xmem-video-small     masks on many frames; the network of the default weights:
                       hodor train xmem-video-small --init xmem-lite --data.root VIDEOS --out runs/own
  xmem-one-shot-small  a mask on the first frame of each video only; the same network:
                       hodor train xmem-one-shot-small --init xmem-lite --data.root VIDEOS --out runs/own
  dense-small          masks on many frames; the network HODOR (object descriptors):
                       hodor train dense-small --init hodor-lite --data.root VIDEOS --out runs/own
`hodor train --list` lists all recipes, `hodor data check VIDEOS` what training would read.
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
    rank = int(os.environ.get("RANK", "0"))  # number of this process, set by torchrun; the first alone prints
    if argv[0].startswith("-"):
        if rank == 0:
            print(NO_RECIPE.format(option=argv[0]), end="", file=sys.stderr)
        return 2
    try:
        if argv[0] not in recipes.RECIPES:
            near = difflib.get_close_matches(argv[0], recipes.RECIPES, n=3)
            meant = f"did you mean {' or '.join(near)}? " if near else ""
            raise ValueError(f"expected the name of a recipe, got {argv[0]!r}: {meant}`hodor train --list` lists them")
        if any(word == "--start" or word.startswith("--start=") for word in argv):
            raise ValueError("expected --init FILE for the weights to begin from, got --start: the option is called --init")
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
    from hodor.training import checkpoints, journal, recipes

    @dataclass(frozen=True)
    class Train:
        """Train a network by a named recipe; every field of the recipe is an option.

        A stopped run in the folder resumes if the recipe is the same, and ends with the weights of an uninterrupted run.
        """

        recipe: Annotated[train.Recipe, arg(name="")] = field(default_factory=lambda: recipes.RECIPES[name])
        out: Path = Path("runs") / name
        """Folder of the run: recipe.json, log.jsonl, tensorboard/, pictures/, last.pt (checkpoint), weights.safetensors,
        best.safetensors (best weights on held-out videos)."""
        device: str = "auto"
        """auto uses a GPU if there is one, else the CPU; with several processes each uses its own GPU."""
        resume: bool = False
        """Fail if there is no run to resume."""
        fresh: bool = False
        """Remove the run in the folder and start again."""
        log_to: tuple[journal.LogTo, ...] = ()
        """Experiment trackers to log to, beside log.jsonl and TensorBoard."""
        print: bool = False
        """Print the recipe as JSON and stop."""

    chosen = tyro.cli(Train, prog=f"hodor train {name}", args=argv)
    if chosen.print:
        print(json.dumps(checkpoints.plain(chosen.recipe), indent=1))
        return 0
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, format="%(message)s", stream=sys.stderr)
    device = weights.pick_device(chosen.device)
    try:
        path = train.run(
            chosen.recipe, chosen.out, device=device, resume=chosen.resume, fresh=chosen.fresh, log_to=chosen.log_to
        )
    except FloatingPointError as error:
        if not quiet:
            info(f"hodor: {error}")
        return 1
    if not quiet:
        print(path)
    return 0

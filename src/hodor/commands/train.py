"""`hodor train`: a network by a named recipe."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import arg


def main(argv: list[str]) -> int:
    import logging

    import tyro

    from hodor import recipes, train
    from hodor.models import weights

    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: hodor train RECIPE [--out DIR] [--data.video ROOT] ...\nrecipes: {', '.join(recipes.RECIPES)}")
        return 0
    if argv[0] not in recipes.RECIPES:
        raise ValueError(f"no recipe {argv[0]!r}: want {', '.join(recipes.RECIPES)}")
    named = recipes.RECIPES[argv[0]]

    @dataclass(frozen=True)
    class Train:
        """Train a network by a named recipe; every field of the recipe can be changed here."""

        recipe: Annotated[train.Recipe, arg(name="")] = field(default_factory=lambda: named)
        out: Path = Path("runs") / argv[0]
        """Folder of the run: log.jsonl, last.pt (to go on from), weights.safetensors."""
        device: str = "auto"

    chosen = tyro.cli(Train, prog=f"hodor train {argv[0]}", args=argv[1:])
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    print(train.run(chosen.recipe, chosen.out, device=weights.pick_device(chosen.device)))
    return 0

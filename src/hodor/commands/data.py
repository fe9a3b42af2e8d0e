"""`hodor data`: what a training would see of a data set, and clips as a recipe draws them."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from hodor.commands.console import info, progress, write_json
from hodor.commands.options import parse

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

USAGE = """usage: hodor data COMMAND ...

  hodor data check ROOT ...              read a data set; tell what it holds, and what is damaged
  hodor data preview RECIPE --out FILE   draw clips as a recipe's training would see them

`hodor data check --help` and `hodor data preview --help` list the options.
"""


@dataclass(frozen=True)
class Check:
    """Read data sets, and tell what a training would see of them.

    Kind, images or videos, labelled frames, objects by number and size, how many are within the limits, clips by gap, and every
    damaged file by name. Exit codes: 0 if there is something to train on in each; 2 if not, or if a root is not understood.
    """

    roots: Positional[tuple[Path, ...]]
    """COCO JSON files or their folders, folders of images/ and masks/, folders of videos (DAVIS, YouTube-VOS, ...)."""
    frames: int = 3
    """Frames of a clip, for the count of clips."""
    labels: Literal["all", "first"] = "all"
    """all: clips with masks on every frame. first: on the first frame only; then frames without a mask are read as well."""
    min_area: int = 2000
    """Least area of an object, in pixels of the file."""
    min_side: int = 20
    """Least width and height of an object, in pixels of the file."""
    split: str = "train"
    """Which part of a benchmark with splits is read."""
    only: tuple[str, ...] = ()
    """Names of the videos or images to take."""
    without: tuple[str, ...] = ()
    """Names of videos or images to leave out."""
    images: bool = True
    """--no-images reads the masks alone: quicker, but finds no damaged image."""
    sheet: Path | None = None
    """Also draw labelled frames with their objects into this PNG, one file for all roots."""
    cells: int = 12
    """Frames on the sheet, of each root."""
    json: Path | None = None
    """Also write the report to this file; - prints it in place of the lines."""

    def run(self) -> int:
        from hodor.data.check import examine, sheet, told
        from hodor.data.stream import Data

        if not self.roots:
            raise ValueError("no root: want hodor data check ROOT ...")
        data = Data(
            labels=self.labels,
            only=self.only,
            without=self.without,
            split=self.split,
            min_area=self.min_area,
            min_side=self.min_side,
        )
        reports = []
        for root in self.roots:
            with progress(f"reading {root}") as shown:
                reports.append(examine(root, data, self.frames, self.images, shown))
            if self.json != Path("-"):
                print("\n".join(told(reports[-1])))
        write_json(self.json, {"format": "hodor-data/1", "roots": [report.to_json() for report in reports]})
        if self.sheet:
            _save([sheet(root, data, self.cells) for root in self.roots], self.sheet)
        nothing = [report.root for report in reports if not report.usable]
        for name in nothing:
            info(f"hodor: {name} holds nothing to train on: no readable image shows an object within the limits")
        return 2 if nothing else 0


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if argv[0] == "check":
        return parse(Check, "data check", argv[1:])
    if argv[0] == "preview":
        return _preview(argv[1:])
    raise ValueError(f"no command data {argv[0]!r}: want check or preview; see `hodor data --help`")


def _preview(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: hodor data preview RECIPE --out FILE.png [--clips 6] [--step 0] [--data.root ROOT ...] ...")
        print("`hodor train --list` lists the recipes, `hodor data preview RECIPE --help` their fields.")
        return 0
    import logging

    from hodor.training import recipes

    if argv[0] not in recipes.RECIPES:
        raise ValueError(f"no recipe {argv[0]!r}: want {', '.join(recipes.RECIPES)}")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    return parse(_previewer(recipes.RECIPES[argv[0]]), f"data preview {argv[0]}", argv[1:])


def _previewer(named: Any) -> type[Any]:
    """The command with this recipe's values as its defaults."""
    from hodor.data.stream import Data

    @dataclass(frozen=True)
    class Preview:
        """Draw clips as a training of the recipe would see them: one a row, objects coloured, what is not supervised hatched."""

        out: Path
        """The PNG to write."""
        clips: int = 6
        """How many, from the first of `step` on."""
        step: int = 0
        """The training step whose clips are drawn; the next ones follow."""
        frames: int = named.frames
        """Frames of a clip."""
        batch: int = named.batch
        """Clips of a step."""
        seed: int = named.seed
        width: int = 1280
        """Width of the picture, in pixels."""
        data: Annotated[Data, arg(name="data")] = field(default_factory=lambda: named.data)

        def run(self) -> int:
            from hodor.data.check import preview
            from hodor.data.stream import Stream

            stream = Stream(self.data, self.frames, self.batch, self.seed, named.steps)
            _save([preview(stream, self.clips, self.step, self.width)], self.out)
            print(self.out)
            return 0

    return Preview


def _save(pictures: "list[npt.NDArray[np.uint8]]", path: Path) -> None:
    """Below each other, as a PNG, whole or not at all."""
    import numpy as np
    from PIL import Image

    from hodor.masks import written_whole

    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: wanted a name that ends in .png")
    width = max(picture.shape[1] for picture in pictures)
    padded = [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0))) for p in pictures]
    with written_whole(path) as file:
        Image.fromarray(np.concatenate(padded)).save(file, "PNG")

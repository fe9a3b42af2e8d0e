"""`hodor data`: check a data set for training, draw the clips of a recipe, and pack data sets into a few small files."""

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

  hodor data check ROOT ...              read data sets; report their contents and damaged files
  hodor data preview RECIPE --out FILE   draw the training clips of a recipe
  hodor data pack ROOT ... -o DIR        store data sets at the size that training needs, in a few files

`hodor data COMMAND --help` lists the options.
"""


@dataclass(frozen=True)
class Check:
    """Read data sets and report what training can use.

    The report contains the format, the number of images or videos and of labelled frames, objects by number and size, the
    number of objects within the limits, clips by gap, and the name of every damaged file. Exit codes: 0 if every data set can
    be used for training; 2 if one cannot, or cannot be read.
    """

    roots: Positional[tuple[Path, ...]]
    """COCO JSON files or their folders, folders of images/ and masks/, folders of videos (DAVIS, YouTube-VOS, ...)."""
    frames: int = 3
    """Frames of a clip, for the number of clips."""
    labels: Literal["all", "first"] = "all"
    """all: clips have masks on every frame. first: on the first frame only; frames without a mask are then read as well."""
    min_area: int = 2000
    """Smallest area of an object, in pixels of the file."""
    min_side: int = 20
    """Smallest width and height of an object, in pixels of the file."""
    split: str = "train"
    """Split of a benchmark that has splits."""
    only: tuple[str, ...] = ()
    """Names of the videos or images to use. Default: all."""
    without: tuple[str, ...] = ()
    """Names of videos or images to leave out."""
    images: bool = True
    """--no-images reads only the masks: faster, but damaged images are not found."""
    sheet: Path | None = None
    """Also draw labelled frames with their objects into this PNG, one file for all roots."""
    cells: int = 12
    """Frames of each root on the sheet."""
    json: Path | None = None
    """Also write the report to this file; - prints it instead of the text."""

    def run(self) -> int:
        from hodor.data.check import examine, report_lines, sheet
        from hodor.data.settings import Data

        if not self.roots:
            raise ValueError("no data set: give hodor data check ROOT ...")
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
                print("\n".join(report_lines(reports[-1])))
        write_json(self.json, {"format": "hodor-data/1", "roots": [report.to_json() for report in reports]})
        if self.sheet:
            _save([sheet(root, data, self.cells) for root in self.roots], self.sheet)
        unusable = [report.root for report in reports if not report.usable]
        for name in unusable:
            info(f"hodor: {name} cannot be used for training: no readable image shows an object within the limits")
        return 2 if unusable else 0


@dataclass(frozen=True)
class Pack:
    """Store data sets at the size that training needs, in shards that are easy to copy to another machine.

    A pack holds H.264 videos, WebP images and PNG masks in zip files, and pack.json. `python -m hodor.train_pack` trains on it
    where only torch, numpy, Pillow, OpenCV and safetensors are installed. Images are reduced, never enlarged; ids and void
    pixels of the masks are kept. Exit codes: 0 done; 2 wrong input.
    """

    roots: Positional[tuple[Path, ...]]
    """COCO JSON files or their folders, folders of images/ and masks/, folders of videos (DAVIS, YouTube-VOS, ...)."""
    out: Annotated[Path, arg(aliases=["-o"])]
    """Folder of the pack; empty, or it does not exist."""
    max_mb: float = 45.0
    """Largest size of a shard, in millions of bytes. A video is never split."""
    short_side: int = 360
    """Short side of images and frames, in pixels."""
    quality: int = 80
    """Quality of the WebP images, 0 to 100."""
    crf: int = 23
    """Quality of the H.264 videos, 0 (best) to 51."""
    split: str = "train"
    """Split of a benchmark that has splits."""
    only: tuple[str, ...] = ()
    """Names of the videos or images to use. Default: all."""
    without: tuple[str, ...] = ()
    """Names of videos or images to leave out."""

    def run(self) -> int:
        from hodor.data.pack import PackSettings, write_pack
        from hodor.data.settings import Data

        if not self.roots:
            raise ValueError("no data set: give hodor data pack ROOT ... -o DIR")
        settings = PackSettings(self.short_side, self.max_mb, self.quality, self.crf)
        data = Data(split=self.split, only=self.only, without=self.without)
        with progress("packing", "items") as shown:
            index = write_pack(self.roots, self.out, settings, data=data, progress=shown)
        for root in index["roots"]:
            damaged = f", {root['damaged']} damaged files left out" if root["damaged"] else ""
            print(f"{root['name']}: {root['items']} {'videos' if root['kind'] == 'videos' else 'images'}{damaged}")
        size = sum(shard["bytes"] for shard in index["shards"]) / 1e6
        print(f"{size:.1f} MB in {len(index['shards'])} shards -> {self.out}")
        return 0


def main(argv: list[str]) -> int:
    """Run `hodor data` with these arguments and return the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if argv[0] == "check":
        return parse(Check, "data check", argv[1:])
    if argv[0] == "preview":
        return _preview(argv[1:])
    if argv[0] == "pack":
        return parse(Pack, "data pack", argv[1:])
    raise ValueError(f"expected data check, data preview or data pack, got data {argv[0]!r}: see `hodor data --help`")


def _preview(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: hodor data preview RECIPE --out FILE.png [--clips 6] [--step 0] [--data.root ROOT ...] ...")
        print("`hodor train --list` lists the recipes, `hodor data preview RECIPE --help` the fields of a recipe.")
        return 0
    import logging

    from hodor.training import recipes

    if argv[0] not in recipes.RECIPES:
        raise ValueError(f"expected a recipe ({', '.join(recipes.RECIPES)}), got {argv[0]!r}")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    return parse(_previewer(recipes.RECIPES[argv[0]]), f"data preview {argv[0]}", argv[1:])


def _previewer(recipe: Any) -> type[Any]:
    """Return the command with the values of a recipe as its defaults."""
    from hodor.data.settings import Data

    @dataclass(frozen=True)
    class Preview:
        """Draw the training clips of a recipe, one in each row. Objects are coloured, unsupervised pixels are hatched."""

        out: Path
        """The PNG to write."""
        clips: int = 6
        """Number of clips, beginning with the first clip of `step`."""
        step: int = 0
        """The training step whose clips are drawn; the clips of the next steps follow."""
        frames: int = recipe.frames
        """Frames of a clip."""
        batch: int = recipe.batch
        """Clips of a step."""
        seed: int = recipe.seed
        """Seed of the random numbers."""
        width: int = 1280
        """Width of the picture, in pixels."""
        data: Annotated[Data, arg(name="data")] = field(default_factory=lambda: recipe.data)

        def run(self) -> int:
            from hodor.data.check import preview
            from hodor.data.stream import Stream

            stream = Stream(self.data, self.frames, self.batch, self.seed, recipe.steps)
            _save([preview(stream, self.clips, self.step, self.width)], self.out)
            print(self.out)
            return 0

    return Preview


def _save(pictures: "list[npt.NDArray[np.uint8]]", path: Path) -> None:
    """Write pictures one below the other into a PNG. If writing fails, no partial file is left."""
    import numpy as np
    from PIL import Image

    from hodor.masks import written_whole

    if path.suffix.lower() != ".png":
        raise ValueError(f"expected a file name that ends in .png, got {path}")
    width = max(picture.shape[1] for picture in pictures)
    padded = [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0))) for p in pictures]
    with written_whole(path) as file:
        Image.fromarray(np.concatenate(padded)).save(file, "PNG")

"""`hodor analyse FIGURE`: the papers' figures and ablation tables, from any weights and any folder of videos with masks."""

import json
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from hodor.commands.console import info, progress
from hodor.commands.descriptors import Videos
from hodor.commands.options import Network, parse

if TYPE_CHECKING:
    from hodor.ablations.runs import Setup
    from hodor.ablations.tables import Table
    from hodor.data.layouts import Layout

FIGURES = {
    "history": ("analyse", "History", "J&F and speed against how many past frames are remembered"),
    "failures": ("analyse", "Failures", "the worst frames, and whether confidence tells them"),
    "sheet": ("analyse", "Sheet", "a row a sequence, frames at even times, objects drawn over"),
    "ablations": ("analyse", "Ablations", "train and score the rows of a paper's ablation table"),
    "retrieval": ("descriptors", "Retrieval", "how well an object's descriptors find each other"),
    "descriptors": ("descriptors", "Descriptors", "maps of the descriptors of all objects"),
    "background": ("descriptors", "Background", "where each background descriptor finds itself"),
    "coarse": ("descriptors", "Coarse", "coarse masks from an empty first mask"),
}


def _layout(root: Path, videos: Videos) -> "Layout":
    from hodor.data.layouts import open_layout

    layout = open_layout(root, videos.kind, videos.split, videos.sequences or None)
    for note in layout.notes:
        info(note)
    return layout


@dataclass(frozen=True)
class History:
    """Draw J&F and frames a second against how many past frames the network remembers.

    A stopped run goes on where it was: what the JSON file beside the figure holds is not measured again.
    """

    dataset: Positional[Path]
    """A benchmark's folder, or any folder of videos and their masks."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("history.png")
    """The figure, PNG or SVG; its numbers stand beside it, in a file with the suffix .json."""
    lengths: tuple[int, ...] = (1, 2, 3, 5, 7, 10)
    """Frames remembered."""
    paper: bool = False
    """Also mark what the paper's text says of its curves."""
    videos: OmitArgPrefixes[Videos] = field(default_factory=Videos)
    network: OmitArgPrefixes[Network] = field(default_factory=Network)

    def run(self) -> int:
        from hodor.analysis import history, plots

        plots.check(self.out)
        layout = _layout(self.dataset, self.videos)
        with progress("measuring") as moved:
            network = self.network.load()
            data = history.measure(
                network,
                layout,
                plots.data_path(self.out),
                lengths=self.lengths,
                size=self.network.size,
                progress=moved,
            )
        history.draw(data, self.out, mark=self.network.history or network.history, paper=self.paper)
        for row in data["curve"]:
            info(f"{row['length']} remembered: J&F {100 * row['J&F']:.1f}, {row['fps']:.1f} frames/s")
        info(f"-> {self.out}, {plots.data_path(self.out)}")
        return 0


@dataclass(frozen=True)
class Failures:
    """Draw the worst frames of the worst sequences: picture, prediction, ground truth, confidence; and J against confidence.

    The second figure is named after the first: failures-confidence.png.
    """

    dataset: Positional[Path]
    """A benchmark's folder, or any folder of videos and their masks."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("failures.png")
    """The figure, PNG or SVG; its numbers stand beside it, in a file with the suffix .json."""
    worst: int = 4
    """Sequences to show, the worst first."""
    frames: int = 2
    """Frames of each."""
    spacing: int = 10
    """Least distance of two frames of one sequence: neighbours fail alike."""
    videos: OmitArgPrefixes[Videos] = field(default_factory=Videos)
    network: OmitArgPrefixes[Network] = field(default_factory=Network)

    def run(self) -> int:
        from hodor.analysis import failures, plots

        plots.check(self.out)
        if min(self.worst, self.frames, self.spacing) < 1:
            raise ValueError(f"--worst {self.worst} --frames {self.frames} --spacing {self.spacing}: want 1 or more of each")
        layout = _layout(self.dataset, self.videos)
        with progress("following") as moved:
            chosen, data = failures.find(
                self.network.load(),
                layout,
                sequences=self.worst,
                frames=self.frames,
                spacing=self.spacing,
                history=self.network.history,
                size=self.network.size,
                progress=moved,
            )
        failures.draw(chosen, data, self.out)
        second = self.out.with_name(f"{self.out.stem}-confidence{self.out.suffix}")
        failures.draw_confidence(data, second)
        for sequence in data["sequences"][: self.worst]:
            info(f"{sequence['sequence']}: J&F {100 * sequence['J&F']:.1f} over {len(sequence['frames'])} frames")
        info(f"-> {self.out}, {second}")
        return 0


@dataclass(frozen=True)
class Sheet:
    """Draw a sheet to look at: a row a sequence, frames at even times, the objects drawn over.

    More than eight sequences go to further pictures: sheet-2.png, sheet-3.png.
    """

    dataset: Positional[Path]
    """A benchmark's folder, or any folder of videos and their masks."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("sheet.png")
    """The figure, PNG or SVG; its numbers stand beside it, in a file with the suffix .json."""
    frames: int = 5
    """Frames a row."""
    given: bool = False
    """Let each row begin with the first frame and the mask that was given."""
    videos: OmitArgPrefixes[Videos] = field(default_factory=Videos)
    network: OmitArgPrefixes[Network] = field(default_factory=Network)

    def run(self) -> int:
        from hodor.analysis import plots, sheets

        plots.check(self.out)
        layout = _layout(self.dataset, self.videos)
        with progress("following") as moved:
            made = sheets.draw(
                self.network.load(),
                layout,
                self.out,
                columns=self.frames,
                given=self.given,
                history=self.network.history,
                size=self.network.size,
                progress=moved,
            )
        info(f"-> {', '.join(map(str, made))}")
        return 0


@dataclass(frozen=True)
class Ablations:
    """Train and score the rows of a paper's ablation table on your data, and print ours beside the paper's numbers.

    A stopped run goes on: finished rows are passed over, an unfinished one is resumed.
    """

    table: Positional[Literal["hodor-1", "hodor-3", "one-shot-1", "one-shot-3", "one-shot-4"]]
    """hodor-1: training data; hodor-3: architecture; one-shot-3: pretraining; one-shot-4: ways back."""
    root: tuple[Path, ...]
    """Videos with masks to train on: folders."""
    held_out: tuple[str, ...] = ()
    """Sequences to score, left out of training. Default: all of --test."""
    test: Path | None = None
    """Folder of the sequences to score. Default: the first of --root."""
    stills: tuple[Path, ...] = ()
    """Images with masks, for the rows trained on images. Default: single frames of the videos."""
    rows: tuple[str, ...] = ()
    """Only these rows, and those that they start from. Default: all."""
    seeds: tuple[int, ...] = (0,)
    """Runs of each row; the table shows mean and standard deviation."""
    steps: int = 2000
    """Steps of training of each row."""
    batch: int = 4
    """Clips a step."""
    lr: float | None = None
    """Learning rate. Default: the recipe's."""
    after_steps: int | None = None
    """Steps of rows that start from another row. Default: as in the paper, 8 % of the others' where it fine-tunes."""
    after_lr: float | None = None
    """Learning rate of rows that start from another row. Default: as in the paper, a tenth where it fine-tunes."""
    set: tuple[str, ...] = ()
    """Other fields of every row's recipe, as FIELD=VALUE: data.size=[256,448] precision=bfloat16."""
    backbone: Path | None = None
    """A public checkpoint of the backbone to begin from."""
    model: str = "hodor-lite"
    """The network of the rows that name none; if it is a lite one, the others take the lite presets of theirs."""
    history: int | None = None
    """Frames remembered while scoring. Default: the network's own, 7 for HODOR."""
    size: int | None = None
    """Short side inside while scoring. Default: the model's."""
    device: str = "auto"
    """auto takes a GPU if there is one, else the CPU."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("ablations")
    """Folder of the runs; the table goes to OUT/TABLE/table.md and table.json."""
    show: Annotated[bool, arg(name="list")] = False
    """Train nothing: say what would be run, and print the table as far as it is finished."""

    def run(self) -> int:
        import logging
        import sys

        from rich.console import Console

        from hodor.ablations import results, runs
        from hodor.ablations.tables import TABLES

        table = TABLES[self.table]
        setup = self._setup()
        rows, cannot = runs.needed(table, self.rows, self.model)
        for key, what in cannot.items():
            info(f"row {key} needs {what}: passed over")
        if self.show:
            self._list(table, setup, [row.key for row in rows])
        else:
            logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
            runs.run(table, setup, rows)
        told = results.results(table, setup)
        if any(result.ours for result in told):
            Console().print(results.printed(table, setup, told))
        if not self.show:
            info(f"-> {results.save(table, setup, told)}")
        return 0

    def _setup(self) -> "Setup":
        from hodor.ablations.runs import Setup, changed
        from hodor.data.layouts import open_layout
        from hodor.models import weights
        from hodor.train import Recipe

        if not self.root:
            raise ValueError("no data: want --root FOLDER of videos with masks")
        if not self.held_out and self.test is None:
            raise ValueError("nothing to score: want --held-out NAME ... of --root, or --test FOLDER")
        if self.model not in weights.MODELS:
            raise ValueError(f"no model {self.model!r}: want {', '.join(weights.MODELS)}")
        base = Recipe(model=self.model, steps=self.steps, batch=self.batch, backbone=self.backbone, pictures_every=0)
        if self.lr is not None:
            base = replace(base, lr=self.lr)
        base = changed(base, dict(map(_field, self.set)))
        test = open_layout(self.test or self.root[0], only=self.held_out or None)
        return Setup(
            base,
            self.root,
            test,
            self.out,
            self.stills,
            self.seeds,
            self.history,
            self.size,
            self.device,
            self.after_steps,
            self.after_lr,
        )

    def _list(self, table: "Table", setup: "Setup", keys: list[str]) -> None:
        from hodor.ablations.runs import state

        for seed in setup.seeds:
            for key in keys:
                row = table.row(key)
                recipe = setup.recipe(table, row, seed)
                done = state(setup, table, row, seed)
                after = f", after row {row.after}" if row.after else ""
                roots = ", ".join(root.name for root in recipe.data.root)
                info(
                    f"row {key}, seed {seed}: {done}; {row.name}; {recipe.model}, {recipe.scheme} on {row.data} of {roots}, "
                    f"{recipe.steps} steps of {recipe.batch}{after}"
                )


def _field(given: str) -> tuple[str, Any]:
    """ "data.size=[256,448]" -> its name and value; what is no number, list or true/false is a word."""
    name, is_there, text = given.partition("=")
    if not is_there:
        raise ValueError(f"--set {given}: want FIELD=VALUE")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    return name, tuple(value) if isinstance(value, list) else value


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: hodor analyse FIGURE ...\n")
        print("\n".join(f"  {name:<12} {text}" for name, (_, _, text) in FIGURES.items()))
        print("\n`hodor analyse FIGURE --help` lists a figure's options.")
        return 0
    if argv[0] not in FIGURES:
        raise ValueError(f"no figure {argv[0]!r}: want one of {', '.join(FIGURES)}")
    module, name, _ = FIGURES[argv[0]]
    return parse(getattr(import_module(f"hodor.commands.{module}"), name), f"analyse {argv[0]}", argv[1:])

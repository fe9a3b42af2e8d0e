"""`hodor analyse FIGURE`: figures and ablation tables of the papers, for any weights and any folder of videos with masks."""

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
    "history": ("analyse", "History", "J&F and speed against the number of past frames in memory"),
    "failures": ("analyse", "Failures", "the worst frames, and J against confidence"),
    "drift": ("analyse", "Drift", "J&F with own and with ground-truth masks in memory, and J over the video"),
    "sheet": ("analyse", "Sheet", "evenly spaced frames of each sequence with the predicted objects"),
    "ablations": ("analyse", "Ablations", "train and score the rows of a paper's ablation table"),
    "retrieval": ("descriptors", "Retrieval", "re-identification of objects by their descriptors"),
    "descriptors": ("descriptors", "Descriptors", "maps of the descriptors of all objects"),
    "background": ("descriptors", "Background", "responses of the background descriptors"),
    "coarse": ("descriptors", "Coarse", "masks predicted from an empty first mask"),
}


def _layout(root: Path, videos: Videos) -> "Layout":
    """Open the data set and print its notes."""
    from hodor.data.layouts import open_layout

    layout = open_layout(root, videos.kind, videos.split, videos.sequences or None)
    for note in layout.notes:
        info(note)
    return layout


@dataclass(frozen=True)
class History:
    """Draw J&F and frames per second against the number of past frames kept in memory.

    An interrupted run is resumed: results in the JSON file beside the figure are not measured again.
    """

    dataset: Positional[Path]
    """Folder of a benchmark, or any folder of videos and masks."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("history.png")
    """The figure, PNG or SVG. Its data are written beside it, in a file with the suffix .json."""
    lengths: tuple[int, ...] = (1, 2, 3, 5, 7, 10)
    """Numbers of past frames kept in memory."""
    paper: bool = False
    """Also draw the values stated in the paper."""
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
            info(f"{row['length']} frames in memory: J&F {100 * row['J&F']:.1f}, {row['fps']:.1f} frames/s")
        info(f"-> {self.out}, {plots.data_path(self.out)}")
        return 0


@dataclass(frozen=True)
class Failures:
    """Draw the worst frames of the worst sequences (image, prediction, ground truth, confidence), and J against confidence.

    The second figure is named after the first: failures-confidence.png.
    """

    dataset: Positional[Path]
    """Folder of a benchmark, or any folder of videos and masks."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("failures.png")
    """The figure, PNG or SVG. Its data are written beside it, in a file with the suffix .json."""
    worst: int = 4
    """Number of sequences, the worst first."""
    frames: int = 2
    """Frames of each sequence."""
    spacing: int = 10
    """Smallest distance between two frames of one sequence, in frames; neighbouring frames fail in the same way."""
    videos: OmitArgPrefixes[Videos] = field(default_factory=Videos)
    network: OmitArgPrefixes[Network] = field(default_factory=Network)

    def run(self) -> int:
        from hodor.analysis import failures, plots

        plots.check(self.out)
        if min(self.worst, self.frames, self.spacing) < 1:
            got = f"{self.worst}, {self.frames}, {self.spacing}"
            raise ValueError(f"expected --worst, --frames and --spacing of at least 1, got {got}")
        layout = _layout(self.dataset, self.videos)
        with progress("tracking") as moved:
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
class Drift:
    """Measure how much a network loses because it stores its own predictions: every video is tracked twice, with its own masks
    in memory and with the ground-truth masks. The difference in J&F is the memory-oracle gap.

    Draws J over the length of the videos and the areas of missing and false pixels, near the outline and far from it. The data
    set needs a mask on every frame.
    """

    dataset: Positional[Path]
    """Folder of a benchmark, or any folder of videos and masks."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("drift.png")
    """The figure, PNG or SVG. Its data are written beside it, in a file with the suffix .json."""
    videos: OmitArgPrefixes[Videos] = field(default_factory=Videos)
    network: OmitArgPrefixes[Network] = field(default_factory=Network)

    def run(self) -> int:
        from hodor.analysis import drift, plots

        plots.check(self.out)
        layout = _layout(self.dataset, self.videos)
        with progress("tracking") as moved:
            data = drift.find(self.network.load(), layout, history=self.network.history, size=self.network.size, progress=moved)
        drift.draw(data, self.out)
        rows = [*data["sequences"], {"sequence": "mean", **data["mean"]}] if len(data["sequences"]) > 1 else data["sequences"]
        for row in rows:
            own, oracle = (100 * row[name]["J&F"] for name in ("own", "oracle"))
            info(f"{row['sequence']}: J&F {own:.1f}, with ground truth in memory {oracle:.1f}, gap {100 * row['gap']:.1f}")
        info(f"-> {self.out}, {plots.data_path(self.out)}")
        return 0


@dataclass(frozen=True)
class Sheet:
    """Draw one row for each sequence, with evenly spaced frames and the predicted objects.

    A file has up to eight sequences. The next ones are in sheet-2.png, sheet-3.png.
    """

    dataset: Positional[Path]
    """Folder of a benchmark, or any folder of videos and masks."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("sheet.png")
    """The figure, PNG or SVG. Its data are written beside it, in a file with the suffix .json."""
    frames: int = 5
    """Frames in a row."""
    given: bool = False
    """Begin each row with the first frame and its given mask."""
    videos: OmitArgPrefixes[Videos] = field(default_factory=Videos)
    network: OmitArgPrefixes[Network] = field(default_factory=Network)

    def run(self) -> int:
        from hodor.analysis import plots, sheets

        plots.check(self.out)
        layout = _layout(self.dataset, self.videos)
        with progress("tracking") as moved:
            paths = sheets.draw(
                self.network.load(),
                layout,
                self.out,
                columns=self.frames,
                given=self.given,
                history=self.network.history,
                size=self.network.size,
                progress=moved,
            )
        info(f"-> {', '.join(map(str, paths))}")
        return 0


@dataclass(frozen=True)
class Ablations:
    """Train and score the rows of a paper's ablation table on your data, and print the scores beside the paper's.

    An interrupted run is resumed: finished rows are skipped, an unfinished row continues from its last checkpoint.
    """

    table: Positional[Literal["hodor-1", "hodor-3", "one-shot-1", "one-shot-3", "one-shot-4"]]
    """hodor-1: training data; hodor-3: architecture; one-shot-1: one label against all; one-shot-3: pretraining; one-shot-4:
    return path."""
    root: tuple[Path, ...]
    """Folders of videos with masks, for training."""
    held_out: tuple[str, ...] = ()
    """Sequences that are scored and left out of training. Default: all of --test."""
    test: Path | None = None
    """Folder of the sequences that are scored. Default: the first of --root."""
    stills: tuple[Path, ...] = ()
    """Images with masks, for the rows that are trained on images. Default: single frames of the videos."""
    rows: tuple[str, ...] = ()
    """Only these rows, and the rows that they start from. Default: all."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; every row is trained once with each. The table shows mean and standard deviation."""
    steps: int = 2000
    """Training steps of each row."""
    batch: int = 4
    """Clips of a step."""
    lr: float | None = None
    """Learning rate. Default: the recipe's."""
    after_steps: int | None = None
    """Steps of rows that start from another row. Default: as in the paper, 8 % of the others' steps if the row is
    fine-tuned."""
    after_lr: float | None = None
    """Learning rate of rows that start from another row. Default: as in the paper, a tenth if the row is fine-tuned."""
    set: tuple[str, ...] = ()
    """Other fields of every row's recipe, as FIELD=VALUE: data.size=[256,448] precision=bfloat16."""
    backbone: Path | None = None
    """Public checkpoint that initialises the backbone."""
    model: str = "hodor-lite"
    """Network of the rows that name none. If it is a lite preset, rows of other networks use their lite presets."""
    history: int | None = None
    """Past frames kept in memory while scoring. Default: the network's own, 7 for HODOR."""
    size: int | None = None
    """Short side inside the network while scoring, in pixels. Default: the model's."""
    device: str = "auto"
    """auto uses a GPU if there is one, else the CPU."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("ablations")
    """Folder of the runs. The table is written to OUT/TABLE/table.md and table.json."""
    show: Annotated[bool, arg(name="list")] = False
    """Train nothing: list the runs and their states, and print the finished part of the table."""

    def run(self) -> int:
        import logging
        import sys

        from rich.console import Console

        from hodor.ablations import results, runs
        from hodor.ablations.tables import TABLES

        table = TABLES[self.table]
        setup = self._setup()
        rows, unavailable = runs.needed(table, self.rows, self.model)
        for key, what in unavailable.items():
            info(f"row {key} needs {what}: skipped")
        if self.show:
            self._list(table, setup, [row.key for row in rows])
        else:
            logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
            runs.run(table, setup, rows)
        finished = results.results(table, setup)
        if any(result.ours for result in finished):
            Console().print(results.printed(table, setup, finished))
        if not self.show:
            info(f"-> {results.save(table, setup, finished)}")
        return 0

    def _setup(self) -> "Setup":
        from hodor.ablations.runs import Setup, changed
        from hodor.data.layouts import open_layout
        from hodor.models import weights
        from hodor.train import Recipe

        if not self.root:
            raise ValueError("no data: give --root FOLDER of videos with masks")
        if not self.held_out and self.test is None:
            raise ValueError("nothing to score: give --held-out NAME ... of --root, or --test FOLDER")
        if self.model not in weights.MODELS:
            raise ValueError(f"expected a model name ({', '.join(weights.MODELS)}), got {self.model!r}")
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
    """Split "data.size=[256,448]" into name and value. A value that is not JSON is a string."""
    name, separator, text = given.partition("=")
    if not separator:
        raise ValueError(f"expected --set FIELD=VALUE, got --set {given}")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    return name, tuple(value) if isinstance(value, list) else value


def main(argv: list[str]) -> int:
    """Run `hodor analyse` with these arguments and return the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: hodor analyse FIGURE ...\n")
        print("\n".join(f"  {name:<12} {text}" for name, (_, _, text) in FIGURES.items()))
        print("\n`hodor analyse FIGURE --help` lists a figure's options.")
        return 0
    if argv[0] not in FIGURES:
        raise ValueError(f"expected a figure ({', '.join(FIGURES)}), got {argv[0]!r}")
    module, name, _ = FIGURES[argv[0]]
    return parse(getattr(import_module(f"hodor.commands.{module}"), name), f"analyse {argv[0]}", argv[1:])

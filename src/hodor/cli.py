"""The command `hodor`: parsing and messages only.

Exit codes: 0 done; 2 wrong input, one line says what came, what was wanted and what to do; 3 the source was damaged and
ended early, everything up to there is written; 130 stopped by Ctrl-C, everything so far is whole.
"""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from hodor.console import fail, one_line, progress, say, write_json

if TYPE_CHECKING:
    from hodor.segment import Summary

COMMANDS = {
    "segment": "follow objects through a video from a mask on one frame",
    "doctor": "tell what a mask file holds, and what would be made of it",
    "evaluate": "score masks against the truth: J, F, J&F",
    "benchmark": "frames a second, milliseconds by stage, peak memory",
    "train": "train a network by a named recipe",
    "convert": "turn the authors' checkpoint into a .safetensors file",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    _keep_memory()
    try:
        code = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has gone, as in `hodor doctor ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except (ValueError, FileNotFoundError) as error:
        if isinstance(error, FileNotFoundError) and error.filename:
            fail(f"{error.filename}: {error.strerror}")
        fail(one_line(str(error)))
    except OSError as error:
        fail(f"{error.filename or 'output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        print("hodor: stopped", file=sys.stderr)
        code = 130
    sys.exit(code)


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if argv[0] == "--version":
        from hodor import __version__

        print(f"hodor {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        raise ValueError(f"no command {argv[0]!r}: want one of {', '.join(COMMANDS)}; see `hodor --help`")
    return _RUN[argv[0]](argv[1:])


def _keep_memory() -> None:
    """Let glibc reuse freed memory instead of handing it back: maps of 30 MB a layer would fault in anew. Elsewhere
    nothing happens."""
    import ctypes

    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(-4, 0)  # M_MMAP_MAX: large blocks too come from the heap
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: and stay there


def _usage() -> str:
    return "\n".join(
        [
            "usage: hodor COMMAND ...",
            "",
            "Video object segmentation: a mask on one frame in, the masks of all frames out.",
            "",
            *(f"  {name:<10} {text}" for name, text in COMMANDS.items()),
            "",
            "`hodor COMMAND --help` lists a command's options. First steps: hodor segment VIDEO --mask MASK.png -o OUT",
        ]
    )


@dataclass(frozen=True)
class Network:
    """Which network, and how it runs."""

    model: str = "hodor-lite"
    """A model whose weights are in the box."""
    checkpoint: Path | None = None
    """A .safetensors file to use instead."""
    device: str = "auto"
    """auto takes a GPU if there is one, else the CPU."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto takes bfloat16 where the device computes in it, else float32."""
    size: int | None = None
    """Short side inside the network, in pixels; masks come out at the video's own size. Default: the model's."""
    history: int = 7
    """How many past frames the network remembers."""

    def load(self) -> Any:
        from hodor.models import weights

        return weights.ready(self.checkpoint or self.model, device=self.device, dtype=self.dtype)


@dataclass(frozen=True)
class Segment:
    """Follow objects through a video, a folder of images, a glob or a camera, from a mask on one frame.

    Writes OUT/masks/<frame>.png for every frame while it runs. Exit codes: 0 done; 2 wrong input; 3 the source was damaged
    and ended early; 130 stopped by Ctrl-C. Whatever was written is whole.
    """

    source: Positional[str]
    """A video file, a folder of images, a quoted glob, or a camera's number."""
    mask: UseAppendAction[tuple[str, ...]]
    """FILE or FILE@FRAME, frames counted from 0; repeat it for masks on other frames. FILE: a picture, a folder of pictures
    (one an object), COCO or labelme JSON; `hodor doctor FILE` tells how it is read."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("hodor-out")
    """Folder of the results."""
    overlay: bool = False
    """Also OUT/overlay.mp4, the video with the objects drawn over."""
    sheet: bool = False
    """Also OUT/sheet.png, a contact sheet to look at."""
    soft: bool = False
    """Also OUT/soft/<frame>.npz, soft masks in 0..255."""
    coco: bool = False
    """Also OUT/coco.json, COCO annotations in RLE."""
    ytvis: bool = False
    """Also OUT/ytvis.json, YouTube-VIS results in RLE."""
    table: bool = False
    """Also OUT/objects.csv: confidence, lost or not, area and box of every object on every frame."""
    cutout: tuple[int, ...] = ()
    """Ids of objects to cut out, each to OUT/cutout_<id>/<frame>.png with alpha."""
    prores: tuple[int, ...] = ()
    """Ids of objects to cut out, each to OUT/cutout_<id>.mov, ProRes 4444 with alpha."""
    direction: Literal["both", "forward"] = "both"
    """From the first mask: to both ends of the video, or only forward; frames before it are then empty."""
    resume: bool = False
    """Go on with a run that was killed; it ends with the same files."""
    json: Path | None = None
    """Write a summary of the run to this file; - prints it."""
    image: str | None = None
    """Which picture's masks to take from a COCO file with several: its file name or id."""
    network: OmitArgPrefixes[Network] = field(default_factory=Network)

    def run(self) -> int:
        from hodor import doctor, frames
        from hodor.segment import Outputs, segment

        if not self.mask:
            raise ValueError("no mask: give one with --mask FILE, or --mask FILE@FRAME for another frame than the first")
        with frames.open_source(self.source) as source:
            masks = {}
            for given in self.mask:
                file, index = _file_and_frame(given)
                reading = doctor.read(file, source.size, self.image)
                for note in reading.notes:
                    say(f"mask {file}: {note}")
                if index in masks:
                    raise ValueError(f"two masks for frame {index}: give one, or a folder with one file an object")
                masks[index] = reading.labels
            for note in source.notes:
                say(f"{source.name}: {note}")
            outputs = Outputs(
                self.out,
                self.overlay,
                self.sheet,
                self.soft,
                self.coco,
                self.ytvis,
                self.table,
                self.cutout,
                self.prores,
            )
            said = list(source.notes)
            network = self.network.load()
            with progress("segmenting") as moved:
                summary = segment(
                    source,
                    masks,
                    network,
                    outputs,
                    history=self.network.history,
                    size=self.network.size,
                    backward=self.direction == "both",
                    resume=self.resume,
                    progress=moved,
                )
        write_json(self.json, {"source": self.source, "out": str(self.out), **summary.to_json()})
        for note in summary.notes:
            if note not in said:
                say(f"{source.name}: {note}")
        return self._report(summary)

    def _report(self, summary: "Summary") -> int:
        if summary.interrupted:
            say(f"hodor: stopped, {summary.frames} frames are whole in {self.out}; --resume goes on")
            return 130
        rate = summary.tracked / summary.seconds if summary.seconds else 0
        say(f"{summary.frames} frames, {summary.seconds:.1f} s, {rate:.1f} frames/s -> {self.out}")
        for i, names in summary.lost.items():
            say(f"object {i} was lost on {len(names)} frames, {names[0]} the first")
        if summary.stopped:
            say(f"the source is damaged: {summary.stopped}; everything before is written")
            return 3
        return 0


@dataclass(frozen=True)
class Doctor:
    """Tell what mask files hold: format, values, objects, what would be mended, and the verdict."""

    files: Positional[tuple[Path, ...]]
    """Masks: pictures, folders, COCO or labelme JSON."""
    image: str | None = None
    """Which picture's masks to take from a COCO file with several: its file name or id."""

    def run(self) -> int:
        from hodor import doctor

        if not self.files:
            raise ValueError("no file: want hodor doctor FILE ...")
        refused = False
        for file in self.files:
            lines = doctor.examine(file, image=self.image)
            print("\n".join(lines))
            refused |= lines[-1].startswith("refused")
        return 2 if refused else 0


@dataclass(frozen=True)
class Evaluate:
    """Score masks against the truth: DAVIS J, F and J&F of the middle frames.

    Both hold one folder a sequence, or are one sequence themselves.
    """

    predictions: Positional[Path]
    truth: Positional[Path]
    sequences: tuple[str, ...] = ()
    """Score only these; default: all of the truth's."""
    late_objects: bool = False
    """Also score objects that appear after the first frame, from the frame after their first."""
    workers: int | None = None
    """Processes; default: one a core."""
    json: Path | None = None
    """Write the scores to this file; - prints them."""

    def run(self) -> int:
        from rich.console import Console

        from hodor import evaluate

        report = evaluate.evaluate(
            self.predictions,
            self.truth,
            sequences=list(self.sequences) or None,
            late_objects=self.late_objects,
            workers=self.workers,
        )
        if self.json != Path("-"):
            Console().print(evaluate.table(report))
            for note in report.notes:
                say(note)
        write_json(self.json, report.to_json())
        return 0


@dataclass(frozen=True)
class Convert:
    """Turn the authors' .pth checkpoint into a .safetensors file; nothing in it is executed, every key must fit."""

    source: Positional[Path]
    out: Positional[Path]
    model: str = "hodor-t"

    def run(self) -> int:
        from hodor.models import released

        network = released.convert(self.source, self.out, self.model)
        say(f"{sum(p.numel() for p in network.parameters()):,} parameters -> {self.out}")
        return 0


@dataclass(frozen=True)
class Benchmark:
    """Frames a second from file to files, milliseconds by stage, peak memory, and the distance from the machine's peak."""

    curves: tuple[Literal["objects", "history", "size", "length"], ...] = ()
    """Also measure against these; default: one object and five."""
    frames: int = 60
    """Length of the video."""
    height: int = 480
    width: int = 854
    json: Path | None = None
    """Write the figures to this file; - prints them."""
    plot: Path | None = None
    """Draw the curves to this PNG or SVG (needs the extra `viz`)."""
    network: OmitArgPrefixes[Network] = field(default_factory=Network)

    def run(self) -> int:
        from dataclasses import replace

        from hodor import benchmark

        if self.plot:
            benchmark.check_plot(self.plot)
        base = benchmark.Case(history=self.network.history, size=self.network.size, frames=self.frames)
        cases = list(dict.fromkeys([base, replace(base, objects=5), *benchmark.curves(base, self.curves)]))
        report = benchmark.run(self.network.load(), cases, height=self.height, width=self.width)
        if self.json != Path("-"):
            for row in report["cases"]:
                case = ", ".join(f"{k} {v}" for k, v in row["case"].items() if v is not None)
                stages = ", ".join(f"{k} {v:.1f}" for k, v in row["stages"].items())
                print(f"{case}: {row['fps']:.1f} frames/s, {row['ms']:.1f} ms ({stages}), {row['peak_mb']:.0f} MB")
                print(f"   {row['gflop']:.1f} GFLOP a frame, floor {row['floor_ms']:.1f} ms, taken {row['times_floor']}x")
        write_json(self.json, report)
        if self.plot:
            benchmark.plot(report, self.plot)
        return 0


def _train(argv: list[str]) -> int:
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


def _plain(command: type[Any]) -> Callable[[list[str]], int]:
    def run(argv: list[str]) -> int:
        import tyro

        name = command.__name__.lower()
        return int(tyro.cli(command, prog=f"hodor {name}", args=argv).run())

    return run


_RUN: dict[str, Callable[[list[str]], int]] = {
    "segment": _plain(Segment),
    "doctor": _plain(Doctor),
    "evaluate": _plain(Evaluate),
    "benchmark": _plain(Benchmark),
    "convert": _plain(Convert),
    "train": _train,
}


def _file_and_frame(given: str) -> tuple[str, int]:
    """ "first.png" -> frame 0, "late.png@40" -> frame 40; a file whose name holds an @ is taken as it stands."""
    file, at, number = given.rpartition("@")
    if not at or Path(given).exists():
        return given, 0
    if not number.isdecimal():
        raise ValueError(f"--mask {given}: want FILE or FILE@FRAME, FRAME a number from 0")
    return file, int(number)


if __name__ == "__main__":
    main()

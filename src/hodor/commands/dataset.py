"""`hodor segment --dataset`: run a network over a whole benchmark. hodor.commands.evaluate also scores the masks."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, Positional, Suppress, arg

from hodor.commands.console import info, progress, write_json
from hodor.commands.options import Network
from hodor.data.benchmarks import KindOrAuto

if TYPE_CHECKING:
    from hodor.data.layouts import Layout
    from hodor.evaluation.datasets import Run


@dataclass(frozen=True, kw_only=True)
class DatasetRun:
    """The options of a run over a whole benchmark."""

    split: str | None = None
    """train, val, test-dev ...; default: val where there is one."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("hodor-out")
    """Folder of the masks: empty, or of an earlier run."""
    only: tuple[str, ...] = ()
    """Use only these sequences."""
    without: tuple[str, ...] = ()
    """Leave out these sequences."""
    resume: bool = False
    """Keep the videos that an earlier run has finished. The network and the settings must be the same."""
    json: Path | None = None
    """Write the content of run.json to this file too; - prints it."""
    network: OmitArgPrefixes[Network] = field(default_factory=Network)
    command: Suppress[tuple[str, ...]] = ()

    def place(self) -> tuple[KindOrAuto, Path]:
        """Return the benchmark's format and folder."""
        raise NotImplementedError

    def run(self) -> int:
        run = self.follow(self.open())
        write_json(self.json, run.to_json())
        return 130 if run.interrupted else 0

    def open(self) -> "Layout":
        """Open the benchmark's folder and print the notes about it."""
        from hodor.data.layouts import open_layout

        kind, root = self.place()
        layout = open_layout(root, kind, self.split, self.only or None, self.without)
        for note in layout.notes:
            info(note)
        return layout

    def follow(self, layout: "Layout") -> "Run":
        """Track all videos, write the masks, and print a summary."""
        from hodor.evaluation.datasets import segment_dataset

        with progress("segmenting") as moved:
            run = segment_dataset(
                layout,
                self.network.load(),
                self.out,
                history=self.network.history,
                size=self.network.size,
                resume=self.resume,
                weights=self.network.checkpoint or self.network.model,
                command=self.command,
                progress=moved,
            )
        for note in run.notes:
            info(note)
        record = run.to_json()
        if run.interrupted:
            finished = f"{len(run.videos)} of {len(layout.videos)} videos are complete in {self.out}"
            info(f"hodor: stopped, {finished}; --resume continues the run")
        elif run.frames:
            speed = f"{record['fps']:.1f} frames/s in the network, {record['fps_with_io']:.1f} with reading and writing"
            skipped = f", {len(run.skipped)} of them done before" if run.skipped else ""
            info(f"{len(run.videos)} videos{skipped}, {run.frames} frames, {speed} -> {self.out}")
        return run


@dataclass(frozen=True, kw_only=True)
class SegmentDataset(DatasetRun):
    """Track the objects of a whole benchmark, and write the masks that it requires.

    Writes OUT/<video>/<frame>.png, palette PNG at the pictures' own size, and OUT/run.json: frames per second, the hash of the
    weights, settings, device, command. Exit codes: 0 done; 2 wrong input; 130 stopped by Ctrl-C, --resume continues the run.
    """

    dataset: tuple[KindOrAuto, Path]
    """The benchmark's format and its folder; auto recognises the format. folder: any frames and masks."""

    def place(self) -> tuple[KindOrAuto, Path]:
        return self.dataset


@dataclass(frozen=True, kw_only=True)
class EvaluateDataset(DatasetRun):
    """Run a network over a whole data set, and score its masks against the ground truth.

    Writes what `hodor segment --dataset` writes, and OUT/results.json: the scores of every object and frame, and how the masks
    were made. To score masks that exist already, use `hodor score`. Exit codes: 0 done; 2 wrong input; 130 stopped by Ctrl-C,
    --resume continues the run.
    """

    kind: Positional[KindOrAuto]
    """The data set's format; auto recognises it. folder: any frames and masks."""
    root: Positional[Path]
    """The data set's folder."""
    profile: str | None = None
    """How to score; default: the benchmark's own rule."""
    seen: Path | None = None
    """The categories (YouTube-VOS) or videos (LVOS) seen in training: a list, one per line, or the training meta.json."""
    unseen: Path | None = None
    """The same for unseen ones."""
    workers: int | None = None
    """Processes that score; default: one per core."""
    json: Path | None = None
    """Write the content of results.json to this file too; - prints it."""
    csv: Path | None = None
    """Write a table of all frames, objects and sequences to this file."""
    html: Path | None = None
    """Write a page with tables, curves over time and pictures of the worst frames to this file."""

    def place(self) -> tuple[KindOrAuto, Path]:
        return self.kind, self.root

    def run(self) -> int:
        from hodor.data.benchmarks import benchmark
        from hodor.evaluate import evaluate
        from hodor.evaluation.datasets import SCORES
        from hodor.evaluation.ground_truth import Masks, check_ground_truth, scorable, written
        from hodor.scoring import result_files
        from hodor.scoring.profiles import read_names
        from hodor.scoring.reports import print_report

        layout = self.open()
        check_ground_truth(layout)
        rule = benchmark(layout.kind)
        profile, late_objects = self.profile or rule.profile, rule.late_objects and self.profile is None
        seen, unseen = (None if path is None else read_names(path) for path in (self.seen, self.unseen))
        with progress("checking masks") as moved:
            found = scorable(layout, profile, late_objects, moved)
        for note in found.notes:
            info(note)
        run = self.follow(layout)
        if run.interrupted:
            return 130
        scored = found.layout
        with progress("scoring") as moved:
            report = evaluate(
                written(scored, self.out),
                Masks(scored),
                profile,
                list(scored.names),
                late_objects=late_objects,
                workers=self.workers,
                meta=layout.meta,
                seen=seen,
                unseen=unseen,
                progress=moved,
            )
        printed = report.notes  # those of the check were printed before the network ran
        report = replace(report, notes=(*found.notes, *report.notes))
        results = {**report.to_json(), "predictions": str(self.out), "ground_truth": str(layout.root), "run": run.to_json()}
        # files first: what is printed can end the command, where its reader has exited
        write_json(self.out / SCORES, results)
        write_json(self.json, results)
        if self.csv:
            result_files.write_csv(results, self.csv)
        if self.html:
            masks, ground_truth = written(scored, self.out), Masks(scored)
            result_files.write_html(results, self.html, predictions=masks, ground_truth=ground_truth, images=layout.picture)
        if self.json != Path("-"):
            print_report(report)
            for note in printed:
                info(note)
        return 0


def run_dataset(command: type[DatasetRun], name: str, argv: list[str]) -> int:
    """Parse `argv` into `command`, record the command line, and run it; return the exit code."""
    import tyro

    words = ["--help"] if {"-h", "--help"} & {*argv} else argv  # `--dataset --help` lacks its two values
    parsed = tyro.cli(command, prog=f"hodor {name}", args=words)
    return replace(parsed, command=("hodor", name, *argv)).run()


def main(argv: list[str]) -> int:
    """Run `hodor segment --dataset KIND ROOT ...`; return the exit code."""
    return run_dataset(SegmentDataset, "segment", argv)

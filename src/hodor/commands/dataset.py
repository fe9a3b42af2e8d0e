"""`hodor segment --dataset` and `hodor evaluate --dataset`: a whole benchmark, run and scored."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, Suppress, arg

from hodor.commands.console import info, progress, write_json
from hodor.commands.options import Network

if TYPE_CHECKING:
    from hodor.data.layouts import Layout
    from hodor.evaluation.datasets import Run

Benchmark = Literal["davis2016", "davis2017", "youtube-vos", "lvos", "mose", "folder", "auto"]
PROFILES: Mapping[str, str] = {
    "davis2016": "davis2016",
    "davis2017": "davis2017",
    "youtube-vos": "youtube-vos",
    "lvos": "lvos",
    "mose": "mose",
    "folder": "davis2017",
}
"""How each kind is scored."""


@dataclass(frozen=True)
class SegmentDataset:
    """Follow the objects of a whole benchmark, and write the masks that it wants.

    Writes OUT/<video>/<frame>.png, palette PNG at the pictures' own size, and OUT/run.json: frames a second, the weights'
    hash, settings, device, command. Exit codes: 0 done; 2 wrong input; 130 stopped by Ctrl-C, --resume goes on.
    """

    dataset: tuple[Benchmark, Path]
    """The kind of benchmark, and its folder; auto tells the kind by what is there. folder: any frames and masks."""
    split: str | None = None
    """train, val, test-dev ...; default: val where there is one."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("hodor-out")
    """Folder of the masks: empty, or of an earlier run."""
    only: tuple[str, ...] = ()
    """Take these sequences alone."""
    without: tuple[str, ...] = ()
    """Leave these sequences out."""
    resume: bool = False
    """Keep the videos that an earlier run has finished; it must have been the same network and settings."""
    json: Path | None = None
    """Write what run.json holds to this file too; - prints it."""
    network: OmitArgPrefixes[Network] = field(default_factory=Network)
    command: Suppress[tuple[str, ...]] = ()

    def run(self) -> int:
        run = self.follow(self.open())
        write_json(self.json, run.to_json())
        return 130 if run.interrupted else 0

    def open(self) -> "Layout":
        from hodor.data.layouts import open_layout

        kind, root = self.dataset
        layout = open_layout(root, kind, self.split, self.only or None, self.without)
        for note in layout.notes:
            info(note)
        return layout

    def follow(self, layout: "Layout") -> "Run":
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
        told = run.to_json()
        if run.interrupted:
            info(f"hodor: stopped, {len(run.videos)} of {len(layout.videos)} videos are whole in {self.out}; --resume goes on")
        elif run.frames:
            speed = f"{told['fps']:.1f} frames/s in the network, {told['fps_with_io']:.1f} with reading and writing"
            kept = f", {len(run.skipped)} of them done before" if run.skipped else ""
            info(f"{len(run.videos)} videos{kept}, {run.frames} frames, {speed} -> {self.out}")
        return run


@dataclass(frozen=True)
class EvaluateDataset(SegmentDataset):
    """Follow the objects of a whole benchmark, then score the masks against its own.

    Writes what `hodor segment --dataset` writes, and OUT/results.json: the scores of every object and frame, and how the masks
    were made. Exit codes as there.
    """

    profile: str | None = None
    """How to score; default: the benchmark's own way."""
    seen: Path | None = None
    """The categories (YouTube-VOS) or videos (LVOS) seen in training: a list, one a line, or the training meta.json."""
    unseen: Path | None = None
    """The same of those not seen."""
    workers: int | None = None
    """Processes that score; default: one a core."""
    json: Path | None = None
    """Write what results.json holds to this file too; - prints it."""
    csv: Path | None = None
    """Write a table of all frames, objects and sequences to this file."""
    html: Path | None = None
    """Write a page with tables, curves over time and the worst frames as pictures to this file."""

    def run(self) -> int:
        from rich.console import Console

        from hodor.evaluate import evaluate
        from hodor.evaluation.datasets import SCORES, Masks, check_truth, written
        from hodor.scoring import result_files
        from hodor.scoring.reports import table

        layout = self.open()
        check_truth(layout)
        run = self.follow(layout)
        if run.interrupted:
            return 130
        with progress("scoring") as moved:
            report = evaluate(
                written(layout, self.out),
                Masks(layout),
                self.profile or PROFILES[layout.kind],
                list(layout.names),
                late_objects=layout.kind == "folder" and self.profile is None,
                workers=self.workers,
                meta=layout.meta,
                seen=self.seen,
                unseen=self.unseen,
                progress=moved,
            )
        if self.json != Path("-"):
            Console().print(table(report))
            for note in report.notes:
                info(note)
        results = {**report.to_json(), "predictions": str(self.out), "ground_truth": str(layout.root), "run": run.to_json()}
        write_json(self.out / SCORES, results)
        write_json(self.json, results)
        if self.csv:
            result_files.write_csv(results, self.csv)
        if self.html:
            masks, ground_truth = written(layout, self.out), Masks(layout)
            result_files.write_html(results, self.html, predictions=masks, ground_truth=ground_truth, images=layout.picture)
        return 0


def main(argv: list[str]) -> int:
    """`hodor segment --dataset KIND ROOT ...`."""
    return _run(SegmentDataset, "segment", argv)


def evaluate_main(argv: list[str]) -> int:
    """`hodor evaluate --dataset KIND ROOT ...`."""
    return _run(EvaluateDataset, "evaluate", argv)


def _run(kind: type[SegmentDataset], name: str, argv: list[str]) -> int:
    import tyro

    parsed = tyro.cli(kind, prog=f"hodor {name}", args=argv)
    return replace(parsed, command=("hodor", name, *argv)).run()

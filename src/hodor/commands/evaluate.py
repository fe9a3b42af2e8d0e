"""`hodor evaluate`: scores of masks against the ground truth."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from hodor.commands.console import info, progress, write_json
from hodor.commands.options import parse


@dataclass(frozen=True)
class Evaluate:
    """Score masks against the ground truth by the rule of a benchmark: J, F, J&F; default DAVIS 2017, or 2016 for masks of 0/255.

    Both are a folder of sequences, one sequence, a zip file of either, SA-V folders, or COCO or YouTube-VIS JSON. Everything
    that would make a number meaningless is told at once, and ends with exit code 2.
    """

    predictions: Positional[Path]
    ground_truth: Positional[Path]
    profile: Literal["davis2016", "davis2017", "davis2017-unsupervised", "youtube-vos", "vos-benchmark", "lvos", "mose"] = (
        "davis2017"
    )
    """The benchmark whose rule is followed."""
    compat: bool = False
    """The official tool's numbers, its bugs included."""
    sequences: tuple[str, ...] = ()
    """Score only these, in this order; default: all of the ground truth's."""
    list: Path | None = None
    """Score only the sequences named in this file, one a line, such as DAVIS/ImageSets/2017/val.txt."""
    late_objects: bool = False
    """Also score objects that appear after the first frame, from the frame after their first."""
    ends: Literal["neither", "first", "last", "both"] | None = None
    """Which of the first and the last frame, of the video or the object, are evaluated; default: as the profile has it."""
    every: int | None = None
    """Judge only every so many frames, by their numbers; default: as the profile has it."""
    meta: Path | None = None
    """The dataset's meta.json: categories and frames (youtube-vos), frame ranges (lvos, needed), objects (mose)."""
    seen: Path | None = None
    """Categories (youtube-vos) or videos (lvos) seen in training: a text file, one a line, or the training meta.json."""
    unseen: Path | None = None
    """The same for unseen ones, such as lvos's unseen_videos.txt."""
    workers: int | None = None
    """Processes; default: one a core, one for few frames."""
    json: Path | None = None
    """Write the scores to this file, in full precision; - prints them."""
    csv: Path | None = None
    """Write a table of all frames, objects and sequences to this file."""
    html: Path | None = None
    """Write a page with tables, curves and the worst frames to this file."""
    images: Path | None = None
    """The videos' frames, for the pictures of --html: a folder with <sequence>/<frame>.jpg or .png."""

    def run(self) -> int:
        from rich.console import Console

        from hodor.evaluate import evaluate
        from hodor.scoring import reports

        with progress("scored") as show:
            report = evaluate(
                self.predictions,
                self.ground_truth,
                self._profile(),
                self._sequences(),
                compat=self.compat,
                late_objects=self.late_objects,
                workers=self.workers,
                meta=self.meta,
                seen=self.seen,
                unseen=self.unseen,
                progress=show,
            )
        results = report.to_json()
        if self.json != Path("-"):
            console = Console()
            console.print(reports.table(report))
            if own := reports.own_numbers(report):
                console.print(own, highlight=False)
            for note in report.notes:
                info(note)
        write_json(self.json, results)
        if self.csv or self.html:
            from hodor.scoring import result_files

            if self.csv:
                result_files.write_csv(results, self.csv)
            if self.html:
                result_files.write_html(
                    results, self.html, predictions=self.predictions, ground_truth=self.ground_truth, images=self.images
                )
        return 0

    def _profile(self) -> Any:
        from dataclasses import replace

        from hodor.scoring.profiles import profile_named

        changes: dict[str, Any] = {}
        if self.ends:
            changes |= {"first": self.ends in ("first", "both"), "last": self.ends in ("last", "both")}
        if self.every is not None:
            changes["every"] = self.every
        return replace(profile_named(self.profile), **changes)

    def _sequences(self) -> Any:
        if self.list is None:
            return self.sequences or None
        if self.sequences:
            raise ValueError("--sequences and --list name the sequences twice: give one of them")
        if not self.list.is_file():
            raise FileNotFoundError(f"list {self.list} does not exist: wanted a text file, one sequence a line")
        return [line.strip() for line in self.list.read_text().splitlines() if line.strip()]


def main(argv: list[str]) -> int:
    return parse(Evaluate, "evaluate", argv)

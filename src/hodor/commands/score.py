"""`hodor score`: score masks against the ground truth."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from hodor.commands.console import info, progress, write_json
from hodor.commands.options import parse
from hodor.names import read_list
from hodor.scoring.profiles import ProfileName


@dataclass(frozen=True)
class Score:
    """Score masks against the ground truth by the rule of a benchmark: J, F, J&F.

    Both are a folder of sequences, one sequence, a zip file of either, SA-V folders, or COCO or YouTube-VIS JSON. The default
    rule is that of DAVIS 2017, or of DAVIS 2016 for masks of 0 and 255. Everything that would make a number meaningless is
    reported at once, with exit code 2. To run a network over a data set and score it, use `hodor evaluate`.
    """

    predictions: Positional[Path]
    """The masks to score."""
    ground_truth: Positional[Path]
    """The ground-truth masks."""
    profile: ProfileName = "davis2017"
    """The benchmark whose rule is used."""
    compat: bool = False
    """Give the official tool's numbers, including its bugs."""
    sequences: tuple[str, ...] = ()
    """Score only these sequences, in this order; default: all of the ground truth."""
    list: Path | None = None
    """Score only the sequences named in this file, one per line, such as DAVIS/ImageSets/2017/val.txt."""
    late_objects: bool = False
    """Also score objects that appear after the first frame, from the frame after their first."""
    ends: Literal["neither", "first", "last", "both"] | None = None
    """Which of the first and the last frame (of the video or the object) are scored; default: the profile's choice."""
    every: int | None = None
    """Score only every Nth frame, by the frames' numbers; default: the profile's choice."""
    meta: Path | None = None
    """The data set's meta.json: categories and frames (youtube-vos), frame ranges (lvos, required), objects (mose)."""
    seen: Path | None = None
    """Categories (youtube-vos) or videos (lvos) seen in training: a text file, one per line, or the training meta.json."""
    unseen: Path | None = None
    """The same for unseen ones, such as lvos's unseen_videos.txt."""
    workers: int | None = None
    """Processes; default: one per core, one for few frames."""
    json: Path | None = None
    """Write the scores to this file, in full precision; - prints them."""
    csv: Path | None = None
    """Write a table of all frames, objects and sequences to this file."""
    html: Path | None = None
    """Write a page with tables, curves and the worst frames to this file."""
    images: Path | None = None
    """The videos' frames, for the pictures of --html: a folder with <sequence>/<frame>.jpg or .png."""

    def run(self) -> int:
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
        write_json(self.json, results)
        if self.csv or self.html:
            from hodor.scoring import result_files

            if self.csv:
                result_files.write_csv(results, self.csv)
            if self.html:
                result_files.write_html(
                    results, self.html, predictions=self.predictions, ground_truth=self.ground_truth, images=self.images
                )
        if self.json != Path("-"):
            reports.print_report(report)
            for note in report.notes:
                info(note)
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
            raise ValueError("--sequences and --list both name the sequences: give one of them")
        if not self.list.is_file():
            raise FileNotFoundError(f"list {self.list} does not exist: give a text file, one sequence per line")
        return read_list(self.list)


def main(argv: list[str]) -> int:
    """Run `hodor score PREDICTIONS GROUND_TRUTH ...`; return the exit code."""
    return parse(Score, "score", argv)

"""`hodor segment`: follow objects through a video."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from hodor.commands.console import info, progress, write_json
from hodor.commands.library import LibraryOptions, find_masks, save_objects, writers_of
from hodor.commands.options import Network, Prompts, line_of, parse
from hodor.outputs.selection import OutputOptions

if TYPE_CHECKING:
    from hodor.masks import Labels
    from hodor.prompts import ObjectPrompts
    from hodor.segment import Summary
    from hodor.video.source import Source


@dataclass(frozen=True)
class Segment:
    """Follow objects through a video, a folder of images, a glob pattern or a camera, from a mask or clicks on one frame.

    Writes OUT/masks/<frame>.png for every frame while it runs. Exit codes: 0 complete; 2 wrong input; 3 the source was
    damaged: frames do not decode, or it ended early; 130 stopped by Ctrl-C. No file is left incomplete.
    """

    source: Positional[str]
    """A video file, a folder of images, a quoted glob pattern, or the number of a camera."""
    mask: UseAppendAction[tuple[str, ...]]
    """FILE or FILE@FRAME, frames counted from 0; repeat the option for masks on other frames. FILE is a picture, a folder of
    pictures (one an object), or COCO or labelme JSON (FILE:IMAGE or FILE:IMAGE@FRAME names one picture of a COCO file);
    `hodor doctor FILE` reports how it is read."""
    prompts: OmitArgPrefixes[Prompts] = field(default_factory=Prompts)
    out: Annotated[Path, arg(aliases=["-o"])] = Path("hodor-out")
    """Folder of the results."""
    outputs: OmitArgPrefixes[OutputOptions] = field(default_factory=OutputOptions)
    start_frame: int = 0
    """In point: the first frame that is used, counted from 0 as in --mask. Frames before it are neither tracked nor written."""
    stop_frame: int | None = None
    """Out point: the last frame that is used; it is included. Default: the last frame of the source."""
    start_number: int | None = None
    """Number in the name of the first file, such as 1001, with at least four digits. Default: the names of the source."""
    objects: OmitArgPrefixes[LibraryOptions] = field(default_factory=LibraryOptions)
    direction: Literal["both", "forward"] = "both"
    """From the first mask: to both ends of the video, or only forward; frames before it are then empty."""
    resume: bool = False
    """Continue a run that was killed; it ends with the same files."""
    overwrite: bool = False
    """Remove the results of an earlier run from OUT first; without it, an OUT that holds masks is refused."""
    strict: bool = False
    """Stop at the first frame that does not decode, with exit code 2."""
    json: Path | None = None
    """Write a summary of the run to this file; - prints it."""
    image: str | None = None
    """Which picture of a COCO file with several: its file name or id. With several JSON masks write FILE:IMAGE instead."""
    network: OmitArgPrefixes[Network] = field(default_factory=Network)

    def run(self) -> int:
        """Run the command. Returns the exit code."""
        from hodor import frames
        from hodor.mask_files import doctor
        from hodor.segment import Outputs, segment

        prompts = self.prompts.read()
        if not self.mask and not self.objects.find and not prompts:
            raise ValueError("expected at least one mask, got none: give --mask FILE, --box X0,Y0,X1,Y1 or --point X,Y")
        mask_files = [doctor.split_image(_file_and_frame(given)[0])[0] for given in self.mask]
        with frames.open_source(self.source, mask_files) as source:
            masks, table = _read_masks(self.mask, source.size, self.image) if self.mask else ({}, [])
            answers = [answer for at, given in prompts.items() for answer in _add_prompts(masks, source, at, given)]
            for note in source.notes:
                info(f"{source.name}: {note}")
            printed = list(source.notes)
            network = self.network.load()
            extent = self.start_frame, None if self.stop_frame is None else self.stop_frame + 1
            masks, found = find_masks(self.objects, source, network, masks, size=self.network.size, extent=extent)
            stored = writers_of(self.objects, network, masks, self.network.size)
            with progress("segmenting") as report:
                summary = segment(
                    source,
                    masks,
                    network,
                    Outputs(self.out, **vars(self.outputs)),
                    history=self.network.history,
                    size=self.network.size,
                    backward=self.direction == "both",
                    resume=self.resume,
                    overwrite=self.overwrite,
                    strict=self.strict,
                    start_frame=self.start_frame,
                    stop_frame=self.stop_frame,
                    start_number=self.start_number,
                    watchers=list(stored.values()),
                    progress=report,
                )
        given = {"masks": table + found, "prompts": answers}
        write_json(self.json, {"source": self.source, "out": str(self.out), **summary.to_json(), **given})
        if not summary.interrupted:
            save_objects(self.objects, network, stored)
        for note in summary.notes:
            if note not in printed:
                info(f"{source.name}: {note}")
        return self._report(summary)

    def _report(self, summary: "Summary") -> int:
        if summary.interrupted:
            info(f"hodor: stopped, {summary.frames} frames are complete in {self.out}; --resume continues")
            return 130
        rate = summary.tracked / summary.seconds if summary.seconds else 0
        info(f"{summary.frames} frames, {summary.seconds:.1f} s, {rate:.1f} frames/s -> {self.out}")
        for i, names in summary.lost.items():
            info(f"object {i} was lost on {len(names)} frames, first on {names[0]}")
        for i, (before, after) in summary.flicker.items():
            info(f"object {i}: flicker of its matte {before:.2f} % before --smooth-time, {after:.2f} % after")
        for line in _damage(summary.damaged):
            info(f"the source is damaged: {line}")
        if summary.stopped:
            info(f"the source is damaged: {summary.stopped}; all frames before are written")
        return 3 if summary.stopped or summary.damaged else 0


def _damage(damaged: dict[int, str]) -> list[str]:
    """Return one line for each run of damaged frames with the same message, at most ten."""
    runs: list[list[int]] = []
    for n, message in damaged.items():
        if runs and runs[-1][-1] == n - 1 and damaged[n - 1] == message:
            runs[-1].append(n)
        else:
            runs.append([n])
    lines = []
    for run in runs[:10]:
        frames, whose = (
            (f"frame {run[0]}", "its picture is") if len(run) == 1 else (f"frames {run[0]} to {run[-1]}", "their picture is")
        )
        where = "before; frames up to the next keyframe can be distorted" if run[0] else "after"
        lines.append(f"{frames}: {damaged[run[0]]}; {whose} that of the frame {where}")
    return lines + ([f"{len(runs) - 10} more places"] if len(runs) > 10 else [])


def main(argv: list[str]) -> int:
    """Run `hodor segment` with these arguments. Returns the exit code."""
    return parse(Segment, "segment", argv)


def _read_masks(
    given: Sequence[str], size: tuple[int, int], image: str | None
) -> tuple[dict[int, "Labels"], list[dict[str, int | str]]]:
    """Read the masks and print what was found.

    Args:
        given: values of `--mask`.
        size: size of the frames (H, W).
        image: value of `--image`.

    Returns:
        Index of a frame -> labels with common ids, and the table of ids.
    """
    import numpy as np

    from hodor.mask_files import doctor, identity

    masks: dict[int, identity.Given] = {}
    parts = [_file_and_frame(each) for each in given]
    pictures = [doctor.split_image(file) for file, _ in parts]
    unnamed = [file for file, named in pictures if named is None and file.lower().endswith(".json")]
    if image is not None and len(unnamed) > 1:
        raise ValueError(
            f"expected one JSON mask for --image {image}, got {len(unnamed)} ({', '.join(unnamed)}): "
            "write --mask FILE:IMAGE@FRAME for each"
        )
    for (name, frame), (file, named) in zip(parts, pictures, strict=True):
        reading = doctor.read(file, size, named or image)
        if frame in masks:
            raise ValueError(f"two masks for frame {frame}: give one, or a folder with one file an object")
        masks[frame] = identity.Given(name, frame, reading)
    joined = identity.join(list(masks.values()))
    for name, frame, reading in masks.values():
        changed = np.any((reading.labels != 0) & (reading.labels != joined.labels[frame]))
        alone = " (with its ids when read alone)" if changed else ""
        for note in reading.notes:
            info(f"mask {name}{alone}: {note}")
    if len(masks) > 1 or not all(row.stated.startswith(("value", "object")) for row in joined.rows):
        for line in identity.lines_of(joined.rows):
            info(line)
    return joined.labels, [row._asdict() for row in joined.rows]


def _add_prompts(
    masks: "dict[int, Labels]", source: "Source", at: int, prompts: "dict[int, ObjectPrompts]"
) -> list[dict[str, int | float]]:
    """Segment the objects with prompts on one frame, print what was found, and add them to the mask of the frame.

    Args:
        masks: index of a frame -> its labels; this frame's are replaced.
        source: the source.
        at: index of the frame.
        prompts: id of an object -> its prompts.

    Returns:
        Frame, object, score and area of each object.
    """
    from hodor.prompts import segment_prompts
    from hodor.video.images import Stream

    if at and isinstance(source, Stream):
        raise ValueError(f"{source.name} is read once, so that prompts on frame {at} cannot be used: give prompts on frame 0")
    found = segment_prompts(source.frame(at).image, prompts, masks.get(at), frame=at)
    masks[at] = found.labels
    for line in (*found.notes, *(line_of(answer, found.labels.size) for answer in found.answers)):
        info(f"prompts on frame {at}: {line}")
    return [{"frame": at, **answer._asdict()} for answer in found.answers]


def _file_and_frame(given: str) -> tuple[str, int]:
    """Split FILE@FRAME: "first.png" is frame 0, "late.png@40" frame 40; an existing file whose name has an @ is not split."""
    file, at, number = given.rpartition("@")
    if not at or Path(given).exists():
        return given, 0
    if not number.isdecimal():
        raise ValueError(f"expected FILE or FILE@FRAME with a frame number from 0, got --mask {given}")
    return file, int(number)

"""`hodor segment`: follow objects through a video."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from hodor.commands.console import progress, say, write_json
from hodor.commands.options import Network, parse

if TYPE_CHECKING:
    from hodor.segment import Summary


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
        from hodor import frames
        from hodor.mask_files import doctor
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


def main(argv: list[str]) -> int:
    return parse(Segment, "segment", argv)


def _file_and_frame(given: str) -> tuple[str, int]:
    """ "first.png" -> frame 0, "late.png@40" -> frame 40; a file whose name holds an @ is taken as it stands."""
    file, at, number = given.rpartition("@")
    if not at or Path(given).exists():
        return given, 0
    if not number.isdecimal():
        raise ValueError(f"--mask {given}: want FILE or FILE@FRAME, FRAME a number from 0")
    return file, int(number)

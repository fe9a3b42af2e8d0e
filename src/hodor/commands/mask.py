"""`hodor mask`: make a first mask from clicks and boxes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from hodor.commands.console import info
from hodor.commands.frame import read_frame
from hodor.commands.options import Prompts, line_of, parse


@dataclass(frozen=True)
class Mask:
    """Make a mask of objects on one frame from clicks and boxes, and print the score and the area of each."""

    source: Positional[str]
    """SOURCE or SOURCE@FRAME, as for `hodor frame`."""
    prompts: OmitArgPrefixes[Prompts] = field(default_factory=Prompts)
    start: Path | None = None
    """A mask to correct, such as the result before. Its other objects stay."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("first.png")
    """The mask that is written: a palette PNG, the index is the id."""
    overlay: Path | None = None
    """Also write this picture: the frame with the objects drawn over it."""

    def run(self) -> int:
        """Run the command. Returns the exit code."""
        from hodor.frames import overlay
        from hodor.mask_files import doctor
        from hodor.masks import write_labels
        from hodor.outputs.films import write_png
        from hodor.prompts import segment_prompts, split_frame

        spec, index = split_frame(self.source)
        given = self.prompts.read(index)
        if not given:
            raise ValueError("expected at least one prompt, got none: give --box X0,Y0,X1,Y1 or --point X,Y")
        outs = [path for path in (self.out, self.overlay) if path is not None]
        frame, code = read_frame(spec, index, outs, [self.start] if self.start else [])
        start = None
        if self.start is not None:
            reading = doctor.read(self.start, frame.image.shape[:2])
            start = reading.labels
            for note in reading.notes:
                info(f"mask {self.start}: {note}")
        found = segment_prompts(frame.image, given[index], start, frame=index)
        write_labels(self.out, found.labels)
        if self.overlay is not None:
            write_png(self.overlay, overlay(frame.image, found.labels))
        for note in found.notes:
            info(note)
        for answer in found.answers:
            print(f"{line_of(answer, found.labels.size)} -> {self.out}")
        return code


def main(argv: list[str]) -> int:
    """Run `hodor mask` with these arguments. Returns the exit code."""
    return parse(Mask, "mask", argv)

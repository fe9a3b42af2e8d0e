"""`hodor frame`: export one frame as a picture to draw on."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from hodor.commands.console import info
from hodor.commands.options import parse

if TYPE_CHECKING:
    from hodor.frames import Frame as Picture
    from hodor.video.source import Source


@dataclass(frozen=True)
class Frame:
    """Write one frame as a PNG, as the tracker sees it: upright, in its size and its colours. A mask is drawn on it."""

    source: Positional[str]
    """SOURCE or SOURCE@FRAME, frames counted from 0 as in `hodor segment --mask FILE@FRAME`. SOURCE is a video file, a folder
    of images, a quoted glob pattern, or the number of a camera."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("frame.png")
    """The picture that is written."""

    def run(self) -> int:
        """Run the command. Returns the exit code."""
        from hodor.outputs.films import write_png
        from hodor.prompts import split_frame

        spec, index = split_frame(self.source)
        frame, code = read_frame(spec, index, [self.out])
        write_png(self.out, frame.image)
        height, width = frame.image.shape[:2]
        info(f"frame {index} ({frame.name}), {width}x{height} -> {self.out}")
        return code


def read_frame(spec: str, index: int, outs: list[Path], masks: list[Path] | None = None) -> tuple["Picture", int]:
    """Read one frame of a source, and print its notes.

    Args:
        spec: the source.
        index: number of the frame, from 0.
        outs: pictures that will be written.
        masks: files of a folder that are no frames.

    Returns:
        The frame, and the exit code: 0, or 3 if the frame is damaged.
    """
    from hodor.frames import open_source

    with open_source(spec, masks or []) as source:
        for out in outs:
            _check_out(out, spec, source)
        frame = source.frame(index)
        for note in source.notes:
            info(f"{source.name}: {note}")
        if index not in source.damaged:
            return frame, 0
        info(f"the source is damaged: frame {index}: {source.damaged[index]}; its picture is that of a frame beside it")
        return frame, 3


def _check_out(out: Path, spec: str, source: "Source") -> None:
    """Raise ValueError where a picture would not be a PNG, or would replace a frame or become one."""
    if out.suffix.lower() != ".png":
        raise ValueError(f"expected a name that ends in .png, got {out}: a PNG keeps every pixel")
    if out.exists() and any(out.samefile(file) for file in source.files):
        raise ValueError(f"expected another file than the frames of {spec}, got {out}: give a new name")
    if Path(spec).is_dir() and out.parent.is_dir() and out.parent.samefile(spec):
        raise ValueError(f"expected a file outside {spec}, got {out}: it would become a frame, give another folder")


def main(argv: list[str]) -> int:
    """Run `hodor frame` with these arguments. Returns the exit code."""
    return parse(Frame, "frame", argv)

"""Options that several commands share, and the parsing of a command."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import DisallowNone, UseAppendAction

if TYPE_CHECKING:
    from hodor.prompts import Answer, ObjectPrompts

Values = UseAppendAction[tuple[tuple[str, ...], ...]]
"""An option with several values, which can be repeated."""


@dataclass(frozen=True)
class Network:
    """Which network is used, and how it runs."""

    model: str = "xmem-lite"
    """Name of a model with bundled weights."""
    checkpoint: Path | None = None
    """A .safetensors file to use instead."""
    device: str = "auto"
    """auto uses a GPU if there is one, else the CPU."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto uses bfloat16 where the device computes in it, else float32."""
    size: int | None = None
    """Short side inside the network, in pixels; masks are written at the video's own size. Default: the model's."""
    history: int | None = None
    """Number of past frames kept in memory (T). Default: the network's own, 7 for xmem-lite and hodor-lite."""
    pin_first: DisallowNone[bool | None] = None
    """Keep the first frame of every object in memory, beyond the history. Default: the network's own."""
    hold_lost: DisallowNone[bool | None] = None
    """Do not write an object to memory on frames where it is lost. Default: the network's own."""

    def load(self) -> Any:
        """Return the network, ready to run on its device, with the tracking options that were given."""
        from hodor.models import weights

        network = weights.ready(self.checkpoint or self.model, device=self.device, dtype=self.dtype)
        options = {"pin_first": self.pin_first, "hold_lost": self.hold_lost}
        network.set_tracking(**{name: value for name, value in options.items() if value is not None})
        return network


@dataclass(frozen=True)
class Prompts:
    """Clicks and boxes in place of a mask. ID: in front for other objects than 1; @FRAME behind only in `hodor segment`."""

    box: Values = ()
    """[ID:]X0,Y0,X1,Y1[@FRAME]: upper left and lower right corner of a box around an object, in pixels of the frame."""
    point: Values = ()
    """[ID:]X,Y[@FRAME]: points on an object."""
    background: Values = ()
    """[ID:]X,Y[@FRAME]: points that do not belong to the object."""

    def read(self, frame: int | None = None) -> "dict[int, dict[int, ObjectPrompts]]":
        """Return the prompts by frame and id. With `frame`, they are for this frame, and cannot name another."""
        from hodor.prompts import read_prompts

        return read_prompts(*(chain(*values) for values in (self.box, self.point, self.background)), frame=frame)


def line_of(answer: "Answer", pixels: int) -> str:
    """Return what was found for an object: its id, score and area.

    Args:
        answer: what was found.
        pixels: number of pixels of the frame.
    """
    return f"object {answer.object}: score {answer.score:.2f}, {answer.area} px ({answer.area / pixels:.1%})"


def parse(command: type[Any], name: str, argv: list[str]) -> int:
    """Parse the arguments into a command and run it.

    Args:
        command: a frozen dataclass with a method `run`; its fields are the options.
        name: name of the command, for its usage line.
        argv: arguments after the name.

    Returns:
        The exit code.
    """
    import tyro

    return int(tyro.cli(command, prog=f"hodor {name}", args=argv).run())

"""Options that several commands share, and how a command is parsed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Network:
    """Which network, and how it runs."""

    model: str = "xmem-lite"
    """A model whose weights are in the box."""
    checkpoint: Path | None = None
    """A .safetensors file to use instead."""
    device: str = "auto"
    """auto takes a GPU if there is one, else the CPU."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto takes bfloat16 where the device computes in it, else float32."""
    size: int | None = None
    """Short side inside the network, in pixels; masks come out at the video's own size. Default: the model's."""
    history: int | None = None
    """How many past frames the network remembers. Default: the network's own, 7 for xmem-lite and hodor-lite."""

    def load(self) -> Any:
        from hodor.models import weights

        return weights.ready(self.checkpoint or self.model, device=self.device, dtype=self.dtype)


def parse(command: type[Any], name: str, argv: list[str]) -> int:
    """Parse `argv` into the frozen dataclass `command` and run it; -> the exit code."""
    import tyro

    return int(tyro.cli(command, prog=f"hodor {name}", args=argv).run())

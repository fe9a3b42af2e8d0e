"""`hodor convert`: turn the authors' checkpoints into .safetensors files."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from hodor.commands.console import info
from hodor.commands.options import parse


@dataclass(frozen=True)
class Convert:
    """Turn the authors' .pth checkpoint into a .safetensors file. Nothing in it is executed, and every key must fit."""

    source: Positional[Path]
    """The authors' .pth file."""
    out: Positional[Path]
    """The .safetensors file to write."""
    model: str = "hodor-t"
    """The model of the checkpoint: hodor-t, stcn, xmem, cutie, cutie-small, stemseg-davis, stemseg-ytvis or
    stemseg-kitti."""

    def run(self) -> int:
        from hodor.models import released
        from hodor.models.finder import Finder

        network = released.convert(self.source, self.out, self.model)
        info(f"{sum(p.numel() for p in network.parameters()):,} parameters -> {self.out}")
        if isinstance(network, Finder):
            info(f"stored in the file: size {network.size}, clips of {network.length} frames; read docs/automatic.md to use it")
            return 0
        protocol = ", ".join(f"{name} {str(value).lower()}" for name, value in network.about().get("tracking", {}).items())
        info(f"protocol as released, stored in the file: size {network.size}, {protocol}")
        return 0


def main(argv: list[str]) -> int:
    return parse(Convert, "convert", argv)

"""`hodor convert`: the authors' checkpoints as .safetensors."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from hodor.commands.console import info
from hodor.commands.options import parse


@dataclass(frozen=True)
class Convert:
    """Turn the authors' .pth checkpoint into a .safetensors file; nothing in it is executed, every key must fit."""

    source: Positional[Path]
    out: Positional[Path]
    model: str = "hodor-t"

    def run(self) -> int:
        from hodor.models import released

        network = released.convert(self.source, self.out, self.model)
        info(f"{sum(p.numel() for p in network.parameters()):,} parameters -> {self.out}")
        return 0


def main(argv: list[str]) -> int:
    return parse(Convert, "convert", argv)

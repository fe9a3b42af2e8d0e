"""`hodor export`: a network as ONNX graphs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from hodor.commands.console import info, progress, write_json
from hodor.commands.options import parse

ENOUGH = 0.999


@dataclass(frozen=True)
class Export:
    """Write a network as ONNX graphs, with a description of their inputs, outputs and state, for programs without torch.

    Each graph is compared with torch at other sizes than it was traced with. `hodor.onnx_runtime` follows objects with the
    graphs; docs/onnx.md describes them.
    """

    network: Positional[str] = "xmem-lite"
    """Name of a model with bundled weights, or a .safetensors file of an XMem, STCN, Cutie or HODOR."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("hodor-onnx")
    """Folder to write; files of the same names are replaced."""
    check: tuple[str, str] | None = None
    """A video and the mask of its first frame, to be followed with torch and with the graphs: prints the share of the pixels
    with the same label and the time of each. Exit code 1 if the share is below 99.9 %."""
    frames: int = 20
    """Number of frames of the check."""
    size: int | None = None
    """Short side inside the network in the check, in pixels. Default: the model's."""
    json: Path | None = None
    """Write the results of the check to this file; - prints them."""

    def run(self) -> int:
        """Run the command. Returns the exit code."""
        from hodor.models import weights
        from hodor.onnx_export import export

        if self.frames < 2:
            raise ValueError(f"expected at least 2 frames for the check, got {self.frames}: give --frames 20")
        network = weights.load(self.network)
        facts = export(network, self.out)
        files = [self.out / graph["file"] for graph in facts["graphs"].values()]
        info(f"{len(files)} graphs, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB, network.json -> {self.out}")
        if self.check is None:
            return 0
        from hodor import frames
        from hodor.mask_files import doctor
        from hodor.onnx_export import agreement

        clip, mask = self.check
        file, image = doctor.split_image(mask)
        with frames.open_source(clip, [file]) as source, progress("comparing") as report:
            labels = doctor.read(file, source.size, image).labels
            found = agreement(network, self.out, source, labels, frames=self.frames, size=self.size, progress=report)
        share, count = sum(found.agreement) / len(found.agreement), len(found.agreement)
        info(f"{share:.4%} of the pixels of {count} frames have the same label, {min(found.agreement):.4%} of the worst frame")
        speed = [f"{each / (count + 1):.3f}" for each in (found.torch_seconds, found.onnx_seconds)]
        info(f"CPU seconds a frame, one thread: torch {speed[0]}, onnxruntime {speed[1]}")
        write_json(self.json, {"network": self.network, "clip": clip, **vars(found)})
        return 0 if share >= ENOUGH else 1


def main(argv: list[str]) -> int:
    """Run `hodor export` with these arguments. Returns the exit code."""
    return parse(Export, "export", argv)
